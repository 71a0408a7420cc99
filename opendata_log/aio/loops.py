"""The seam to asyncio: how other threads reach an event loop, and how much work one pass of the loop does.

Every call to a loop goes through its one `LoopScheduler`. A thousand followers woken by one append are one call to the loop;
some of them run per pass, so that other tasks of the program run in between.
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
"""Maximum work per turn of a task on the loop, in appended records; some quarter of a millisecond."""
QUANTA = 1
"""Maximum tasks that get a turn per pass of the loop."""
WAKES = 16
"""Maximum sleepers woken per pass of the loop."""
WAKES_BUSY = 4
"""The same while tasks wait for their turn: a sleeper woken later finds more entries at once, which costs less than to wake
it often."""


class LoopScheduler:
    """This package's work on one event loop. Any thread may call `post` and `post_wake`; only the loop's own calls the rest."""

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
        """Call `callback` on the loop soon. It is dropped where the loop is closed, because no task waits there any more."""
        self._posted.append(callback)
        self._call()

    def post_wake(self, callback: Callable[[], None]) -> None:
        """As `post`, with a limit of calls per pass of the loop."""
        self._wakes.append(callback)
        self._call()

    def _call(self) -> None:
        if self._is_called:  # `_run` clears the flag before it reads the queues.
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
        """Whether the running task may do work of that cost on the loop now. If not, it awaits `turn` first."""
        if self._credit <= 0:
            return False
        self._credit -= cost
        if not self._is_ticking:
            self._tick_soon()
        return True

    async def turn(self, cost: int) -> None:
        """Return when the tasks that waited before have had their turns."""
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
        """Give turns to waiting tasks. Runs once per pass of the loop while there is work."""
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
    """The scheduler of the running loop."""
    loop = asyncio.get_running_loop()
    found = _schedulers.get(loop)
    if found is None:
        found = _schedulers.setdefault(loop, LoopScheduler(loop))
    return found


async def give_way(cost: int) -> None:
    """Wait until work of that cost, in appended records, may be done on the loop; usually this returns at once."""
    mine = scheduler()
    if not mine.take(cost):
        await mine.turn(cost)


# -- waiting ----------------------------------------------------------------------------------------------------------


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def outcome(future: Future[T]) -> T:
    """The result of a call in a thread. A cancelled task does not cancel the call."""
    if not future.done():
        mine = scheduler()
        waiter = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: mine.post(partial(_settle, waiter)))
        await waiter
    return future.result()


class Alarm:
    """An event for a task, which sleeps until any thread calls `wake`. One sleeper at a time, in any loop.

    The sleeper sets `is_set` to False before it reads.
    """

    __slots__ = ("__weakref__", "_waiter", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiter: tuple[LoopScheduler, asyncio.Future[None]] | None = None

    def wake(self) -> None:
        if self.is_set:
            return
        self.is_set = True
        waiter = self._waiter  # `wait` sets it before it reads `is_set` again: one of the two sees the other.
        if waiter is not None:
            waiter[0].post_wake(partial(_settle, waiter[1]))

    async def wait(self, timeout: float | None) -> None:
        """Return when it is set, at once if it already is, or after `timeout` seconds (None: no limit)."""
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
