"""Write walk, after `write/writer`: frozen memtables become level-0 tables, and the manifest says so.

docs/protocol.md, rules F1 to F3. Tables are built by an executor, several at a time; they are committed strictly in the order
of their batches, and only when the log covers them: otherwise a table could hold rows that a crash takes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import Any

import msgspec

from lsm.concurrency.threads import call_here
from lsm.errors import Error, FencedError, InternalError, UnavailableError, kept
from lsm.manifest.model import Manifest, Partition
from lsm.manifest.store import ManifestStore
from lsm.manifest.table_ids import TableNumbers
from lsm.object_store.reliable import ReliableStore
from lsm.observe.health import BackgroundHealth
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime, Task
from lsm.sst.spec import Rules
from lsm.view import LiveViews
from lsm.wal.log import WriteAheadLog
from lsm.workers.dispatch import Elsewhere
from lsm.workers.pool import StoreAddress, process_runtime
from lsm.write.level0 import Built, FlushJob, flush_from_log, flush_memtable
from lsm.write.writer import Writer

TABLES_PER_FLUSH_MAX = 1 << 16
WORKER_BYTES_MIN = 8 << 20
"""Smaller memtables are built in a thread: starting a worker would take longer."""
RETRY_SECONDS = 0.5
POLL_SECONDS = 0.5


def flush_in_worker(store: StoreAddress, wal_store: StoreAddress, job: FlushJob) -> Built:
    """What a worker process is sent."""
    return flush_from_log(store.open(), wal_store.open(), process_runtime(), job)


class Build(msgspec.Struct):
    """A memtable whose tables are being built."""

    table: Memtable
    job: FlushJob
    future: Future[Built]
    is_elsewhere: bool


class Flusher:
    """One background thread that hands frozen memtables out and commits what comes back."""

    def __init__(
        self,
        runtime: Runtime,
        lock: Any,
        *,
        store: ReliableStore,
        wal: WriteAheadLog,
        wal_enabled: bool,
        manifests: ManifestStore,
        views: LiveViews,
        rules: Rules,
        epoch: int,
        threads: Executor,
        workers: Elsewhere | None,
        addresses: tuple[StoreAddress, StoreAddress] | None,
        parallelism: int,
        slots: int,
        l0_max_ssts: int,
        stall_seconds: float,
        snapshots: Callable[[], tuple[int, ...]],
        numbers: TableNumbers,
        on_commit: Callable[[Manifest], None],
        health: BackgroundHealth,
    ) -> None:
        self._health = health
        self._runtime = runtime
        self._lock = runtime.condition(lock)
        self._store = store
        self._wal = wal
        self._wal_enabled = wal_enabled
        self._manifests = manifests
        self._views = views
        self._rules = rules
        self._epoch = epoch
        self._threads = threads
        self._workers = workers
        self._addresses = addresses
        self._parallelism = parallelism
        self._slots = slots
        self._l0_max = l0_max_ssts
        self._stall_seconds = stall_seconds
        self._snapshots = snapshots
        self._numbers = numbers
        self._on_commit = on_commit
        self._new_fences: tuple[int, ...] = ()
        self._building: deque[Build] = deque()
        self._is_draining = False
        self._is_closing = self._is_stepping = False
        self._failures = 0
        self._error: Error | None = None
        self._task: Task | None = None
        self._writer: Writer | None = None
        self.flushed_seq = manifests.current.last_seq

    def start(self, writer: Writer, new_fences: tuple[int, ...]) -> None:
        """Begin work. `new_fences` are log objects recovery found or made that no manifest lists yet."""
        self._writer = writer
        self._new_fences = new_fences
        self._task = self._runtime.spawn("lsm-flush", self._run)

    def wake(self, _done: object = None) -> None:
        """Something was frozen, built, or compacted. Requires: the write lock."""
        self._lock.notify_all()

    def wait_flushed(self, seq: int) -> None:
        """Return once batches up to `seq` are in committed tables.

        Raises: what stops the flush; UnavailableError where level 0 is full and nobody relieves it within `op_timeout`.
        """
        with self._lock:
            # What is under way may have begun in an outage that is over by now: where it fails, it is tried once more.
            failures = self._failures + bool(self._building or self._is_stepping)
            stalled_since: float | None = None
            while self.flushed_seq < seq:
                writer = self._writer
                if writer is not None and writer.poison is not None:
                    raise kept(writer.poison)
                if self._failures > failures and self._error is not None:
                    raise kept(self._error)
                if self._building or not self._is_level0_full():
                    stalled_since = None
                elif stalled_since is None:
                    stalled_since = self._runtime.monotonic()
                elif self._runtime.monotonic() - stalled_since >= self._stall_seconds:
                    raise UnavailableError(
                        f"level 0 is full ({self._l0_max} tables) and no compaction relieved it within "
                        f"{self._stall_seconds} s: see status() for refused or failing compactions"
                    )
                self._lock.wait(self._stall_seconds if stalled_since is not None else None)

    # -- the background thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    is_woken = True
                    while is_woken and not (self._is_closing or self._can_dispatch() or self._is_built()):
                        is_woken = self._lock.wait(POLL_SECONDS if self._is_stalled() else None)
                    if self._is_closing:
                        return
                    self._is_stepping = is_woken
                if is_woken:
                    self._step()
                    self._is_stepping = False
                else:
                    self._look_for_relief()
        except BaseException as error:
            if isinstance(error, Error):
                found = self._manifests.explain(error)
                failure = found if isinstance(found, FencedError) else error
            else:
                failure = InternalError(f"the flush thread failed: {error!r}")
            if failure is not error:
                failure.__cause__ = error
            self._fail(failure)

    def _frozen(self) -> tuple[Memtable, ...]:
        """Frozen tables, oldest first."""
        return self._views.current.memtables[:0:-1]

    def _can_dispatch(self) -> bool:
        waiting = self._frozen()[len(self._building) :]
        if not waiting or len(self._building) >= (self._parallelism if self._is_draining else self._slots):
            return False
        return self._is_draining or not self._is_level0_full()  # Closing does not wait for a compaction.

    def _is_level0_full(self) -> bool:
        partitions = self._views.current.manifest.partitions
        fullest = max((len(partition.l0) for partition in partitions), default=0)
        return fullest + len(self._building) >= self._l0_max

    def _is_stalled(self) -> bool:
        return len(self._views.current.memtables) > 1 and not self._building and self._is_level0_full()

    def _look_for_relief(self) -> None:
        """Level 0 is full: another process may compact, and nobody here hears of it."""
        try:
            manifest = self._manifests.poll()
        except (UnavailableError, OSError) as error:
            self._pause(error)
            return
        if manifest.number > self._views.current.manifest.number:
            self._on_commit(manifest)

    def _is_built(self) -> bool:
        return bool(self._building) and self._building[0].future.done()

    def _step(self) -> None:
        try:
            if self._can_dispatch():
                self._dispatch(self._frozen()[len(self._building)])
            if self._is_built():
                build = self._building[0]
                error = build.future.exception()
                if error is not None and build.is_elsewhere:
                    self._build_here(build, error)
                    return
                self._commit(build.table, build.future.result(), build.job.table_numbers[0])
                with self._lock:
                    self._building.popleft()
                    self._error = None
                    self._lock.notify_all()  # With nothing being built, level 0 may be full for whoever waits.
                self._numbers.release(build.job.table_numbers[0])
                self._health.succeeded("flush")
        except (UnavailableError, CancelledError, OSError, MemoryError) as error:
            self._health.failed("flush", error)
            self._pause(error)

    def _build_here(self, build: Build, error: BaseException) -> None:
        """A worker failed, in whatever way: build the same memtable in this process, where it fails again only for a reason of
        its own. Under new numbers, because the worker may still write under the old ones.

        Of a worker that cannot read the log the log may be right: a collector elsewhere took the objects if an earlier commit,
        whose reply was lost, counted.
        """
        assert self._workers is not None
        self._workers.failed(error)
        job = self._plan(build.table)
        future = self._submit_here(build.table, job)
        with self._lock:
            self._building[0] = Build(build.table, job, future, is_elsewhere=False)
        self._numbers.release(build.job.table_numbers[0])
        future.add_done_callback(self._built)

    def _pause(self, error: BaseException) -> None:
        """What was built and not committed is built again, under new numbers; the old tables become garbage."""
        for build in self._building:
            build.future.cancel()
            self._numbers.release(build.job.table_numbers[0])
        with self._lock:
            self._building.clear()
            self._failures += 1
            self._error = error if isinstance(error, Error) else UnavailableError(f"a flush failed: {error!r}")
            self._lock.notify_all()
            if not self._is_closing:
                self._lock.wait(RETRY_SECONDS)

    def _dispatch(self, table: Memtable) -> None:
        if self._wal_enabled:
            self._wal.wait_durable(table.last_seq)
        job = self._plan(table)
        is_large = self._has_workers and table.size >= WORKER_BYTES_MIN
        is_elsewhere = is_large and bool(job.wal_last) and len(self._building) < self._slots
        future = self._submit_to_worker(job) if is_elsewhere else self._submit_here(table, job)
        with self._lock:
            self._building.append(Build(table, job, future, is_elsewhere))
        future.add_done_callback(self._built)

    @property
    def _has_workers(self) -> bool:
        return self._workers is not None and self._addresses is not None and self._workers.is_open

    def _submit_to_worker(self, job: FlushJob) -> Future[Built]:
        assert self._workers is not None
        assert self._addresses is not None
        return self._workers.submit(flush_in_worker, *self._addresses, job)

    def _submit_here(self, table: Memtable, job: FlushJob) -> Future[Built]:
        try:
            return self._threads.submit(flush_memtable, self._store, self._runtime, table, job)
        except UnavailableError:  # No thread can be had: this one does it.
            return call_here(flush_memtable, self._store, self._runtime, table, job)

    def warm_up(self) -> None:
        """A large memtable is on its way: have a worker running by then. Never raises."""
        workers = self._workers
        if workers is not None and self._has_workers:
            workers.submit(int).add_done_callback(lambda done: _warmed_up(workers, done))

    def drain(self) -> None:
        """Nobody appends any more: the writer's own core may build tables, too."""
        with self._lock:
            self._is_draining = True
            self._lock.notify_all()

    def _built(self, _future: object) -> None:
        with self._lock:
            self.wake()

    def _plan(self, table: Memtable) -> FlushJob:
        with self._lock:
            if self._wal_enabled:
                found = self._wal.objects_between(table.first_seq, table.last_seq)
                if found is not None:
                    if not table.wal_first:
                        table.wal_first, table.wal_floor = found[0], self._epoch
                    table.wal_last, table.wal_epoch = found[1], self._epoch
        first_number = self._numbers.take(TABLES_PER_FLUSH_MAX)
        return FlushJob(
            rules=self._rules,
            wal_first=table.wal_first,
            wal_last=table.wal_last,
            epoch_floor=table.wal_floor,
            first_seq=table.first_seq,
            last_seq=table.last_seq,
            snapshots=self._snapshots(),
            table_numbers=(first_number, first_number + TABLES_PER_FLUSH_MAX),
        )

    def _commit(self, table: Memtable, built: Built, first_number: int) -> None:
        fences = self._new_fences

        def edit(manifest: Manifest) -> Manifest | None:
            flushed = with_flush(manifest, table, built, fences)
            return None if flushed is None else self._numbers.settle(flushed, committing=first_number)

        manifest = self._manifests.update(edit)
        self._new_fences = ()
        self._views.publish_flush(table, manifest)
        writer = self._writer
        assert writer is not None
        writer.release(table)
        with self._lock:
            self.flushed_seq = table.last_seq
            if not self._wal_enabled:
                self._wal.mark_durable(table.last_seq)
            self._lock.notify_all()
        self._on_commit(manifest)

    def _fail(self, error: Error) -> None:
        if self._writer is not None:
            self._writer.fail(error)
        self._health.stopped(error)
        with self._lock:
            self._lock.notify_all()

    def close(self) -> None:
        """Stop the thread. What is frozen stays in the log."""
        with self._lock:
            self._is_closing = True
            self._lock.notify_all()
        if self._task is not None:
            self._task.join()


