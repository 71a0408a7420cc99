"""Read walk: the read methods of every handle, over one view and one set of bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from lsm.errors import Error, InvalidError, TableMissingError
from lsm.read import lookup
from lsm.read.counting import SeriesCount, count_memory, count_series, inspect_series
from lsm.read.descending import scan_series_descending
from lsm.read.iterator import (
    DEFAULT_SCAN,
    DurabilityLevel,
    IterationOrder,
    KeyValue,
    RowIterator,
    ScanOptions,
    open_scan,
    range_under,
)
from lsm.read.series import PositionsAndValues, is_at_hand, memory_rows, recent_arrivals, scan_series, series_names
from lsm.rows.bytes_in import BytesLike, as_key
from lsm.rows.chunk import SeriesLayout
from lsm.rows.memtable import Arrival
from lsm.sst.read_ahead import READ_AHEAD_BYTES
from lsm.sst.table import TableReader
from lsm.view import Bounds, View

T = TypeVar("T")
POSITION_MAX = (1 << 64) - 1


class Reads:
    """Reads of a `Db`, a `DbReader` or a `Snapshot`: each call sees one moment."""

    _tables: TableReader
    _layout: SeriesLayout | None

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        """What a read that begins now may see: its view and its bounds. Raises: ClosedError, or the handle's failure."""
        raise NotImplementedError

    def _see_family(self, family: bytes) -> tuple[View, int]:
        """`_see` for one series family: the view, and the number below which its rows are visible."""
        view, bounds = self._see(DurabilityLevel.MEMORY)
        return view, bounds.position(family)

    def _explained(self, error: TableMissingError) -> Error:
        """The error that this handle's caller gets for a missing table."""
        return error

    # -- rows ---------------------------------------------------------------------------------------------------------

    def get(self, key: BytesLike, *, durability: DurabilityLevel = DurabilityLevel.MEMORY) -> bytes | None:
        """The value of a key, or None. Cost if nothing is cached: per table whose filter admits the key (usually one), one
        GET for filter and index and one for the block."""
        view, bounds = self._see(durability)
        try:
            return lookup.get(view, bounds, as_key(key), self._tables, self._layout)
        except TableMissingError as error:
            raise self._explained(error) from error

    def get_key_value(self, key: BytesLike, *, durability: DurabilityLevel = DurabilityLevel.MEMORY) -> KeyValue | None:
        """As `get`, with the key."""
        value = self.get(key, durability=durability)
        return None if value is None else KeyValue(as_key(key), value)

    def get_many(
        self, keys: Sequence[BytesLike], *, durability: DurabilityLevel = DurabilityLevel.MEMORY
    ) -> list[bytes | None]:
        """The values of many keys, all from the same moment, in the order of `keys`."""
        wanted = [as_key(key) for key in keys]
        view, bounds = self._see(durability)
        try:
            return lookup.get_many(view, bounds, wanted, self._tables, self._layout)
        except TableMissingError as error:
            raise self._explained(error) from error

    def scan(
        self,
        start: BytesLike | None = None,
        end: BytesLike | None = None,
        *,
        order: IterationOrder = IterationOrder.ASCENDING,
        options: ScanOptions | None = None,
    ) -> RowIterator:
        """Rows with start <= key < end, all from the moment of the call. Raises: InvalidError if start > end."""
        view, bounds = self._see((options or DEFAULT_SCAN).durability)
        return open_scan(
            view, bounds, self._tables, start, end, order=order, options=options, explained=self._explained
        )

    def scan_prefix(
        self,
        prefix: BytesLike,
        start: BytesLike | None = None,
        end: BytesLike | None = None,
        *,
        order: IterationOrder = IterationOrder.ASCENDING,
        options: ScanOptions | None = None,
    ) -> RowIterator:
        """Rows whose keys begin with `prefix`; `start` and `end` bound what follows the prefix."""
        low, high = range_under(prefix, start, end)
        return self.scan(low, high, order=order, options=options)

    # -- series -------------------------------------------------------------------------------------------------------

    def scan_series(
        self,
        family: bytes,
        name: bytes,
        low: int = 0,
        high: int = POSITION_MAX,
        *,
        descending: bool = False,
        cache_blocks: bool = True,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
    ) -> Iterable[PositionsAndValues]:
        """Positions and values of a series' rows with low <= position < high, some hundred rows at a time.

        All rows are from the moment of the call. After the first block, requests grow up to `read_ahead_bytes`. Only the
        caller can tell which rows are durable, by their positions. `descending`: newest first, chunks and the rows inside
        them; tables are opened only as far back as the caller iterates.
        Cost: no request if no table can hold such a row.
        """
        view, bound = self._see_family(family)
        if descending:
            return self._guarded(
                scan_series_descending(
                    view, bound, family, name, low, high, self._tables, keep=cache_blocks, ahead_bytes=read_ahead_bytes
                )
            )
        if low >= view.series_end(family):
            return memory_rows(view, bound, family, name, low, high)
        stream = scan_series(
            view, bound, family, name, low, high, self._tables, keep=cache_blocks, ahead_bytes=read_ahead_bytes
        )
        return self._guarded(stream)

    def count_series(
        self, family: bytes, name: bytes, low: int = 0, high: int = POSITION_MAX, *, approximate: bool = False
    ) -> int:
        """The number of rows that `scan_series` would yield. Cost: indexes and the blocks at the ends of the range."""
        view, bound = self._see_family(family)
        try:
            return count_series(view, bound, family, name, low, high, self._tables, approximate=approximate)
        except TableMissingError as error:
            raise self._explained(error) from error

    def series_at_hand(
        self, family: bytes, name: bytes, low: int = 0, high: int = POSITION_MAX, *, most: int
    ) -> list[PositionsAndValues] | None:
        """What `scan_series` yields, if memory has all of the range and at most `most` rows have to be returned or put in
        order; else None. Cost: no request, little time."""
        view, bound = self._see_family(family)
        if not is_at_hand(view, bound, family, low, high, most):
            return None
        if min(high, bound) - low > most and count_memory(view, bound, family, name, low, high) > most:
            return None
        return memory_rows(view, bound, family, name, low, high)

    def count_at_hand(
        self, family: bytes, name: bytes, low: int = 0, high: int = POSITION_MAX, *, most: int
    ) -> int | None:
        """`count_series`, if memory has all of the range and at most `most` rows have to be put in order; else None. Cost: no
        request, little time."""
        view, bound = self._see_family(family)
        if not is_at_hand(view, bound, family, low, high, most):
            return None
        return count_memory(view, bound, family, name, low, high)

    def inspect_series(self, family: bytes, name: bytes, low: int = 0, high: int = POSITION_MAX) -> SeriesCount:
        """Where the rows are that `scan_series` would yield. Cost: as `count_series`."""
        view, bound = self._see_family(family)
        try:
            return inspect_series(view, bound, family, name, low, high, self._tables)
        except TableMissingError as error:
            raise self._explained(error) from error

    def series_arrivals(self, family: bytes, low: int, high: int = POSITION_MAX) -> list[Arrival] | None:
        """The rows of all series of the family with low <= number < high, in append order: `(number of the first, names,
        values)` per batch. None if memory does not have all of them in that order: see `keep_arrivals`."""
        view, bound = self._see_family(family)
        return recent_arrivals(view, bound, family, low, high)

    def series_names(
        self, family: bytes, *, below: int | None = None, prefix: bytes = b""
    ) -> Iterator[Sequence[bytes]]:
        """The distinct names of a family's series that begin with `prefix`, sorted, some thousand at a time. `below`: rows
        that are in memory only count if their number is smaller."""
        view, bound = self._see_family(family)
        directory = self._layout.directory(family) if self._layout is not None else None
        if directory is None:
            raise InvalidError(f"family {family!r} keeps no directory of its series")
        bound = bound if below is None else min(bound, below)
        return self._guarded(series_names(view, family, directory, bound, self._tables, prefix))

    def _guarded(self, stream: Iterator[T]) -> Iterator[T]:
        try:
            yield from stream
        except TableMissingError as error:
            raise self._explained(error) from error

    # -- caches -------------------------------------------------------------------------------------------------------

    def drop_cached(self) -> None:
        """Release the memory that caches hold for this database. For handles that share caches; later reads load it again."""
        self._tables.drop_cached()
