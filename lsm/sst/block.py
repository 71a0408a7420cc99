"""A block: some tens of kilobytes of a chunk, in columns, compressed and checksummed. Pure.

Stored block:

    0   codec     u8     0 stored as is, 1 zstd
    1   kind      u8     1 rows, 2 series
    2   reserved  u16    0
    4   length    u32    bytes of the payload before compression
    8   checksum  u32    crc32c of database id, object name, offset in the object, the 8 bytes above, stored payload
    12  payload   ...

Payload of a rows block (columns as in coding.py; n rows):

    0   n         u32
    4   shared    u16    length of the prefix all keys share, then the prefix
    ..  suffixes  string column
    ..  seqs      integer column
    ..  kinds     integer column (rows/kind.py)
    ..  values    string column

Payload of a series block (g groups, n rows, all of one family):

    0   g         u32
    4   n         u32
    8   family    u16    its length, then the family prefix
    ..  names     string column, g items
    ..  counts    integer column, g items
    ..  numbers   integer column, n items
    ..  lengths   integer column, n items
    ..  values    end to end

A series row is written once, so it has no versions and needs no sequence number of the engine.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import sub
from typing import Final

from lsm.coding import cut, decoding, even_pieces, put_ints, put_strings, take_ints, take_strings
from lsm.errors import CorruptionError
from lsm.native import zstd
from lsm.native.checksum import crc32c
from lsm.rows.chunk import RowChunk, SeriesChunk, series_key
from lsm.rows.kind import take_kinds

HEADER: Final = struct.Struct("<BBHII")
_UNSUMMED: Final = struct.Struct("<BBHI")
BLOCK_CHECKSUM: Final = slice(8, 12)
"""The position of the checksum in a stored block."""
_SEED: Final = struct.Struct("<Q")
ROWS_HEAD: Final = struct.Struct("<IH")
SERIES_HEAD: Final = struct.Struct("<IIH")

KIND_ROWS: Final = 1
KIND_SERIES: Final = 2
SAMPLE_BYTES: Final = 2048
SHARED_SHARE: Final = 32
"""A shared prefix shorter than 1/32 of a row stays in the keys: to cut it off and put it back costs more than it saves."""
EXPANSION_MAX_BITS: Final = 16
"""zstd expands less than 2**16 times. A header that claims more is forged, so nothing is allocated for it."""
WIDE_ROW_BYTES: Final = 512
"""Rows of at least this size cost more to copy than to decode."""
PAYLOAD_BYTES_MAX: Final = (1 << 32) - 1


def unknown_kind(kind: int, *, name: str, offset: int) -> CorruptionError:
    """The error for a block that holds neither rows nor series."""
    return CorruptionError(
        f"block kind {kind} is unknown: a newer version wrote it: update the library", object_name=name, offset=offset
    )


def checksum_seed(database: bytes, name: str) -> int:
    """The start value of the checksums of an object's blocks: a block is valid in its own object only."""
    return crc32c(name.encode(), crc32c(database))


def _shared_length(first: bytes, last: bytes) -> int:
    """The length of the prefix that two keys, and all keys between them, share."""
    limit = min(len(first), len(last), 0xFFFF)
    return next((at for at in range(limit) if first[at] != last[at]), limit)


def encode_rows(chunk: RowChunk) -> bytes:
    """The payload of a rows block."""
    keys, values = chunk.keys, chunk.values
    lengths = list(map(len, values))
    skip = _shared_length(keys[0], keys[-1])
    if skip < (sum(lengths) + len(keys) * len(keys[0])) // (len(keys) * SHARED_SHARE):
        skip = 0
    parts: list[bytes] = [ROWS_HEAD.pack(len(keys), skip), keys[0][:skip]]
    out = parts.append
    put_strings([key[skip:] for key in keys] if skip else keys, out)
    put_ints(chunk.seqs, out)
    put_ints(chunk.kinds, out)
    put_ints(lengths, out)
    parts += values
    return b"".join(parts)


def encode_series(
    family: bytes,
    names: Sequence[bytes],
    counts: Sequence[int],
    positions: Sequence[int],
    values: Sequence[bytes],
    lengths: Sequence[int] | None = None,
) -> bytes:
    """The payload of a series block. `lengths`: the values' lengths, if the caller has them."""
    parts: list[bytes] = [SERIES_HEAD.pack(len(names), len(positions), len(family)), family]
    out = parts.append
    put_strings(names, out)
    put_ints(counts, out)
    put_ints(positions, out)
    put_ints(lengths if lengths is not None else list(map(len, values)), out)
    parts += values
    return b"".join(parts)


