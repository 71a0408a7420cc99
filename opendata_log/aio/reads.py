"""Read walk for tasks: the reads that both asyncio handles have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

from opendata_log.aio.follower import LogFollower
from opendata_log.aio.iterators import MEMORY_READ_COST, LogIterator, LogKeyIterator
from opendata_log.aio.loops import give_way
from opendata_log.aio.nonblocking import NonBlockingSource
from opendata_log.aio.threads import Threads
from opendata_log.model.errors import WouldBlock
from opendata_log.model.options import CountOptions, ScanOptions
from opendata_log.model.record import BytesLike, Segment, SegmentId, Sequence
from opendata_log.model.time_track import Time
from opendata_log.read import reads as log_read
from opendata_log.read.follow import follow_key, follow_keys
from opendata_log.read.inspect_values import Inspection, TreeSummary
from opendata_log.read.interleave import KeySet
from opendata_log.read.source import HandleSource

T = TypeVar("T")


class Reads:
    """The reads of a log for tasks. Memory answers a read on the loop where it can; a thread does any other read."""

    def __init__(self, log: log_read.Reads, source: HandleSource, threads: Threads) -> None:
        """`source`: the source of the handle whose reads `log` are."""
        self._reads = log
        self._source = NonBlockingSource(source)
        self._nowait = log_read.Reads(self._source)
        self._threads = threads

    async def _answer(self, read: Callable[[log_read.Reads], T]) -> T:
        await give_way(MEMORY_READ_COST)
        try:
            return read(self._nowait)
        except WouldBlock:
            return await self._threads.call(read, self._reads)

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
        """As the blocking `scan`; iterate with `async for` or `await fetchmany(n)`."""
        return LogIterator(
            self._threads,
            self._source,
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
        """As the blocking `scan_all`; iterate with `async for` or `await fetchmany(n)`."""
        wanted = kept(keys)
        return LogIterator(
            self._threads,
            self._source,
            start,
            lambda reads: reads.scan_all(wanted, start, end, prefix=prefix, options=options),
        )

    def follow(self, key: BytesLike, start: Sequence = 0, *, timeout: float | timedelta | None = None) -> LogFollower:
        """As the blocking `follow`; iterate with `async for` or `await fetchmany(n)`. A waiting follower takes no thread."""
        return LogFollower(self._threads, self._source, follow_key(self._source, key, start, timeout))

    def follow_all(
        self,
        keys: Iterable[BytesLike] | None = None,
        start: Sequence = 0,
        *,
        prefix: BytesLike | None = None,
        timeout: float | timedelta | None = None,
    ) -> LogFollower:
        """As the blocking `follow_all`; iterate with `async for` or `await fetchmany(n)`. A waiting one takes no thread."""
        state = follow_keys(self._source, KeySet(keys, prefix), start, timeout)
        return LogFollower(self._threads, self._source, state, lambda: self._source.handle.engine().keep_arrivals())

    async def sequence_at(self, time: Time) -> Sequence:
        """As the blocking `sequence_at`."""
        return await self._answer(lambda reads: reads.sequence_at(time))

    async def count(
        self, key: BytesLike, start: Sequence = 0, end: Sequence | None = None, *, options: CountOptions | None = None
    ) -> int:
        """As the blocking `count`."""
        return await self._answer(lambda reads: reads.count(key, start, end, options=options))

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
        """As the blocking `list_keys`; iterate with `async for` or `await fetchmany(n)`."""
        return LogKeyIterator(
            self._threads, self._source, lambda reads: reads.list_keys(start_segment, end_segment, prefix=prefix)
        )

    async def list_segments(self, start: Sequence = 0, end: Sequence | None = None) -> list[Segment]:
        """As the blocking `list_segments`."""
        return await self._answer(lambda reads: reads.list_segments(start, end))

    async def tree_summary(self) -> TreeSummary:
        """As the blocking `tree_summary`."""
        return await self._threads.call(self._reads.tree_summary)

    async def drop_cached(self) -> None:
        """As the blocking `drop_cached`."""
        await self._threads.call(self._reads.drop_cached)


def kept(keys: Iterable[BytesLike] | None) -> Any:
    """The keys as a list, which can be read twice. A value that is no iterable of keys is left for `KeySet` to refuse."""
    if keys is None or isinstance(keys, (bytes, bytearray, memoryview, str)) or not isinstance(keys, Iterable):
        return keys
    return list(keys)
