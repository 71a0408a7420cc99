"""The greatest number of each series in a table, within a budget of bytes. Pure.

A cursor beyond a series' last number needs no block of the table. Readers see this in the index, which they hold anyway.
At the end of the index payload, where the table has series and the budget is not 0:

    0   n         u32
    4   is_whole  u8   1: every series of the table has an entry
    5   hashes    integer column, ascending: the canonical xxh3-64 of `family + terminated name`, read little-endian
    ..  lasts     integer column: the greatest position of any series with that hash

If the budget is too small, only the series whose last positions are smallest get entries: cursors have most likely passed
them. A series without an entry is not in the table if `is_whole`; otherwise only the table's own last position can rule the
table out.

Source: the idea of OpenData Log's RFC on sequence ranges; the bytes are ours.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from lsm.coding import int_width, put_ints, take_ints, words

_HEAD: Final = struct.Struct("<IB")
_COLUMN_HEADS: Final = 18
"""Maximum bytes of two columns beyond their items."""


def encode_last_positions(digests: Sequence[bytes], lasts: Sequence[int], budget: int) -> bytes:
    """The section for series with these digests (8 bytes each) and last positions; at most `budget` bytes.

    Cost: a few C-level passes, and a sort of the series if they overflow the budget or share hashes.
    """
    if not lasts:
        return b""
    room = (budget - _HEAD.size - _COLUMN_HEADS) // (8 + int_width(max(lasts)))
    if room < 1:
        return b""
    hashes = words(b"".join(digests), 8)
    ends = dict(zip(hashes, lasts, strict=True))
    if len(ends) < len(lasts):
        ends = dict(sorted(zip(hashes, lasts, strict=True)))  # Series with one hash share the greatest number.
    is_whole = len(ends) <= room
    entries = sorted(ends.items() if is_whole else sorted(ends.items(), key=itemgetter(1))[:room])
    parts: list[bytes] = [_HEAD.pack(len(entries), is_whole)]
    put_ints([each for each, _ in entries], parts.append)
    put_ints([last for _, last in entries], parts.append)
    return b"".join(parts)


class LastPositions:
    """The decoded section. Immutable."""

    __slots__ = ("_hashes", "_lasts", "is_whole")

    def __init__(self, hashes: Sequence[int], lasts: Sequence[int], *, is_whole: bool) -> None:
        self._hashes = hashes
        self._lasts = lasts
        self.is_whole = is_whole

    def __len__(self) -> int:
        return len(self._hashes)

    def last(self, digest: bytes) -> int | None:
        """The greatest number of the series with this digest; -1 if the table has no row of it, None if it is not known."""
        wanted = int.from_bytes(digest, "little")
        at = bisect_left(self._hashes, wanted)
        if at < len(self._hashes) and self._hashes[at] == wanted:
            return self._lasts[at]
        return -1 if self.is_whole else None

    def may_reach(self, digest: bytes, low: int) -> bool:
        """False only if the table holds no row with a number >= `low` of the series with this digest."""
        last = self.last(digest)
        return last is None or last >= low


def take_last_positions(data: bytes, at: int) -> tuple[LastPositions, int]:
    """The section at offset `at`, and the offset after it."""
    count, is_whole = _HEAD.unpack_from(data, at)
    if is_whole > 1 or not count:
        raise ValueError(f"last numbers of {count} series, marked {is_whole}")
    hashes, at = take_ints(data, at + _HEAD.size, count)
    lasts, at = take_ints(data, at, count)
    return LastPositions(hashes, lasts, is_whole=bool(is_whole)), at
