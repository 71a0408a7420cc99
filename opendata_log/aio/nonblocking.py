"""Sources of the asyncio handles: one answers from memory alone, one in larger pieces.

A loop reads through a `NonBlockingSource`. A read that needs a request, a taken lock or long work raises WouldBlock before it
begins; a thread repeats it through a `PiecewiseSource`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

import lsm
from opendata_log.model.errors import WouldBlock
from opendata_log.model.options import READ_AHEAD_BYTES
from opendata_log.read.source import Arrival, Columns, HandleReads, HandleSource, SeriesReads, Source, View

ROWS_MAX = 1024
"""Maximum rows per read, or per sort, on a loop; less than a millisecond."""
PIECE_ROWS = 8192
"""Rows per piece that a thread hands over; the first pieces are smaller."""


class NonBlockingSource:
    """A source that reads memory alone. Raises: WouldBlock, and the handle's errors."""

    def __init__(self, source: HandleSource) -> None:
        self.handle = source
        """The handle's own source, for the same read in a thread."""
        self.runtime = source.runtime
        self.wakeups = source.wakeups
        # The handle's own methods, because a poll must make no needless call.
        self.view = source.view_nowait
        self.time_track = source.time_track_nowait

    def engine(self) -> SeriesReads:
        return _NonBlockingReads(self.handle.engine())


class PiecewiseSource:
    """A source that reads everything, in pieces that are large enough to hand from one thread to another."""

    def __init__(self, source: Source) -> None:
        self.runtime = source.runtime
        self.wakeups = source.wakeups
        self.view = source.view
        self.time_track = source.time_track
        self._engine = source.engine

    def engine(self) -> SeriesReads:
        return _ReadsInPieces(self._engine())


class MomentSource:
    """Another source, fixed at the first view that was taken of it. `seen`: that view; None: not taken yet."""

    def __init__(self, source: Source, seen: View | None = None) -> None:
        self.runtime = source.runtime
        self.wakeups = source.wakeups
        self.engine = source.engine
        self.time_track = source.time_track
        self._view = source.view
        self.seen = seen

    def view(self) -> View:
        if self.seen is None:
            self.seen = self._view()
        return self.seen


class _NonBlockingReads:
    """The engine's reads that make no request and wait for no lock."""

    def __init__(self, engine: HandleReads) -> None:
        self._engine = engine

    def scan_series(
        self,
        family: bytes,
        name: bytes,
        low: int,
        high: int,
        *,
        descending: bool = False,
        cache_blocks: bool = True,
        read_ahead_bytes: int = 0,
    ) -> Iterable[Columns]:
        found = self._engine.series_at_hand(family, name, low, high, most=ROWS_MAX)
        if found is None:
            raise WouldBlock
        if descending:
            return [(positions[::-1], values[::-1]) for positions, values in reversed(found)]
        return found

    def count_series(self, family: bytes, name: bytes, low: int, high: int, *, approximate: bool = False) -> int:
        found = self._engine.count_at_hand(family, name, low, high, most=ROWS_MAX)
        if found is None:
            raise WouldBlock
        return found

    def inspect_series(self, family: bytes, name: bytes, low: int, high: int) -> NoReturn:
        raise WouldBlock

    def series_arrivals(self, family: bytes, low: int, high: int) -> list[Arrival]:
        found = self._engine.series_arrivals(family, low, high) if high - low <= PIECE_ROWS else None
        if found is None:
            raise WouldBlock
        return found

    def series_names(self, family: bytes, *, below: int | None = None, prefix: bytes = b"") -> NoReturn:
        raise WouldBlock

    def keep_arrivals(self) -> NoReturn:
        raise WouldBlock

    @property
    def manifest(self) -> lsm.Manifest:
        return self._engine.manifest

    def drop_cached(self) -> NoReturn:
        raise WouldBlock


class _ReadsInPieces:
    """An engine whose scans yield some thousand rows at a time."""

    def __init__(self, engine: SeriesReads) -> None:
        self._engine = engine
        self.count_series = engine.count_series
        self.inspect_series = engine.inspect_series
        self.series_arrivals = engine.series_arrivals
        self.series_names = engine.series_names
        self.keep_arrivals = engine.keep_arrivals
        self.drop_cached = engine.drop_cached

    def scan_series(
        self,
        family: bytes,
        name: bytes,
        low: int,
        high: int,
        *,
        descending: bool = False,
        cache_blocks: bool = True,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
    ) -> Iterator[Columns]:
        stream = self._engine.scan_series(
            family,
            name,
            low,
            high,
            descending=descending,
            cache_blocks=cache_blocks,
            read_ahead_bytes=read_ahead_bytes,
        )
        return gathered(stream)

    @property
    def manifest(self) -> lsm.Manifest:
        return self._engine.manifest


def gathered(stream: Iterable[Columns]) -> Iterator[tuple[list[int], list[bytes]]]:
    """The same columns in larger pieces: the first one as it is, then twice as large each, up to PIECE_ROWS rows."""
    positions: list[int] = []
    values: list[bytes] = []
    enough = 1
    for more_positions, more_values in stream:
        positions += more_positions
        values += more_values
        if len(values) >= enough:
            enough = min(PIECE_ROWS, 2 * len(values))
            yield positions, values
            positions, values = [], []
    if values:
        yield positions, values
