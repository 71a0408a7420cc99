"""fsspec's event loop, on which the file systems behind servers run: one for the process, shared with the application.

Two things are seen to before it is used. Its thread runs: fsspec keeps a loop whose thread could not be started, and every call
waits for it. And it can look up the names of servers when the main thread has ended: asyncio does that in an executor of
concurrent.futures, which takes nothing more then.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from fsspec import asyn

from lsm.concurrency.threads import ThreadPool
from lsm.errors import UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

LOOKUPS_MAX: Final = 8
"""Names looked up at a time."""


class LoopThreads(ThreadPoolExecutor):
    """A `ThreadPool` for an event loop, which takes only executors of this class."""

    def __init__(self) -> None:
        self._pool = ThreadPool("lsm-lookup", LOOKUPS_MAX)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def ready_loop() -> None:
    """Start the loop, where it does not run. Raises: UnavailableError: the system gives this process no further thread."""
    _forget_dead_loop()  # Its thread was refused to somebody else.
    try:
        loop: Any = asyn.get_loop()
    except (RuntimeError, MemoryError) as error:
        _forget_dead_loop()
        raise UnavailableError(
            f"the thread for requests could not be started ({error}): raise the limit on threads (`ulimit -u`, pids.max of "
            "the cgroup) or end others, then call again"
        ) from error
    # An executor that the application has set stays. asyncio's own is made when it is first needed.
    executor = getattr(loop, "_default_executor", None)
    if executor is None or type(executor) is ThreadPoolExecutor:
        loop.set_default_executor(LoopThreads())


def _forget_dead_loop() -> None:
    with asyn.get_lock():  # Whoever holds it may be about to start the thread.
        if asyn.loop[0] is not None and asyn.iothread[0] is None:
            asyn.loop[0].close()
            asyn.loop[0] = None
