"""Write walk, after `wal/frames`, before `object_store/probe`: stores sealed buffers as numbered objects, created once.

docs/protocol.md, rules W1 to W6. Several uploads may run at once; the objects become durable in the order of their numbers.
Source: SlateDB writes one object after the other on a fixed tick. Parallel uploads are safe here because recovery fences the
first gap, replay skips objects of an older epoch, and the manifest keeps the oldest epoch that counts.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from lsm.coding import KIND_WAL_DATA, KIND_WAL_FENCE, Envelope, open_envelope, seal_envelope
from lsm.errors import Error, FencedError, InternalError, UnavailableError, internal
from lsm.object_store.contract import ObjectExists, ObjectMissing
from lsm.object_store.names import wal_name
from lsm.object_store.probe import probe_conditional_create, put_on_proof
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime, Task
from lsm.wal.frames import WAL_VERSION, encode_mark

PIPELINE_MAX: Final = 8
"""Maximum objects under way per writer. The first PIPELINE_MAX numbers after a fence are written one by one, because a fenced
writer's late objects may still take them (rule W5)."""
RETRY_SECONDS: Final = 0.1
"""Pause of a background thread after a failed attempt."""


class WalObject:
    """A sealed buffer. It gets its number when its first upload starts, and keeps it through every retry."""

    __slots__ = ("attempt", "first_seq", "frames", "is_stored", "last_seq", "number", "parts")

    def __init__(self, frames: list[bytes], first_seq: int, last_seq: int) -> None:
        self.frames = frames
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.number = 0
        """0: no number yet."""
        self.parts: list[bytes] = []
        """The bytes of the object. Empty: not encoded for this number yet."""
        self.is_stored = False
        self.attempt = 0
        """Number of this object's last upload, counted over all uploads."""


