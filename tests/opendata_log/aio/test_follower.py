"""Tasks that follow: woken in few calls, cancelled without a loss, over a writer and over a reader."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lsm.object_store import MemoryStore
from lsm.object_store.open import open_store
from opendata_log import LogDb, ReadVisibility, aio
from opendata_log.aio.loops import WAKES
from tests.doubles import GatedStore
from tests.opendata_log.support import tiny

URL = "memory://async-following"
LONG = 60.0
ROOMY = tiny(l0_sst_size_bytes=16 << 20)


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GatedStore]]:
    found: list[GatedStore] = []

    def gated(*arguments: Any, **options: Any) -> GatedStore:
        found.append(GatedStore(open_store(*arguments, **options)))
        return found[-1]

    monkeypatch.setattr("lsm.components.open_store", gated)
    yield found
    MemoryStore.forget("async-following")


async def settled(tasks: list[asyncio.Task[Any]]) -> None:
    """Every follower that has anything to do has done it."""
    for _ in range(len(tasks) // WAKES + 20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("visibility", list(ReadVisibility))
def test_a_thousand_followers_and_a_hundred_appenders(visibility: ReadVisibility) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage="memory://", engine=ROOMY, read_visibility=visibility) as log:
            got: dict[int, list[bytes]] = {number: [] for number in range(1000)}

            async def follow(number: int) -> None:
                follower = log.follow(b"%d" % number)
                async for entry in follower:
                    got[number].append(entry.value)
                    if len(got[number]) == 10:
                        return

            async def append(number: int) -> None:
                for turn in range(10):
                    await log.try_append([(b"%d" % key, b"%d" % turn) for key in range(number * 10, number * 10 + 10)])
                await log.flush()

            before = threading.active_count()
            async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
                for number in range(1000):
                    group.create_task(follow(number))
                for number in range(100):
                    group.create_task(append(number))
            assert threading.active_count() <= before + 24
            assert set(map(tuple, got.values())) == {tuple(b"%d" % turn for turn in range(10))}

    asyncio.run(main())


def test_one_append_of_another_thread_is_one_call_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with LogDb.open(storage="memory://", engine=ROOMY) as blocking:
            log = aio.LogDb.wrap(blocking)
            blocking.try_append([(b"other", b"")])
            tasks = [asyncio.ensure_future(log.follow(b"%d" % key).fetchmany(1)) for key in range(500)]
            await settled(tasks)
            loop, calls = asyncio.get_running_loop(), []
            real = loop.call_soon_threadsafe
            monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: calls.append(given) or real(*given))

            thread = threading.Thread(target=blocking.try_append, args=([(b"%d" % key, b"") for key in range(500)],))
            thread.start()
            thread.join()  # The loop stands still meanwhile.

            assert len(calls) == 1
            assert len(await asyncio.gather(*tasks)) == 500
            await log.close()

    asyncio.run(main())


def test_a_follower_that_is_cancelled_goes_on_where_it_stood(stores: list[GatedStore]) -> None:
    """Cancelled while it waits for news, while a thread reads for it, and when that has read."""
    count = 30_000
    with LogDb.open(storage=URL, engine=tiny()) as log:
        log.try_append([(b"a", b"%d" % number) for number in range(count)])

    async def main() -> None:
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:
            store, cancelled = stores[-1], 0
            for follower in (log.follow(b"a"), log.follow_all([b"a"]), log.scan(b"a")):
                store.shut()
                try:
                    task = asyncio.ensure_future(follower.fetchmany(5))
                    await asyncio.sleep(0.01)  # What the first one has read is in the cache: the others may be done.
                    task.cancel()
                    try:
                        found = await task
                    except asyncio.CancelledError:
                        found = []
                    assert follower.next_sequence == len(found)
                    cancelled += not found
                finally:
                    store.open()
                found += await follower.fetchmany(5)
                while len(found) < count:
                    assert follower.next_sequence == len(found)
                    task = asyncio.ensure_future(follower.fetchmany(20_000))
                    for _ in range(len(found) % 7):
                        await asyncio.sleep(0)
                    task.cancel()
                    try:
                        found += await task
                    except asyncio.CancelledError:
                        found += await follower.fetchmany(3000)
                assert [entry.sequence for entry in found] == list(range(count))
                await follower.close()
            assert cancelled
            follower = log.follow(b"a", count)
            for turn in range(5):
                task = asyncio.ensure_future(anext(follower))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                await log.try_append([(b"a", b"%d" % turn)])
                task.cancel()
                try:
                    entry = await task
                except asyncio.CancelledError:
                    entry = await anext(follower)
                assert entry.value == b"%d" % turn

    asyncio.run(main())


def test_a_follower_may_move_to_another_loop_and_a_closed_loop_is_no_harm() -> None:
    with LogDb.open(storage="memory://", engine=ROOMY) as blocking:
        log = aio.LogDb.wrap(blocking)
        blocking.try_append([(b"a", b"0")])
        follower = log.follow(b"a")

        async def first() -> None:
            assert (await anext(follower)).value == b"0"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(follower), 0.01)

        async def second() -> None:
            assert (await anext(follower)).value == b"1"
            task = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0)
            await log.try_append([(b"a", b"2")])
            assert (await task).value == b"2"

        asyncio.run(first())
        blocking.try_append([(b"a", b"1")])
        asyncio.run(second())
        blocking.try_append([(b"a", b"3")])
        asyncio.run(log.close())


def test_it_ends_with_the_timeout_and_with_the_log_and_goes_on_after_one() -> None:
    async def main() -> None:
        log = await aio.LogDb.open(storage="memory://", engine=ROOMY)
        await log.try_append([(b"a", b"0")])
        quiet = log.follow(b"a", timeout=0.01)
        assert [entry.value async for entry in quiet] == [b"0"]
        await log.try_append([(b"a", b"1")])
        assert [entry.value async for entry in quiet] == [b"1"]
        endless = [asyncio.ensure_future(log.follow(b"a", 2).fetchmany(1)) for _ in range(3)]
        stopped = log.follow(b"a", 2)
        closed = asyncio.ensure_future(stopped.fetchmany(1))
        await asyncio.sleep(0)
        async with stopped:
            pass
        assert await closed == []
        await log.close()
        assert await asyncio.gather(*endless) == [[]] * 3

    asyncio.run(main())


def test_followers_of_a_reader_are_woken_by_its_refresh(stores: list[GatedStore]) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:
            await log.try_append([(b"a", b"0")])
            await log.flush()
            async with await aio.LogDbReader.open(storage=URL, refresh_interval=1000.0) as reader:
                one, many = reader.follow(b"a"), reader.follow_all(prefix=b"")
                assert [(await anext(one)).value, (await anext(many)).value] == [b"0", b"0"]
                tasks = [asyncio.ensure_future(anext(one)), asyncio.ensure_future(anext(many))]
                await log.seal_segment()
                await log.try_append([(b"a", b"1")])
                await log.flush()
                await reader.refresh()
                assert [entry.value for entry in await asyncio.gather(*tasks)] == [b"1", b"1"]
                last = asyncio.ensure_future(one.fetchmany(3))
                await asyncio.sleep(0)
            assert await last == []

    asyncio.run(main())
    assert not any(threading.get_ident() in store.threads for store in stores)
