"""The durable watermark, waiting for it, and the end of a log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import lsm
from opendata_log import AppendError, ClosedError, InvalidInputError, LogDb, ScanOptions, ShutdownError
from tests.opendata_log.support import tiny, values

BY_HAND = tiny()


def test_flush_everything_before_it_is_durable() -> None:
    with LogDb.open(storage="memory://", engine=BY_HAND) as log:
        log.try_append([(b"k", b"v")] * 3)
        assert log.durable_sequence == 0

        log.flush()
        assert log.durable_sequence == 3
        log.flush()

        log.try_append([(b"k", b"v")])
        assert log.durable_sequence == 3


def test_the_watermark_advances_by_itself() -> None:
    with LogDb.open(storage="memory://") as log:
        log.try_append([(b"k", b"v")] * 3)

        assert log.subscribe_durable().wait(2, timeout=30) == 3
        assert log.durable_sequence == 3


def test_after_a_reopen_everything_is_durable() -> None:
    for turn in range(2):
        with LogDb.open(storage="memory://durable-reopen", engine=BY_HAND) as log:
            assert log.durable_sequence == turn
            log.try_append([(b"k", b"v")])


def test_waiting_it_returns_once_the_watermark_is_beyond() -> None:
    with LogDb.open(storage="memory://", engine=BY_HAND) as log:
        watch = log.subscribe_durable()
        assert watch.value == 0
        seen: list[int] = []
        waiter = threading.Thread(target=lambda: seen.append(watch.wait(4, timeout=30)))
        waiter.start()

        log.try_append([(b"k", b"v")] * 3)
        log.flush()
        log.try_append([(b"k", b"v")] * 3)
        log.flush()
        waiter.join()

        assert seen == [6]
        assert watch.value == 6
        assert watch.wait(5) == watch.wait(-1) == 6


@pytest.mark.parametrize("timeout", [0, 0.01, timedelta(milliseconds=10)])
def test_waiting_in_vain_it_times_out(timeout: Any) -> None:
    with LogDb.open(storage="memory://", engine=BY_HAND) as log, pytest.raises(TimeoutError, match="did not pass 0"):
        log.subscribe_durable().wait(0, timeout)


@pytest.mark.parametrize(
    ("beyond", "timeout"), [("1", None), (None, 1), (1.5, 1), (0, "1"), (0, -1), (0, float("nan"))]
)
def test_waiting_for_what_is_none_it_refuses(beyond: Any, timeout: Any) -> None:
    with LogDb.open(storage="memory://", engine=BY_HAND) as log, pytest.raises(InvalidInputError):
        log.subscribe_durable().wait(beyond, timeout)


def test_waiting_while_the_log_is_closed_it_sees_the_last_advance_and_then_the_end() -> None:
    log = LogDb.open(storage="memory://", engine=BY_HAND)
    log.try_append([(b"k", b"v")] * 3)
    watch, seen, ended = log.subscribe_durable(), [], []

    def wait(beyond: int) -> None:
        try:
            seen.append(watch.wait(beyond))
        except ClosedError as error:
            ended.append(error)

    waiters = [threading.Thread(target=wait, args=(beyond,)) for beyond in (0, 2, 3, 100)]
    for waiter in waiters:
        waiter.start()
    log.close()
    for waiter in waiters:
        waiter.join(30)

    assert seen == [3, 3]
    assert len(ended) == 2


def test_iterating_it_yields_advances_and_ends_at_close() -> None:
    log = LogDb.open(storage="memory://", engine=BY_HAND)
    seen: list[int] = []
    watch = log.subscribe_durable()
    reader = threading.Thread(target=lambda: seen.extend(watch))
    reader.start()

    for _ in range(5):
        log.try_append([(b"k", b"v")])
        log.flush()
    log.try_append([(b"k", b"v")])
    log.close()
    reader.join(30)

    assert not reader.is_alive()
    assert seen == sorted(set(seen))
    assert seen[-1] == 6


def test_flushes_of_many_threads_each_covers_its_own_append() -> None:
    with LogDb.open(storage="memory://") as log:
        short: list[int] = []

        def work() -> None:
            for _ in range(50):
                mine = log.try_append([(b"k", b"v")]).start_sequence
                log.flush()
                if log.durable_sequence <= mine:
                    short.append(mine)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert short == []
        assert log.count(b"k") == 200


# -- the end ----------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[LogDb], Any]] = {
    "flush": lambda log: log.flush(),
    "subscribe_durable": lambda log: log.subscribe_durable(),
    "seal_segment": lambda log: log.seal_segment(),
    "scan": lambda log: log.scan(b"k"),
    "scan with options": lambda log: log.scan(b"k", 1, 2, options=ScanOptions(limit=1)),
    "scan from the end": lambda log: log.scan(b"k", last=1),
    "sequence_at": lambda log: log.sequence_at(0),
    "count": lambda log: log.count(b"k"),
    "list_keys": lambda log: log.list_keys(),
    "list_segments": lambda log: log.list_segments(),
    "wait_idle": lambda log: log.wait_idle(),
    "collect_garbage": lambda log: log.collect_garbage(),
    "try_append nothing": lambda log: log.try_append([]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_log_every_call_says_so(call: str) -> None:
    log = LogDb.open(storage="memory://")
    log.close()

    with pytest.raises(ClosedError, match="closed"):
        CALLS[call](log)


def test_appending_to_a_closed_log_it_raises_what_is_both_append_and_closed_error() -> None:
    log = LogDb.open(storage="memory://")
    log.close()

    for append in (lambda: log.try_append([(b"k", b"v")]), lambda: log.append_timeout([(b"k", b"v")], 1)):
        with pytest.raises(ShutdownError, match="closed") as refused:
            append()
        assert isinstance(refused.value, AppendError)
        assert isinstance(refused.value, ClosedError)


def test_closing_flushes_it_is_idempotent() -> None:
    log = LogDb.open(storage="memory://close", engine=BY_HAND)
    with log:
        log.try_append([(b"k", b"v")])

    log.close()
    log.close()

    assert repr(log) == "<LogDb memory://close, closed>"
    with LogDb.open(storage="memory://close") as again:
        assert values(again, b"k") == [b"v"]


def test_a_scan_begun_before_the_close_it_ends_with_an_error_and_never_short() -> None:
    log = LogDb.open(storage="memory://", engine=BY_HAND)
    log.try_append([(b"k", b"v")] * 100)
    entries, keys = log.scan(b"k"), log.list_keys()
    log.close()

    for read in (entries.fetchall, entries.fetchall, keys.fetchall, keys.fetchall):
        with pytest.raises(ClosedError):
            read()
    with pytest.raises(ClosedError):
        list(entries)


def test_an_error_inside_the_context_it_comes_through_and_the_log_is_closed() -> None:
    with pytest.raises(LookupError), LogDb.open(storage="memory://") as log:
        raise LookupError

    with pytest.raises(ClosedError):
        log.flush()


def test_a_writer_waiting_for_space_when_the_log_is_closed_it_is_told() -> None:
    engine = tiny(l0_sst_size_bytes=1000, max_unflushed_bytes=1000, l0_max_ssts=1, compaction_enabled=False)
    log = LogDb.open(storage="memory://", engine=engine)
    told: list[Exception] = []

    def fill() -> None:
        try:
            while True:
                log.append_timeout([(b"k", b"x" * 600)], None)
        except ClosedError as error:
            told.append(error)

    writer = threading.Thread(target=fill)
    writer.start()
    log.subscribe_durable().wait(1, timeout=30)
    log.close()
    writer.join(30)

    assert len(told) == 1
    assert isinstance(told[0], ShutdownError)


def test_threads_of_the_engine_they_end_with_the_log() -> None:
    before = {thread for thread in threading.enumerate() if thread.name.startswith("lsm-")}
    log = LogDb.open(storage="memory://", engine=lsm.Settings(gc_interval=1000.0))
    log.try_append([(b"k", b"v")])

    log.close()

    after = {thread for thread in threading.enumerate() if thread.name.startswith("lsm-")}
    assert after <= before
