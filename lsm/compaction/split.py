"""Cuts a large job into key ranges that can be merged in parallel. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from lsm.compaction.block_places import BlockPlace

KeyRange = tuple[bytes | None, bytes | None]
"""The keys in [low, high). `None`: unbounded."""

PARTS_MAX = 64


def key_ranges(blocks: Iterable[BlockPlace], part_bytes: int) -> list[KeyRange]:
    """Return ranges that together cover every key. Each starts at a block and holds about `part_bytes` of the blocks."""
    ordered = sorted((block.low, block.size) for block in blocks)
    total = sum(size for _, size in ordered)
    parts = max(1, min(PARTS_MAX, total // part_bytes))
    cuts: list[bytes] = []
    seen = 0
    for low, size in ordered:
        if seen * parts >= total * (len(cuts) + 1) and (not cuts or low > cuts[-1]):
            cuts.append(low)
        seen += size
    return list(pairwise([None, *cuts, None]))
