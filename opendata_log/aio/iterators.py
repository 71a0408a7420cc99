"""Async iterators of entries and keys: what is in hand is yielded without a wait, the next piece is read in a thread."""

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
"""What a read of memory costs, in appended records."""


class Pieces(Generic[T]):
    """An async iterator over pieces. For one task at a time. A call that is cancelled or fails loses nothing: the next one
    goes on where it stood."""

    def __init__(self) -> None:
        # Iterators of lists and tuples, whose `__length_hint__` is how much is left: see the blocking `LogIterator`.
        self._piece: Any = iter(())
        self._kept: list[T] = []
        """From `_kept_at` on: taken by a call that did not come to return it. Nothing is cut off its head, however long."""
        self._kept_at = 0

    async def _next_piece(self) -> Iterator[T] | None:
        """An iterator over a list that is not empty; None at the end. The last one is used up."""
        raise NotImplementedError

    async def _more(self) -> Iterator[T] | None:
        """What is left of the current piece, or the next one."""
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
        """Up to `count` of what was kept. Cost: those, however many are left."""
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
        """Up to `count` of them; an empty list at the end."""
        return await self._take(checked_count(count))

    async def close(self) -> None:
        """Yield nothing more. Idempotent."""
        raise NotImplementedError

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def checked_count(count: object) -> int:
    """Raises: InvalidInputError."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InvalidInputError(f"fetchmany takes a count of at least 0, got {count!r}")
    return count


class LogIterator(Pieces[LogEntry]):
    """Entries in order (newest first where the scan is reversed), as of the moment of the call."""

    def __init__(
        self, threads: Threads, source: NonBlockingSource, start: Sequence, read: Callable[[Reads], scan.LogIterator]
    ) -> None:
        """`read` makes the scan. Raises: what it raises about its arguments."""
        super().__init__()
        self._errand: Errand[Iterator[LogEntry] | None] = Errand(threads)
        self._read = read
        self._start = self._mark = start
        """Where to go on as long as no source can be asked."""
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
        """In a thread."""
        if self._scan is None:
            self._scan = self._read(Reads(MomentSource(PiecewiseSource(self._source.handle), self._seen)))
        return self._scan.next_block()

    @property
    def next_sequence(self) -> Sequence:
        """Where to go on: `scan(key, next_sequence)` omits nothing this scan has not yielded; see the blocking iterator's."""
        if self._kept:
            return self._start if isinstance(self._scan, ReverseIterator) else self._kept[self._kept_at].sequence
        if self._is_closed or self._scan is None or self._errand.is_under_way:
            return self._mark
        return self._scan.next_sequence

    async def fetchall(self) -> list[LogEntry]:
        """All remaining entries."""
        return await self._take(None)

    async def close(self) -> None:
        """Yield nothing more. `next_sequence` stays where it is. Idempotent."""
        self._mark = self.next_sequence
        self._is_closed = True
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._errand.afterwards(lambda: self._scan.close() if self._scan is not None else None)


def _settled(nowait: scan.LogIterator) -> scan.LogIterator:
    """The same with all of it in hand. Raises: WouldBlock; nothing was yielded then."""
    start = nowait.next_sequence
    entries = nowait.fetchall()
    return type(nowait)(iter([entries] if entries else ()), start=start, frontier=nowait.next_sequence)


class LogKeyIterator(Pieces[LogKey]):
    """Distinct keys in lexicographic order."""

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
        """In a thread."""
        if self._scan is None:
            self._scan = self._read(Reads(MomentSource(PiecewiseSource(self._source.handle), self._seen)))
        keys = self._scan.fetchmany(PIECE_ROWS)
        return iter(keys) if keys else None

    async def fetchall(self) -> list[LogKey]:
        """All remaining keys."""
        return await self._take(None)

    async def close(self) -> None:
        """Yield nothing more. Idempotent."""
        self._is_closed = True
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._errand.afterwards(lambda: self._scan.close() if self._scan is not None else None)
