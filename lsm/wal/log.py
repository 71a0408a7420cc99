"""Write walk, after `write/writer`, before `rows/memtable`: group commit into numbered create-only objects.

A batch is added to the buffer under the write lock. The first thread that waits for durability seals the buffer and uploads
it itself; those who arrive meanwhile share the next object. Nobody waiting, a background thread does it after
`flush_interval`, or when the buffer is full.

docs/protocol.md, rules W1 to W6. Several objects may be under way at once; they become durable in order. Source: SlateDB
writes one object after the other on a fixed tick; the pipeline here is safe because recovery fences the first gap, skips
objects of an older epoch, and the manifest remembers the oldest epoch that counts.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from lsm.coding import KIND_WAL_DATA, KIND_WAL_FENCE, Envelope, open_envelope, seal_envelope
from lsm.errors import (
    ClosedError,
    Error,
    FencedError,
    InternalError,
    InvalidError,
    UnavailableError,
    halfway,
    internal,
    kept,
    out_of_memory,
)
from lsm.object_store.contract import ObjectExists, ObjectMissing
from lsm.object_store.names import wal_name
from lsm.object_store.probe import probe_conditional_create, put_on_proof
from lsm.object_store.reliable import ReliableStore
from lsm.observe.health import BackgroundHealth
from lsm.runtime import Runtime, Task
from lsm.wal.frames import WAL_VERSION, FrameBuffer, encode_mark
from lsm.wal.turn import GATHER_SECONDS_MAX, GATHER_SHARE, JOIN_SECONDS, RETRY_SECONDS, Turn, WalObject

PIPELINE_MAX: Final = 8
"""No writer has more objects under way. The first PIPELINE_MAX numbers after a fence are written one by one, because a
fenced writer's late objects may still land there (rule W5)."""
ROOMY_BYTES: Final = 1 << 20
"""A batch up to this size fits wherever the buffer stands."""


