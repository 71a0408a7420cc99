"""Write walk, after `write/writer`, before `write/flush_builds`: the thread that turns frozen memtables into level-0 tables.

docs/protocol.md, rules F1 to F3. The thread builds several memtables at a time (`flush_builds`) and commits their tables
(`flush_commits`) strictly in the order of their batches. A build starts only when the log covers the memtable: otherwise
a table could hold rows that a crash takes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, Final

import msgspec

from lsm.errors import Error, FencedError, InternalError, UnavailableError, kept
from lsm.manifest.model import Manifest
from lsm.observe.health import BackgroundHealth
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime, Task
from lsm.view import LiveViews
from lsm.write.flush_builds import Build, TableBuilds
from lsm.write.flush_commits import FlushCommits
from lsm.write.writer import Writer

RETRY_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.5


class FlushLimits(msgspec.Struct, frozen=True):
    """Maximum memtables that are built at a time, and when flushes wait for a compaction."""

    slots: int
    """Maximum memtables under way while batches are appended."""
    slots_at_close: int
    """Maximum memtables under way when no more batches come."""
    l0_max_ssts: int
    """Tables in the fullest level 0, memtables under way included, at which no further memtable is flushed."""
    stall_seconds: float
    """Seconds that a call waits for a compaction when level 0 is full."""


class Flusher:
    """The flush thread. Methods that end in `_locked` require the write lock; the others require not holding it."""

    def __init__(
        self,
        runtime: Runtime,
        lock: Any,
        *,
        writer: Writer,
        views: LiveViews,
        builds: TableBuilds,
        commits: FlushCommits,
        limits: FlushLimits,
        on_commit: Callable[[Manifest], None],
        health: BackgroundHealth,
    ) -> None:
        self._runtime = runtime
        self._writer = writer
        self._views = views
        self._builds = builds
        self._commits = commits
        self._limits = limits
        self._on_commit = on_commit
        self._health = health
        self._task: Task | None = None
        self._flush_cv = runtime.condition(lock)
        """Notified when a memtable is frozen or built, when a manifest is committed, and when the thread fails or closes."""
        # Changed by the flush thread under the write lock, read by others under it:
        self._building: deque[Build] = deque()
        """Oldest first, which is the order of the commits."""
        self._is_stepping = False
        self._failures = 0
        self._error: Error | None = None
        """Why the last step failed; `None` if it succeeded."""
        self.flushed_seq = views.current.manifest.last_seq
        # Guarded by the write lock:
        self._is_draining = False
        self._is_closing = False

    def start(self) -> None:
        """Start the thread."""
        self._task = self._runtime.spawn("lsm-flush", self._run)

    def wake_locked(self) -> None:
        """Wake the thread after a freeze, a build or a compaction."""
        self._flush_cv.notify_all()

    def warm_up(self) -> None:
        """As `TableBuilds.warm_up`. Never raises."""
        self._builds.warm_up()

    def wait_flushed(self, seq: int) -> None:
        """Return once batches up to `seq` are in committed tables.

        Raises: the error that stops the flush; UnavailableError if level 0 is full and no compaction shrinks it within
        `op_timeout`.
        """
        stall_seconds = self._limits.stall_seconds
        with self._flush_cv:
            # A step under way may have begun in an outage that is over by now, so one failure of it is allowed.
            failures = self._failures + bool(self._building or self._is_stepping)
            stalled_since: float | None = None
            while self.flushed_seq < seq:
                if self._writer.poison is not None:
                    raise kept(self._writer.poison)
                if self._failures > failures and self._error is not None:
                    raise kept(self._error)
                if self._building or not self._is_level0_full():
                    stalled_since = None
                elif stalled_since is None:
                    stalled_since = self._runtime.monotonic()
                elif self._runtime.monotonic() - stalled_since >= stall_seconds:
                    raise UnavailableError(
                        f"level 0 is full ({self._limits.l0_max_ssts} tables) and no compaction relieved it within "
                        f"{stall_seconds} s: see status() for refused or failing compactions"
                    )
                self._flush_cv.wait(stall_seconds if stalled_since is not None else None)

    # -- the background thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                with self._flush_cv:
                    is_woken = True
                    while is_woken and not (self._is_closing or self._can_dispatch() or self._is_built()):
                        is_woken = self._flush_cv.wait(POLL_SECONDS if self._is_stalled() else None)
                    if self._is_closing:
                        return
                    self._is_stepping = is_woken
                if is_woken:
                    self._step()
                    self._is_stepping = False
                else:
                    self._poll_level0()
        except BaseException as error:
            if isinstance(error, Error):
                found = self._commits.explain(error)
                failure = found if isinstance(found, FencedError) else error
            else:
                failure = InternalError(f"the flush thread failed: {error!r}")
            if failure is not error:
                failure.__cause__ = error
            self._fail(failure)

    def _frozen(self) -> tuple[Memtable, ...]:
        """Frozen memtables, oldest first."""
        return self._views.current.memtables[:0:-1]

    def _can_dispatch(self) -> bool:
        waiting = self._frozen()[len(self._building) :]
        limits = self._limits
        if not waiting or len(self._building) >= (limits.slots_at_close if self._is_draining else limits.slots):
            return False
        return self._is_draining or not self._is_level0_full()  # Closing does not wait for a compaction.

    def _is_level0_full(self) -> bool:
        partitions = self._views.current.manifest.partitions
        fullest = max((len(partition.l0) for partition in partitions), default=0)
        return fullest + len(self._building) >= self._limits.l0_max_ssts

    def _is_stalled(self) -> bool:
        return len(self._views.current.memtables) > 1 and not self._building and self._is_level0_full()

    def _poll_level0(self) -> None:
        """Poll the manifest while level 0 is full: another process may compact, and this one gets no notice of it."""
        try:
            manifest = self._commits.poll()
        except (UnavailableError, OSError) as error:
            self._pause(error)
            return
        if manifest is not None:
            self._on_commit(manifest)

    def _is_built(self) -> bool:
        return bool(self._building) and self._building[0].future.done()

    def _step(self) -> None:
        try:
            if self._can_dispatch():
                self._dispatch(self._frozen()[len(self._building)])
            if self._is_built():
                build = self._building[0]
                error = build.future.exception()
                if error is not None and build.is_elsewhere:
                    self._build_here(build, error)
                    return
                self._commit(build)
                with self._flush_cv:
                    self._building.popleft()
                    self._error = None
                    # `wait_flushed` times a full level 0 only while nothing is being built, so waiters look again.
                    self._flush_cv.notify_all()
                self._builds.release(build)
                self._health.succeeded("flush")
        except (UnavailableError, CancelledError, OSError, MemoryError) as error:
            self._health.failed("flush", error)
            self._pause(error)

    def _dispatch(self, table: Memtable) -> None:
        build = self._builds.start(table, under_way=len(self._building))
        with self._flush_cv:
            self._building.append(build)
        build.future.add_done_callback(self._built)

    def _build_here(self, build: Build, error: BaseException) -> None:
        """Build the memtable of a failed worker again, in this process."""
        again = self._builds.again_here(build, error)
        with self._flush_cv:
            self._building[0] = again
        self._builds.release(build)
        again.future.add_done_callback(self._built)

    def _built(self, _future: object) -> None:
        with self._flush_cv:
            self.wake_locked()

    def _commit(self, build: Build) -> None:
        table = build.table
        manifest = self._commits.commit(table, build.future.result(), build.first_number)
        self._writer.release(table)
        with self._flush_cv:
            self.flushed_seq = table.last_seq
            self._flush_cv.notify_all()
        self._on_commit(manifest)

    def _pause(self, error: BaseException) -> None:
        """Drop all uncommitted builds and pause. They are repeated under new table numbers; the old tables are garbage."""
        for build in self._building:
            build.future.cancel()
            self._builds.release(build)
        with self._flush_cv:
            self._building.clear()
            self._failures += 1
            self._error = error if isinstance(error, Error) else UnavailableError(f"a flush failed: {error!r}")
            self._flush_cv.notify_all()
            if not self._is_closing:
                self._flush_cv.wait(RETRY_SECONDS)

    # -- the end ------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Allow `slots_at_close` builds. Requires: no more batches come, so builds may use the writer's core, too."""
        with self._flush_cv:
            self._is_draining = True
            self._flush_cv.notify_all()

    def _fail(self, error: Error) -> None:
        self._writer.fail(error)
        self._health.stopped(error)
        with self._flush_cv:
            self._flush_cv.notify_all()

    def close(self) -> None:
        """Stop the thread. The log keeps the batches of frozen memtables."""
        with self._flush_cv:
            self._is_closing = True
            self._flush_cv.notify_all()
        if self._task is not None:
            self._task.join()
