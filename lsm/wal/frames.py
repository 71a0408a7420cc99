"""The body of a log object: frames. Each frame holds consecutive batches in columns. Pure.

    0   kind      u8     1 rows, 2 series, 3 mark
    1   reserved  u8
    2   family    u16    length of the family prefix (0 in a rows frame)
    4   batches   u32    b; batch i has sequence number `seq` + i
    8   rows      u32    n
    12  seq       u64    of the first batch
    20  number    u64    series frames: row i has number `number` + i; rows frames: 0
    28  family prefix
    ..  counts    integer column, b items: rows of each batch
    ..  keys      string column, n items: keys, or the names of the series
    ..  kinds     integer column, n items (rows frames only; rows/kind.py)
    ..  values    string column, n items

The first frame of an object is a mark (kind 3). Its `number` is the newest log object that was durable when this one was
written; its other fields are 0. Marks distinguish an object that is missing from one that was never written (rule W7).

A batch with rows and series rows is two frames or more with the same sequence number. A batch never spans two objects, so the
object's one checksum makes it atomic. A fence object has no frames but the mark.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from lsm.coding import decoding, put_ints, put_strings, take_ints, take_strings
from lsm.errors import out_of_memory
from lsm.rows.kind import take_kinds

FRAME: Final = struct.Struct("<BBHIIQQ")
WAL_VERSION: Final = 1
ROWS_FRAME: Final = 1
SERIES_FRAME: Final = 2
MARK_FRAME: Final = 3


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A decoded frame. A rows frame has `kinds` and an empty `family`; a series frame has a `family` and empty `kinds`. A mark
    has no batches, and its `number` is the newest durable log object."""

    family: bytes
    seq: int
    number: int
    counts: Sequence[int]
    keys: Sequence[bytes]
    kinds: Sequence[int]
    values: Sequence[bytes]
    size: int
    """Encoded bytes of keys, kinds and values; about the size of the rows."""

    @property
    def last_seq(self) -> int:
        return self.seq + len(self.counts) - 1


def encode_frame(
    family: bytes,
    seq: int,
    number: int,
    counts: Sequence[int],
    keys: Sequence[bytes],
    kinds: Sequence[int],
    values: Sequence[bytes],
) -> bytes:
    """Encode one frame. Cost: about 0.1 µs a row."""
    kind = SERIES_FRAME if family else ROWS_FRAME
    parts = [FRAME.pack(kind, 0, len(family), len(counts), len(keys), seq, number), family]
    out = parts.append
    put_ints(counts, out)
    put_strings(keys, out)
    if not family:
        put_ints(kinds, out)
    put_strings(values, out)
    return b"".join(parts)


def encode_mark(durable_through: int) -> bytes:
    """Encode the first frame of an object."""
    return FRAME.pack(MARK_FRAME, 0, 0, 0, 0, 0, durable_through)


def decode_frames(data: bytes, at: int, end: int, *, name: str) -> Iterator[Frame]:
    """Yield the frames in data[at:end], in order. Raises: CorruptionError."""
    with decoding(name, at):
        while at < end:
            kind, _, family_length, batches, rows, seq, number = FRAME.unpack_from(data, at)
            at += FRAME.size
            family = data[at : at + family_length]
            at += family_length
            if kind == MARK_FRAME and not (family_length or batches or rows or seq):
                yield Frame(b"", 0, number, (), (), (), (), 0)
                continue
            if kind not in (ROWS_FRAME, SERIES_FRAME, MARK_FRAME):
                raise ValueError(f"frame kind {kind} is unknown: a newer version wrote it: update the library")
            if kind == MARK_FRAME or (kind == SERIES_FRAME) != bool(family):
                raise ValueError(f"a frame of kind {kind} with {rows} rows of the family {family!r}")
            counts, at = take_ints(data, at, batches)
            start = at
            keys, at = take_strings(data, at, rows)
            kinds: Sequence[int] = ()
            if kind == ROWS_FRAME:
                kinds, at = take_kinds(data, at, rows, name=name, offset=at)
            values, at = take_strings(data, at, rows)
            if sum(counts) != rows:
                raise ValueError(f"batches of {sum(counts)} rows in a frame of {rows}")
            yield Frame(family, seq, number, counts, keys, kinds, values, at - start)


class FrameBuffer:
    """Batches of the next log object. Requires: the write lock.

    Series rows of consecutive batches are collected in flat columns and encoded together. The appending thread encodes each
    full slice at once, so that sealing the object is never a long step.
    """

    SLICE_ROWS = 1024
    SLICE_BYTES = 128 << 10

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._family = b""
        self._seq = 0
        self._number = 0
        self._counts: list[int] = []
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._pending_bytes = 0
        self._encoded_bytes = 0
        self.last_seq = 0

    @property
    def is_empty(self) -> bool:
        return not (self._frames or self._counts)

    @property
    def size(self) -> int:
        return self._encoded_bytes + self._pending_bytes

    def add_series(
        self, seq: int, family: bytes, names: Sequence[bytes], first: int, values: Sequence[bytes], size: int
    ) -> None:
        counts = self._counts
        if counts and (
            family != self._family or first != self._number + len(self._names) or seq != self._seq + len(counts)
        ):
            self.encode_pending()
        if not counts:
            self._family, self._seq, self._number = family, seq, first
        counts.append(len(names))
        self._names += names
        self._values += values
        self._pending_bytes += size
        self.last_seq = seq
        if self._pending_bytes >= self.SLICE_BYTES or len(self._names) >= self.SLICE_ROWS:
            with suppress(MemoryError):  # The batch is in the buffer, and is encoded when memory is free again.
                self._encode()

    def add_rows(self, seq: int, keys: Sequence[bytes], kinds: Sequence[int], values: Sequence[bytes]) -> None:
        self._encode()
        frame = encode_frame(b"", seq, 0, [len(keys)], keys, kinds, values)
        self._frames.append(frame)
        self._encoded_bytes += len(frame)
        self.last_seq = seq

    def encode_pending(self) -> None:
        """Encode the collected series rows. Raises: UnavailableError: memory ran out, and nothing changed."""
        try:
            self._encode()
        except MemoryError as error:
            raise out_of_memory("batches could not be encoded for the log", error) from error

    def _encode(self) -> None:
        if not self._counts:
            return
        frame = encode_frame(self._family, self._seq, self._number, self._counts, self._names, (), self._values)
        self._frames.append(frame)
        self._encoded_bytes += len(frame)
        self._pending_bytes = 0
        self._counts.clear()
        self._names = []
        self._values = []

    def take(self) -> list[bytes]:
        """Return the frames and empty the buffer. Raises: as `encode_pending`."""
        self.encode_pending()
        frames, self._frames = self._frames, []
        self._encoded_bytes = 0
        return frames
