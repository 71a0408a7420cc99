"""Async iterators of entries and keys. Entries of the current piece are yielded without a wait; a thread reads the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, TypeVar

from opendata_log.aio.loops import give_way
from opendata_log.aio.nonblocking import PIECE_ROWS, MomentSource, NonBlockingSource, PiecewiseSource
from opendata_log.aio.threads import Errand, Threads
from opendata_log.model.errors import InvalidInputError, WouldBlock
from opendata_log.model.record import LogEntry, LogKey, Sequence
from opendata_log.read import scan
from opendata_log.read.reads import Reads
from opendata_log.read.reverse import ReverseIterator

T = TypeVar("T")

MEMORY_READ_COST = 32
"""Cost of a read that memory answers, in appended records."""


class Pieces(Generic[T]):
    """An async iterator over pieces, for one task at a time. A cancelled or failed call loses no item: the next call goes on
    at the same place."""

    def __init__(self) -> None:
        # An iterator of a list or tuple: its `__length_hint__` is the number of items left. See the blocking `LogIterator`.
        self._piece: Any = iter(())
        self._kept: list[T] = []
        """Items taken by a call that could not return them. Items before `_kept_at` are used up; they stay because cutting a
        long list is slow."""
        self._kept_at = 0

    async def _next_piece(self) -> Iterator[T] | None:
        """An iterator over a list that is not empty; None at the end. Requires: the last piece is used up."""
        raise NotImplementedError

    async def _more(self) -> Iterator[T] | None:
        """The rest of the current piece, or the next piece; None at the end."""
        piece: Iterator[T] | None = self._piece
        if not self._piece.__length_hint__():
            piece = await self._next_piece()
            if piece is not None:
                self._piece = piece
        return piece

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> T:
        if self._kept:
            return self._from_kept(1)[0]
        found: T
        for found in self._piece:
            return found
        piece = await self._more()
        if piece is None:
            raise StopAsyncIteration
        return next(piece)

    def _from_kept(self, count: int | None) -> list[T]:
        """The next kept items, up to `count` (None: all). Cost: proportional to the items returned."""
        kept, at = self._kept, self._kept_at
        if count is not None and at + count < len(kept):
            self._kept_at = at + count
            return kept[at : at + count]
        self._kept, self._kept_at = [], 0
        return kept[at:] if at else kept

    async def _take(self, count: int | None) -> list[T]:
        taken = self._from_kept(count)
        try:
            while count is None or len(taken) < count:
                piece = await self._more()
                if piece is None:
                    break
                taken += piece if count is None else islice(piece, count - len(taken))
        except BaseException:
            self._kept = taken
            raise
        return taken

    async def fetchmany(self, count: int) -> list[T]:
        """The next items, up to `count`; an empty list at the end."""
        return await self._take(checked_count(count))

    async def close(self) -> None:
        """End the iteration. Idempotent."""
        raise NotImplementedError

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def checked_count(count: object) -> int:
    """`count`, if it is an integer of at least 0. Raises: InvalidInputError."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InvalidInputError(f"fetchmany takes a count of at least 0, got {count!r}")
    return count


