"""Read walk, beside `read/scan`: many keys at once, in the order of the one global sequence.

Recent rows are in memory in the order of their arrival, and are only filtered. Older rows are read a window of sequences at a
time: the window's entries of each key, then one sort. The number of entries in a window is bounded, however they are spread
over the keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain, compress, repeat
from operator import attrgetter

from opendata_log.model.errors import InvalidInputError
from opendata_log.model.record import BytesLike, LogEntry, Sequence, to_bytes, to_key
from opendata_log.read.scan import LogIterator
from opendata_log.read.source import Part, SeriesReads, Source

WINDOW = 16_384
"""Minimum sequences in the first window. A window is narrowed only if it has more entries than this."""
WINDOW_PER_KEY = 16
"""Minimum sequences per window and key; a narrower window would cost more scans than it saves."""

_sequence_of = attrgetter("sequence")


class KeySet:
    """The keys to read: given ones, or all that begin with a prefix. Raises: InvalidInputError unless exactly one is given."""

    def __init__(self, keys: Iterable[BytesLike] | None, prefix: BytesLike | None) -> None:
        if (keys is None) == (prefix is None):
            raise InvalidInputError("give either keys or a prefix (b'' for every key)")
        if isinstance(keys, (bytes, bytearray, memoryview, str)):
            raise InvalidInputError(f"keys must be several keys, got one: {keys!r}")
        self.keys = None if keys is None else frozenset(map(to_key, keys))
        self._sorted = [] if self.keys is None else sorted(self.keys)
        self._prefix = b"" if prefix is None else to_bytes(prefix, "prefix")

    def among(self, names: Iterable[bytes]) -> AbstractSet[bytes]:
        """The keys among `names` that are to be read."""
        if self.keys is not None:
            return self.keys.intersection(names)
        return {name for name in set(names) if name.startswith(self._prefix)}

    def in_segment(self, engine: SeriesReads, family: bytes) -> Collection[bytes]:
        """Every key to be read that the segment may hold."""
        if self.keys is not None:
            return self._sorted
        return list(chain.from_iterable(engine.series_names(family, prefix=self._prefix)))


def read_interleaved(engine: SeriesReads, keys: KeySet, parts: list[Part]) -> Iterator[list[LogEntry]]:
    """The entries of all `keys` in sequence order, in lists that are not empty.

    Cost: one pass over the recent rows in memory; for older rows, a scan per key and window of sequences.
    """
    for base, family, first, end in parts:
        recent = engine.series_arrivals(family, first - base, end - base)
        if recent is not None:
            for position, names, values in recent:
                wanted = keys.among(names)
                if wanted:
                    flags = list(map(wanted.__contains__, names))
                    sequences = compress(range(base + position, base + position + len(names)), flags)
                    yield list(map(LogEntry, compress(names, flags), sequences, compress(values, flags)))
        else:
            yield from _windows(engine, keys.in_segment(engine, family), base, family, first, end)


def interleave_on(source: Source, keys: KeySet, start: Sequence) -> LogIterator:
    """The visible entries of all `keys` from `start` on. Requires: checked arguments."""
    engine = source.engine()
    segments, frontier = source.view()
    blocks = read_interleaved(engine, keys, segments.parts(start, frontier))
    return LogIterator(blocks, start=start, frontier=frontier)


def _windows(
    engine: SeriesReads, keys: Collection[bytes], base: Sequence, family: bytes, first: Sequence, end: Sequence
) -> Iterator[list[LogEntry]]:
    if not keys:
        return
    limit = max(WINDOW, WINDOW_PER_KEY * len(keys))
    width = limit
    while first < end:
        stop = min(end, first + width)
        entries = _window(engine, keys, base, family, first, stop, limit)
        if entries is None:
            width = max(limit, width // 4)
            continue
        if entries:
            entries.sort(key=_sequence_of)
            yield entries
        first = stop
        if len(entries) < limit // 8:
            width *= 2


def _window(
    engine: SeriesReads,
    keys: Collection[bytes],
    base: Sequence,
    family: bytes,
    first: Sequence,
    end: Sequence,
    limit: int,
) -> list[LogEntry] | None:
    """The entries of the window, key by key; None where there are more than `limit`."""
    entries: list[LogEntry] = []
    for key in keys:
        for positions, values in engine.scan_series(family, key, first - base, end - base):
            entries += map(LogEntry, repeat(key), map(base.__add__, positions), values)
            if len(entries) > limit:
                return None
    return entries
