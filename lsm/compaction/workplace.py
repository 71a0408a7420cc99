"""Where parts of compactions run: in threads of this process, in worker processes, or in the caller's executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future

from lsm.compaction.job import compact, compact_in_worker
from lsm.compaction.running_job import WORKER_BYTES_MIN, Part, RunningJob
from lsm.concurrency.threads import call_here
from lsm.errors import UnavailableError
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import marker_name, table_name
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.sst.builder import TableInfo
from lsm.workers.dispatch import Elsewhere
from lsm.workers.pool import StoreAddress

HEARTBEAT_SECONDS = 10.0
"""Seconds between checks that a part in another process makes progress. Each finished table is a heartbeat."""


class Workplace:
    """The executors of parts. `slots`: maximum parts that run at a time; one slot is reserved for jobs that shrink level 0.

    `workers`: worker processes; `None`: all parts run in threads.
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
        """Whether parts of one job can run at the same time."""
        return self._workers is not None and self._address is not None and self._workers.is_open

    def give_up_workers(self, error: BaseException) -> None:
        """Run parts in this process for a while, after one failed in another process."""
        if self._workers is not None:
            self._workers.failed(error)

    def waiting(self, running: Sequence[RunningJob]) -> list[tuple[RunningJob, Part]]:
        """Return the parts that get a slot now, those of jobs that shrink level 0 first."""
        busy = sum(part.is_running for job in running for part in job.parts)
        deep = sum(part.is_running for job in running if not job.is_level0_priority for part in job.parts)
        found: list[tuple[RunningJob, Part]] = []
        for job in sorted(running, key=lambda each: not each.is_level0_priority):
            for part in job.parts:
                if part.future is not None or busy >= self._slots:
                    continue
                if job.is_level0_priority or deep < self._slots - 1:
                    found.append((job, part))
                    busy += 1
                    deep += not job.is_level0_priority
        return found

    def has_room(self, running: Sequence[RunningJob], *, is_level0_priority: bool) -> bool:
        """Whether a further job would get a slot. Parts that already wait for a slot come first."""
        busy = sum(not part.is_done for job in running for part in job.parts)
        deep = sum(not part.is_done for job in running if not job.is_level0_priority for part in job.parts)
        # Waiting parts of deep jobs must not take the slot that is reserved for level 0.
        return busy - max(0, deep - (self._slots - 1)) < self._slots if is_level0_priority else deep < self._slots - 1

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
        """Run a part in a thread of this process. If the executor refuses it, run it in the calling thread. It refuses if no
        thread can be started, or once it is shut down (by its owner or at the end of the main thread)."""
        is_refused = False
        try:
            return self._threads.submit(
                compact,
                self._store,
                self._runtime,
                part.job,
                is_cancelled=lambda: job.is_cancelled or is_refused,  # Some executors keep a call that they refuse.
            )
        except (UnavailableError, RuntimeError):
            is_refused = True
        return call_here(compact, self._store, self._runtime, part.job, lambda: job.is_cancelled)

    def check(self, job: RunningJob) -> None:
        """Check the parts in other processes. Raises: UnavailableError if one finished no table within `stall_seconds`."""
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
        """Whether the part's next table is stored: by its completion marker, or by the table itself if the part keeps none."""
        number = part.job.table_ids[0] + part.tables
        try:
            self._store.head(marker_name(number) if part.job.keeps_markers else table_name(number))
        except ObjectMissing:
            return False
        return True

    def wait_seconds(self, running: Sequence[RunningJob]) -> float | None:
        """Maximum seconds until the parts in other processes must be checked; `None` if there are none."""
        return HEARTBEAT_SECONDS if any(True for job in running for _ in self._elsewhere(job)) else None
