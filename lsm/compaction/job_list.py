"""The jobs that a compactor runs: begun, looked after and ended by its thread, seen by others."""

from __future__ import annotations

from collections.abc import Callable

from lsm.compaction.job_edits import spec_of
from lsm.compaction.loop_state import LoopState
from lsm.compaction.plan import Sources
from lsm.compaction.running import JobStatus, RunningJob, jobs_of
from lsm.compaction.workplace import Workplace
from lsm.errors import UnavailableError
from lsm.manifest.job_record import JobRecord
from lsm.runtime import Runtime
from lsm.sst.spec import Rules


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
