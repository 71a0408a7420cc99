"""Threads that die, many threads, and event loops around calls that are not aware of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from opendata_log import (
    Config,
    Error,
    InternalError,
    LogDb,
    LogDbBuilder,
    RetentionConfig,
    SegmentConfig,
)
from tests.doubles import WrappedStore
from tests.opendata_log.support import tiny, values

T = TypeVar("T")


class Death(BaseException):
    """An exception that no handler expects."""


class DeadlyStore(WrappedStore):
    """Kills one of the engine's threads at its next request."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.victim = ""

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if self.victim and threading.current_thread().name.startswith(self.victim):
            raise Death(f"in {self.victim}, {call} {name}")
        return request()


def wait_until(is_true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("victim", ["lsm-wal", "lsm-flush", "lsm-build", "lsm-compact", "lsm-merge", "lsm-gc"])
def test_the_death_of_any_background_thread_reaches_the_next_caller_and_whoever_waits(
    victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = DeadlyStore(MemoryStore())
    config = Config(
        storage="memory://",
        segmentation=SegmentConfig(seal_byte_limit=4000),
        engine=tiny(flush_interval=0.005, gc_interval=0.01, l0_sst_size_bytes=600),
    )
    log = LogDbBuilder(config).with_object_store(store).build()
    followed: list[Any] = []

    def follow() -> None:
        try:
            followed.extend(log.follow(b"nobody appends to this"))
        except Error as error:
            followed.append(error)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    log.try_append([(b"k", b"before")])
    log.flush()
    store.victim = victim

    def is_told() -> bool:
        try:
            log.try_append([(b"k", b"x" * 100)])
        except Error as error:
            assert isinstance(error, InternalError)
            assert victim in str(error)
            return True
        return False

    wait_until(is_told)
    wait_until(lambda: [record for record in caplog.records if record.msg == lsm.events.FAILED.text])
    for call in (log.flush, lambda: values(log, b"k"), log.seal_segment, lambda: log.append_timeout([(b"k", b"x")], 1)):
        with pytest.raises(InternalError, match=victim):
            call()
    with pytest.raises(InternalError, match=victim):
        log.close()
    log.close()
    follower.join(20)
    assert not follower.is_alive()
    (line,) = [record.getMessage() for record in caplog.records if record.msg == lsm.events.FAILED.text]
    assert "Death at " in line

    store.victim = ""
    with LogDbBuilder(config).with_object_store(store).build() as again:
        assert values(again, b"k")[0] == b"before"


def test_the_death_of_the_retention_thread_reaches_the_next_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    retention = RetentionConfig(retention=10.0, check_interval=0.01)
    with contextlib.suppress(InternalError):
        log = LogDb.open(
            storage="memory://", segmentation=SegmentConfig(seal_interval=1.0), retention=retention, engine=tiny()
        )
        assert log._retention is not None
        monkeypatch.setattr(log._retention, "tick", lambda: (_ for _ in ()).throw(Death("retention")))

        wait_until(lambda: log.status().close_reason is not None)
        with pytest.raises(InternalError, match="retention"):
            log.try_append([(b"k", b"v")])
        log.close()


def test_sixteen_threads_on_one_handle_it_keeps_order_batches_and_every_record() -> None:
    store = MemoryStore()
    config = Config(
        storage="memory://",
        segmentation=SegmentConfig(seal_byte_limit=20_000),
        engine=tiny(flush_interval=0.002, wal_uploads_max=4, gc_interval=0.01),
    )
    log = LogDbBuilder(config).with_object_store(store).build()
    batches: dict[int, int] = {}
    failures: list[BaseException] = []
    started = threading.Barrier(16)

    def work(mark: int) -> None:
        try:
            started.wait(30)
            last = -1
            for at in range(40):
                rows = [(b"own-%d" % mark, b"%d" % at), (b"all", b"%d-%d" % (mark, at)), (b"own-%d" % mark, b"again")]
                first = log.append_timeout(rows, 30).start_sequence
                assert first > last
                last = batches[first] = first
                if at % 8 == mark % 8:
                    log.flush()
                    assert log.durable_sequence > first
                if at % 10 == mark % 10:
                    assert len(values(log, b"own-%d" % mark)) == 2 * (at + 1) == log.count(b"own-%d" % mark)
                if not (at + mark) % 37:
                    log.seal_segment()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(mark,), daemon=True) for mark in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert len(batches) == 16 * 40
    log.close()

    with LogDbBuilder(config).with_object_store(store).build() as again:
        assert again.count(b"all") == 16 * 40
        assert [entry.sequence for entry in again.scan(b"all")] == sorted(first + 1 for first in batches)
        for mark in range(16):
            assert values(again, b"own-%d" % mark) == [word for at in range(40) for word in (b"%d" % at, b"again")]


@pytest.mark.parametrize("storage", ["memory://", "file"])
def test_calls_from_a_running_event_loop_they_work(storage: str, tmp_path: Any) -> None:
    url = str(tmp_path) if storage == "file" else storage

    async def use() -> list[bytes]:
        with LogDb.open(storage=url) as log:
            log.try_append([(b"k", b"1")])
            await asyncio.sleep(0)
            log.append_timeout([(b"k", b"2")], 5)
            log.flush()
            assert log.durable_sequence == 2
            found = [entry.value for entry in log.follow(b"k", timeout=0.01)]
            assert log.count(b"k") == 2
            return found + values(log, b"k")

    assert asyncio.run(use()) == [b"1", b"2"] * 2
