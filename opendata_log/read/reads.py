"""Read walk, first station: what `LogDb` and `LogDbReader` both offer to readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Protocol, runtime_checkable

import lsm
from opendata_log.model.errors import InvalidInputError, translate
from opendata_log.model.keys import entry_family
from opendata_log.model.options import CountOptions, ScanOptions
from opendata_log.model.record import BytesLike, Segment, SegmentId, Sequence, to_bytes, to_key
from opendata_log.model.segment import SegmentTable, check_range
from opendata_log.model.time_track import Time, moment_ms
from opendata_log.read.follow import LogFollower, follow_key, follow_keys
from opendata_log.read.inspection import Inspection, TreeSummary, inspection, tree_summary
from opendata_log.read.interleave import KeySet, read_interleaved
from opendata_log.read.reverse import scan_backward
from opendata_log.read.scan import LogIterator, LogKeyIterator, read_blocks
from opendata_log.read.source import Source

_DEFAULT_SCAN = ScanOptions()
_DEFAULT_COUNT = CountOptions()


@runtime_checkable
class LogRead(Protocol):
    """The reading half of a log."""

    def scan(
        self,
        key: BytesLike,
        start: Sequence = 0,
        end: Sequence | None = None,
        *,
        reverse: bool = False,
        last: int | None = None,
        since: Time | None = None,
        options: ScanOptions | None = None,
    ) -> LogIterator: ...

    def count(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: CountOptions | None = None
    ) -> int: ...

    def inspect(self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None) -> Inspection: ...

    def scan_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        end: Sequence | None = None,
        *,
        prefix: BytesLike | None = None,
        options: ScanOptions | None = None,
    ) -> LogIterator: ...

    def follow_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        *,
        prefix: BytesLike | None = None,
        timeout: float | timedelta | None = None,
    ) -> LogFollower: ...

    def list_keys(
        self,
        start_segment: SegmentId | None = None,
        end_segment: SegmentId | None = None,
        *,
        prefix: BytesLike = b"",
    ) -> LogKeyIterator: ...

    def list_segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]: ...

    def follow(
        self, key: BytesLike, start: Sequence = 0, *, timeout: float | timedelta | None = None
    ) -> LogFollower: ...

    def sequence_at(self, time: Time) -> Sequence: ...

    def tree_summary(self) -> TreeSummary: ...


class Reads:
    """`LogRead` over a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        """What these reads are made over, for other faces of the log."""

    def scan(
        self,
        key: BytesLike,
        start: Sequence = 0,
        end: Sequence | None = None,
        *,
        reverse: bool = False,
        last: int | None = None,
        since: Time | None = None,
        options: ScanOptions | None = None,
    ) -> LogIterator:
        """Entries of `key` with start <= sequence < end, in order, across segments. A range with start >= end, or a key
        nobody wrote, is empty.

        `reverse`: newest first. `last`: only the last so many entries of the range, still in order unless `reverse`; they
        are held in memory. `since`: as if `start` were at least `sequence_at(since)`. `options.limit` cuts what is yielded,
        at either end. Sequences to resume at: `LogIterator.next_sequence`; `ReverseIterator.next_sequence` for `reverse`.

        Cost: nothing until the first entry is asked for; then per table that may hold the key one GET for filter and
        index and one per stretch of blocks, unless cached. `reverse` and `last` read from the end, and nothing of what
        precedes the entries asked for.
        Raises: InvalidInputError; while iterating StorageError, CorruptionError.
        """
        source = self.source
        engine = source.engine()
        if options is None:
            options = _DEFAULT_SCAN
        elif not isinstance(options, ScanOptions):
            raise InvalidInputError(f"options must be ScanOptions, got {type(options).__name__}")
        name = to_key(key)
        first, stop = check_range(start, end)
        segments, frontier = source.view()
        if since is not None:
            first = max(first, self._sequence_at(since, segments, frontier))
        bound = frontier if stop is None or stop > frontier else stop
        parts = segments.parts(first, bound)
        if reverse is not False or last is not None:
            return scan_backward(engine, name, parts, options, reverse, last, start=first, frontier=bound)
        blocks = read_blocks(engine, name, parts, options)
        return LogIterator(blocks, start=first, frontier=bound, limit=options.limit)

    def scan_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        end: Sequence | None = None,
        *,
        prefix: BytesLike | None = None,
        options: ScanOptions | None = None,
    ) -> LogIterator:
        """Entries of many keys, or of all keys that begin with `prefix`, in the order of the one global sequence.

        Cost: what is in memory is filtered; behind it, a scan per key and window of some ten thousand sequences.
        Raises: as `scan`; InvalidInputError unless one of `keys` and `prefix` is given.
        """
        wanted = KeySet(keys, prefix)
        engine = self.source.engine()
        if options is not None and not isinstance(options, ScanOptions):
            raise InvalidInputError(f"options must be ScanOptions, got {type(options).__name__}")
        first, stop = check_range(start, end)
        segments, frontier = self.source.view()
        bound = frontier if stop is None or stop > frontier else stop
        blocks = read_interleaved(engine, wanted, segments.parts(first, bound))
        return LogIterator(blocks, start=first, frontier=bound, limit=options.limit if options is not None else None)

    def follow(self, key: BytesLike, start: Sequence = 0, *, timeout: float | timedelta | None = None) -> LogFollower:
        """Entries of `key` from `start` on: those that are there, then those that come, as they become visible.

        Ends after `timeout` seconds without a new entry (None: never), and when the log is closed. Its `next_sequence` is
        where another follower goes on. Cost: a scan; then, while it waits, nothing: it is woken.
        Raises: InvalidInputError; while iterating as `scan`, and the failure of the log.
        """
        return LogFollower(follow_key(self.source, key, start, timeout), self.source)

    def follow_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        *,
        prefix: BytesLike | None = None,
        timeout: float | timedelta | None = None,
    ) -> LogFollower:
        """As `follow`, for many keys, or for all that begin with `prefix`, in the order of the one global sequence.

        Its `next_sequence` is the one number that resumes all of them. Cost: as `scan_all`; new entries are filtered out of
        what arrived. Raises: as `follow`; InvalidInputError unless one of `keys` and `prefix` is given.
        """
        state = follow_keys(self.source, KeySet(keys, prefix), start, timeout)
        self.source.engine().keep_arrivals()
        return LogFollower(state, self.source)

    def sequence_at(self, time: Time) -> Sequence:
        """A sequence that every entry appended at `time` or later reaches: where to `scan` from to omit none of them.

        `time`: a datetime (naive means local time), milliseconds since the epoch, or a timedelta: that long ago. Some entries
        from shortly before can have it too: 5 seconds, or a sixteenth of how long ago it is. Times are what the writer's
        clock showed; while it is set back, entries count as later than they are. Cost: the writer knows; a reader looks up
        some rows. Raises: InvalidInputError; StorageError, CorruptionError.
        """
        self.source.engine()
        segments, frontier = self.source.view()
        return self._sequence_at(time, segments, frontier)

    def _sequence_at(self, time: Time, segments: SegmentTable, frontier: Sequence) -> Sequence:
        """Requires: a frontier from before this call, or the track could end before it."""
        moment = moment_ms(time, self.source.runtime.now_ms())
        try:
            found = self.source.time_track().sequence_at(moment, frontier)
        except lsm.Error as error:
            raise translate(error) from error
        oldest = segments.oldest
        return found if oldest is None else min(frontier, max(found, oldest.start_seq))

    def count(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: CountOptions | None = None
    ) -> int:
        """How many entries `scan` would yield. Cost: the tables' indexes, and the blocks at both ends of the range;
        `CountOptions(approximate=True)` leaves the blocks alone."""
        source = self.source
        engine = source.engine()
        if options is None:
            options = _DEFAULT_COUNT
        elif not isinstance(options, CountOptions):
            raise InvalidInputError(f"options must be CountOptions, got {type(options).__name__}")
        name = to_key(key)
        first, stop = check_range(start, end)
        segments, frontier = source.view()
        bound = frontier if stop is None or stop > frontier else stop
        try:
            return sum(
                engine.count_series(family, name, low - base, high - base, approximate=options.approximate)
                for base, family, low, high in segments.parts(first, bound)
            )
        except lsm.Error as error:
            raise translate(error) from error

    def inspect(self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None) -> Inspection:
        """What `count` counts, by segment and by where in the segment's tree it is stored. For tuning. Cost: as `count`,
        exact."""
        engine = self.source.engine()
        name = to_key(key)
        first, stop = check_range(start, end)
        segments, frontier = self.source.view()
        bound = frontier if stop is None or stop > frontier else stop
        parts = segments.parts(first, bound)
        try:
            return inspection(
                (segment.id, engine.inspect_series(family, name, low - base, high - base))
                for segment, (base, family, low, high) in zip(segments.segments(first, bound), parts, strict=True)
            )
        except lsm.Error as error:
            raise translate(error) from error

    def list_keys(
        self,
        start_segment: SegmentId | None = None,
        end_segment: SegmentId | None = None,
        *,
        prefix: BytesLike = b"",
    ) -> LogKeyIterator:
        """Distinct keys of the segments with start_segment <= id < end_segment that begin with `prefix`, in lexicographic
        order.

        Cost: the segments' listings, not their data.
        """
        engine = self.source.engine()
        head = to_bytes(prefix, "prefix")
        segments, frontier = self.source.view()
        chosen = [one for one in segments.between(start_segment, end_segment) if one.start_seq < frontier]

        def names() -> list[Iterator[Iterable[bytes]]]:
            return [
                engine.series_names(entry_family(one.id), below=frontier - one.start_seq, prefix=head) for one in chosen
            ]

        return LogKeyIterator(names)

    def list_segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]:
        """Segments that overlap the sequences [start, end), oldest first. Cost: no request."""
        self.source.engine()
        segments, frontier = self.source.view()
        return [segment for segment in segments.segments(start, end) if segment.start_seq < frontier]

    def tree_summary(self) -> TreeSummary:
        """The tables of every segment, by level, from the manifest alone. Cost: no request."""
        return tree_summary(self.source.engine().manifest)

    def drop_cached(self) -> None:
        """Let go of the memory that caches hold for this log. For logs that share `Caches`, before closing one of many."""
        self.source.engine().drop_cached()
