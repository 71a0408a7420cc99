"""Write walk, after `rows`, before `manifest`: turns chunks into the bytes of one table. Pure.

A table:

    block 0 | block 1 | ... | filter | index | footer

The manifest entry (`TableInfo`) has the offsets of filter and index, so readers need no footer. The footer is for tools that
have only the file:

    0   magic     4s   b"LSMT"
    4   version   u16
    6   reserved  u16
    8   database  16s
    24  number    u64
    32  filter    u64  offset (equal to the index's where there is no filter)
    40  index     u64  offset
    48  end       u64  offset of this footer
    56  rows      u64
    64  checksum  u32  crc32c of the object's name and the 64 bytes above
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, islice
from operator import add, itemgetter
from typing import Final

import msgspec
from xxhash import xxh3_64_intdigest

from lsm.coding import CHECKSUM
from lsm.native.checksum import crc32c
from lsm.object_store.names import table_name
from lsm.rows.chunk import SEQ_MAX, RowChunk, series_key, series_prefixes
from lsm.rows.kind import TOMBSTONE
from lsm.sst.block import (
    BLOCK_CHECKSUM,
    KIND_ROWS,
    KIND_SERIES,
    WIDE_ROW_BYTES,
    BlockSealer,
    RowsBlock,
    SeriesBlock,
    checksum_seed,
    encode_rows,
    encode_series,
)
from lsm.sst.bloom import FilterBuilder, digests
from lsm.sst.index import KIND_FILTER, KIND_INDEX, encode_index
from lsm.sst.last_positions import encode_last_positions

FOOTER: Final = struct.Struct("<4sHH16sQQQQQ")
FOOTER_MAGIC: Final = b"LSMT"
TABLE_VERSION: Final = 1
_CHECKSUM_OF: Final = itemgetter(BLOCK_CHECKSUM)


class TableInfo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A table as the manifest knows it. Keys and positions are inclusive; offsets are bytes in the object.

    `tombstones`: the number of its rows that are deletes; 0 for tables of a version that did not count them.
    `first_position` and `last_position`: bounds on the positions of all series rows in the table. 0 and -1 if they are not
    known (tables written earlier) or if the table has no series rows.
    `content`: a digest of the stored bytes, by which caches distinguish two tables of one number: two copies of a database may
    each write one. 0 if it is not known (tables written earlier).
    """

    number: int
    size: int
    rows: int
    first_key: bytes
    last_key: bytes
    filter_offset: int
    index_offset: int
    index_end: int
    tombstones: int = 0
    first_position: int = 0
    last_position: int = -1
    content: int = 0

    @property
    def name(self) -> str:
        return table_name(self.number)

    def overlaps(self, low: bytes | None, high: bytes | None) -> bool:
        """Whether the table may hold a key in [low, high)."""
        return (high is None or self.first_key < high) and (low is None or self.last_key >= low)

    def may_reach(self, low: int, high: int) -> bool:
        """Whether the table may hold a series row with low <= number < high."""
        return self.first_position < high and (self.last_position >= low or self.last_position < 0)


def content_digest(blocks: Sequence[bytes]) -> int:
    """A digest of a table's content, never 0: of the checksums of its blocks, filter and index included. Cost: 0.1 µs per
    block."""
    return xxh3_64_intdigest(b"".join(map(_CHECKSUM_OF, blocks))) or 1


class TableFormat(msgspec.Struct, frozen=True):
    """How tables are written. `block_bytes`: before compression; doubled for series rows of 512 bytes or more."""

    block_bytes: int = 64 << 10
    compression: str | None = "zstd"
    compression_level: int = 1
    filter_bits_per_key: int = 16
    min_filter_keys: int = 16
    sequence_range_bytes: int = 16 << 10


