"""Read walk for tasks: what both handles offer to readers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

from opendata_log.aio.follower import LogFollower
from opendata_log.aio.iterators import GLANCE_COST, LogIterator, LogKeyIterator
from opendata_log.aio.loops import give_way
from opendata_log.aio.nonblocking import Far, Near, NotAtHand
from opendata_log.aio.threads import Threads
from opendata_log.model.options import CountOptions, ScanOptions
from opendata_log.model.record import BytesLike, Segment, SegmentId, Sequence
from opendata_log.model.time_track import Time
from opendata_log.read import reads as log_read
from opendata_log.read.inspection import Inspection, TreeSummary

T = TypeVar("T")


class Reads:
    """What memory can answer is answered at once; anything else in a thread."""

    def __init__(self, log: log_read.Reads, threads: Threads) -> None:
        self._reads = log
        self._near = Near(log)
        self._threads = threads

    async def _answer(self, name: str, *arguments: Any, **options: Any) -> Any:
        await give_way(GLANCE_COST)
        try:
            return getattr(self._near, name)(*arguments, **options)
        except NotAtHand:
            return await self._threads.call(lambda: getattr(self._reads, name)(*arguments, **options))

    def scan(
        self,
        key: BytesLike,
        start: Sequence = 0,
        end: Sequence | None = None,
        *,
        reverse: bool = False,
        last: int | None = None,
        since: Time | None = None,
        options: ScanOptions | None = None,
    ) -> LogIterator:
        """As the blocking `scan`; `async for`, `await fetchmany(n)`."""
        return LogIterator(
            self._threads,
            self._reads,
            start,
            lambda reads: reads.scan(key, start, end, reverse=reverse, last=last, since=since, options=options),
        )

    def scan_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        end: Sequence | None = None,
        *,
        prefix: BytesLike | None = None,
        options: ScanOptions | None = None,
    ) -> LogIterator:
        """As the blocking `scan_all`; `async for`, `await fetchmany(n)`."""
        wanted = kept(keys)
        return LogIterator(
            self._threads,
            self._reads,
            start,
            lambda reads: reads.scan_all(wanted, start, end, prefix=prefix, options=options),
        )

    def follow(self, key: BytesLike, start: Sequence = 0, *, timeout: float | timedelta | None = None) -> LogFollower:
        """As the blocking `follow`; `async for`, `await fetchmany(n)`. A follower that waits takes no thread."""
        return LogFollower(self._threads, self._reads, self._near.pursuit(key, start, timeout))

    def follow_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        *,
        prefix: BytesLike | None = None,
        timeout: float | timedelta | None = None,
    ) -> LogFollower:
        """As the blocking `follow_all`; `async for`, `await fetchmany(n)`."""
        pursuit = self._near.pursuit_of_many(keys, start, prefix, timeout)
        return LogFollower(self._threads, self._reads, pursuit, Far(self._reads).keep_arrivals)

    async def sequence_at(self, time: Time) -> Sequence:
        """As the blocking `sequence_at`."""
        return await self._answer("sequence_at", time)  # type: ignore[no-any-return]

    async def count(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: CountOptions | None = None
    ) -> int:
        """As the blocking `count`."""
        return await self._answer("count", key, start, end, options=options)  # type: ignore[no-any-return]

    async def inspect(self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None) -> Inspection:
        """As the blocking `inspect`."""
        return await self._threads.call(self._reads.inspect, key, start, end)

    def list_keys(
        self,
        start_segment: SegmentId | None = None,
        end_segment: SegmentId | None = None,
        *,
        prefix: BytesLike = b"",
    ) -> LogKeyIterator:
        """As the blocking `list_keys`; `async for`, `await fetchmany(n)`."""
        return LogKeyIterator(
            self._threads, self._reads, lambda reads: reads.list_keys(start_segment, end_segment, prefix=prefix)
        )

    async def list_segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]:
        """As the blocking `list_segments`."""
        return await self._answer("list_segments", start, end)  # type: ignore[no-any-return]

    async def tree_summary(self) -> TreeSummary:
        """As the blocking `tree_summary`."""
        return await self._threads.call(self._reads.tree_summary)

    async def drop_cached(self) -> None:
        """As the blocking `drop_cached`."""
        await self._threads.call(self._reads.drop_cached)


def kept(keys: Iterable[BytesLike] | None) -> Any:
    """Keys that may be asked for twice. What is no iterable of keys is left for the log to refuse."""
    if keys is None or isinstance(keys, (bytes, bytearray, memoryview, str)) or not isinstance(keys, Iterable):
        return keys
    return list(keys)
