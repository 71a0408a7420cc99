"""The first step of opening: the caller's components, the stores that they name, and the reader of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from lsm.compaction.plan import CompactionScheduler
from lsm.errors import InvalidError
from lsm.manifest.checkpoint import Parent
from lsm.manifest.model import Manifest
from lsm.object_store.contract import ObjectStore
from lsm.object_store.names import table_name
from lsm.object_store.open import open_store, takes_options
from lsm.object_store.parent_stores import RoutedStore
from lsm.object_store.reliable import ReliableStore
from lsm.rows.chunk import PrefixExtractor, SeriesLayout
from lsm.runtime import Clock, Runtime
from lsm.settings import Settings
from lsm.sst.block import PAYLOAD_BYTES_MAX
from lsm.sst.builder import TableFormat
from lsm.sst.cache import Caches
from lsm.sst.disk_cache import DiskCache
from lsm.sst.table import TableReader
from lsm.workers.pool import StoreAddress, can_pickle


@dataclass(kw_only=True)
class Components:
    """The parts of a handle that a caller can replace. Each has a default."""

    storage_options: Mapping[str, Any] = field(default_factory=dict)
    file_system: Any = None
    """An fsspec file system to use; None: the URL's."""
    object_store: ObjectStore | None = None
    """An object store to use; None: the URL's."""
    wal_url: str | None = None
    wal_storage_options: Mapping[str, Any] = field(default_factory=dict)
    wal_object_store: ObjectStore | None = None
    parent_stores: Mapping[str, ObjectStore] = field(default_factory=dict)
    """For a clone: stores of its parents by URL, for parents that the URL alone does not open."""
    parent_storage_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For a clone: storage options of its parents by URL. A parent that is not named gets the clone's own options."""
    prefix_extractor: PrefixExtractor | None = None
    series_layout: SeriesLayout | None = None
    scheduler: CompactionScheduler | None = None
    compaction_executor: Executor | None = None
    """Executor for compactions: one that pickles its calls, such as a dask client's, or one of threads. The caller shuts it
    down. None: worker processes."""
    caches: Caches | None = None
    """Caches shared with other handles. None: this handle gets its own, sized by the settings."""
    clock: Clock | None = None
    runtime: Runtime | None = None


class Stores:
    """The opened stores of one handle."""

    def __init__(
        self, url: str, settings: Settings, parts: Components, runtime: Runtime, *, reads_only: bool = False
    ) -> None:
        """`reads_only`: a missing `assume_single_writer` raises InvalidError at the first create, not here."""
        self._settings = settings
        self._parts = parts
        self._runtime = runtime
        self._parents: dict[str, ReliableStore] = {}
        self.main = self._reliable(
            parts.object_store
            or open_store(
                url,
                self._main_options(url, parts),
                fs=parts.file_system,
                assume_single_writer=settings.assume_single_writer,
                reads_only=reads_only,
                request_timeout=settings.request_timeout,
            ),
            runtime,
        )
        self.wal = self.main
        self.wal_url = ""
        if parts.wal_object_store is not None:
            self.wal = self._reliable(parts.wal_object_store, runtime)
            self.wal_url = parts.wal_object_store.url
        elif parts.wal_url is not None:
            shared = parts.storage_options if takes_options(parts.wal_url) else {}
            wal = open_store(
                parts.wal_url,
                parts.wal_storage_options or shared,
                assume_single_writer=settings.assume_single_writer,
                reads_only=reads_only,
                request_timeout=settings.request_timeout,
            )
            self.wal = self._reliable(wal, runtime)
            self.wal_url = wal.url

    @staticmethod
    def _main_options(url: str, parts: Components) -> Mapping[str, Any]:
        """Return the options of the main store: none, if only the log's store accepts `storage_options`."""
        if parts.wal_url is not None and takes_options(parts.wal_url) and not takes_options(url):
            return {}
        return parts.storage_options

    def _reliable(self, store: ObjectStore, runtime: Runtime) -> ReliableStore:
        settings = self._settings
        return ReliableStore(
            store,
            runtime,
            op_timeout=settings.op_timeout,
            request_timeout=settings.request_timeout,
            assume_single_writer=settings.assume_single_writer,
        )

    def address(self, store: ReliableStore) -> StoreAddress | None:
        """Return how a worker process opens the store; None: it cannot."""
        spec = store.spec()
        if spec is None or not can_pickle((spec.url, dict(spec.storage_options))):
            return None
        settings = self._settings
        return StoreAddress(
            spec,
            op_timeout=settings.op_timeout,
            request_timeout=settings.request_timeout,
            single_writer=settings.assume_single_writer,
        )

    def parent(self, url: str) -> ReliableStore:
        """Return the store of a parent database, whose tables this one reads."""
        if url not in self._parents:
            parts = self._parts
            options = parts.parent_storage_options.get(url, parts.storage_options if takes_options(url) else {})
            store = parts.parent_stores.get(url) or open_store(
                url,
                options,
                assume_single_writer=self._settings.assume_single_writer,
                reads_only=True,
                request_timeout=self._settings.request_timeout,
                may_create=False,
            )
            self._parents[url] = self._reliable(store, self._runtime)
        return self._parents[url]

    def attach(self, parents: Sequence[Parent]) -> None:
        """Read tables of `parents` in place from now on. Another process cannot open such a store."""
        if parents:
            elsewhere = {table_name(n): self.parent(each.url).store for each in parents for n in each.tables}
            is_shared = self.wal is self.main
            self.main = self.main.with_cause("")
            self.main.store = RoutedStore(self.main.store, elsewhere)
            if is_shared:
                self.wal = self.main

    def close(self) -> None:
        for parent in self._parents.values():
            parent.close()
        self.main.close()
        if self.wal is not self.main:
            self.wal.close()


def batch_bytes_max(tables: ReliableStore, log: ReliableStore) -> int:
    """Return the maximum bytes of a batch: a batch must fit into a log object and into a table."""
    object_bytes = min(tables.store.object_bytes_max, log.store.object_bytes_max)
    return min(object_bytes * 2 // 3, PAYLOAD_BYTES_MAX * 3 // 4)


def table_format(settings: Settings) -> TableFormat:
    return TableFormat(
        block_bytes=settings.sst_block_size,
        compression=settings.compression,
        compression_level=settings.compression_level,
        filter_bits_per_key=settings.filter_bits_per_key,
        min_filter_keys=settings.min_filter_keys,
        sequence_range_bytes=settings.sequence_range_bytes,
    )


def table_reader(
    store: ReliableStore, manifest: Manifest, runtime: Runtime, settings: Settings, parts: Components
) -> TableReader:
    """Make a handle's reader of tables, with the caller's caches or its own."""
    caches = parts.caches
    if caches is None:
        caches = Caches(block_bytes=settings.block_cache_bytes, meta_bytes=settings.meta_cache_bytes, runtime=runtime)
    elif not isinstance(caches, Caches):
        raise InvalidError(f"caches must be an lsm.Caches, got {type(caches).__name__}")
    disk = None
    if settings.disk_cache_dir is not None:
        disk = DiskCache(settings.disk_cache_dir, settings.disk_cache_bytes, runtime)
    return TableReader(store, manifest.database, runtime, caches=caches, disk=disk, owners=manifest.owners())
