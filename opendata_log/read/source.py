"""Read walk, after `read/reads`: the source of every read. Each handle has one; the blocking handles, the asyncio handles and
exports read through it.
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
"""The part of a segment that a scan reads: its start sequence, its family, and the absolute sequences [first, end)."""
View = tuple[SegmentTable, Sequence]
"""The segments of one moment, and the frontier: reads see the sequences below it."""
Columns = tuple[Items[int], list[bytes]]
"""Sequences relative to a segment's start, and values."""
Arrival = tuple[int, Items[bytes], Items[bytes]]
"""One batch: the relative sequence of its first record, keys, values."""


class SeriesReads(Protocol):
    """The engine's methods that reads use; `lsm.Db` and `lsm.DbReader` both have them."""

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
    """`SeriesReads` of an open handle, which also has reads that memory alone answers."""

    def series_at_hand(self, family: bytes, name: bytes, low: int, high: int, *, most: int) -> list[Columns] | None: ...

    def count_at_hand(self, family: bytes, name: bytes, low: int, high: int, *, most: int) -> int | None: ...


class Source(Protocol):
    """An open log to read. Implemented by `WriterSource`, `ReaderSource`, and the sources of `aio/nonblocking`.

    In a source that must not wait, any method of it or of its engine can raise WouldBlock.
    """

    @property
    def runtime(self) -> lsm.Runtime: ...

    @property
    def wakeups(self) -> Wakeups:
        """The followers of the handle."""

    def engine(self) -> SeriesReads:
        """The engine. Raises: ClosedError, or the failure of the log."""

    def view(self) -> View:
        """The segments and the frontier of a read that begins now. Raises: StorageError, CorruptionError."""

    def time_track(self) -> TimeTrack:
        """The times of entries, at least up to any frontier taken before this call. Raises: lsm.Error."""


class HandleSource(Source, Protocol):
    """The source of an open handle. Methods that end in `_nowait` answer from memory alone, or raise WouldBlock."""

    def engine(self) -> HandleReads: ...

    def view_nowait(self) -> View: ...

    def time_track_nowait(self) -> TimeTrack: ...
