"""Both faces of the log meet here: the same reads over what is in memory alone, and in larger pieces.

A thread that must not wait reads `Near`: whatever would need a request, or long work, raises NotAtHand before it begins, and
the same read over `Far` in another thread does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Protocol

import lsm
from opendata_log.model.record import BytesLike, Sequence
from opendata_log.model.segment import SegmentTable
from opendata_log.model.time_track import TimeTrack
from opendata_log.read.follow import Pursuit
from opendata_log.read.interleave import KeySet
from opendata_log.read.reads import Reads
from opendata_log.read.scan import SeriesReads
from opendata_log.waiting.wakeups import Wakeups

ROWS_MAX = 1024
"""Rows that a thread in a hurry reads, or puts in order, at once; less than a millisecond."""
PIECE_ROWS = 8192
"""Rows a thread hands over at a time; the first pieces are smaller."""

Seen = tuple[SegmentTable, Sequence]


class NotAtHand(Exception):
    """The read needs a request or long work. Nothing of it was done."""


class _Engine(SeriesReads, Protocol):
    """What `lsm.Db` and `lsm.DbReader` both have for a read in a hurry."""

    def series_at_hand(self, family: bytes, name: bytes, low: int = ..., high: int = ..., *, most: int) -> Any: ...

    def count_at_hand(self, family: bytes, name: bytes, low: int = ..., high: int = ..., *, most: int) -> Any: ...


class Glance(Reads):
    """Reads of an open log through another view of its engine; `seen`: as of that moment."""

    def __init__(self, log: Reads, seen: Seen | None = None) -> None:
        self._log = log
        self.seen = seen

    @property
    def _wakeups(self) -> Wakeups:  # type: ignore[override]
        return self._log._wakeups

    @property
    def _runtime(self) -> lsm.Runtime:  # type: ignore[override]
        return self._log._runtime

    def _visible(self) -> Seen:
        return self.seen if self.seen is not None else self._log._visible()

    def _time_track(self) -> TimeTrack:
        return self._log._time_track()


class Near(Glance):
    """Only what memory has. Raises: NotAtHand, and what the log raises."""

    def _engine_for_reads(self) -> SeriesReads:
        return _AtHand(self._log._engine_for_reads())  # type: ignore[arg-type, return-value]

    def _visible(self) -> Seen:
        found = self.seen if self.seen is not None else self._log._visible_at_hand()
        if found is None:
            raise NotAtHand
        return found

    def _time_track(self) -> TimeTrack:
        found = self._log._time_track_at_hand()
        if found is None:
            raise NotAtHand
        return found

    def pursuit(self, key: BytesLike, start: Sequence, timeout: float | timedelta | None) -> Pursuit[Reads]:
        """What `follow` drives. Raises: as that."""
        return self._pursuit(key, start, timeout)

    def pursuit_of_many(
        self,
        keys: Iterable[BytesLike] | None,
        start: Sequence,
        prefix: BytesLike | None,
        timeout: float | timedelta | None,
    ) -> Pursuit[Reads]:
        """What `follow_all` drives, after `Far.keep_arrivals`. Raises: as that."""
        return self._pursuit_of_many(KeySet(keys, prefix), start, timeout)


class Moment(Near):
    """All reads as of the first one, whose `seen` it keeps."""

    def _visible(self) -> Seen:
        self.seen = super()._visible()
        return self.seen


class Far(Glance):
    """Everything, in pieces that are worth handing from one thread to another."""

    def _engine_for_reads(self) -> SeriesReads:
        return _InPieces(self._log._engine_for_reads())  # type: ignore[return-value]

    def keep_arrivals(self) -> None:
        """As `Db.keep_arrivals`. May wait for a poll of a reader."""
        self._log._engine_for_reads().keep_arrivals()


class _AtHand:
    """The engine's reads that make no request."""

    def __init__(self, engine: _Engine) -> None:
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
    ) -> Iterable[Any]:
        found = self._engine.series_at_hand(family, name, low, high, most=ROWS_MAX)
        if found is None:
            raise NotAtHand
        if descending:
            return [(numbers[::-1], values[::-1]) for numbers, values in reversed(found)]
        return found  # type: ignore[no-any-return]

    def count_series(self, family: bytes, name: bytes, low: int, high: int, *, approximate: bool = False) -> int:
        found = self._engine.count_at_hand(family, name, low, high, most=ROWS_MAX)
        if found is None:
            raise NotAtHand
        return found  # type: ignore[no-any-return]

    def series_arrivals(self, family: bytes, low: int, high: int) -> list[Any]:
        found = self._engine.series_arrivals(family, low, high) if high - low <= PIECE_ROWS else None
        if found is None:
            raise NotAtHand
        return found


class _InPieces:
    """An engine whose scans hand over some thousand rows at a time."""

    def __init__(self, engine: SeriesReads) -> None:
        self._engine = engine
        self.series_arrivals = engine.series_arrivals
        self.series_names = engine.series_names

    def scan_series(
        self, family: bytes, name: bytes, low: int, high: int, *, descending: bool = False, **options: Any
    ) -> Iterator[Any]:
        stream = self._engine.scan_series(family, name, low, high, descending=descending, **options)
        return gathered(stream)


def gathered(stream: Iterable[tuple[Any, list[bytes]]]) -> Iterator[tuple[list[int], list[bytes]]]:
    """The same columns in larger pieces: the first as it comes, then doubling up to PIECE_ROWS."""
    numbers: list[int] = []
    values: list[bytes] = []
    enough = 1
    for more_numbers, more_values in stream:
        numbers += more_numbers
        values += more_values
        if len(values) >= enough:
            enough = min(PIECE_ROWS, 2 * len(values))
            yield numbers, values
            numbers, values = [], []
    if values:
        yield numbers, values
