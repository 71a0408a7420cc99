"""Every error that the log raises, and the caller's next step.

    Error
    |-- StorageError               the store failed, refused, or did not answer in time: try again where `retryable`
    |   |-- FencedError            a newer writer owns the log: stop, only a fresh open can write again
    |   |-- NotFoundError          no log exists there: check the URL
    |   `-- SnapshotExpired        garbage collection overtook a slow reader: start the read again
    |-- EncodingError              bytes could not be encoded or decoded
    |   `-- CorruptionError        stored bytes do not decode: do not retry; names object and offset
    |-- InvalidInputError          the call or the configuration is wrong: fix the program (also a ValueError)
    |-- InternalError              a bug in this library: report it
    |-- ClosedError                this handle is closed: open the log again
    |-- ReentrantError             a signal handler or finalizer interrupted another call: call again when that has returned
    `-- AppendError                an append was not accepted; `.records` holds the batch where a retry makes sense
        |-- QueueFullError         too much is unflushed: back off, then append `.records` again
        |-- AppendTimeoutError     no space before the deadline: likewise (also a TimeoutError)
        |-- ShutdownError          the log was closed (also a ClosedError)
        |-- AppendReentrantError   (also a ReentrantError)
        |-- AppendInternalError    (also an InternalError)
        |-- AppendInvalidInputError (also an InvalidInputError)
        `-- AppendStorageError     the store failed (also a StorageError)
            |-- AppendFencedError  a newer writer owns the log (also a FencedError)
            `-- AppendCorruptionError (also a CorruptionError)

`retryable` is a property of the class, with two exceptions. A StorageError is not retryable if the store refused for good:
missing permissions, a missing bucket. An AppendStorageError that carries its batch is retryable, because the batch was
certainly not applied; unless the store refused for good. Causes are chained where an error is raised:
`raise translate(error) from error`.

Source: opendata log/src/error.rs at 5f5c2882; there, converting an append error loses its kind, here `except` finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lsm


class Error(Exception):
    """Base class of every error that the log raises on purpose."""

    retryable: bool = False
    """Whether the same call can succeed later."""


class StorageError(Error):
    """The object store failed, refused, or did not answer before the deadline. Try again later if it is `retryable`.

    `outcome_unknown`: a write was sent, and may have been applied.
    """

    retryable = True

    def __init__(
        self, message: str = "", *, outcome_unknown: bool = False, retryable: bool | None = None, **details: Any
    ) -> None:
        """`retryable` None: the class attribute."""
        super().__init__(message, **details)
        self.outcome_unknown = outcome_unknown
        if retryable is not None:
            self.retryable = retryable


class FencedError(StorageError):
    """Another writer took over the log. This handle can write no more; only a fresh open can."""

    retryable = False


class NotFoundError(StorageError):
    """No log exists there. Check the URL, or let a writer create the log first."""

    retryable = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message, retryable=False)


class SnapshotExpired(StorageError):
    """Garbage collection deleted tables that the read needed. Start the read again."""


class EncodingError(Error):
    """Bytes could not be encoded or decoded."""


class CorruptionError(EncodingError):
    """Stored bytes are damaged, missing or of an unknown format.

    `object_name`: the object or row, empty if unknown. `offset`: the position in it, in bytes.
    """

    def __init__(self, message: str = "", *, object_name: str = "", offset: int = 0) -> None:
        super().__init__(_place(object_name, offset) + message)
        self.object_name = object_name
        self.offset = offset


class InvalidInputError(Error, ValueError):
    """The arguments of a call, or a configuration, are invalid. Nothing was changed."""


class InternalError(Error):
    """An invariant of the library does not hold. This is a bug: report it."""


class ClosedError(Error):
    """The handle is closed. Open the log again."""


class ReentrantError(Error):
    """A signal handler or a finalizer made the call while it interrupted another call of the same thread.

    The handler cannot wait for the interrupted call, so nothing was done. Call again when that call has returned; do not retry
    inside the handler.
    """


class AppendError(Error):
    """An append was not accepted. `records`: the unchanged batch where a retry makes sense, else None."""

    def __init__(self, message: str = "", records: list[Any] | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.records = records


class QueueFullError(AppendError):
    """Unflushed bytes reached the limit. Nothing was written: back off and append `records` again."""

    retryable = True


class AppendTimeoutError(AppendError, TimeoutError):
    """No space appeared before the deadline. Nothing was written: append `records` again."""

    retryable = True


class ShutdownError(AppendError, ClosedError):
    """The log was closed before the append. Open it again."""


class AppendReentrantError(AppendError, ReentrantError):
    """A signal handler or a finalizer appended while it interrupted another call of the same thread. Nothing was written:
    append `records` again when that call has returned."""


class AppendInternalError(AppendError, InternalError):
    """An append met a bug in this library."""


class AppendInvalidInputError(AppendError, InvalidInputError):
    """The storage engine refused the batch as given. Nothing was written."""


class AppendStorageError(AppendError, StorageError):
    """The store failed during an append. With `records`, nothing was written; without, the outcome may be unknown."""

    retryable = False

    def __init__(self, message: str = "", records: list[Any] | None = None, **details: Any) -> None:
        details.setdefault("retryable", True if records is not None else None)
        super().__init__(message, records, **details)


class AppendFencedError(AppendStorageError, FencedError):
    """Another writer took over the log, so the append was refused."""


class AppendCorruptionError(AppendStorageError, CorruptionError):
    """Stored bytes that the append depends on are damaged."""


def translate(error: lsm.Error) -> Error:
    """The log's error for an error of the engine. The caller chains the cause: `raise translate(error) from error`."""
    message = str(error)
    match error:
        case lsm.CorruptionError():
            return CorruptionError(_unplaced(error), object_name=error.object_name, offset=error.offset)
        case lsm.FencedError():
            # Only a writer can be fenced, and then its earlier appends are in question, whatever the call was.
            return AppendFencedError(message)
        case lsm.ClosedError():
            return ClosedError(message)
        case lsm.ReentrantError():
            return ReentrantError(message)
        case lsm.NotFoundError():
            return NotFoundError(message)
        case lsm.SnapshotExpiredError():
            return SnapshotExpired(message)
        case lsm.UnavailableError():
            return StorageError(message, outcome_unknown=error.outcome_unknown, retryable=error.retryable)
        case lsm.InvalidError():
            return InvalidInputError(message)
        case _:
            # The log runs no transactions, so a TransactionError is a bug of the log.
            return InternalError(message)


