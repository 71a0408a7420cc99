"""The bloom filter of a table: whether the table may hold a key, or a series. Pure.

The items of a table come in ascending order and form groups of some thousands. Each group has its own filter of 65,536 bits.
So the four 16-bit words of an item's digest are bit positions, and a group's bits fit the processor's cache. The last group
of a table has as many bits as its items need; its positions are the words modulo that number.

    0   policy  u8    2: four 16-bit little-endian words of the canonical xxh3-64, modulo the bits of the item's group
    1   groups  u32
    5   firsts  string column: the first item of each group
    ..  bits    integer column: bits of each group, a multiple of 8
    ..  bitmaps end to end; bit i is bit i % 8 of byte i // 8

Policy 1, no longer written, is one group with four 32-bit words of xxh3-128:

    0   policy  u8    1
    1   bits    u32
    5   bitmap

With 16 bits per item, about one absent item in 400 passes. Source: SlateDB uses 10 bits per key and SipHash. The policy byte
names our hash.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import log1p
from typing import Final

from xxhash import xxh3_64_digest, xxh3_128_digest

from lsm.coding import decoding, put_ints, put_strings, take_ints, take_strings

_HEAD: Final = struct.Struct("<BI")
_WORDS_1: Final = struct.Struct("<4I")
_WORDS_2: Final = struct.Struct("<4H")
_WORDS_PER_ITEM: Final = 4
_GROUP_BITS: Final = 1 << 16
_BIG_ENDIAN: Final = sys.byteorder == "big"


def digest(item: bytes) -> bytes:
    """The 8 bytes that stand for an item in filters of policy 2 and in last positions."""
    found: bytes = xxh3_64_digest(item)
    return found


def digests(items: Sequence[bytes]) -> list[bytes]:
    """`digest` of many items."""
    return list(map(xxh3_64_digest, items))


class FilterBuilder:
    """Collects the items of one table. Cost: about 0.25 µs per item."""

    def __init__(self, bits_per_item: int) -> None:
        self._bits_per_item = bits_per_item
        self._group_items = max(1, _GROUP_BITS // bits_per_item)
        self._digests: list[bytes] = []
        self._firsts: list[bytes] = []
        self._bits: list[int] = []
        self._bitmaps: list[bytes] = []
        self._last: bytes | None = None
        self.items = 0
        """The number of items added."""

    def add(self, items: Sequence[bytes], hashed: Sequence[bytes] | None = None) -> None:
        """Add items in ascending order, within a call and across calls. Repeats are allowed; inside a call they cost bits.

        `hashed`: the items' digests, if the caller has them.
        """
        hashed = hashed if hashed is not None else digests(items)
        if items and items[0] == self._last:
            items, hashed = items[1:], hashed[1:]
        start = 0
        while start < len(items):
            part = items[start : start + self._group_items - len(self._digests)]
            if not self._digests:
                self._firsts.append(part[0])
            self._digests += hashed[start : start + len(part)]
            if len(self._digests) == self._group_items:
                self._close_group()
            start += len(part)
        if items:
            self._last = items[-1]
            self.items += len(items)

    def _close_group(self) -> None:
        digests, self._digests = self._digests, []
        bits = min(_GROUP_BITS, max(64, -(-len(digests) * self._bits_per_item // 8) * 8))
        marks = bytearray(bits)
        words = array("H", b"".join(digests))
        if _BIG_ENDIAN:
            words.byteswap()
        if bits == _GROUP_BITS:
            for word in words:
                marks[word] = 1
        else:
            for word in words:
                marks[word % bits] = 1
        bitmap = 0
        for bit in range(8):  # marks[bit::8] has bit `bit` of every byte: OR the eight shifted slices.
            bitmap |= int.from_bytes(marks[bit::8], "little") << bit
        self._bits.append(bits)
        self._bitmaps.append(bitmap.to_bytes(bits // 8, "little"))

    def finish(self) -> bytes:
        """The filter's bytes."""
        if self._digests:
            self._close_group()
        parts = [_HEAD.pack(2, len(self._firsts))]
        put_strings(self._firsts, parts.append)
        put_ints(self._bits, parts.append)
        return b"".join((*parts, *self._bitmaps))


class Filter:
    """A decoded filter of either policy. Immutable."""

    __slots__ = ("_bits", "_data", "_digest", "_firsts", "_starts", "_words")

    def __init__(self, data: bytes, *, name: str, offset: int) -> None:
        self._data = data
        with decoding(name, offset):
            policy, count = _HEAD.unpack_from(data)
            if policy == 1:
                self._digest, self._words = xxh3_128_digest, _WORDS_1
                self._firsts: Sequence[bytes] = [b""]
                self._bits: Sequence[int] = [count]
                at = _HEAD.size
            elif policy == 2:
                self._digest, self._words = xxh3_64_digest, _WORDS_2
                self._firsts, at = take_strings(data, _HEAD.size, count)
                self._bits, at = take_ints(data, at, count)
            else:
                raise ValueError(f"filter policy {policy} is unknown: update the library")
            self._starts = list(accumulate((bits // 8 for bits in self._bits), initial=at))
            if self._starts[-1] != len(data) or not all(bits and bits % 8 == 0 for bits in self._bits):
                raise ValueError(f"filter of {len(self._bits)} groups does not add up to {len(data)} bytes")

    @property
    def weight(self) -> int:
        return len(self._data) + sum(map(len, self._firsts)) + 100 * len(self._firsts) + 600

    @property
    def estimated_items(self) -> int:
        """The number of items added, estimated from the bits that are set."""
        total = 0.0
        for bits, start in zip(self._bits, self._starts, strict=False):
            marks = int.from_bytes(self._data[start : start + bits // 8], "little").bit_count()
            total += -bits * log1p(-min(marks, bits - 1) / bits)
        return round(total / _WORDS_PER_ITEM)

    def may_contain(self, item: bytes) -> bool:
        """False only if `item` was not in the filter."""
        group = bisect_right(self._firsts, item) - 1
        if group < 0:
            return False
        bits, start, data = self._bits[group], self._starts[group], self._data
        for word in self._words.unpack(self._digest(item)):
            at = word % bits
            if not data[start + (at >> 3)] >> (at & 7) & 1:
                return False
        return True
