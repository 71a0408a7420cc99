"""A `Runtime` with the threads, locks, clocks and randomness of a scheduler (scheduler.py)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from lsm.concurrency.locks import SHORT
from lsm.runtime import Runtime
from lsm.testing.scheduler import Process, ProcessKilled, Scheduler, Task

P = ParamSpec("P")
T = TypeVar("T")


class SimulatedRuntime(Runtime):
    """The runtime of one simulated process. Its tasks are killed with the process. Several runtimes share a scheduler."""

    is_simulated = True

    def __init__(self, scheduler: Scheduler, process: Process | None = None, *, cores: int = 2) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.process = process if process is not None else scheduler.process("process")
        self.cores = cores
        self.skew_ms = 0
        """Offset of this process's wall clock in milliseconds."""

    def now_ms(self) -> int:
        return self.scheduler.now_ms() + self.skew_ms

    def monotonic(self) -> float:
        return self.scheduler.monotonic()

    def sleep(self, seconds: float) -> None:
        self.scheduler.wait(seconds)

    def hand_over(self) -> None:
        self.scheduler.point()

    def random_bytes(self, size: int) -> bytes:
        return self.scheduler.random.randbytes(size)

    def jitter(self) -> float:
        return self.scheduler.random.random()

    def lock(self, rank: int = SHORT) -> Any:
        return SimulatedLock(self.scheduler, self.process)

    def gate(self) -> Any:
        gate = SimulatedLock(self.scheduler, self.process)
        gate.close()
        return gate

    def condition(self, lock: Any = None) -> Any:
        return SimulatedCondition(lock if lock is not None else self.lock())

    def spawn(self, name: str, target: Callable[[], None]) -> Task:
        self.scheduler.point()
        return self.scheduler.spawn(name, target, self.process)

    def process_name(self) -> str:
        return self.process.name

    def executor(self, name: str, threads: int) -> Executor:
        return SimulatedExecutor(self, name, threads)


class SimulatedLock:
    """A lock under the scheduler. Not reentrant. A woken waiter must try again, as with a real lock."""

    __slots__ = ("_is_held", "_process", "_scheduler", "_waiters")

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process
        self._is_held = False
        self._waiters: deque[Task] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = self._scheduler
        scheduler.steps += 1
        if scheduler.steps >= scheduler.next_decision:
            scheduler.decide()
        if self._process.is_dead:
            raise ProcessKilled(self._process.name)
        if self._is_held and (not blocking or not self._wait_until_free(None if timeout < 0 else timeout)):
            return False
        self._is_held = True
        return True

    def _wait_until_free(self, timeout: float | None) -> bool:
        scheduler = self._scheduler
        deadline = None if timeout is None else scheduler.monotonic() + timeout
        while self._is_held:
            left = None if deadline is None else deadline - scheduler.monotonic()
            if left is not None and left <= 0:
                return False
            me = scheduler.current
            self._waiters.append(me)
            if not scheduler.wait(left) and me in self._waiters:
                self._waiters.remove(me)
        return True

    def release(self) -> None:
        if self._process.is_dead:
            return  # The task is being unwound, and no task of its process can take the lock any more.
        if not self._is_held:
            raise RuntimeError("release of a lock that nobody holds")
        self.let_go()
        scheduler = self._scheduler
        scheduler.steps += 1
        if scheduler.steps >= scheduler.next_decision:
            scheduler.decide()

    def let_go(self) -> None:
        """Release without a scheduling point."""
        self._is_held = False
        if self._waiters:
            self._scheduler.make_ready(self._waiters.popleft())

    def locked(self) -> bool:
        return self._is_held

    def close(self) -> None:
        """Mark the lock as held, as a new gate is."""
        self._is_held = True

    def is_held_here(self) -> bool:
        """Return False: no signal handler or finalizer runs in a simulation."""
        return False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimulatedCondition:
    """A condition under the scheduler. Waiters are notified in their order; the scheduler chooses which one runs first."""

    __slots__ = ("_lock", "_scheduler", "_waiters", "acquire", "release")

    def __init__(self, lock: SimulatedLock) -> None:
        self._lock = lock
        self._scheduler = lock._scheduler
        self._waiters: deque[Task] = deque()
        self.acquire = lock.acquire
        self.release = lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = self._scheduler
        if not self._lock.locked():
            raise RuntimeError("wait on a condition whose lock nobody holds")
        me = scheduler.current
        self._waiters.append(me)
        self._lock.let_go()  # Not a scheduling point, because a notification before the wait would be lost.
        was_notified = scheduler.wait(timeout)
        if not was_notified and me in self._waiters:
            self._waiters.remove(me)
        self._lock.acquire()
        return was_notified

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        deadline = None if timeout is None else self._scheduler.monotonic() + timeout
        while not (found := predicate()):
            left = None if deadline is None else deadline - self._scheduler.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify(self, n: int = 1) -> None:
        if not self._lock.locked() and not self._lock._process.is_dead:
            raise RuntimeError("notify on a condition whose lock nobody holds")
        for _ in range(min(n, len(self._waiters))):
            self._scheduler.make_ready(self._waiters.popleft())

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


class SimulatedFuture(Future[T]):
    """A future whose `result` waits under the scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def result(self, timeout: float | None = None) -> T:
        self._wait(timeout)
        return super().result(timeout=0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait(timeout)
        return super().exception(timeout=0)

    def _wait(self, timeout: float | None) -> None:
        scheduler = self._scheduler
        scheduler.point()
        if not self.done():
            me = scheduler.current
            # One task runs at a time, so no task finishes this future between the check and the wait.
            self.add_done_callback(lambda _: scheduler.make_ready(me))
            scheduler.wait(timeout)


class SimulatedExecutor(Executor):
    """Runs calls in up to `threads` tasks of the process."""

    def __init__(self, runtime: SimulatedRuntime, name: str, threads: int) -> None:
        self._runtime = runtime
        self._name = name
        self._threads = threads
        self._calls: deque[tuple[SimulatedFuture[Any], Callable[[], Any]]] = deque()
        self._running: list[Task] = []
        self._is_shut = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        scheduler = self._runtime.scheduler
        scheduler.point()
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: SimulatedFuture[T] = SimulatedFuture(scheduler)
        self._calls.append((future, lambda: fn(*args, **kwargs)))
        if len(self._running) < self._threads:
            self._running.append(scheduler.spawn(self._name, self._work, self._runtime.process))
        return future

    def _work(self) -> None:
        scheduler = self._runtime.scheduler
        while self._calls:
            future, call = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                self._run(future, call)
            del future, call
            if self._calls:
                scheduler.point()
        self._running.remove(scheduler.current)

    @staticmethod
    def _run(future: SimulatedFuture[Any], call: Callable[[], Any]) -> None:
        try:
            result = call()
        except ProcessKilled:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut = True
        if cancel_futures:
            for future, _ in list(self._calls):
                future.cancel()
        if wait:
            for task in list(self._running):
                task.join()
