"""The bloom filter of a table: may it hold this key, or this series? Pure.

    0  policy  u8    1: four 32-bit words of xxh3-128, each modulo the number of bits
    1  bits    u32
    5  bitmap  (bits / 8 bytes)

Four probes come out of one 16-byte digest, so that a filter is built by a handful of C-level passes over all keys.
At 16 bits a key about one missing key in 400 is let through. Source: SlateDB builds 10 bits a key with SipHash; the
hash is private to a filter, which is why the policy byte names ours.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_128_digest

from lsm.errors import CorruptionError

_HEAD: Final = struct.Struct("<BI")
_WORDS: Final = struct.Struct("<4I")
_POLICY: Final = 1


def build_filter(items: Sequence[bytes], bits_per_key: int) -> bytes:
    """A filter over `items` (repeats are fine). Cost: about 0.3 µs an item."""
    bits = max(64, -(-len(items) * bits_per_key // 8) * 8)
    digests = b"".join(map(xxh3_128_digest, items))
    marks = bytearray(bits)
    for word in array("I", digests):
        marks[word % bits] = 1
    bitmap = 0
    for bit in range(8):  # Byte i of a strided slice is bit `bit` of bitmap byte i: eight shifts pack them all.
        bitmap |= int.from_bytes(marks[bit::8], "little") << bit
    return _HEAD.pack(_POLICY, bits) + bitmap.to_bytes(bits // 8, "little")


class Filter:
    """A decoded filter. Immutable."""

    __slots__ = ("_bitmap", "_bits")

    def __init__(self, data: bytes, *, name: str, offset: int) -> None:
        policy, self._bits = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (0, 0)
        self._bitmap = data[_HEAD.size :]
        if policy != _POLICY or self._bits != 8 * len(self._bitmap) or not self._bits:
            raise CorruptionError(f"filter policy {policy} is unknown", object_name=name, offset=offset)

    @property
    def weight(self) -> int:
        return len(self._bitmap) + 200

    def may_contain(self, item: bytes) -> bool:
        """False only if `item` was not in the filter."""
        bits, bitmap = self._bits, self._bitmap
        for word in _WORDS.unpack(xxh3_128_digest(item)):
            at = word % bits
            if not bitmap[at >> 3] >> (at & 7) & 1:
                return False
        return True
