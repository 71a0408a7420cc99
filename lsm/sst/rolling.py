"""Write walk: splits sorted chunks into tables, each small enough for one conditional PUT."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from operator import add
from typing import Final

from lsm.rows.chunk import RowChunk, SeriesChunk, joined_rows, joined_series
from lsm.sst.block import RowsBlock, SeriesBlock
from lsm.sst.builder import TableBuilder, TableFormat, TableInfo

TABLE_BYTES_MAX: Final = 88 << 20
"""Maximum bytes per table, unless a single row is larger."""
PIECE_BYTES: Final = 16 << 20
"""Maximum bytes of a chunk added at once; larger chunks are split."""


class RollingTables:
    """Starts a new table when the current one has `table_bytes`. Add rows as to a `TableBuilder`."""

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
        self._gather_bytes = 4 * table_format.block_bytes
        self._builder: TableBuilder | None = None
        self._rows: list[RowChunk] = []
        self._series: list[SeriesChunk] = []
        self._lengths: list[int] = []
        """Per row in `_series`, the value's length; per row in `_rows`, the length of key and value together."""
        self._pending = 0

    def add_rows(self, chunk: RowChunk) -> None:
        """Add rows; those of one key come in one call, and stay in one table."""
        if not len(chunk):
            return
        self._close_series()
        sizes = list(map(add, map(len, chunk.keys), map(len, chunk.values)))
        self._rows.append(chunk)
        self._lengths += sizes
        self._pending += sum(sizes)
        if self._pending >= self._gather_bytes:
            self._close_rows()

    def add_series(self, chunk: SeriesChunk) -> None:
        self._close_rows()
        if self._series and self._series[0].family != chunk.family:
            self._close_series()
        lengths = list(map(len, chunk.values))
        self._series.append(chunk)
        self._lengths += lengths
        self._pending += sum(lengths)
        if self._pending >= self._gather_bytes:
            self._close_series()

    def _close_rows(self) -> None:
        """Write the gathered rows. Small chunks are joined first, because each would end in a small block."""
        if not self._rows:
            return
        chunks, self._rows = self._rows, []
        sizes, self._lengths = self._lengths, []
        size, self._pending = self._pending, 0
        chunk = joined_rows(chunks)
        if size <= PIECE_BYTES:
            self._with_room(size).add_rows(chunk, sizes)
            self._roll()
            return
        keys = chunk.keys
        done = 0
        for _, end in _cuts(sizes):
            while done < end < len(keys) and keys[end] == keys[end - 1]:
                end += 1
            if end > done:
                part = sizes[done:end]
                self._with_room(sum(part)).add_rows(chunk.slice(done, end), part)
                self._roll()
                done = end

    def _close_series(self) -> None:
        if not self._series:
            return
        chunks, self._series = self._series, []
        sizes, self._lengths = self._lengths, []
        self._pending = 0
        chunk = joined_series(chunks)
        for start, end in _cuts(sizes):
            part = chunk.rows(start, end) if end - start < len(sizes) else chunk
            lengths = sizes[start:end]
            builder = self._with_room(sum(lengths))
            builder.add_series(part.family, part.names, part.counts, part.positions, part.values, lengths)
            self._roll()

    def splice(self, stored: bytes, block: RowsBlock | SeriesBlock) -> None:
        """`TableBuilder.splice` into the current table."""
        self._close_rows()
        self._close_series()
        self._with_room(len(stored)).splice(stored, block)
        self._roll()

    def _with_room(self, size: int) -> TableBuilder:
        """The current table, or a new one if `size` more bytes could make the current one too large."""
        if self._builder is not None and self._builder.size + size > TABLE_BYTES_MAX:
            self._close_table()
        if self._builder is None:
            self._builder = TableBuilder(self._database, next(self._numbers), self._format)
        return self._builder

    def _roll(self) -> None:
        if self._builder is not None and self._builder.size >= self._table_bytes:
            self._close_table()

    def _close_table(self) -> None:
        builder, self._builder = self._builder, None
        if builder is not None and not builder.is_empty:
            self._put(*builder.finish())

    def finish(self) -> None:
        """Write everything that was added."""
        self._close_rows()
        self._close_series()
        self._close_table()


def _cuts(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Positions [start, end) of pieces of about PIECE_BYTES, at least one row each."""
    ends = list(accumulate(sizes))
    start = 0
    while start < len(sizes):
        end = max(start + 1, bisect_right(ends, (ends[start - 1] if start else 0) + PIECE_BYTES, start))
        yield start, end
        start = end