class UploadQueue:
    """Sealed objects until they are durable: their order, their numbers, and failed uploads.

    Guarded by the write lock: every call requires it. `durable_number` and `outage` may be read without it.
    """

    def __init__(self, next_number: int, uploads_max: int) -> None:
        self._next_number = next_number
        self._serial_until = next_number + PIPELINE_MAX
        self._uploads_max = min(uploads_max, PIPELINE_MAX)
        self._sealed: deque[WalObject] = deque()
        """Objects that wait for an upload. Retries come first, in the order of their numbers."""
        self._under_way: deque[WalObject] = deque()
        """Objects that have a number but are not durable, in the order of their numbers."""
        self._written: deque[WalObject] = deque()
        """Durable objects whose batches may not be in tables yet."""
        self._is_refused = False
        """Whether the last upload failed with an error that is not retryable."""
        self.uploading = 0
        """Number of threads that upload."""
        self.attempts = 0
        """Attempts made so far."""
        self.failed_attempt = 0
        """Ordinal of the newest attempt that failed."""
        self.outage: UnavailableError | None = None
        """Why objects cannot be stored at present."""
        self.durable_number = next_number - 1
        """Number of the newest durable object."""

    @property
    def uploads_max(self) -> int:
        """Maximum uploads at a time."""
        return self._uploads_max

    @property
    def has_sealed(self) -> bool:
        """Whether an object waits for a thread to upload it."""
        return bool(self._sealed)

    @property
    def has_room(self) -> bool:
        """Whether another upload may start now (rule W5)."""
        if self.uploading >= (1 if self.is_serial(self._next_number) else self._uploads_max):
            return False
        # However slow an upload is, no other one starts more than PIPELINE_MAX numbers ahead of it.
        is_retry = bool(self._sealed and self._sealed[0].number)
        return is_retry or len(self._under_way) < PIPELINE_MAX

    def is_serial(self, number: int) -> bool:
        """Whether a fenced writer's late object may take this number. If so, the object is written alone."""
        return number <= self._serial_until

    def add(self, sealed: WalObject) -> None:
        self._sealed.append(sealed)

    def start(self) -> WalObject:
        """Return the next object to upload, with its number. Requires: `has_room` and `has_sealed`."""
        upload = self._sealed.popleft()
        if not upload.number:
            self.give_number(upload)
            self._under_way.append(upload)
        self.uploading += 1
        self.attempts += 1
        upload.attempt = self.attempts
        return upload

    def give_number(self, upload: WalObject) -> None:
        """Give the object the next free number, either as its first or because a fenced writer's object took its number."""
        upload.number = self._next_number
        self._next_number += 1
        upload.parts = []

    def stored(self, upload: WalObject) -> int | None:
        """Record that `upload` is stored. Return the newest durable batch; `None`: an earlier object is not stored yet."""
        self.uploading -= 1
        upload.is_stored = True
        upload.frames, upload.parts = [], []
        durable_seq: int | None = None
        while self._under_way and self._under_way[0].is_stored:
            durable = self._under_way.popleft()
            durable_seq = durable.last_seq
            self.durable_number = durable.number
            self._written.append(durable)
        self.outage = None
        self._is_refused = False
        return durable_seq

    def failed(self, upload: WalObject, error: BaseException) -> None:
        """Record that `upload` failed. Its retry sends the same bytes under the same number, and comes before later numbers."""
        self.uploading -= 1
        self._sealed.appendleft(upload)
        self._sealed = deque(sorted(self._sealed, key=lambda sealed: sealed.number or 1 << 64))
        self.failed_attempt = max(self.failed_attempt, upload.attempt)
        if isinstance(error, UnavailableError):
            # A single error that is not retryable is no outage yet: the upload was tried only once, so the error may pass.
            if error.retryable or self._is_refused:
                self.outage = error
            self._is_refused = not error.retryable

    def failed_to_seal(self, error: UnavailableError) -> None:
        """Record that memory ran out while the buffer was sealed. It counts as a failed attempt."""
        self.outage = error
        self.attempts += 1
        self.failed_attempt = self.attempts

    def outage_since(self, attempts: int) -> UnavailableError | None:
        """Return the outage if an attempt numbered above `attempts` failed; `None` if none did, or the outage is over."""
        return self.outage if self.failed_attempt > attempts else None

    def objects_between(self, first_seq: int, last_seq: int) -> tuple[int, int] | None:
        """As `WriteAheadLog.objects_between_locked`."""
        while self._written and self._written[0].last_seq < first_seq:
            self._written.popleft()
        numbers = [found.number for found in self._written if found.last_seq <= last_seq]
        return (numbers[0], numbers[-1]) if numbers else None


