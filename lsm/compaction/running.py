"""Jobs that run: their parts, where each is, and how they get there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from itertools import chain

import msgspec

from lsm.compaction.job import CompactionJob, compact, compact_in_worker
from lsm.compaction.job_edits import spec_of
from lsm.compaction.loop_state import LoopState
from lsm.compaction.plan import CompactionSpec, Sources
from lsm.concurrency.threads import call_here
from lsm.errors import UnavailableError
from lsm.manifest.job_record import JobRecord
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import note_name, table_name
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.sst.builder import TableInfo
from lsm.sst.spec import Rules
from lsm.workers.dispatch import Elsewhere
from lsm.workers.pool import StoreAddress

WORKER_BYTES_MIN = 8 << 20
"""Smaller jobs run in a thread: starting a worker would take longer."""
HEARTBEAT_SECONDS = 10.0
"""How often it is looked whether a job elsewhere makes progress: a finished table is its heartbeat."""


class JobStatus(msgspec.Struct, frozen=True):
    """A running compaction: the bytes of its sources, its age in seconds, and where it runs.

    `parts`: key ranges it was cut into; `finished_parts` of them are merged. `tables`: finished ones that are known of.
    """

    prefix: bytes
    target: int
    size: int
    age: float
    where: str
    parts: int
    finished_parts: int
    tables: int


def jobs_of(
    record: JobRecord,
    sources: Sources,
    rules: Rules,
    snapshots: tuple[int, ...],
    *,
    table_bytes: int,
    keeps_notes: bool,
) -> list[CompactionJob]:
    """What is to be done for each key range of a record."""
    return [
        CompactionJob(
            rules=rules,
            sources=sources,
            snapshots=snapshots,
            table_bytes=table_bytes,
            table_numbers=(part.first, part.end),
            low=part.low,
            high=part.high,
            keeps_notes=keeps_notes,
        )
        for part in record.parts
    ]


class Part:
    """One key range of a running job."""

    def __init__(self, job: CompactionJob) -> None:
        self.job = job
        self.future: Future[list[TableInfo]] | None = None
        self.is_elsewhere = False
        self.looked_at = 0.0
        self.progressed_at = 0.0
        self.tables = 0

    @property
    def is_done(self) -> bool:
        return self.future is not None and self.future.done()

    @property
    def is_running(self) -> bool:
        return self.future is not None and not self.future.done()


class RunningJob:
    """A job this process has started. `record`: its claim; None for one that makes a single table."""

    def __init__(
        self,
        spec: CompactionSpec,
        sources: Sources,
        record: JobRecord | None,
        jobs: Sequence[CompactionJob],
        *,
        first: int,
        started_at: float,
        where: str,
    ) -> None:
        self.spec = spec
        self.record = record
        self.first = first
        self.size = sum(table.size for table in sources.tables)
        self.is_relief = is_relief(spec, sources)
        self.parts = [Part(job) for job in jobs]
        self.started_at = started_at
        self.where = where
        self.is_cancelled = False

    @property
    def is_done(self) -> bool:
        return all(part.is_done for part in self.parts)

    @property
    def error(self) -> BaseException | None:
        """Why a part failed."""
        for part in self.parts:
            if part.future is not None and part.future.done():
                if part.future.cancelled():
                    return CancelledError()
                error = part.future.exception()
                if error is not None:
                    return error
        return None

    def failed_elsewhere(self, error: BaseException) -> bool:
        """Whether a part that ran in another process ended with this error."""
        return any(
            part.is_elsewhere
            and part.is_done
            and part.future is not None
            and not part.future.cancelled()
            and part.future.exception() is error
            for part in self.parts
        )

    def outputs(self) -> list[TableInfo]:
        """What this claim's parts made. Requires: all are done."""
        return list(chain.from_iterable(part.future.result() for part in self.parts if part.future is not None))

    def cancel(self) -> None:
        """Ask the parts to end. Requires: not holding the compactor's lock, which a cancelled future takes."""
        self.is_cancelled = True
        for part in self.parts:
            if part.future is not None and not part.future.done():
                part.future.cancel()

    def status(self, now: float) -> JobStatus:
        places = {"executor" if part.is_elsewhere else "thread" for part in self.parts if part.future is not None}
        earlier = sum(len(part.done) for part in self.record.parts) if self.record is not None else 0
        return JobStatus(
            prefix=self.spec.prefix,
            target=self.spec.target,
            size=self.size,
            age=now - self.started_at,
            where=f"{self.where} {'+'.join(sorted(places)) or 'waiting'}",
            parts=len(self.parts),
            finished_parts=sum(part.is_done for part in self.parts),
            tables=earlier + sum(part.tables for part in self.parts),
        )


