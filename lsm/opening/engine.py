"""Opening: assembles the parts of the write walk from settings and components."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lsm.checkpoint.clone import detach
from lsm.compaction.compactor import Compactor
from lsm.compaction.running_job import JobStatus, status_of
from lsm.components import Components, Stores, batch_bytes_max, table_format, table_reader
from lsm.concurrency.locks import WRITE
from lsm.errors import CorruptionError, Error, FencedError, SnapshotExpiredError, TableMissingError, out_of_memory
from lsm.gc.collector import GarbageCollector
from lsm.gc.policy import Garbage
from lsm.manifest.model import Manifest
from lsm.manifest.table_ids import TableIds
from lsm.observe import events
from lsm.observe.health import BackgroundHealth
from lsm.opening.executors import Executors, compaction_workplace, scheduler_of, worker_address
from lsm.opening.recovery import Identity, Recovered, open_database
from lsm.runtime import Runtime
from lsm.settings import Settings
from lsm.sst.table_rules import Rules
from lsm.view import LiveViews, OpenSnapshots, View
from lsm.wal.log import LogLimits, WriteAheadLog
from lsm.write.flush import Flusher, FlushLimits
from lsm.write.flush_builds import BuildPlaces, TableBuilds
from lsm.write.flush_commits import FlushCommits
from lsm.write.writer import WriteLimits, Writer


class Engine:
    """The running parts behind a `Db`."""

    def __init__(self, url: str, settings: Settings, parts: Components) -> None:
        self.settings = settings
        self.runtime = parts.runtime if parts.runtime is not None else Runtime(parts.clock)
        self.stores = Stores(url, settings, parts, self.runtime)
        self.health = BackgroundHealth(self.runtime, self.stores.main.url)
        self._executors = Executors(self.runtime)
        self.snapshots = OpenSnapshots(self.runtime)
        self._started: list[Callable[[], None]] = []
        """Functions that stop the parts that already run, in the order in which they must be called."""
        try:
            self._open(parts)
        except BaseException as error:
            if isinstance(error, CorruptionError):
                events.tell(events.CORRUPTION, url=self.stores.main.url, reason=events.reason(error))
            # If a thread cannot be started, the open fails, and the threads started before it must end.
            for stop in self._started:
                stop()
            self._shut_down()
            if isinstance(error, MemoryError):
                raise out_of_memory(f"{url} was not opened", error) from error
            raise

    def _open(self, parts: Components) -> None:
        settings = self.settings
        extractor, layout = parts.prefix_extractor, parts.series_layout
        recovered = open_database(
            self.stores.main,
            self.stores.wal,
            self.runtime,
            Identity(
                extractor.name if extractor is not None else "",
                layout.name if layout is not None else "",
                self.stores.wal_url,
            ),
            is_compactor=settings.compaction_enabled,
            memtable_bytes=settings.l0_sst_size_bytes,
        )
        manifest = recovered.manifests.current
        self.manifests = recovered.manifests
        self.epoch = recovered.epoch
        self.stores.attach(manifest.parents)
        self.rules = Rules(manifest.database, table_format(settings), extractor, layout, manifest.owners())
        self.tables = table_reader(self.stores.main, manifest, self.runtime, settings, parts)
        self.table_ids = TableIds(self.runtime, recovered.epoch)
        self.views = LiveViews(self.runtime, View(tuple(recovered.memtables), manifest))
        self.lock = self.runtime.lock(WRITE)
        self._assemble_writes(recovered)
        self._measure_level0(manifest)
        self._assemble_flush(recovered.fences)
        self._assemble_background(parts)
        self._started.append(self.wal.close)
        self._started.insert(0, self.flusher.close)
        self.flusher.start()
        if self.compactor is not None:
            self.compactor.start()

    def _assemble_writes(self, recovered: Recovered) -> None:
        settings = self.settings
        self.wal = WriteAheadLog(
            self.stores.wal,
            self.runtime,
            self.lock,
            database=recovered.manifests.current.database,
            epoch=recovered.epoch,
            next_number=recovered.next_wal_number,
            durable_seq=recovered.last_seq,
            limits=LogLimits(
                flush_interval=settings.flush_interval,
                object_bytes=settings.wal_object_bytes,
                batch_bytes_max=batch_bytes_max(self.stores.main, self.stores.wal),
                uploads_max=settings.wal_uploads_max,
            ),
            health=self.health,
        )
        self.writer = Writer(
            self.runtime,
            self.lock,
            self.wal,
            self.views,
            last_seq=recovered.last_seq,
            wal_enabled=settings.wal_enabled,
            limits=WriteLimits(
                memtable_bytes=settings.l0_sst_size_bytes,
                wal_objects_max=settings.max_wal_objects_before_l0_flush,
                unflushed_bytes_max=settings.max_unflushed_bytes,
            ),
            on_freeze=lambda: self.flusher.wake_locked(),
            on_growth=lambda: self.flusher.warm_up(),
        )
        self.writer.restore_positions(recovered.positions)

    def _assemble_flush(self, new_fences: tuple[int, ...]) -> None:
        settings = self.settings
        address = worker_address(self.stores, self.rules)
        wal_address = self.stores.address(self.stores.wal)
        # One core is for the writer. More workers than the other cores would only slow each other.
        slots = min(settings.l0_flush_parallelism, max(1, self.runtime.cores - 1))
        builds = TableBuilds(
            self.runtime,
            self.lock,
            store=self.stores.main,
            wal=self.wal if settings.wal_enabled else None,
            rules=self.rules,
            epoch=self.epoch,
            places=BuildPlaces(
                threads=self._executors.threads("lsm-build", settings.l0_flush_parallelism),
                workers=self._executors.processes(settings.flush_placement, address, slots, job="flushes"),
                addresses=(address, wal_address) if address is not None and wal_address is not None else None,
                worker_slots=slots,
            ),
            snapshots=self.snapshots.held,
            table_ids=self.table_ids,
        )
        self.flusher = Flusher(
            self.runtime,
            self.lock,
            writer=self.writer,
            views=self.views,
            builds=builds,
            commits=FlushCommits(self.manifests, self.views, self.table_ids, new_fences),
            limits=FlushLimits(
                slots=slots,
                slots_at_close=settings.l0_flush_parallelism,
                # Without a compactor in this process, level 0 may never shrink, so flushes do not wait for it.
                l0_max_ssts=settings.l0_max_ssts if settings.compaction_enabled else sys.maxsize,
                stall_seconds=settings.op_timeout,
            ),
            on_commit=self._committed,
            health=self.health,
        )

    def _assemble_background(self, parts: Components) -> None:
        settings = self.settings
        self.compactor: Compactor | None = None
        if settings.compaction_enabled:
            self.compactor = Compactor(
                self.runtime,
                store=self.stores.main,
                manifests=self.manifests,
                epoch=self.epoch,
                rules=self.rules,
                tables=self.tables,
                scheduler=scheduler_of(settings, parts),
                workplace=compaction_workplace(self._executors, self.runtime, settings, parts, self.stores, self.rules),
                table_bytes=settings.max_sst_size,
                part_bytes=settings.compaction_part_bytes,
                snapshots=self.snapshots.held,
                table_ids=self.table_ids,
                on_commit=self._committed,
                on_failure=self.fail,
                health=self.health,
            )
        self.collector = GarbageCollector(
            self.runtime,
            store=self.stores.main,
            wal_store=self.stores.wal,
            manifests=self.manifests,
            min_age=settings.gc_min_age,
            held_tables=self.views.held_tables,
            own_horizons=lambda: {self.epoch: self.table_ids.horizon()},
        )

    def collect(self, *, dry_run: bool = False, min_age: float | None = None) -> list[Garbage]:
        """Delete unreferenced objects. In a clone, also drop parents whose tables are no longer needed."""
        if self.compactor is None or self.compactor.is_superseded:
            # Another process may compact. Views here keep the tables that it replaced until a newer manifest is published.
            manifest = self.manifests.refresh()
            if manifest.number > self.views.current.manifest.number:
                self._committed(manifest)
        found = self.collector.run_once(dry_run=dry_run, min_age=min_age)
        if not dry_run:
            detach(self.manifests, self.stores, self.runtime, self.views.held_tables())
        return found

    def fail(self, error: Error) -> None:
        """Refuse further work after a background thread failed, and wake calls that wait for a flush."""
        self.writer.fail(error)
        self.health.stopped(error)
        with self.lock:
            self.flusher.wake_locked()

    def _committed(self, manifest: Manifest) -> None:
        """Publish a new manifest to reads, and wake calls and threads that wait for level 0."""
        self.views.replace(manifest=manifest)
        self._measure_level0(manifest)
        if self.compactor is not None:
            self.compactor.wake()
        with self.lock:
            self.flusher.wake_locked()

    def _measure_level0(self, manifest: Manifest) -> None:
        # With compaction disabled here, level 0 has no limit, unless another process compacts; then writes must not outrun it.
        has_limit = self.settings.compaction_enabled or manifest.jobs
        fullest = max((len(partition.l0) for partition in manifest.partitions), default=0)
        self.writer.set_level0(fullest, self.settings.l0_max_ssts if has_limit else None)

    def explained(self, error: TableMissingError) -> Error:
        """Return why a table is missing that this handle's collector kept: another process's collector deleted it, or it is
        lost."""
        try:
            manifest = self.manifests.refresh()
        except FencedError as fenced:
            self.fail(fenced)
            return fenced
        url = self.stores.main.url
        if manifest.names(error.object_name):
            events.tell(events.CORRUPTION, url=url, reason=events.reason(error))
            return error
        events.tell(events.READER_OVERTAKEN, url=url, reason=events.reason(error))
        return SnapshotExpiredError(f"{error.object_name} was compacted away, and collected from outside: read again")

    def jobs(self) -> tuple[JobStatus, ...]:
        """The compactions of this process, and those of other processes, known from their claims in the manifest."""
        own = self.compactor.jobs() if self.compactor is not None else ()
        now = self.runtime.now_ms()
        claims = self.views.current.manifest.jobs
        return (*own, *(status_of(claim, now) for claim in claims if claim.epoch != self.epoch))

    def shut_down(self) -> None:
        """Stop all threads and workers. Requires: the writer already refuses work."""
        self.flusher.close()
        if self.compactor is not None:
            self.compactor.close()
        self.wal.close()
        self._shut_down()

    def _shut_down(self) -> None:
        self._executors.shut_down()
        self.stores.close()
        self.runtime.close()
