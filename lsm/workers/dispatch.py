"""Decides whether jobs are sent to other processes: to our worker processes, or through the caller's executor.

A failure there must only cost speed. After one, jobs run in this process for a minute; after each further failure, longer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, TypeVar

from lsm.errors import UnavailableError
from lsm.observe.events import WORKERS_GIVEN_UP, reason, tell
from lsm.runtime import Runtime
from lsm.workers.channel import WorkerLostError

T = TypeVar("T")

PAUSE_SECONDS: Final = 60.0
PAUSE_SECONDS_MAX: Final = 3600.0


class Elsewhere:
    """An executor to which calls are sent pickled. Thread-safe.

    `job`, `url`: the kind of its jobs and the database, for the log line.
    """

    def __init__(self, executor: Executor, runtime: Runtime, *, job: str, url: str) -> None:
        self._executor = executor
        self._runtime = runtime
        self._job = job
        self._url = url
        self._lock = runtime.lock()
        self._failures = 0
        self._store_failures = 0
        self._closed_until = 0.0
        self.last_failure: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether the next job should be sent to the executor."""
        return not self._failures or self._runtime.monotonic() >= self._closed_until

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Submit a call and return its future. If the executor refuses the call, the future raises the executor's error."""
        try:
            future = self._executor.submit(function, *arguments)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[T]) -> None:
        if self.is_open and not future.cancelled() and future.exception() is None:
            self._failures = self._store_failures = 0

    def failed(self, error: BaseException) -> None:
        """Record that a job failed in the executor and runs in this process now. Jobs that fail together count once.

        An UnavailableError may come from a failing store, so the first one does not count. Two in a row mean that the worker
        cannot reach the store.
        """
        with self._lock:
            self._store_failures += isinstance(error, UnavailableError)
            if not self.is_open or (isinstance(error, UnavailableError) and self._store_failures < 2):
                return
            self._failures += 1
            pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * 2 ** (self._failures - 1))
            self._closed_until = self._runtime.monotonic() + pause
            self.last_failure = error
        why = str(error) if isinstance(error, WorkerLostError) else reason(error)
        tell(WORKERS_GIVEN_UP, url=self._url, job=self._job, reason=why)
