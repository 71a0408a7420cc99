"""The compactor: asks the scheduler, claims jobs, hands their parts out, commits results. In a writer's process or alone.

docs/protocol.md, rules C1 to C5 and J1 to J5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError

from lsm.compaction.block_places import places
from lsm.compaction.completion_markers import finished_tables
from lsm.compaction.job_edits import (
    SourcesClaimedError,
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
from lsm.compaction.plan import (
    CompactionScheduler,
    CompactionSpec,
    Sources,
    check_form,
    check_spec,
    is_move,
    with_compaction,
)
from lsm.compaction.running import JobStatus, RunningJob, Workplace, is_relief, jobs_of
from lsm.compaction.split import KeyRange, key_ranges
from lsm.errors import (
    ClosedError,
    CompactorFencedError,
    Error,
    FencedError,
    InternalError,
    InvalidError,
    TableMissingError,
    UnavailableError,
    kept,
)
from lsm.manifest.job_record import JobRecord
from lsm.manifest.model import Manifest
from lsm.manifest.store import Edit, ManifestStore
from lsm.manifest.table_ids import TableNumbers
from lsm.object_store.reliable import ReliableStore
from lsm.observe import events
from lsm.observe.health import BackgroundHealth
from lsm.runtime import Runtime, Task
from lsm.sst.builder import TableInfo
from lsm.sst.spec import Rules
from lsm.sst.table import TableReader

RETRY_SECONDS = 0.5
ROUNDS = 2
"""Of a compaction that was asked for: deletes may only go when what they covered is merged."""
FAILURES_MAX = 3
"""Failures in a row of any job before whoever waits for a compaction is told."""

Planner = Callable[[Manifest, frozenset[int]], Sequence[CompactionSpec]]
"""What to do next, from the manifest and the tables that running jobs work on; nothing: done."""


class Compactor:
    """One background thread. A lost race or a dead worker costs a part of a job, never data."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        store: ReliableStore,
        manifests: ManifestStore,
        epoch: int,
        rules: Rules,
        tables: TableReader,
        scheduler: CompactionScheduler,
        workplace: Workplace,
        table_bytes: int,
        part_bytes: int,
        snapshots: Callable[[], tuple[int, ...]],
        numbers: TableNumbers,
        on_commit: Callable[[Manifest], None],
        on_failure: Callable[[Error], None],
        health: BackgroundHealth,
        poll_seconds: float | None = None,
    ) -> None:
        """`poll_seconds`: how often to look for what another process commits. None: `wake` tells."""
        self._runtime = runtime
        self._changed = runtime.condition()
        self._store = store.with_cause("compaction")
        self._manifests = manifests
        self._epoch = epoch
        self._rules = rules
        self._tables = tables.for_cause("compaction")
        self._scheduler = scheduler
        self._workplace = workplace
        self._table_bytes = table_bytes
        self._part_bytes = part_bytes
        self._snapshots = snapshots
        self._numbers = numbers
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._health = health
        self._poll_seconds = poll_seconds
        self._where = runtime.process_name()
        self._running: list[RunningJob] = []
        self._requests: list[Planner] = []
        self._is_due = True
        self._is_stepping = False
        self._is_closing = False
        self._task: Task | None = None
        self.is_superseded = False
        self.committed = 0
        self.refused = 0
        self.last_refusal: InvalidError | None = None
        self.failures = 0
        self.last_failure: BaseException | None = None

    # -- for other threads --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = self._runtime.spawn("lsm-compact", self._run)

    def wake(self, _done: object = None) -> None:
        """The tree changed, or a part is done."""
        with self._changed:
            self._is_due = True
            self._changed.notify_all()

    @property
    def _is_busy(self) -> bool:
        return bool(self._running or self._requests or self._is_due or self._is_stepping)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until the tree is as the scheduler wants it. False after `timeout`.

        Raises: without a `timeout`, what compactions fail with again and again.
        """
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with self._changed:
            while self._is_busy and not self._is_closing:
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    return False
                is_failing = self._health.failures_in_a_row("compaction") > FAILURES_MAX
                if wait is None and is_failing and isinstance(self.last_failure, Error):
                    raise kept(self.last_failure)
                self._changed.wait(wait)
        return True

    def wait_closed(self) -> None:
        """Wait until the thread has ended."""
        with self._changed:
            while not self._is_closing:
                self._changed.wait()

    def compact(self, plan: Planner) -> None:
        """Carry out what `plan` proposes, before what the scheduler does, until it proposes nothing.

        What comes in meanwhile is left: of that there may be no end. Raises: InvalidError: it proposed what would lose or
        reorder rows. UnavailableError: where the store fails. ClosedError; CompactorFencedError.
        """
        for _ in range(ROUNDS):
            specs = plan(self._manifests.current, frozenset())
            if not specs:
                return
            self._carry_out(plan, frozenset(number for spec in specs for number in spec.numbers))

    def _carry_out(self, plan: Planner, meant: frozenset[int]) -> None:
        """Until `plan` proposes nothing for the tables that are `meant`."""
        with self._changed:
            refused, failures = self.refused, self.failures
            self._requests.append(plan)
            self._is_due = True
            self._changed.notify_all()
            try:
                while any(spec.numbers & meant for spec in plan(self._manifests.current, frozenset())):
                    if self.is_superseded:
                        raise CompactorFencedError("another process compacts this database: ask that one")
                    if self._is_closing:
                        raise ClosedError("the database is closed: open it again")
                    if self.refused != refused and self.last_refusal is not None:
                        raise kept(self.last_refusal)
                    if self.failures > failures + FAILURES_MAX and isinstance(self.last_failure, Error):
                        raise kept(self.last_failure)
                    self._changed.wait()
            finally:
                self._requests.remove(plan)

    def jobs(self) -> tuple[JobStatus, ...]:
        """The jobs of this process, oldest first."""
        now = self._runtime.monotonic()
        with self._changed:
            return tuple(job.status(now) for job in self._running)

    def close(self) -> None:
        """Stop. Running parts are cut off; what they finished is claimed still, and the next compactor goes on from it."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            running = list(self._running)
        for job in running:
            job.cancel()
        if self._task is not None:
            self._task.join()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait():
                self._step()
                with self._changed:
                    self._is_stepping = False
                    self._changed.notify_all()
        except CompactorFencedError:
            self.is_superseded = True
            events.tell(events.COMPACTION_SUPERSEDED, url=self._store.url, epoch=self._epoch)
        except BaseException as error:
            if isinstance(error, Error):
                found = self._manifests.explain(error)
                failure = found if isinstance(found, FencedError) else error
            else:
                failure = InternalError(f"the compaction thread failed: {error!r}")
            if failure is not error:
                failure.__cause__ = error
            self._on_failure(failure)
        finally:
            for job in self._running:
                job.cancel()
            with self._changed:
                self._is_closing = True
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait until there is something to do; False: to end."""
        with self._changed:
            waits = [
                each for each in (self._workplace.wait_seconds(self._running), self._poll_seconds) if each is not None
            ]
            if not (self._is_due or self._is_closing):
                self._changed.wait(min(waits, default=None))
            if self._is_closing:
                return False
            self._is_due = False
            self._is_stepping = True
        return True

    def _step(self) -> None:
        failures = self.failures
        try:
            if self._poll_seconds is not None:
                self._manifests.poll()
            check_compactor(self._manifests.current, self._epoch)
            for job in list(self._running):
                self._look_after(job)
            self._take_up_claims()
            self._start_new()
        except (UnavailableError, OSError, MemoryError) as error:
            self._pause(error)
        if self.failures == failures and not self._running:
            self._health.succeeded("compaction")
        for job, part in self._workplace.waiting(self._running):
            self._workplace.start(job, part, self.wake)

    def _pause(self, error: BaseException) -> None:
        self.last_failure = error
        self._health.failed("compaction", error)
        with self._changed:
            self.failures += 1
            if not self._is_closing:
                self._changed.wait(RETRY_SECONDS)
            self._is_due = True

    # -- jobs that run ------------------------------------------------------------------------------------------------

    def _look_after(self, job: RunningJob) -> None:
        error = job.error
        if error is None and not job.is_done:
            try:
                self._workplace.check(job)
            except UnavailableError as stalled:
                error = stalled
            else:
                return
        if error is None:
            error = self._finish(job)
        self._end(job)
        if error is not None:
            self._give_up(job, error)

    def _end(self, job: RunningJob) -> None:
        with self._changed:
            self._running.remove(job)
            self._is_due = True
        job.cancel()
        self._numbers.release(job.first)

    def _finish(self, job: RunningJob) -> BaseException | None:
        """Commit a job's result; what kept it from being committed."""
        try:
            self._commit(self._result_edit(job, job.outputs()))
        except (UnavailableError, OSError) as error:
            return error
        except InvalidError as error:  # The sources are gone: another commit was faster.
            if job.record is not None:
                self._drop(job.record)
            return error
        self.committed += 1
        self._health.succeeded("compaction")
        return None

    def _result_edit(self, job: RunningJob, outputs: list[TableInfo]) -> Edit:
        record, wanted = job.record, {table.number for table in outputs}

        def edit(manifest: Manifest) -> Manifest | None:
            if record is not None:
                changed = with_result(manifest, record, outputs)
            elif wanted and wanted <= manifest.table_numbers():
                changed = None  # An earlier attempt whose reply was lost has done it.
            else:
                check_compactor(manifest, self._epoch)
                changed = with_compaction(manifest, job.spec, outputs, moved=False)
            return None if changed is None else self._numbers.settle(changed, committing=job.first)

        return edit

    def _give_up(self, job: RunningJob, error: BaseException) -> None:
        """A claimed job is taken up again at its last finished table; another is proposed anew."""
        if job.failed_elsewhere(error):
            # Whatever it is. It is done again in this process, where it fails once more if it has a reason of its own.
            self._workplace.give_up_workers(error)
        elif isinstance(error, Error) and not isinstance(error, UnavailableError | InvalidError):
            newest = self._manifests.refresh()
            check_compactor(newest, self._epoch)  # Who took over may have merged and collected its tables.
            # So may this process, in a commit whose reply was lost, and a collector elsewhere.
            if not isinstance(error, TableMissingError) or newest.names(error.object_name):
                raise error
        elif not isinstance(error, Error | OSError | MemoryError | CancelledError | BrokenExecutor):
            raise error
        self._pause(error)

    # -- jobs that others, or this process, left ----------------------------------------------------------------------

    def _take_up_claims(self) -> None:
        known = {job.record.id for job in self._running if job.record is not None}
        for record in self._manifests.current.jobs:
            if record.id not in known and not self._is_closing:
                self._take_up(record)

    def _take_up(self, record: JobRecord) -> None:
        database = self._rules.database
        finished = [finished_tables(self._store, database, part.first, part.end) for part in record.parts]
        try:
            sources = check_spec(self._manifests.current, spec_of(record))
            if not any(finished) and not any(part.done for part in record.parts):
                raise InvalidError("nothing of it is finished: the scheduler may decide anew")
            count = outputs_max(record.size, sum(table.rows for table in sources.tables), self._table_bytes)
            first = self._numbers.take(count * len(record.parts))
            claim = continued(record, finished, first=first, count=count, epoch=self._epoch, where=self._where)
            self._claim(claim, sources, replaces=record)
        except InvalidError:
            self._drop(record)

    def _drop(self, record: JobRecord) -> None:
        self._commit(lambda manifest: without_claim(manifest, record.id, self._epoch))

    # -- new jobs -----------------------------------------------------------------------------------------------------

    def _start_new(self) -> None:
        with self._changed:
            requests = list(self._requests)
        for plan in [*requests, self._scheduler.propose]:
            busy = frozenset(number for job in self._running for number in job.spec.numbers)
            seen = self._manifests.current
            for spec in plan(seen, busy):
                if self._is_closing:
                    return
                try:
                    check_form(spec)
                    if spec.numbers & busy and not spec.is_drain:
                        continue
                    self._start(spec)
                except SourcesClaimedError:
                    self.wake()  # By this process, in a commit whose reply was lost: the record is known by now.
                except InvalidError as error:
                    if self._manifests.current is not seen:
                        self.wake()  # It was proposed for an older tree: a commit counted whose reply was lost.
                        continue
                    # It would lose or reorder rows; the next change of the tree brings other proposals.
                    self.last_refusal = error
                    self.refused += 1
                    self._health.refused(error)
                busy = frozenset(number for job in self._running for number in job.spec.numbers)

    def _start(self, spec: CompactionSpec) -> None:
        sources = check_spec(self._manifests.current, spec)
        if is_move(sources):
            self._move(spec, sources)
            return
        if not self._workplace.has_room(self._running, is_relief=is_relief(spec, sources)):
            return
        size = sum(table.size for table in sources.tables)
        ranges = self._ranges(sources, size)
        count = outputs_max(size, sum(table.rows for table in sources.tables), self._table_bytes)
        first = self._numbers.take(count * len(ranges))
        now_ms = self._runtime.now_ms()
        record = new_record(
            spec, sources, ranges, first=first, count=count, epoch=self._epoch, where=self._where, now_ms=now_ms
        )
        if size <= self._table_bytes:
            # It makes a single table, so there is nothing another compactor could go on from.
            self._begin(record, sources, is_claimed=False)
        else:
            self._claim(record, sources)

    def _move(self, spec: CompactionSpec, sources: Sources) -> None:
        """Nothing needs to be rewritten: the manifest alone changes. It takes no slot, so it waits for no job."""
        moved = sources.tables

        def edit(manifest: Manifest) -> Manifest:
            check_compactor(manifest, self._epoch)
            changed = with_compaction(manifest, spec, moved, moved=True)
            return self._numbers.settle(without_claims_of(changed, spec.prefix) if spec.is_drain else changed)

        self._commit(edit)
        self.committed += 1
        if spec.is_drain:
            self._cut_off(spec.prefix)

    def _cut_off(self, prefix: bytes) -> None:
        """End the jobs of a partition that is gone. What they made, or still make, is garbage."""
        for job in [job for job in self._running if job.spec.prefix == prefix]:
            self._end(job)

    def _ranges(self, sources: Sources, size: int) -> list[KeyRange]:
        if not self._workplace.is_parallel or size < 2 * self._part_bytes:
            return [(None, None)]
        indexes = self._runtime.map(self._tables.index, sources.tables)
        pairs = zip(sources.tables, indexes, strict=True)
        return key_ranges((place for table, index in pairs for place in places(0, table, index)), self._part_bytes)

    def _claim(self, record: JobRecord, sources: Sources, *, replaces: JobRecord | None = None) -> None:
        """Commit the claim, then start. What is made before the commit is known to have succeeded would be garbage."""
        try:
            self._commit(lambda manifest: with_claim(manifest, record, replaces=replaces))
        except BaseException:
            # Where the claim was applied all the same, it is found in the manifest and taken up.
            self._numbers.release(record.parts[0].first)
            raise
        self._begin(record, sources, is_claimed=True)

    def _begin(self, record: JobRecord, sources: Sources, *, is_claimed: bool) -> None:
        rules, snapshots = self._rules, self._snapshots()
        jobs = jobs_of(record, sources, rules, snapshots, table_bytes=self._table_bytes, keeps_notes=is_claimed)
        job = RunningJob(
            spec_of(record),
            sources,
            record if is_claimed else None,
            jobs,
            first=record.parts[0].first,
            started_at=self._runtime.monotonic(),
            where=self._where,
        )
        with self._changed:
            self._running.append(job)

    def _commit(self, edit: Edit) -> None:
        self._on_commit(self._manifests.update(edit))
        self.wake()