def _warmed_up(workers: Elsewhere, done: Future[int]) -> None:
    """By now it is known whether workers can be started at all."""
    if not done.cancelled() and (error := done.exception()) is not None:
        workers.failed(error)


def with_flush(manifest: Manifest, table: Memtable, built: Built, fences: tuple[int, ...]) -> Manifest | None:
    """The manifest with a memtable's tables on top of their partitions; None where it has them already. Pure.

    Raises: UnavailableError: the tables' numbers were given up to the collector; build them again.
    """
    if manifest.last_seq >= table.last_seq:
        return None
    if any(manifest.is_given_up(info.number) for _, info in built):
        raise UnavailableError("the tables were built too long ago and may be collected: building them again")
    changed = manifest
    for prefix, info in built:
        partition = changed.partition(prefix) or Partition(prefix)
        ends = dict(partition.series_ends)
        ends.update((family, rows.next_number) for family, rows in table.series.items() if family.startswith(prefix))
        changed = changed.with_partition(
            msgspec.structs.replace(partition, l0=(info, *partition.l0), series_ends=tuple(sorted(ends.items())))
        )
    return msgspec.structs.replace(
        changed,
        last_seq=table.last_seq,
        replay_after=max(manifest.replay_after, table.wal_last),
        # Rule W4: the epoch reached at that object, not this writer's: older objects behind it must still count.
        wal_epoch_floor=max(manifest.wal_epoch_floor, table.wal_epoch),
        fences=tuple(sorted({*manifest.fences, *fences})),
    )
