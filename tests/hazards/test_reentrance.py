"""Calls out of the middle of a call of the same thread, at chosen places. `test_endings.py` takes random ones."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import lsm
from lsm.concurrency.locks import LONG, SHORT, WRITE, Locks
from lsm.object_store import MemoryStore
from lsm.runtime import Runtime
from opendata_log import Config, LogDb, LogDbBuilder, ReentrantError
from opendata_log.model.errors import AppendReentrantError
from opendata_log.read.follow import Signal
from tests.opendata_log.support import tiny, values


class Interrupted(MemoryStore):
    """Calls `interrupt` in the middle of a write, in the thread that makes it, as a signal handler or a finalizer would."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt: Callable[[], None] | None = None
        self.thread = ""

    def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            self.thread = threading.current_thread().name
            interrupt()
        super().put_if_absent(name, parts, timeout=timeout)


def opened(store: MemoryStore, **engine: Any) -> LogDb:
    return LogDbBuilder(Config(storage="memory://", engine=tiny(**engine))).with_object_store(store).build()


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except ReentrantError:
        return "refused"
    return "done"


def test_in_the_middle_of_a_flush_appends_and_reads_work_and_what_waits_for_it_is_refused() -> None:
    store = Interrupted()
    log = opened(store)
    told: dict[str, str] = {}

    def interrupt() -> None:
        told["append"] = outcome(lambda: log.try_append([(b"k", b"1")]))
        told["read"] = outcome(lambda: values(log, b"k"))
        told["flush"] = outcome(log.flush)
        told["close"] = outcome(log.close)
        told["checkpoint"] = outcome(log.create_checkpoint)
        told["wait"] = outcome(lambda: log.subscribe_durable().wait(1 << 40))

    log.try_append([(b"k", b"0")])
    store.interrupt = interrupt
    log.flush()

    assert told == dict.fromkeys(("append", "read"), "done") | dict.fromkeys(
        ("flush", "close", "checkpoint", "wait"), "refused"
    )
    log.try_append([(b"k", b"2")])
    log.close()
    with opened(store) as log:
        assert values(log, b"k") == [b"0", b"1", b"2"]


@pytest.mark.parametrize("interval", [0.001, None])
def test_a_finalizer_in_a_thread_of_the_log_cannot_close_it_and_its_owner_can(interval: float | None) -> None:
    store = Interrupted()
    log = opened(store, flush_interval=interval, l0_sst_size_bytes=1024)
    told: list[str] = []
    done = threading.Event()

    def interrupt() -> None:
        told.append(outcome(log.close))
        done.set()

    for at in range(200):
        log.try_append([(b"k", b"%d" % at)])
        if at == 100:
            store.interrupt = interrupt
    assert done.wait(30)

    assert told == ["refused"]
    assert store.thread
    log.close()
    with opened(store) as log:
        assert len(values(log, b"k")) == 200


def test_under_a_lock_of_its_own_thread_an_append_is_refused_whole() -> None:
    log = opened(MemoryStore())
    log.try_append([(b"k", b"0")])
    rows = next(iter(log._db._engine.writer._active.series.values()))
    for lock in (log._writer._lock, log._db._engine.lock, log._db._engine.views.lock, rows.lock):
        with lock, pytest.raises(AppendReentrantError) as refused:
            log.try_append([(b"k", b"lost")])
        assert refused.value.records == [(b"k", b"lost")]
        assert not refused.value.retryable
        assert lock.is_held_here() is False
        log.try_append([(b"k", b"next")])
    assert [entry.sequence for entry in log.scan(b"k")] == [0, 1, 2, 3, 4]
    log.close()


def test_under_a_lock_of_its_own_thread_nothing_waits_for_another_thread() -> None:
    log = opened(MemoryStore())
    log.try_append([(b"k", b"0")])
    with log._db._engine.tables._meta._lock, pytest.raises(ReentrantError):
        log.flush()
    with log._db._engine.manifests._lock, pytest.raises(ReentrantError):
        log.close()
    assert values(log, b"k") == [b"0"]
    log.close()


def test_followers_are_told_by_an_append_that_interrupts_the_wakeups_themselves() -> None:
    log = opened(MemoryStore())
    follower = log.follow(b"k", timeout=5)
    with log.source.wakeups._lock:
        log.try_append([(b"k", b"0")])
        assert follower._signal.is_set
        follower.close()
    log.close()


def test_a_signal_that_comes_before_the_sleep_ends_it() -> None:
    signal = Signal(Runtime())
    for _ in range(3):
        signal.wake()
        signal.wake()
        signal.wait(None)
        assert not signal.is_set


# -- locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_refuses_its_holder_and_nobody_else() -> None:
    runtime = Runtime()
    lock = runtime.lock()
    changed = runtime.condition(lock)
    with lock:
        for again in (lock, changed):
            with pytest.raises(lsm.ReentrantError), again:
                pass
        assert lock.is_held_here()
        other: list[bool] = []
        thread = threading.Thread(target=lambda: other.append(lock.is_held_here() or lock.acquire(blocking=False)))
        thread.start()
        thread.join()
        assert other == [False]
    assert not lock.is_held_here()
    with changed:
        assert not changed.wait(0.001)
        assert lock.is_held_here()
    assert not lock.is_held_here()


@pytest.mark.parametrize(
    ("held", "wanted", "is_refused"),
    [(LONG, LONG, False), (LONG, WRITE, False), (WRITE, LONG, True), (SHORT, WRITE, True)],
)
def test_a_thread_waits_for_locks_in_their_order_only(held: int, wanted: int, is_refused: bool) -> None:
    locks = Locks()
    mine, others = locks.lock(held), locks.lock(wanted)
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with others:
            is_held.set()
            may_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait(30)
    with mine:
        if is_refused:
            with pytest.raises(lsm.ReentrantError), others:
                pass
            may_go.set()
        else:
            threading.Timer(0.01, may_go.set).start()
            with others:
                assert others.is_held_here()
    thread.join()


def test_threads_that_were_started_leave_the_collector_as_it_was() -> None:
    runtime = Runtime()
    for is_enabled in (True, False):
        (gc.enable if is_enabled else gc.disable)()
        try:
            for task in [runtime.spawn("lsm-test", lambda: None) for _ in range(5)]:
                task.join()
            assert gc.isenabled() is is_enabled
        finally:
            gc.enable()
