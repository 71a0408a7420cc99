"""Write walk, after `log_db`: a batch is appended, waits for space, or is refused with an error that carries the batch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import lsm
from opendata_log.model.errors import (
    AppendStorageError,
    AppendTimeoutError,
    Error,
    QueueFullError,
    ShutdownError,
    translate_append,
)
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import AppendOutput, BytesLike, RecordLike, columns
from opendata_log.write.sequence import SequencesShortError
from opendata_log.write.writer import LogWriter
from opendata_log.write.writer_source import OpenState, WriterSource

_NOTHING_WRITTEN = AppendOutput(0)
HAND_OVER_ROWS = 1024
"""Records appended before a thread lets reading threads run; some half a millisecond."""


class Appends:
    """Appends batches to an open log. Thread-safe."""

    def __init__(
        self,
        db: lsm.Db,
        runtime: lsm.Runtime,
        writer: LogWriter,
        source: WriterSource,
        state: OpenState,
        op_timeout: float,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._writer = writer
        self._source = source
        self._state = state
        self.op_timeout = op_timeout
        """Maximum seconds that `append` waits where its `timeout` is None."""
        self._since_read = 0

    def try_append(self, records: Iterable[RecordLike]) -> AppendOutput:
        """As `LogDb.try_append`."""
        keys, values, key_bytes, value_bytes, batch = columns(records)
        if not keys or self._state.is_closed or not self._db.has_space:
            self._check(keys, batch)
            if not keys:
                return _NOTHING_WRITTEN
        return self._append(keys, values, key_bytes + value_bytes, batch)

    def _check(self, keys: list[bytes], batch: list[Any], *, may_wait: bool = False) -> None:
        """Check that a batch may be appended now. Raises: ClosedError if it is empty, otherwise an error that has the batch."""
        if not keys:
            self._state.check()
        elif self._state.is_closed:
            raise ShutdownError("the log is closed: open it again", batch)
        elif not (may_wait or self._db.has_space):
            raise self._full(batch)

    def _append(self, keys: list[bytes], values: list[bytes], size: int, batch: list[Any]) -> AppendOutput:
        try:
            first = self._writer.append(keys, values, size)
        except SequencesShortError as error:
            raise QueueFullError(f"the log is behind: {error}; append again later", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error
        if self._source.was_read:
            self._since_read += len(keys)
            if self._since_read >= HAND_OVER_ROWS:
                # A thread that appends without pause makes every other thread wait for the interpreter's switch interval.
                self._source.was_read, self._since_read = False, 0
                self._runtime.hand_over()
        return AppendOutput(first)

    def append_nowait(self, records: Iterable[RecordLike]) -> AppendOutput:
        """As `try_append`, for a thread that must not wait for a lock.

        Raises: WouldBlock where another thread is appending. Then nothing was appended; a thread that may wait can wait for
        the lock (`await_turn`).
        """
        keys, values, key_bytes, value_bytes, batch = columns(records)
        self._check(keys, batch)
        size = key_bytes + value_bytes
        try:
            first = self._writer.append_nowait(keys, values, size) if keys else 0
        except SequencesShortError as error:
            raise QueueFullError(f"the log is behind: {error}; append again later", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error
        return AppendOutput(first)

    @property
    def is_slowed(self) -> bool:
        """Whether `append_timeout` would be delayed."""
        return self._db.is_slowed

    def await_turn(self) -> None:
        """Wait until the lock that `append_nowait` needs is free. No request is made under it."""
        self._writer.await_turn()

    def append_timeout(self, records: Iterable[RecordLike], timeout: float | timedelta | None) -> AppendOutput:
        """As `LogDb.append_timeout`."""
        seconds = timeout_seconds(timeout)
        keys, values, key_bytes, value_bytes, batch = columns(records)
        self._check(keys, batch, may_wait=True)
        size = key_bytes + value_bytes
        if not keys:
            return _NOTHING_WRITTEN
        begun = self._runtime.monotonic()
        try:
            if not self._db.has_space:
                self._db.wait_space(seconds)
            else:
                self._db.slow_down(size, seconds)
        except lsm.UnavailableError as error:
            raise AppendTimeoutError(f"no space within {seconds} s: {error}", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error
        while True:
            try:
                return self._append(keys, values, size, batch)
            except QueueFullError:
                left = None if seconds is None else max(0.0, begun + seconds - self._runtime.monotonic())
                self._await_sequences(len(keys), left, batch)

    def append(
        self,
        key: BytesLike,
        value: BytesLike,
        *,
        durable: bool = False,
        timeout: float | timedelta | None = None,
    ) -> AppendOutput:
        """As `LogDb.append`."""
        seconds = timeout_seconds(timeout)
        if seconds is None:
            seconds = self.op_timeout
        begun = self._runtime.monotonic()
        output = self.append_timeout([(key, value)], seconds)
        if durable:
            try:
                self._db.await_durable(max(0.0, begun + seconds - self._runtime.monotonic()))
            except TimeoutError as error:
                raise not_durable_in_time(seconds) from error
            except lsm.UnavailableError as error:
                raise AppendStorageError(
                    f"accepted, and not known to be durable: {error}", outcome_unknown=True
                ) from error
            except lsm.Error as error:
                raise translate_append(error, None) from error
        return output

    def _await_sequences(self, count: int, seconds: float | None, batch: list[Any]) -> None:
        try:
            self._writer.await_sequences(count, seconds)
        except TimeoutError as error:
            raise AppendTimeoutError(f"no {count} sequences could be durably reserved in time", batch) from error
        except lsm.UnavailableError as error:
            # The batch was not written, whatever happened to the block, so the error carries it.
            raise AppendStorageError(f"no sequences could be reserved: {error}", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error

    def _full(self, batch: list[Any]) -> Error:
        try:
            self._db.wait_space(0)
        except lsm.UnavailableError as error:
            return QueueFullError(f"the log is behind: {error}; append again later", batch)
        except lsm.Error as error:
            return translate_append(error, batch)
        return QueueFullError("the log is behind; append again now", batch)


def not_durable_in_time(seconds: float) -> AppendTimeoutError:
    """The error for a record that was accepted, and is not durable in time."""
    return AppendTimeoutError(f"accepted, and not durable within {seconds} s: flush, do not append it again")
