"""The index of a table. The filter lies just before it, so one range read fetches both. Pure.

Index payload, compressed and checksummed like a block (kind 3), n blocks:

    0   n         u32
    4   keys      string column: a key per block: <= the block's first key, > the last key of the block before
    ..  kinds     integer column
    ..  sizes     integer column: stored bytes of each block; blocks lie end to end from offset 0
    ..  rows      integer column: rows of each block
    ..  the last positions of the series, as in last_positions.py; or nothing

From these come the offsets, and the cumulative row counts that answer `count` without reading data. If a block continues the
series of the block before, its key is the one after the last key there. If a block begins with a new series, its key is the
series' prefix and the table's least position. So a cursor finds its own block, not the block before. (Older tables have first
keys, which cost reads that one block more.)
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from lsm.coding import decoding, put_ints, put_strings, take_ints, take_strings
from lsm.rows.chunk import last_at_or_before
from lsm.sst.block import KIND_ROWS, KIND_SERIES, unknown_kind
from lsm.sst.last_positions import LastPositions, take_last_positions

KIND_INDEX: Final = 3
KIND_FILTER: Final = 4
_DATA_KINDS: Final = {KIND_ROWS, KIND_SERIES}
_COUNT: Final = struct.Struct("<I")


def encode_index(
    keys: Sequence[bytes], kinds: Sequence[int], sizes: Sequence[int], rows: Sequence[int], last_positions: bytes = b""
) -> bytes:
    parts: list[bytes] = [_COUNT.pack(len(keys))]
    put_strings(keys, parts.append)
    for column in (kinds, sizes, rows):
        put_ints(column, parts.append)
    parts.append(last_positions)
    return b"".join(parts)


class Index:
    """A decoded index. Immutable."""

    __slots__ = ("keys", "kinds", "last_positions", "offsets", "rows_before")

    def __init__(self, payload: bytes, *, name: str, offset: int) -> None:
        with decoding(name, offset):
            (count,) = _COUNT.unpack_from(payload)
            self.keys, at = take_strings(payload, _COUNT.size, count)
            self.kinds, at = take_ints(payload, at, count)
            for kind in set(self.kinds) - _DATA_KINDS:
                # `count` uses the index without opening blocks, so an unknown kind has to be refused here.
                raise unknown_kind(kind, name=name, offset=offset)
            sizes, at = take_ints(payload, at, count)
            rows, at = take_ints(payload, at, count)
            self.offsets = list(accumulate(sizes, initial=0))
            self.rows_before = list(accumulate(rows, initial=0))
            self.last_positions: LastPositions | None = None
            if at < len(payload):
                self.last_positions, at = take_last_positions(payload, at)
            if not count or at != len(payload):
                raise ValueError(f"index of {count} blocks does not add up to {len(payload)} bytes")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def weight(self) -> int:
        series = len(self.last_positions) if self.last_positions is not None else 0
        return sum(map(len, self.keys)) + 150 * len(self.keys) + 16 * series + 500

    def shared_rows(self, kind: int, last_key: bytes) -> tuple[int, int]:
        """Return the rows in blocks of `kind` (series blocks) that several series share, and the rows in blocks of other kinds.
        The keys of one series differ in their last eight bytes only."""
        series = [key[:-8] for key in self.keys]
        shared = other = 0
        for at, (one, following) in enumerate(pairwise([*series, last_key[:-8]])):
            rows = self.rows_before[at + 1] - self.rows_before[at]
            if self.kinds[at] != kind:
                other += rows
            elif one != following:
                shared += rows
        return shared, other

    def blocks_for(self, low: bytes | None, high: bytes | None) -> tuple[int, int]:
        """The blocks [start, end) that may hold keys in [low, high)."""
        start = 0 if low is None else max(0, last_at_or_before(self.keys, low))
        end = len(self.keys) if high is None else bisect_left(self.keys, high)
        return start, max(start, end)
