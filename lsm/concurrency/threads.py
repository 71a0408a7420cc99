"""The engine's own pool of threads.

Source: concurrent.futures.ThreadPoolExecutor, with two differences. That class refuses calls once the main thread has ended,
although the program's other threads go on; and if it cannot start a thread, the call stays in its queue.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread
from typing import Any, ParamSpec, TypeVar

from lsm.errors import UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Quiet:
    """Disables Python's cyclic garbage collector while threads are being started.

    A thread's starter may hold locks, and waits until the new thread runs. If the collector ran finalizers in the new thread
    before that, they would wait for those locks.
    """

    def __init__(self) -> None:
        self._starting = 0
        self._lock = RLock()

    def start(self, thread: Thread) -> None:
        with self._lock:
            if self._starting == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._starting += 1
        try:
            thread.start()
        finally:
            with self._lock:
                self._starting -= 1
                if self._starting == 0 and self._was_enabled:
                    gc.enable()


start_quietly = _Quiet().start


def start_thread(name: str, target: Callable[..., None], *arguments: Any) -> Thread:
    """Start a daemon thread. Raises: UnavailableError if the system refuses this process another thread."""
    thread = Thread(target=target, args=arguments, name=name, daemon=True)
    try:
        start_quietly(thread)
    except (RuntimeError, MemoryError) as error:
        raise UnavailableError(
            f"thread {name} could not be started ({error or 'out of memory'}): raise the limit on threads "
            "(`ulimit -u`, pids.max of the cgroup) or end others, then call again"
        ) from error
    return thread


class ThreadPool(Executor):
    """Runs calls in up to `count` daemon threads. Each starts when it is first needed."""

    def __init__(
        self, name: str, count: int, around: Callable[[Callable[..., None]], Callable[..., None]] | None = None
    ) -> None:
        """`around`: a decorator for the function that each thread runs; None: no decorator."""
        self._name = name
        self._serve = _serve if around is None else around(_serve)
        self._count = count
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._idle: deque[None] = deque()
        """One entry per thread that waits for a call. `append` and `pop` are atomic, so a signal handler may submit."""
        self._threads: list[Thread] = []
        self._lock = RLock()
        self._is_shut = False
        # The threads refer to the queue, not to the pool. So a pool that nothing refers to is freed, and its threads end.
        weakref.finalize(self, self._calls.put, None).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call. Raises: UnavailableError: there is no thread, and none could be started; the call is not made."""
        future: Future[T] = Future()
        if not self._is_shut:
            self._calls.put((future, fn, args, kwargs))
        # Checked again: a call queued behind the end mark of a shutdown would never run.
        if self._is_shut and future.cancel():
            raise RuntimeError(f"{self._name}: no calls are taken after the shutdown")
        try:
            self._idle.pop()
        except IndexError:
            try:
                self._add_thread()
            except UnavailableError:
                if not self._threads and future.cancel():
                    raise
        return future

    def _add_thread(self) -> None:
        with self._lock:
            at = len(self._threads)
            if at < self._count:
                self._threads.append(start_thread(f"{self._name}_{at}", self._serve, self._calls, self._idle))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut = True
        if cancel_futures:
            with contextlib.suppress(Empty):
                while True:
                    call = self._calls.get_nowait()
                    if call is not None:
                        call[0].cancel()
        self._calls.put(None)
        if wait:
            for thread in list(self._threads):
                if thread is not current_thread():
                    thread.join()


def _serve(calls: SimpleQueue[_Call | None], idle: deque[None]) -> None:
    """Make calls until there is an end mark. Put the mark back for the other threads."""
    while True:
        try:
            call = calls.get_nowait()
        except Empty:
            idle.append(None)
            call = calls.get()
        if call is None:
            calls.put(None)
            return
        _make(*call)
        del call  # Its arguments may be large, and the wait for the next call may be long.


def _make(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        future.set_exception(error)
        del (
            future,
            args,
            kwargs,
        )  # The error's traceback keeps this frame, and the frame must not keep the error or the arguments.
    else:
        future.set_result(result)


def call_here(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Make the call in this thread, and return a future as an executor does."""
    future: Future[T] = Future()
    _make(future, function, arguments, {})
    return future
