"""An LSM storage engine on object stores, in Python: SlateDB's semantics behind fsspec.

>>> import lsm
>>> with lsm.Db.open("memory://") as db:
...     handle = db.put(b"user:1", b"Alice")
...     db.get(b"user:1"), handle.seqnum
(b'Alice', 1)
"""

from lsm.admin import Admin, ManifestInfo
from lsm.builder import DbBuilder
from lsm.checks import age_seconds, shown, timeout_seconds, wait_seconds
from lsm.cli.compactor import add_options as add_compactor_options
from lsm.cli.compactor import run_compactor
from lsm.cli.terminal import add_place, failed, progress_line, tell_report
from lsm.cli.terminal import storage_options as compactor_storage_options
from lsm.compaction.leveled import LeveledScheduler
from lsm.compaction.plan import CompactionScheduler, CompactionSpec, level_above, merge_spec
from lsm.compaction.running import JobStatus
from lsm.compaction.tiered import SizeTieredScheduler, size_tier
from lsm.compaction.triggers import FirstOf, SpaceTrigger, TombstoneTrigger
from lsm.components import Components
from lsm.concurrency.exits import tell_at_exit
from lsm.concurrency.forks import tell_in_child
from lsm.db import Db
from lsm.db_compactor import DbCompactor
from lsm.db_reader import DbReader
from lsm.errors import (
    ClosedError,
    CorruptionError,
    Error,
    FencedError,
    InternalError,
    InvalidError,
    NotFoundError,
    ReentrantError,
    SnapshotExpiredError,
    TransactionError,
    UnavailableError,
)
from lsm.fsck.report import FsckReport, Orphan, Problem
from lsm.fsck.verify import fsck
from lsm.gc.policy import Garbage
from lsm.manifest.checkpoint import Checkpoint, Parent
from lsm.manifest.model import Manifest, Partition, Run
from lsm.object_store.contract import ObjectStore
from lsm.object_store.open import absolute_url, open_store
from lsm.observe import events
from lsm.observe import log_lines as log_lines  # From its import on, events become log lines.
from lsm.read.counting import SeriesCount, TierCount
from lsm.read.iterator import DurabilityLevel, IterationOrder, KeyValue, RowIterator, ScanOptions, Steps
from lsm.read.snapshot import Snapshot
from lsm.read.tables_only import TableReads
from lsm.rows.chunk import PrefixExtractor, SeriesLayout, series_prefix
from lsm.runtime import Clock, Runtime
from lsm.settings import Settings, read_settings_file
from lsm.sst.builder import TableInfo
from lsm.sst.cache import Caches, CachesStatus, CacheStatus
from lsm.sst.disk_cache import DiskCacheStatus
from lsm.status import PartitionStatus, ReaderStatus, Status
from lsm.write.batch import WriteBatch, WriteHandle
from lsm.write.durability import FlushType

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "CacheStatus",
    "Caches",
    "CachesStatus",
    "Checkpoint",
    "Clock",
    "ClosedError",
    "CompactionScheduler",
    "CompactionSpec",
    "Components",
    "CorruptionError",
    "Db",
    "DbBuilder",
    "DbCompactor",
    "DbReader",
    "DiskCacheStatus",
    "DurabilityLevel",
    "Error",
    "FencedError",
    "FirstOf",
    "FlushType",
    "FsckReport",
    "Garbage",
    "InternalError",
    "InvalidError",
    "IterationOrder",
    "KeyValue",
    "JobStatus",
    "LeveledScheduler",
    "Manifest",
    "ManifestInfo",
    "NotFoundError",
    "ObjectStore",
    "Orphan",
    "Parent",
    "Partition",
    "PartitionStatus",
    "PrefixExtractor",
    "ReaderStatus",
    "ReentrantError",
    "Problem",
    "RowIterator",
    "Run",
    "Runtime",
    "ScanOptions",
    "SeriesCount",
    "SeriesLayout",
    "Settings",
    "SizeTieredScheduler",
    "Snapshot",
    "SnapshotExpiredError",
    "SpaceTrigger",
    "Status",
    "Steps",
    "TableInfo",
    "TableReads",
    "TierCount",
    "TombstoneTrigger",
    "TransactionError",
    "UnavailableError",
    "WriteBatch",
    "WriteHandle",
    "absolute_url",
    "add_compactor_options",
    "add_place",
    "age_seconds",
    "events",
    "compactor_storage_options",
    "failed",
    "fsck",
    "level_above",
    "merge_spec",
    "open_store",
    "progress_line",
    "read_settings_file",
    "run_compactor",
    "series_prefix",
    "shown",
    "size_tier",
    "tell_at_exit",
    "tell_in_child",
    "tell_report",
    "timeout_seconds",
    "wait_seconds",
]
