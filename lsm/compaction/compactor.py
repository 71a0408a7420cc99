"""The compactor's thread: checks running jobs, commits results and starts new jobs. In a writer's process or by itself.

`next_jobs` decides, `claims` commits to the manifest, `job_list` runs the jobs. docs/protocol.md, rules C1 to C5 and J1 to J5.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError

from lsm.compaction.job_commits import Claims
from lsm.compaction.loop_state import LoopState
from lsm.compaction.next_jobs import NextJobs, Planner
from lsm.compaction.plan import CompactionScheduler
from lsm.compaction.running_job import JobStatus, RunningJob
from lsm.compaction.running_jobs import RunningJobs
from lsm.compaction.workplace import Workplace
from lsm.errors import (
    ClosedError,
    CompactorFencedError,
    Error,
    InternalError,
    InvalidError,
    UnavailableError,
    kept,
)
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.manifest.table_ids import TableIds
from lsm.object_store.reliable import ReliableStore
from lsm.observe import events
from lsm.observe.health import BackgroundHealth
from lsm.runtime import Runtime, Task
from lsm.sst.table import TableReader
from lsm.sst.table_rules import Rules

RETRY_SECONDS = 0.5
ROUNDS = 2
"""Rounds per requested compaction. A second round can drop deletes, because the first merged the rows that they covered."""
FAILURES_MAX = 3
"""Maximum failures in a row before the failure is raised in calls that wait for a compaction."""


class Compactor:
    """The compaction thread. A lost race or a dead worker costs part of a job, never data."""

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
        table_ids: TableIds,
        on_commit: Callable[[Manifest], None],
        on_failure: Callable[[Error], None],
        health: BackgroundHealth,
        poll_seconds: float | None = None,
    ) -> None:
        """`poll_seconds`: seconds between polls for other processes' commits. `None` disables polls; callers use `wake`."""
        self._runtime = runtime
        self._state = LoopState(runtime)
        self._claims = Claims(
            runtime,
            store,
            manifests,
            table_ids,
            epoch=epoch,
            database=rules.database,
            table_bytes=table_bytes,
            on_commit=self._committed,
        )
        self._running = RunningJobs(
            runtime, self._state, workplace, rules=rules, snapshots=snapshots, table_bytes=table_bytes
        )
        self._next = NextJobs(
            runtime,
            self._state,
            self._claims,
            self._running,
            scheduler,
            tables,
            table_bytes=table_bytes,
            part_bytes=part_bytes,
            health=health,
        )
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._health = health
        self._poll_seconds = poll_seconds
        self._task: Task | None = None
        self.is_superseded = False
        self.failures = 0
        self.last_failure: BaseException | None = None

    # -- for other threads --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._task = self._runtime.spawn("lsm-compact", self._run)

    def wake(self) -> None:
        """Make the thread look at the tree, which has changed."""
        self._state.wake()

    @property
    def committed(self) -> int:
        """Number of compactions carried out so far."""
        return self._claims.committed

    @property
    def refused(self) -> int:
        """Number of refused proposals, which would have lost or reordered rows."""
        return self._next.refused

    def jobs(self) -> tuple[JobStatus, ...]:
        """The jobs of this process, oldest first."""
        return self._running.status()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no compaction is running or due. False after `timeout`.

        Raises: without a `timeout`, the last error if compactions fail again and again.
        """
        state = self._state
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with state.changed:
            while self._is_busy and not state.is_closing:
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    return False
                is_failing = self._health.failures_in_a_row("compaction") > FAILURES_MAX
                if wait is None and is_failing and isinstance(self.last_failure, Error):
                    raise kept(self.last_failure)
                state.changed.wait(wait)
        return True

    @property
    def _is_busy(self) -> bool:
        return bool(self._running or self._next.requests or self._state.is_due or self._state.is_stepping)

    def wait_closed(self) -> None:
        """Wait until the thread has ended."""
        self._state.wait_closed()

    def compact(self, plan: Planner) -> None:
        """Carry out the proposals of `plan`, before those of the scheduler, until `plan` proposes nothing for the tables it
        named first.

        Tables that arrive meanwhile are left out, because new ones may come without end. Raises: InvalidError: a proposal
        would lose or reorder rows. UnavailableError: the store fails. ClosedError. CompactorFencedError.
        """
        for _ in range(ROUNDS):
            specs = plan(self._claims.manifest, frozenset())
            if not specs:
                return
            self._carry_out(plan, frozenset(number for spec in specs for number in spec.numbers))

    def _carry_out(self, plan: Planner, meant: frozenset[int]) -> None:
        """Carry out `plan` until it proposes nothing for the tables `meant`."""
        state, jobs = self._state, self._next
        with state.changed:
            refused, failures = jobs.refused, self.failures
            jobs.requests.append(plan)
            state.is_due = True
            state.changed.notify_all()
            try:
                while any(spec.numbers & meant for spec in plan(self._claims.manifest, frozenset())):
                    if self.is_superseded:
                        raise CompactorFencedError("another process compacts this database: ask that one")
                    if state.is_closing:
                        raise ClosedError("the database is closed: open it again")
                    if jobs.refused != refused and jobs.last_refusal is not None:
                        raise kept(jobs.last_refusal)
                    if self.failures > failures + FAILURES_MAX and isinstance(self.last_failure, Error):
                        raise kept(self.last_failure)
                    state.changed.wait()
            finally:
                jobs.requests.remove(plan)

    def close(self) -> None:
        """Stop. Running parts are cut off. Their finished tables stay claimed, and the next compactor goes on from them."""
        self._state.close()
        self._running.cancel()
        if self._task is not None:
            self._task.join()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._state.begin_step(self._wait_seconds()):
                self._step()
                self._state.end_step()
        except CompactorFencedError:
            self.is_superseded = True
            events.tell(events.COMPACTION_SUPERSEDED, url=self._claims.url, epoch=self._claims.epoch)
        except BaseException as error:
            if isinstance(error, Error):
                failure = self._claims.explained(error)
            else:
                failure = InternalError(f"the compaction thread failed: {error!r}")
            if failure is not error:
                failure.__cause__ = error
            self._on_failure(failure)
        finally:
            self._running.cancel()
            self._state.close()

    def _wait_seconds(self) -> float | None:
        waits = [each for each in (self._running.wait_seconds(), self._poll_seconds) if each is not None]
        return min(waits, default=None)

    def _step(self) -> None:
        failures = self.failures
        try:
            if self._poll_seconds is not None:
                self._claims.look()
            self._claims.check()
            for job in self._running.listed():
                self._look_after(job)
            self._next.take_up_claims()
            self._next.start_new()
        except (UnavailableError, OSError, MemoryError) as error:
            self._pause(error)
        if self.failures == failures and not self._running:
            self._health.succeeded("compaction")
        self._running.start_parts()

    def _committed(self, manifest: Manifest) -> None:
        self._on_commit(manifest)
        self._state.wake()

    def _pause(self, error: BaseException) -> None:
        state = self._state
        self.last_failure = error
        self._health.failed("compaction", error)
        with state.changed:
            self.failures += 1
            if not state.is_closing:
                state.changed.wait(RETRY_SECONDS)
            state.is_due = True

    # -- jobs that run ------------------------------------------------------------------------------------------------

    def _look_after(self, job: RunningJob) -> None:
        is_done = job.is_done  # Read before `error`, which can no longer change in a job that is done.
        error = job.error
        if error is None and is_done:
            error = self._finish(job)
        elif error is None:
            error = self._running.stall(job)
            if error is None:
                return
        self._running.end(job)
        self._claims.release(job.first)
        if error is not None:
            self._give_up(job, error)

    def _finish(self, job: RunningJob) -> BaseException | None:
        """Commit a job's result. Return the error if the commit failed."""
        try:
            self._claims.commit_result(job)
        except (UnavailableError, OSError) as error:
            return error
        except InvalidError as error:  # Another commit has removed the sources.
            if job.record is not None:
                self._claims.drop(job.record)
            return error
        self._health.succeeded("compaction")
        return None

    def _give_up(self, job: RunningJob, error: BaseException) -> None:
        """Handle a failed job. A claimed job is taken up again after its last finished table; any other is proposed again."""
        if job.failed_elsewhere(error):
            # Whatever the error: the job runs again in this process; if the job itself is the cause, it fails there, too.
            self._running.failed_elsewhere(error)
        elif isinstance(error, Error) and not isinstance(error, UnavailableError | InvalidError):
            self._claims.check_loss(error)
        elif not isinstance(error, Error | OSError | MemoryError | CancelledError | BrokenExecutor):
            raise error
        self._pause(error)
