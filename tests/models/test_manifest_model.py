"""Numbered versions, sleeping processes and a collector (rules M1 to M4, G6): nobody believes a version that never was.

Processes know a version and its nonce; each may sleep between any two requests. The collector deletes in ascending order and
keeps the newest. A create may arrive a second time, whenever it likes. The true history is kept beside the store; the broken
variants must be found out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.models.explore import explore

VERSIONS = 5


class Proc(NamedTuple):
    known: tuple[int, int] = (1, 0)
    """Number and nonce of the version this process goes by."""
    at: str = "idle"
    nonce: int = 0
    seen: tuple[int, int] = (0, 0)
    commits: int = 2


class State(NamedTuple):
    stored: tuple[tuple[int, int], ...] = ((1, 0),)
    history: tuple[int, ...] = (0,)
    """The nonce of each version that was ever current."""
    next_nonce: int = 1
    procs: tuple[Proc, ...] = (Proc(),) * 3
    pinned: int = 0
    sent: tuple[tuple[int, int], ...] = ((1, 0),)
    """Every version whose create reached the store: a second copy may still be on its way."""
    copies: int = 0
    is_bad: bool = False


def steps(rule: str) -> object:
    def of(state: State) -> Iterator[tuple[str, State]]:
        for at in range(len(state.procs)):
            yield from commit(state, at, rule)
        stored = dict(state.stored)
        # The oldest version that is not the newest goes; with the pin in place, that one is stepped over.
        newest = max(stored)
        old = [each for each in sorted(stored) if each < newest]
        if rule == "pins in place":
            if not state.pinned:
                yield f"pin {newest}", state._replace(pinned=newest)
            old = [each for each in old if each != state.pinned]
        if old:
            yield f"delete {old[0]}", state._replace(stored=tuple(row for row in state.stored if row[0] != old[0]))
        if state.copies:
            for row in state.sent:
                if row[0] not in stored:
                    again = tuple(sorted((*state.stored, row)))
                    yield f"second copy of {row}", state._replace(stored=again, copies=state.copies - 1)

    return of


def vouches(state: State, known: tuple[int, int], rule: str) -> bool:
    stored = dict(state.stored)
    if rule == "asks nobody":
        return True
    if rule == "by name":
        return known[0] in stored
    if rule in ("by nonce", "pins in place"):
        return stored.get(known[0]) == known[1]
    # By a listing: of `known` and what follows it, only the newest can be there if nothing was deleted; one is kept here.
    return max(stored) <= known[0] + 1


def commit(state: State, at: int, rule: str) -> Iterator[tuple[str, State]]:
    proc = state.procs[at]
    stored = dict(state.stored)
    number = proc.known[0] + 1

    def to(changed: Proc, **others: object) -> State:
        procs = (*state.procs[:at], changed, *state.procs[at + 1 :])
        return state._replace(procs=procs, **others)  # type: ignore[arg-type]

    if proc.at == "idle" and proc.commits and number <= VERSIONS:
        if number in stored:
            # Lost the race, or looked first: what is there is the next candidate.
            yield f"{at} finds {number}", to(proc._replace(at="look", seen=(number, stored[number])))
        else:
            is_true = number == len(state.history) + 1 and state.history[-1] == proc.known[1]
            history = (*state.history, state.next_nonce) if is_true else state.history
            created = proc._replace(at="check", nonce=state.next_nonce, commits=proc.commits - 1)
            yield (
                f"{at} creates {number}",
                to(
                    created,
                    stored=tuple(sorted((*state.stored, (number, state.next_nonce)))),
                    sent=(*state.sent, (number, state.next_nonce)) if state.copies else (),
                    history=history,
                    next_nonce=state.next_nonce + 1,
                ),
            )
    elif proc.at == "check":
        if vouches(state, proc.known, rule):
            believed = (number, proc.nonce)
            yield (
                f"{at} believes {believed}",
                to(proc._replace(at="idle", known=believed), is_bad=not was_current(state, believed)),
            )
        else:
            yield f"{at} goes to the newest", to(proc._replace(at="list"))
    elif proc.at == "look":
        # It believes what it found only if the version it set out from still vouches for it.
        if vouches(state, proc.known, rule):
            yield (
                f"{at} moves to {proc.seen}",
                to(proc._replace(at="idle", known=proc.seen), is_bad=not was_current(state, proc.seen)),
            )
        else:
            yield f"{at} goes to the newest", to(proc._replace(at="list"))
    elif proc.at == "list":
        newest = max(stored)
        yield f"{at} lists {newest}", to(proc._replace(at="idle", known=(newest, stored[newest])))


def was_current(state: State, version: tuple[int, int]) -> bool:
    number, nonce = version
    return number <= len(state.history) and state.history[number - 1] == nonce


def is_bad(state: State) -> bool:
    return state.is_bad


@pytest.mark.parametrize(("processes", "copies"), [(3, 0), (2, 2)])
def test_nobody_believes_a_version_that_never_was(processes: int, copies: int) -> None:
    start = State(procs=(Proc(),) * processes, copies=copies)
    found = explore(start, steps("by listing"), is_bad)  # type: ignore[arg-type]

    assert found.steps is None, found.steps
    assert found.states > 10_000


@pytest.mark.parametrize(
    ("rule", "copies"), [("asks nobody", 0), ("by name", 0), ("pins in place", 0), ("by nonce", 1)]
)
def test_finds_out_a_variant_that(rule: str, copies: int) -> None:
    assert explore(State(copies=copies), steps(rule), is_bad).steps is not None  # type: ignore[arg-type]
