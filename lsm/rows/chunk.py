"""The engine's unit of work: rows in parallel columns. Writes, flushes, compactions and scans handle chunks, not single rows.

Two kinds of chunk, both sorted by storage key:

    RowChunk     keys, seqs, kinds, values         any keys; the versions of one key are adjacent, newest first
    SeriesChunk  names, counts, positions, values  the rows of one series family, grouped by name

A *series* is the set of keys `family + terminated name + u64 big-endian position`. Its rows are written once, in
increasing order of their positions, and never overwritten or deleted one by one: a series is a log stream. Names and positions
are kept apart, so that a stream is appended, stored and read without composing a key per record.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Final, Protocol

TERMINATOR: Final = b"\x00"
SEQ_MAX: Final = (1 << 64) - 1


class PrefixExtractor(Protocol):
    """Assigns every key to a partition (a segment in SlateDB). Each partition is its own LSM tree.

    `prefix(key)` is a non-empty prefix of `key`, and no prefix is a prefix of another. The manifest keeps `name`: opening
    with an extractor of another name is refused.
    """

    @property
    def name(self) -> str: ...

    def prefix(self, key: bytes) -> bytes: ...


class SeriesLayout(Protocol):
    """Decides which keys belong to series.

    `family(key)` is the family prefix of a series key, or None for an ordinary key. `directory(family)` is the prefix
    under which the tables list the names of the family's series as ordinary rows, or None for no listing.
    """

    @property
    def name(self) -> str: ...

    def family(self, key: bytes) -> bytes | None: ...

    def directory(self, family: bytes) -> bytes | None: ...


class RowChunk:
    """Rows sorted by key, versions of a key newest first. Columns are parallel sequences that never change."""

    __slots__ = ("keys", "kinds", "seqs", "values")

    def __init__(
        self, keys: Sequence[bytes], seqs: Sequence[int], kinds: Sequence[int], values: Sequence[bytes]
    ) -> None:
        self.keys = keys
        self.seqs = seqs
        self.kinds = kinds
        self.values = values

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, end: int) -> RowChunk:
        if start == 0 and end >= len(self.keys):
            return self
        return RowChunk(self.keys[start:end], self.seqs[start:end], self.kinds[start:end], self.values[start:end])

    def clip(self, low: bytes | None, high: bytes | None) -> RowChunk:
        """The rows with low <= key < high."""
        start = 0 if low is None else bisect_left(self.keys, low)
        end = len(self.keys) if high is None else bisect_left(self.keys, high)
        return self.slice(start, max(start, end))


class SeriesChunk:
    """Rows of one family: group i is series `names[i]` with the next `counts[i]` of `positions` and `values`.

    Names ascend, and so do the positions of a group. The last series of a chunk may continue in the next chunk.
    """

    __slots__ = ("counts", "family", "names", "positions", "values")

    def __init__(
        self,
        family: bytes,
        names: Sequence[bytes],
        counts: Sequence[int],
        positions: Sequence[int],
        values: Sequence[bytes],
    ) -> None:
        self.family = family
        self.names = names
        self.counts = counts
        self.positions = positions
        self.values = values

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, start: int, end: int) -> SeriesChunk:
        """Rows [start, end), with their groups."""
        bounds = list(accumulate(self.counts, initial=0))
        first = bisect_right(bounds, start) - 1
        last = bisect_left(bounds, end)
        counts = list(self.counts[first:last])
        counts[-1] -= bounds[last] - end
        counts[0] -= start - bounds[first]
        return SeriesChunk(
            self.family, self.names[first:last], counts, self.positions[start:end], self.values[start:end]
        )


def joined_rows(chunks: Sequence[RowChunk]) -> RowChunk:
    """Consecutive chunks, joined."""
    if len(chunks) == 1:
        return chunks[0]
    return RowChunk(
        list(chain.from_iterable(chunk.keys for chunk in chunks)),
        list(chain.from_iterable(chunk.seqs for chunk in chunks)),
        list(chain.from_iterable(chunk.kinds for chunk in chunks)),
        list(chain.from_iterable(chunk.values for chunk in chunks)),
    )


def joined_series(chunks: Sequence[SeriesChunk]) -> SeriesChunk:
    """Consecutive chunks of one family, joined. A series that continues from one chunk to the next becomes one group."""
    if len(chunks) == 1:
        return chunks[0]
    names: list[bytes] = []
    counts: list[int] = []
    for chunk in chunks:
        skip = bool(names) and names[-1] == chunk.names[0]
        if skip:
            counts[-1] += chunk.counts[0]
        names += chunk.names[skip:]
        counts += chunk.counts[skip:]
    positions = list(chain.from_iterable(chunk.positions for chunk in chunks))
    values = list(chain.from_iterable(chunk.values for chunk in chunks))
    return SeriesChunk(chunks[0].family, names, counts, positions, values)


def terminated(name: bytes) -> bytes:
    """`name` escaped and terminated so that the encodings sort like the names.

    >>> terminated(b"a"), terminated(bytes([0])), terminated(bytes([255]))
    (b'a\\x00', b'\\x01\\x01\\x00', b'\\xff\\x00')
    """
    if b"\x00" in name or b"\x01" in name:
        name = name.replace(b"\x01", b"\x01\x02").replace(b"\x00", b"\x01\x01")
    return name + TERMINATOR


def unterminated(data: bytes, at: int = 0) -> tuple[bytes, int]:
    """The name encoded at offset `at`, and the offset after its terminator. Raises ValueError."""
    end = data.index(TERMINATOR, at)
    name = data[at:end]
    if b"\x01" in name:
        name = name.replace(b"\x01\x01", b"\x00").replace(b"\x01\x02", b"\x01")
    return name, end + 1


def series_prefix(family: bytes, name: bytes) -> bytes:
    """The common prefix of the keys of a series."""
    return family + terminated(name)


def series_prefixes(family: bytes, names: Sequence[bytes]) -> list[bytes]:
    """`series_prefix` of many names at once."""
    joined = b"".join(names)
    if b"\x00" in joined or b"\x01" in joined:
        return [family + terminated(name) for name in names]
    return [family + name + TERMINATOR for name in names]


def series_key(family: bytes, name: bytes, position: int) -> bytes:
    """The storage key of one series row."""
    return family + terminated(name) + position.to_bytes(8, "big")


def prefix_end(prefix: bytes) -> bytes | None:
    """The least byte string above every string that starts with `prefix`; None if there is none.

    >>> prefix_end(b"ab"), prefix_end(bytes([97, 255])), prefix_end(bytes([255]))
    (b'ac', b'b', None)
    """
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def partition_rows(keys: Sequence[bytes], prefix_of: Callable[[bytes], bytes] | None) -> list[tuple[bytes, int, int]]:
    """Consecutive ranges (prefix, start, end) of sorted `keys` that share a partition. Cost: O(partitions log n)."""
    if prefix_of is None:
        return [(b"", 0, len(keys))] if keys else []
    stretches: list[tuple[bytes, int, int]] = []
    start = 0
    while start < len(keys):
        prefix = prefix_of(keys[start])
        limit = prefix_end(prefix)
        end = len(keys) if limit is None else bisect_left(keys, limit, start)
        stretches.append((prefix, start, end))
        start = end
    return stretches


def last_at_or_before(keys: Sequence[bytes], key: bytes) -> int:
    """The index of the last item <= `key`, or -1."""
    return bisect_right(keys, key) - 1


def total_length(strings: Iterable[bytes]) -> int:
    return sum(map(len, strings))