class BlockSealer:
    """Compresses and checksums the payloads of one object, at the offsets they will have."""

    def __init__(self, seed: int, *, compression: str | None, level: int) -> None:
        self._seed = seed
        self._compress = zstd.compressor(level) if compression == "zstd" else None

    def _is_compressible(self, payload: bytes) -> bool:
        """Try a sample from the middle, where the values are: random or compressed values are not compressed whole."""
        if len(payload) < 4 * SAMPLE_BYTES or self._compress is None:
            return True
        middle = len(payload) >> 1
        return len(self._compress(payload[middle : middle + SAMPLE_BYTES])) < SAMPLE_BYTES - (SAMPLE_BYTES >> 4)

    def seal(self, payload: bytes, kind: int, offset: int) -> bytes:
        codec = 0
        stored: bytes | memoryview = payload
        if self._compress is not None and self._is_compressible(payload):
            packed = self._compress(payload)
            if len(packed) < len(payload) - (len(payload) >> 4):
                codec, stored = 1, packed
        return self._finish(_UNSUMMED.pack(codec, kind, 0, len(payload)), stored, offset)

    def reseal(self, block: bytes, offset: int) -> bytes:
        """Give a verified stored block of another table its checksum for this table. The payload stays as it is."""
        return self._finish(block[: _UNSUMMED.size], memoryview(block)[HEADER.size :], offset)

    def _finish(self, head: bytes, stored: bytes | memoryview, offset: int) -> bytes:
        checksum = crc32c(stored, crc32c(head, crc32c(_SEED.pack(offset), self._seed)))
        return b"".join((head, checksum.to_bytes(4, "little"), stored))


def open_block(data: bytes | memoryview, *, seed: int, name: str, offset: int) -> tuple[int, bytes | memoryview]:
    """Verify a stored block. Return its kind and its payload, which is a view of `data` if it is stored uncompressed.
    Raises: CorruptionError."""
    if len(data) < HEADER.size:
        raise CorruptionError(f"a block of {len(data)} bytes is cut short", object_name=name, offset=offset)
    codec, kind, _, length, checksum = HEADER.unpack_from(data)
    stored = memoryview(data)[HEADER.size :]
    if crc32c(stored, crc32c(data[: _UNSUMMED.size], crc32c(_SEED.pack(offset), seed))) != checksum:
        raise CorruptionError("block checksum does not match", object_name=name, offset=offset)
    payload: bytes | memoryview
    if codec == 0:
        payload = stored
    elif codec == 1:
        if length > len(stored) << EXPANSION_MAX_BITS:
            raise CorruptionError(f"{len(stored)} bytes do not expand to {length}", object_name=name, offset=offset)
        try:
            payload = zstd.decompress(stored, length)
        except zstd.ZstdError as error:
            raise CorruptionError(f"block does not decompress: {error}", object_name=name, offset=offset) from error
    else:
        raise CorruptionError(f"block codec {codec} is unknown: update the library", object_name=name, offset=offset)
    if len(payload) != length:
        raise CorruptionError(f"block holds {len(payload)} bytes, not {length}", object_name=name, offset=offset)
    return kind, payload


def decode_series(payload: bytes | memoryview, *, name: str, offset: int, may_borrow: bool = False) -> SeriesBlock:
    """The series block in a payload. Raises: CorruptionError.

    `may_borrow`: the block may refer to the memory that `payload` is a view of, instead of copying wide rows: reads of the
    rows copy them anyway.
    """
    if may_borrow and not isinstance(payload, bytes) and len(payload) >= SERIES_HEAD.size:
        may_borrow = len(payload) >= WIDE_ROW_BYTES * SERIES_HEAD.unpack_from(payload)[1]
    return SeriesBlock(payload if may_borrow else bytes(payload), name=name, offset=offset)


def decode_rows(payload: bytes, *, name: str, offset: int) -> RowChunk:
    """The rows of a rows block. Raises: CorruptionError."""
    return RowsBlock(payload, name=name, offset=offset).chunk()


class RowsBlock:
    """A rows block with its keys decoded but its values still joined: enough to copy the stored block into another table."""

    __slots__ = ("_chunk", "_first_value", "_lengths", "keys", "kinds", "payload", "seqs")

    def __init__(self, payload: bytes, *, name: str, offset: int) -> None:
        with decoding(name, offset):
            count, skip = ROWS_HEAD.unpack_from(payload)
            at = ROWS_HEAD.size + skip
            shared = payload[ROWS_HEAD.size : at]
            suffixes, at = take_strings(payload, at, count)
            self.seqs, at = take_ints(payload, at, count)
            self.kinds, at = take_kinds(payload, at, count, name=name, offset=offset)
            self._lengths, at = take_ints(payload, at, count)
            self._first_value = at
            end = at + sum(self._lengths)
            if end != len(payload):
                raise ValueError(f"columns of {count} rows make {end} bytes, not {len(payload)}")
        self.keys = [shared + suffix for suffix in suffixes] if skip else suffixes
        self.payload = payload
        self._chunk: RowChunk | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def chunk(self) -> RowChunk:
        """All rows."""
        if self._chunk is None:
            values = cut(self.payload, self._first_value, self._lengths)
            self._chunk = RowChunk(self.keys, self.seqs, self.kinds, values)
        return self._chunk

    def rows(self, start: int, end: int) -> RowChunk:
        """Rows [start, end)."""
        return self.chunk().slice(start, end)

    def key_at(self, row: int) -> bytes:
        return self.keys[row]

    def position(self, key: bytes, *, after: bool = False) -> int:
        """The number of rows with keys below `key`; with `after`, up to and including `key`."""
        return bisect_right(self.keys, key) if after else bisect_left(self.keys, key)


