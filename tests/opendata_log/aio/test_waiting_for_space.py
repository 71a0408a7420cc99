"""Appends that wait for space on a loop, and the builder's other parts."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import AppendTimeoutError, Config, LogDbBuilder, QueueFullError, aio
from tests.doubles import GatedStore
from tests.opendata_log.aio.test_loop import LONG, passes
from tests.opendata_log.support import tiny


def crowded(store: GatedStore) -> LogDbBuilder:
    """A log whose memory is full as soon as the store stands still."""
    settings = tiny(max_unflushed_bytes=4096, l0_sst_size_bytes=2048)
    return LogDbBuilder(Config(storage="memory://", engine=settings)).with_object_store(store)


def test_an_append_that_waits_for_space_is_over_in_time_and_can_be_cancelled() -> None:
    async def main() -> None:
        store = GatedStore(MemoryStore())
        async with aio.LogDb.wrap(crowded(store).build()) as log:
            await log.try_append([(b"k", b"first")])  # With it the segment and a block of sequences are made durable.
            store.shut()
            with pytest.raises(QueueFullError):
                for _ in range(100):
                    await log.try_append([(b"k", b"x" * 500)])
            end = await passed(log.scan(b"k"))
            batch = [(b"k", b"late")]
            with pytest.raises(AppendTimeoutError) as late:
                await log.append_timeout(batch, 0.05)
            assert late.value.records == batch
            waiting = [asyncio.create_task(log.append_timeout([(b"k", b"%d" % at)], LONG)) for at in range(3)]
            await passes()
            waiting[1].cancel()
            await asyncio.wait([waiting[1]])
            assert waiting[1].cancelled()
            store.open()
            await waiting[0]
            await waiting[2]

            values = [entry.value for entry in await log.scan(b"k", end).fetchall()]
            assert sorted({*values, b"1"}) == [b"0", b"1", b"2"]  # The one that was cancelled is there whole, or not.
            assert len(set(values)) == len(values)

    async def passed(entries: aio.LogIterator) -> int:
        await entries.fetchall()
        return entries.next_sequence

    asyncio.run(main())


def test_the_builder_takes_what_the_blocking_one_takes() -> None:
    caches = lsm.Caches()
    with ThreadPoolExecutor(1) as executor:

        async def main() -> None:
            builder = aio.LogDbBuilder(Config(storage="memory://")).with_runtime(lsm.Runtime())
            async with await builder.with_compaction_executor(executor).with_caches(caches).build() as log:
                assert repr(log).startswith("<aio <LogDb")
                await log.try_append([(b"k", b"v")])
                await log.flush()
                await log.drop_cached()
                assert log.subscribe_durable().value == 1

        asyncio.run(main())
