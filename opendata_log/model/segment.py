"""Segments, decided purely: which ones cover a range, when the active one is sealed, which ones retire.

A segment covers the sequences from its `start_seq` up to the next segment's; the last one is active and open-ended.
Invariants (`SegmentTable.check`): ids and start sequences strictly increase, start times never decrease.

A table is a value: the writer publishes a new one when a segment is added or retired, and reads that hold the old one are
not affected.

Source: opendata log/src/segment.rs and tick_retention of writer.rs at 5f5c2882. Different on purpose: a new segment's
start time is never before its predecessor's, and time sealing does not depend on the wall clock alone. There, one roll
while the clock reads 1970 makes a fresh segment expire, and a clock set back stops sealing.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any, Protocol

import lsm
from opendata_log.model.config import RetentionConfig, SegmentConfig
from opendata_log.model.errors import CorruptionError, InternalError, InvalidInputError
from opendata_log.model.keys import (
    FIRST_SEGMENT_ID,
    LAST_RETIRED_KEY,
    SEGMENT_ID_MAX,
    SEQUENCE_MAX,
    SegmentMeta,
    decode_seal_mark,
    entry_family,
    parse_segment_meta_key,
)
from opendata_log.model.record import Segment, SegmentId, Sequence
from opendata_log.model.time_track import check_clock_ms

NONE_KNOWN: Mapping[SegmentId, int] = {}


class SegmentTable:
    """The user segments that are alive, oldest first.

    Successive tables share three growing columns; each table is their part [low, high). Nothing before `high` ever changes, so
    adding a segment costs the same however many there are.
    """

    __slots__ = ("_families", "_high", "_low", "_segments", "_starts")

    def __init__(self, segments: Iterable[Segment] = ()) -> None:
        self._segments = list(segments)
        self._starts = [segment.start_seq for segment in self._segments]
        self._low, self._high = 0, len(self._segments)
        self.check()
        self._families = [entry_family(segment.id) for segment in self._segments]

    @classmethod
    def load(cls, rows: Iterable[tuple[SegmentId, SegmentMeta]]) -> SegmentTable:
        """The table of stored metadata rows, in key order. Raises: CorruptionError if they contradict each other."""
        return cls(Segment(segment_id, meta.start_seq, meta.start_time_ms) for segment_id, meta in rows)

    @classmethod
    def stored(cls, rows: Iterable[lsm.KeyValue]) -> SegmentTable:
        """The table of the rows under SEGMENT_META_PREFIX. Raises: as `load`."""
        return cls.load((parse_segment_meta_key(row.key), SegmentMeta.decode(row.value)) for row in rows)

    def check(self) -> None:
        """Raise CorruptionError unless the invariants of the module docstring hold."""
        for older, newer in pairwise(self):
            _check_order(older, newer)
        oldest = self.oldest
        if oldest is not None and oldest.id < FIRST_SEGMENT_ID:
            raise CorruptionError(f"{oldest} is no user segment", object_name="segment metadata", offset=0)

    def __len__(self) -> int:
        return self._high - self._low

    def __iter__(self) -> Iterator[Segment]:
        return islice(self._segments, self._low, self._high)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, SegmentTable) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"SegmentTable({list(self)})"

    @property
    def oldest(self) -> Segment | None:
        """The oldest segment that retention has not deleted; None: there is none."""
        return self._segments[self._low] if self._high > self._low else None

    @property
    def latest(self) -> Segment | None:
        """The active segment; None: there is none."""
        return self._segments[self._high - 1] if self._high > self._low else None

    @property
    def sealed_frontier(self) -> Sequence:
        """The start of the active segment: every record below it is in a sealed segment, so this table covers all of them."""
        return self._starts[self._high - 1] if self._high > self._low else 0

    def segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]:
        """The segments that overlap [start, end), oldest first; `end` None: unbounded. Raises: InvalidInputError."""
        low, high = self._overlap(*check_range(start, end))
        return self._segments[low:high]

    def parts(self, start: Sequence, end: Sequence) -> list[tuple[Sequence, bytes, Sequence, Sequence]]:
        """The parts of [start, end): `(start_seq, entry family, first, end)` of each segment, in absolute sequences.

        Requires: checked bounds. Cost: constant for a range in the active segment, because every poll pays it.
        """
        starts, last = self._starts, self._high - 1
        if start >= end or last < self._low:
            return []
        base = starts[last]
        if start >= base:
            return [(base, self._families[last], start, end)]
        low, high = self._overlap(start, end)
        if low >= high:
            return []
        ends = [*starts[low + 1 : high], end]
        return [
            (base, family, max(start, base), stop)
            for base, family, stop in zip(starts[low:high], self._families[low:high], ends, strict=True)
        ]

    def between(self, start: SegmentId | None = None, end: SegmentId | None = None) -> list[Segment]:
        """The segments with ids in [start, end), oldest first; a bound of None is open. Raises: InvalidInputError."""
        low, high = check_range(0 if start is None else start, end, "segment")
        first = self._first_from(low)
        return self._segments[first : self._high if high is None else max(first, self._first_from(high))]

    def get(self, segment_id: SegmentId) -> Segment | None:
        """The segment with this id; None if it is not alive."""
        index = self._first_from(segment_id)
        found = self._segments[index] if index < self._high else None
        return found if found is not None and found.id == segment_id else None

    def adding(self, segment: Segment) -> SegmentTable:
        """The table with a new active segment at the end."""
        latest = self.latest
        if latest is not None:
            _check_order(latest, segment)
        table = self if len(self._segments) == self._high else SegmentTable(self)
        table._families.append(entry_family(segment.id))
        table._starts.append(segment.start_seq)
        table._segments.append(segment)
        return table._part(table._low, table._high + 1)

    def dropping_through(self, segment_id: SegmentId) -> SegmentTable:
        """The table without the segments up to and including `segment_id`."""
        low = self._first_from(segment_id + 1)
        if 2 * (self._high - low) < low:  # Most of the columns is unused: copy the rest.
            return SegmentTable(self._segments[low : self._high])
        return self._part(low, self._high)

    def _part(self, low: int, high: int) -> SegmentTable:
        """The table that is the part [low, high) of the same columns."""
        table = SegmentTable.__new__(SegmentTable)
        table._segments, table._starts, table._families = self._segments, self._starts, self._families
        table._low, table._high = low, high
        return table

    def _first_from(self, segment_id: SegmentId) -> int:
        """The column index of the first segment with at least this id."""
        return bisect_left(self._segments, segment_id, self._low, self._high, key=_id_of)

    def _overlap(self, start: Sequence, end: Sequence | None) -> tuple[int, int]:
        """The column indexes [low, high) of the segments that overlap the range."""
        if end is not None and start >= end:
            return 0, 0
        low = max(bisect_right(self._starts, start, self._low, self._high) - 1, self._low)
        return low, self._high if end is None else bisect_left(self._starts, end, self._low, self._high)


class StoredRows(Protocol):
    """A handle of the engine from which a log's rows are read."""

    def scan_prefix(self, prefix: bytes) -> Iterable[lsm.KeyValue]: ...