def status_of(claim: JobRecord, now_ms: int) -> JobStatus:
    """What a claim says of a job that runs in another process, or did until it died."""
    return JobStatus(
        prefix=claim.prefix,
        target=claim.target,
        size=claim.size,
        age=max(0, now_ms - claim.started_ms) / 1000,
        where=claim.where,
        parts=len(claim.parts),
        finished_parts=0,
        tables=sum(len(part.done) for part in claim.parts),
    )


def is_relief(spec: CompactionSpec, sources: Sources) -> bool:
    """Whether a job is there to relieve level 0: at least a third of what it reads is from there, or it is done in a moment."""
    size = sum(table.size for table in sources.tables)
    level0 = sum(group[0].size for group in sources.groups[: len(spec.l0)])
    return bool(spec.l0) and (3 * level0 >= size or size < WORKER_BYTES_MIN)


class Workplace:
    """Executors, and how many parts may run at a time: `slots`, all but one of which deep jobs may take.

    `workers`: None for threads alone.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: ReliableStore,
        *,
        threads: Executor,
        workers: Elsewhere | None,
        address: StoreAddress | None,
        slots: int,
        stall_seconds: float | None,
    ) -> None:
        self._runtime = runtime
        self._store = store.with_cause("compaction")
        self._threads = threads
        self._workers = workers
        self._address = address
        self._slots = slots
        self._stall_seconds = stall_seconds

    @property
    def is_parallel(self) -> bool:
        """Parts of one job can run side by side."""
        return self._workers is not None and self._address is not None and self._workers.is_open

    def give_up_workers(self, error: BaseException) -> None:
        """A job failed elsewhere: go on in this process, for a while."""
        if self._workers is not None:
            self._workers.failed(error)

    def waiting(self, running: Sequence[RunningJob]) -> list[tuple[RunningJob, Part]]:
        """Parts that have a slot now, those that relieve level 0 first."""
        busy = sum(part.is_running for job in running for part in job.parts)
        deep = sum(part.is_running for job in running if not job.is_relief for part in job.parts)
        found: list[tuple[RunningJob, Part]] = []
        for job in sorted(running, key=lambda each: not each.is_relief):
            for part in job.parts:
                if part.future is not None or busy >= self._slots:
                    continue
                if job.is_relief or deep < self._slots - 1:
                    found.append((job, part))
                    busy += 1
                    deep += not job.is_relief
        return found

    def has_room(self, running: Sequence[RunningJob], *, is_relief: bool) -> bool:
        """Whether a further job would find a slot. Parts that wait for one come first."""
        busy = sum(not part.is_done for job in running for part in job.parts)
        deep = sum(not part.is_done for job in running if not job.is_relief for part in job.parts)
        # What deep jobs have waiting must not keep level 0 out of its slot.
        return busy - max(0, deep - (self._slots - 1)) < self._slots if is_relief else deep < self._slots - 1

    def start(self, job: RunningJob, part: Part, on_done: Callable[[object], None]) -> None:
        now = self._runtime.monotonic()
        part.looked_at = part.progressed_at = now
        part.is_elsewhere = self.is_parallel and job.size >= WORKER_BYTES_MIN
        if part.is_elsewhere:
            assert self._workers is not None
            assert self._address is not None
            future = self._workers.submit(compact_in_worker, self._address, part.job)
        else:
            future = self._start_here(job, part)
        part.future = future
        future.add_done_callback(on_done)

    def _start_here(self, job: RunningJob, part: Part) -> Future[list[TableInfo]]:
        """In a thread of this process: in the caller's where no other takes it, for want of threads or because their owner,
        or the end of the main thread, has shut them down."""
        is_refused = False
        try:
            return self._threads.submit(
                compact,
                self._store,
                self._runtime,
                part.job,
                is_cancelled=lambda: job.is_cancelled or is_refused,  # Some executors keep a call they refuse.
            )
        except (UnavailableError, RuntimeError):
            is_refused = True
        return call_here(compact, self._store, self._runtime, part.job, lambda: job.is_cancelled)

    def check(self, job: RunningJob) -> None:
        """Look after parts that run elsewhere. Raises: UnavailableError where one has made nothing for too long."""
        now = self._runtime.monotonic()
        for part in self._elsewhere(job):
            if now - part.looked_at < HEARTBEAT_SECONDS:
                continue
            part.looked_at = now
            while self._is_finished(part):
                part.tables += 1
                part.progressed_at = now
            if self._stall_seconds is not None and now - part.progressed_at >= self._stall_seconds:
                raise UnavailableError(
                    f"a compaction of {job.size} bytes finished no table within {self._stall_seconds} s: "
                    "its worker is taken for dead"
                )

    def _elsewhere(self, job: RunningJob) -> Iterator[Part]:
        return (part for part in job.parts if part.is_elsewhere and part.is_running)

    def _is_finished(self, part: Part) -> bool:
        """Whether the part's next table is there: by its note, or, where it keeps none, by itself."""
        number = part.job.table_numbers[0] + part.tables
        try:
            self._store.head(note_name(number) if part.job.keeps_notes else table_name(number))
        except ObjectMissing:
            return False
        return True

    def wait_seconds(self, running: Sequence[RunningJob]) -> float | None:
        """How long to wait for news before looking after what runs elsewhere."""
        return HEARTBEAT_SECONDS if any(True for job in running for _ in self._elsewhere(job)) else None


