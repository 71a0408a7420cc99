"""Read walk, after `read/reads`: what reads are made over. Handles offer it; the blocking face, the asyncio face and exports
read through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Items
from typing import Protocol

import lsm
from opendata_log.model.record import Sequence
from opendata_log.model.segment import SegmentTable
from opendata_log.model.time_track import TimeTrack
from opendata_log.waiting.wakeups import Wakeups

Part = tuple[Sequence, bytes, Sequence, Sequence]
"""What a scan reads of a segment: its start sequence, its family, and the absolute sequences [first, end)."""
View = tuple[SegmentTable, Sequence]
"""The segments of one moment, and the frontier: reads see the sequences below it."""
Columns = tuple[Items[int], list[bytes]]
"""Sequences relative to a segment's start, and values."""
Arrival = tuple[int, Items[bytes], Items[bytes]]
"""Of a batch: the relative sequence of its first record, keys, values."""


class SeriesReads(Protocol):
    """What reads need of the engine: `lsm.Db` and `lsm.DbReader` both give it."""

    def scan_series(
        self,
        family: bytes,
        name: bytes,
        low: int,
        high: int,
        *,
        descending: bool = ...,
        cache_blocks: bool = ...,
        read_ahead_bytes: int = ...,
    ) -> Iterable[Columns]: ...

    def count_series(self, family: bytes, name: bytes, low: int, high: int, *, approximate: bool = ...) -> int: ...

    def inspect_series(self, family: bytes, name: bytes, low: int, high: int) -> lsm.SeriesCount: ...

    def series_arrivals(self, family: bytes, low: int, high: int) -> list[Arrival] | None: ...

    def series_names(
        self, family: bytes, *, below: int | None = ..., prefix: bytes = ...
    ) -> Iterator[Items[bytes]]: ...

    def keep_arrivals(self) -> None: ...

    @property
    def manifest(self) -> lsm.Manifest: ...

    def drop_cached(self) -> None: ...


class HandleReads(SeriesReads, Protocol):
    """The same of an open handle, which also knows what memory alone can answer."""

    def series_at_hand(self, family: bytes, name: bytes, low: int, high: int, *, most: int) -> list[Columns] | None: ...

    def count_at_hand(self, family: bytes, name: bytes, low: int, high: int, *, most: int) -> int | None: ...


class Source(Protocol):
    """An open log to read. A source that must not wait raises WouldBlock, out of any of its methods or of its engine's."""

    @property
    def runtime(self) -> lsm.Runtime: ...

    @property
    def wakeups(self) -> Wakeups:
        """The followers of the handle."""

    def engine(self) -> SeriesReads:
        """The engine. Raises: ClosedError, or the failure of the log."""

    def view(self) -> View:
        """What a read that begins now can see. Raises: StorageError, CorruptionError."""

    def time_track(self) -> TimeTrack:
        """When entries were appended, at least up to a frontier taken before. Raises: lsm.Error."""


class HandleSource(Source, Protocol):
    """The source that an open handle is. `_nowait`: the same from memory alone, or WouldBlock."""

    def engine(self) -> HandleReads: ...

    def view_nowait(self) -> View: ...

    def time_track_nowait(self) -> TimeTrack: ...
