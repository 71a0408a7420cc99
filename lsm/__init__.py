"""An LSM storage engine on object stores, in Python: SlateDB's semantics behind fsspec.

>>> import lsm
>>> with lsm.Db.open("memory://") as db:
...     handle = db.put(b"user:1", b"Alice")
...     db.get(b"user:1"), handle.seqnum
(b'Alice', 1)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lsm.concurrency.exits import tell_at_exit
from lsm.concurrency.forks import tell_in_child
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
from lsm.observe import events
from lsm.observe import logging_observer as logging_observer  # After this import, events become log lines.

if TYPE_CHECKING:
    from lsm.admin import Admin, ManifestInfo
    from lsm.audit.report import FsckReport, Orphan, Problem
    from lsm.audit.verify import fsck
    from lsm.builder import DbBuilder
    from lsm.checks import age_seconds, shown, timeout_seconds, wait_seconds
    from lsm.cli.compactor import add_options as add_compactor_options
    from lsm.cli.compactor import run_compactor
    from lsm.cli.terminal import add_place, failed, progress_line, tell_report
    from lsm.cli.terminal import storage_options as compactor_storage_options
    from lsm.compaction.leveled import LeveledScheduler
    from lsm.compaction.plan import CompactionScheduler, CompactionSpec, level_above, merge_spec
    from lsm.compaction.running_job import JobStatus
    from lsm.compaction.space_schedulers import FirstOf, SpaceTrigger, TombstoneTrigger
    from lsm.compaction.tiered import SizeTieredScheduler, size_tier
    from lsm.components import Components
    from lsm.db import Db
    from lsm.db_compactor import DbCompactor
    from lsm.db_reader import DbReader
    from lsm.gc.policy import Garbage
    from lsm.manifest.checkpoint import Checkpoint, Parent
    from lsm.manifest.model import Manifest, Partition, Run
    from lsm.object_store.contract import ObjectStore
    from lsm.object_store.open import absolute_url, open_store
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

if not TYPE_CHECKING:
    # Each name imports its module at its first use, because a program uses one or two handles, and a worker process none. The
    # imports above register functions for exits, forks and events; they must be registered before the application's own.
    _LATER = {
        "Admin": "lsm.admin",
        "CacheStatus": "lsm.sst.cache",
        "Caches": "lsm.sst.cache",
        "CachesStatus": "lsm.sst.cache",
        "Checkpoint": "lsm.manifest.checkpoint",
        "Clock": "lsm.runtime",
        "CompactionScheduler": "lsm.compaction.plan",
        "CompactionSpec": "lsm.compaction.plan",
        "Components": "lsm.components",
        "Db": "lsm.db",
        "DbBuilder": "lsm.builder",
        "DbCompactor": "lsm.db_compactor",
        "DbReader": "lsm.db_reader",
        "DiskCacheStatus": "lsm.sst.disk_cache",
        "DurabilityLevel": "lsm.read.iterator",
        "FirstOf": "lsm.compaction.space_schedulers",
        "FlushType": "lsm.write.durability",
        "FsckReport": "lsm.audit.report",
        "Garbage": "lsm.gc.policy",
        "IterationOrder": "lsm.read.iterator",
        "JobStatus": "lsm.compaction.running_job",
        "KeyValue": "lsm.read.iterator",
        "LeveledScheduler": "lsm.compaction.leveled",
        "Manifest": "lsm.manifest.model",
        "ManifestInfo": "lsm.admin",
        "ObjectStore": "lsm.object_store.contract",
        "Orphan": "lsm.audit.report",
        "Parent": "lsm.manifest.checkpoint",
        "Partition": "lsm.manifest.model",
        "PartitionStatus": "lsm.status",
        "PrefixExtractor": "lsm.rows.chunk",
        "Problem": "lsm.audit.report",
        "ReaderStatus": "lsm.status",
        "RowIterator": "lsm.read.iterator",
        "Run": "lsm.manifest.model",
        "Runtime": "lsm.runtime",
        "ScanOptions": "lsm.read.iterator",
        "SeriesCount": "lsm.read.counting",
        "SeriesLayout": "lsm.rows.chunk",
        "Settings": "lsm.settings",
        "SizeTieredScheduler": "lsm.compaction.tiered",
        "Snapshot": "lsm.read.snapshot",
        "SpaceTrigger": "lsm.compaction.space_schedulers",
        "Status": "lsm.status",
        "Steps": "lsm.read.iterator",
        "TableInfo": "lsm.sst.builder",
        "TableReads": "lsm.read.tables_only",
        "TierCount": "lsm.read.counting",
        "TombstoneTrigger": "lsm.compaction.space_schedulers",
        "WriteBatch": "lsm.write.batch",
        "WriteHandle": "lsm.write.batch",
        "absolute_url": "lsm.object_store.open",
        "add_compactor_options": "lsm.cli.compactor:add_options",
        "add_place": "lsm.cli.terminal",
        "age_seconds": "lsm.checks",
        "compactor_storage_options": "lsm.cli.terminal:storage_options",
        "failed": "lsm.cli.terminal",
        "fsck": "lsm.audit.verify",
        "level_above": "lsm.compaction.plan",
        "merge_spec": "lsm.compaction.plan",
        "open_store": "lsm.object_store.open",
        "progress_line": "lsm.cli.terminal",
        "read_settings_file": "lsm.settings",
        "run_compactor": "lsm.cli.compactor",
        "series_prefix": "lsm.rows.chunk",
        "shown": "lsm.checks",
        "size_tier": "lsm.compaction.tiered",
        "tell_report": "lsm.cli.terminal",
        "timeout_seconds": "lsm.checks",
        "wait_seconds": "lsm.checks",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, there = _LATER[name].partition(":")
        found = globals()[name] = getattr(import_module(module), there or name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
