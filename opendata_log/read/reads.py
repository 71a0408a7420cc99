"""Read walk, first station: the reads that `LogDb` and `LogDbReader` have in common."""

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
from opendata_log.read.inspect_values import Inspection, TreeSummary, inspection, tree_summary
from opendata_log.read.interleave import KeySet, read_interleaved
from opendata_log.read.reverse import scan_backward
from opendata_log.read.scan import LogIterator, LogKeyIterator, read_blocks
from opendata_log.read.source import Source

_DEFAULT_SCAN = ScanOptions()
_DEFAULT_COUNT = CountOptions()


@runtime_checkable
class LogRead(Protocol):
    """The reads of a log, as a protocol. `LogDb` and `LogDbReader` both have them, and document each method."""

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
    """`LogRead`, made over a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        """The source of these reads; shared with the asyncio handle."""

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
        """Iterate over the entries of `key` with start <= sequence < end, in sequence order, across segments.

        `end` `None`: up to the newest visible entry at the time of the call. A range with start >= end is empty, and so is a
        key without entries.
        `reverse`: yield the newest entry first. `last`: yield only the last so many entries of the range, in sequence order
        unless `reverse`, and held in memory; `None` yields all. `since`: begin at `sequence_at(since)` where that is greater
        than `start`; `None`: begin at `start`. `options` `None`: the default `ScanOptions()`. `options.limit` limits the
        entries yielded, in either direction.
        To resume, see `LogIterator.next_sequence`; with `reverse`, `ReverseIterator.next_sequence`.

        >>> from opendata_log import LogDb
        >>> with LogDb.open("memory://") as log:
        ...     _ = log.try_append([(b"orders", b"created"), (b"orders", b"paid"), (b"orders", b"sent")])
        ...     [entry.value for entry in log.scan(b"orders", 1)]
        ...     [entry.value for entry in log.scan(b"orders", last=2, reverse=True)]
        [b'paid', b'sent']
        [b'sent', b'paid']

        Cost: nothing before the first entry is requested. Then, per table that may hold the key, one GET for filter and
        index, and one per stretch of blocks, unless cached. `reverse` and `last` read from the end, and read nothing that
        precedes the requested entries.
        Raises: ClosedError, InvalidInputError; while iterating, StorageError, CorruptionError.
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
        """Iterate over the entries of many keys in the order of the global sequence.

        Give either `keys` or `prefix`; a `prefix` selects all keys that begin with it, `b""` all keys. `start`, `end` and
        `options` are as for `scan`; of the options, only `limit` is used.

        >>> from opendata_log import LogDb
        >>> with LogDb.open("memory://") as log:
        ...     _ = log.try_append([(b"a/1", b"x"), (b"b/1", b"y"), (b"a/2", b"z")])
        ...     [(entry.key, entry.sequence) for entry in log.scan_all(prefix=b"a/")]
        [(b'a/1', 0), (b'a/2', 2)]

        Cost: recent rows in memory are filtered. For older rows, one scan per key and per window of some ten thousand
        sequences.
        Raises: as `scan`; InvalidInputError unless exactly one of `keys` and `prefix` is given.
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
        """Iterate over the entries of `key` from `start` on, then wait for new ones and yield them as they become visible.

        Ends when the log is closed, and after `timeout` seconds without a new entry. `timeout` `None`: only when the log is
        closed. Another follower resumes at its `next_sequence`.

        >>> from opendata_log import LogDb
        >>> with LogDb.open("memory://") as log:
        ...     _ = log.try_append([(b"orders", b"created"), (b"orders", b"paid")])
        ...     follower = log.follow(b"orders", timeout=0.01)
        ...     [entry.value for entry in follower], follower.next_sequence
        ([b'created', b'paid'], 2)

        Cost: a scan. Waiting costs nothing, because appends and polls wake the follower.
        Raises: ClosedError, InvalidInputError; while iterating, as `scan`, and the failure of the log.
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
        """Follow many keys, in the order of the global sequence. `keys` and `prefix` are as for `scan_all`.

        Ends as `follow` does. Its `next_sequence` is one number that resumes all keys. Cost: as `scan_all`; new entries are
        found by a filter over the appended rows. Raises: as `follow`; InvalidInputError unless exactly one of `keys` and
        `prefix` is given.
        """
        state = follow_keys(self.source, KeySet(keys, prefix), start, timeout)
        self.source.engine().keep_arrivals()
        return LogFollower(state, self.source)

    def sequence_at(self, time: Time) -> Sequence:
        """The sequence from which a `scan` yields every entry appended at `time` or later.

        `time`: a datetime (a naive one is local time), milliseconds since the epoch, or a timedelta before now. The scan can
        also yield entries from shortly before `time`: from up to 5 seconds before, or from up to a sixteenth of its age
        before. Times are those of the writer's clock; while that clock is set back, entries count as later than they are.
        Cost: no request at the writer; a reader reads some rows. Raises: ClosedError, InvalidInputError, StorageError,
        CorruptionError.
        """
        self.source.engine()
        segments, frontier = self.source.view()
        return self._sequence_at(time, segments, frontier)

    def _sequence_at(self, time: Time, segments: SegmentTable, frontier: Sequence) -> Sequence:
        """Requires: `frontier` was taken before this call; otherwise the track could end before the frontier."""
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
        """How many entries `scan` would yield for the same range. `end` and `options` `None`: as for `scan`.

        Cost: the tables' indexes, and the blocks at both ends of the range; `CountOptions(approximate=True)` reads no blocks.
        Raises: ClosedError, InvalidInputError, StorageError, CorruptionError.
        """
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
        """The entries that `count` counts, by segment and by level of the segment's tree. For tuning.

        Cost: as an exact `count`. Raises: as `count`.
        """
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
        """Iterate over the distinct keys that begin with `prefix`, in lexicographic order.

        Only the segments with start_segment <= id < end_segment are listed. A bound of `None` is open on that side; `b""`
        lists every key.
        Cost: the segments' listings, not their data. Raises: ClosedError, InvalidInputError; while iterating, StorageError,
        CorruptionError.
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
        """Segments that overlap the sequences [start, end), oldest first. `end` `None`: up to the newest segment.

        Cost: no request at the writer; a reader may read the segments' rows. Raises: ClosedError, InvalidInputError;
        at a reader, StorageError, CorruptionError.
        """
        self.source.engine()
        segments, frontier = self.source.view()
        return [segment for segment in segments.segments(start, end) if segment.start_seq < frontier]

    def tree_summary(self) -> TreeSummary:
        """The number and size of the tables of every segment, by level, from the manifest alone. Cost: no request."""
        return tree_summary(self.source.engine().manifest)

    def drop_cached(self) -> None:
        """Drop everything that the caches hold for this log. For logs that share `Caches`: call it before closing one."""
        self.source.engine().drop_cached()
