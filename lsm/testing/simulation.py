"""A simulation for your own tests: processes that share one bucket, under one seed.

>>> from opendata_log import LogDbBuilder
>>> def life(runtime, store):
...     builder = LogDbBuilder(storage="memory://").with_object_store(store).with_runtime(runtime)
...     with builder.build() as log:
...         log.try_append([(b"orders", b"created")])
...         return log.scan(b"orders").fetchall()
>>> with Simulation(seed=7) as simulation:
...     simulation.bucket.faults.probability = 0.1
...     simulation.run(life)
[LogEntry(key=b'orders', sequence=0, value=b'created')]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lsm.object_store.contract import ObjectStore
from lsm.testing.scheduler import ProcessKilled, Scheduler
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import Faults, SimulatedBucket

T = TypeVar("T")
Life = Callable[[SimulatedRuntime, ObjectStore], T]
"""A process's main function. It must open its handles with the runtime and the store that it gets."""


class Started(Generic[T]):
    """A simulated process."""

    def __init__(self, simulation: Simulation, name: str, life: Life[T]) -> None:
        self.runtime = SimulatedRuntime(simulation.scheduler, simulation.scheduler.process(name))
        self._scheduler = simulation.scheduler
        self._store = simulation.bucket.client(self.runtime.process)
        self._life = life
        self._result: T
        self._error: BaseException | None = None
        self._task = self._scheduler.spawn(name, self._live, self.runtime.process)

    def _live(self) -> None:
        try:
            self._result = self._life(self.runtime, self._store)
        except ProcessKilled:
            raise
        except BaseException as error:
            self._error = error

    @property
    def is_dead(self) -> bool:
        """Whether the process was killed, by `kill` or by a fault."""
        return self.runtime.process.is_dead

    def kill(self) -> None:
        """Kill the process now. Its threads stop, and data that it did not store is lost."""
        self._scheduler.kill(self.runtime.process)

    def join(self, timeout: float | None = None) -> T:
        """Wait for the process's end, up to `timeout` virtual seconds. Return its result.

        Raises: the exception of its function; TimeoutError; ProcessKilled.
        """
        self._task.join(timeout)
        if self._task.is_alive():
            raise TimeoutError(f"{self._task.name} did not end within {timeout} virtual seconds")
        if self.is_dead:
            raise ProcessKilled(self._task.name)
        if self._error is not None:
            raise self._error
        return self._result


class Simulation:
    """One seed, one bucket and virtual time. Close it in the thread that made it."""

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.scheduler = Scheduler(seed)
        self.bucket = SimulatedBucket(self.scheduler, faults)

    def start(self, life: Life[T], *, name: str = "process") -> Started[T]:
        """Start a process. It runs while the caller waits in `join`, `run` or `sleep`."""
        return Started(self, name, life)

    def run(self, life: Life[T], *, name: str = "process") -> T:
        """Start a process and wait for its end."""
        return self.start(life, name=name).join()

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.scheduler.wait(seconds)

    def close(self) -> None:
        """End every process."""
        self.scheduler.shut_down()

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
