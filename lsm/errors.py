"""Every error the engine raises, and what the caller does next.

    Error
    |-- TransactionError     a conflicting write won: run the transaction again
    |-- ClosedError          this handle is closed: open the database again
    |   `-- FencedError      a newer writer owns the database: stop, do not retry
    |-- ReentrantError       a signal handler or finalizer called in the middle of a call: call again after that call
    |-- UnavailableError     the store did not answer in time: try again later
    |   |-- NotFoundError    there is no database at the URL: check the URL
    |   `-- SnapshotExpiredError  a reader was overtaken by the collector: refresh and read again
    |-- InvalidError         the call or the settings are wrong: fix the program
    |-- CorruptionError      stored bytes do not decode: do not retry, restore or investigate
    |   `-- TableMissingError     a table that the manifest names does not exist
    `-- InternalError        a bug in this library: report it

Source: SlateDB's six error kinds (its RFC 7). Its `Data` is `CorruptionError` here, and its reason `Fenced` is a class, so
that `except FencedError` works.
"""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class Error(Exception):
    """Base class of every error that the engine raises on purpose."""

    retryable: bool = False


class TransactionError(Error):
    """A concurrent commit changed rows that this transaction read or wrote. Run the transaction again."""

    retryable = True


class ClosedError(Error):
    """The handle is closed. Open the database again."""


class FencedError(ClosedError):
    """A newer writer took over the database. Stop using this handle; only a new open can write again."""


class CompactorFencedError(FencedError):
    """Another process compacts the database now. The writer is not affected."""


class ReentrantError(Error):
    """The call came from a signal handler or a finalizer that interrupted another call of the same thread.

    Waiting for that call would never end, so nothing was done. Call again after that call has returned, and never in a loop
    inside the handler.
    """

    def __init__(
        self,
        message: str = "called from a signal handler or a finalizer that interrupted another call of the same thread: "
        "nothing was done; call again when that call has returned",
    ) -> None:
        super().__init__(message)


class UnavailableError(Error):
    """The object store failed, refused the request, or did not answer before the deadline.

    `outcome_unknown`: a write was sent and may have been applied. `retryable` is false if the refusal is permanent: missing
    permissions, a missing bucket, a certificate that is not accepted.
    """

    retryable = True

    def __init__(self, message: str, *, outcome_unknown: bool = False, retryable: bool = True) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.retryable = retryable


class NotFoundError(UnavailableError):
    """There is no database at the URL. Check the URL, or let a writer create the database first."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


def nothing_there(url: str) -> NotFoundError:
    """Return the error of handles that need an existing database."""
    return NotFoundError(f"there is no database at {url}: nobody has written one yet")


class SnapshotExpiredError(UnavailableError):
    """The tables that this read uses were compacted and then deleted by the collector. Refresh, and read again."""


class InvalidError(Error, ValueError):
    """The request or the settings cannot be carried out as given. Nothing was changed."""


class CorruptionError(Error):
    """Stored bytes are damaged, missing or of an unknown format. The message names the object and the offset."""

    def __init__(self, message: str, *, object_name: str = "", offset: int = 0) -> None:
        where = f"{object_name} at byte {offset}: " if object_name else ""
        super().__init__(where + message)
        self.object_name = object_name
        self.offset = offset
        self.reason = message

    def __reduce__(self) -> tuple[object, ...]:
        return (_corruption, (self.reason, self.object_name, self.offset))


class TableMissingError(CorruptionError):
    """A table that the manifest names does not exist."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_missing, (self.reason, self.object_name, self.offset))


def _missing(message: str, object_name: str, offset: int) -> TableMissingError:
    return TableMissingError(message, object_name=object_name, offset=offset)


def _corruption(message: str, object_name: str, offset: int) -> CorruptionError:
    return CorruptionError(message, object_name=object_name, offset=offset)


class InternalError(Error):
    """An invariant of the engine is violated, which is a bug. The handle refuses further work."""


def out_of_memory(what: str, error: MemoryError) -> UnavailableError:
    """Return the error to raise if a MemoryError stopped a step that had no effect yet."""
    failure = UnavailableError(f"{what}: not enough memory; free some, then call again")
    failure.__cause__ = error
    return failure


def kept(error: E) -> E:
    """Return an error, kept by a handle and raised by every later call, without its traceback.

    The traceback would grow with each call and keep those calls' frames and values alive. The error's causes keep their own
    tracebacks.
    """
    return error.with_traceback(None)


def internal(message: str, cause: BaseException) -> InternalError:
    """Return the error after which a handle refuses all calls."""
    failure = InternalError(message)
    failure.__cause__ = cause
    return failure


def halfway(what: str, error: BaseException) -> InternalError:
    """Return the error to raise if KeyboardInterrupt or MemoryError cut an atomic step short."""
    return internal(f"{what} was interrupted halfway by {error!r}: close this handle and open it again", error)
