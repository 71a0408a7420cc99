"""The list of a compactor's running jobs. Its thread begins, checks and ends them; other threads can look at them."""

from __future__ import annotations

from collections.abc import Callable

from lsm.compaction.job_edits import spec_of
from lsm.compaction.loop_state import LoopState
from lsm.compaction.plan import Sources
from lsm.compaction.running_job import JobStatus, RunningJob, jobs_of
from lsm.compaction.workplace import Workplace
from lsm.errors import UnavailableError
from lsm.manifest.job_record import JobRecord
from lsm.runtime import Runtime
from lsm.sst.table_rules import Rules


class RunningJobs:
    """The jobs of this process, oldest first. One thread begins and ends them; others read the list under the loop's lock."""

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
        """Numbers of the tables that running jobs work on."""
        return frozenset(number for job in self._jobs for number in job.spec.numbers)

    @property
    def claim_ids(self) -> set[int]:
        return {job.record.id for job in self._jobs if job.record is not None}

    @property
    def is_parallel(self) -> bool:
        """Whether parts of one job can run at the same time."""
        return self._workplace.is_parallel

    def has_room(self, *, is_level0_priority: bool) -> bool:
        """Whether a further job would get a slot. `is_level0_priority`: it shrinks level 0."""
        return self._workplace.has_room(self._jobs, is_level0_priority=is_level0_priority)

    def begin(self, record: JobRecord, sources: Sources, *, is_claimed: bool) -> None:
        """Add a job. Its parts start when they get slots."""
        rules, snapshots = self._rules, self._snapshots()
        jobs = jobs_of(record, sources, rules, snapshots, table_bytes=self._table_bytes, keeps_markers=is_claimed)
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
        """Start the parts that get a slot now."""
        for job, part in self._workplace.waiting(self._jobs):
            self._workplace.start(job, part, self._state.wake)

    def stall(self, job: RunningJob) -> UnavailableError | None:
        """Return the error if a running job makes no progress any more; `None` while it does."""
        try:
            self._workplace.check(job)
        except UnavailableError as error:
            return error
        return None

    def failed_elsewhere(self, error: BaseException) -> None:
        """Run parts in this process for a while, after one failed in another process."""
        self._workplace.give_up_workers(error)

    def end(self, job: RunningJob) -> None:
        """Remove a job from the list and cancel it. Tables that it still makes are garbage."""
        with self._state.changed:
            self._jobs.remove(job)
            self._state.is_due = True
        job.cancel()

    def cancel(self) -> None:
        """Cancel all jobs."""
        for job in self.listed():
            job.cancel()

    def wait_seconds(self) -> float | None:
        """Maximum seconds until the parts in other processes must be checked; `None` if there are none."""
        return self._workplace.wait_seconds(self._jobs)

    def status(self) -> tuple[JobStatus, ...]:
        now = self._runtime.monotonic()
        with self._state.changed:
            return tuple(job.status(now) for job in self._jobs)
