"""The seam for time, chance and threads: the only module of the engine that imports them.

Everything else receives a `Runtime`, so that a simulator can run the same blocking code under a seeded scheduler and
a virtual clock. Production uses the interpreter's own threads and locks, unwrapped.
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

# Test suites make `time.monotonic` stand still. This clock ends waits, and they must end all the same.
_monotonic: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "CLOCK_MONOTONIC") else time.monotonic
)

WAIT_MAX: Final = min(1e9, threading.TIMEOUT_MAX)
"""Seconds, some thirty years where the system allows it: locks take no longer waits."""
TIME_MS_MAX: Final = 1 << 62
"""No clock gives a time beyond it, before or after the epoch: sums of times still fit into what is stored."""

NODE_CHARACTERS: Final = 255
IO_THREADS = 16
"""Requests of one handle under way at a time, beside those of its own threads."""


class Clock(Protocol):
    """A wall clock, in milliseconds since the epoch. It may jump; nothing that protects data relies on it."""

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
        """A wall clock was handed in."""
        return self._clock is not None

    # -- time -----------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Wall-clock milliseconds since the epoch. Raises: InvalidError where a clock that was handed in gives no time."""
        if self._clock is None:
            return time.time_ns() // 1_000_000
        found = self._clock.now_ms()
        if type(found) is not int or not -TIME_MS_MAX <= found <= TIME_MS_MAX:
            raise InvalidError(f"a clock's now_ms() must give milliseconds as an int of 62 bits, got {found!r}")
        return found

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return _monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def hand_over(self) -> None:
        """Let another thread run now. Called between slices of long pure-Python work."""
        time.sleep(0)

    # -- chance ---------------------------------------------------------------------------------------------------

    def random_bytes(self, size: int) -> bytes:
        return os.urandom(size)

    def jitter(self) -> float:
        """A number in [0, 1) that spreads retries out."""
        return random.random()

    # -- threads --------------------------------------------------------------------------------------------------

    def lock(self, rank: int = SHORT) -> Any:
        """A lock that refuses the thread that holds it. `rank`: see `lsm.locks`."""
        return self._locks.lock(rank)

    def long_lock(self) -> Any:
        """One that may be held during a request."""
        return self.lock(LONG)

    def condition(self, lock: Any = None) -> Any:
        return Condition(lock if lock is not None else self.lock())

    def gate(self) -> Any:
        """A closed gate: `acquire` passes it once after each `release`, which any thread and any signal handler may call;
        releasing an open one raises RuntimeError."""
        gate = threading.Lock()
        gate.acquire()
        return gate

    def thread_id(self) -> int:
        return threading.get_ident()

    @property
    def obliged(self) -> dict[int, FrameType]:
        """As `Locks.obliged`. Threads enter and leave it themselves."""
        return self._locks.obliged

    def check_waiting(self) -> None:
        """As `Locks.check_waiting`."""
        self._locks.check_waiting()

    def check_outside(self) -> None:
        """As `Locks.check_outside`."""
        self._locks.check_outside()

    def spawn(self, name: str, target: Callable[[], None]) -> Task:
        """Run `target` in a daemon thread. The target must not raise: it reports failures to its owner itself.

        Raises: UnavailableError: the system gives this process no further thread.
        """
        return start_thread(name, _marked(target, self._locks.own_threads))

    def check_process(self) -> None:
        """As `Locks.check_process`."""
        self._locks.check_process()

    def map(self, function: Callable[..., T], *columns: Sequence[Any], width: int = IO_THREADS) -> list[T]:
        """Call `function` for each row of `columns`, up to `width` at a time; results in order, first error raised."""
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
        """Call `function` beside the caller, who may ask for its result, cancel it, or forget it. For requests.

        Where no thread can be started, it is called at once, by the caller.
        """
        self._locks.check_held()
        try:
            return self._io_pool().submit(function, *arguments)
        except UnavailableError:
            return call_here(function, *arguments)

    def process_name(self) -> str:
        """This process, for people: machine and process id. It is stored, so it is text whatever the machine is called."""
        machine = platform.node()[:NODE_CHARACTERS].encode("utf-8", "replace").decode()
        return f"{machine}:{self.pid}"

    def executor(self, name: str, threads: int) -> Executor:
        """Threads for jobs that take long. They go on when the main thread ends."""
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
    """`target` for a thread of ours, which is marked while it runs: a finalizer that runs in it must not wait for it."""

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
