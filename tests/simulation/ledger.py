"""What was asked of a log and what it answered, checked as it comes in. Imports nothing of the product.

A ledger knows nothing but calls: who asked for what, when, and with which outcome. Values are unique, so whatever comes back
says which call it belongs to. Time is a counter of events. See docs/simulation.md for the classes of anomalies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Entry = tuple[int, bytes]
"""Sequence and value."""


class Anomaly(NamedTuple):
    """Something that must never happen."""

    kind: str
    detail: str


@dataclass(eq=False)
class Handle:
    """One open of a log, as a writer or a reader."""

    name: str
    is_writer: bool
    invoked: int
    opened: int | None = None
    ended: int | None = None
    fresh_as_of: int = 0
    """What was durable at that moment must be seen."""
    watermark: int = 0
    floor: int = 0
    """Sequences below it belong to segments that this handle no longer lists."""
    is_pinned: bool = False
    """It reads a checkpoint: what it shows never changes."""
    calls: list[Call] = field(default_factory=list)
    seen: dict[bytes, dict[int, int]] = field(default_factory=dict)
    """By key the sequences it has shown, and when it first did."""


@dataclass(eq=False)
class Call:
    """An append of some records."""

    number: int
    handle: Handle
    records: list[tuple[bytes, bytes]]
    invoked: int
    returned: int | None = None
    outcome: str = "pending"
    """pending, ok, fail (certainly not applied), unknown."""
    start: int | None = None
    durable: int | None = None
    """Somebody said, or has shown, that it is durable."""
    acknowledged: int | None = None
    """Its own handle said so."""
    absent: int | None = None
    """A new owner did not find it, so it can never come back."""
    stamp_ms: int = 0
    """The least that any clock of its writer's process can have shown while it was made."""
    made_ms: int = 0
    """When it was made, by the time that has really passed."""

    def __str__(self) -> str:
        return f"call {self.number} of {self.handle.name} ({self.outcome}, from {self.start})"


