"""Write walk: sorted chunks into as many tables as it takes, each small enough for one conditional PUT."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from lsm.rows.chunk import RowChunk, SeriesChunk, total_length
from lsm.sst.builder import TableBuilder, TableFormat, TableInfo

TABLE_BYTES_MAX: Final = 88 << 20
"""No table grows beyond this, unless a single row does."""
PIECE_BYTES: Final = 16 << 20
"""A chunk with more bytes of values is taken apart before it is added."""


class RollingTables:
    """Starts a new table when the current one has `table_bytes`. Feed it as a `TableBuilder`."""

    def __init__(
        self,
        database: bytes,
        numbers: Iterator[int],
        table_format: TableFormat,
        *,
        table_bytes: int,
        put: Callable[[TableInfo, list[bytes]], None],
    ) -> None:
        self._database = database
        self._numbers = numbers
        self._format = table_format
        self._table_bytes = min(table_bytes, TABLE_BYTES_MAX)
        self._put = put
        self._builder: TableBuilder | None = None

    def add_rows(self, chunk: RowChunk) -> None:
        """Rows of one key stay together, so they are never split between two tables."""
        size = total_length(chunk.values)
        for start, end in _cuts(list(map(len, chunk.values)), size):
            while end < len(chunk) and chunk.keys[end] == chunk.keys[end - 1]:
                end += 1
            if start and chunk.keys[start] == chunk.keys[start - 1]:
                start = bisect_right(chunk.keys, chunk.keys[start - 1], start)
            part = chunk.slice(start, end)
            if len(part):
                self._with_room(total_length(part.values)).add_rows(part)
                self._roll(self._table_bytes)

    def add_series(self, chunk: SeriesChunk) -> None:
        sizes = list(map(len, chunk.values))
        size = sum(sizes)
        if size <= PIECE_BYTES:
            self._with_room(size).add_series(chunk.family, chunk.names, chunk.counts, chunk.numbers, chunk.values)
            self._roll(self._table_bytes)
            return
        for start, end in _cuts(sizes, size):
            part = chunk.rows(start, end)
            self._with_room(sum(sizes[start:end])).add_series(
                part.family, part.names, part.counts, part.numbers, part.values
            )
            self._roll(self._table_bytes)

    def _with_room(self, size: int) -> TableBuilder:
        """The current table, or a new one where `size` more bytes could make it too large."""
        if self._builder is not None and self._builder.size + size > TABLE_BYTES_MAX:
            self.finish()
        if self._builder is None:
            self._builder = TableBuilder(self._database, next(self._numbers), self._format)
        return self._builder

    def _roll(self, limit: int) -> None:
        if self._builder is not None and self._builder.size >= limit:
            self.finish()

    def finish(self) -> None:
        """Close the current table, if there is one."""
        builder, self._builder = self._builder, None
        if builder is not None and not builder.is_empty:
            self._put(*builder.finish())


def _cuts(sizes: list[int], total: int) -> Iterator[tuple[int, int]]:
    """Positions [start, end) of pieces of about PIECE_BYTES, at least one row each."""
    if total <= PIECE_BYTES:
        yield 0, len(sizes)
        return
    ends = list(accumulate(sizes))
    start = 0
    while start < len(sizes):
        end = max(start + 1, bisect_right(ends, (ends[start - 1] if start else 0) + PIECE_BYTES, start))
        yield start, end
        start = end
