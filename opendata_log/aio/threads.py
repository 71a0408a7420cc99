"""Threads of a handle, and the ways in which tasks share them.

A running call in a thread cannot be cancelled, so each docstring states what happens to it when its task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

import lsm
from opendata_log.aio.loops import outcome
from opendata_log.model.errors import ClosedError

T = TypeVar("T")

LANES = {"work": 16, "append": 2, "flush": 2, "turn": 1, "space": 16, "care": 4, "close": 1}
"""Maximum threads per kind of call. Kinds have their own threads, so that long calls do not delay reads and appends."""


class Threads:
    """The threads of one handle, started when they are needed. Thread-safe."""

    def __init__(self) -> None:
        self._runtime = lsm.Runtime()
        self._lock = self._runtime.lock()
        self._lanes: dict[str, Executor] = {}
        self._is_stopped = False

    def lock(self) -> Any:
        return self._runtime.lock()

    def submit(self, function: Callable[..., T], *arguments: Any, lane: str = "work") -> Future[T]:
        """Call `function` in a thread of that lane. Raises: ClosedError after `stop`."""
        with self._lock:
            if self._is_stopped:
                raise ClosedError("the log is closed: open it again")
            executor = self._lanes.get(lane)
            if executor is None:
                executor = self._lanes[lane] = self._runtime.executor(f"log-aio-{lane}", LANES[lane])
            return executor.submit(function, *arguments)

    async def call(self, function: Callable[..., T], *arguments: Any, lane: str = "work") -> T:
        """The result of `function`, called in a thread. When the task is cancelled, a call that has not begun is dropped, and
        a running one goes on to its end."""
        try:
            future = self.submit(function, *arguments, lane=lane)
        except ClosedError:
            return function(*arguments)  # It raises its own ClosedError, at once.
        try:
            return await outcome(future)
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def make(self, function: Callable[[], T], discard: Callable[[T], None]) -> T:
        """As `call`; when the task is cancelled, the result of a running call is passed to `discard`."""
        future = self.submit(function)
        try:
            return await outcome(future)
        except asyncio.CancelledError:
            if not future.cancel():
                future.add_done_callback(lambda done: None if done.exception() else discard(done.result()))
            raise

    def stop(self) -> None:
        """Take no more calls; the threads end after the calls they have."""
        with self._lock:
            self._is_stopped = True
            lanes = list(self._lanes.values())
        for executor in lanes:
            executor.shutdown(wait=False)


class Errand(Generic[T]):
    """Calls in a thread, one at a time. Each is awaited to its end: by the task that began it, or, if that task was cancelled,
    by the next one. So no item that a call took out of an iterator is lost."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._under_way: Future[T] | None = None

    @property
    def is_under_way(self) -> bool:
        return self._under_way is not None

    async def run(self, function: Callable[[], T]) -> T:
        """The result of the call under way, or, if there is none, of `function`."""
        future = self._under_way
        if future is None:
            future = self._under_way = self._threads.submit(function)
        try:
            result = await outcome(future)
        except asyncio.CancelledError:
            if future.cancel():
                self._under_way = None
            raise
        except BaseException:
            self._under_way = None
            raise
        self._under_way = None
        return result

    def afterwards(self, function: Callable[[], None]) -> None:
        """Call `function` when no call is under way: now, or in the thread after that call."""
        future = self._under_way
        if future is None:
            function()
        else:
            future.add_done_callback(lambda _: function())


class Shared:
    """A call that many tasks share, such as a flush. A task that joins while the call runs waits for the next call.

    Tasks may run in any loop and thread.
    """

    def __init__(self, threads: Threads, function: Callable[[], None], lane: str) -> None:
        self._threads = threads
        self._function = function
        self._lane = lane
        self._lock = threads.lock()
        self._next: Future[None] | None = None
        self._running = 0

    async def join(self) -> None:
        """Return after a call of the function that began after this method was called. A cancelled task does not cancel it."""
        try:
            joined = self._joined()
        except ClosedError:
            self._function()  # It raises its own ClosedError, at once.
        else:
            await outcome(joined)

    def _joined(self) -> Future[None]:
        with self._lock:
            future = self._next
            if future is None:
                if self._running < LANES[self._lane]:
                    self._threads.submit(self._run, lane=self._lane)
                    self._running += 1
                future = self._next = Future()
            return future

    def _run(self) -> None:
        while True:
            with self._lock:
                future, self._next = self._next, None
                if future is None:
                    self._running -= 1
                    return
            try:
                self._function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)


def quietly(function: Callable[[], None]) -> None:
    """Call `function`, and drop its error: no task waits for the result."""
    with suppress(Exception):
        function()
