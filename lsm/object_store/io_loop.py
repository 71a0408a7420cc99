"""fsspec's event loop, on which async file systems run: one per process, shared with the application.

`ready_loop` ensures two things before the loop is used. First, the loop's thread runs: fsspec keeps a loop whose thread could
not be started, and every call would wait for it. Second, host names can be looked up after the main thread has ended: asyncio
does that in an executor of concurrent.futures, which accepts no calls by then.

fsspec is imported in functions: programs on files do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from lsm.concurrency.threads import ThreadPool
from lsm.errors import UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

LOOKUPS_MAX: Final = 8
"""Maximum host names looked up at a time."""


class LoopThreads(ThreadPoolExecutor):
    """A `ThreadPool` for an event loop. An event loop only accepts subclasses of `ThreadPoolExecutor`."""

    def __init__(self) -> None:
        self._pool = ThreadPool("lsm-lookup", LOOKUPS_MAX)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def ready_loop() -> None:
    """Start the loop if it does not run. Raises: UnavailableError if the system refuses this process another thread."""
    from fsspec import asyn

    _forget_dead_loop()  # The application may have failed to start the thread earlier.
    try:
        loop: Any = asyn.get_loop()
    except (RuntimeError, MemoryError) as error:
        _forget_dead_loop()
        raise UnavailableError(
            f"the thread for requests could not be started ({error}): raise the limit on threads (`ulimit -u`, pids.max of "
            "the cgroup) or end others, then call again"
        ) from error
    # An executor that the application set stays. asyncio makes its own executor when it first needs one.
    executor = getattr(loop, "_default_executor", None)
    if executor is None or type(executor) is ThreadPoolExecutor:
        loop.set_default_executor(LoopThreads())


def _forget_dead_loop() -> None:
    from fsspec import asyn

    with asyn.get_lock():  # The lock's holder may be about to start the thread.
        if asyn.loop[0] is not None and asyn.iothread[0] is None:
            asyn.loop[0].close()
            asyn.loop[0] = None
