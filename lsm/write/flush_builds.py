"""Write walk, after `write/flush`, before `write/level0_tables`: where the tables of a frozen memtable are built.

A worker process builds a large memtable from the log, so that the writer's interpreter keeps its core. A thread builds a small
memtable, and any memtable that workers cannot read. If a worker fails, a thread builds the same memtable again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final

import msgspec

from lsm.concurrency.threads import call_here
from lsm.errors import UnavailableError
from lsm.manifest.table_ids import TableIds
from lsm.object_store.reliable import ReliableStore
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.sst.table_rules import Rules
from lsm.wal.log import WriteAheadLog
from lsm.workers.dispatch import Elsewhere
from lsm.workers.pool import StoreAddress, process_runtime
from lsm.write.level0_tables import Built, FlushJob, flush_from_log, flush_memtable

TABLES_PER_FLUSH_MAX: Final = 1 << 16
WORKER_BYTES_MIN: Final = 8 << 20
"""Minimum size of a memtable that a worker builds. For a smaller one, starting a worker would take longer than a thread."""


def flush_in_worker(store: StoreAddress, wal_store: StoreAddress, job: FlushJob) -> Built:
    """Run a flush job in a worker process."""
    return flush_from_log(store.open(), wal_store.open(), process_runtime(), job)


class Build(msgspec.Struct):
    """A memtable whose tables are being built."""

    table: Memtable
    job: FlushJob
    future: Future[Built]
    is_elsewhere: bool

    @property
    def first_number(self) -> int:
        """The first table number reserved for this build."""
        return self.job.table_ids[0]


class BuildPlaces(msgspec.Struct, frozen=True):
    """Where tables can be built."""

    threads: Executor
    workers: Elsewhere | None
    """Worker processes; `None`: threads build every memtable."""
    addresses: tuple[StoreAddress, StoreAddress] | None
    """How a worker opens the store and the log's store; `None` if it cannot open both."""
    worker_slots: int
    """A worker gets a memtable only while fewer than this number are being built."""


class TableBuilds:
    """Starts the builds of memtables. Only the flush thread uses it, except for `warm_up`."""

    def __init__(
        self,
        runtime: Runtime,
        lock: Any,
        *,
        store: ReliableStore,
        wal: WriteAheadLog | None,
        rules: Rules,
        epoch: int,
        places: BuildPlaces,
        snapshots: Callable[[], tuple[int, ...]],
        table_ids: TableIds,
    ) -> None:
        """`lock`: the write lock. `wal`: `None` if the log is disabled."""
        self._runtime = runtime
        self._lock = lock
        self._store = store
        self._wal = wal
        self._rules = rules
        self._epoch = epoch
        self._places = places
        self._snapshots = snapshots
        self._table_ids = table_ids

    def start(self, table: Memtable, *, under_way: int) -> Build:
        """Wait until the log covers the memtable's batches (rule F1), then start to build it.

        `under_way`: memtables that are being built already. Raises: UnavailableError if the log cannot be written.
        """
        if self._wal is not None:
            self._wal.wait_durable(table.last_seq)
        job = self._plan(table)
        is_large = self._has_workers and table.size >= WORKER_BYTES_MIN
        is_elsewhere = is_large and bool(job.wal_last) and under_way < self._places.worker_slots
        future = self._submit_to_worker(job) if is_elsewhere else self._submit_here(table, job)
        return Build(table, job, future, is_elsewhere)

    def again_here(self, build: Build, error: BaseException) -> Build:
        """Build the memtable of a failed worker again, in this process. Every error of a worker leads here: if the memtable
        itself is the cause, this build fails, too.

        The new build gets new table numbers, because the worker may still write tables under the old ones.
        A worker's failure to read the log is no proof of damage. An earlier commit of this memtable may have succeeded with
        its reply lost; then another process's collector may have deleted the log objects.
        """
        assert self._places.workers is not None
        self._places.workers.failed(error)
        job = self._plan(build.table)
        return Build(build.table, job, self._submit_here(build.table, job), is_elsewhere=False)

    def release(self, build: Build) -> None:
        """Release the build's table numbers. Requires: its tables are in the manifest, or never will be."""
        self._table_ids.release(build.first_number)

    def warm_up(self) -> None:
        """Start a worker, because a large memtable is expected soon. Never raises."""
        workers = self._places.workers
        if workers is not None and self._has_workers:
            workers.submit(int).add_done_callback(lambda done: _warmed_up(workers, done))

    @property
    def _has_workers(self) -> bool:
        places = self._places
        return places.workers is not None and places.addresses is not None and places.workers.is_open

    def _submit_to_worker(self, job: FlushJob) -> Future[Built]:
        assert self._places.workers is not None
        assert self._places.addresses is not None
        return self._places.workers.submit(flush_in_worker, *self._places.addresses, job)

    def _submit_here(self, table: Memtable, job: FlushJob) -> Future[Built]:
        try:
            return self._places.threads.submit(flush_memtable, self._store, self._runtime, table, job)
        except UnavailableError:  # No thread can be started, so this one builds.
            return call_here(flush_memtable, self._store, self._runtime, table, job)

    def _plan(self, table: Memtable) -> FlushJob:
        with self._lock:
            if self._wal is not None:
                found = self._wal.objects_between_locked(table.first_seq, table.last_seq)
                if found is not None:
                    if not table.wal_first:
                        table.wal_first, table.wal_floor = found[0], self._epoch
                    table.wal_last, table.wal_epoch = found[1], self._epoch
        first_number = self._table_ids.take(TABLES_PER_FLUSH_MAX)
        return FlushJob(
            rules=self._rules,
            wal_first=table.wal_first,
            wal_last=table.wal_last,
            epoch_floor=table.wal_floor,
            first_seq=table.first_seq,
            last_seq=table.last_seq,
            snapshots=self._snapshots(),
            table_ids=(first_number, first_number + TABLES_PER_FLUSH_MAX),
        )


def _warmed_up(workers: Elsewhere, done: Future[int]) -> None:
    """Report a worker that could not be started."""
    if not done.cancelled() and (error := done.exception()) is not None:
        workers.failed(error)
