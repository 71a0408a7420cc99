"""Read walk, after `read/scan`, before `lsm`: entries of one key from the end of a range.

Segments are visited newest first, and so are the engine's sources within each. So nothing that precedes the requested entries
is read.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Items
from itertools import repeat
from typing import Any

import lsm
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.options import ScanOptions
from opendata_log.model.record import LogEntry, Sequence
from opendata_log.read.scan import LogIterator
from opendata_log.read.source import Part, SeriesReads

Columns = tuple[Sequence, Items[int], Items[bytes]]
"""A segment's start sequence, relative sequences and values."""


class ReverseIterator(LogIterator):
    """Iterates over entries of one key, newest first. A `LogIterator` whose `next_sequence` differs.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://") as log:
    ...     _ = log.try_append([(b"orders", b"created"), (b"orders", b"paid")])
    ...     [entry.value for entry in log.scan(b"orders", reverse=True)]
    [b'paid', b'created']
    """

    __slots__ = ("_start",)

    def __init__(
        self, blocks: Iterator[list[LogEntry]], *, start: Sequence, frontier: Sequence, limit: int | None = None
    ) -> None:
        super().__init__(blocks, start=start, frontier=frontier, limit=limit)
        self._start = start

    @property
    def next_sequence(self) -> Sequence:
        """The sequence at which an ascending scan resumes: `scan(key, next_sequence)` yields every entry not yielded here.

        The entries not yet yielded have lower sequences, so this is `start` until the scan has reached its end, and then at
        least its frontier. To go on backwards: `scan(key, start, end=sequence of the last entry, reverse=True)`.
        """
        return max(self._start, self._frontier) if self._is_drained else self._start

    def close(self) -> None:
        """End the iteration and release its tables. `next_sequence` stays as it is. Idempotent."""
        self._start = self.next_sequence
        super().close()


def scan_backward(
    engine: SeriesReads,
    key: bytes,
    parts: Items[Part],
    options: ScanOptions,
    reverse: bool,
    last: int | None,
    *,
    start: Sequence,
    frontier: Sequence,
) -> LogIterator:
    """An iterator over the last `last` entries (None: all), newest first if `reverse`. Raises: InvalidInputError."""
    if not isinstance(reverse, bool):
        raise InvalidInputError(f"reverse must be True or False, got {reverse!r}")
    wanted = None if last is None else _count(last)
    newest = _newest(_read(engine, key, parts, options), wanted)
    if reverse:
        blocks = (_entries(key, columns) for columns in newest)
        return ReverseIterator(blocks, start=start, frontier=frontier, limit=options.limit)
    return LogIterator(_turned(key, newest), start=start, frontier=frontier, limit=options.limit)


def _count(last: Any) -> int:
    try:
        if isinstance(last, bool):
            raise TypeError
        count = operator.index(last)
    except TypeError:
        raise InvalidInputError(f"last must be a number of entries, got {lsm.shown(last)}") from None
    if count < 0:
        raise InvalidInputError(f"last must not be negative, got {lsm.shown(count)}")
    return count


def _turned(key: bytes, newest: Iterator[Columns]) -> Iterator[list[LogEntry]]:
    """The entries of `newest` in ascending order. All columns are in memory before the first entry is yielded."""
    found = list(newest)
    while found:
        base, positions, values = found.pop()
        yield _entries(key, (base, positions[::-1], values[::-1]))


def _read(engine: SeriesReads, key: bytes, parts: Items[Part], options: ScanOptions) -> Iterator[Columns]:
    for base, family, first, end in reversed(parts):
        for positions, values in engine.scan_series(
            family,
            key,
            first - base,
            end - base,
            descending=True,
            cache_blocks=options.cache_blocks,
            read_ahead_bytes=options.read_ahead_bytes,
        ):
            yield base, positions, values


def _newest(stream: Iterable[Columns], left: int | None) -> Iterator[Columns]:
    """The first `left` rows of the stream; nothing after them is read. `left` None: all rows."""
    if left == 0:
        return
    for base, positions, values in stream:
        if left is not None and len(positions) >= left:
            yield base, positions[:left], values[:left]
            return
        yield base, positions, values
        if left is not None:
            left -= len(positions)


def _entries(key: bytes, columns: Columns) -> list[LogEntry]:
    base, positions, values = columns
    return list(map(LogEntry, repeat(key), map(base.__add__, positions) if base else positions, values))