class TableBuilder:
    """Collects sorted chunks and seals one table. Add keys in ascending order, and all rows of a key in one call."""

    def __init__(self, database: bytes, number: int, table_format: TableFormat) -> None:
        self._database = database
        self._number = number
        self._format = table_format
        self._name = table_name(number)
        self._sealer = BlockSealer(
            checksum_seed(database, self._name),
            compression=table_format.compression,
            level=table_format.compression_level,
        )
        self._parts: list[bytes] = []
        self._keys: list[bytes] = []
        self._kinds: list[int] = []
        self._sizes: list[int] = []
        self._rows: list[int] = []
        self._filter = FilterBuilder(table_format.filter_bits_per_key)
        self._last_keys: list[bytes] = []
        self._series_digests: list[bytes] = []
        self._lasts: list[int] = []
        self._last_series = b""
        self._first_position = SEQ_MAX
        self._tombstones = 0
        self.size = 0

    @property
    def is_empty(self) -> bool:
        return not self._parts

    def add_rows(self, chunk: RowChunk, sizes: Sequence[int] | None = None) -> None:
        """Add rows sorted by key, versions newest first. Cuts blocks between keys only.

        `sizes`: bytes of key and value per row, if the caller has them.
        """
        keys = chunk.keys
        if not keys:
            return
        ends = list(accumulate(sizes if sizes is not None else map(add, map(len, keys), map(len, chunk.values))))
        start = 0
        while start < len(keys):
            target = (ends[start - 1] if start else 0) + self._format.block_bytes
            end = max(start + 1, bisect_left(ends, target, start))
            while end < len(keys) and keys[end] == keys[end - 1]:
                end += 1  # Invariant: all versions of a key are in one block.
            part = chunk.slice(start, end)
            self._add_block(encode_rows(part), KIND_ROWS, part.keys[0], part.keys[-1], len(part))
            start = end
        self._filter.add(keys)
        self._tombstones += chunk.kinds.count(TOMBSTONE)

    def add_series(
        self,
        family: bytes,
        names: Sequence[bytes],
        counts: Sequence[int],
        positions: Sequence[int],
        values: Sequence[bytes],
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Add rows of one family, grouped by ascending name, positions ascending within a name. Cuts blocks anywhere.

        `lengths`: the values' lengths, if the caller has them.
        """
        if not positions:
            return
        sizes = lengths if lengths is not None else list(map(len, values))
        # Rows with empty values must not make a block of unlimited size: each row counts 8 bytes for its number.
        rows_max = max(1, self._format.block_bytes // 8)
        ends = list(accumulate(sizes))
        bounds = list(accumulate(counts, initial=0))
        start = group = 0
        rows = len(positions)
        # A scan has a fixed cost per block. Few wide rows fill a block, so their blocks are larger.
        block_bytes = self._format.block_bytes << (ends[-1] >= WIDE_ROW_BYTES * rows)
        while start < rows:
            target = (ends[start - 1] if start else 0) + block_bytes
            end = min(max(start + 1, bisect_left(ends, target, start)), start + rows_max)
            last = bisect_left(bounds, end, group + 1)
            group_counts = list(counts[group:last])
            group_counts[-1] -= bounds[last] - end
            group_counts[0] -= start - bounds[group]
            first_key = series_key(family, names[group], positions[start])
            last_key = series_key(family, names[last - 1], positions[end - 1])
            payload = encode_series(
                family, names[group:last], group_counts, positions[start:end], values[start:end], sizes[start:end]
            )
            self._add_block(payload, KIND_SERIES, first_key, last_key, end - start)
            start = end
            group = last if bounds[last] == end else last - 1
        self._note_series(family, names, bounds, positions)

    def _note_series(
        self, family: bytes, names: Sequence[bytes], bounds: Sequence[int], positions: Sequence[int]
    ) -> None:
        """Record the series and their last positions: group i has rows [bounds[i], bounds[i + 1])."""
        prefixes = series_prefixes(family, names)
        hashed = digests(prefixes)
        self._filter.add(prefixes, hashed)
        if prefixes[0] == self._last_series:  # The series continues: its new last number replaces the old one.
            self._series_digests.pop()
            self._lasts.pop()
        self._series_digests += hashed
        self._lasts += map(positions.__getitem__, map((-1).__add__, islice(bounds, 1, None)))
        self._last_series = prefixes[-1]
        self._first_position = min(self._first_position, min(map(positions.__getitem__, islice(bounds, len(names)))))

    def splice(self, stored: bytes, block: RowsBlock | SeriesBlock) -> None:
        """Add a stored block of another table without recompressing it; `block` is its verified, decoded form."""
        if isinstance(block, SeriesBlock):
            family, names, positions = block.family, block.names, block.positions
            kind = KIND_SERIES
            first, last = series_key(family, names[0], positions[0]), series_key(family, names[-1], positions[-1])
            self._note_series(family, names, block.starts, positions)
        else:
            kind, first, last = KIND_ROWS, block.keys[0], block.keys[-1]
            self._filter.add(block.keys)
            self._tombstones += block.kinds.count(TOMBSTONE)
        self._append_block(self._sealer.reseal(stored, self.size), kind, first, last, len(block))

    def _add_block(self, payload: bytes, kind: int, first_key: bytes, last_key: bytes, rows: int) -> None:
        self._append_block(self._sealer.seal(payload, kind, self.size), kind, first_key, last_key, rows)

    def _append_block(self, block: bytes, kind: int, first_key: bytes, last_key: bytes, rows: int) -> None:
        self._parts.append(block)
        self._keys.append(first_key)
        self._kinds.append(kind)
        self._sizes.append(len(block))
        self._rows.append(rows)
        self._last_keys.append(last_key)
        self.size += len(block)

    def finish(self) -> tuple[TableInfo, list[bytes]]:
        """Return the manifest entry and the object's parts."""
        filter_offset = self.size
        if self._filter.items >= self._format.min_filter_keys:
            self._append(self._sealer.seal(self._filter.finish(), KIND_FILTER, self.size))
        index_offset = self.size
        last_positions = encode_last_positions(self._series_digests, self._lasts, self._format.sequence_range_bytes)
        index = encode_index(self._seek_keys(), self._kinds, self._sizes, self._rows, last_positions)
        self._append(self._sealer.seal(index, KIND_INDEX, self.size))
        index_end = self.size
        rows = sum(self._rows)
        footer = FOOTER.pack(
            FOOTER_MAGIC, TABLE_VERSION, 0, self._database, self._number, filter_offset, index_offset, index_end, rows
        )
        self._append(footer + CHECKSUM.pack(crc32c(footer, crc32c(self._name.encode()))))
        info = TableInfo(
            self._number,
            self.size,
            rows,
            self._keys[0],
            self._last_keys[-1],
            filter_offset,
            index_offset,
            index_end,
            self._tombstones,
            self._first_position if self._lasts else 0,
            max(self._lasts, default=-1),
            content_digest(self._parts[:-1]),
        )
        return info, self._parts

    def _seek_keys(self) -> list[bytes]:
        """The index's key of each block: as low as possible, but above the keys of the block before (see index.py)."""
        keys = self._keys[:1]
        number = self._first_position.to_bytes(8, "big")
        for at in range(1, len(self._keys)):
            key, before = self._keys[at], self._last_keys[at - 1]
            if self._kinds[at] != KIND_SERIES:
                keys.append(key)
            elif self._kinds[at - 1] == KIND_SERIES and key[:-8] == before[:-8]:
                keys.append(before[:-8] + (int.from_bytes(before[-8:], "big") + 1).to_bytes(8, "big"))
            else:
                keys.append(key[:-8] + number)
        return keys

    def _append(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)
