"""Read walk, after `read/series`, before `sst/table`: blocks of several tables in order, in growing stretches, ahead of use.

The first block is read alone, so a poll or a short read fetches nothing it does not use. A reader that continues gets
stretches of adjacent blocks, each twice as long as the one before, up to `ahead_bytes`. On a distant store, the next
stretch is requested while the current one is consumed; if the next blocks are not adjacent, several requests run at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from lsm.sst.builder import TableInfo
from lsm.sst.index import Index
from lsm.sst.table import Block, TableReader

READ_AHEAD_BYTES: Final = 1 << 20
"""Maximum stored bytes per request of a sequential reader that has read beyond its first blocks."""
FAR_BYTES: Final = 256 << 10
"""Minimum bytes of the second stretch on a distant store. Fewer bytes save no time there: latency dominates."""


@dataclass(slots=True)
class Span:
    """Blocks [start, end) of a table."""

    table: TableInfo
    index: Index
    start: int
    end: int


class _Stretch:
    """Adjacent blocks that one request reads, or one cached block."""

    __slots__ = ("block", "end", "index", "request", "size", "start", "table")

    def __init__(self, span: Span, start: int, end: int, block: Block | None) -> None:
        self.table = span.table
        self.index = span.index
        self.start = start
        self.end = end
        self.block = block
        self.size = span.index.offsets[end] - span.index.offsets[start]
        self.request: Future[bytes | Block] | None = None


def read_blocks(
    tables: TableReader,
    spans: Iterable[Span],
    *,
    descending: bool = False,
    keep: bool = True,
    ahead_bytes: int = READ_AHEAD_BYTES,
) -> Generator[tuple[TableInfo, Block], None, None]:
    """The blocks of all spans in order; `descending`: of each span the last block first. Close the iterator to cancel requests.

    Cost: one GET per stretch of blocks that are not cached. Holds at most `ahead_bytes` and one block of stored bytes that
    the reader has not reached yet. On near stores it reads nothing ahead.
    """
    reading = _Reading(tables, spans, descending=descending, keep=keep, ahead_bytes=ahead_bytes)
    try:
        while True:
            stretch = reading.next()
            if stretch is None:
                return
            for block in reading.blocks(stretch):
                yield stretch.table, block
            reading.grow(stretch.size)
    finally:
        reading.cancel()


class _Reading:
    def __init__(
        self, tables: TableReader, spans: Iterable[Span], *, descending: bool, keep: bool, ahead_bytes: int
    ) -> None:
        self._tables = tables
        self._spans = iter(spans)
        self._span: Span | None = None
        self._left = (0, 0)
        self._descending = descending
        self._keep = keep
        self._ahead_bytes = ahead_bytes
        self._window = 0
        self._pending: deque[_Stretch] = deque()
        self._pending_bytes = 0
        self._planned: _Stretch | None = None
        self._failure: Exception | None = None

    def next(self) -> _Stretch | None:
        """The stretch to consume now. Invariant: while it is consumed, at most `_window` bytes more are under way."""
        if not self._window or self._tables.is_near:
            return self._plan()
        if not self._pending:
            # Request this stretch together with the next ones: for blocks that are not adjacent, this saves round trips.
            self._fill()
        if not self._pending:
            if self._failure is not None:
                raise self._failure
            return None
        stretch = self._pending.popleft()
        self._pending_bytes -= stretch.size
        self._fill()
        return stretch

    def blocks(self, stretch: _Stretch) -> Iterator[Block]:
        """The stretch's blocks: the result of its request if it has one, else read now."""
        if stretch.block is not None:
            return iter((stretch.block,))
        found = stretch.request.result() if stretch.request is not None else self._read(stretch)
        if not isinstance(found, bytes):
            return iter((found,))
        return self._tables.opened(
            stretch.table,
            stretch.index,
            stretch.start,
            stretch.end,
            found,
            descending=self._descending,
            keep=self._keep,
        )

    def grow(self, size: int) -> None:
        """Grow the window: the reader continues after a stretch of `size` bytes."""
        least = 0 if self._tables.is_near else FAR_BYTES
        self._window = min(self._ahead_bytes, max(2 * self._window, 2 * size, least))

    def cancel(self) -> None:
        """Cancel pending requests. Requests that already run end by themselves, and their results are dropped."""
        for stretch in self._pending:
            if stretch.request is not None:
                stretch.request.cancel()
        self._pending.clear()

    def _read(self, stretch: _Stretch) -> bytes | Block:
        if stretch.end == stretch.start + 1:
            return self._tables.block(stretch.table, stretch.start, index=stretch.index, keep=self._keep)
        return self._tables.stored(stretch.table, stretch.index, stretch.start, stretch.end, keep=self._keep)

    def _plan(self) -> _Stretch | None:
        """The stretch after the last one."""
        span, (start, end) = self._span, self._left
        while span is None or start >= end:
            span = self._span = next(self._spans, None)
            if span is None:
                return None
            start, end = span.start, span.end
        first = end - 1 if self._descending else start
        block = self._tables.peek(span.table, first)
        if block is not None or not self._window:
            low, high = first, first + 1
        elif self._descending:
            offsets = span.index.offsets
            low, high = min(first, bisect_left(offsets, offsets[end] - self._window, start, end)), end
        else:
            offsets = span.index.offsets
            low, high = start, max(start + 1, bisect_right(offsets, offsets[start] + self._window, start, end + 1) - 1)
        self._left = (start, low) if self._descending else (high, end)
        return _Stretch(span, low, high, block)

    def _fill(self) -> None:
        """Request the next stretches, as many as fit the window. An error in planning is raised when its turn comes."""
        while self._failure is None:
            if self._planned is None:
                try:
                    self._planned = self._plan()
                except Exception as error:
                    self._failure = error
            stretch = self._planned
            if stretch is None or (self._pending and self._pending_bytes + stretch.size > self._window):
                return
            self._planned = None
            if stretch.block is None:
                stretch.request = self._tables.runtime.submit(self._read, stretch)
            self._pending.append(stretch)
            self._pending_bytes += stretch.size
