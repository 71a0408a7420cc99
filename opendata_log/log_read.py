"""Read walk, first station: what `LogDb` and `LogDbReader` both offer to readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import lsm
from opendata_log.config import CountOptions, ScanOptions
from opendata_log.errors import InvalidInputError, translate
from opendata_log.inspection import Inspection, TreeSummary, inspection, tree_summary
from opendata_log.keys import entry_family
from opendata_log.record import BytesLike, Segment, SegmentId, Sequence, to_key
from opendata_log.scan import LogIterator, LogKeyIterator, SeriesReads
from opendata_log.segment import SegmentTable, check_range

_DEFAULT_SCAN = ScanOptions()
_DEFAULT_COUNT = CountOptions()


@runtime_checkable
class LogRead(Protocol):
    """The reading half of a log."""

    def scan(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: ScanOptions | None = None
    ) -> LogIterator: ...

    def count(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: CountOptions | None = None
    ) -> int: ...

    def inspect(self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None) -> Inspection: ...

    def list_keys(
        self, start_segment: SegmentId | None = None, end_segment: SegmentId | None = None
    ) -> LogKeyIterator: ...

    def list_segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]: ...

    def tree_summary(self) -> TreeSummary: ...


class Reads:
    """`LogRead` over an engine, a table of segments and a frontier: reads see the sequences below it."""

    def _engine_for_reads(self) -> SeriesReads:
        """The engine. Raises: ClosedError."""
        raise NotImplementedError

    def _visible(self) -> tuple[SegmentTable, Sequence]:
        """Segments and frontier of this moment."""
        raise NotImplementedError

    def scan(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: ScanOptions | None = None
    ) -> LogIterator:
        """Entries of `key` with start <= sequence < end, in order, across segments. A range with start >= end, or a key
        nobody wrote, is empty.

        Cost: nothing until the first entry is asked for; then per table that may hold the key one GET for filter and
        index and one per stretch of blocks, unless cached.
        Raises: InvalidInputError; while iterating StorageError, CorruptionError.
        """
        engine = self._engine_for_reads()
        if options is None:
            options = _DEFAULT_SCAN
        elif not isinstance(options, ScanOptions):
            raise InvalidInputError(f"options must be ScanOptions, got {type(options).__name__}")
        name = to_key(key)
        first, stop = check_range(start, end)
        segments, frontier = self._visible()
        bound = frontier if stop is None or stop > frontier else stop
        return LogIterator(
            engine,
            name,
            segments.parts(first, bound),
            start=first,
            frontier=bound,
            options=options,
        )

    def count(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: CountOptions | None = None
    ) -> int:
        """How many entries `scan` would yield. Cost: the tables' indexes, and the blocks at both ends of the range;
        `CountOptions(approximate=True)` leaves the blocks alone."""
        engine = self._engine_for_reads()
        if options is None:
            options = _DEFAULT_COUNT
        elif not isinstance(options, CountOptions):
            raise InvalidInputError(f"options must be CountOptions, got {type(options).__name__}")
        name = to_key(key)
        first, stop = check_range(start, end)
        segments, frontier = self._visible()
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
        engine = self._engine_for_reads()
        name = to_key(key)
        first, stop = check_range(start, end)
        segments, frontier = self._visible()
        bound = frontier if stop is None or stop > frontier else stop
        parts = segments.parts(first, bound)
        try:
            return inspection(
                (segment.id, engine.inspect_series(family, name, low - base, high - base))
                for segment, (base, family, low, high) in zip(segments.segments(first, bound), parts, strict=True)
            )
        except lsm.Error as error:
            raise translate(error) from error

    def list_keys(self, start_segment: SegmentId | None = None, end_segment: SegmentId | None = None) -> LogKeyIterator:
        """Distinct keys of the segments with start_segment <= id < end_segment, in lexicographic order.

        Cost: the segments' listings, not their data.
        """
        engine = self._engine_for_reads()
        segments, frontier = self._visible()
        chosen = [one for one in segments.between(start_segment, end_segment) if one.start_seq < frontier]

        def names() -> list[Iterator[Iterable[bytes]]]:
            return [engine.series_names(entry_family(one.id), below=frontier - one.start_seq) for one in chosen]

        return LogKeyIterator(names)

    def list_segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]:
        """Segments that overlap the sequences [start, end), oldest first. Cost: no request."""
        self._engine_for_reads()
        segments, frontier = self._visible()
        return [segment for segment in segments.segments(start, end) if segment.start_seq < frontier]

    def tree_summary(self) -> TreeSummary:
        """The tables of every segment, by level, from the manifest alone. Cost: no request."""
        return tree_summary(self._engine_for_reads().manifest)
