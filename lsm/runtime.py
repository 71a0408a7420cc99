"""The seam for time, randomness and threads: other modules use them through a `Runtime`.

So a simulator can run the same blocking code under a seeded scheduler and a virtual clock. Production uses the interpreter's
own threads and clocks.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol, TypeVar

from lsm.concurrency.locks import LONG, SHORT, Condition, Locks
from lsm.concurrency.threads import ThreadPool, call_here, start_thread
from lsm.errors import InvalidError, UnavailableError

T = TypeVar("T")

# Not `time.monotonic`, because test suites freeze that one, and waits must end all the same.
_monotonic: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "CLOCK_MONOTONIC") else time.monotonic
)

WAIT_MAX: Final = min(1e9, threading.TIMEOUT_MAX)
"""Maximum seconds per wait, as locks accept no more: thirty years, or less if the system's limit is lower."""
TIME_MS_MAX: Final = 1 << 62
"""Maximum milliseconds before or after the epoch that a clock may give, so that sums of times can be stored."""

NODE_CHARACTERS: Final = 255
IO_THREADS = 16
"""Maximum requests per handle at a time, apart from those of its other threads."""


class Clock(Protocol):
    """A wall clock, in milliseconds since the epoch. It may jump; no protection of data relies on it."""

    def now_ms(self) -> int: ...


class Task(Protocol):
    """A running background thread."""

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...


class Runtime:
    """Threads, locks, clocks and randomness of the real machine."""

    is_simulated = False

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._pool: Executor | None = None
        self._locks = Locks()
        self._pool_lock = self._locks.lock(SHORT)
        self.pid = os.getpid()
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def has_clock(self) -> bool:
        """Whether the application passed a wall clock."""
        return self._clock is not None

    # -- time -----------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return wall-clock milliseconds since the epoch. Raises: InvalidError if the application's clock gives a bad time."""
        if self._clock is None:
            return time.time_ns() // 1_000_000
        found = self._clock.now_ms()
        if type(found) is not int or not -TIME_MS_MAX <= found <= TIME_MS_MAX:
            raise InvalidError(f"a clock's now_ms() must give milliseconds as an int of 62 bits, got {found!r}")
        return found

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes backwards."""
        return _monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def hand_over(self) -> None:
        """Let another thread run now. Long pure-Python work calls it between slices."""
        time.sleep(0)

    # -- randomness -----------------------------------------------------------------------------------------------

    def random_bytes(self, size: int) -> bytes:
        return os.urandom(size)

    def jitter(self) -> float:
        """Return a random number in [0, 1), which spreads retries out."""
        return random.random()

    # -- threads --------------------------------------------------------------------------------------------------

    def lock(self, rank: int = SHORT) -> Any:
        """Make a lock that refuses the thread that holds it. `rank`: see `concurrency/locks`."""
        return self._locks.lock(rank)

    def long_lock(self) -> Any:
        """Make a lock that may be held during a request."""
        return self.lock(LONG)

    def condition(self, lock: Any = None) -> Any:
        return Condition(lock if lock is not None else self.lock())

    def gate(self) -> Any:
        """Make a closed gate. Each `release` lets one `acquire` pass.

        Any thread and any signal handler may call `release`. Releasing an open gate raises RuntimeError.
        """
        gate = threading.Lock()
        gate.acquire()
        return gate

    def thread_id(self) -> int:
        return threading.get_ident()

    @property
    def obliged(self) -> dict[int, FrameType]:
        """As `Locks.obliged`. Threads add and remove their own entries."""
        return self._locks.obliged

    def check_waiting(self) -> None:
        """As `Locks.check_waiting`."""
        self._locks.check_waiting()

    def check_outside(self) -> None:
        """As `Locks.check_outside`."""
        self._locks.check_outside()

    def spawn(self, name: str, target: Callable[[], None]) -> Task:
        """Run `target` in a daemon thread. `target` must not raise; it reports failures to its owner.

        Raises: UnavailableError if the system refuses this process another thread.
        """
        return start_thread(name, _marked(target, self._locks.own_threads))

    def check_process(self) -> None:
        """As `Locks.check_process`."""
        self._locks.check_process()

    def map(self, function: Callable[..., T], *columns: Sequence[Any], width: int = IO_THREADS) -> list[T]:
        """Call `function` for each row of `columns`, up to `width` at a time. Return the results in order, or raise the first
        row's error."""
        rows = list(zip(*columns, strict=True))
        if len(rows) <= 1 or width <= 1:
            return [function(*row) for row in rows]
        self._locks.check_held()
        futures = [self.submit(function, *row) for row in rows]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call `function`, which makes requests, in an I/O thread. The caller may wait for the future, cancel it, or ignore it.

        If no thread can be started, the function runs at once, in the caller's thread.
        """
        self._locks.check_held()
        try:
            return self._io_pool().submit(function, *arguments)
        except UnavailableError:
            return call_here(function, *arguments)

    def process_name(self) -> str:
        """Return machine name and process id, for people. The text is stored, so it is cut and made valid UTF-8."""
        machine = platform.node()[:NODE_CHARACTERS].encode("utf-8", "replace").decode()
        return f"{machine}:{self.pid}"

    def executor(self, name: str, threads: int) -> Executor:
        """Make a pool of threads for long jobs. They go on when the main thread ends."""
        locks = self._locks
        return ThreadPool(name, threads, lambda serve: _marked(serve, locks.own_threads, locks.obliged))

    def _io_pool(self) -> Executor:
        with self._pool_lock:
            if self._pool is None:
                self._pool = self.executor("lsm-io", IO_THREADS)
            return self._pool

    def close(self) -> None:
        """Stop the I/O pool. Idempotent."""
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            with contextlib.suppress(RuntimeError):
                pool.shutdown(wait=False, cancel_futures=True)


def _marked(
    target: Callable[..., None], own: set[int], obliged: dict[int, FrameType] | None = None
) -> Callable[..., None]:
    """Return `target` for one of our threads. The thread is marked while it runs, because a finalizer that runs in it must
    not wait for it."""

    def run(*arguments: Any) -> None:
        me = threading.get_ident()
        own.add(me)
        if obliged is not None:
            obliged[me] = sys._getframe()
        try:
            target(*arguments)
        finally:
            own.discard(me)
            if obliged is not None:
                obliged.pop(me, None)

    return run
