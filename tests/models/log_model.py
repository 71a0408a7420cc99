"""The log: writers that take over, each with some objects under way that land whenever they like, a flush and a collector.

Rules W1 to W6, O4 and O5 of docs/protocol.md; each can be left out. A record is `(epoch, n)`, and a log object
`(epoch, record)`, with record None for a fence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.explore import Found, explore

RULES = ("W1", "W2", "W3", "W4", "W5", "W6", "O4", "O5")

Record = tuple[int, int]
Object = tuple[int, Record | None]


class Writer(NamedTuple):
    """`under_way`: (number, record, answer) in the order they were started; the answer is '?', 'stored' or 'taken'."""

    at: str = "new"
    epoch: int = 0
    next: int = 0
    fence: int = 0
    kept: frozenset[int] = frozenset()
    view: frozenset[Record] = frozenset()
    under_way: tuple[tuple[int, Record, str], ...] = ()
    written: int = 0


class State(NamedTuple):
    log: tuple[Object | None, ...]
    epoch: int = 0
    replay_after: int = 0
    floor: int = 0
    in_tables: frozenset[Record] = frozenset()
    kept: frozenset[int] = frozenset()
    acknowledged: frozenset[Record] = frozenset()
    sent: frozenset[tuple[int, int, Record]] = frozenset()
    writers: tuple[Writer, ...] = ()


@dataclass(frozen=True)
class Rules:
    """All hold in the product."""

    acknowledges_in_order: bool = True  # W1
    fences_first_gap: bool = True  # W2
    leaves_out_older_epochs: bool = True  # W3
    keeps_floor: bool = True  # W4
    is_serial_after_fence: bool = True  # W5
    keeps_fences: bool = True  # W6
    keeps_left_out: bool = True  # W6
    checks_owner_before_fence: bool = True  # O5
    checks_owner_after_fence: bool = True  # O5


def first_gap(state: State) -> int:
    number = state.replay_after + 1
    while number < len(state.log) and state.log[number] is not None:
        number += 1
    return number


def replay(state: State, until: int, rules: Rules) -> tuple[frozenset[Record], frozenset[int], int]:
    """Records that count, numbers to be kept (of fences and objects left out), and the epoch reached."""
    newest = state.floor if rules.keeps_floor else 0
    records, kept = set(), set()
    for number in range(state.replay_after + 1, until + 1):
        found = state.log[number]
        if found is None:
            continue
        if found[0] < newest and rules.leaves_out_older_epochs:
            if rules.keeps_left_out:
                kept.add(number)
            continue
        newest = max(newest, found[0])
        if found[1] is None:
            kept.add(number)
        else:
            records.add(found[1])
    return frozenset(records), frozenset(kept), newest


def problem(state: State, rules: Rules) -> str | None:
    recoverable, _, _ = replay(state, first_gap(state) - 1, rules)
    lost = state.acknowledged - state.in_tables - recoverable
    if lost:
        return f"acknowledged and lost: {sorted(lost)}"
    for writer in state.writers:
        if writer.at == "blocked":
            return f"the owner of epoch {writer.epoch} met an older epoch's object and cannot go on"
        if writer.at == "open" and writer.epoch == state.epoch:
            back = {record for record in recoverable if record[0] < writer.epoch} - writer.view
            if back:
                return f"back after epoch {writer.epoch} had not found them: {sorted(back)}"
            unseen = {record for record in state.acknowledged if record[0] < writer.epoch} - writer.view
            if unseen:
                return f"acknowledged, and epoch {writer.epoch} does not see them: {sorted(unseen)}"
    return None


class LogModel:
    """`writes`: records that each writer appends."""

    def __init__(self, rules: Rules, writes: tuple[int, ...], *, numbers: int, window: int) -> None:
        self.rules, self.writes, self.numbers, self.window = rules, writes, numbers, window

    def run(self) -> Found:
        start = State((None,) * (self.numbers + 1), writers=(Writer(),) * len(self.writes))
        return explore(start, self.steps, lambda state: problem(state, self.rules), states_max=3_000_000)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        for at, writer in enumerate(state.writers):
            for name, changed, others in self._moves(state, at, writer):
                writers = (*state.writers[:at], changed, *state.writers[at + 1 :])
                yield f"{name} {at}", others._replace(writers=writers)
        for sent in state.sent:
            yield f"land {sent[1]}", self._land(state, sent)
        for number in range(1, state.replay_after):
            is_kept = self.rules.keeps_fences and number in state.kept
            if state.log[number] is not None and not is_kept:
                log = (*state.log[:number], None, *state.log[number + 1 :])
                yield f"collect {number}", state._replace(log=log)

    def _moves(self, state: State, at: int, writer: Writer) -> Iterator[tuple[str, Writer, State]]:
        rules = self.rules
        if writer.at == "new" and at == sum(each.at != "new" for each in state.writers):  # Writers are alike.
            claimed = writer._replace(at="claimed", epoch=state.epoch + 1)
            yield "claim", claimed, state._replace(epoch=state.epoch + 1)  # O4
        elif writer.at == "claimed":
            yield "list", writer._replace(at="listed", next=self._listed(state)), state
        elif writer.at == "listed":
            if rules.checks_owner_before_fence and state.epoch != writer.epoch:
                yield "overtaken", Writer("dead"), state
            else:
                yield "look", writer._replace(at="gap"), state
        elif writer.at == "gap" and writer.next <= self.numbers:
            yield from self._fence(state, writer)
        elif writer.at == "fenced gap":
            if rules.checks_owner_after_fence and state.epoch != writer.epoch:
                yield "overtaken", Writer("dead"), state
            else:
                yield "replay", self._opened(state, writer), state
        elif writer.at == "open":
            yield from self._append(state, at, writer)
            yield from self._answers(state, writer)
            yield from self._flush(state, writer)
        if writer.at not in ("new", "dead", "blocked"):
            yield "die", Writer("dead"), state

    def _listed(self, state: State) -> int:
        if self.rules.fences_first_gap:
            return first_gap(state)
        taken = [number for number, found in enumerate(state.log) if found is not None]
        return max([state.replay_after, *taken]) + 1

    def _fence(self, state: State, writer: Writer) -> Iterator[tuple[str, Writer, State]]:
        found = state.log[writer.next]
        if found is None:
            log = (*state.log[: writer.next], (writer.epoch, None), *state.log[writer.next + 1 :])
            yield "fence", writer._replace(at="fenced gap", fence=writer.next), state._replace(log=log)
        elif found[0] > writer.epoch:
            yield "overtaken", Writer("dead"), state
        else:
            yield "next gap", writer._replace(next=writer.next + 1), state

    def _opened(self, state: State, writer: Writer) -> Writer:
        records, kept, _ = replay(state, writer.fence, self.rules)
        view = records | state.in_tables
        return writer._replace(at="open", next=writer.fence + 1, view=view, kept=kept)

    def _append(self, state: State, at: int, writer: Writer) -> Iterator[tuple[str, Writer, State]]:
        is_serial = self.rules.is_serial_after_fence and writer.next <= writer.fence + self.window
        width = 1 if is_serial else self.window
        if writer.written < self.writes[at] and len(writer.under_way) < width and writer.next <= self.numbers:
            record = (writer.epoch, writer.written)
            under_way = (*writer.under_way, (writer.next, record, "?"))
            sent = state.sent | {(writer.epoch, writer.next, record)}
            changed = writer._replace(next=writer.next + 1, under_way=under_way, written=writer.written + 1)
            yield "send", changed, state._replace(sent=sent)

    def _answers(self, state: State, writer: Writer) -> Iterator[tuple[str, Writer, State]]:
        for place, (number, record, answer) in enumerate(writer.under_way):
            rest = (*writer.under_way[:place], *writer.under_way[place + 1 :])
            is_oldest = place == 0
            if answer == "stored" and (is_oldest or not self.rules.acknowledges_in_order):
                acknowledged = state.acknowledged | {record}
                view = writer.view | {record}
                yield (
                    "acknowledge",
                    writer._replace(under_way=rest, view=view),
                    state._replace(acknowledged=acknowledged),
                )
            elif answer == "taken" and is_oldest:
                found = state.log[number]
                if found is None or found[0] > writer.epoch:
                    yield "fenced", Writer("dead"), state
                elif rest or (self.rules.is_serial_after_fence and number > writer.fence + self.window):
                    yield "blocked", writer._replace(at="blocked"), state
                elif writer.next <= self.numbers:
                    under_way = ((writer.next, record, "?"),)
                    sent = state.sent | {(writer.epoch, writer.next, record)}
                    yield (
                        "renumber",
                        writer._replace(next=writer.next + 1, under_way=under_way),
                        state._replace(sent=sent),
                    )

    def _flush(self, state: State, writer: Writer) -> Iterator[tuple[str, Writer, State]]:
        if state.epoch != writer.epoch:
            yield "fenced", Writer("dead"), state
            return
        end = min((number for number, _, _ in writer.under_way), default=writer.next) - 1
        if end > state.replay_after:
            records, _, reached = replay(state, end, self.rules)
            others = state._replace(
                replay_after=end,
                floor=reached,
                in_tables=state.in_tables | (records & writer.view),
                kept=state.kept | {number for number in writer.kept if number <= end},
            )
            yield "flush", writer, others

    def _land(self, state: State, sent: tuple[int, int, Record]) -> State:
        epoch, number, record = sent
        is_free = state.log[number] is None
        log = (*state.log[:number], (epoch, record), *state.log[number + 1 :]) if is_free else state.log
        writers = tuple(
            writer._replace(
                under_way=tuple(
                    (each, what, ("stored" if is_free else "taken") if each == number and answer == "?" else answer)
                    for each, what, answer in writer.under_way
                )
            )
            if writer.epoch == epoch
            else writer
            for writer in state.writers
        )
        return state._replace(log=log, sent=state.sent - {sent}, writers=writers)