class SeriesBlock:
    """A series block with its columns decoded but its values still joined: a scan cuts out the values it needs.

    Immutable; the block cache shares it between threads.
    """

    __slots__ = ("_constant", "_ends", "_first_value", "counts", "family", "names", "payload", "positions", "starts")

    def __init__(self, payload: bytes | memoryview, *, name: str, offset: int) -> None:
        with decoding(name, offset):
            groups, rows, family_length = SERIES_HEAD.unpack_from(payload)
            at = SERIES_HEAD.size + family_length
            self.family = bytes(payload[SERIES_HEAD.size : at])
            self.names, at = take_strings(payload, at, groups)
            self.counts, at = take_ints(payload, at, groups)
            self.starts = list(accumulate(self.counts, initial=0))
            self.positions, at = take_ints(payload, at, rows)
            lengths, at = take_ints(payload, at, rows)
            self.payload = payload
            self._first_value = at
            self._constant = lengths[0] if rows and type(lengths) is list else -1
            self._ends: list[int] = [] if self._constant >= 0 else list(accumulate(lengths, initial=at))
            end = at + self._constant * rows if self._constant >= 0 else self._ends[-1]
            if end != len(payload) or self.starts[-1] != rows or not rows:
                raise ValueError(f"columns of {rows} rows do not add up to {len(payload)} bytes")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def is_borrowed(self) -> bool:
        """Whether the block keeps bytes alive that are not its own."""
        return isinstance(self.payload, memoryview)

    @property
    def weight(self) -> int:
        """Approximate bytes that this object occupies."""
        positions = memoryview(self.positions).nbytes if isinstance(self.positions, array) else 8 * len(self.positions)
        return len(self.payload) + positions + 40 * len(self._ends) + 90 * len(self.names) + 1000

    def values(self, start: int, end: int) -> list[bytes]:
        """The values of rows [start, end)."""
        payload, width = self.payload, self._constant
        if width > 0:
            base = self._first_value
            return even_pieces(payload, base + start * width, width, end - start)
        if width == 0:
            return [b""] * (end - start)
        ends = self._ends[start : end + 1]
        return cut(payload, ends[0], list(map(sub, ends[1:], ends)))

    def find(self, family: bytes, name: bytes, low: int, high: int) -> tuple[int, int]:
        """The rows [start, end) of the block that are the series' rows with low <= position < high; (0, 0): another family."""
        if family != self.family:
            return 0, 0
        group = bisect_left(self.names, name)
        if group == len(self.names) or self.names[group] != name:
            return 0, 0
        start, end = self.starts[group], self.starts[group + 1]
        positions = self.positions
        if positions[start] < low:
            start = bisect_left(positions, low, start, end)
        if positions[end - 1] >= high:
            end = bisect_left(positions, high, start, end)
        return start, end

    def chunk(self) -> SeriesChunk:
        """All rows."""
        return SeriesChunk(self.family, self.names, self.counts, self.positions, self.values(0, len(self.positions)))

    def rows(self, start: int, end: int) -> SeriesChunk:
        """Rows [start, end), at least one, with their groups."""
        starts = self.starts
        first = bisect_right(starts, start) - 1
        last = bisect_left(starts, end)
        counts = list(self.counts[first:last])
        counts[-1] -= starts[last] - end
        counts[0] -= start - starts[first]
        return SeriesChunk(
            self.family, self.names[first:last], counts, self.positions[start:end], self.values(start, end)
        )

    def key_at(self, row: int) -> bytes:
        """The storage key of a row. Cost: about 1 µs."""
        return series_key(self.family, self.names[bisect_right(self.starts, row) - 1], self.positions[row])

    def position(self, key: bytes, *, after: bool = False) -> int:
        """The number of rows with storage keys below `key`; with `after`, up to and including `key`."""
        return (bisect_right if after else bisect_left)(range(len(self)), key, key=self.key_at)


def row_chunk_weight(chunk: RowChunk) -> int:
    """Approximate bytes that a decoded rows block occupies."""
    keys, values = chunk.keys, chunk.values
    filled = len(values) - values.count(b"")  # All empty values are one object.
    return 66 * len(keys) + sum(map(len, keys)) + 40 * filled + sum(map(len, values)) + 500