class Uploader:
    """Stores objects, one at a time per calling thread. Holds no lock during a request."""

    def __init__(
        self, store: ReliableStore, runtime: Runtime, lock: Any, queue: UploadQueue, *, database: bytes, epoch: int
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._lock = lock
        self._queue = queue
        self._database = database
        self._epoch = epoch

    def put(self, upload: WalObject) -> None:
        """Store the object. If a fenced writer's object took its number, store it under another number.

        Raises: FencedError, UnavailableError, InternalError, MemoryError. Requires: not holding the write lock.
        """
        while True:
            name = wal_name(upload.number)
            if not upload.parts:
                upload.parts = seal_envelope(
                    name,
                    KIND_WAL_DATA,
                    WAL_VERSION,
                    database=self._database,
                    number=upload.number,
                    epoch=self._epoch,
                    nonce=self._runtime.random_bytes(16),
                    body=[encode_mark(self._queue.durable_number), *upload.frames],
                )
            try:
                put_on_proof(self._store, name, upload.parts)
                return
            except ObjectExists:
                if self._is_ours(upload):
                    return
            with self._lock:
                # Rule W5: a fenced writer's late object took the number; replay skips it by its epoch.
                self._queue.give_number(upload)

    def _is_ours(self, upload: WalObject) -> bool:
        """Whether the object that has the number is `upload` itself. False: it is a fenced writer's object.

        Raises: FencedError if a newer writer took the number.
        """
        number = upload.number
        name = wal_name(number)

        def read() -> tuple[bytes, Envelope]:
            data = self._store.get(name)
            kinds = (KIND_WAL_DATA, KIND_WAL_FENCE)
            return data, open_envelope(
                name, data, kinds=kinds, versions=WAL_VERSION, number=number, database=self._database
            )

        try:
            data, found = self._store.insist(read, is_known=True)
        except ObjectMissing:
            raise FencedError(f"{name} was written and collected by a newer writer: stop using this handle") from None
        if data == b"".join(upload.parts):
            return True
        if found.epoch > self._epoch:
            raise FencedError(
                f"a newer writer (epoch {found.epoch}) took over from this one (epoch {self._epoch}): "
                "stop using this handle"
            )
        if found.epoch == self._epoch or not self._queue.is_serial(number):
            probe_conditional_create(self._store)
            raise InternalError(f"{name} was written twice under epoch {self._epoch}; please report this")
        return False


class UploadThreads:
    """The threads `lsm-wal-<i>`, which upload objects that no waiter uploads. A further one starts when all are busy."""

    def __init__(
        self,
        runtime: Runtime,
        lock: Any,
        *,
        threads_max: int,
        next_step: Callable[[], tuple[WalObject | None, float | None]],
        upload: Callable[[WalObject], None],
        on_failure: Callable[[Error], None],
    ) -> None:
        """`next_step`: called under the write lock; returns the object to upload now, or `None` and the seconds to sleep
        (`None`: until notified). `upload`: called without the lock. `on_failure`: called when an error ended a thread."""
        self._runtime = runtime
        self._work_cv = runtime.condition(lock)
        self._threads_max = threads_max
        self._next_step = next_step
        self._upload = upload
        self._on_failure = on_failure
        # Guarded by the write lock:
        self._tasks: list[Task] = []
        self._busy = 0
        self._is_closing = False
        self._is_stopped = False
        self.is_missing = False
        """Whether there is work but no thread, because none could be started."""

    def add_work_locked(self) -> None:
        """Notify a thread that there is an object to upload, or a buffer to seal later."""
        if len(self._tasks) < self._threads_max and self._busy == len(self._tasks) and not self._is_closing:
            self._busy += 1
            try:
                self._tasks.append(self._runtime.spawn(f"lsm-wal-{len(self._tasks)}", self._run))
                self.is_missing = False
            except UnavailableError:
                # The batch stays in the buffer. The next batch tries to start a thread again, and a waiter uploads without one.
                self._busy -= 1
                self.is_missing = not self._tasks
        self._work_cv.notify()

    def wake_locked(self) -> None:
        """Wake a thread for the next upload, after another upload ended."""
        self._work_cv.notify()

    def stop_locked(self) -> None:
        """End the threads after their current uploads. Nothing else is uploaded."""
        self._is_stopped = True
        self._work_cv.notify_all()

    def close(self) -> None:
        """Let the threads upload what they can, and return when they have ended. Requires: not holding the write lock."""
        with self._work_cv:
            self._is_closing = True
            self._work_cv.notify_all()
            tasks = list(self._tasks)
        for task in tasks:
            task.join()

    def _run(self) -> None:
        try:
            with self._work_cv:
                self._serve_locked()
        except BaseException as error:
            self._on_failure(internal(f"the log's background thread failed: {error!r}", error))

    def _serve_locked(self) -> None:
        """The loop of a thread. Releases the lock while it sleeps or uploads."""
        me = self._runtime.thread_id()
        while not self._is_stopped:
            upload, seconds = self._next_step()
            if upload is None:
                if self._is_closing:
                    return
                self._busy -= 1
                self._work_cv.wait(seconds)
                self._busy += 1
                continue
            self._work_cv.release()
            try:
                self._runtime.obliged[me] = sys._getframe()
                self._upload(upload)
            except Error:
                self._runtime.sleep(RETRY_SECONDS)  # The queue keeps the object for the next attempt.
            finally:
                self._runtime.obliged.pop(me, None)
                self._work_cv.acquire()