class WouldBlock(Exception):
    """The call needs a request, a taken lock, or long work. Nothing was done; a thread that may wait can repeat the call.

    Raised between the blocking and the asyncio handles, never to a caller.
    """


@contextmanager
def translated() -> Iterator[None]:
    """Raise the engine's errors in the block as the log's."""
    try:
        yield
    except lsm.Error as error:
        raise translate(error) from error


def translate_append(error: lsm.Error, records: list[Any] | None) -> AppendError:
    """The append error for an error of the engine. It carries `records` only if the batch was certainly not applied."""
    message = str(error)
    match error:
        case lsm.CorruptionError():
            return AppendCorruptionError(_unplaced(error), object_name=error.object_name, offset=error.offset)
        case lsm.FencedError():
            return AppendFencedError(message)
        case lsm.ClosedError():
            return ShutdownError(message)
        case lsm.ReentrantError():
            return AppendReentrantError(message, records)
        case lsm.UnavailableError():
            unknown = error.outcome_unknown
            kept = None if unknown else records
            may_retry = kept is not None and error.retryable
            return AppendStorageError(message, kept, outcome_unknown=unknown, retryable=may_retry)
        case lsm.InvalidError():
            return AppendInvalidInputError(message)
        case _:
            return AppendInternalError(message)


def _place(object_name: str, offset: int) -> str:
    return f"{object_name} at byte {offset}: " if object_name else ""


def _unplaced(error: lsm.CorruptionError) -> str:
    """The engine's message without the place at its start, which the log's error adds again."""
    return str(error).removeprefix(_place(error.object_name, error.offset))
