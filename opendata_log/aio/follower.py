"""A follower for a task: it drives the same state machine as `opendata_log/read/follow`, and a call to the loop wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from opendata_log.aio.iterators import Pieces, checked_count
from opendata_log.aio.loops import Alarm
from opendata_log.aio.nonblocking import NonBlockingSource, PiecewiseSource
from opendata_log.aio.threads import Errand, Threads
from opendata_log.model.errors import ClosedError, WouldBlock
from opendata_log.model.record import LogEntry, Sequence
from opendata_log.read.follow import FollowState


class LogFollower(Pieces[LogEntry]):
    """Iterates over entries in sequence order, and waits for new ones at the end. An async context manager.

    Ends when the log is closed, and after `timeout` seconds without a new entry. Raises the errors of a scan. After an error
    or a cancelled call, iterating again, in any loop, goes on at the same place. A slow consumer misses no entry.
    For one task at a time.

    >>> import asyncio
    >>> from opendata_log.aio import LogDb
    >>> async def main():
    ...     async with await LogDb.open("memory://") as log:
    ...         follower = log.follow(b"orders", timeout=60)
    ...         await log.append(b"orders", b"created")
    ...         print(await anext(follower))
    >>> asyncio.run(main())
    LogEntry(key=b'orders', sequence=0, value=b'created')
    """

    def __init__(
        self, threads: Threads, source: NonBlockingSource, state: FollowState, prepare: Callable[[], None] | None = None
    ) -> None:
        """`prepare` is called in a thread before the first read there; None: nothing is called."""
        super().__init__()
        self._errand: Errand[Iterator[LogEntry] | None] = Errand(threads)
        self._nowait, self._in_pieces = source, PiecewiseSource(source.handle)
        self._state = state
        self._prepare = prepare
        self._is_in_thread = prepare is not None
        self._mark = state.next_sequence
        self._alarm = Alarm()
        self._is_current = False
        """Unless the alarm is set, only the rest of the current read is left."""
        state.listen(self._alarm)

    async def _next_piece(self) -> Iterator[LogEntry] | None:
        state = self._state
        while not state.is_over:
            block = await self._next_block()
            if state.is_over or block is not None:
                return block if not state.is_over else None
            left = state.time_left(asyncio.get_running_loop().time())
            if left is not None and left <= 0:
                break
            await self._alarm.wait(left)
        return None

    async def _next_block(self) -> Iterator[LogEntry] | None:
        """The next block that exists: on the loop where memory has it, else in a thread. None where there is none."""
        block = await self._rest_of_read()
        if block is not None:
            return block
        if self._is_current and not self._alarm.is_set:
            return None  # The read reached the frontier, and any later entry would have set the alarm.
        self._is_current = self._alarm.is_set = False
        try:
            block = self._state.begin(self._nowait)
        except WouldBlock:
            self._is_in_thread = True
            block = await self._in_thread(self._begin)
            self._is_in_thread = block is not None
        self._is_current = True
        return block

    async def _rest_of_read(self) -> Iterator[LogEntry] | None:
        if not self._is_in_thread:
            with suppress(WouldBlock):
                return self._state.rest()
            return None
        block = await self._in_thread(self._rest)
        self._is_in_thread = block is not None  # Entries that came meanwhile are usually in memory.
        return block

    async def _in_thread(self, function: Callable[[], Iterator[LogEntry] | None]) -> Iterator[LogEntry] | None:
        if not self._errand.is_under_way:
            self._mark = self._state.next_sequence
        try:
            return await self._errand.run(function)
        except ClosedError:  # The handle is closed, which ends the blocking follower, too.
            self._state.is_over = True
            return None

    def _rest(self) -> Iterator[LogEntry] | None:
        prepare = self._prepare
        if prepare is not None:
            prepare()
            self._prepare = None
        return self._state.rest()

    def _begin(self) -> Iterator[LogEntry] | None:
        return self._state.begin(self._in_pieces)

    @property
    def next_sequence(self) -> Sequence:
        """The sequence to resume at: a follower that starts there yields every entry not yielded here, and repeats none."""
        if self._kept:
            return self._kept[self._kept_at].sequence
        return self._mark if self._errand.is_under_way else self._state.next_sequence

    async def fetchmany(self, count: int) -> list[LogEntry]:
        """The entries available now, up to `count`. Waits until there is one; an empty list at the end."""
        checked_count(count)
        if self._kept or not count:
            return self._from_kept(count)
        entries: list[LogEntry] = []
        try:
            piece = await self._more()
            while piece is not None:
                entries += islice(piece, count - len(entries))
                if len(entries) == count:
                    break
                piece = await self._rest_of_read()
                self._piece = piece if piece is not None else iter(())
        except BaseException:
            self._kept = entries
            raise
        return entries

    async def close(self) -> None:
        """End the iteration; a task that waits in this follower returns. `next_sequence` stays as it is. Idempotent."""
        self._mark = self.next_sequence
        self._kept, self._kept_at, self._piece = [], 0, iter(())
        self._state.is_over = True
        self._errand.afterwards(lambda: self._state.close(self._alarm))
