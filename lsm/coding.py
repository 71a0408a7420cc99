"""Encodings: columns of integers and strings, checksums, and the envelope around every small object.

Integer column, all little-endian; the reader knows the number of items:

    width  u8      0: all items are equal, and one follows as u64; 1, 2, 4, 8: bytes per item
    items  ...

String column: an integer column of the lengths, then the strings end to end.

Envelope of an object that is read whole (manifest, log object, fence, completion marker):

    0   magic     4s   b"LSMO"
    4   kind      u16
    6   version   u16
    8   database  16s  random id of the database
    24  number    u64  the number in the object's name
    32  epoch     u64  epoch of the process that wrote it
    40  nonce     16s  random; by it a writer recognises its own object after a lost reply
    56  length    u64  bytes of the body
    64  body      ...
    -4  checksum  u32  crc32c of the object's name and of everything before this field

The checksum covers the object's name, so an intact object under another name is refused, too.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final

from lsm.errors import CorruptionError
from lsm.native.checksum import crc32c

MAGIC: Final = b"LSMO"
ENVELOPE: Final = struct.Struct("<4sHH16sQQ16sQ")
CHECKSUM: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")

KIND_MANIFEST: Final = 1
KIND_WAL_DATA: Final = 2
KIND_WAL_FENCE: Final = 3
KIND_NOTE: Final = 4

EQUAL_ITEMS_MAX: Final = 1 << 16
"""A column of equal items may claim more items than the object has bytes, but at most this many: a forged count must not
allocate without bound. Different items take at least a byte each. Writers refuse larger batches of equal rows
(`lsm/write/writer`)."""

_TYPECODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_BIG_ENDIAN: Final = sys.byteorder == "big"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified object: its header's fields, and its bytes. The body is data[ENVELOPE.size:end]."""

    kind: int
    version: int
    database: bytes
    number: int
    epoch: int
    nonce: bytes
    data: bytes
    end: int


def seal_envelope(
    name: str, kind: int, version: int, *, database: bytes, number: int, epoch: int, nonce: bytes, body: Sequence[bytes]
) -> list[bytes]:
    """Return the parts of an object, in order: header, the body's parts as given, checksum."""
    length = sum(map(len, body))
    header = ENVELOPE.pack(MAGIC, kind, version, database, number, epoch, nonce, length)
    checksum = crc32c(header, crc32c(name.encode()))
    for part in body:
        checksum = crc32c(part, checksum)
    return [header, *body, CHECKSUM.pack(checksum)]


def open_envelope(
    name: str, data: bytes, *, kinds: Sequence[int], versions: int, number: int, database: bytes | None
) -> Envelope:
    """Verify an object that was read from the store. `database`: the expected database; None: any.

    Raises: CorruptionError, if the object is damaged, of another database, or of a format newer than `versions`.
    """

    def refuse(why: str, offset: int = 0) -> CorruptionError:
        return CorruptionError(why, object_name=name, offset=offset)

    if len(data) < ENVELOPE.size + CHECKSUM.size:
        raise refuse(f"{len(data)} bytes are too few for an object", len(data))
    view = memoryview(data)
    magic, kind, version, owner, found_number, epoch, nonce, length = ENVELOPE.unpack_from(view)
    if magic != MAGIC:
        raise refuse(f"does not start with {MAGIC!r}: not an object of this engine, or damaged")
    (stored,) = CHECKSUM.unpack_from(view, len(data) - CHECKSUM.size)
    if crc32c(view[: -CHECKSUM.size], crc32c(name.encode())) != stored:
        raise refuse("checksum does not match: the object is damaged or not under its own name")
    if kind not in kinds:
        raise refuse(f"object kind {kind} is not one of {list(kinds)}", 4)
    if not 1 <= version <= versions:
        raise refuse(f"format version {version} is newer than this library reads ({versions}): update the library", 6)
    if length != len(data) - ENVELOPE.size - CHECKSUM.size:
        raise refuse(f"body length {length} does not match the object's {len(data)} bytes", 56)
    if database is not None and owner != database:
        raise refuse(f"belongs to database {owner.hex()}, not {database.hex()}", 8)
    if found_number != number:
        raise refuse(f"says it is number {found_number}", 24)
    return Envelope(kind, version, owner, found_number, epoch, nonce, data, ENVELOPE.size + length)


@contextmanager
def decoding(name: str, offset: int = 0) -> Iterator[None]:
    """Turn every decoding error into CorruptionError, so that callers never see a raw struct.error. If the checksum is right,
    the reason is a bug or a forged checksum."""
    try:
        yield
    except CorruptionError:
        raise
    except (struct.error, IndexError, ValueError, OverflowError, TypeError, KeyError) as error:
        raise CorruptionError(f"does not decode: {error}", object_name=name, offset=offset) from error


