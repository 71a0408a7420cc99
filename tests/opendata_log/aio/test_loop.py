"""The loop goes on: no request on its thread, no work that takes long, whatever hangs, fails or is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.open import open_store
from opendata_log import (
    ClosedError,
    LogDb,
    LogDbBuilder,
    StorageError,
    aio,
)
from opendata_log.aio.loops import QUANTA, QUANTUM
from opendata_log.write.writer import LogWriter
from tests.doubles import GatedStore
from tests.opendata_log.support import tiny

URL = "memory://the-loop"
LONG = 60.0


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GatedStore]]:
    found: list[GatedStore] = []

    def gated(*arguments: Any, **options: Any) -> GatedStore:
        found.append(GatedStore(open_store(*arguments, **options)))
        return found[-1]

    monkeypatch.setattr("lsm.components.open_store", gated)
    yield found
    MemoryStore.forget("the-loop")


async def passes(count: int = 50) -> None:
    """The loop goes round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def held(store: GatedStore) -> None:
    """A request stands at the gate, and meanwhile the loop goes round."""
    waiting = asyncio.create_task(asyncio.to_thread(store.held.acquire, True, LONG))
    while not waiting.done():
        await asyncio.sleep(0.001)
    assert waiting.result(), "no request came"
    await passes()


# -- no I/O on the loop -----------------------------------------------------------------------------------------------


def test_no_request_is_made_on_the_thread_of_the_loop(stores: list[GatedStore]) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:
            for number in range(400):
                await log.try_append([(b"key-%d" % (number % 7), b"x" * 100), (b"a", b"%d" % number)])
            await log.try_append([(b"big", b"%d" % number) for number in range(20_000)])
            await asyncio.gather(*[log.flush() for _ in range(20)])
            await log.seal_segment()
            await log.try_append([(b"a", b"end")])
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:
            assert len(await log.scan(b"big").fetchall()) == 20_000
            assert len([entry async for entry in log.scan(b"a")]) == 401
            assert [entry.value async for entry in log.scan(b"a", last=1)] == [b"end"]
            assert len([entry async for entry in log.scan_all(prefix=b"key")]) == 400
            assert len([entry async for entry in log.follow(b"a", timeout=0)]) == 401
            assert len([entry async for entry in log.follow_all([b"a", b"key-1"], timeout=0)]) > 401
            assert await log.count(b"a") == 401
            assert (await log.inspect(b"big")).total == 20_000
            assert len(await log.list_keys().fetchall()) == 9
            await log.collect_garbage()
            await log.try_append([(b"late", b"")])
            await log.flush()
            async with await aio.LogDbReader.open(storage=URL) as reader:
                assert await reader.count(b"a") == 401
                assert [entry.key async for entry in reader.scan_all([b"late"])] == [b"late"]
                await log.seal_segment()
                await log.try_append([(b"later", b"")])
                await log.flush()
                await reader.refresh()
                assert [entry.key async for entry in reader.follow(b"later", timeout=0)] == [b"later"]
                assert len(await reader.list_segments()) == 3

    asyncio.run(main())

    assert sum(len(store.threads) for store in stores)
    assert not any(threading.get_ident() in store.threads for store in stores)


Call = Callable[[aio.LogDb], Awaitable[Any]]


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.flush(),
        lambda log: log.scan(b"a").fetchmany(1),
        lambda log: log.follow(b"a").fetchmany(1),
        lambda log: log.count(b"a"),
        lambda log: log.list_keys().fetchall(),
        lambda log: log.collect_garbage(),
        lambda log: log.close(),
    ],
    ids=["flush", "scan", "follow", "count", "list_keys", "collect_garbage", "close"],
)
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_loop_goes_on_while_the_store_hangs(stores: list[GatedStore], call: Call, is_cancelled: bool) -> None:
    with LogDb.open(storage=URL, engine=tiny()) as log:
        log.try_append([(b"a", b"%d" % number) for number in range(100)])

    async def main() -> None:
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:
            store = stores[-1]
            at = (await log.try_append([(b"new", b"")])).start_sequence
            store.shut()
            try:
                task = asyncio.ensure_future(call(log))
                await held(store)
                assert not task.done()
                assert log.durable_sequence <= at + 1
                if is_cancelled:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            finally:
                store.open()
            if not is_cancelled:
                await task
        with LogDb.open(storage=URL, engine=tiny()) as again:
            assert [len(again.scan(key).fetchall()) for key in (b"a", b"new")] == [100, 1]

    asyncio.run(main())


