"""The compactor of a writer's process: asks the scheduler, hands jobs to an executor, commits their results."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future

from lsm.compaction.job import CompactionJob, compact, compact_in_worker
from lsm.compaction.plan import CompactionScheduler, CompactionSpec, Sources, check_spec, is_move, with_compaction
from lsm.errors import Error, FencedError, InternalError, InvalidError, UnavailableError
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.reliable import ReliableStore
from lsm.placement import StoreAddress
from lsm.rules import Rules
from lsm.runtime import Runtime, Task
from lsm.sst.builder import TableInfo
from lsm.table_numbers import TableNumbers

RETRY_SECONDS = 0.5
WORKER_BYTES_MIN = 8 << 20
"""Smaller jobs run in a thread: starting a worker would take longer."""


class Compactor:
    """One background thread. A lost race or a dead worker costs a job's outputs, never data."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        store: ReliableStore,
        manifests: ManifestStore,
        rules: Rules,
        scheduler: CompactionScheduler,
        threads: Executor,
        workers: Executor | None,
        address: StoreAddress | None,
        jobs_max: int,
        table_bytes: int,
        snapshots: Callable[[], tuple[int, ...]],
        numbers: TableNumbers,
        on_commit: Callable[[Manifest], None],
        on_failure: Callable[[Error], None],
    ) -> None:
        self._runtime = runtime
        self._changed = runtime.condition()
        self._store = store
        self._manifests = manifests
        self._rules = rules
        self._scheduler = scheduler
        self._threads = threads
        self._workers = workers
        self._address = address
        self._jobs_max = jobs_max
        self._table_bytes = table_bytes
        self._snapshots = snapshots
        self._numbers = numbers
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._running: list[tuple[CompactionSpec, CompactionJob, Future[list[TableInfo]]]] = []
        self._is_due = True
        self._is_stepping = False
        self._is_closing = False
        self._task: Task | None = None
        self.committed = 0
        self.refused = 0
        self.last_refusal: InvalidError | None = None

    def start(self) -> None:
        self._task = self._runtime.spawn("lsm-compact", self._run)

    def wake(self, _done: object = None) -> None:
        """The tree changed, or a job is done."""
        with self._changed:
            self._is_due = True
            self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """No job runs and the scheduler wants none."""
        with self._changed:
            return not (self._running or self._is_due or self._is_stepping)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until the tree is as the scheduler wants it. False after `timeout`."""
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with self._changed:
            while (self._running or self._is_due or self._is_stepping) and not self._is_closing:
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    return False
                self._changed.wait(wait)
        return True

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while not (self._is_due or self._is_closing):
                        self._changed.wait()
                    if self._is_closing:
                        return
                    self._is_due = False
                    self._is_stepping = True
                self._step()
                with self._changed:
                    self._is_stepping = False
                    self._changed.notify_all()
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
            with self._changed:
                self._is_closing = True
                self._changed.notify_all()

    def _step(self) -> None:
        for entry in [entry for entry in self._running if entry[2].done()]:
            spec, job, future = entry
            try:
                self._commit(spec, future.result(), first_number=job.table_numbers[0])
            except (UnavailableError, BrokenExecutor, CancelledError, InvalidError, OSError) as error:
                self._give_up(error)
            finally:
                with self._changed:
                    self._running.remove(entry)
                self._numbers.release(job.table_numbers[0])
        for spec in self._proposals():
            if len(self._running) >= self._jobs_max:
                break
            try:
                self._start(spec)
            except UnavailableError as error:  # A move commits at once.
                self._give_up(error)
            except InvalidError as error:
                self.refused += (
                    1  # A proposal that would lose or reorder rows; the next change of the tree brings others.
                )
                self.last_refusal = error

    def _give_up(self, error: BaseException) -> None:
        """The outputs are garbage now; whatever still needs doing is proposed anew."""
        if isinstance(error, BrokenExecutor):
            self._address = None  # A worker that dies once may always die: go on in this process.
        with self._changed:
            if not self._is_closing:
                self._changed.wait(RETRY_SECONDS)
            self._is_due = True

    def _proposals(self) -> list[CompactionSpec]:
        busy = frozenset(number for spec, _, _ in self._running for number in spec.numbers)
        proposed = self._scheduler.propose(self._manifests.current, busy)
        return [spec for spec in proposed if not spec.numbers & busy]

    def _start(self, spec: CompactionSpec) -> None:
        sources = check_spec(self._manifests.current, spec)
        if is_move(sources):
            self._commit(spec, sources.tables, first_number=None)
            return
        count = _outputs_max(sources, self._table_bytes)
        first = self._numbers.take(count)
        job = CompactionJob(
            rules=self._rules,
            sources=sources,
            snapshots=self._snapshots(),
            table_bytes=self._table_bytes,
            table_numbers=(first, first + count),
        )
        size = sum(table.size for table in sources.tables)
        if self._workers is not None and self._address is not None and size >= WORKER_BYTES_MIN:
            future = self._workers.submit(compact_in_worker, self._address, job)
        else:
            future = self._threads.submit(compact, self._store, self._runtime, job)
        with self._changed:
            self._running.append((spec, job, future))
        future.add_done_callback(self.wake)

    def _commit(self, spec: CompactionSpec, outputs: list[TableInfo], *, first_number: int | None) -> None:
        moved = first_number is None
        wanted = {table.number for table in outputs}

        def edit(manifest: Manifest) -> Manifest | None:
            if not moved and wanted and wanted <= manifest.table_numbers():
                return None  # An earlier attempt whose reply was lost has done it.
            changed = with_compaction(manifest, spec, outputs, moved=moved)
            return self._numbers.settle(changed, committing=first_number)

        manifest = self._manifests.update(edit)
        self.committed += 1
        self._on_commit(manifest)
        self.wake()

    def close(self) -> None:
        """Stop. Running jobs are cancelled or left to finish into garbage."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for _, _, future in list(self._running):
            future.cancel()
        if self._task is not None:
            self._task.join()


def _outputs_max(sources: Sources, table_bytes: int) -> int:
    """More outputs than the job can have: they may be stored without the compression of the sources."""
    size = sum(table.size for table in sources.tables)
    rows = sum(table.rows for table in sources.tables)
    return min(rows, 64 * size // table_bytes) + 2