# -- columns ----------------------------------------------------------------------------------------------------------


def int_width(high: int) -> int:
    """Return the bytes per item of a column of different integers up to `high`."""
    return 1 if high < 1 << 8 else 2 if high < 1 << 16 else 4 if high < 1 << 32 else 8


def put_ints(values: Sequence[int], out: Callable[[bytes], object]) -> None:
    """Pass the bytes of the integer column of `values` to `out`. An empty column takes no bytes."""
    if not values:
        return
    first = values[0]
    if first == values[-1] and values.count(first) == len(values):
        out(b"\x00" + U64.pack(first))
        return
    width = int_width(max(values))
    items = array(_TYPECODES[width], values)
    if _BIG_ENDIAN:
        items.byteswap()
    out(bytes((width,)))
    out(items.tobytes())


def take_ints(data: bytes | memoryview, at: int, count: int) -> tuple[Sequence[int], int]:
    """Return the integer column of `count` items at offset `at`, and the offset after it."""
    if not count:
        return (), at
    width = data[at]
    at += 1
    if width == 0:
        (value,) = U64.unpack_from(data, at)
        if count > len(data) and count > EQUAL_ITEMS_MAX:
            raise ValueError(f"a column of {count} items in {len(data)} bytes")
        return [value] * count, at + 8
    end = at + width * count
    if end > len(data) or width not in _TYPECODES:
        raise ValueError(f"integer column of {count} items of {width} bytes at {at} exceeds {len(data)} bytes")
    return words(bytes(data[at:end]), width), end


def words(data: bytes, width: int) -> array[int]:
    """Return `data` as little-endian integers of `width` bytes; `width` is 1, 2, 4 or 8."""
    items = array(_TYPECODES[width], data)
    if _BIG_ENDIAN:
        items.byteswap()
    return items


def put_strings(values: Sequence[bytes], out: Callable[[bytes], object]) -> None:
    """Pass the bytes of the string column of `values` to `out`."""
    put_ints(list(map(len, values)), out)
    out(b"".join(values))


def take_strings(data: bytes | memoryview, at: int, count: int) -> tuple[list[bytes], int]:
    """Return the string column of `count` items at offset `at`, and the offset after it."""
    lengths, at = take_ints(data, at, count)
    end = at + sum(lengths)
    if count == 1 and end <= len(data):
        return [bytes(data[at:end])], end
    if end > len(data):
        raise ValueError(f"string column at {at} needs {end - at} bytes, {len(data) - at} are there")
    return cut(data, at, lengths), end


def cut(data: bytes | memoryview, at: int, lengths: Sequence[int]) -> list[bytes]:
    """Cut `data` from offset `at` into consecutive pieces of the given lengths. Cost: 20 to 50 ns a piece."""
    if not lengths:
        return []
    width = lengths[0]
    if type(lengths) is list and lengths.count(width) == len(lengths):
        return even_pieces(data, at, width, len(lengths))
    if max(lengths) >= len(_PIECES) and isinstance(data, bytes):
        ends = list(accumulate(lengths, initial=at))
        return [data[start:end] for start, end in pairwise(ends)]
    pieces: list[bytes] = []
    piece = _PIECES.__getitem__ if max(lengths) < len(_PIECES) else _piece
    for start in range(0, len(lengths), _FORMAT_PIECES):
        part = struct.Struct("".join(map(piece, lengths[start : start + _FORMAT_PIECES])))
        pieces += part.unpack_from(data, at)
        at += part.size
    return pieces


def even_pieces(data: bytes | memoryview, at: int, width: int, count: int) -> list[bytes]:
    """Cut `data` from offset `at` into `count` consecutive pieces of `width` bytes."""
    if not width:
        return [b""] * count
    if count <= _FORMAT_PIECES:
        return list(_even_format(width, count).unpack_from(data, at))
    pieces: list[bytes] = []
    for start in range(0, count, _FORMAT_PIECES):
        part = _even_format(width, min(_FORMAT_PIECES, count - start))
        pieces += part.unpack_from(data, at)
        at += part.size
    return pieces


@lru_cache(maxsize=64)  # An entry takes up to 160 KiB.
def _even_format(width: int, count: int) -> struct.Struct:
    return struct.Struct(_piece(width) * count)


def _piece(width: int) -> str:
    return _PIECES[width] if width < len(_PIECES) else f"{width}s"


_FORMAT_PIECES: Final = 4096
"""Maximum pieces per struct format. A format takes about 40 bytes per piece."""
_PIECES: Final = [f"{width}s" for width in range(1024)]
