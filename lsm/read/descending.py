"""Read walk: the rows of one series in a view, newest source first, without touching what nobody asks for.

The mirror of `series`: numbers only grow within a family, so newer sources hold greater numbers, and whoever wants the end
of a series never opens what lies before it. A source is looked at when the one above it is used up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from lsm.errors import CorruptionError
from lsm.read.series import NumbersAndValues, series_spans
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
) -> Iterator[NumbersAndValues]:
    """Numbers and values of the rows with low <= number < high, descending; rows in memory below `bound`.

    Shape: chunks follow each other descending, and so do the rows inside a chunk.
    Cost: of the tables that the key range admits, newest first and as far as it is iterated: one GET for filter and index,
    and one per stretch of blocks.
    """
    if low >= high:
        return
    for memtable in view.memtables:
        series = memtable.series.get(family)
        top = min(high, bound)
        while series is not None and low < top:
            numbers, values = series.last_rows(name, low, top, SLICE_ROWS)
            if not numbers:
                break
            yield numbers[::-1], values[::-1]
            high = top = numbers[0]
    # What was flushed between taking the view and now is still in the view's memtable: nothing is seen twice.
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
                if block.numbers[end - 1] >= oldest:
                    raise CorruptionError(
                        f"number {block.numbers[end - 1]} comes before {oldest}", object_name=table.name
                    )
                oldest = block.numbers[start]
                yield block.numbers[start:end][::-1], block.values(start, end)[::-1]
