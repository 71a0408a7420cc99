"""Tasks wait for the durable watermark, without a thread, however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count

from opendata_log.aio.loops import LoopScheduler, scheduler
from opendata_log.model.errors import ClosedError, Error, InvalidInputError
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import Sequence
from opendata_log.waiting.durable_watch import DurableWatch as BlockingWatch


class Watermark:
    """The waiting tasks by loop, each with its sequence. One per handle."""

    def __init__(self, watch: BlockingWatch) -> None:
        self._watch = watch
        self._order = count()
        self._waiting: dict[LoopScheduler, list[tuple[Sequence, int, asyncio.Future[Sequence]]]] = {}
        self._gone: dict[LoopScheduler, int] = {}
        """Upper bound of the cancelled waiters in each list; when it reaches half of the list, they are removed."""
        watch.attach(self)

    @property
    def value(self) -> Sequence:
        return self._watch.value

    def wake(self) -> None:
        """The watermark may have advanced. Called from any thread."""
        for mine in list(self._waiting):
            mine.post(partial(self._advance, mine))

    def _advance(self, mine: LoopScheduler) -> None:
        """Settle the waiters whose sequence was passed, or all where the log is closed or failed. Runs on the loop."""
        waiting = self._waiting.get(mine)
        if not waiting:
            return
        value, failure = self.value, None
        while waiting and waiting[0][0] < value:
            _settle(heappop(waiting)[2], value, None)
        try:
            self._watch.check()
        except Error as error:
            failure = error
        while failure is not None and waiting:
            _settle(heappop(waiting)[2], value, failure)
        if not waiting:
            del self._waiting[mine]
            self._gone.pop(mine, None)

    async def beyond(self, sequence: Sequence) -> Sequence:
        """The watermark, once it is greater than `sequence`. Raises: the error that keeps it from advancing."""
        mine = scheduler()
        future: asyncio.Future[Sequence] = asyncio.get_running_loop().create_future()
        heappush(self._waiting.setdefault(mine, []), (sequence, next(self._order), future))
        self._advance(mine)  # Registered first, so that no advance between the two is missed.
        try:
            return await future
        except asyncio.CancelledError:
            self._forget(mine)
            raise

    def _forget(self, mine: LoopScheduler) -> None:
        """Count one cancelled waiter. Cost: constant on average, however many are cancelled at once."""
        waiting = self._waiting.get(mine)
        if not waiting:
            return
        gone = self._gone.get(mine, 0) + 1
        if 2 * gone < len(waiting):
            self._gone[mine] = gone
            return
        self._gone.pop(mine, None)
        waiting[:] = [one for one in waiting if not one[2].done()]
        heapify(waiting)
        if not waiting:
            del self._waiting[mine]


def _settle(future: asyncio.Future[Sequence], value: Sequence, failure: Error | None) -> None:
    if not future.done():
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)


class DurableWatch:
    """Waits for the durable watermark to advance. Waiting causes no request and takes no thread.

    Any number of watches can be used, in any loop. `async for` yields the watermark after each advance.

    >>> import asyncio
    >>> from opendata_log.aio import LogDb
    >>> async def main():
    ...     async with await LogDb.open("memory://") as log:
    ...         output = await log.append(b"orders", b"created")
    ...         print(await log.subscribe_durable().wait(output.start_sequence, timeout=60))
    >>> asyncio.run(main())
    1
    """

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark

    @property
    def value(self) -> Sequence:
        """The watermark now: every record with a lower sequence is durable."""
        return self._watermark.value

    async def wait(self, beyond: Sequence, timeout: float | timedelta | None = None) -> Sequence:
        """Wait until the watermark is greater than `beyond`, and return it.

        So `wait(sequence)` returns when the record with that sequence is durable. `timeout` `None`: no limit.
        Raises: TimeoutError after `timeout` seconds; ClosedError when the log is closed; InvalidInputError, StorageError.
        """
        if isinstance(beyond, bool) or not isinstance(beyond, int):
            raise InvalidInputError(f"beyond must be a sequence, got {beyond!r}")
        seconds = timeout_seconds(timeout)
        value = self.value
        if value > beyond:
            return value
        try:
            async with asyncio.timeout(seconds):
                return await self._watermark.beyond(beyond)
        except TimeoutError:
            raise TimeoutError(f"the durable sequence did not pass {beyond} within {seconds} s") from None

    async def __aiter__(self) -> AsyncIterator[Sequence]:
        """Yield the watermark after each advance; end when the log is closed."""
        seen = self.value
        while True:
            try:
                seen = await self.wait(seen)
            except ClosedError:
                return
            yield seen

    def __repr__(self) -> str:
        return f"<DurableWatch {self.value}>"
