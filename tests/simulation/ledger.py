"""What was asked of a log and what it answered, checked as it comes in. Imports nothing of the product.

A ledger knows nothing but calls: who asked for what, when, and with which outcome. Values are unique, so whatever comes back
says which call it belongs to. Time is a counter of events. See docs/reliability.md for the classes of anomalies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    def __str__(self) -> str:
        return f"call {self.number} of {self.handle.name} ({self.outcome}, from {self.start})"


class Ledger:
    """`anomalies` holds what went wrong so far."""

    def __init__(self) -> None:
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

    # -- appends ------------------------------------------------------------------------------------------------------

    def append(self, handle: Handle, keys: Sequence[bytes], *, size: int = 0) -> Call:
        """A call that is about to be made, with values nobody else has."""
        number = len(self.calls)
        records = [(key, (b"%d.%d." % (number, at)).ljust(size, b"x")) for at, key in enumerate(keys)]
        call = Call(number, handle, records, self.tick())
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

    def scan(self, handle: Handle, key: bytes, entries: Iterable[Entry], *, invoked: int, shows_durable: bool) -> None:
        """All of a key was read, by a scan that began at `invoked`. `shows_durable`: the handle shows nothing else."""
        found = self.entries(handle, key, entries)
        sequences = {sequence for sequence, _ in found}
        seen = handle.seen.setdefault(key, {})
        gone = [sequence for sequence, since in seen.items() if since < invoked and sequence not in sequences]
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
                if name == key and call.start + at not in sequences:
                    self.report("lost", f"{handle.name}: {call.start + at} of {key!r} is missing, of {call}")
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

    def state(self, handle: Handle, content: dict[bytes, list[Entry]], *, is_recovery: bool) -> None:
        """All keys as of one moment. `is_recovery`: by a writer that has just opened the log, so what is not there is
        gone for ever."""
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
            if len(records) != len(call.records):
                self.report("torn batch", f"{handle.name}: of {call} only the records {sorted(records)} are there")
        for call in self.calls:
            if call not in present and call.durable is not None and call.durable < handle.fresh_as_of:
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
                if call.outcome == "ok" and call.start is not None and call.start < limit and call not in present:
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
    """Follows one key from any handle to any other by `next_sequence`: each record exactly once."""

    def __init__(self, ledger: Ledger, key: bytes) -> None:
        self.key = key
        self.position = 0
        self.taken: list[Entry] = []
        self._ledger = ledger

    def took(self, handle: Handle, start: int, entries: Iterable[Entry], next_sequence: int) -> None:
        """A scan from `start` gave these entries and then said where to go on."""
        found = self._ledger.entries(handle, self.key, entries, start=start)
        least = found[-1][0] + 1 if found else start
        if next_sequence < least:
            self._ledger.report("skip", f"{handle.name}: next_sequence {next_sequence} after {least - 1} was read")
        if start == self.position:
            self.taken += found
            self.position = next_sequence

    def finish(self, content: Iterable[Entry]) -> None:
        """`content` is everything of the key in the end."""
        expected = [entry for entry in content if entry[0] < self.position]
        if expected != self.taken:
            missing = sorted(set(expected) - set(self.taken))
            extra = sorted(set(self.taken) - set(expected))
            self._ledger.report(
                "skip" if missing else "lost", f"{self.key!r} up to {self.position}: missed {missing}, gone {extra}"
            )
