"""A keyed log database in Python whose only infrastructure is an object store.

Each key is an ordered log; an append to a new key creates one. One global sequence orders the records of all keys.

>>> from opendata_log import LogDb
>>> with LogDb.open("memory://") as log:
...     _ = log.try_append([(b"orders", b"created"), (b"users", b"login")])
...     [(entry.sequence, entry.value) for entry in log.scan(b"users")]
[(1, b'login')]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lsm import Caches
from opendata_log.model.config import (
    Config,
    LogCompactionOptions,
    ReaderConfig,
    ReadVisibility,
    RetentionConfig,
    SegmentConfig,
)
from opendata_log.model.errors import (
    AppendError,
    AppendStorageError,
    AppendTimeoutError,
    ClosedError,
    CorruptionError,
    EncodingError,
    Error,
    FencedError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    QueueFullError,
    ReentrantError,
    ShutdownError,
    SnapshotExpired,
    StorageError,
)
from opendata_log.model.options import CountOptions, ScanOptions
from opendata_log.model.record import (
    AppendOutput,
    AppendResult,
    LogEntry,
    LogKey,
    Record,
    Result,
    Segment,
    SegmentId,
    Sequence,
)
from opendata_log.model.storage_config import StorageConfig

if TYPE_CHECKING:
    from opendata_log.builder import LogDbBuilder
    from opendata_log.log_db import LogDb
    from opendata_log.read.follow import LogFollower
    from opendata_log.read.inspect_values import (
        Inspection,
        LevelSummary,
        SegmentInspection,
        SegmentReads,
        SegmentTree,
        TreeSummary,
    )
    from opendata_log.read.reads import LogRead
    from opendata_log.read.reverse import ReverseIterator
    from opendata_log.read.scan import LogIterator, LogKeyIterator
    from opendata_log.reader import LogDbReader
    from opendata_log.waiting.durable_watch import DurableWatch

__version__ = "0.1.0"

__all__ = [
    "AppendError",
    "AppendOutput",
    "AppendResult",
    "AppendStorageError",
    "AppendTimeoutError",
    "Caches",
    "ClosedError",
    "Config",
    "CorruptionError",
    "CountOptions",
    "DurableWatch",
    "EncodingError",
    "Error",
    "FencedError",
    "Inspection",
    "InternalError",
    "InvalidInputError",
    "LevelSummary",
    "LogCompactionOptions",
    "LogDb",
    "LogDbBuilder",
    "LogDbReader",
    "LogEntry",
    "LogFollower",
    "LogIterator",
    "LogKey",
    "LogKeyIterator",
    "LogRead",
    "NotFoundError",
    "QueueFullError",
    "ReadVisibility",
    "ReaderConfig",
    "Record",
    "Result",
    "ReverseIterator",
    "RetentionConfig",
    "ScanOptions",
    "Segment",
    "SegmentConfig",
    "SegmentId",
    "SegmentInspection",
    "SegmentReads",
    "SegmentTree",
    "Sequence",
    "ReentrantError",
    "ShutdownError",
    "SnapshotExpired",
    "StorageConfig",
    "StorageError",
    "TreeSummary",
]

if not TYPE_CHECKING:
    # Handles import the engine; settings, values and errors do not. So each of these names imports its module at first use.
    # A handle's module imports everything that the handle needs, so that opening a log imports nothing more.
    _LATER = {
        "DurableWatch": "opendata_log.waiting.durable_watch",
        "Inspection": "opendata_log.read.inspect_values",
        "LevelSummary": "opendata_log.read.inspect_values",
        "LogDb": "opendata_log.log_db",
        "LogDbBuilder": "opendata_log.builder",
        "LogDbReader": "opendata_log.reader",
        "LogFollower": "opendata_log.read.follow",
        "LogIterator": "opendata_log.read.scan",
        "LogKeyIterator": "opendata_log.read.scan",
        "LogRead": "opendata_log.read.reads",
        "ReverseIterator": "opendata_log.read.reverse",
        "SegmentInspection": "opendata_log.read.inspect_values",
        "SegmentReads": "opendata_log.read.inspect_values",
        "SegmentTree": "opendata_log.read.inspect_values",
        "TreeSummary": "opendata_log.read.inspect_values",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_LATER[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
