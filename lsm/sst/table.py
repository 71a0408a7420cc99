"""Read walk, after `read/series` and `read/scan`, before `object_store`: a table's filter, index, blocks, through caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Final

from lsm.errors import CorruptionError, TableMissingError
from lsm.object_store.contract import MissingInParent, ObjectMissing
from lsm.object_store.reliable import ReliableStore
from lsm.observe import events
from lsm.rows.chunk import RowChunk
from lsm.runtime import Runtime
from lsm.sst.block import (
    KIND_ROWS,
    KIND_SERIES,
    RowsBlock,
    SeriesBlock,
    checksum_seed,
    decode_rows,
    decode_series,
    open_block,
    row_chunk_weight,
    unknown_kind,
)
from lsm.sst.bloom import Filter
from lsm.sst.builder import TableInfo
from lsm.sst.cache import Cache, Caches, CachesStatus, Loads
from lsm.sst.disk_cache import DiskCache
from lsm.sst.index import KIND_FILTER, KIND_INDEX, Index

COPY_BYTES: Final = 1 << 20
"""Maximum stored bytes per request of a compaction."""
META_WIDTH: Final = 16
TOLD_MAX: Final = 100
"""Maximum damaged blocks that a handle reports, each once."""

Block = RowChunk | SeriesBlock
Meta = tuple[Filter | None, Index]
_NO_OWNERS: Final[Mapping[int, bytes]] = {}


class TableBytes:
    """The bytes of tables: from the directory of stored parts if there is one, else from the store."""

    def __init__(
        self, store: ReliableStore, disk: DiskCache | None, database: bytes, owners: Mapping[int, bytes]
    ) -> None:
        """`owners`: the databases of tables that are not `database`'s own, by number."""
        self._store = store
        self._disk = disk
        self._database = database
        self._owners = owners
        self._is_near = store.store.is_near

    def for_store(self, store: ReliableStore) -> TableBytes:
        """Return a copy that sends its requests through another view of the store."""
        return TableBytes(store, self._disk, self._database, self._owners)

    def owner(self, table: TableInfo) -> bytes:
        """Return the id of the database that wrote the table."""
        return self._owners.get(table.number, self._database)

    def read(self, table: TableInfo, start: int, end: int, *, keep: bool = True) -> bytes:
        """Return the table's bytes [start, end). Without `keep`, the directory is not written."""
        if self._disk is None or not table.content:
            return self._fetch(table, start, end)
        return self._disk.read(
            self.owner(table),
            _part_name(table),
            table.size,
            start,
            end,
            lambda low, high: self._fetch(table, low, high),
            keep=keep,
        )

    def _fetch(self, table: TableInfo, start: int, end: int) -> bytes:
        if self._is_near:
            return self.fetch_once(table, start, end)
        return self._store.insist(lambda: self.fetch_once(table, start, end))

    def fetch_once(self, table: TableInfo, start: int, end: int) -> bytes:
        """Ask the store once. Raises: TableMissingError; CorruptionError: the table is cut short."""
        name = table.name
        try:
            data = self._store.get_range(name, start, end)
        except ObjectMissing as error:
            raise table_missing(error, table, start) from error
        if len(data) != end - start:
            raise CorruptionError(
                f"the table is cut short: {len(data)} of {end - start} bytes", object_name=name, offset=start
            )
        return data