def test_a_cancelled_open_leaves_nothing_open(stores: list[GatedStore], monkeypatch: pytest.MonkeyPatch) -> None:
    closed, began, go = threading.Event(), threading.Event(), threading.Event()
    close, open_engine = LogDb.close, lsm.Db.open

    def slow_open(*arguments: Any, **options: Any) -> lsm.Db:
        began.set()
        assert go.wait(LONG)
        return open_engine(*arguments, **options)

    async def main() -> None:
        task = asyncio.ensure_future(aio.LogDb.open(storage=URL, engine=tiny()))
        assert await asyncio.to_thread(began.wait, LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        assert await asyncio.to_thread(closed.wait, LONG)

    monkeypatch.setattr(LogDb, "close", lambda log: (close(log), closed.set())[0])
    monkeypatch.setattr(lsm.Db, "open", slow_open)
    asyncio.run(main())


# -- appends ----------------------------------------------------------------------------------------------------------


def test_small_batches_are_appended_on_the_loop_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[tuple[int, int]] = []
    real = LogWriter._append

    def seen(writer: LogWriter, keys: list[bytes], values: list[bytes], size: int) -> int:
        appended.append((len(keys), threading.get_ident()))
        return real(writer, keys, values, size)

    monkeypatch.setattr(LogWriter, "_append", seen)

    async def main() -> None:
        async with await aio.LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=64 << 20)) as log:
            for count in (1, 1, 1024, 1025, 100_000):
                await log.try_append([(b"k", b"v")] * count)

    asyncio.run(main())

    mine = threading.get_ident()
    assert {count for count, thread in appended if thread == mine} == {1, 1024}
    assert {count for count, thread in appended if thread != mine} >= {1025, 100_000}


@contextmanager
def held_elsewhere(lock: Any) -> Iterator[None]:
    """Another thread has the lock."""
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            may_go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    try:
        yield
    finally:
        may_go.set()
        thread.join()


def test_an_append_that_must_wait_does_so_in_a_thread_and_can_be_cancelled() -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage="memory://", engine=tiny()) as log:
            await log.try_append([(b"k", b"0")])
            with held_elsewhere(log._log._writer._lock):
                tasks = [asyncio.ensure_future(log.try_append([(b"k", b"x"), (b"k", b"y")])) for _ in range(40)]
                await passes()
                assert not any(task.done() for task in tasks)
                assert log.durable_sequence >= 0, "it does not wait for the lock"
                assert await log.count(b"k") == 1
                for task in tasks[::2]:
                    task.cancel()
                await passes()
            outputs = await asyncio.gather(*tasks, return_exceptions=True)
            await log.flush()
            entries = await log.scan(b"k").fetchall()
            assert [entry.value for entry in entries[1::2]] == [b"x"] * (len(entries) // 2)
            assert [entry.value for entry in entries[2::2]] == [b"y"] * (len(entries) // 2)
            starts = {found.start_sequence for found in outputs if not isinstance(found, BaseException)}
            assert len(starts) == 20
            assert starts <= {entry.sequence for entry in entries[1::2]}

    asyncio.run(main())


def test_however_many_append_the_loop_comes_round() -> None:
    """What a hundred tasks append between two passes of the loop is bounded, and so is what one does that never waits."""

    async def main(tasks: int) -> int:
        async with await aio.LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=64 << 20)) as log:
            await log.try_append([(b"k", b"")] * 5000)
            most, before = 0, 0

            async def append() -> None:
                for _ in range(100):
                    await log.try_append([(b"k", b"v")] * 100)

            running = [asyncio.create_task(append()) for _ in range(tasks)]
            while not all(task.done() for task in running):
                before = log._log._writer.next_sequence
                await asyncio.sleep(0)
                most = max(most, log._log._writer.next_sequence - before)
            await asyncio.gather(*running)
            assert await log.count(b"k") == 5000 + tasks * 10_000
            return most

    for tasks in (1, 50):
        assert asyncio.run(main(tasks)) <= 2 * (QUANTA + 1) * QUANTUM


# -- flushes and durability -------------------------------------------------------------------------------------------


def test_flushes_share_their_threads_and_none_takes_it_from_another(stores: list[GatedStore]) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:
            store, before = stores[-1], threading.active_count()
            await log.try_append([(b"k", b"")])
            store.shut()
            try:
                tasks = [asyncio.ensure_future(log.flush()) for _ in range(1000)]
                await held(store)
                assert threading.active_count() <= before + 16
                for task in tasks[::3]:
                    task.cancel()
            finally:
                store.open()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends[::3]] == [asyncio.CancelledError] * len(ends[::3])
            assert {end for end in ends if not isinstance(end, asyncio.CancelledError)} == {None}
            assert log.durable_sequence == 1

    asyncio.run(main())


