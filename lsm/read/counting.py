"""Read walk: counts and locates the rows of a series, from row counts in the indexes. Data is read only at the range's ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from lsm.manifest.model import Partition
from lsm.read.series import key_after, key_from, series_spans
from lsm.rows.chunk import series_prefix
from lsm.sst.block import SeriesBlock
from lsm.sst.builder import TableInfo
from lsm.sst.read_ahead import Span
from lsm.sst.table import TableReader
from lsm.view import View


class TierCount(msgspec.Struct, frozen=True, kw_only=True):
    """A series' rows in level 0 or in the sorted runs of its partition.

    `ssts_total`: tables that a read has to consider: all of level 0, and the tables of each run whose keys admit the range.
    `runs`: runs with at least one such table; 0 for level 0.
    """

    runs: int = 0
    ssts_total: int = 0
    ssts_with_data: int = 0
    blocks_with_data: int = 0
    records: int = 0


class SeriesCount(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rows of a series are. `memory` counts the rows that are in no table yet."""

    l0: TierCount
    sorted_runs: TierCount
    memory: int

    @property
    def total(self) -> int:
        return self.l0.records + self.sorted_runs.records + self.memory


def count_series(
    view: View,
    bound: int,
    family: bytes,
    name: bytes,
    low: int,
    high: int,
    tables: TableReader,
    *,
    approximate: bool,
) -> int:
    """The number of rows that `scan_series` yields.

    Cost: indexes, and per table the blocks that cross an end of the range; `approximate` estimates the rows of those blocks.
    """
    total = count_memory(view, bound, family, name, low, high)
    if low < min(high, view.series_end(family)):
        prefix = series_prefix(family, name)
        for span in series_spans(view.manifest, family, name, low, high, tables):
            total += _count_span(span, prefix, family, name, low, high, tables, approximate=approximate)[0]
    return total


def inspect_series(
    view: View, bound: int, family: bytes, name: bytes, low: int, high: int, tables: TableReader
) -> SeriesCount:
    """`count_series`, split by where the rows are. Cost: as `count_series`."""
    prefix = series_prefix(family, name)
    first, last = prefix + low.to_bytes(8, "big"), key_after(prefix, high)
    l0 = runs = TierCount()
    if low < high:
        spans = series_spans(view.manifest, family, name, low, high, tables)
        admitted = {span.table.number: span for span in spans}
        for partition in view.manifest.partitions_for(first, last):
            l0, runs = _tiers(partition, admitted, prefix, family, name, low, high, tables)
    return SeriesCount(l0=l0, sorted_runs=runs, memory=count_memory(view, bound, family, name, low, high))


def _tiers(
    partition: Partition,
    admitted: Mapping[int, Span],
    prefix: bytes,
    family: bytes,
    name: bytes,
    low: int,
    high: int,
    tables: TableReader,
) -> tuple[TierCount, TierCount]:
    first, last = prefix + low.to_bytes(8, "big"), key_after(prefix, high)

    def tier(candidates: Iterable[TableInfo], runs: int) -> TierCount:
        total = with_data = blocks = records = 0
        for table in candidates:
            total += 1
            span = admitted.get(table.number)
            if span is not None:
                rows, spanned = _count_span(span, prefix, family, name, low, high, tables, approximate=False)
                with_data += rows > 0
                blocks += spanned
                records += rows
        return TierCount(
            runs=runs, ssts_total=total, ssts_with_data=with_data, blocks_with_data=blocks, records=records
        )

    covering = [found for run in partition.runs if (found := run.tables_for(first, last))]
    return tier(partition.l0, 0), tier((table for found in covering for table in found), len(covering))


def count_memory(view: View, bound: int, family: bytes, name: bytes, low: int, high: int) -> int:
    # Rows in tables are counted there; a memtable that was just flushed may still hold them.
    low, high = max(low, view.series_end(family)), min(high, bound)
    if low >= high:
        return 0
    total = 0
    for memtable in view.memtables:
        series = memtable.series.get(family)
        if series is not None and series.next_position > low:
            total += series.count(name, low, high)
    return total


def _count_span(
    span: Span,
    prefix: bytes,
    family: bytes,
    name: bytes,
    low: int,
    high: int,
    tables: TableReader,
    *,
    approximate: bool,
) -> tuple[int, int]:
    """The number of rows of the range in one table, and the number of blocks they span."""
    table, index, start, end = span.table, span.index, span.start, span.end
    first, last = key_from(prefix, low, table), key_after(prefix, high)
    total = blocks = 0
    for at in (start, end - 1) if end - start > 1 else range(start, end):
        rows = index.rows_before[at + 1] - index.rows_before[at]
        after = index.keys[at + 1] if at + 1 < len(index) else table.last_key + b"\x00"
        if first > index.keys[at] or (last is not None and after > last):
            if approximate:
                if index.keys[at].startswith(prefix) and after.startswith(prefix):
                    rows = _inside(rows, index.keys[at], after, len(prefix), low, high)
                else:
                    is_cut = start < at or at < end - 1
                    rows = _share(rows, tables.rows_per_series(table), table, low, high, is_cut=is_cut)
            else:
                block = tables.block(table, at)
                begin, stop = block.find(family, name, low, high) if isinstance(block, SeriesBlock) else (0, 0)
                rows = stop - begin
        total += rows
        blocks += rows > 0
    if end - start > 2:
        total += index.rows_before[end - 1] - index.rows_before[start + 1]
        blocks += end - start - 2
    return total, blocks


def _share(rows: int, average: float, table: TableInfo, low: int, high: int, *, is_cut: bool) -> int:
    """Estimate one series' rows of the range in a block that several series share. The estimate is the average per series,
    halved where a neighbouring block has the other half, and scaled by the share of the table's positions inside the range."""
    begin, end = table.first_position, table.last_position + 1
    inside = max(0, min(high, end) - max(low, begin)) / (end - begin) if end > begin else 1.0
    found = round(min(rows, average / 2 if is_cut else average) * inside)
    return max(found, int(inside >= 1.0))  # The filter has already ruled out tables without rows.


def _inside(rows: int, key: bytes, after: bytes, at: int, low: int, high: int) -> int:
    """Estimate the rows of the range in a block that holds one series only. The block reaches from `key` to `after`; the
    positions in these keys begin at byte `at`."""
    begin, end = int.from_bytes(key[at : at + 8], "big"), int.from_bytes(after[at : at + 8], "big")
    inside = min(high, end) - max(low, begin)
    return max(0, rows * inside // max(1, end - begin))
