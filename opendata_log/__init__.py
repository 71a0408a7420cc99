"""A keyed log database in Python whose only infrastructure is an object store.

Each key is its own ordered log; a new one is just a new key. One global sequence orders everything.
"""

from lsm import Caches
from opendata_log.builder import LogDbBuilder
from opendata_log.log_db import LogDb
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
from opendata_log.model.storage import StorageConfig
from opendata_log.read.follow import LogFollower
from opendata_log.read.inspection import (
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
from opendata_log.waiting.watch import DurableWatch

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