class Ledger:
    """`anomalies` holds what went wrong so far."""

    def __init__(
        self,
        retention_ms: int | None = None,
        clock_ms: Callable[[], int] = lambda: 0,
        elapsed_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """`clock_ms`: the most that an honest clock can show now. `elapsed_ms`: the time that has really passed. Where there is
        retention, readings of more than one key say which sequences their handle no longer lists: `floor`."""
        self._retention_ms = retention_ms
        self._clock_ms = clock_ms
        self._elapsed_ms = elapsed_ms
        self._retired_since: dict[int, int] = {}
        self.anomalies: list[Anomaly] = []
        self.calls: list[Call] = []
        self.handles: list[Handle] = []
        self.checks = 0
        self._now = 0
        self._by_value: dict[bytes, tuple[Call, int]] = {}
        self._by_sequence: dict[int, bytes] = {}

    def report(self, kind: str, detail: str) -> None:
        self.anomalies.append(Anomaly(kind, detail))

    def tick(self) -> int:
        """A moment later than all before."""
        self._now += 1
        return self._now

    # -- handles ------------------------------------------------------------------------------------------------------

    def opening(self, name: str, *, is_writer: bool) -> Handle:
        handle = Handle(name, is_writer, self.tick())
        handle.fresh_as_of = handle.invoked
        self.handles.append(handle)
        return handle

    def opened(self, handle: Handle) -> None:
        handle.opened = self.tick()

    def ended(self, handle: Handle) -> None:
        """Closed, failed to open, or dead."""
        if handle.ended is None:
            handle.ended = self.tick()

    def fenced(self, handle: Handle) -> None:
        """It was told that a newer writer exists."""
        rivals = [
            other
            for other in self.handles
            if other.is_writer and other is not handle and (other.ended is None or other.ended > handle.invoked)
        ]
        if not rivals:
            self.report("false fence", f"{handle.name} was fenced, and nobody else opened the log since")

    # -- retention ----------------------------------------------------------------------------------------------------

    def floor(self, handle: Handle, start: int, *, is_durable: bool) -> None:
        """The oldest segment that the handle lists starts there. `is_durable`: that cannot be taken back."""
        gone_for_all = [each for each, since in self._retired_since.items() if since < handle.fresh_as_of]
        least = max([handle.floor, *([] if handle.is_pinned else gone_for_all)])
        if start < least:
            self.report("resurrected", f"{handle.name}: begins at {start} again, and all below {least} was retired")
        handle.floor = max(handle.floor, start)
        if is_durable and start not in self._retired_since:
            self._retired_since[start] = self.tick()
        for call in self.calls:
            is_gone = call.start is not None and call.start < start
            if is_gone and (call.durable is not None or call.handle is handle) and not self._is_old(call):
                age = self._clock_ms() - call.stamp_ms
                self.report("retired early", f"{handle.name}: begins at {start}, and {call} is {age} ms old")
                break

    def _is_old(self, call: Call) -> bool:
        """By the clock, or by the time that has really passed: one of them is enough."""
        age_ms = max(self._clock_ms() - call.stamp_ms, self._elapsed_ms() - call.made_ms)
        return self._retention_ms is not None and age_ms >= self._retention_ms

    def _is_retired(self, handle: Handle, sequence: int) -> bool:
        return sequence < handle.floor

    # -- appends ------------------------------------------------------------------------------------------------------

    def append(self, handle: Handle, keys: Sequence[bytes], *, size: int = 0, stamp_ms: int = 0) -> Call:
        """A call that is about to be made, with values nobody else has."""
        number = len(self.calls)
        records = [(key, (b"%d.%d." % (number, at)).ljust(size, b"x")) for at, key in enumerate(keys)]
        call = Call(number, handle, records, self.tick(), stamp_ms=stamp_ms, made_ms=self._elapsed_ms())
        self.calls.append(call)
        handle.calls.append(call)
        for at, (_, value) in enumerate(records):
            self._by_value[value] = (call, at)
        return call

    def accepted(self, call: Call, start: int) -> None:
        call.returned, call.outcome = self.tick(), "ok"
        self._place(call, start)

    def refused(self, call: Call, *, is_certain: bool) -> None:
        call.returned, call.outcome = self.tick(), "fail" if is_certain else "unknown"

    def _place(self, call: Call, start: int) -> None:
        """The call's records have the sequences from `start` on."""
        if call.start is None:
            call.start = start
            for at, (_, value) in enumerate(call.records):
                other = self._by_sequence.setdefault(start + at, value)
                if other != value:
                    self.report("sequence reuse", f"sequence {start + at} was given to {other!r} and to {value!r}")
        elif call.start != start:
            self.report("torn batch", f"{call} has a record that belongs at {start}")

    def flushed(self, handle: Handle, invoked: int) -> None:
        """A flush or close that was called at `invoked` returned without an error."""
        for call in handle.calls:
            if call.outcome == "ok" and call.returned is not None and call.returned < invoked:
                self._durable(call)

    def watermark(self, handle: Handle, value: int) -> None:
        """The handle said that every sequence below `value` is durable."""
        if value < handle.watermark:
            self.report("watermark", f"{handle.name} went back from {handle.watermark} to {value}")
        handle.watermark = max(handle.watermark, value)
        for call in handle.calls:
            if call.outcome == "ok" and call.start is not None and call.start + len(call.records) <= value:
                self._durable(call)

    def _durable(self, call: Call) -> None:
        if call.acknowledged is not None:
            return
        call.acknowledged = self.tick()
        if call.durable is None:
            call.durable = call.acknowledged
        if call.absent is not None:
            self.report("lost", f"{call} was called durable after a new owner had not found it")
        own = call.handle
        for other in self.handles:
            if (
                other.is_writer
                and own.opened is not None
                and other.opened is not None
                and other.invoked > own.opened
                and other.opened < call.invoked
            ):
                self.report("zombie ack", f"{call} was called durable, and made after {other.name} had taken over")

    # -- reads --------------------------------------------------------------------------------------------------------

    def refreshed(self, handle: Handle, invoked: int) -> None:
        """A reader looked for news."""
        handle.fresh_as_of = max(handle.fresh_as_of, invoked)

    def entries(
        self, handle: Handle, key: bytes, entries: Iterable[Entry], *, start: int = 0, end: int | None = None
    ) -> list[Entry]:
        """Some of a key's entries were read: they must be ordered, and be what somebody appended."""
        self.checks += 1
        found = list(entries)
        last = start - 1
        for sequence, value in found:
            if sequence <= last or (end is not None and sequence >= end):
                self.report("reorder", f"{handle.name}: {sequence} of {key!r} after {last}, in [{start}, {end})")
            last = max(last, sequence)
            self._sighting(handle, key, sequence, value)
        return found

    def _sighting(self, handle: Handle, key: bytes, sequence: int, value: bytes) -> None:
        known = self._by_value.get(value)
        if known is None:
            self.report("phantom", f"{handle.name}: nobody appended {value!r}, read at {sequence} of {key!r}")
            return
        call, at = known
        if call.records[at][0] != key:
            self.report("phantom", f"{handle.name}: {value!r} was appended to another key than {key!r}")
        if call.outcome == "fail":
            self.report("phantom", f"{handle.name}: {call} was refused, and is there at {sequence}")
        if call.start is not None and sequence != call.start + at:
            self.report("duplicate", f"{handle.name}: {value!r} of {call} was read at {sequence}")
        else:
            self._place(call, sequence - at)
        if call.absent is not None and call.absent < handle.fresh_as_of:
            self.report("resurrected", f"{handle.name}: {call} is back at {sequence}")

    def scan(
        self,
        handle: Handle,
        key: bytes,
        entries: Iterable[Entry],
        *,
        invoked: int,
        shows_durable: bool,
        floor: int = 0,
    ) -> None:
        """All of a key was read, by a scan that began at `invoked`. `shows_durable`: the handle shows nothing else.
        `floor`: the handle's, when it began."""
        found = self.entries(handle, key, entries, start=floor)
        sequences = {sequence for sequence, _ in found}
        seen = handle.seen.setdefault(key, {})
        gone = [
            sequence
            for sequence, since in seen.items()
            if since < invoked and sequence not in sequences and sequence >= handle.floor
        ]
        if gone:
            self.report("lost", f"{handle.name}: {gone} of {key!r} were there before")
        now = self.tick()
        for sequence in sequences:
            seen.setdefault(sequence, now)
        for call in self.calls:
            if not self._must_see(handle, call, invoked, shows_durable):
                continue
            assert call.start is not None
            for at, (name, _) in enumerate(call.records):
                at_sequence = call.start + at
                if name == key and at_sequence not in sequences and at_sequence >= handle.floor:
                    self.report("lost", f"{handle.name}: {at_sequence} of {key!r} is missing, of {call}")
        if shows_durable:
            for _, value in found:
                if value in self._by_value:
                    self._seen_durable(self._by_value[value][0])

    @staticmethod
    def _must_see(handle: Handle, call: Call, invoked: int, shows_durable: bool) -> bool:
        if call.start is None:
            return False
        if call.handle is handle:
            if shows_durable:
                return call.acknowledged is not None and call.acknowledged < invoked
            return call.outcome == "ok" and call.returned is not None and call.returned < invoked
        return call.durable is not None and call.durable < handle.fresh_as_of

    def _seen_durable(self, call: Call) -> None:
        """Somebody who shows only what is durable has shown it."""
        if call.durable is None:
            call.durable = self.tick()

    def state(
        self, handle: Handle, content: dict[bytes, list[Entry]], *, is_recovery: bool, needed: Iterable[Call] = ()
    ) -> None:
        """All keys as of one moment. `is_recovery`: by a writer that has just opened the log, so what is not there is
        gone for ever. `needed` must be there, durable or not."""
        self.checks += 1
        present: dict[Call, set[int]] = {}
        for key, entries in content.items():
            for _, value in self.entries(handle, key, entries):
                if value in self._by_value:
                    call, at = self._by_value[value]
                    if at in present.setdefault(call, set()):
                        self.report("duplicate", f"{handle.name}: record {at} of {call} was read twice")
                    present[call].add(at)
        for call, records in present.items():
            # What is retired while the keys are read one after the other was there for the first of them.
            if len(records) != len(call.records) and not self._is_retired(handle, call.start or 0):
                self.report("torn batch", f"{handle.name}: of {call} only the records {sorted(records)} are there")
        must = set(needed)
        for call in self.calls:
            is_needed = call in must or (call.durable is not None and call.durable < handle.fresh_as_of)
            if is_needed and call not in present and not self._is_retired(handle, call.start or 0):
                self.report("lost", f"{handle.name}: {call} is not there")
        self._check_prefixes(handle, present)
        self._check_order(present)
        self._remember(handle, present, is_recovery)

    def _remember(self, handle: Handle, present: dict[Call, set[int]], is_recovery: bool) -> None:
        for call in present:
            if call.handle is not handle:
                self._seen_durable(call)
        if is_recovery:
            for call in self.calls:
                is_older = call.handle.opened is not None and call.handle.opened < handle.invoked
                if call.start is not None and self._is_retired(handle, call.start):
                    continue  # It may not be known whether it was ever there.
                if is_older and call.handle is not handle and call not in present and call.absent is None:
                    call.absent = self.tick()

    def _check_prefixes(self, handle: Handle, present: dict[Call, set[int]]) -> None:
        """Of each writer's calls those with the lower sequences are there."""
        newest: dict[Handle, int] = {}
        for call in present:
            if call.start is not None:
                newest[call.handle] = max(newest.get(call.handle, -1), call.start)
        for writer, limit in newest.items():
            for call in writer.calls:
                is_due = call.outcome == "ok" and call.start is not None and handle.floor <= call.start < limit
                if is_due and call not in present:
                    self.report("hole", f"{handle.name}: {call} is not there, and one at {limit} is")

    def _check_order(self, present: dict[Call, set[int]]) -> None:
        """What was called after something else had returned has the higher sequence."""
        first_return: int | None = None
        for call in sorted(present, key=lambda call: -(call.start or 0)):
            if first_return is not None and call.invoked > first_return:
                self.report("reorder", f"{call} was called after one with a higher sequence had returned")
            if call.returned is not None and call.outcome == "ok":
                first_return = call.returned if first_return is None else min(first_return, call.returned)

    def counted(self, key: bytes, low: int, count: int, high: int) -> None:
        """A count between two scans, which found `low` and `high` entries."""
        if not low <= count <= high:
            self.report("count mismatch", f"{count} entries of {key!r} were counted, {low} to {high} are there")


class Consumer:
    """Goes on from any handle to any other by `next_sequence`, for one key or several: each record exactly once."""

    def __init__(self, ledger: Ledger, *keys: bytes) -> None:
        self.keys = keys
        self.position = 0
        self.taken: list[Entry] = []
        self._hidden: list[tuple[int, int]] = []
        self._ledger = ledger

    @property
    def key(self) -> bytes:
        return self.keys[0]

    def took(self, handle: Handle, start: int, entries: Iterable[tuple[bytes, Entry]], next_sequence: int) -> None:
        """A read from `start` on gave these entries and then said where to go on."""
        found = list(entries)
        last = start - 1
        for key, (sequence, value) in found:
            if sequence <= last:
                self._ledger.report("reorder", f"{handle.name}: {sequence} of {key!r} after {last}, from {start}")
            last = max(last, sequence)
            self._ledger.entries(handle, key, [(sequence, value)])
        if next_sequence <= last:
            self._ledger.report("skip", f"{handle.name}: next_sequence {next_sequence} after {last} was read")
        if start == self.position:
            # Retired by that handle; not for ever, where it crashed before that was durable.
            self._hidden.append((start, handle.floor))
            self.taken += [entry for _, entry in found]
            self.position = next_sequence

    def _may_miss(self, entry: Entry) -> bool:
        return any(low <= entry[0] < high for low, high in self._hidden)

    def finish(self, content: dict[bytes, list[Entry]], floor: int = 0) -> None:
        """`content` is everything there is in the end, from the sequence `floor` on."""
        there = sorted(entry for key in self.keys for entry in content[key])
        expected = [entry for entry in there if floor <= entry[0] < self.position and not self._may_miss(entry)]
        taken = [entry for entry in self.taken if entry[0] >= floor and not self._may_miss(entry)]
        if expected != taken:
            missing, extra = sorted(set(expected) - set(taken)), sorted(set(taken) - set(expected))
            self._ledger.report(
                "skip" if missing else "lost", f"{self.keys} up to {self.position}: missed {missing}, gone {extra}"
            )
