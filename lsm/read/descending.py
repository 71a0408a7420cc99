"""Read walk: the rows of one series in a view, newest source first. Older sources are opened only on demand.

The mirror of `series`. Positions only grow within a family, so newer sources hold greater positions. A source is opened when
the source above it is used up, so a read of a series' end never opens older sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from lsm.errors import CorruptionError
from lsm.read.series import PositionsAndValues, series_spans
from lsm.rows.memtable import SLICE_ROWS
from lsm.sst.block import SeriesBlock
from lsm.sst.read_ahead import read_blocks
from lsm.sst.table import TableReader
from lsm.view import View


def scan_series_descending(
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
    """Positions and values of the rows with low <= position < high, descending. Rows in memory are limited to positions
    below `bound`.

    Shape: chunks descend, and so do the rows inside a chunk.
    Cost: per table that the key range admits and the iteration reaches, one GET for filter and index, and one per stretch
    of blocks.
    """
    if low >= high:
        return
    for memtable in view.memtables:
        series = memtable.series.get(family)
        top = min(high, bound)
        while series is not None and low < top:
            positions, values = series.last_rows(name, low, top, SLICE_ROWS)
            if not positions:
                break
            yield positions[::-1], values[::-1]
            high = top = positions[0]
    # No row is seen twice: the view's manifest does not name tables flushed after the view was taken.
    if low >= high:
        return
    oldest = high
    spans = series_spans(view.manifest, family, name, low, high, tables, descending=True)
    with closing(read_blocks(tables, spans, descending=True, keep=keep, ahead_bytes=ahead_bytes)) as blocks:
        for table, block in blocks:
            if not isinstance(block, SeriesBlock):
                continue
            start, end = block.find(family, name, low, high)
            if start < end:
                if block.positions[end - 1] >= oldest:
                    raise CorruptionError(
                        f"number {block.positions[end - 1]} comes before {oldest}", object_name=table.name
                    )
                oldest = block.positions[start]
                yield block.positions[start:end][::-1], block.values(start, end)[::-1]
