"""One compaction: read the sources, merge, write the outputs. Runs in a worker process or a thread; commits nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from lsm.compaction.plan import Sources
from lsm.compaction.series_merge import merge_series
from lsm.errors import CorruptionError
from lsm.object_store.reliable import ReliableStore
from lsm.placement import StoreAddress, process_runtime
from lsm.rows.chunk import RowChunk, SeriesChunk, prefix_end
from lsm.rows.merge import merge_rows, prune_rows
from lsm.rules import Rules
from lsm.runtime import Runtime
from lsm.sst.block import KIND_SERIES, SeriesBlock
from lsm.sst.builder import TableInfo
from lsm.sst.cache import Cache
from lsm.sst.rolling import RollingTables
from lsm.sst.table import TableReader, decode_block

META_BYTES: Final = 64 << 20


class CompactionJob(msgspec.Struct, frozen=True):
    """A checked proposal, ready to be sent to wherever it runs."""

    rules: Rules
    sources: Sources
    snapshots: tuple[int, ...]
    table_bytes: int
    table_numbers: tuple[int, int]


def compact_in_worker(store: StoreAddress, job: CompactionJob) -> list[TableInfo]:
    """What a worker process is sent."""
    return compact(store.open(), process_runtime(), job)


def compact(store: ReliableStore, runtime: Runtime, job: CompactionJob) -> list[TableInfo]:
    """Merge the sources into new tables, uploaded but referred to by nothing. Raises: CorruptionError: an input is
    damaged; nothing is dropped then."""
    cache = Cache(META_BYTES, runtime)
    tables = TableReader(store, job.rules.database, runtime, blocks=cache, meta=cache).for_cause("compaction")
    outputs: list[TableInfo] = []
    compaction_store = store.with_cause("compaction")

    def put(info: TableInfo, parts: list[bytes]) -> None:
        compaction_store.put_new(info.name, parts)
        outputs.append(info)

    numbers = iter(range(*job.table_numbers))
    output = RollingTables(job.rules.database, numbers, job.rules.table_format, table_bytes=job.table_bytes, put=put)
    low: bytes | None = None
    for family in [*_families(tables, job), None]:
        for rows in _merged_rows(tables, job, low, family):
            output.add_rows(rows)
            runtime.hand_over()
        if family is not None:
            low = prefix_end(family)
            for chunk in merge_series(family, [_series(tables, group, family) for group in job.sources.groups]):
                output.add_series(chunk)
                runtime.hand_over()
    output.finish()
    return outputs


def _families(tables: TableReader, job: CompactionJob) -> list[bytes]:
    """The series families in the sources, in order."""
    layout = job.rules.layout
    found: set[bytes] = set()
    for table in job.sources.tables:
        index = tables.index(table)
        keys = [key for key, kind in zip(index.keys, index.kinds, strict=True) if kind == KIND_SERIES]
        if keys and layout is None:
            raise CorruptionError("holds series, but the database was opened without a layout", object_name=table.name)
        if layout is not None:
            found |= {family for key in keys if (family := layout.family(key)) is not None}
    return sorted(found)


def _merged_rows(tables: TableReader, job: CompactionJob, low: bytes | None, high: bytes | None) -> Iterator[RowChunk]:
    sources = [_rows(tables, group, low, high) for group in job.sources.groups]
    for chunk in merge_rows(sources):
        yield prune_rows(chunk, job.snapshots, at_bottom=job.sources.is_bottom)


def _rows(tables: TableReader, group: Sequence[TableInfo], low: bytes | None, high: bytes | None) -> Iterator[RowChunk]:
    for block in _blocks(tables, group, low, high):
        if isinstance(block, RowChunk):
            rows = block.clip(low, high)
            if len(rows):
                yield rows


def _series(tables: TableReader, group: Sequence[TableInfo], family: bytes) -> Iterator[SeriesChunk]:
    for block in _blocks(tables, group, family, prefix_end(family)):
        if isinstance(block, SeriesBlock) and block.family == family:
            yield block.chunk()


def _blocks(
    tables: TableReader, group: Sequence[TableInfo], low: bytes | None, high: bytes | None
) -> Iterator[RowChunk | SeriesBlock]:
    for table in group:
        if table.overlaps(low, high):
            index = tables.index(table)
            start, end = index.blocks_for(low, high)
            for at, (kind, payload) in enumerate(tables.payloads(table, start, end), start):
                yield decode_block(kind, payload, name=table.name, offset=index.offsets[at])[0]
