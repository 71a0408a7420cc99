"""Async iterators of entries and keys: what is in hand is yielded without a wait, the next piece is read in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, TypeVar

from opendata_log.aio.loops import give_way
from opendata_log.aio.nonblocking import PIECE_ROWS, Far, Moment, NotAtHand
from opendata_log.aio.threads import Errand, Threads
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.record import LogEntry, LogKey, Sequence
from opendata_log.read import scan
from opendata_log.read.reads import Reads
from opendata_log.read.reverse import ReverseIterator

T = TypeVar("T")

GLANCE_COST = 32
"""What a read of memory costs, in appended records."""


class Pieces(Generic[T]):
    """An async iterator over pieces. For one task at a time. A call that is cancelled or fails loses nothing: the next one
    goes on where it stood."""

    def __init__(self) -> None:
        self._piece: Any = iter(())
        self._kept: list[T] = []
        """From `_kept_at` on: taken by a call that did not come to return it. Nothing is cut off its head, however long."""
        self._kept_at = 0

    async def _next_piece(self) -> Iterator[T] | None:
        """An iterator over a list that is not empty; None at the end. The last one is used up."""
        raise NotImplementedError

    async def _more(self) -> Iterator[T] | None:
        """What is left of the current piece, or the next one."""
        if not self._piece.__length_hint__():
            piece = await self._next_piece()
            if piece is None:
                return None
            self._piece = piece
        return self._piece  # type: ignore[no-any-return]

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> T:
        if self._kept:
            return self._from_kept(1)[0]
        for found in self._piece:
            return found  # type: ignore[no-any-return]
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
        self, threads: Threads, log: Reads, start: Sequence, read: Callable[[Reads], scan.LogIterator]
    ) -> None:
        """`read` makes the scan. Raises: what it raises about its arguments."""
        super().__init__()
        self._errand: Errand[Iterator[LogEntry] | None] = Errand(threads)
        self._read = read
        self._start = self._mark = start
        """Where to go on as long as no source can be asked."""
        self._source: scan.LogIterator | None = None
        self._near: scan.LogIterator | None = None
        self._is_settled = self._is_closed = False
        moment = Moment(log)
        with suppress(NotAtHand):
            self._near = read(moment)
            self._start = self._mark = self._near.next_sequence
        self._far = Far(log, moment.seen)

    async def _next_piece(self) -> Iterator[LogEntry] | None:
        if self._near is not None:
            await give_way(GLANCE_COST)
            near, self._near = self._near, None
            with suppress(NotAtHand):
                self._source = _settled(near)
                self._is_settled = True
        if self._is_closed:
            return None
        if self._is_settled and self._source is not None:
            return self._source.next_block()
        if self._source is not None and not self._errand.is_under_way:
            self._mark = self._source.next_sequence
        return await self._errand.run(self._next_far)

    def _next_far(self) -> Iterator[LogEntry] | None:
        """In a thread."""
        if self._source is None:
            self._source = self._read(self._far)
        return self._source.next_block()

    @property
    def next_sequence(self) -> Sequence:
        """Where to go on: `scan(key, next_sequence)` omits nothing this scan has not yielded; see the blocking iterator's."""
        if self._kept:
            return self._start if isinstance(self._source, ReverseIterator) else self._kept[self._kept_at].sequence
        if self._is_closed or self._source is None or self._errand.is_under_way:
            return self._mark
        return self._source.next_sequence

    async def fetchall(self) -> list[LogEntry]:
        """All remaining entries."""
        return await self._take(None)

    async def close(self) -> None:
        """Yield nothing more. `next_sequence` stays where it is. Idempotent."""
        self._mark = self.next_sequence
        self._is_closed = True
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._errand.afterwards(lambda: self._source.close() if self._source is not None else None)


def _settled(near: scan.LogIterator) -> scan.LogIterator:
    """The same with all of it in hand. Raises: NotAtHand; nothing was yielded then."""
    start = near.next_sequence
    entries = near.fetchall()
    return type(near)(iter([entries] if entries else ()), start=start, frontier=near.next_sequence)


class LogKeyIterator(Pieces[LogKey]):
    """Distinct keys in lexicographic order."""

    def __init__(self, threads: Threads, log: Reads, read: Callable[[Reads], scan.LogKeyIterator]) -> None:
        super().__init__()
        self._errand: Errand[Iterator[LogKey] | None] = Errand(threads)
        self._read = read
        self._source: scan.LogKeyIterator | None = None
        self._is_closed = False
        moment = Moment(log)
        with suppress(NotAtHand):
            read(moment)
        self._far = Far(log, moment.seen)

    async def _next_piece(self) -> Iterator[LogKey] | None:
        return None if self._is_closed else await self._errand.run(self._next_keys)

    def _next_keys(self) -> Iterator[LogKey] | None:
        """In a thread."""
        if self._source is None:
            self._source = self._read(self._far)
        keys = self._source.fetchmany(PIECE_ROWS)
        return iter(keys) if keys else None

    async def fetchall(self) -> list[LogKey]:
        """All remaining keys."""
        return await self._take(None)

    async def close(self) -> None:
        """Yield nothing more. Idempotent."""
        self._is_closed = True
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._errand.afterwards(lambda: self._source.close() if self._source is not None else None)
