"""Threads of a handle, and the ways in which tasks share them.

A call in a thread cannot be cancelled, so each of these says what becomes of it when the task that waits for it is.
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
"""Threads at most, by what they do: calls that may take long do not keep reads and appends from running."""


class Threads:
    """Started when they are needed. Thread-safe."""

    def __init__(self) -> None:
        self._runtime = lsm.Runtime()
        self._lock = self._runtime.lock()
        self._lanes: dict[str, Executor] = {}
        self._is_stopped = False

    def lock(self) -> Any:
        return self._runtime.lock()

    def submit(self, function: Callable[..., T], *arguments: Any, lane: str = "work") -> Future[T]:
        """Raises: ClosedError after `stop`."""
        with self._lock:
            if self._is_stopped:
                raise ClosedError("the log is closed: open it again")
            executor = self._lanes.get(lane)
            if executor is None:
                executor = self._lanes[lane] = self._runtime.executor(f"log-aio-{lane}", LANES[lane])
            return executor.submit(function, *arguments)

    async def call(self, function: Callable[..., T], *arguments: Any, lane: str = "work") -> T:
        """Its result. Cancelled before it began, it does not begin; after that it goes on by itself."""
        try:
            future = self.submit(function, *arguments, lane=lane)
        except ClosedError:
            return function(*arguments)  # It says so itself, at once, in its own words.
        try:
            return await outcome(future)
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def make(self, function: Callable[[], T], discard: Callable[[T], None]) -> T:
        """As `call`; what is made when nobody waits for it any more is discarded."""
        future = self.submit(function)
        try:
            return await outcome(future)
        except asyncio.CancelledError:
            if not future.cancel():
                future.add_done_callback(lambda done: None if done.exception() else discard(done.result()))
            raise

    def stop(self) -> None:
        """Begin nothing more; the threads end when they have done what they were given."""
        with self._lock:
            self._is_stopped = True
            lanes = list(self._lanes.values())
        for executor in lanes:
            executor.shutdown(wait=False)


class Errand(Generic[T]):
    """Calls in a thread, one at a time, each of which is waited for to its end: by the task that began it, or, if that was
    cancelled, by the next one. So nothing that a call took out of an iterator is lost."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._under_way: Future[T] | None = None

    @property
    def is_under_way(self) -> bool:
        return self._under_way is not None

    async def run(self, function: Callable[[], T]) -> T:
        """The result of the call under way, or of this one."""
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
        """Call it when nothing is under way any more: now, or in the thread."""
        future = self._under_way
        if future is None:
            function()
        else:
            future.add_done_callback(lambda _: function())


class Shared:
    """A call that many wait for, such as a flush: who comes while it runs joins the next one. Any loop, any thread."""

    def __init__(self, threads: Threads, function: Callable[[], None], lane: str) -> None:
        self._threads = threads
        self._function = function
        self._lane = lane
        self._lock = threads.lock()
        self._next: Future[None] | None = None
        self._running = 0

    async def join(self) -> None:
        """Return after a call that began after this one. Being cancelled leaves it to the others."""
        try:
            joined = self._joined()
        except ClosedError:
            self._function()  # It says so itself, at once, in its own words.
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
    """For what nobody waits for."""
    with suppress(Exception):
        function()
