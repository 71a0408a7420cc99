"""Read walk, beside `read/scan`: many keys at once, in the order of the one global sequence.

What was appended lately is in memory in the order of its arrival, and is only filtered. Anything older is read a window of
sequences at a time: each key's entries of the window, then one sort. A window holds a bounded number of entries, whatever
the keys do.
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
"""Sequences of a window to start with, and entries at which a window is too wide."""
WINDOW_PER_KEY = 16
"""A window is at least this many sequences per key wide, so that asking each key pays."""

_sequence_of = attrgetter("sequence")


class KeySet:
    """Which keys are wanted: some, or all that begin with a prefix. Raises: InvalidInputError unless it is one of the two."""

    def __init__(self, keys: Iterable[BytesLike] | None, prefix: BytesLike | None) -> None:
        if (keys is None) == (prefix is None):
            raise InvalidInputError("give either keys or a prefix (b'' for every key)")
        if isinstance(keys, (bytes, bytearray, memoryview, str)):
            raise InvalidInputError(f"keys must be several keys, got one: {keys!r}")
        self.keys = None if keys is None else frozenset(map(to_key, keys))
        self._sorted = [] if self.keys is None else sorted(self.keys)
        self._prefix = b"" if prefix is None else to_bytes(prefix, "prefix")

    def among(self, names: Iterable[bytes]) -> AbstractSet[bytes]:
        """The wanted ones of `names`."""
        if self.keys is not None:
            return self.keys.intersection(names)
        return {name for name in set(names) if name.startswith(self._prefix)}

    def in_segment(self, engine: SeriesReads, family: bytes) -> Collection[bytes]:
        """Every wanted key that the segment may hold."""
        if self.keys is not None:
            return self._sorted
        return list(chain.from_iterable(engine.series_names(family, prefix=self._prefix)))


def read_interleaved(engine: SeriesReads, keys: KeySet, parts: list[Part]) -> Iterator[list[LogEntry]]:
    """The entries of all wanted keys, in sequence order over all of them, in lists that are not empty.

    Cost: what is in memory once; else per window of sequences a scan per key.
    """
    for base, family, first, end in parts:
        recent = engine.series_arrivals(family, first - base, end - base)
        if recent is not None:
            for number, names, values in recent:
                wanted = keys.among(names)
                if wanted:
                    flags = list(map(wanted.__contains__, names))
                    sequences = compress(range(base + number, base + number + len(names)), flags)
                    yield list(map(LogEntry, compress(names, flags), sequences, compress(values, flags)))
        else:
            yield from _windows(engine, keys.in_segment(engine, family), base, family, first, end)


def interleave_on(source: Source, keys: KeySet, start: Sequence) -> LogIterator:
    """What there is of all wanted keys from `start` on. Requires: arguments that were checked before."""
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
    """The entries of the window, key by key; None where there are more than `limit` in more than `limit` sequences."""
    entries: list[LogEntry] = []
    for key in keys:
        for numbers, values in engine.scan_series(family, key, first - base, end - base):
            entries += map(LogEntry, repeat(key), map(base.__add__, numbers), values)
            if len(entries) > limit:
                return None
    return entries
