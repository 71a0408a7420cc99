"""Read walk, last station: flattens chunks of rows into the rows that the caller iterates over."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from lsm.errors import Error, InvalidError, TableMissingError
from lsm.read.scan import scan
from lsm.rows.bytes_in import BytesLike, as_bytes
from lsm.rows.chunk import RowChunk, prefix_end
from lsm.sst.table import TableReader
from lsm.view import Bounds, View

T = TypeVar("T")


class KeyValue(NamedTuple):
    """One row."""

    key: bytes
    value: bytes


_row: Any = partial(tuple.__new__, KeyValue)
"""Makes a row of a pair. It runs in C, so no step is split between two threads that share the rows."""


class Steps(Generic[T]):
    """An iterator that calls `step`, which raises StopIteration at the end. `itertools.chain` releases its source when the
    source raises. If another thread is inside the source then, only a source written in Python keeps the interpreter alive."""

    __slots__ = ("_step",)

    def __init__(self, step: Callable[[], T]) -> None:
        self._step = step

    def __iter__(self) -> Steps[T]:
        return self

    def __next__(self) -> T:
        return self._step()


class IterationOrder(enum.Enum):
    ASCENDING = "ascending"
    DESCENDING = "descending"


class DurabilityLevel(enum.Enum):
    """What a read may see: `MEMORY`, all accepted writes; `REMOTE`, only writes that a crash cannot take back."""

    MEMORY = "memory"
    REMOTE = "remote"


class ScanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`durability`: what the scan may see; a snapshot ignores it. `cache_blocks`: whether blocks read by the scan stay in
    the cache."""

    durability: DurabilityLevel = DurabilityLevel.MEMORY
    cache_blocks: bool = True


DEFAULT_SCAN = ScanOptions()


class RowIterator:
    """Rows of one scan, all from the moment the scan was made. Use it from one thread at a time: if two threads meet, one of
    them gets an InvalidError, and no row is returned twice.

    An error is sticky: every later call raises it again. Closing or exhausting the iterator releases the tables it pins.
    """

    def __init__(
        self,
        chunks: Callable[[bytes | None], Iterator[RowChunk]],
        *,
        low: bytes | None,
        high: bytes | None,
        descending: bool,
    ) -> None:
        self._make = chunks
        self._low = low
        self._high = high
        self._descending = descending
        self._last: bytes | None = None
        self._error: Error | None = None
        self._rows = self._flatten(chunks(low))

    def _flatten(self, chunks: Iterator[RowChunk]) -> Iterator[KeyValue]:
        if self._descending:
            rows = (map(_row, zip(chunk.keys[::-1], chunk.values[::-1], strict=True)) for chunk in chunks)
        else:
            rows = (map(_row, zip(chunk.keys, chunk.values, strict=True)) for chunk in chunks)
        return chain.from_iterable(Steps(rows.__next__))

    def __iter__(self) -> RowIterator:
        return self

    def __next__(self) -> KeyValue:
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            row = next(self._rows)
        except Error as error:
            self._error = error
            raise
        except StopIteration:
            self._check_shared()
            self.close()
            raise
        except ValueError as error:
            raise self._shared() from error
        self._last = row.key
        return row

    def _shared(self) -> Error:
        """Return the error for a shared scan. The interpreter raises ValueError when another thread is inside the generator;
        this ends the chain of rows for both threads, so both get the error."""
        self._error = InvalidError("another thread is reading from this scan at this moment: give each thread its own")
        return self._error

    def _check_shared(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)

    def fetchmany(self, count: int) -> list[KeyValue]:
        """Up to `count` rows; an empty list at the end."""
        if count < 0:
            raise InvalidError(f"fetchmany takes a count of at least 0, got {count}")
        if self._error is not None:
            raise self._error.with_traceback(None)
        try:
            rows = list(islice(self._rows, count))
        except Error as error:
            self._error = error
            raise
        except ValueError as error:
            raise self._shared() from error
        if rows:
            self._last = rows[-1].key
        if len(rows) < count:
            self._check_shared()
            self.close()
        return rows

    def seek(self, key: BytesLike) -> None:
        """Go on at the first row with at least this key.

        Raises: InvalidError: on a descending scan, outside the scan's range, or not beyond the last row returned.
        """
        key = as_bytes(key, "key")
        if self._descending:
            raise InvalidError("seek works on ascending scans only")
        if (self._low is not None and key < self._low) or (self._high is not None and key >= self._high):
            raise InvalidError(f"seek to {key!r} is outside the scan's range [{self._low!r}, {self._high!r})")
        if self._last is not None and key <= self._last:
            raise InvalidError(f"seek goes forward only: {key!r} is not beyond the last row, {self._last!r}")
        self._rows = self._flatten(self._make(key))

    def close(self) -> None:
        """Release the tables that this scan pins. Iterating afterwards yields nothing."""
        self._rows = iter(())
        self._make = _nothing

    def __enter__(self) -> RowIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _nothing(_low: bytes | None) -> Iterator[RowChunk]:
    return iter(())


def open_scan(
    view: View,
    bounds: Bounds,
    tables: TableReader,
    start: BytesLike | None,
    end: BytesLike | None,
    *,
    order: IterationOrder,
    options: ScanOptions | None,
    explained: Callable[[TableMissingError], Error],
) -> RowIterator:
    """An iterator over the visible rows with start <= key < end. Raises: InvalidError if start > end; while iterating, the
    error that `explained` returns for a missing table."""
    low = None if start is None else as_bytes(start, "start")
    high = None if end is None else as_bytes(end, "end")
    if low is not None and high is not None and low > high:
        raise InvalidError(f"scan from {low!r} to {high!r}: start is after end")
    descending = order is IterationOrder.DESCENDING
    keep = (options or DEFAULT_SCAN).cache_blocks

    def chunks(begin: bytes | None) -> Iterator[RowChunk]:
        try:
            yield from scan(view, bounds, begin, high, tables, descending=descending, keep=keep)
        except TableMissingError as error:
            raise explained(error) from error

    return RowIterator(chunks, low=low, high=high, descending=descending)


def range_under(prefix: BytesLike, start: BytesLike | None, end: BytesLike | None) -> tuple[bytes, bytes | None]:
    """The range of keys that begin with `prefix` and continue with [start, end)."""
    head = as_bytes(prefix, "prefix")
    low = head + (b"" if start is None else as_bytes(start, "start"))
    high = prefix_end(head) if end is None else head + as_bytes(end, "end")
    return low, high
