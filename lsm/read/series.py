"""Read walk: the rows of one series in a view, oldest source first.

Positions only grow within a family, so older sources hold smaller positions: the sources are read one after the other, without
a merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from lsm.errors import CorruptionError
from lsm.manifest.model import Manifest
from lsm.read.scan import table_sources
from lsm.rows.chunk import RowChunk, prefix_end, series_prefix
from lsm.rows.memtable import Arrival
from lsm.rows.merge import merge_rows, newest_rows
from lsm.sst.block import SeriesBlock
from lsm.sst.bloom import digest
from lsm.sst.builder import TableInfo
from lsm.sst.read_ahead import Span, read_blocks
from lsm.sst.table import TableReader
from lsm.view import View

PositionsAndValues = tuple[Sequence[int], list[bytes]]


def scan_series(
    view: View,
    bound: int,
    family: bytes,
    name: bytes,
    low: int,
    high: int,
    tables: TableReader,
    *,
    keep: bool,
    ahead_bytes: int,
) -> Iterator[PositionsAndValues]:
    """Positions and values of the rows with low <= position < high, ascending, block by block. Rows in memory are limited to
    positions below `bound`.

    Cost: per table that the key range and filter admit, one GET for filter and index and one per stretch of blocks.
    """
    if low >= high:
        return
    newest = low - 1
    spans = series_spans(view.manifest, family, name, low, high, tables)
    with closing(read_blocks(tables, spans, keep=keep, ahead_bytes=ahead_bytes)) as blocks:
        for table, block in blocks:
            if not isinstance(block, SeriesBlock):
                continue
            start, end = block.find(family, name, low, high)
            if start < end:
                if block.positions[start] <= newest:
                    raise CorruptionError(
                        f"number {block.positions[start]} comes after {newest}", object_name=table.name
                    )
                newest = block.positions[end - 1]
                yield block.positions[start:end], block.values(start, end)
    # No row is seen twice: the view's manifest does not name tables flushed after the view was taken.
    yield from memory_rows(view, bound, family, name, max(low, newest + 1), high)


def memory_rows(view: View, bound: int, family: bytes, name: bytes, low: int, high: int) -> list[PositionsAndValues]:
    """The part of `scan_series` that is in memory: all of it if low >= `view.series_end(family)`."""
    found: list[PositionsAndValues] = []
    for memtable in reversed(view.memtables):
        series = memtable.series.get(family)
        if series is not None and series.next_position > low:  # Skips memtables with older rows only: cheap polls.
            positions, values = series.rows(name, low, min(high, bound))
            if positions:
                low = positions[-1] + 1
                found.append((positions, values))
    return found


def is_at_hand(view: View, bound: int, family: bytes, low: int, high: int, most: int) -> bool:
    """Whether memory has all of the range, and at most `most` rows have to be put in order before a read."""
    high = min(high, bound)
    if low >= high:
        return True
    if low < view.series_end(family):
        return False
    series = (memtable.series.get(family) for memtable in view.memtables)
    return sum(found.ungrouped(high) for found in series if found is not None) <= most


def recent_arrivals(view: View, bound: int, family: bytes, low: int, high: int) -> list[Arrival] | None:
    """The rows of the family with low <= number < high in arrival order; None if memory does not have all of them in that
    order."""
    if low < view.series_end(family):
        return None
    found: list[Arrival] = []
    for memtable in reversed(view.memtables):
        series = memtable.series.get(family)
        if series is not None:
            part = series.arrivals(low, min(high, bound))
            if part is None:
                return None
            found += part
    return found


def series_spans(
    manifest: Manifest,
    family: bytes,
    name: bytes,
    low: int,
    high: int,
    tables: TableReader,
    *,
    descending: bool = False,
) -> Iterator[Span]:
    """The blocks that may hold rows of the series with low <= number < high, oldest first.

    Tables are ruled out by the manifest's ranges of keys and positions, then by the last positions or, for series without an
    entry there, the filter; then the index finds the blocks. `descending`: newest first; a table is opened when its turn comes.
    Cost: one GET per table that the manifest does not rule out, cached; several tables in parallel on a distant store.
    """
    prefix = series_prefix(family, name)
    last = key_after(prefix, high)
    item = digest(prefix)
    found = list(_candidates(manifest, prefix, low, high))
    for table, (table_filter, index) in tables.metas(found[::-1] if descending else found, one_by_one=descending):
        greatest = index.last_positions.last(item) if index.last_positions is not None else None
        if greatest is None:
            if table_filter is not None and not table_filter.may_contain(prefix):
                continue
        elif greatest < low:
            continue
        start, end = index.blocks_for(key_from(prefix, low, table), last)
        if start < end:
            yield Span(table, index, start, end)


def _candidates(manifest: Manifest, prefix: bytes, low: int, high: int) -> Iterator[TableInfo]:
    first, last = prefix + low.to_bytes(8, "big"), key_after(prefix, high)
    for partition in manifest.partitions_for(first, last):
        for run in reversed(partition.runs):
            yield from (table for table in run.tables_for(first, last) if table.may_reach(low, high))
        for table in reversed(partition.l0):
            if table.overlaps(first, last) and table.may_reach(low, high):
                yield table


def key_from(prefix: bytes, low: int, table: TableInfo) -> bytes:
    """The storage key at which the table's rows at positions >= `low` begin.

    The index uses the table's least position where a series begins, so a lower one would find the block before.
    """
    return prefix + max(low, table.first_position).to_bytes(8, "big")


def key_after(prefix: bytes, high: int) -> bytes | None:
    """The storage key at which rows numbered below `high` end."""
    return prefix + high.to_bytes(8, "big") if high < 1 << 64 else prefix_end(prefix)


def series_names(
    view: View, family: bytes, directory: bytes, bound: int, tables: TableReader, prefix: bytes = b""
) -> Iterator[Sequence[bytes]]:
    """The distinct names of a family that begin with `prefix` and have a row in a table, or a row in memory numbered below
    `bound`; sorted.

    Cost: the blocks of the family's directory, not its data.
    """
    low, high = directory + prefix, prefix_end(directory + prefix)
    sources: list[Iterator[RowChunk]] = []
    for memtable in view.memtables:
        series = memtable.series.get(family)
        if series is not None:
            sources.append(_name_rows(directory, series.names_below(bound, prefix)))
    sources += table_sources(view.manifest, low, high, tables)
    skip = len(directory)
    for chunk in merge_rows(sources):
        yield [key[skip:] for key in newest_rows(chunk).keys]


def _name_rows(directory: bytes, names: Sequence[bytes]) -> Iterator[RowChunk]:
    for start in range(0, len(names), 4096):
        keys = [directory + name for name in names[start : start + 4096]]
        yield RowChunk(keys, [0] * len(keys), [0] * len(keys), [b""] * len(keys))
