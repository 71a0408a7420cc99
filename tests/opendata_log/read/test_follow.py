"""Following: entries that are there, entries that come, when it wakes, when it ends, and where it goes on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

import lsm
from opendata_log import (
    FencedError,
    InvalidInputError,
    LogDb,
    LogEntry,
    ReadVisibility,
    StorageError,
)
from opendata_log.read.scan import LogIterator
from opendata_log.waiting.wakeups import DurableWakeups, Wakeups
from tests.opendata_log.following import LONG, Listener, append
from tests.opendata_log.support import tiny


@pytest.fixture
def log() -> Iterator[LogDb]:
    with LogDb.open(storage="memory://", engine=tiny()) as log:
        yield log


# -- one key ----------------------------------------------------------------------------------------------------------


def test_what_is_there_comes_first_and_then_what_is_appended(log: LogDb) -> None:
    append(log, (b"a", b"0"), (b"b", b"1"))
    listener = Listener(log.follow(b"a"))
    assert listener.wait_for(1) == [b"0"]

    append(log, (b"b", b"2"))
    append(log, (b"a", b"3"), (b"a", b"4"))

    assert listener.wait_for(3) == [b"0", b"3", b"4"]
    assert [entry.sequence for entry in listener.entries] == [0, 3, 4]
    log.close()
    assert listener.ended()
    assert listener.error is None


def test_it_starts_where_it_is_told(log: LogDb) -> None:
    for number in range(10):
        append(log, (b"a", b"%d" % number))

    assert [entry.sequence for entry in log.follow(b"a", 7, timeout=0)] == [7, 8, 9]
    assert list(log.follow(b"a", 10, timeout=0)) == []
    assert list(log.follow(b"unknown", timeout=0)) == []


def test_it_follows_across_seals_and_flushes() -> None:
    with LogDb.open(storage="memory://", engine=tiny(l0_sst_size_bytes=256)) as log:
        listener = Listener(log.follow(b"a"))
        for number in range(60):
            append(log, (b"a", b"%d" % number), (b"b", b"x" * 20))
            if number % 20 == 10:
                log.seal_segment()

        assert listener.wait_for(60) == [b"%d" % number for number in range(60)]


def test_a_quiet_log_ends_it_after_the_timeout(log: LogDb) -> None:
    append(log, (b"a", b"0"))
    follower = log.follow(b"a", timeout=0.02)

    assert len(list(follower)) == 1
    append(log, (b"a", b"1"))
    assert [entry.value for entry in follower] == [b"1"], "it goes on where it ended"
    assert follower.next_sequence == 2


def test_news_of_other_keys_does_not_put_the_end_off() -> None:
    """The timeout counts from the last entry of the key, whatever wakes the follower."""
    waits: list[float | None] = []

    class Clock(lsm.Runtime):
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    with LogDb.open(storage="memory://", engine=tiny()) as log:
        follower = log.follow(b"a", timeout=5.0)
        follower._runtime = Clock()

        class Never:
            def wait(self, timeout: float | None) -> None:
                waits.append(timeout)
                append(log, (b"b", b""))

        follower._signal = Never()  # type: ignore[assignment]
        assert list(follower) == []
    assert waits == [5.0, 4.0, 3.0, 2.0, 1.0]


def test_closing_the_follower_ends_the_thread_that_waits_in_it(log: LogDb) -> None:
    follower = log.follow(b"a")
    listener = Listener(follower)
    append(log, (b"a", b"0"))
    listener.wait_for(1)

    follower.close()
    follower.close()

    assert listener.ended()
    assert follower.next_sequence == 1
    assert list(follower) == []
    assert not log.source.wakeups.is_followed


def test_a_loop_that_breaks_can_go_on(log: LogDb) -> None:
    append(log, *[(b"a", b"%d" % number) for number in range(10)])
    follower = log.follow(b"a", timeout=0)

    for entry in follower:
        if entry.sequence == 3:
            break
    assert follower.next_sequence == 4
    assert next(follower).sequence == 4
    assert [entry.sequence for entry in follower.fetchmany(2)] == [5, 6]
    assert follower.next_sequence == 7
    assert [entry.sequence for entry in follower] == [7, 8, 9]
    with pytest.raises(StopIteration):
        next(follower)


def test_fetchmany_takes_what_is_there_and_waits_only_for_the_first(log: LogDb) -> None:
    append(log, (b"a", b"0"), (b"a", b"1"))
    with log.follow(b"a", timeout=0) as follower:
        assert follower.fetchmany(0) == []
        assert len(follower.fetchmany(100)) == 2
        assert follower.fetchmany(100) == []
        append(log, (b"a", b"2"))
        assert [entry.value for entry in follower.fetchmany(100)] == [b"2"]
        with pytest.raises(InvalidInputError):
            follower.fetchmany(-1)


def test_an_interrupt_while_it_waits_loses_nothing(log: LogDb) -> None:
    follower = log.follow(b"a")
    signal, waits = follower._signal, 0

    class Interrupted:
        def wait(self, timeout: float | None) -> None:
            nonlocal waits
            waits += 1
            append(log, (b"a", b"%d" % waits))
            if waits == 2:
                raise KeyboardInterrupt

    follower._signal = Interrupted()  # type: ignore[assignment]
    assert next(follower).value == b"1"
    with pytest.raises(KeyboardInterrupt):
        next(follower)
    follower._signal = signal
    assert next(follower).value == b"2"


def test_what_becomes_visible_between_the_read_and_the_sleep_wakes_it(log: LogDb) -> None:
    follower = log.follow(b"a")
    wait = follower._signal.wait
    calls = 0

    class Late:
        """The append comes when the follower has found nothing and is about to sleep."""

        def wait(self, timeout: float | None) -> None:
            nonlocal calls
            calls += 1
            append(log, (b"a", b"late"))
            wait(LONG)

    follower._signal = Late()  # type: ignore[assignment]
    assert next(follower).value == b"late"
    assert calls == 1


def test_the_next_sequence_of_a_waiting_follower_is_the_frontier(log: LogDb) -> None:
    append(log, (b"a", b"0"), *[(b"b", b"")] * 9)
    follower = log.follow(b"a", timeout=0)

    assert len(list(follower)) == 1
    assert follower.next_sequence == 10


# -- durability -------------------------------------------------------------------------------------------------------


def test_under_remote_it_yields_what_is_durable_and_is_woken_by_that() -> None:
    engine = tiny(flush_interval=None)
    with LogDb.open(storage="memory://", engine=engine, read_visibility=ReadVisibility.REMOTE) as log:
        append(log, (b"a", b"before"))
        listener = Listener(log.follow(b"a"))
        append(log, (b"a", b"after"))
        assert list(log.follow(b"a", timeout=0)) == []

        log.flush()

        assert listener.wait_for(2) == [b"before", b"after"]


def test_what_was_appended_before_anybody_followed_wakes_them_when_it_is_durable() -> None:
    engine = tiny(flush_interval=None)
    with LogDb.open(storage="memory://", engine=engine, read_visibility=ReadVisibility.REMOTE) as log:
        append(log, (b"a", b"0"))
        follower = log.follow(b"a")
        wait = follower._signal.wait

        class Flushing:
            def wait(self, timeout: float | None) -> None:
                log.flush()
                wait(LONG)

        follower._signal = Flushing()  # type: ignore[assignment]
        assert next(follower).value == b"0"


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_follower_of_a_fenced_writer_is_told(tmp_path: Any) -> None:
    first = LogDb.open(storage=str(tmp_path), engine=tiny())
    append(first, (b"b", b""))
    first.flush()
    listener = Listener(first.follow(b"a"))
    with LogDb.open(storage=str(tmp_path), engine=tiny()):
        append(first, (b"b", b""))
        with pytest.raises(FencedError):
            first.flush()

        assert listener.ended()
        assert isinstance(listener.error, FencedError)
        with pytest.raises(FencedError):
            next(first.follow(b"a"))
        with pytest.raises(FencedError):
            first.close()


def test_an_error_of_a_read_can_be_got_over(log: LogDb) -> None:
    append(log, (b"a", b"0"), (b"a", b"1"))
    follower = log.follow(b"a", timeout=0)
    assert next(follower).value == b"0"
    read, failures = follower._state._read, [StorageError("down")]

    def failing(reads: Any, cursor: int) -> Any:
        if failures:
            raise failures.pop()
        return read(reads, cursor)

    follower._state._read = failing
    assert next(follower).value == b"1"
    with pytest.raises(StorageError):
        next(follower)
    append(log, (b"a", b"2"))
    assert [entry.value for entry in follower] == [b"2"]


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_followers_of_other_keys_are_left_alone() -> None:
    runtime, woken = lsm.Runtime(), []

    class Sleeper:
        def __init__(self, name: str) -> None:
            self.name = name

        def wake(self) -> None:
            woken.append(self.name)

    wakeups = Wakeups(runtime)
    a, b, everything = Sleeper("a"), Sleeper("b"), Sleeper("*")
    wakeups.add([b"a"], a)
    wakeups.add([b"b"], b)
    wakeups.tell([b"a", b"c"] * 3)
    assert woken == ["a"]
    wakeups.add(None, everything)
    wakeups.tell([b"c"])
    assert woken == ["a", "*"]
    wakeups.remove(None, everything)
    wakeups.tell([b"c"])
    wakeups.tell_all()
    assert sorted(woken) == ["*", "a", "a", "b"]
    wakeups.remove([b"a"], a)
    wakeups.remove([b"a"], a)
    assert wakeups.is_followed
    wakeups.remove([b"b"], b)
    assert not wakeups.is_followed


def test_followers_that_nobody_holds_are_forgotten(log: LogDb) -> None:
    follower = log.follow(b"a")
    next(iter([follower]))
    assert log.source.wakeups.is_followed

    del follower
    gc.collect()
    append(log, (b"a", b""))

    assert not log.source.wakeups.is_followed


def test_many_followers_that_left_without_a_word_do_not_pile_up(log: LogDb) -> None:
    for number in range(5000):
        log.follow(b"%d" % number)

    assert len(log.source.wakeups._by_key) < 2500


def test_a_durable_batch_wakes_only_those_it_concerns() -> None:
    engine = tiny(flush_interval=None)
    with LogDb.open(storage="memory://", engine=engine, read_visibility=ReadVisibility.REMOTE) as log:
        wakeups = log.source.wakeups
        assert isinstance(wakeups, DurableWakeups)
        followers = {key: log.follow(key) for key in (b"a", b"b")}
        append(log, (b"a", b""))
        assert not followers[b"a"]._signal.is_set

        log.flush()

        assert followers[b"a"]._signal.is_set
        assert not followers[b"b"]._signal.is_set


def cut_off(entries: list[LogEntry]) -> Iterator[list[LogEntry]]:
    """The blocks of a scan that fails after the first."""
    yield entries
    raise lsm.UnavailableError("down")


def test_what_an_error_kept_from_the_caller_is_read_again(log: LogDb) -> None:
    append(log, (b"a", b"0"), (b"a", b"1"), (b"a", b"2"))
    follower = log.follow(b"a", timeout=0.0)
    assert next(follower).sequence == 0
    entries = [LogEntry(b"a", sequence, b"%d" % sequence) for sequence in (1, 2)]
    read = follower._state._read
    follower._state.go_back(1)
    follower._state._read = lambda reads, cursor: LogIterator(cut_off(entries), start=cursor, frontier=3)

    with pytest.raises(StorageError):
        follower.fetchmany(10)
    assert follower.next_sequence == 1

    follower._state._read = read
    assert [entry.sequence for entry in follower.fetchmany(10)] == [1, 2]


def test_a_scan_goes_on_before_what_an_error_kept_from_the_caller() -> None:
    scan = LogIterator(cut_off([LogEntry(b"a", sequence, b"") for sequence in range(4)]), start=0, frontier=9)
    assert next(scan).sequence == 0

    for _ in range(2):
        with pytest.raises(StorageError):
            scan.fetchall()
        assert scan.next_sequence == 1