class LogIterator(Pieces[LogEntry]):
    """Iterates over entries in sequence order, or newest first for `reverse`, as of the moment the scan was called.

    For one task at a time; an async context manager. A cancelled call loses no entry: the next call yields it. After an error,
    resume with a new scan at `next_sequence`.

    >>> import asyncio
    >>> from opendata_log.aio import LogDb
    >>> async def main():
    ...     async with await LogDb.open("memory://") as log:
    ...         await log.try_append([(b"orders", b"created"), (b"orders", b"paid")])
    ...         scan = log.scan(b"orders")
    ...         print(await scan.fetchmany(1), scan.next_sequence)
    >>> asyncio.run(main())
    [LogEntry(key=b'orders', sequence=0, value=b'created')] 1
    """

    def __init__(
        self, threads: Threads, source: NonBlockingSource, start: Sequence, read: Callable[[Reads], scan.LogIterator]
    ) -> None:
        """`read` makes the scan. Raises: the errors of `read` about its arguments."""
        super().__init__()
        self._errand: Errand[Iterator[LogEntry] | None] = Errand(threads)
        self._read = read
        self._start = self._mark = start
        """`next_sequence` while the scan itself cannot be read."""
        self._scan: scan.LogIterator | None = None
        self._nowait: scan.LogIterator | None = None
        self._is_settled = self._is_closed = False
        moment = MomentSource(source)
        with suppress(WouldBlock):
            self._nowait = read(Reads(moment))
            self._start = self._mark = self._nowait.next_sequence
        self._source = source
        self._seen = moment.seen

    async def _next_piece(self) -> Iterator[LogEntry] | None:
        if self._nowait is not None:
            await give_way(MEMORY_READ_COST)
            nowait, self._nowait = self._nowait, None
            with suppress(WouldBlock):
                self._scan = _settled(nowait)
                self._is_settled = True
        if self._is_closed:
            return None
        if self._is_settled and self._scan is not None:
            return self._scan.next_block()
        if self._scan is not None and not self._errand.is_under_way:
            self._mark = self._scan.next_sequence
        return await self._errand.run(self._next_in_thread)

    def _next_in_thread(self) -> Iterator[LogEntry] | None:
        """As `_next_piece`. Runs in a thread."""
        if self._scan is None:
            self._scan = self._read(Reads(MomentSource(PiecewiseSource(self._source.handle), self._seen)))
        return self._scan.next_block()

    @property
    def next_sequence(self) -> Sequence:
        """The sequence to resume at: `scan(key, next_sequence)` yields every entry that this scan has not yielded.

        Its values are those of the blocking `LogIterator`, or of `ReverseIterator` for `reverse`.
        """
        if self._kept:
            return self._start if isinstance(self._scan, ReverseIterator) else self._kept[self._kept_at].sequence
        if self._is_closed or self._scan is None or self._errand.is_under_way:
            return self._mark
        return self._scan.next_sequence

    async def fetchall(self) -> list[LogEntry]:
        """All remaining entries."""
        return await self._take(None)

    async def close(self) -> None:
        """End the iteration and release its tables. `next_sequence` stays as it is. Idempotent."""
        self._mark = self.next_sequence
        self._is_closed = True
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._errand.afterwards(lambda: self._scan.close() if self._scan is not None else None)


def _settled(nowait: scan.LogIterator) -> scan.LogIterator:
    """The same scan with all its entries in memory. Raises: WouldBlock; no entry was yielded then."""
    start = nowait.next_sequence
    entries = nowait.fetchall()
    return type(nowait)(iter([entries] if entries else ()), start=start, frontier=nowait.next_sequence)


class LogKeyIterator(Pieces[LogKey]):
    """Iterates over distinct keys, as `LogKey`, in lexicographic order. For one task at a time; an async context manager."""

    def __init__(
        self, threads: Threads, source: NonBlockingSource, read: Callable[[Reads], scan.LogKeyIterator]
    ) -> None:
        super().__init__()
        self._errand: Errand[Iterator[LogKey] | None] = Errand(threads)
        self._read = read
        self._scan: scan.LogKeyIterator | None = None
        self._is_closed = False
        moment = MomentSource(source)
        with suppress(WouldBlock):
            read(Reads(moment))
        self._source = source
        self._seen = moment.seen

    async def _next_piece(self) -> Iterator[LogKey] | None:
        return None if self._is_closed else await self._errand.run(self._next_keys)

    def _next_keys(self) -> Iterator[LogKey] | None:
        """As `_next_piece`. Runs in a thread."""
        if self._scan is None:
            self._scan = self._read(Reads(MomentSource(PiecewiseSource(self._source.handle), self._seen)))
        keys = self._scan.fetchmany(PIECE_ROWS)
        return iter(keys) if keys else None

    async def fetchall(self) -> list[LogKey]:
        """All remaining keys."""
        return await self._take(None)

    async def close(self) -> None:
        """End the iteration. Idempotent."""
        self._is_closed = True
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._errand.afterwards(lambda: self._scan.close() if self._scan is not None else None)
