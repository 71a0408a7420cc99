"""Read walk: scans a range of keys in a view, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lsm.manifest.model import Manifest, Partition
from lsm.rows.chunk import RowChunk, SeriesChunk, prefix_end, series_prefixes
from lsm.rows.kind import VALUE
from lsm.rows.memtable import Memtable, SeriesRows
from lsm.rows.merge import merge_rows, visible_rows
from lsm.sst.block import SeriesBlock
from lsm.sst.builder import TableInfo
from lsm.sst.read_ahead import Span, read_blocks
from lsm.sst.table import TableReader
from lsm.view import Bounds, View

NAMES_AT_ONCE = 256


def scan(
    view: View,
    bounds: Bounds,
    low: bytes | None,
    high: bytes | None,
    tables: TableReader,
    *,
    descending: bool = False,
    keep: bool = True,
) -> Iterator[RowChunk]:
    """The visible rows with low <= key < high, series rows included, in chunks.

    Shape: chunks follow each other in the scan's direction; inside a chunk keys always ascend.
    Cost: per table one GET for filter and index, then one per stretch of blocks.
    """
    if low is not None and high is not None and low >= high:
        return
    sources: list[Iterator[RowChunk]] = []
    for memtable in view.memtables:
        sources.append(memtable.scan(low, high, bounds.seq, descending=descending))
        sources += _series_sources(memtable, bounds, low, high, descending=descending)
    sources += table_sources(view.manifest, low, high, tables, descending=descending, keep=keep)
    for chunk in merge_rows(sources, descending=descending):
        found = visible_rows(chunk, bounds.seq)
        if len(found):
            yield found


def table_sources(
    manifest: Manifest,
    low: bytes | None,
    high: bytes | None,
    tables: TableReader,
    *,
    descending: bool = False,
    keep: bool = True,
) -> list[Iterator[RowChunk]]:
    """One stream of rows per level-0 table and per run, newest first, over all partitions in the range."""
    sources: list[Iterator[RowChunk]] = []
    for partition in manifest.partitions_for(low, high):
        for group in _sorted_groups(partition, low, high):
            sources.append(_rows_of(group, low, high, tables, descending=descending, keep=keep))
    return sources


def _sorted_groups(partition: Partition, low: bytes | None, high: bytes | None) -> Iterator[Sequence[TableInfo]]:
    for table in partition.l0:
        if table.overlaps(low, high):
            yield (table,)
    for run in partition.runs:
        inside = run.tables_for(low, high)
        if inside:
            yield inside


def _rows_of(
    group: Sequence[TableInfo],
    low: bytes | None,
    high: bytes | None,
    tables: TableReader,
    *,
    descending: bool,
    keep: bool,
) -> Iterator[RowChunk]:
    for table in reversed(group) if descending else group:
        index = tables.index(table)
        start, end = index.blocks_for(low, high)
        if descending:
            blocks = (tables.block(table, at, keep=keep) for at in range(end - 1, start - 1, -1))
        else:
            blocks = (block for _, block in read_blocks(tables, [Span(table, index, start, end)], keep=keep))
        for block in blocks:
            rows = as_rows(block.chunk()) if isinstance(block, SeriesBlock) else block
            rows = rows.clip(low, high)
            if len(rows):
                yield rows


def as_rows(chunk: SeriesChunk) -> RowChunk:
    """Series rows as ordinary rows, with their storage keys."""
    prefixes = series_prefixes(chunk.family, chunk.names)
    tails = [position.to_bytes(8, "big") for position in chunk.positions]
    heads = [prefix for prefix, count in zip(prefixes, chunk.counts, strict=True) for _ in range(count)]
    keys = list(map(bytes.__add__, heads, tails))
    return RowChunk(keys, [0] * len(keys), [VALUE] * len(keys), chunk.values)


def _series_sources(
    memtable: Memtable, bounds: Bounds, low: bytes | None, high: bytes | None, *, descending: bool
) -> list[Iterator[RowChunk]]:
    return [
        _series_rows(series, bounds.position(family), low, high, descending=descending)
        for family, series in memtable.series.items()
        if (high is None or family < high) and (low is None or (prefix_end(family) or low + b"\x00") > low)
    ]


def _series_rows(
    series: SeriesRows, bound: int, low: bytes | None, high: bytes | None, *, descending: bool
) -> Iterator[RowChunk]:
    names = series.names()
    starts = range(0, len(names), NAMES_AT_ONCE)
    for start in reversed(starts) if descending else starts:
        part = names[start : start + NAMES_AT_ONCE]
        found = [series.rows(name, 0, bound) for name in part]
        positions = [position for group, _ in found for position in group]
        values = [value for _, group in found for value in group]
        rows = as_rows(SeriesChunk(series.family, part, [len(group) for group, _ in found], positions, values))
        rows = rows.clip(low, high)
        if len(rows):
            yield rows
