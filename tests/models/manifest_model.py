"""The manifest: processes with several threads commit versions, one takes over, old versions are collected, tables too.

Rules M2 to M5, G1 and G2 of docs/protocol.md; each can be left out. A version is `(epoch, tables, horizon)`. Table numbers
are `(epoch, n)`, ascending.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explore import Found, explore

RULES = ("M2", "M3", "M4", "M5", "G1", "G2")

Table = tuple[int, int]
NOTHING: Table = (0, 0)


class Version(NamedTuple):
    epoch: int = 0
    tables: frozenset[Table] = frozenset()
    horizon: Table = NOTHING


class Process(NamedTuple):
    """`seen`: the version it knows. A flush builds a table and commits it; a collector picks what is dead."""

    epoch: int = 0
    seen: int = 1
    flush: str = "idle"
    table: Table = NOTHING
    made: int = 0
    collect: str = "idle"
    dead: frozenset[Table] = frozenset()
    horizon: Table = NOTHING


class State(NamedTuple):
    versions: tuple[Version | None, ...]
    contents: tuple[Version, ...]
    """The contents of all versions, including deleted ones."""
    tables: frozenset[Table] = frozenset()
    promised: frozenset[Table] = frozenset()
    processes: tuple[Process, ...] = ()
    strangers: frozenset[Table] = frozenset()
    """Tables that a fenced writer published."""


@dataclass(frozen=True)
class Rules:
    """All hold in the product."""

    creates_only_if_absent: bool = True  # M2
    checks_epoch_before_every_edit: bool = True  # M3
    needs_the_predecessor: bool = True  # M4
    keeps_outputs_of_unknown_commits: bool = True  # M5
    commits_horizon_first: bool = True  # G1
    refuses_tables_below_the_horizon: bool = True  # G2


class ManifestModel:
    """`flushes`: how many tables each process makes. `has_other_compactors`: processes go on to publish tables when another
    one writes, as compactors do."""

    def __init__(
        self, rules: Rules, flushes: tuple[int, ...], *, versions: int, has_other_compactors: bool = False
    ) -> None:
        self.rules, self.flushes, self.versions = rules, flushes, versions
        self.has_other_compactors, self.kept = has_other_compactors, 1

    def run(self) -> Found:
        start = State((None, Version()), (Version(), Version()), processes=(Process(),) * len(self.flushes))
        return explore(start, self.steps, self.problem)

    def problem(self, state: State) -> str | None:
        newest = state.contents[-1]
        gone = newest.tables - state.tables
        if gone:
            return f"the newest version names deleted tables {sorted(gone)}"
        lost = state.promised - newest.tables
        if lost:
            return f"committed and not in the newest version: {sorted(lost)}"
        if state.strangers and not self.has_other_compactors:
            return f"a fenced writer published {sorted(state.strangers)}"
        return None

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        for at, process in enumerate(state.processes):
            for name, changed, others in self._moves(state, at, process):
                processes = (*others.processes[:at], changed, *others.processes[at + 1 :])
                yield f"{name} {at}", others._replace(processes=processes)
        oldest = next(number for number, found in enumerate(state.versions) if found is not None)
        if oldest < len(state.contents) - self.kept:
            versions = (*state.versions[:oldest], None, *state.versions[oldest + 1 :])
            yield f"delete version {oldest}", state._replace(versions=versions)

    def _moves(self, state: State, at: int, process: Process) -> Iterator[tuple[str, Process, State]]:
        newest = len(state.contents) - 1
        if process.seen < newest:
            # A thread that learns of a newer epoch stops; what it has learnt stays with the process.
            yield "refresh", process._replace(seen=newest), state
        if process.epoch == 0:
            if at == 0 or state.processes[at - 1].epoch:
                claimed = state.contents[process.seen]._replace(epoch=state.contents[process.seen].epoch + 1)
                yield from self._commit("claim", state, process, claimed, process._replace(epoch=claimed.epoch))
            return
        is_checked = self.rules.checks_epoch_before_every_edit and not self.has_other_compactors
        if is_checked and state.contents[process.seen].epoch != process.epoch:
            return
        yield from self._flush(state, at, process)
        yield from self._collect(state, process)

    def _commit(
        self, name: str, state: State, process: Process, new: Version, then: Process
    ) -> Iterator[tuple[str, Process, State]]:
        number = process.seen + 1
        if number > self.versions:
            return
        is_free = number >= len(state.versions) or state.versions[number] is None
        if not is_free and self.rules.creates_only_if_absent:
            return  # A lost race: refresh, and try again.
        if self.rules.needs_the_predecessor and state.versions[process.seen] is None:
            return
        if number < len(state.contents):  # A used number: whoever created it believes in it, and nobody else.
            yield name + " (used number)", then._replace(seen=number), self._promise(state, new, then)
            return
        committed = state._replace(versions=(*state.versions, new), contents=(*state.contents, new))
        yield name, then._replace(seen=number), self._promise(committed, new, then)
        if name == "publish" and not self.rules.keeps_outputs_of_unknown_commits:
            cleaned = committed._replace(tables=state.tables - {process.table})
            yield name + " (reply lost, outputs deleted)", then._replace(seen=number), cleaned

    @staticmethod
    def _promise(state: State, new: Version, then: Process) -> State:
        mine = frozenset(table for table in new.tables if table[0] == then.epoch)
        return state._replace(promised=state.promised | mine)

    def _flush(self, state: State, at: int, process: Process) -> Iterator[tuple[str, Process, State]]:
        if process.flush == "idle" and process.made < self.flushes[at]:
            table = (process.epoch, process.made + 1)
            yield "take a number", process._replace(flush="build", table=table, made=process.made + 1), state
        elif process.flush == "build":
            yield "upload", process._replace(flush="publish"), state._replace(tables=state.tables | {process.table})
        elif process.flush == "publish":
            seen = state.contents[process.seen]
            if self.rules.refuses_tables_below_the_horizon and process.table <= seen.horizon:
                yield "give up", process._replace(flush="idle"), state
                return
            new = seen._replace(tables=seen.tables | {process.table})
            if new.epoch != process.epoch:
                state = state._replace(strangers=state.strangers | {process.table})
            yield from self._commit("publish", state, process, new, process._replace(flush="idle"))

    def _collect(self, state: State, process: Process) -> Iterator[tuple[str, Process, State]]:
        seen = state.contents[process.seen]
        if process.collect == "idle":
            horizon: Table = (process.epoch, process.made)
            if process.flush != "idle":  # G3
                horizon = (process.epoch, process.table[1] - 1)
            listed = frozenset(table for table in state.tables if table <= horizon)
            if listed - seen.tables:
                at = "mark" if self.rules.commits_horizon_first else "sweep"
                dead = listed if at == "mark" else listed - seen.tables
                yield "choose", process._replace(collect=at, dead=dead, horizon=horizon), state
        elif process.collect == "mark":
            marked = seen._replace(horizon=max(seen.horizon, process.horizon))
            chosen = process._replace(collect="sweep", dead=process.dead - seen.tables)
            yield from self._commit("mark", state, process, marked, chosen)
        elif process.collect == "sweep":
            for table in process.dead:
                rest = process.dead - {table}
                changed = process._replace(dead=rest, collect="sweep" if rest else "idle")
                yield f"delete table {table}", changed, state._replace(tables=state.tables - {table})
            if not process.dead:
                yield "done", process._replace(collect="idle"), state
