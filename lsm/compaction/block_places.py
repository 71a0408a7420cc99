"""The key ranges of the blocks of a compaction's sources, as known from the tables' indexes. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from lsm.sst.builder import TableInfo
from lsm.sst.index import Index


class BlockPlace(NamedTuple):
    """Block `at` of a table of source `source` (0 is the newest). Its keys are in [low, high)."""

    low: bytes
    high: bytes
    source: int
    table: TableInfo
    at: int
    size: int


def places(source: int, table: TableInfo, index: Index) -> list[BlockPlace]:
    """Return the blocks of one table. An index has first keys only, so a block's range ends where the next block begins."""
    ends = [*index.keys[1:], table.last_key + b"\x00"]
    sizes = [end - start for start, end in pairwise(index.offsets)]
    return [
        BlockPlace(low, high, source, table, at, size)
        for at, (low, high, size) in enumerate(zip(index.keys, ends, sizes, strict=True))
    ]