def test_a_flush_covers_what_was_appended_before_it(stores: list[GatedStore]) -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage=URL, engine=tiny()) as log:

            async def one(number: int) -> None:
                for _ in range(20):
                    output = await log.try_append([(b"%d" % number, b"x")])
                    await log.flush()
                    assert log.durable_sequence > output.start_sequence

            await asyncio.gather(*map(one, range(20)))

    asyncio.run(main())


def test_a_thousand_tasks_wait_for_durability_in_no_thread() -> None:
    async def main() -> None:
        async with await aio.LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=1 << 20)) as log:
            await log.try_append([(b"k", b"")] * 1000)
            before = threading.active_count()
            watch = log.subscribe_durable()
            waits = [asyncio.ensure_future(watch.wait(number)) for number in range(1001)]
            seen: list[int] = []

            async def watching() -> None:
                async for value in log.subscribe_durable():
                    seen.append(value)

            watching_task = asyncio.ensure_future(watching())
            await passes()
            assert threading.active_count() == before
            assert not any(wait.done() for wait in waits)
            with pytest.raises(TimeoutError, match="did not pass 5 within"):
                await watch.wait(5, 0.01)
            await log.flush()
            assert await asyncio.gather(*waits[:1000]) == [1000] * 1000
            assert not waits[1000].done()
        await watching_task
        assert seen == [1000]
        with pytest.raises(ClosedError):
            await waits[1000]

    asyncio.run(main())


# -- the handle -------------------------------------------------------------------------------------------------------


def test_a_close_that_is_cancelled_goes_on(stores: list[GatedStore]) -> None:
    async def main() -> None:
        log = await aio.LogDb.open(storage=URL, engine=tiny())
        await log.try_append([(b"k", b"v")])
        stores[-1].shut()
        task = asyncio.ensure_future(log.close())
        await held(stores[-1])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stores[-1].open()
        await log.close()
        with pytest.raises(ClosedError):
            await log.flush()

    asyncio.run(main())
    with LogDb.open(storage=URL, engine=tiny()) as log:
        assert [entry.value for entry in log.scan(b"k")] == [b"v"]


def test_one_log_serves_loops_in_several_threads_and_its_blocking_face() -> None:
    with LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=1 << 20)) as blocking:
        log = aio.LogDb.wrap(blocking)
        failures: list[BaseException] = []
        turns = 60

        async def main(number: int) -> None:
            async def follow() -> list[int]:
                follower = log.follow(b"%d" % ((number + 1) % 3))
                return [int((await anext(follower)).value) for _ in range(turns)]

            following = asyncio.ensure_future(follow())
            for turn in range(turns):
                await log.try_append([(b"%d" % number, b"%d" % turn)])
                if turn % 10 == 0:
                    await log.flush()
            assert await following == list(range(turns))

        def run(number: int) -> None:
            try:
                asyncio.run(asyncio.wait_for(main(number), LONG))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert [blocking.count(b"%d" % number) for number in range(3)] == [turns] * 3
        asyncio.run(log.close())
        with pytest.raises(ClosedError):
            blocking.flush()


def test_a_failure_of_the_store_reaches_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.opendata_log.test_outage import ShakyFileSystem

    fs = ShakyFileSystem()

    async def main() -> None:
        builder = aio.LogDbBuilder(storage="memory://shaky-aio", engine=tiny(op_timeout=0.2)).with_object_store(fs)
        log = await builder.build()
        await log.try_append([(b"k", b"v")])
        fs.is_down = True
        failed = await asyncio.gather(*[log.flush() for _ in range(5)], return_exceptions=True)
        assert [type(one) for one in failed] == [StorageError] * 5
        fs.is_down = False
        await log.flush()
        await log.close()

    asyncio.run(main())
    fs.store.clear()


def test_what_wrap_takes() -> None:
    with pytest.raises(ValueError, match=r"wrap takes an opendata_log[.]LogDb, got LogDbBuilder"):
        aio.LogDb.wrap(LogDbBuilder())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"wrap takes an opendata_log[.]LogDbReader, got int"):
        aio.LogDbReader.wrap(3)  # type: ignore[arg-type]
