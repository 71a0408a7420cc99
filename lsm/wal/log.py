"""Write walk, after `write/writer`, before `wal/frames`: the writer's end of the log, from a batch to durability.

A batch is added to the buffer under the write lock. The buffer is sealed into an object; `group_commit` decides when. The first
thread that waits for durability uploads the object (`upload`); if no thread waits, a background thread does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from lsm.errors import (
    ClosedError,
    Error,
    InvalidError,
    UnavailableError,
    halfway,
    kept,
    out_of_memory,
)
from lsm.object_store.reliable import ReliableStore
from lsm.observe.health import BackgroundHealth
from lsm.runtime import Runtime
from lsm.wal.frames import FrameBuffer
from lsm.wal.group_commit import ROOMY_BYTES, GroupCommit
from lsm.wal.upload import RETRY_SECONDS, Uploader, UploadQueue, UploadThreads, WalObject


class LogLimits(msgspec.Struct, frozen=True):
    """When the buffer is sealed, and how many uploads run at a time."""

    flush_interval: float | None
    """Age in seconds at which a buffer is sealed that no thread waits for. `None` disables sealing by age."""
    object_bytes: int
    """Size at which a buffer is sealed at once."""
    batch_bytes_max: int
    """Maximum bytes per batch: an object of the store holds no more."""
    uploads_max: int
    """Maximum uploads at a time."""


class Waiter:
    """One call of `wait_durable`."""

    __slots__ = ("attempts", "deadline", "is_moving", "seq")

    def __init__(self, seq: int, deadline: float | None, attempts: int) -> None:
        self.seq = seq
        self.deadline = deadline
        """A time of the monotonic clock. `None` is unlimited; such a waiter also uploads."""
        self.attempts = attempts
        """Upload attempts before this call. The call raises only the failure of a later attempt."""
        self.is_moving = False
        """True while an interrupt would lose objects; False during a wait or request."""


class WriteAheadLog:
    """The writer's end of the log. Methods that end in `_locked` require the write lock; the others require not holding it."""

    def __init__(
        self,
        store: ReliableStore,
        runtime: Runtime,
        lock: Any,
        *,
        database: bytes,
        epoch: int,
        next_number: int,
        durable_seq: int,
        limits: LogLimits,
        health: BackgroundHealth,
    ) -> None:
        self._store = store.with_cause("wal")
        self._runtime = runtime
        self._health = health
        self._batch_bytes_max = limits.batch_bytes_max
        self._durable_cv = runtime.condition(lock)
        """Notified when `durable_seq` moves, when an upload ends, and when the log fails."""
        # Guarded by the write lock:
        self._buffer = FrameBuffer()
        self._first_seq = 0
        """The first batch of the buffer."""
        self._groups = GroupCommit(limits.flush_interval, limits.object_bytes)
        self._queue = UploadQueue(next_number, limits.uploads_max)
        self._is_late = False
        """Whether a background thread found the buffer due while no further upload could start."""
        self._listeners: list[tuple[Callable[[], None], Callable[[], None]]] = []
        # Changed under the write lock, read without:
        self._fatal: Error | None = None
        self.durable_seq = durable_seq
        """The newest durable batch."""
        self.sealed_count = 0
        """Objects sealed so far."""
        self._uploader = Uploader(self._store, runtime, lock, self._queue, database=database, epoch=epoch)
        self._threads = UploadThreads(
            runtime,
            lock,
            threads_max=self._queue.uploads_max,
            next_step=self._next_background_step_locked,
            upload=self._upload,
            on_failure=self._thread_failed,
        )

    # -- adding -------------------------------------------------------------------------------------------------------

    def make_room_locked(self, size: int) -> None:
        """Seal the buffer if a batch of `size` bytes would make its object too large.

        Raises: InvalidError if no object of the store can hold the batch.
        """
        if size <= ROOMY_BYTES:
            return
        limit = self._batch_bytes_max
        if size > limit:
            raise InvalidError(f"a batch of {size} bytes is too large for {self._store.url}: at most {limit} fit")
        if self._buffer.size + size > limit:
            self.seal_locked()

    def encode_pending_locked(self) -> None:
        """Encode the buffer, so that memory cannot run out between two parts of a batch. Raises: UnavailableError."""
        self._buffer.encode_pending()

    def add_rows_locked(self, seq: int, keys: Sequence[bytes], kinds: Sequence[int], values: Sequence[bytes]) -> None:
        if self._buffer.is_empty:
            self._begin_locked(seq)
        self._buffer.add_rows(seq, keys, kinds, values)

    def add_series_locked(
        self, seq: int, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes], size: int
    ) -> None:
        if self._buffer.is_empty:
            self._begin_locked(seq)
        self._buffer.add_series(seq, family, names, first, values, size)

    def _begin_locked(self, seq: int) -> None:
        """Record that `seq` is the first batch of the buffer."""
        self._first_seq = seq
        self._groups.buffered_since = self._runtime.monotonic()
        self._threads.add_work_locked()

    def end_batch_locked(self) -> None:
        """Seal a full buffer. Called after all rows of a batch, because a batch never spans two objects."""
        if self._buffer.size >= self._groups.object_bytes:
            with suppress(UnavailableError):  # The batch is accepted; the buffer is sealed when memory is free again.
                self.seal_locked()
        elif self._threads.is_missing:
            self._threads.add_work_locked()

    def seal_locked(self) -> None:
        """Seal the buffer into an object to be uploaded. Raises: UnavailableError: out of memory, and nothing changed."""
        if not self._buffer.is_empty:
            sealed = WalObject(self._buffer.take(), self._first_seq, self._buffer.last_seq)
            self.sealed_count += 1
            self._queue.add(sealed)
            self._threads.add_work_locked()

    @property
    def fatal(self) -> Error | None:
        """Why no further batch can become durable; `None` while batches can."""
        return self._fatal

    @property
    def durable_number(self) -> int:
        """Number of the newest durable object."""
        return self._queue.durable_number

    def raise_outage_locked(self) -> None:
        """Raise the error that keeps batches from becoming durable, if any."""
        if self._fatal is not None:
            raise kept(self._fatal)
        if self._queue.outage is not None:
            outage = self._queue.outage
            text = f"the log cannot be written at present: {outage}"
            raise UnavailableError(text, retryable=outage.retryable) from outage

    def objects_between_locked(self, first_seq: int, last_seq: int) -> tuple[int, int] | None:
        """Return the first and last number of the durable objects that hold batches first_seq to last_seq. `None`: this
        writer wrote none of them; recovery found them. Forgets older objects. Requires: the objects are durable, and the log
        was cut at those batches."""
        return self._queue.objects_between(first_seq, last_seq)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait_durable(self, seq: int, timeout: float | None = None) -> None:
        """Return once batch `seq` is durable. Without a timeout, the caller uploads objects that no other thread uploads.

        Raises: TimeoutError, FencedError, UnavailableError, ClosedError.
        """
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        waiter = Waiter(seq, deadline, self._queue.attempts)
        with self._durable_cv:
            self._groups.join(seq)
        # Other threads wait for this one's upload and timer, so a signal handler in this thread must not wait for those
        # threads: neither would go on.
        me, obliged = self._runtime.thread_id(), self._runtime.obliged
        before = obliged.get(me)
        try:
            obliged[me] = sys._getframe()
            while (upload := self._await(waiter)) is not None:
                self._upload(upload, waiter)
        except TimeoutError:
            raise TimeoutError(f"not durable after {timeout} s") from None
        except BaseException as error:
            if waiter.is_moving and not isinstance(error, Error):
                with self._durable_cv:
                    self.fail_locked(halfway("a flush", error))
            raise
        finally:
            if before is None:
                obliged.pop(me, None)
            else:
                obliged[me] = before
            with self._durable_cv:
                groups = self._groups
                groups.leave(seq)
                is_idle = not (groups.has_timer or self._queue.uploading)
                if self.durable_seq < seq or (is_idle and groups.waiting(self.durable_seq)):
                    self._durable_cv.notify_all()  # This waiter may have held the timer; another one takes it.

    def _await(self, waiter: Waiter) -> WalObject | None:
        """Wait until the batch is durable and return `None`, or return an object that the caller must upload now."""
        with self._durable_cv:
            waiter.is_moving = True
            while self.durable_seq < waiter.seq:
                if self._fatal is not None:
                    raise kept(self._fatal)
                if (outage := self._queue.outage_since(waiter.attempts)) is not None:
                    text = f"the log could not be written: {outage}"
                    raise UnavailableError(text, retryable=outage.retryable) from outage
                if waiter.deadline is not None:
                    if not self._queue.uploading and not self._queue.has_sealed:
                        self.seal_locked()  # A background thread uploads it, however long that takes.
                elif (upload := self._next_upload_locked(is_awaited=True)) is not None:
                    return upload
                now = self._runtime.monotonic()
                if waiter.deadline is not None and now >= waiter.deadline:
                    raise TimeoutError
                self._sleep_locked(waiter, now)
        return None

    def _sleep_locked(self, waiter: Waiter, now: float) -> None:
        """Sleep until notified; at most until the deadline and, with the timer, until its end."""
        groups, is_uploading = self._groups, bool(self._queue.uploading)
        waits = [] if waiter.deadline is None else [waiter.deadline - now]
        # With nothing to upload, no timer is needed: only a flush to tables is left to make the batch durable.
        has_work = is_uploading or self._queue.has_sealed or not self._buffer.is_empty
        takes_timer = has_work and not groups.has_timer
        if takes_timer:
            # One waiter keeps the time for all: when gathering ends, and when a second upload may start.
            waits.append(groups.timer_seconds(now, is_uploading=is_uploading))
        waiter.is_moving = False
        try:
            if takes_timer:
                groups.has_timer = True
            self._durable_cv.wait(min(waits, default=None))
        finally:
            if takes_timer:
                groups.has_timer = False
        waiter.is_moving = True

    def wait_beyond(self, seq: int, timeout: float | None) -> int:
        """Wait until a batch newer than `seq` is durable; return the newest durable batch. Does not start an upload."""
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with self._durable_cv:
            while self.durable_seq <= seq:
                if self._fatal is not None:
                    raise kept(self._fatal)
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    raise TimeoutError(f"nothing newer became durable within {timeout} s")
                self._durable_cv.wait(wait)
            return self.durable_seq

    def subscribe(self, on_durable: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Register callbacks: `on_durable` for when `durable_seq` may have advanced, `on_failure` for when no further batch can
        become durable. They run under the write lock: they must be quick and must not call the database."""
        with self._durable_cv:
            self._listeners.append((on_durable, on_failure))

    def _tell_durable_locked(self) -> None:
        for on_durable, _ in self._listeners:
            on_durable()

    # -- uploading ----------------------------------------------------------------------------------------------------

    def _next_upload_locked(self, *, is_awaited: bool) -> WalObject | None:
        """Return the next object to upload, if any. If no sealed object is left, seal the buffer."""
        queue, groups = self._queue, self._groups
        if not queue.has_room:
            return None
        if not queue.has_sealed:
            if self._buffer.is_empty:
                return None
            now = self._runtime.monotonic()
            if is_awaited and not groups.may_seal(now, self.durable_seq, is_uploading=bool(queue.uploading)):
                return None
            try:
                self.seal_locked()
            except UnavailableError as error:
                queue.failed_to_seal(error)
                self._durable_cv.notify_all()
                return None
        upload = queue.start()
        groups.upload_started(self._runtime.monotonic())
        return upload

    def _upload(self, upload: WalObject, waiter: Waiter | None = None) -> None:
        """Store one object, record the outcome and notify waiters. `waiter`: the call of `wait_durable`, if one uploads."""
        try:
            try:
                self._uploader.put(upload)
            except MemoryError as error:
                raise out_of_memory("the log was not written", error) from error
        except BaseException as error:
            fatal = error if isinstance(error, Error) and not isinstance(error, UnavailableError) else None
            with self._durable_cv:
                self._queue.failed(upload, error)
                self._durable_cv.notify_all()
                # The next waiter may come late or never, so a background thread retries until the outage is over.
                self._threads.add_work_locked()
                if fatal is not None:
                    self.fail_locked(fatal)
            if fatal is not None:
                self._health.stopped(fatal)
            if waiter is not None:
                waiter.is_moving = False  # The failed upload is queued again, so an interrupt loses nothing.
            raise
        with self._durable_cv:
            durable_seq = self._queue.stored(upload)
            if durable_seq is not None:
                self.durable_seq = durable_seq
            self._tell_durable_locked()
            self._groups.upload_ended(self._runtime.monotonic())
            self._durable_cv.notify_all()
            if self._queue.has_sealed or self._is_late:
                self._is_late = False
                self._threads.wake_locked()

    # -- for the background threads -----------------------------------------------------------------------------------

    def _next_background_step_locked(self) -> tuple[WalObject | None, float | None]:
        """Return the object to upload now; or `None`, and the seconds to sleep (`None`: until notified)."""
        queue = self._queue
        upload: WalObject | None = None
        seconds: float | None = None
        if queue.has_sealed:
            upload = self._next_upload_locked(is_awaited=False)
        elif not self._buffer.is_empty:
            seconds = self._groups.seconds_until_due(self._runtime.monotonic())
            if seconds is not None and seconds <= 0:
                upload, seconds = self._next_upload_locked(is_awaited=False), None
                self._is_late = upload is None  # The end of an upload makes room and wakes a thread.
        is_stuck = upload is None and seconds is None and queue.outage is not None and not queue.uploading
        if is_stuck and not self._buffer.is_empty:
            seconds = RETRY_SECONDS  # Memory ran out, and no event would bring a thread back to the buffer.
        return upload, seconds

    def _thread_failed(self, error: Error) -> None:
        with self._durable_cv:
            self.fail_locked(error)
        self._health.stopped(error)

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail_locked(self, error: Error) -> None:
        """Refuse further work with `error`, and wake every waiting thread."""
        if self._fatal is None:
            self._fatal = error
            for _, on_failure in self._listeners:
                on_failure()
        self._durable_cv.notify_all()
        self._threads.stop_locked()

    def mark_durable_locked(self, seq: int) -> None:
        """Record that tables make batches up to `seq` durable."""
        if seq > self.durable_seq:
            self.durable_seq = seq
            self._tell_durable_locked()
            self._durable_cv.notify_all()

    def close(self) -> None:
        """Stop the background threads, after they upload what they can. No further batch becomes durable."""
        self._threads.close()
        with self._durable_cv:
            self.fail_locked(ClosedError("the database is closed: open it again"))
