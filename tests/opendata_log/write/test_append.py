"""Appending: what a batch may be made of, the sequences it gets, and what happens when there is no space."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest

import lsm
from opendata_log import (
    AppendError,
    AppendOutput,
    AppendTimeoutError,
    Config,
    InvalidInputError,
    LogDb,
    LogEntry,
    QueueFullError,
    Record,
)
from tests.opendata_log.support import tiny, values

FULL = tiny(l0_sst_size_bytes=1000, max_unflushed_bytes=2000, compaction_enabled=False)


@pytest.fixture
def log() -> Iterator[LogDb]:
    with LogDb.open(storage="memory://") as opened:
        yield opened


# -- what goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"k\x00\x01\xff", bytearray(b"k1"), memoryview(b"k2"), "schlüssel", "k", b"\x00", b"\xff"]
)
def test_keys_and_values_of_every_kind_it_gives_bytes_back(log: LogDb, content: Any) -> None:
    wanted = content.encode() if isinstance(content, str) else bytes(content)

    log.try_append([Record(content, content), (content, content)])

    assert list(log.scan(content)) == [LogEntry(wanted, 0, wanted), LogEntry(wanted, 1, wanted)]
    assert all(type(part) is bytes for entry in log.scan(content) for part in (entry.key, entry.value))
    assert log.count(content) == 2


@pytest.mark.parametrize(
    "way", [list, tuple, iter, lambda rows: (row for row in rows), dict, lambda rows: map(list, rows)]
)
def test_any_iterable_it_is_a_batch(log: LogDb, way: Any) -> None:
    rows = [(b"a", b"1"), (b"b", b"2")]

    batch = way(rows).items() if way is dict else way(rows)

    assert log.try_append(batch) == AppendOutput(0)
    assert values(log, b"a") + values(log, b"b") == [b"1", b"2"]


def test_mutable_content_it_is_copied(log: LogDb) -> None:
    key, value = bytearray(b"key"), bytearray(b"value")

    log.try_append([(key, value)])
    key[0] = value[0] = 0

    assert list(log.scan(b"key")) == [LogEntry(b"key", 0, b"value")]


def test_a_list_changed_after_the_append_it_does_not_matter(log: LogDb) -> None:
    batch = [Record(b"k", b"1")]

    log.try_append(batch)
    batch[0] = Record(b"k", b"2")
    batch.append(Record(b"k", b"3"))

    assert values(log, b"k") == [b"1"]


@pytest.mark.parametrize("way", [list, tuple, iter, lambda rows: (row for row in rows)])
def test_an_empty_batch_it_writes_nothing(log: LogDb, way: Any) -> None:
    log.try_append([(b"k", b"v")] * 3)

    assert log.try_append(way([])) == AppendOutput(0)
    assert log.append_timeout(way([]), 1) == AppendOutput(0)
    assert log.try_append([(b"k", b"v")]) == AppendOutput(3)
    assert len(log.list_segments()) == 1


def test_an_empty_batch_on_an_empty_log_it_begins_no_segment(log: LogDb) -> None:
    log.try_append([])

    assert log.list_segments() == []


def test_empty_values_and_the_longest_keys_they_are_kept(log: LogDb) -> None:
    longest = b"k" * 65_535

    log.try_append([(longest, b""), (b"k", b"")])
    log.flush()

    assert values(log, longest) == values(log, b"k") == [b""]


def test_an_iterable_that_raises_its_error_comes_through_and_nothing_is_written(log: LogDb) -> None:
    def rows() -> Iterator[tuple[bytes, bytes]]:
        yield b"k", b"v"
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        log.try_append(rows())

    assert log.count(b"k") == 0


# -- sequences --------------------------------------------------------------------------------------------------------


def test_batches_of_many_keys_they_get_one_run_of_sequences_each(log: LogDb) -> None:
    firsts = [log.try_append([(b"k%d" % (at % 3), b"%d" % at) for at in range(size)]) for size in (1, 5, 7)]

    assert [first.start_sequence for first in firsts] == [0, 1, 6]
    assert sorted(entry.sequence for name in (b"k0", b"k1", b"k2") for entry in log.scan(name)) == list(range(13))


def test_sequences_across_clean_closes_they_leave_no_gap() -> None:
    config = Config(storage="memory://append-gap", engine=tiny())

    for turn in range(5):
        with LogDb.open(config) as log:
            assert log.try_append([(b"k", b"v")] * 1000).start_sequence == 1000 * turn

    with LogDb.open(config) as log:
        assert [entry.sequence for entry in log.scan(b"k")] == list(range(5000))


def test_batches_larger_than_a_block_of_sequences_they_are_contiguous(log: LogDb) -> None:
    assert log.try_append([(b"k", b"")] * 10_000) == AppendOutput(0)
    assert log.try_append([(b"k", b"")] * 50_000) == AppendOutput(10_000)
    assert [entry.sequence for entry in log.scan(b"k")] == list(range(60_000))


def test_threads_that_append_at_once_each_batch_is_whole_and_in_order(log: LogDb) -> None:
    firsts: dict[int, list[int]] = {}

    def work(number: int) -> None:
        firsts[number] = [
            log.try_append([(b"t%d" % number, b"%d" % turn), (b"all", b"%d %d" % (number, turn))]).start_sequence
            for turn in range(100)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, found in firsts.items():
        assert [entry.sequence for entry in log.scan(b"t%d" % number)] == found == sorted(found)
        assert values(log, b"t%d" % number) == [b"%d" % turn for turn in range(100)]
    assert sorted(chain.from_iterable(firsts.values())) == list(range(0, 800, 2))
    assert [entry.sequence for entry in log.scan(b"all")] == list(range(1, 800, 2))


# -- no space ---------------------------------------------------------------------------------------------------------


def fill(log: LogDb, batch: list[Record], append: Any = None, *arguments: Any) -> QueueFullError:
    """Append until the log refuses. Each append waits for nothing."""
    for _ in range(100_000):
        try:
            (append or log.try_append)(batch, *arguments)
        except QueueFullError as error:
            return error
    raise AssertionError("the queue is never full")


def test_too_much_unflushed_it_refuses_with_the_batch_and_takes_it_later() -> None:
    batch = [Record(b"k", b"x" * 300), Record(b"j", b"y")]
    with LogDb.open(storage="memory://", engine=FULL) as log:
        refused = fill(log, batch)
        accepted = log.count(b"k")

        assert refused.records is batch
        assert refused.retryable
        assert isinstance(refused, AppendError)
        assert "max_unflushed_bytes is 2000" in str(refused)
        assert log.count(b"k") == log.count(b"j") == accepted

        first = log.append_timeout(refused.records, timedelta(seconds=30))

        assert first.start_sequence == 2 * accepted
        assert values(log, b"j") == [b"y"] * (accepted + 1)


def test_no_space_in_time_it_raises_with_the_batch() -> None:
    batch = [Record(b"k", b"x" * 3000)]
    with LogDb.open(storage="memory://", engine=FULL) as log:
        log.try_append(batch)

        with pytest.raises(AppendTimeoutError) as refused:
            fill(log, batch, log.append_timeout, 0)

        assert isinstance(refused.value, TimeoutError)
        assert refused.value.records is batch
        assert refused.value.retryable
        log.append_timeout(batch, None)


def test_a_generator_refused_for_space_its_items_are_kept() -> None:
    with LogDb.open(storage="memory://", engine=FULL) as log:
        fill(log, [Record(b"k", b"x" * 300)])

        refused = None
        while refused is None:
            try:
                log.try_append((b"g", b"%d" % at * 500) for at in range(3))
            except QueueFullError as error:
                refused = error

        assert refused.records == [(b"g", b"%d" % at * 500) for at in range(3)]
        before = log.count(b"g")
        log.append_timeout(refused.records, 30)
        assert log.count(b"g") == before + 3


def test_a_batch_beyond_the_limit_alone_it_is_accepted_once() -> None:
    with LogDb.open(storage="memory://", engine=FULL) as log:
        assert log.try_append([(b"k", b"x" * 100_000)]) == AppendOutput(0)
        assert log.append_timeout([(b"k", b"y")], 30) == AppendOutput(1)
        assert values(log, b"k") == [b"x" * 100_000, b"y"]


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan"), timedelta(seconds=-1)])
def test_a_timeout_that_is_none_it_is_refused(log: LogDb, timeout: Any) -> None:
    with pytest.raises(InvalidInputError, match="timeout must be None or at least 0 seconds"):
        log.append_timeout([(b"k", b"v")], timeout)

    assert log.count(b"k") == 0


@pytest.mark.parametrize("timeout", [0, 0.5, None, float("inf"), 1e300, timedelta(days=99999)])
def test_timeouts_of_every_kind_are_fine_it_appends(log: LogDb, timeout: Any) -> None:
    assert log.append_timeout([(b"k", b"v")], timeout) == AppendOutput(0)


def test_without_a_write_ahead_log_it_becomes_durable_with_its_table() -> None:
    with LogDb.open(storage="memory://", engine=lsm.Settings(wal_enabled=False)) as log:
        log.try_append([(b"k", b"v")])
        log.flush()

        assert log.durable_sequence == 1
