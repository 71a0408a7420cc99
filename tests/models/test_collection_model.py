"""Tables, checkpoints and two collectors that may sleep anywhere (rules G1 to G7, K1): everything named exists.

One writer flushes and compacts, somebody makes a checkpoint, copies it and deletes the first; the collectors list, commit a
horizon and delete, on manifests as old as you like. The broken variants must be found out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.models.explore import explore

Tables = frozenset[int]
NONE: Tables = frozenset()


class Proc(NamedTuple):
    at: str = "idle"
    table: int = 0
    version: int = 0
    named: Tables = NONE
    listed: Tables = NONE
    horizon: int = 0
    left: int = 2


class State(NamedTuple):
    version: int = 0
    named: Tables = NONE
    horizon: int = 0
    pins: tuple[Tables | None, Tables | None] = (None, None)
    """What the first checkpoint and its copy pin."""
    stored: Tables = NONE
    next_table: int = 1
    flusher: Proc = Proc()
    compactor: Proc = Proc(left=1)
    pinner: Proc = Proc(left=2)
    collectors: tuple[Proc, Proc] = (Proc(left=1), Proc(left=1))


def live(state: State, rule: str) -> Tables:
    pinned = [pin for pin in state.pins if pin is not None and rule != "ignores checkpoints"]
    return state.named.union(*pinned)


def is_bad(state: State) -> bool:
    return not live(state, "") <= state.stored


def build(state: State, who: str, rule: str) -> Iterator[tuple[str, State]]:
    proc: Proc = getattr(state, who)

    def go(**changes: object) -> Proc:
        return proc._replace(**changes)  # type: ignore[arg-type]

    if proc.at == "idle" and proc.left and (who == "flusher" or len(state.named) >= 2):
        started = go(at="put", table=state.next_table, named=state.named, left=proc.left - 1)
        yield f"{who} starts {state.next_table}", state._replace(next_table=state.next_table + 1, **{who: started})
    elif proc.at == "put":
        yield f"{who} puts {proc.table}", state._replace(stored=state.stored | {proc.table}, **{who: go(at="read")})
    elif proc.at == "read":
        refused = proc.table <= state.horizon and rule != "commits below the horizon"
        gone = who == "compactor" and not proc.named <= state.named
        after = go(at="idle") if refused or gone else go(at="commit", version=state.version)
        yield f"{who} reads {state.version}", state._replace(**{who: after})
    elif proc.at == "commit":
        if proc.version != state.version:
            yield f"{who} lost", state._replace(**{who: go(at="read")})
        else:
            kept = state.named - proc.named if who == "compactor" else state.named
            yield (
                f"{who} commits {proc.table}",
                state._replace(version=state.version + 1, named=kept | {proc.table}, **{who: go(at="idle")}),
            )


def pin(state: State, rule: str) -> Iterator[tuple[str, State]]:
    """Checkpoint 0, and its copy 1: each one commit on a version read before. Somebody else deletes 0."""
    proc = state.pinner
    first, copy = state.pins
    if first is not None:
        yield "deletes the first", state._replace(version=state.version + 1, pins=(None, copy))
    if proc.at == "idle" and proc.left:
        what = "create" if proc.left == 2 else "copy"
        if what == "create" or first is not None:
            read = proc._replace(at=what, version=state.version, named=first or NONE, left=proc.left - 1)
            yield f"reads to {what}", state._replace(pinner=read)
    elif proc.at != "idle":
        is_stale = proc.version != state.version
        if is_stale and not (rule == "copies a checkpoint that is gone" and proc.at == "copy"):
            yield "pinner lost", state._replace(pinner=proc._replace(at="idle", left=proc.left + 1))
            return
        pins = (state.named, copy) if proc.at == "create" else (first, proc.named)
        yield (
            f"commits {proc.at}",
            state._replace(version=state.version + 1, pins=pins, pinner=proc._replace(at="idle")),
        )


def collect(state: State, at: int, rule: str) -> Iterator[tuple[str, State]]:
    proc = state.collectors[at]

    def go(**changes: object) -> tuple[Proc, Proc]:
        both = list(state.collectors)
        both[at] = proc._replace(**changes)  # type: ignore[arg-type]
        return (both[0], both[1])

    if proc.at == "idle" and proc.left:
        # The horizon first, then the listing: what is not listed is above it.
        yield (
            f"gc {at} lists",
            state._replace(
                collectors=go(at="read", listed=state.stored, horizon=state.next_table - 1, left=proc.left - 1)
            ),
        )
    elif proc.at == "read":
        after = "delete" if rule == "commits no horizon" else "commit"
        yield (
            f"gc {at} reads {state.version}",
            state._replace(collectors=go(at=after, version=state.version, named=live(state, rule))),
        )
    elif proc.at == "commit":
        if state.horizon >= proc.horizon:  # The other collector committed it.
            yield f"gc {at} has it", state._replace(collectors=go(at="read again"))
        elif proc.version != state.version:
            yield f"gc {at} lost", state._replace(collectors=go(at="read"))
        else:
            yield (
                f"gc {at} commits {proc.horizon}",
                state._replace(
                    version=state.version + 1,
                    horizon=proc.horizon,
                    collectors=go(at="delete", named=live(state, rule)),
                ),
            )
    elif proc.at == "read again":
        yield f"gc {at} reads {state.version}", state._replace(collectors=go(at="delete", named=live(state, rule)))
    elif proc.at == "delete":
        dead = {each for each in proc.listed - proc.named if each <= proc.horizon}
        if not dead:
            yield f"gc {at} ends", state._replace(collectors=go(at="idle"))
        for each in sorted(dead)[:1]:
            yield (
                f"gc {at} deletes {each}",
                state._replace(stored=state.stored - {each}, collectors=go(listed=proc.listed - {each})),
            )


def steps(rule: str) -> object:
    def of(state: State) -> Iterator[tuple[str, State]]:
        yield from build(state, "flusher", rule)
        yield from build(state, "compactor", rule)
        yield from pin(state, rule)
        for at in (0, 1):
            yield from collect(state, at, rule)

    return of


NO_PIN = State(pinner=Proc(left=0), collectors=(Proc(left=1), Proc(left=1)))
ONE_COLLECTOR = State(collectors=(Proc(left=1), Proc(left=0)))


@pytest.mark.parametrize("start", [NO_PIN, ONE_COLLECTOR], ids=["two collectors", "checkpoints"])
def test_no_interleaving_deletes_what_is_named(start: State) -> None:
    found = explore(start, steps("as it is"), is_bad)  # type: ignore[arg-type]

    assert found.steps is None, found.steps
    assert found.states > 5_000


@pytest.mark.parametrize(
    "rule",
    ["ignores checkpoints", "commits no horizon", "commits below the horizon", "copies a checkpoint that is gone"],
)
def test_finds_out_a_variant_that(rule: str) -> None:
    assert explore(ONE_COLLECTOR, steps(rule), is_bad).steps is not None  # type: ignore[arg-type]