class TableReader:
    """Reads the tables of one database. Thread-safe; holds no open files."""

    def __init__(
        self,
        store: ReliableStore,
        database: bytes,
        runtime: Runtime,
        *,
        caches: Caches,
        disk: DiskCache | None = None,
        owners: Mapping[int, bytes] = _NO_OWNERS,
    ) -> None:
        """`owners`: the databases of tables that are not `database`'s own, by number."""
        self._store = store.with_cause("read")
        self._database = database
        self._owners = owners
        self.runtime = runtime
        self.is_near = store.store.is_near
        self._caches = caches
        self._blocks: Cache[Block] = caches.blocks
        self._meta: Cache[Meta] = caches.meta
        self._disk = disk
        self._bytes = TableBytes(self._store, disk, database, owners)
        self._loads = Loads(runtime)
        self._told: set[tuple[str, int]] = set()
        self._unshared = object()

    def for_cause(self, cause: str) -> TableReader:
        """A copy of this reader whose requests are counted under another cause."""
        twin = copy(self)
        twin._store = self._store.with_cause(cause)
        twin._bytes = self._bytes.for_store(twin._store)
        return twin

    def cache_status(self) -> CachesStatus:
        """The status of the caches this reader uses, shared or not, and of its own directory."""
        shared = self._caches.status()
        return CachesStatus(shared.blocks, shared.meta, self._disk.status() if self._disk is not None else None)

    def drop_cached(self) -> None:
        """Drop this database's items from the caches in memory."""
        self._caches.drop(self._database)

    def _key(self, table: TableInfo) -> tuple[bytes, int, object]:
        """The cache key of a table's parts. Database and number do not identify a table: two copies of a database may each
        write a table of the same number. A table without a content digest is cached for this handle only."""
        return self._owners.get(table.number, self._database), table.number, table.content or self._unshared

    # -- filter and index -------------------------------------------------------------------------------------------------

    def meta(self, table: TableInfo) -> Meta:
        """Filter (None without one) and index. Cost: one GET, then cached."""
        key = self._key(table)
        found = self._meta.peek(key)
        if found is None:
            found = self._loads.get(self._meta, key, lambda: self._load_meta(table))
        return found

    def metas(self, tables: Sequence[TableInfo], *, one_by_one: bool = False) -> Iterator[tuple[TableInfo, Meta]]:
        """Each table with its `meta`. On a distant store, META_WIDTH are requested in parallel, unless `one_by_one`."""
        if one_by_one or self.is_near:
            for table in tables:
                yield table, self.meta(table)
            return
        for start in range(0, len(tables), META_WIDTH):
            part = tables[start : start + META_WIDTH]
            known = [self._meta.peek(self._key(table)) for table in part]
            missing = [table for table, meta in zip(part, known, strict=True) if meta is None]
            loaded = iter(self.runtime.map(self.meta, missing, width=META_WIDTH))
            for table, meta in zip(part, known, strict=True):
                yield table, meta if meta is not None else next(loaded)

    def index(self, table: TableInfo) -> Index:
        return self.meta(table)[1]

    def rows_per_series(self, table: TableInfo) -> float:
        """Estimate the average rows of a series in blocks that it shares, from the index and the filter. Cost: as `meta`, and
        a pass over the keys of the blocks."""
        table_filter, index = self.meta(table)
        last_positions = index.last_positions
        series = len(last_positions) if last_positions is not None else 0
        shared, other = index.shared_rows(KIND_SERIES, table.last_key)
        if table_filter is not None and (last_positions is None or not last_positions.is_whole):
            series = max(series, table_filter.estimated_items - other)
        return shared / max(1, series)

    def may_contain(self, table: TableInfo, item: bytes) -> bool:
        """Whether the table may hold this row key, or this series prefix. Cost: as `meta`."""
        table_filter = self.meta(table)[0]
        return table_filter is None or table_filter.may_contain(item)

    def _load_meta(self, table: TableInfo) -> tuple[Meta, int]:
        name, start = table.name, table.filter_offset
        data = self._bytes.read(table, start, table.index_end)
        split = table.index_offset - start
        table_filter = None
        if split:
            table_filter = Filter(self._open(table, data[:split], start, KIND_FILTER), name=name, offset=start)
        payload = self._open(table, data[split:], table.index_offset, KIND_INDEX)
        index = Index(payload, name=name, offset=table.index_offset)
        if index.offsets[-1] != table.filter_offset or index.rows_before[-1] != table.rows:
            raise CorruptionError("index and manifest disagree", object_name=name, offset=table.index_offset)
        return (table_filter, index), index.weight + (table_filter.weight if table_filter is not None else 0)

    def _open(self, table: TableInfo, data: bytes, offset: int, kind: int) -> bytes:
        found, payload = self._verified(table, data, offset)
        if found != kind:
            raise CorruptionError(f"block kind {found} where {kind} belongs", object_name=table.name, offset=offset)
        return bytes(payload)

    # -- blocks -------------------------------------------------------------------------------------------------------------

    def peek(self, table: TableInfo, at: int) -> Block | None:
        """Block number `at`; None if it is not cached."""
        return self._blocks.peek((*self._key(table), at))

    def block(self, table: TableInfo, at: int, *, index: Index | None = None, keep: bool = True) -> Block:
        """Block number `at`. Cost: one GET, then cached. `index`: the table's, if the caller has it."""
        key = (*self._key(table), at)
        found = self._blocks.peek(key)
        if found is None:
            found = self._loads.get(self._blocks, key, lambda: self._load_block(table, at, index, keep=keep), keep=keep)
        return found

    def stored(self, table: TableInfo, index: Index, start: int, end: int, *, keep: bool) -> bytes:
        """Stored bytes of blocks [start, end), not verified. Bypasses the cache in memory. Cost: one GET."""
        return self._bytes.read(table, index.offsets[start], index.offsets[end], keep=keep)

    def opened(
        self, table: TableInfo, index: Index, start: int, end: int, data: bytes, *, descending: bool, keep: bool
    ) -> Iterator[Block]:
        """Verify and decode the blocks that `stored` returned, one by one. Raises: CorruptionError.

        Wide rows stored uncompressed on a near store are not cached: the operating system caches them already, and to copy
        them would take longer than to read them again.
        """
        offsets = index.offsets
        base = offsets[start]
        view = memoryview(data)  # Slices of bytes would copy every block once more.
        key = self._key(table)
        seed = checksum_seed(key[0], table.name)
        for at in reversed(range(start, end)) if descending else range(start, end):
            part = view[offsets[at] - base : offsets[at + 1] - base]
            block = self._decode(table, part, offsets[at], seed, may_borrow=self.is_near)
            if keep and not (isinstance(block, SeriesBlock) and block.is_borrowed):
                self._blocks.put((*key, at), block, weight_of(block))
            yield block

    def stored_blocks(self, table: TableInfo, wanted: Sequence[int]) -> Iterator[bytes]:
        """Stored bytes of the `wanted` blocks (ascending), not verified, for compaction. Bypasses the cache in memory.

        Cost: one GET per COPY_BYTES of adjacent blocks.
        """
        offsets = self.index(table).offsets
        at = 0
        while at < len(wanted):
            stop = at + 1
            low = offsets[wanted[at]]
            while (
                stop < len(wanted)
                and wanted[stop] == wanted[stop - 1] + 1
                and offsets[wanted[stop] + 1] - low <= COPY_BYTES
            ):
                stop += 1
            data = self._bytes.read(table, low, offsets[wanted[stop - 1] + 1])
            for each in wanted[at:stop]:
                yield data[offsets[each] - low : offsets[each + 1] - low]
            at = stop

    def open_stored(self, table: TableInfo, index: Index, at: int, stored: bytes) -> RowsBlock | SeriesBlock:
        """Verify block `at` as `stored_blocks` returned it, and decode its columns. Raises: CorruptionError."""
        offset = index.offsets[at]
        kind, payload = self._verified(table, stored, offset)
        if kind == KIND_ROWS:
            return RowsBlock(bytes(payload), name=table.name, offset=offset)
        block = decode_block(kind, payload, name=table.name, offset=offset, may_borrow=True)
        assert isinstance(block, SeriesBlock)
        return block

    def _load_block(self, table: TableInfo, at: int, index: Index | None, *, keep: bool) -> tuple[Block, int]:
        offsets = (index if index is not None else self.index(table)).offsets
        block = self._decode(table, self._bytes.read(table, offsets[at], offsets[at + 1], keep=keep), offsets[at])
        return block, weight_of(block)

    def _decode(
        self,
        table: TableInfo,
        data: bytes | memoryview,
        offset: int,
        seed: int | None = None,
        *,
        may_borrow: bool = False,
    ) -> Block:
        kind, payload = self._verified(table, data, offset, seed)
        return decode_block(kind, payload, name=table.name, offset=offset, may_borrow=may_borrow)

    def _verified(
        self, table: TableInfo, data: bytes | memoryview, offset: int, seed: int | None = None
    ) -> tuple[int, bytes | memoryview]:
        """Kind and payload of a stored block. If it does not verify, it is fetched again: it may have been damaged on its way
        from a distant store, or in the directory of stored parts. `seed`: the table's, if the caller has it."""
        name = table.name
        if seed is None:
            seed = checksum_seed(self._bytes.owner(table), name)
        try:
            return open_block(data, seed=seed, name=name, offset=offset)
        except CorruptionError:
            end = offset + len(data)
            try:
                if self._disk is not None and table.content:
                    self._disk.drop(self._bytes.owner(table), _part_name(table), offset, end)
                elif self.is_near:
                    raise
                return self._store.insist(
                    lambda: open_block(self._bytes.fetch_once(table, offset, end), seed=seed, name=name, offset=offset)
                )
            except CorruptionError as error:
                self._tell_damage(name, offset, error)
                raise

    def _tell_damage(self, name: str, offset: int, error: CorruptionError) -> None:
        """Report damage once per block: the same block may be read in a loop."""
        if (name, offset) not in self._told and len(self._told) < TOLD_MAX:
            self._told.add((name, offset))
            events.tell(events.CORRUPTION, url=self._store.url, reason=events.reason(error))


def table_missing(error: ObjectMissing, table: TableInfo, offset: int) -> TableMissingError:
    """The error for a missing table. If a clone reads the table in place, the error names the parent database."""
    why = "the table is missing"
    if isinstance(error, MissingInParent):
        why += f" at {error.url}, which this clone reads in place: that database is gone, has moved, or lost it"
    return TableMissingError(why, object_name=table.name, offset=offset)


def _part_name(table: TableInfo) -> str:
    """A table's name in the directory of stored parts. The content is part of it, because two copies of a database may share
    the directory and the table's name."""
    return f"{table.name}-{table.content:016x}"


def decode_block(kind: int, payload: bytes | memoryview, *, name: str, offset: int, may_borrow: bool = False) -> Block:
    """Decode a data block's payload. Raises: CorruptionError."""
    if kind == KIND_SERIES:
        return decode_series(payload, name=name, offset=offset, may_borrow=may_borrow)
    if kind == KIND_ROWS:
        return decode_rows(bytes(payload), name=name, offset=offset)
    raise unknown_kind(kind, name=name, offset=offset)


def weight_of(block: Block) -> int:
    """Approximate bytes that a decoded block occupies."""
    return block.weight if isinstance(block, SeriesBlock) else row_chunk_weight(block)