class RunningJobs:
    """The jobs of this process, oldest first. One thread begins and ends them; others look at them under the loop's lock."""

    def __init__(
        self,
        runtime: Runtime,
        state: LoopState,
        workplace: Workplace,
        *,
        rules: Rules,
        snapshots: Callable[[], tuple[int, ...]],
        table_bytes: int,
    ) -> None:
        self._runtime = runtime
        self._state = state
        self._workplace = workplace
        self._rules = rules
        self._snapshots = snapshots
        self._table_bytes = table_bytes
        self._where = runtime.process_name()
        self._jobs: list[RunningJob] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def listed(self) -> list[RunningJob]:
        with self._state.changed:
            return list(self._jobs)

    @property
    def busy(self) -> frozenset[int]:
        """Tables that they work on."""
        return frozenset(number for job in self._jobs for number in job.spec.numbers)

    @property
    def claim_ids(self) -> set[int]:
        return {job.record.id for job in self._jobs if job.record is not None}

    @property
    def is_parallel(self) -> bool:
        """Parts of one job can run side by side."""
        return self._workplace.is_parallel

    def has_room(self, *, is_relief: bool) -> bool:
        """Whether a further job would find a slot."""
        return self._workplace.has_room(self._jobs, is_relief=is_relief)

    def begin(self, record: JobRecord, sources: Sources, *, is_claimed: bool) -> None:
        """Add a job, whose parts start when they have a slot."""
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
        with self._state.changed:
            self._jobs.append(job)

    def start_parts(self) -> None:
        """Start the parts that have a slot now."""
        for job, part in self._workplace.waiting(self._jobs):
            self._workplace.start(job, part, self._state.wake)

    def stall(self, job: RunningJob) -> UnavailableError | None:
        """Why a job that runs is taken for dead; None while it makes progress."""
        try:
            self._workplace.check(job)
        except UnavailableError as error:
            return error
        return None

    def failed_elsewhere(self, error: BaseException) -> None:
        """A part failed in another process: go on in this one, for a while."""
        self._workplace.give_up_workers(error)

    def end(self, job: RunningJob) -> None:
        """Take a job off the list. What it still makes is garbage."""
        with self._state.changed:
            self._jobs.remove(job)
            self._state.is_due = True
        job.cancel()

    def cancel(self) -> None:
        """Cut all of them off."""
        for job in self.listed():
            job.cancel()

    def wait_seconds(self) -> float | None:
        """How long to wait for news before looking after what runs elsewhere."""
        return self._workplace.wait_seconds(self._jobs)

    def status(self) -> tuple[JobStatus, ...]:
        now = self._runtime.monotonic()
        with self._state.changed:
            return tuple(job.status(now) for job in self._jobs)
