"""Read walk: looks up one key in a view, newest source first, and stops at the first hit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from lsm.manifest.model import Manifest, Partition
from lsm.rows.chunk import RowChunk, SeriesLayout, last_at_or_before, unterminated
from lsm.rows.kind import value_of
from lsm.sst.block import SeriesBlock
from lsm.sst.builder import TableInfo
from lsm.sst.table import TableReader
from lsm.view import Bounds, View


def get(view: View, bounds: Bounds, key: bytes, tables: TableReader, layout: SeriesLayout | None) -> bytes | None:
    """The value of `key`, or None. Cost: per table whose key range and filter admit the key, one GET for filter and
    index and one for the block, each cached."""
    family = layout.family(key) if layout is not None else None
    if family is not None:
        return _get_series_row(view, bounds, key, family, tables)
    for memtable in view.memtables:
        version = memtable.get(key, bounds.seq)
        if version is not None:
            return value_of(version[1], version[2])
    for table in _candidates(view.manifest, key):
        if tables.may_contain(table, key):
            hit = _find(table, key, bounds.seq, tables)
            if hit is not None:
                return value_of(*hit)
    return None


def get_many(
    view: View, bounds: Bounds, keys: Sequence[bytes], tables: TableReader, layout: SeriesLayout | None
) -> list[bytes | None]:
    """`get` of many keys. Cost: as `get`; keys are looked up in key order, so a block is fetched once for all of its keys."""
    found = {key: get(view, bounds, key, tables, layout) for key in sorted(set(keys))}
    return [found[key] for key in keys]


def _candidates(manifest: Manifest, key: bytes) -> Iterator[TableInfo]:
    """The tables whose key range admits `key`, newest first."""
    for partition in manifest.partitions_for(key, key + b"\x00"):
        yield from _in_partition(partition, key)


def _in_partition(partition: Partition, key: bytes) -> Iterator[TableInfo]:
    for table in partition.l0:
        if table.first_key <= key <= table.last_key:
            yield table
    for run in partition.runs:
        yield from run.tables_for(key, key + b"\x00")


def _find(table: TableInfo, key: bytes, seq: int, tables: TableReader) -> tuple[int, bytes] | None:
    """Kind and value of the newest version <= seq in the table."""
    at = last_at_or_before(tables.index(table).keys, key)
    if at < 0:
        return None
    block = tables.block(table, at)
    if not isinstance(block, RowChunk):
        return None
    keys = block.keys
    row = bisect_left(keys, key)
    while row < len(keys) and keys[row] == key:
        if block.seqs[row] <= seq:
            return block.kinds[row], block.values[row]
        row += 1
    return None


def _get_series_row(view: View, bounds: Bounds, key: bytes, family: bytes, tables: TableReader) -> bytes | None:
    try:
        name, at = unterminated(key, len(family))
    except ValueError:
        return None
    if len(key) - at != 8:
        return None
    position = int.from_bytes(key[at:], "big")
    for memtable in view.memtables:
        series = memtable.series.get(family)
        if series is not None and position < bounds.position(family):
            values = series.rows(name, position, position + 1)[1]
            if values:
                return values[0]
    for table in _candidates(view.manifest, key):
        if tables.may_contain(table, key[:at]):
            block = tables.block(table, max(0, last_at_or_before(tables.index(table).keys, key)))
            if isinstance(block, SeriesBlock):
                found = block.find(family, name, position, position + 1)
                if found[0] < found[1]:
                    return block.values(*found)[0]
    return None
