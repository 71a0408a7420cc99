"""The compactor's commits to the manifest: they claim a job, replace its sources by its result, or drop its claim.

docs/protocol.md, rules J1 to J5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lsm.compaction.completion_markers import finished_tables
from lsm.compaction.job_edits import (
    check_compactor,
    continued,
    new_record,
    outputs_max,
    spec_of,
    with_claim,
    with_result,
    without_claim,
    without_claims_of,
)
from lsm.compaction.plan import CompactionSpec, Sources, check_spec, with_compaction
from lsm.compaction.running_job import RunningJob
from lsm.compaction.split import KeyRange
from lsm.errors import Error, FencedError, InvalidError, TableMissingError
from lsm.manifest.job_record import JobRecord
from lsm.manifest.model import Manifest
from lsm.manifest.store import Edit, ManifestStore
from lsm.manifest.table_ids import TableIds
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.sst.builder import TableInfo


class Claims:
    """Commits for one compactor, under its epoch. Only the compactor's thread uses it.

    `on_commit`: called with the manifest after each commit. `committed`: number of compactions carried out so far.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: ReliableStore,
        manifests: ManifestStore,
        table_ids: TableIds,
        *,
        epoch: int,
        database: bytes,
        table_bytes: int,
        on_commit: Callable[[Manifest], None],
    ) -> None:
        self._runtime = runtime
        self._store = store.with_cause("compaction")
        self._manifests = manifests
        self._table_ids = table_ids
        self._database = database
        self._table_bytes = table_bytes
        self._on_commit = on_commit
        self._where = runtime.process_name()
        self.epoch = epoch
        self.committed = 0

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def manifest(self) -> Manifest:
        """The newest manifest version that this process knows."""
        return self._manifests.current

    def look(self) -> None:
        """Poll for manifest versions of other processes."""
        self._manifests.poll()

    def check(self) -> None:
        """Check that this compactor was not superseded. Raises: CompactorFencedError."""
        check_compactor(self._manifests.current, self.epoch)

    def new_record(self, spec: CompactionSpec, sources: Sources, ranges: Sequence[KeyRange]) -> JobRecord:
        """Return the record of a new job, with table numbers for its outputs."""
        first, count = self._take_ids(sum(table.size for table in sources.tables), sources, len(ranges))
        now_ms = self._runtime.now_ms()
        return new_record(
            spec, sources, ranges, first=first, count=count, epoch=self.epoch, where=self._where, now_ms=now_ms
        )

    def claim(self, record: JobRecord, *, replaces: JobRecord | None = None) -> None:
        """Commit the claim. Requires: the job has not begun; tables made before this commit would be garbage."""
        try:
            self._commit(lambda manifest: with_claim(manifest, record, replaces=replaces))
        except BaseException:
            # If the commit counted all the same, `take_up_claims` finds the claim in the manifest.
            self.release(record.parts[0].first)
            raise

    def take_up(self, record: JobRecord) -> tuple[JobRecord, Sources] | None:
        """Claim again a job that another compactor or this process abandoned. `None`: its claim was dropped instead."""
        finished = [finished_tables(self._store, self._database, part.first, part.end) for part in record.parts]
        try:
            sources = check_spec(self._manifests.current, spec_of(record))
            if not any(finished) and not any(part.done for part in record.parts):
                raise InvalidError("nothing of it is finished: the scheduler may decide anew")
            first, count = self._take_ids(record.size, sources, len(record.parts))
            claim = continued(record, finished, first=first, count=count, epoch=self.epoch, where=self._where)
            self.claim(claim, replaces=record)
        except InvalidError:
            self.drop(record)
            return None
        return claim, sources

    def _take_ids(self, size: int, sources: Sources, parts: int) -> tuple[int, int]:
        """Reserve table numbers for a job. Return the first, and the maximum per part."""
        count = outputs_max(size, sum(table.rows for table in sources.tables), self._table_bytes)
        return self._table_ids.take(count * parts), count

    def release(self, first: int) -> None:
        """Release a job's table numbers, which begin at `first`. Requires: its tables are in the manifest, or never will be."""
        self._table_ids.release(first)

    def drop(self, record: JobRecord) -> None:
        """Commit the removal of a claim."""
        self._commit(lambda manifest: without_claim(manifest, record.id, self.epoch))

    def commit_result(self, job: RunningJob) -> None:
        """Replace a job's sources by its outputs. Raises: InvalidError: another commit has removed the sources."""
        self._commit(self._result_edit(job, job.outputs()))
        self.committed += 1

    def _result_edit(self, job: RunningJob, outputs: list[TableInfo]) -> Edit:
        record, wanted = job.record, {table.number for table in outputs}

        def edit(manifest: Manifest) -> Manifest | None:
            if record is not None:
                changed = with_result(manifest, record, outputs)
            elif wanted and wanted <= manifest.table_ids():
                changed = None  # An earlier attempt has done it; its reply was lost.
            else:
                check_compactor(manifest, self.epoch)
                changed = with_compaction(manifest, job.spec, outputs, moved=False)
            return None if changed is None else self._table_ids.settle(changed, committing=job.first)

        return edit

    def move(self, spec: CompactionSpec, sources: Sources) -> None:
        """Carry out a compaction that changes only the manifest."""
        moved = sources.tables

        def edit(manifest: Manifest) -> Manifest:
            check_compactor(manifest, self.epoch)
            changed = with_compaction(manifest, spec, moved, moved=True)
            return self._table_ids.settle(without_claims_of(changed, spec.prefix) if spec.is_drain else changed)

        self._commit(edit)
        self.committed += 1

    def check_loss(self, error: Error) -> None:
        """Ignore an error about a table that the newest manifest no longer names. Raises: CompactorFencedError if another
        compactor took over; `error` itself if it has another cause."""
        newest = self._manifests.refresh()
        check_compactor(newest, self.epoch)  # A newer compactor may have merged and collected the tables.
        # This process may itself have merged them, in a commit whose reply was lost; then another process's collector deleted
        # them.
        if not isinstance(error, TableMissingError) or newest.names(error.object_name):
            raise error

    def explained(self, error: Error) -> Error:
        """Return FencedError if another process took the database over and so caused `error`; otherwise `error`."""
        found = self._manifests.explain(error)
        return found if isinstance(found, FencedError) else error

    def _commit(self, edit: Edit) -> None:
        self._on_commit(self._manifests.update(edit))