def last_retired(rows: StoredRows) -> SegmentId:
    """The last segment that retention deleted when it left none; 0 where it never did. Raises: CorruptionError."""
    return max(
        (decode_seal_mark(row.value) for row in rows.scan_prefix(LAST_RETIRED_KEY)), default=FIRST_SEGMENT_ID - 1
    )


def _check_order(older: Segment, newer: Segment) -> None:
    if older.id >= newer.id or older.start_seq >= newer.start_seq or older.start_time_ms > newer.start_time_ms:
        raise CorruptionError(f"{newer} cannot follow {older}", object_name="segment metadata", offset=0)


class SealPolicy:
    """When the active segment is sealed: the first of two limits that is reached, checked before a batch."""

    __slots__ = ("byte_limit", "interval_ms")

    def __init__(self, config: SegmentConfig) -> None:
        self.interval_ms = config.seal_interval_ms
        self.byte_limit = config.seal_byte_limit

    def is_due(self, active: Segment | None, *, now_ms: int, active_bytes: int, held_ms: int = 0) -> bool:
        """Whether the next batch starts a new segment: none is there yet, or the active one reached a limit.

        `active_bytes`: bytes of keys and values of the log entries appended since the segment began or the log was opened.
        `held_ms`: how long the segment has been active in this handle, by the monotonic clock; so a segment is sealed even
        while the wall clock stands still or was set back.
        """
        if active is None:
            return True
        if self.byte_limit is not None and active_bytes >= self.byte_limit:
            return True
        interval = self.interval_ms
        return interval is not None and (now_ms - active.start_time_ms >= interval or held_ms >= interval)


