"""A standalone compactor, for a writer without one: in another process, or on another machine.

Source: SlateDB's CompactorBuilder and its standalone compactor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lsm.checks import timeout_seconds, wait_seconds
from lsm.compaction.compactor import Compactor
from lsm.compaction.plan import CompactionScheduler, CompactionSpec
from lsm.compaction.running_job import JobStatus
from lsm.components import Components, Stores, table_format, table_reader
from lsm.concurrency.exits import tell_at_exit
from lsm.errors import (
    CompactorFencedError,
    Error,
    InvalidError,
    TableMissingError,
    UnavailableError,
    kept,
    nothing_there,
)
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.manifest.table_ids import TableIds
from lsm.observe import events
from lsm.observe.health import BackgroundHealth
from lsm.opening.executors import Executors, compaction_workplace, scheduler_of
from lsm.opening.recovery import Identity, check_identity
from lsm.read.tables_only import TableReads
from lsm.runtime import Runtime
from lsm.settings import Settings
from lsm.sst.table_rules import Rules


class DbCompactor:
    """Compacts a database that another process writes. A context manager.

    Opening it takes compaction over from any other compactor. A writer that is opened with `compaction_enabled` takes it back.
    The writer itself goes on; it sees the new tables with its next flush.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        parts: Components,
        *,
        poll_interval: float,
        before_proposals: Callable[[TableReads], None] | None = None,
    ) -> None:
        self._runtime = parts.runtime if parts.runtime is not None else Runtime(parts.clock)
        self._failed: Error | None = None
        self._is_started = False
        self._executors = Executors(self._runtime)
        self._stores = Stores(url, settings, parts, self._runtime)
        self._health = BackgroundHealth(self._runtime, self._stores.main.url)
        try:
            self._compactor = self._assemble(settings, parts, poll_interval, before_proposals)
        except BaseException:
            self._shut_down()
            raise
        tell_at_exit(self, self._runtime)

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        poll_interval: float = 1.0,
        before_proposals: Callable[[TableReads], None] | None = None,
        **components: Any,
    ) -> DbCompactor:
        """Take over the compaction of the database at an fsspec URL or path.

        `components`: as for `Db.open`; prefix extractor and series layout must be those the database was created with.
        `poll_interval`: seconds between two polls of the manifest. `before_proposals`: called with the tables of a version
        before the scheduler sees that version, for schedulers that depend on stored rows. Its UnavailableError is retried; any
        other error ends the compaction. Cost: one LIST, one GET, one commit.
        Raises: InvalidError, CorruptionError; NotFoundError if there is no database.
        """
        try:
            parts = Components(storage_options=storage_options or {}, **components)
        except TypeError as error:
            raise InvalidError(f"DbCompactor: {error}; components are {sorted(Components.__annotations__)}") from None
        return cls(
            os.fspath(storage),
            settings if settings is not None else Settings(),
            parts,
            poll_interval=wait_seconds(poll_interval, "poll_interval", least=0.001),
            before_proposals=before_proposals,
        )

    def _assemble(
        self,
        settings: Settings,
        parts: Components,
        poll_interval: float,
        before_proposals: Callable[[TableReads], None] | None,
    ) -> Compactor:
        manifests = ManifestStore.load(self._stores.main, self._runtime)
        if manifests is None:
            raise nothing_there(self._stores.main.url)
        extractor, layout = parts.prefix_extractor, parts.series_layout
        manifest = manifests.current
        names = (extractor.name if extractor is not None else "", layout.name if layout is not None else "")
        check_identity(manifest, Identity(*names))
        self._stores.attach(manifest.parents)
        rules = Rules(manifest.database, table_format(settings), extractor, layout, manifest.owners())
        tables = table_reader(self._stores.main, manifest, self._runtime, settings, parts)
        scheduler = scheduler_of(settings, parts)
        if before_proposals is not None:
            reads = partial(TableReads, self._runtime, tables=tables, layout=layout, explained=_explained_by(manifests))
            scheduler = _Informed(scheduler, before_proposals, reads)
        workplace = compaction_workplace(self._executors, self._runtime, settings, parts, self._stores, rules)
        self.epoch = manifests.claim_compactor()
        events.tell(events.COMPACTION_TAKEN_OVER, url=self._stores.main.url, epoch=self.epoch)
        return Compactor(
            self._runtime,
            store=self._stores.main,
            manifests=manifests,
            epoch=self.epoch,
            rules=rules,
            tables=tables,
            scheduler=scheduler,
            workplace=workplace,
            table_bytes=settings.max_sst_size,
            part_bytes=settings.compaction_part_bytes,
            # Snapshots of the writer need no old versions here, because each snapshot keeps its tables (rule G4).
            snapshots=tuple,
            table_ids=TableIds(self._runtime, self.epoch),
            on_commit=lambda manifest: None,
            on_failure=self._fail,
            health=self._health,
            poll_seconds=poll_interval,
        )

    def _fail(self, error: Error) -> None:
        self._failed = error
        self._health.stopped(error)

    def run_once(self, timeout: float | None = None) -> bool:
        """Compact until nothing is due. False after `timeout` seconds.

        Raises: FencedError: another compactor took over. CorruptionError, InternalError: the error that ended the compaction.
        """
        self._start()
        is_done = self._compactor.wait_idle(timeout_seconds(timeout))
        self._check()
        return is_done

    def run(self) -> None:
        """Compact until the process ends. Returns only by an exception, such as one from a signal handler.

        Raises: as `run_once`.
        """
        self._start()
        self._compactor.wait_closed()
        self._check()

    def _start(self) -> None:
        if not self._is_started:
            self._compactor.start()
            self._is_started = True

    def _check(self) -> None:
        if self._failed is not None:
            raise kept(self._failed)
        if self._compactor.is_superseded:
            raise CompactorFencedError(f"another compactor took over from this one (epoch {self.epoch})")

    @property
    def committed(self) -> int:
        """Number of compactions carried out so far."""
        return self._compactor.committed

    def jobs(self) -> tuple[JobStatus, ...]:
        """Return the running jobs."""
        return self._compactor.jobs()

    def be_ended(self, seconds: float) -> None:
        """Do nothing: the compactor ends with the program, and finished tables of its jobs stay claimed."""

    def close(self) -> None:
        """Stop at once. Finished tables of running jobs stay claimed; the next compactor continues from them. Idempotent."""
        # Each step can be repeated, because an earlier call may have been interrupted.
        self._compactor.close()
        self._shut_down()

    def _shut_down(self) -> None:
        self._executors.shut_down()
        self._stores.close()
        self._runtime.close()

    def __enter__(self) -> DbCompactor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Informed:
    """A scheduler that depends on stored rows: a callback reads them before each proposal."""

    def __init__(
        self,
        scheduler: CompactionScheduler,
        before_proposals: Callable[[TableReads], None],
        reads: Callable[[Manifest], TableReads],
    ) -> None:
        self._scheduler = scheduler
        self._before_proposals = before_proposals
        self._reads = reads

    def propose(self, manifest: Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        self._before_proposals(self._reads(manifest))
        return self._scheduler.propose(manifest, busy)


def _explained_by(manifests: ManifestStore) -> Callable[[TableMissingError], Error]:
    """Return a function that explains a missing table: a newer compactor replaced it and it was collected, or it is lost."""

    def explained(error: TableMissingError) -> Error:
        if manifests.refresh().names(error.object_name):
            return error
        return UnavailableError(f"{error.object_name} was compacted away and collected: look at the newest version")

    return explained
