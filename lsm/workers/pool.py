"""An executor of worker processes, and the way in which their jobs reach the stores.

A worker's failure only costs speed. The future of `submit` raises, and the caller runs the job in a thread, with new table
numbers. Tables that the failed worker may still write are garbage, because nothing refers to them (rule G3).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from threading import Lock, local
from typing import Any, Final, ParamSpec, TypeVar

from lsm.concurrency.threads import ThreadPool
from lsm.object_store.contract import StoreSpec
from lsm.object_store.open import open_store
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.workers.channel import Worker

P = ParamSpec("P")
T = TypeVar("T")

SILENCE_SECONDS: Final = 60.0
SILENCE_SECONDS_MIN: Final = 2.0
"""Seconds that an interpreter's start takes on a busy machine."""


class WorkerProcesses(Executor):
    """Runs calls in `count` processes. Each starts when it is first needed. Functions and arguments are pickled.

    `niceness`: the processes' niceness, as in nice(1). `silence_max`: seconds without progress after which a worker is
    killed and its call raises BrokenExecutor.
    """

    def __init__(self, count: int, *, niceness: int = 0, silence_max: float = SILENCE_SECONDS) -> None:
        self._niceness = niceness
        self._silence_max = max(silence_max, SILENCE_SECONDS_MIN)
        self._threads = ThreadPool("lsm-worker", count)
        self._mine = local()
        self._lock = Lock()
        self._workers: list[Worker] = []
        self._is_cut_off = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._threads.submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        worker: Worker | None = getattr(self._mine, "worker", None)
        try:
            if worker is not None and not worker.is_alive:  # It died while it was idle, so no call failed.
                self._drop(worker)
                worker = None
            if worker is None:
                worker = self._mine.worker = Worker(niceness=self._niceness, silence_max=self._silence_max)
                self._keep(worker)
                worker.greet()
            return worker.call(fn, args, kwargs)
        except BrokenExecutor:
            if worker is not None:
                worker.kill()
                self._drop(worker)
            raise

    def _keep(self, worker: Worker) -> None:
        with self._lock:
            self._workers.append(worker)
            if self._is_cut_off:
                worker.kill()

    def _drop(self, worker: Worker) -> None:
        self._mine.worker = None
        with self._lock:
            if worker not in self._workers:
                return
            self._workers.remove(worker)
        worker.stop()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the workers. Without `wait`, running calls are cut off, and nothing refers to their outputs."""
        if not wait:
            with self._lock:
                self._is_cut_off = True
                for worker in self._workers:
                    worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()


# -- stores, in the process that runs the job -------------------------------------------------------------------------


class StoreAddress:
    """How a job opens a store in another process. Picklable."""

    def __init__(self, spec: StoreSpec, *, op_timeout: float, request_timeout: float, single_writer: bool) -> None:
        self.spec = spec
        self.op_timeout = op_timeout
        self.request_timeout = request_timeout
        self.single_writer = single_writer

    def open(self) -> ReliableStore:
        """Return the store. It is opened once per process and address."""
        key = pickle.dumps((self.spec.url, dict(self.spec.storage_options), self.op_timeout, self.request_timeout))
        if key not in _opened or _opened[key].store.is_replaced():
            store = open_store(
                self.spec.url,
                self.spec.storage_options,
                assume_single_writer=self.single_writer,
                request_timeout=self.request_timeout,
                may_create=False,
            )
            _opened[key] = ReliableStore(
                store, process_runtime(), op_timeout=self.op_timeout, request_timeout=self.request_timeout
            )
        return _opened[key]


_opened: dict[bytes, ReliableStore] = {}
_runtime: list[WorkerRuntime] = []


class WorkerRuntime(Runtime):
    """The runtime of a worker process. It counts the steps of a job as signs of progress.

    `hand_over` does not yield: no other thread waits for this interpreter, and yielding costs a system call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def hand_over(self) -> None:
        self.steps += 1

    def monotonic(self) -> float:
        self.steps += 1  # Each attempt at a request reads the time.
        return super().monotonic()


def process_runtime() -> WorkerRuntime:
    """Return the worker process's only runtime."""
    if not _runtime:
        _runtime.append(WorkerRuntime())
    return _runtime[0]


def shares_process(executor: Executor) -> bool:
    """Whether `executor` runs calls in this process, so that nothing is pickled."""
    # Compared by name, because importing concurrent.futures.thread fails after the main thread has ended.
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(executor).__mro__}
    return bool(kinds & {"concurrent.futures.thread.ThreadPoolExecutor", "lsm.concurrency.threads.ThreadPool"})


def can_pickle(thing: object) -> bool:
    """Whether `thing` can be sent to a worker process. A class of the user's main module cannot."""
    try:
        data = pickle.dumps(thing)
    except Exception:  # The object's own `__reduce__` may raise anything.
        return False
    return b"__main__" not in data
