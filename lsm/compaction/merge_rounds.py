"""One pass over several sorted sources. A block that no other source overlaps comes out as it is stored; all other rows come
out in rounds to be merged. Pure but for the opening of blocks.

A round takes from every source the rows up to the smallest last key among the open blocks. A block is opened when no row can
come before it. Its own last key then decides whether it overlaps other sources. The index cannot decide that: by first keys
alone, a block before a gap in the keys seems to reach the next block. No block is read twice, and each source has at most one
open block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from lsm.compaction.block_places import BlockPlace
from lsm.rows.chunk import RowChunk, SeriesChunk
from lsm.sst.block import RowsBlock, SeriesBlock


class Stored(NamedTuple):
    """A whole block: its stored bytes, and the decoded block."""

    data: bytes
    block: RowsBlock | SeriesBlock


class Round(NamedTuple):
    """The rows of one round, newest source first. All series are of one family. If there are both, all `rows` sort before
    `series`."""

    rows: list[RowChunk]
    series: list[SeriesChunk]


class Head:
    """The remaining rows of one source. `low`: a lower bound of their keys; with an open block, the smallest key. `last`: with
    an open block, its last key in range."""

    __slots__ = ("_high", "_low", "_open", "_place", "_places", "_start", "_stop", "_stored", "low")

    def __init__(
        self,
        places: Iterable[BlockPlace],
        open_block: Callable[[BlockPlace], Stored],
        low: bytes | None = None,
        high: bytes | None = None,
    ) -> None:
        """Only keys in [low, high) come out."""
        self._places = iter(places)
        self._open = open_block
        self._low, self._high = low, high
        self._next()

    def _next(self) -> None:
        self._place = next(self._places, None)
        self._stored: Stored | None = None
        if self._place is not None:
            self.low = self._place.low

    @property
    def is_done(self) -> bool:
        return self._place is None

    @property
    def is_open(self) -> bool:
        return self._stored is not None

    @property
    def last(self) -> bytes:
        assert self._stored is not None
        return self._stored.block.key_at(self._stop - 1)

    def open(self) -> None:
        """Open the current block. If none of its rows is in range, move to the next block, which stays closed."""
        assert self._place is not None
        stored = self._open(self._place)
        block = stored.block
        self._start = 0 if self._low is None else block.position(self._low)
        self._stop = len(block) if self._high is None else block.position(self._high)
        if self._start >= self._stop:
            self._next()
            return
        self._stored = stored
        self.low = block.key_at(self._start)

    def take_all(self) -> Stored | RowChunk | SeriesChunk:
        """Take the rest of the open block: as it is stored, if no row was taken before and every row is in range."""
        stored = self._stored
        assert stored is not None
        start, stop = self._start, self._stop
        self._next()
        return stored if stop - start == len(stored.block) else stored.block.rows(start, stop)

    def take_through(self, bound: bytes) -> RowChunk | SeriesChunk:
        """Take the rows of the open block up to the key `bound`, included. Requires: `bound` is not below `low`."""
        assert self._stored is not None
        block, start, stop = self._stored.block, self._start, self._stop
        end = min(stop, block.position(bound, after=True))
        part = block.rows(start, end)
        if end == stop:
            self._next()
        else:
            self._start = end
            self.low = block.key_at(end)
        return part


def rounds(heads: Sequence[Head]) -> Iterator[Stored | Round]:
    """Yield all rows of the sources (newest first) in key order. No key is in two items.

    Cost: some microseconds per round and source; there are about as many rounds as blocks.
    """
    while True:
        left = [head for head in heads if not head.is_done]
        if not left:
            return
        taking, bound = _next_rows(left)
        if not taking:
            continue
        if len(taking) == 1 and bound is None:
            found = taking[0].take_all()
            yield found if isinstance(found, Stored) else _round([found])
        else:
            assert bound is not None
            yield _round([head.take_through(bound) for head in taking])


def _next_rows(left: Sequence[Head]) -> tuple[list[Head], bytes | None]:
    """Return the opened heads of the next rows, and the last key to take (`None`: a whole block). No heads: call again."""
    bound: bytes | None = None
    for head in sorted(left, key=_low):
        if bound is not None and head.low > bound:
            break
        if not head.is_open:
            head.open()
            if not head.is_open:
                return [], None  # Its block had no row in range.
        if bound is None and head.low > min(map(_low, left)):
            return [], None  # Its first row in range is later than the index stated, so another source may be first.
        if bound is None or (head.low <= bound and head.last < bound):
            bound = head.last
    assert bound is not None
    taking = [head for head in left if head.low <= bound]
    if len(taking) == 1 and taking[0].last == bound:
        return taking, None
    return taking, bound


def _low(head: Head) -> bytes:
    return head.low


def _round(parts: Sequence[RowChunk | SeriesChunk]) -> Round:
    return Round(
        [part for part in parts if isinstance(part, RowChunk)],
        [part for part in parts if isinstance(part, SeriesChunk)],
    )
