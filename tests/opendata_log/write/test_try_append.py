"""`try_append` with a store that has stopped answering: it returns or raises, and no request is made on its thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lsm.object_store import MemoryStore
from opendata_log import (
    AppendTimeoutError,
    Config,
    LogDb,
    LogDbBuilder,
    QueueFullError,
    RetentionConfig,
    SegmentConfig,
)
from opendata_log import aio as aio_log
from opendata_log.write.sequence import BLOCK_MIN
from tests.doubles import GatedStore
from tests.opendata_log.support import ManualClock, tiny

BLOCK = 64


@pytest.fixture
def store() -> Iterator[GatedStore]:
    store = GatedStore(MemoryStore())
    yield store
    store.open()


def builder(
    store: GatedStore, block: int = BLOCK_MIN, clock: ManualClock | None = None, **changes: Any
) -> LogDbBuilder:
    values: dict[str, Any] = {"storage": "memory://", "engine": tiny(), **changes}
    made = LogDbBuilder(Config(**values)).with_object_store(store)
    made.sequence_block = block
    return made if clock is None else made.with_clock(clock)


def beside(store: GatedStore, work: Callable[[], Any]) -> Any:
    """The result of work on a thread of its own, which makes no request and ends although the store does not answer."""
    outcome: list[Any] = []

    def run() -> None:
        store.threads.discard(threading.get_ident())  # A thread that ended may have had the same number.
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for the store"
    assert thread.ident not in store.threads, "it made a request"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def append(log: LogDb, count: int = 1) -> Callable[[], int]:
    return lambda: log.try_append([(b"k", b"v")] * count).start_sequence


def test_the_first_append_of_a_new_log_makes_no_request(store: GatedStore) -> None:
    with builder(store).build() as log:
        store.shut()

        assert beside(store, append(log)) == 0

        store.open()


def test_the_first_append_after_a_reopen_makes_no_request(store: GatedStore) -> None:
    with builder(store).build() as log:
        log.try_append([(b"k", b"v")])
    with builder(store).build() as log:
        store.shut()

        assert beside(store, append(log)) == 1

        store.open()


def test_while_another_thread_flushes_seals_or_waits_for_sequences_it_appends(store: GatedStore) -> None:
    with builder(store, BLOCK).build() as log:
        log.try_append([(b"k", b"v")])
        store.shut()
        waiting = [
            threading.Thread(target=log.flush),
            threading.Thread(target=log.append_timeout, args=([(b"k", b"v")] * (BLOCK + 1), None)),
        ]
        for thread in waiting:
            thread.start()
        assert store.held.acquire(timeout=30)

        assert beside(store, append(log)) == 1
        assert beside(store, log.seal_segment) == 1
        assert beside(store, append(log)) == 2

        store.open()
        for thread in waiting:
            thread.join(30)
        assert log.count(b"k") == 3 + BLOCK + 1


def test_a_batch_that_outruns_the_block_it_is_refused_and_accepted_when_there_are_numbers(store: GatedStore) -> None:
    with builder(store, BLOCK).build() as log:
        store.shut()
        assert beside(store, append(log, BLOCK)) == 0

        with pytest.raises(QueueFullError) as full:
            beside(store, append(log))

        assert full.value.retryable
        assert full.value.records == [(b"k", b"v")]
        with pytest.raises(AppendTimeoutError):
            log.append_timeout([(b"k", b"v")], 0.01)
        store.open()
        assert log.append_timeout([(b"k", b"v")], 30).start_sequence == BLOCK
        assert log.count(b"k") == BLOCK + 1


def test_a_batch_larger_than_any_block_is_accepted_once_its_numbers_are_durable(store: GatedStore) -> None:
    with builder(store, BLOCK).build() as log:
        with pytest.raises(QueueFullError):
            log.try_append([(b"k", b"v")] * (5 * BLOCK))
        log.flush()

        assert append(log, 5 * BLOCK)() == 0


def test_numbers_come_by_themselves_although_nobody_flushes(store: GatedStore) -> None:
    with builder(store, BLOCK).build() as log:
        for at in range(20 * BLOCK):
            assert log.append_timeout([(b"k", b"v")], 30).start_sequence == at


def test_no_number_is_handed_out_before_its_block_is_durable(store: GatedStore) -> None:
    log = builder(store, BLOCK).build()
    store.shut()
    handed_out = 0
    with pytest.raises(QueueFullError):
        while True:
            handed_out = append(log)() + 1
    store.open()

    with builder(store, BLOCK).build() as again:  # As after a crash: nothing of the first handle became durable.
        assert handed_out <= append(again)() <= handed_out + BLOCK


@pytest.mark.parametrize(
    "segmentation", [SegmentConfig(seal_byte_limit=1), SegmentConfig(seal_interval=1.0)], ids=["bytes", "time"]
)
def test_a_new_segment_and_a_time_mark_make_no_request(store: GatedStore, segmentation: SegmentConfig) -> None:
    clock = ManualClock()
    with builder(store, clock=clock, segmentation=segmentation).build() as log:
        store.shut()
        for at in range(5):
            assert beside(store, append(log)) == at
            clock.advance(60)
        store.open()
        assert len(log.list_segments()) == 5


def test_with_no_space_left_it_is_refused_at_once_also_where_a_segment_is_due(store: GatedStore) -> None:
    engine = tiny(max_unflushed_bytes=4096, l0_sst_size_bytes=2048)
    clock = ManualClock()
    segmentation = SegmentConfig(seal_interval=1.0)
    with builder(store, clock=clock, engine=engine, segmentation=segmentation).build() as log:
        store.shut()
        with pytest.raises(QueueFullError, match="max_unflushed_bytes"):
            for _ in range(1000):
                beside(store, append(log, 10))
                clock.advance(2)
        assert beside(store, log.seal_segment) > 1
        store.open()


def test_while_retention_waits_for_the_store_it_appends(store: GatedStore) -> None:
    clock = ManualClock()
    changes = {
        "segmentation": SegmentConfig(seal_interval=10.0),
        "retention": RetentionConfig(retention=20.0, check_interval=86400.0),
    }
    with builder(store, clock=clock, **changes).build() as log:
        for at in range(10):
            assert append(log)() == at
            clock.advance(10)
        assert log._retention is not None
        log._retention.tick()
        store.shut()
        ticking = threading.Thread(target=log._retention.tick)
        ticking.start()
        assert store.held.acquire(timeout=30)

        assert beside(store, append(log)) == 10

        store.open()
        ticking.join(30)
        assert len(log.list_segments()) < 5


@pytest.mark.parametrize("count", [1, 5000])
def test_the_async_face_appends_while_the_store_does_not_answer(store: GatedStore, count: int) -> None:
    async def main() -> None:
        async with aio_log.LogDb.wrap(builder(store, BLOCK if count == 1 else BLOCK_MIN).build()) as log:
            await log.try_append([(b"k", b"v")] * 10)
            await log.flush()
            store.shut()
            store.threads.clear()
            # More than there are threads for reads.
            waiting = [asyncio.ensure_future(log.create_checkpoint()) for _ in range(4)]
            waiting += [
                asyncio.ensure_future(log.append_timeout([(b"k", b"v")] * (2 * BLOCK), None)) for _ in range(20)
            ]
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(30):
                    output = await log.try_append([(b"k", b"v")] * count)
            finally:
                store.open()
            assert output.start_sequence >= 10
            assert threading.get_ident() not in store.threads
            await asyncio.gather(*waiting)

    asyncio.run(main())
