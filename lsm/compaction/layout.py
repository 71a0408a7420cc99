"""Which blocks of a compaction's sources must be merged, and which can be copied. Pure.

Blocks of several sorted sources are laid out along the key axis. A block that no other source's block touches is alone:
it is copied as it is stored. Blocks that touch each other form a group, which is merged by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from lsm.sst.builder import TableInfo
from lsm.sst.index import Index


class BlockPlace(NamedTuple):
    """Block `at` of a table of source `source` (0 is the newest): its keys are in [low, high)."""

    low: bytes
    high: bytes
    source: int
    table: TableInfo
    at: int
    size: int


def places(source: int, table: TableInfo, index: Index) -> list[BlockPlace]:
    """The blocks of one table. Only first keys are known, so a block is taken to end where the next one begins."""
    ends = [*index.keys[1:], table.last_key + b"\x00"]
    sizes = [end - start for start, end in pairwise(index.offsets)]
    return [
        BlockPlace(low, high, source, table, at, size)
        for at, (low, high, size) in enumerate(zip(index.keys, ends, sizes, strict=True))
    ]


def group_blocks(blocks: Sequence[BlockPlace]) -> Iterator[list[BlockPlace]]:
    """Groups in key order; blocks of different sources that touch are in one group, and a group of blocks of one source
    has a single block. Cost: O(n log n)."""
    group: list[BlockPlace] = []
    reach = b""
    for block in sorted(blocks, key=_order):
        if group and block.low >= reach:
            yield group
            group = []
            reach = b""
        group.append(block)
        reach = max(reach, block.high)
    if group:
        yield group


def _order(block: BlockPlace) -> tuple[bytes, bytes, int]:
    return block.low, block.high, -block.source