class WriteAheadLog:
    """The writer's end of the log. Methods say whether they need the write lock."""

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
        flush_interval: float | None,
        object_bytes: int,
        uploads_max: int,
        batch_bytes_max: int,
        health: BackgroundHealth,
    ) -> None:
        self._health = health
        self._store = store.with_cause("wal")
        self._runtime = runtime
        self._lock = runtime.condition(lock)
        self._work = runtime.condition(lock)
        self._database = database
        self._epoch = epoch
        self._next_number = next_number
        self.durable_number = next_number - 1
        self._serial_until = next_number + PIPELINE_MAX
        self._interval = flush_interval
        self._object_bytes = object_bytes
        self._uploads_max = min(uploads_max, PIPELINE_MAX)
        self._batch_bytes_max = batch_bytes_max
        self._buffer = FrameBuffer()
        self._buffered_since = 0.0
        self._first_seq = 0
        self._sealed: deque[WalObject] = deque()
        self._under_way: deque[WalObject] = deque()
        self._uploading = 0
        self._last_start = 0.0
        self._awaited: list[int] = []
        self._is_timed = False
        self._last_group = 0
        self._gather_until = 0.0
        self._written: deque[WalObject] = deque()
        self._tasks: list[Task] = []
        self._busy_tasks = 0
        self._is_late = False
        self._lacks_thread = False
        self._is_closing = False
        self._fatal: Error | None = None
        self._listeners: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._attempts = self._failed_attempt = 0
        self._outage: Error | None = None
        self._is_refused = False
        self.durable_seq = durable_seq
        self.unwritten_bytes = 0
        self.sealed_count = 0

    # -- adding, under the write lock ----------------------------------------------------------------------------------

    def make_room(self, size: int) -> None:
        """A batch of `size` bytes follows: it must fit into the object it goes to.

        Raises: InvalidError where no object of the store can hold it.
        """
        if size <= ROOMY_BYTES:
            return
        limit = self._batch_bytes_max
        if size > limit:
            raise InvalidError(f"a batch of {size} bytes is too large for {self._store.url}: at most {limit} fit")
        if self._buffer.size + size > limit:
            self.seal()

    def encode_pending(self) -> None:
        """So that a batch of several parts cannot fail for want of memory between two. Raises: UnavailableError."""
        self._buffer.encode_pending()

    def add_rows(self, seq: int, keys: Sequence[bytes], kinds: Sequence[int], values: Sequence[bytes]) -> None:
        self._begin(seq)
        self._buffer.add_rows(seq, keys, kinds, values)

    def add_series(
        self, seq: int, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes], size: int
    ) -> None:
        self._begin(seq)
        self._buffer.add_series(seq, family, names, first, values, size)

    def end_batch(self) -> None:
        """All rows of a batch are added. A batch never spans two objects, so only here may the buffer be sealed."""
        if self._buffer.size >= self._object_bytes:
            with suppress(UnavailableError):  # The batch is accepted; the buffer is sealed when there is memory again.
                self.seal()
        elif self._lacks_thread:
            self._wake()

    def _begin(self, seq: int) -> None:
        if self._buffer.is_empty:
            self._first_seq = seq
            self._buffered_since = self._runtime.monotonic()
            self._wake()

    def seal(self) -> None:
        """Close the buffer into an object of its own, to be uploaded. Raises: UnavailableError: out of memory, as before."""
        if not self._buffer.is_empty:
            sealed = WalObject(self._buffer.take(), self._first_seq, self._buffer.last_seq)
            self.unwritten_bytes += sealed.size
            self.sealed_count += 1
            self._sealed.append(sealed)
            self._wake()

    def _wake(self) -> None:
        if len(self._tasks) < self._uploads_max and self._busy_tasks == len(self._tasks) and not self._is_closing:
            self._busy_tasks += 1
            try:
                self._tasks.append(self._runtime.spawn(f"lsm-wal-{len(self._tasks)}", self._run))
                self._lacks_thread = False
            except UnavailableError:
                # The batch stays in the buffer. The next one tries again, and who waits for durability uploads without.
                self._busy_tasks -= 1
                self._lacks_thread = not self._tasks
        self._work.notify()

    @property
    def fatal(self) -> Error | None:
        """Why nothing more will ever become durable."""
        return self._fatal

    @property
    def buffered_bytes(self) -> int:
        return self._buffer.size

    def raise_outage(self) -> None:
        """Raise what stands between appends and durability. Requires: the write lock."""
        if self._fatal is not None:
            raise kept(self._fatal)
        if self._outage is not None:
            outage = self._outage
            text = f"the log cannot be written at present: {outage}"
            raise UnavailableError(text, retryable=outage.retryable) from outage

    def objects_between(self, first_seq: int, last_seq: int) -> tuple[int, int] | None:
        """The first and last number of the durable objects that hold batches first_seq to last_seq; None where this
        writer wrote none of them (recovery found them). Forgets older objects. Requires: the write lock; the objects are
        durable, and the log was cut at those batches."""
        while self._written and self._written[0].last_seq < first_seq:
            self._written.popleft()
        numbers = [found.number for found in self._written if found.last_seq <= last_seq]
        return (numbers[0], numbers[-1]) if numbers else None

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait_durable(self, seq: int, timeout: float | None = None) -> None:
        """Return once batch `seq` is durable. Without a timeout, the caller does the uploading if nobody else is at it.

        Raises: TimeoutError, FencedError, UnavailableError, ClosedError. Requires: not holding the write lock.
        """
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        turn = Turn(self._attempts)
        with self._lock:
            self._awaited.append(seq)
        # Others wait for what this thread uploads, and for the clock it minds: a signal handler must not wait for them here.
        me, obliged = self._runtime.thread_id(), self._runtime.obliged
        before = obliged.get(me)
        try:
            obliged[me] = sys._getframe()
            while self._await(seq, deadline, turn):
                self._upload(turn)
        except TimeoutError:
            raise TimeoutError(f"not durable after {timeout} s") from None
        except BaseException as error:
            if turn.is_moving and not isinstance(error, Error):
                with self._lock:
                    self.fail(halfway("a flush", error))
            raise
        finally:
            if before is None:
                obliged.pop(me, None)
            else:
                obliged[me] = before
            with self._lock:
                self._awaited.remove(seq)
                if self.durable_seq < seq or (not (self._is_timed or self._uploading) and self._waiters()):
                    self._lock.notify_all()  # It may have been the one who minds the clock: somebody else takes over.

    def _waiters(self) -> int:
        """Threads whose batch is not durable yet."""
        durable = self.durable_seq
        return sum(seq > durable for seq in self._awaited)

    def _await(self, seq: int, deadline: float | None, turn: Turn) -> bool:
        """Wait. False once batch `seq` is durable; True where the caller is to upload `turn.upload` now."""
        with self._lock:
            turn.is_moving = True
            while self.durable_seq < seq:
                if self._fatal is not None:
                    raise kept(self._fatal)
                if self._failed_attempt > turn.attempts and self._outage is not None:
                    outage = self._outage
                    text = f"the log could not be written: {outage}"
                    raise UnavailableError(text, retryable=outage.retryable) from outage
                if deadline is not None:
                    self._leave_upload()
                elif (upload := self._next_upload(is_awaited=True)) is not None:
                    turn.upload = upload
                    return True
                now = self._runtime.monotonic()
                if deadline is not None and now >= deadline:
                    raise TimeoutError
                waits = [] if deadline is None else [deadline - now]
                # With nothing to upload there is no clock to mind: tables make the batch durable, or an upload's end does.
                has_work = bool(self._uploading or self._sealed or not self._buffer.is_empty)
                is_timing = has_work and not self._is_timed
                if is_timing:
                    # One waiter minds the clock for all: when to stop gathering, when to start another object beside one.
                    waits.append(JOIN_SECONDS if self._uploading else max(0.0, self._gather_until - now))
                self._wait(turn, min(waits, default=None), is_timing=is_timing)
        return False

    def _wait(self, turn: Turn, seconds: float | None, *, is_timing: bool) -> None:
        """Requires: the write lock."""
        turn.is_moving = False
        try:
            if is_timing:
                self._is_timed = True
            self._lock.wait(seconds)
        finally:
            if is_timing:
                self._is_timed = False
        turn.is_moving = True

    def _leave_upload(self) -> None:
        """Somebody waits who cannot wait for ever: a background thread uploads, however long that takes."""
        if not self._uploading and not self._sealed:
            self.seal()

    def wait_beyond(self, seq: int, timeout: float | None) -> int:
        """Wait until something newer than batch `seq` is durable, without causing it; the newest durable batch."""
        deadline = None if timeout is None else self._runtime.monotonic() + timeout
        with self._lock:
            while self.durable_seq <= seq:
                if self._fatal is not None:
                    raise kept(self._fatal)
                wait = None if deadline is None else deadline - self._runtime.monotonic()
                if wait is not None and wait <= 0:
                    raise TimeoutError(f"nothing newer became durable within {timeout} s")
                self._lock.wait(wait)
            return self.durable_seq

    def subscribe(self, on_durable: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Call these when `durable_seq` has advanced, and when nothing will become durable any more. They are called under
        the write lock: they must be quick, and must not call the database."""
        with self._lock:
            self._listeners.append((on_durable, on_failure))

    def _tell_durable(self) -> None:
        for on_durable, _ in self._listeners:
            on_durable()

    # -- uploading ----------------------------------------------------------------------------------------------------

    def _next_upload(self, *, is_awaited: bool) -> WalObject | None:
        """Take the next object to upload, sealing the buffer if that is what is left. Requires: the write lock."""
        is_serial = self._next_number <= self._serial_until
        if self._uploading >= (1 if is_serial else self._uploads_max):
            return None
        is_retry = bool(self._sealed and self._sealed[0].number)
        if len(self._under_way) >= PIPELINE_MAX and not is_retry:
            return None  # Rule W5: however slow one upload is, none starts more than PIPELINE_MAX numbers ahead of it.
        if not self._sealed:
            if self._buffer.is_empty:
                return None
            now = self._runtime.monotonic()
            if is_awaited and self._uploading and now - self._last_start < JOIN_SECONDS:
                return None
            if is_awaited and now < self._gather_until and self._waiters() < self._last_group:
                return None
            try:
                self.seal()
            except UnavailableError as error:
                self._outage = error
                self._attempts += 1
                self._failed_attempt = self._attempts
                self._lock.notify_all()
                return None
        upload = self._sealed.popleft()
        if not upload.number:
            self._number(upload)
            self._under_way.append(upload)
        self._uploading += 1
        self._attempts += 1
        upload.attempt = self._attempts
        self._last_start = self._runtime.monotonic()
        return upload

    def _number(self, upload: WalObject) -> None:
        upload.number = self._next_number
        self._next_number += 1
        upload.parts = []

    def _upload(self, turn: Turn) -> None:
        """Put one object and make what follows from it known. Requires: not holding the write lock."""
        upload = turn.upload
        assert upload is not None
        try:
            try:
                self._put(upload)
            except MemoryError as error:
                raise out_of_memory("the log was not written", error) from error
        except BaseException as error:
            with self._lock:
                self._put_back(upload)
                if isinstance(error, UnavailableError):
                    # One refusal is no outage: nothing was tried again yet, as it is before a deadline.
                    if error.retryable or self._is_refused:
                        self._outage = error
                    self._is_refused = not error.retryable
                elif isinstance(error, Error):
                    self.fail(error)
            if isinstance(error, Error) and not isinstance(error, UnavailableError):
                self._health.stopped(error)
            turn.is_moving = False  # An interrupted request is sent again.
            raise
        with self._lock:
            self._uploading -= 1
            upload.is_done = True
            upload.frames, upload.parts = [], []
            while self._under_way and self._under_way[0].is_done:
                done = self._under_way.popleft()
                self.durable_seq = done.last_seq
                self.durable_number = done.number
                self.unwritten_bytes -= done.size
                self._written.append(done)
            self._outage = None
            self._is_refused = False
            self._tell_durable()
            # Those who waited for this object are about to append again: the next one waits for them, a moment.
            now = self._runtime.monotonic()
            self._last_group = len(self._awaited)
            self._gather_until = now + min(GATHER_SECONDS_MAX, GATHER_SHARE * (now - self._last_start))
            self._lock.notify_all()
            if self._sealed or self._is_late:
                self._is_late = False
                self._work.notify()

    def _put_back(self, upload: WalObject) -> None:
        """The same bytes go to the same number later; every other number stays behind it. Requires: the write lock."""
        self._uploading -= 1
        self._sealed.appendleft(upload)
        self._sealed = deque(sorted(self._sealed, key=lambda sealed: sealed.number or 1 << 64))
        self._failed_attempt = max(self._failed_attempt, upload.attempt)
        self._lock.notify_all()
        self._wake()  # Whoever waits next may come late or never: a background thread finds out when the outage is over.

    def _put(self, upload: WalObject) -> None:
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
                    body=[encode_mark(self.durable_number), *upload.frames],
                )
            try:
                put_on_proof(self._store, name, upload.parts)
                return
            except ObjectExists:
                if self._is_ours(upload):
                    return
            with self._lock:
                # Rule W5: a fenced writer's late object took the number; replay skips it by its epoch.
                self._number(upload)

    def _is_ours(self, upload: WalObject) -> bool:
        """An object that is said to be somebody else's has our number. True: it is ours after all; False: a fenced
        writer's. Raises: FencedError where it is a newer writer's."""
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
        if found.epoch == self._epoch or number > self._serial_until:
            probe_conditional_create(self._store)
            raise InternalError(f"{name} was written twice under epoch {self._epoch}; please report this")
        return False

    # -- the background thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._lock:
                self._serve()
        except BaseException as error:
            failure = internal(f"the log's background thread failed: {error!r}", error)
            with self._lock:
                self.fail(failure)
            self._health.stopped(failure)

    def _serve(self) -> None:
        while self._fatal is None:
            upload = None
            wait: float | None = None
            if self._sealed:
                upload = self._next_upload(is_awaited=False)
            elif not self._buffer.is_empty and self._interval is not None:
                wait = self._buffered_since + self._interval - self._runtime.monotonic()
                if wait <= 0:
                    upload, wait = self._next_upload(is_awaited=False), None
                    self._is_late = upload is None  # Whoever finishes an upload makes room, and says so.
            if upload is None:
                if self._is_closing:
                    return
                if wait is None and self._outage is not None and not self._uploading and not self._buffer.is_empty:
                    wait = RETRY_SECONDS  # Memory ran out: nothing else would bring this thread back to the buffer.
                self._busy_tasks -= 1
                self._work.wait(wait)
                self._busy_tasks += 1
                continue
            turn = Turn(self._attempts, upload)
            me = self._runtime.thread_id()
            self._lock.release()
            try:
                self._runtime.obliged[me] = sys._getframe()
                self._upload(turn)
            except Error:
                self._runtime.sleep(RETRY_SECONDS)  # It is kept in _outage or _fatal, for the next caller.
            finally:
                self._runtime.obliged.pop(me, None)
                self._lock.acquire()

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail(self, error: Error) -> None:
        """Refuse further work with `error` and wake everybody who waits. Requires: the write lock."""
        if self._fatal is None:
            self._fatal = error
            for _, on_failure in self._listeners:
                on_failure()
        self._lock.notify_all()
        self._work.notify_all()

    def mark_durable(self, seq: int) -> None:
        """Batches up to `seq` are durable in tables. Requires: the write lock."""
        if seq > self.durable_seq:
            self.durable_seq = seq
            self._tell_durable()
            self._lock.notify_all()

    def close(self) -> None:
        """Stop the background threads. What is not durable stays so. Requires: not holding the write lock."""
        with self._lock:
            self._is_closing = True
            self._work.notify_all()
            tasks = list(self._tasks)
        for task in tasks:
            task.join()
        with self._lock:
            self.fail(ClosedError("the database is closed: open it again"))
