"""Opening, second part: the threads and processes of a handle, and where its compactions run."""

from __future__ import annotations

from concurrent.futures import Executor

from lsm.compaction.leveled import LeveledScheduler
from lsm.compaction.plan import CompactionScheduler
from lsm.compaction.space_schedulers import FirstOf, TombstoneTrigger
from lsm.compaction.workplace import Workplace
from lsm.components import Components, Stores
from lsm.errors import InvalidError
from lsm.runtime import Runtime
from lsm.settings import Settings
from lsm.sst.table_rules import Rules
from lsm.workers.dispatch import Elsewhere
from lsm.workers.pool import StoreAddress, WorkerProcesses, can_pickle, shares_process

COMPACTION_NICENESS = 10
"""Niceness of compaction workers. Compaction can wait; the writer and the builds of level-0 tables cannot."""


class Executors:
    """The executors that a handle has started and must shut down."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._started: list[Executor] = []

    def threads(self, name: str, count: int) -> Executor:
        return self._own(self._runtime.executor(name, count))

    def processes(
        self, placement: str, address: StoreAddress | None, count: int, *, job: str, niceness: int = 0
    ) -> Elsewhere | None:
        """Return worker processes, or `None` for threads.

        Raises: InvalidError: `placement` is "process", but other processes cannot open the store.
        """
        if placement == "process" and address is None:
            raise InvalidError(
                "placement 'process': no other process can open this store, or the extractor, layout or options cannot "
                "be pickled; use 'auto' or 'thread'"
            )
        if placement == "thread" or address is None:
            return None
        # Each attempt of a request is a sign of life, so a worker that is silent for the time of a whole operation is dead.
        workers = self._own(WorkerProcesses(count, niceness=niceness, silence_max=address.op_timeout))
        return Elsewhere(workers, self._runtime, job=job, url=address.spec.url)

    def _own(self, executor: Executor) -> Executor:
        self._started.append(executor)
        return executor

    def shut_down(self) -> None:
        """Cut off calls in processes; wait for calls in threads."""
        for executor in self._started:
            if isinstance(executor, WorkerProcesses):
                executor.shutdown(wait=False)
            else:
                executor.shutdown(wait=True, cancel_futures=True)


def worker_address(stores: Stores, rules: Rules) -> StoreAddress | None:
    """How a worker process opens the tables' store; `None` if it cannot, or if the rules cannot be pickled."""
    return stores.address(stores.main) if can_pickle(rules) else None


def compaction_workplace(
    executors: Executors, runtime: Runtime, settings: Settings, parts: Components, stores: Stores, rules: Rules
) -> Workplace:
    """Return the place where compactions run. Raises: InvalidError if the caller's executor cannot open the store."""
    address = worker_address(stores, rules)
    slots = max(2, settings.compaction_workers)
    given = parts.compaction_executor
    workers: Elsewhere | None = None
    threads: Executor
    if given is not None and shares_process(given):
        threads = given
    else:
        threads = executors.threads("lsm-merge", slots)
        if given is None:
            workers = executors.processes(
                settings.compaction_placement, address, slots, job="compaction", niceness=COMPACTION_NICENESS
            )
        elif address is None:
            raise InvalidError(
                f"compaction_executor: no other process can open {stores.main.url}, or the extractor, layout or options "
                "cannot be pickled; hand in an executor of threads, or none"
            )
        else:
            workers = Elsewhere(given, runtime, job="compaction", url=stores.main.url)
    return Workplace(
        runtime,
        stores.main,
        threads=threads,
        workers=workers,
        address=address,
        slots=slots,
        stall_seconds=settings.compaction_stall_timeout,
    )


def scheduler_of(settings: Settings, parts: Components) -> CompactionScheduler:
    """Return the caller's scheduler, or the default policy."""
    if parts.scheduler is not None:
        return parts.scheduler
    leveled = LeveledScheduler(
        l0_min=settings.l0_compaction_min,
        l0_max=settings.l0_compaction_max,
        base_bytes=settings.level_base_bytes,
        ratio=settings.level_size_ratio,
    )
    return FirstOf((leveled, TombstoneTrigger()))
