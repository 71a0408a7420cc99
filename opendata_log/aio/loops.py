"""The seam to asyncio: how other threads reach an event loop, and how much may be done on it in one pass.

Whatever reaches a loop goes through its one `LoopScheduler`: a thousand followers woken by one append are one call to the loop,
and they run some at a time, so that other tasks of the program come in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary, ref

T = TypeVar("T")

QUANTUM = 512
"""Work a task does on the loop before others get their turn, in appended records; some quarter of a millisecond."""
QUANTA = 1
"""Tasks that get a turn in one pass of the loop."""
WAKES = 16
"""Sleepers woken in one pass of the loop."""
WAKES_BUSY = 4
"""The same while tasks queue for their turn: who is woken later finds more at once, which costs less than to be woken often."""


class LoopScheduler:
    """One event loop, as seen by this package. `post` and `post_wake` are for any thread, the others for the loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._posted: deque[Callable[[], None]] = deque()
        self._wakes: deque[Callable[[], None]] = deque()
        self._is_called = False
        self._credit = QUANTUM
        self._turns: deque[asyncio.Future[None]] = deque()
        self._is_ticking = False

    # -- from other threads -------------------------------------------------------------------------------------------

    def post(self, callback: Callable[[], None]) -> None:
        """Call it on the loop soon. Dropped where the loop is closed: nobody waits in it any more."""
        self._posted.append(callback)
        self._call()

    def post_wake(self, callback: Callable[[], None]) -> None:
        """As `post`, not too many in one pass."""
        self._wakes.append(callback)
        self._call()

    def _call(self) -> None:
        if self._is_called:  # It is cleared before the queues are looked at.
            return
        self._is_called = True
        loop = self._loop()
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._is_called = False
        for _ in range(len(self._posted)):
            self._posted.popleft()()
        for _ in range(min(WAKES_BUSY if self._turns else WAKES, len(self._wakes))):
            self._wakes.popleft()()
        loop = self._loop()
        if self._wakes and loop is not None and not self._is_called:
            self._is_called = True
            loop.call_soon(self._run)

    # -- turns --------------------------------------------------------------------------------------------------------

    def take(self, cost: int) -> bool:
        """Whether the running task may do some work on the loop now. Where not, it awaits `turn` first."""
        if self._credit <= 0:
            return False
        self._credit -= cost
        if not self._is_ticking:
            self._tick_soon()
        return True

    async def turn(self, cost: int) -> None:
        """Return when other tasks had theirs."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._turns.append(future)
        if not self._is_ticking:
            self._tick_soon()
        await future
        self._credit = QUANTUM - cost

    def _tick_soon(self) -> None:
        loop = self._loop()
        if loop is not None:
            self._is_ticking = True
            loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Once per pass of the loop while there is work."""
        is_used = self._credit < QUANTUM
        self._is_ticking = False
        self._credit = 0 if self._turns else QUANTUM
        left = QUANTA
        while self._turns and left:
            future = self._turns.popleft()
            if not future.done():
                future.set_result(None)
                left -= 1
        if is_used or left < QUANTA:
            self._tick_soon()


_schedulers: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopScheduler] = WeakKeyDictionary()


def scheduler() -> LoopScheduler:
    """The running loop's."""
    loop = asyncio.get_running_loop()
    found = _schedulers.get(loop)
    if found is None:
        found = _schedulers.setdefault(loop, LoopScheduler(loop))
    return found


async def give_way(cost: int) -> None:
    """Wait until work of that cost, in appended records, may be done on the loop; usually at once."""
    mine = scheduler()
    if not mine.take(cost):
        await mine.turn(cost)


# -- waiting ----------------------------------------------------------------------------------------------------------


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def outcome(future: Future[T]) -> T:
    """The result of a call in a thread. Being cancelled leaves the call alone."""
    if not future.done():
        mine = scheduler()
        waiter = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: mine.post(partial(_settle, waiter)))
        await waiter
    return future.result()


class Alarm:
    """Something to sleep on until `wake`, which any thread may call. One sleeper at a time, in whichever loop. Whoever
    sleeps sets `is_set` to False before looking at what the call may be about."""

    __slots__ = ("__weakref__", "_waiter", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiter: tuple[LoopScheduler, asyncio.Future[None]] | None = None

    def wake(self) -> None:
        if self.is_set:
            return
        self.is_set = True
        waiter = self._waiter  # Set before `wait` looks at `is_set` again: one of the two sees the other.
        if waiter is not None:
            waiter[0].post_wake(partial(_settle, waiter[1]))

    async def wait(self, timeout: float | None) -> None:
        """Return when it is set, at once if it was meanwhile, or after `timeout`."""
        if not self.is_set:
            future = asyncio.get_running_loop().create_future()
            self._waiter = (scheduler(), future)
            try:
                if not self.is_set:
                    if timeout is None:
                        await future
                    else:
                        await asyncio.wait((future,), timeout=timeout)
            finally:
                self._waiter = None