def successor(
    latest: Segment | None, *, start_seq: Sequence, now_ms: int, last_retired: SegmentId = FIRST_SEGMENT_ID - 1
) -> Segment:
    """The segment that follows `latest` and starts with `start_seq`. Its start time is never before that of `latest`.

    `last_retired`: where `latest` is None, the last segment that retention deleted.
    """
    check_clock_ms(now_ms)
    if latest is None:
        if last_retired >= SEGMENT_ID_MAX:
            raise InternalError(f"segment ids are used up: the last one is {last_retired}")
        return Segment(last_retired + 1, start_seq, now_ms)
    if latest.id >= SEGMENT_ID_MAX:
        raise InternalError(f"segment ids are used up: the last one is {latest.id}")
    if start_seq <= latest.start_seq:
        raise InternalError(f"a segment cannot start at {start_seq}, its predecessor starts at {latest.start_seq}")
    return Segment(latest.id + 1, start_seq, max(now_ms, latest.start_time_ms))


def expired(
    segments: Iterable[Segment],
    *,
    now_ms: int,
    retention: RetentionConfig,
    known_ms: Mapping[SegmentId, int] = NONE_KNOWN,
) -> list[SegmentId]:
    """The ids of the expired segments: from the oldest on, never the active one.

    A segment ends when its successor starts. It expires when that is more than `retention` ago. `known_ms`: for segments with
    a start time in the future, for how long they have certainly existed.
    """
    retention_ms = retention.retention_ms
    if retention_ms is None:
        return []
    ids: list[SegmentId] = []
    for segment, following in pairwise(segments):
        if max(now_ms - following.start_time_ms, known_ms.get(following.id, 0)) <= retention_ms:
            break  # Invariant: segments expire in order, whatever their times are.
        ids.append(segment.id)
    return ids


def is_last_expired(
    latest: Segment,
    *,
    now_ms: int,
    appended_before_ms: int,
    quiet_ms: int | None,
    seal_interval_ms: int,
    retention_ms: int,
) -> bool:
    """Whether the last segment, which gets no appends, is expired. It counts as sealed when its seal interval is over.

    `appended_before_ms`: all its entries were appended before that time. `quiet_ms`: for how long it has certainly had no
    append. None unless the clock was ahead at its start or at an append; then the stored times are unusable.
    """
    ended_ms = max(latest.start_time_ms + seal_interval_ms, appended_before_ms)
    if now_ms - ended_ms > retention_ms:
        return True
    return quiet_ms is not None and quiet_ms - seal_interval_ms > retention_ms


def check_range(start: object, end: object, what: str = "sequence") -> tuple[int, int | None]:
    """The bounds of a read, as integers that fit a u64. Raises: InvalidInputError if one is negative or no integer."""
    if end is None and type(start) is int and 0 <= start < SEQUENCE_MAX:
        return start, None  # The bounds of a poll: checked some hundred thousand times a second.
    first = _bound(start, f"start {what}")
    return first, None if end is None else _bound(end, f"end {what}")


def _bound(value: Any, what: str) -> int:
    number: int = value
    if type(value) is not int:
        try:
            if isinstance(value, bool):
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise InvalidInputError(f"{what} must be an integer, got {lsm.shown(value)}") from None
    if number < 0:
        raise InvalidInputError(f"{what} must not be negative, got {lsm.shown(number)}")
    return min(number, SEQUENCE_MAX)


_id_of = operator.attrgetter("id")
