"""Reading: ranges, limits, where to resume, counts, keys and segments, in memory and from tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import pytest

import lsm
from opendata_log import (
    Config,
    CountOptions,
    InvalidInputError,
    LogDb,
    LogEntry,
    LogIterator,
    LogKey,
    LogRead,
    ReadVisibility,
    ScanOptions,
)
from tests.opendata_log.support import names, tiny, values

ODD = [
    b"\x00",
    b"\x00\x00",
    b"\x00\x01",
    b"\x01",
    b"a",
    b"a\x00",
    b"a\x00\xff",
    b"a\x01",
    b"ab",
    b"\xfe",
    b"\xff",
    b"\xff\xff",
]


@pytest.fixture(params=["memory", "tables"])
def log(request: pytest.FixtureRequest) -> Iterator[LogDb]:
    """Records 0, 2, 4, ... 18 are of `even`, the others of `odd`; 10 and later in a second segment."""
    config = Config(storage=f"memory://{request.node.name}", engine=tiny())
    log = LogDb.open(config)
    for number in range(20):
        log.try_append([(b"odd" if number % 2 else b"even", b"%d" % number)])
        if number == 9:
            log.seal_segment()
    if request.param == "tables":
        log.close()
        log = LogDb.open(config)
    with log:
        yield log


def sequences(log: LogDb, *arguments: Any, **options: Any) -> list[int]:
    return [entry.sequence for entry in log.scan(*arguments, **options)]


# -- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (0, None, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        (1, 9, [2, 4, 6, 8]),
        (2, 8, [2, 4, 6]),
        (8, 11, [8, 10]),
        (10, None, [10, 12, 14, 16, 18]),
        (18, 10**30, [18]),
        (19, None, []),
        (20, None, []),
        (10**30, None, []),
        (5, 5, []),
        (9, 3, []),
        (0, 0, []),
    ],
)
def test_ranges_are_half_open_it_finds_what_is_inside(
    log: LogDb, start: int, end: int | None, found: list[int]
) -> None:
    assert sequences(log, b"even", start, end) == found
    assert log.count(b"even", start, end) == len(found)


def test_a_key_nobody_wrote_it_is_empty(log: LogDb) -> None:
    assert list(log.scan(b"none")) == []
    assert log.count(b"none") == 0


@pytest.mark.parametrize("call", ["scan", "count"])
@pytest.mark.parametrize(
    "arguments", [(b"k", -1), (b"k", 0, -1), (b"k", 5, -1), (b"",), (b"k" * 65_536,), (1,), (b"k", 1.5)]
)
def test_bounds_and_keys_that_are_none_it_refuses(log: LogDb, call: str, arguments: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"must|empty") as refused:
        getattr(log, call)(*arguments)

    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("arguments", [(-1,), (0, -1), ("1",), (1.5,)])
def test_bounds_of_listings_that_are_none_it_refuses(log: LogDb, arguments: Any) -> None:
    with pytest.raises(InvalidInputError):
        log.list_keys(*arguments)
    with pytest.raises(InvalidInputError):
        log.list_segments(*arguments)


def test_options_of_the_wrong_kind_it_refuses(log: LogDb) -> None:
    with pytest.raises(InvalidInputError, match="options must be ScanOptions, got CountOptions"):
        log.scan(b"even", options=CountOptions())  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="options must be CountOptions, got dict"):
        log.count(b"even", options={"approximate": True})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="limit must be"):
        ScanOptions(limit=-1)


def test_a_log_it_implements_the_protocol_of_readers(log: LogDb) -> None:
    assert isinstance(log, LogRead)


# -- the iterator -----------------------------------------------------------------------------------------------------


def test_the_iterator_gives_entries_one_by_one_in_parts_or_all(log: LogDb) -> None:
    found = log.scan(b"even")

    assert next(found).sequence == 0
    assert [entry.sequence for entry in found.fetchmany(2)] == [2, 4]
    assert found.fetchmany(0) == []
    assert [entry.sequence for entry in found.fetchall()] == [6, 8, 10, 12, 14, 16, 18]
    assert found.fetchmany(5) == found.fetchall() == list(found) == []
    with pytest.raises(StopIteration):
        next(found)


WAYS: list[Callable[[LogIterator], list[LogEntry]]] = [
    lambda found: [next(found)],
    lambda found: found.fetchmany(1),
    lambda found: found.fetchmany(3),
    lambda found: list(islice(found, 2)),
]


@pytest.mark.parametrize("rest", [LogIterator.fetchall, list, lambda found: found.fetchmany(100)])
def test_ways_to_read_an_iterator_mix_and_none_skips_or_repeats(log: LogDb, rest: Any) -> None:
    for ways in product(WAYS, repeat=3):
        found = log.scan(b"even")
        seen: list[int] = []
        for way in ways:
            seen += [entry.sequence for entry in way(found)]
            assert found.next_sequence == seen[-1] + 1

        assert [*seen, *(entry.sequence for entry in rest(found))] == list(range(0, 20, 2))
        assert found.next_sequence == 20


def test_a_closed_iterator_it_yields_nothing_more(log: LogDb) -> None:
    with log.scan(b"even") as found:
        next(found)

    found.close()
    assert list(found) == found.fetchall() == found.fetchmany(3) == []
    assert found.next_sequence == 1


def test_closing_within_a_loop_it_ends_the_loop(log: LogDb) -> None:
    found = log.scan(b"even")
    seen = []

    for entry in found:
        seen.append(entry.sequence)
        if len(seen) == 2:
            found.close()

    assert seen == [0, 2]
    assert found.next_sequence == 3


@pytest.mark.parametrize("count", [-1, None, 1.5, True])
def test_fetching_a_number_that_is_none_it_is_refused(log: LogDb, count: Any) -> None:
    with pytest.raises(InvalidInputError, match="count of at least 0"):
        log.scan(b"even").fetchmany(count)
    with pytest.raises(InvalidInputError, match="count of at least 0"):
        log.list_keys().fetchmany(count)


def test_a_scan_shows_the_moment_of_its_call_it_ignores_later_appends(log: LogDb) -> None:
    found = log.scan(b"even")

    log.try_append([(b"even", b"later")])

    assert [entry.sequence for entry in found][-1] == 18
    assert found.next_sequence == 20
    assert sequences(log, b"even", found.next_sequence) == [20]


# -- next_sequence ----------------------------------------------------------------------------------------------------


def test_next_sequence_while_iterating_it_is_behind_the_last_yielded(log: LogDb) -> None:
    found = log.scan(b"even", 3)

    seen = [(found.next_sequence, entry.sequence) for entry in found]

    assert seen[:3] == [(5, 4), (7, 6), (9, 8)]
    assert log.scan(b"even", 3).next_sequence == 3


@pytest.mark.parametrize(
    ("start", "end", "next_sequence"),
    [
        (0, None, 20),
        (0, 9, 9),
        (0, 100, 20),
        (18, 19, 19),
        (7, 7, 7),
        (9, 3, 9),
        (30, None, 30),
        (30, 50, 30),
    ],
)
@pytest.mark.parametrize("key", [b"even", b"idle"])
@pytest.mark.parametrize("limit", [None, 100])
def test_next_sequence_after_a_drain_it_is_the_frontier_within_the_bounds(
    log: LogDb, key: bytes, start: int, end: int | None, limit: int | None, next_sequence: int
) -> None:
    found = log.scan(key, start, end, options=ScanOptions(limit=limit))
    found.fetchall()

    assert found.next_sequence == next_sequence


@pytest.mark.parametrize(("start", "limit", "next_sequence"), [(0, 3, 5), (0, 1, 1), (3, 2, 7), (0, 0, 0), (7, 0, 7)])
def test_next_sequence_cut_by_a_limit_it_is_behind_the_last_yielded(
    log: LogDb, start: int, limit: int, next_sequence: int
) -> None:
    found = log.scan(b"even", start, options=ScanOptions(limit=limit))

    assert len(found.fetchall()) == limit
    assert found.next_sequence == next_sequence


def test_next_sequence_chained_by_limits_it_omits_nothing_and_repeats_nothing(log: LogDb) -> None:
    at, seen = 0, []

    while True:
        found = log.scan(b"odd", at, options=ScanOptions(limit=3))
        part = [entry.sequence for entry in found]
        seen += part
        assert found.next_sequence >= at
        at = found.next_sequence
        if not part:
            break

    assert seen == list(range(1, 20, 2))
    assert at == 20


def test_next_sequence_of_an_empty_log_it_is_the_start() -> None:
    with LogDb.open(storage="memory://") as log:
        for start in (0, 5):
            found = log.scan(b"k", start)
            assert found.fetchall() == []
            assert found.next_sequence == start


# -- remote visibility ------------------------------------------------------------------------------------------------


def test_remote_reads_they_see_what_is_durable_and_nothing_else() -> None:
    visibility = ReadVisibility.REMOTE
    with LogDb.open(storage="memory://", read_visibility=visibility, engine=tiny()) as log:
        log.try_append([(b"k", b"1"), (b"j", b"2")])
        idle = log.scan(b"k")
        assert (idle.fetchall(), log.count(b"k"), names(log), log.list_segments()) == ([], 0, [], [])
        assert idle.next_sequence == 0

        log.flush()
        log.try_append([(b"k", b"3"), (b"new", b"4")])

        found = log.scan(b"k")
        assert [entry.value for entry in found] == [b"1"]
        assert found.next_sequence == 2
        assert values(log, b"new") == []
        assert (log.count(b"k"), log.count(b"new"), names(log)) == (1, 0, [b"j", b"k"])

        log.flush()
        assert values(log, b"k", found.next_sequence) == [b"3"]
        assert names(log) == [b"j", b"k", b"new"]


def test_remote_reads_they_never_show_part_of_a_batch() -> None:
    with LogDb.open(storage="memory://", read_visibility="remote", engine=tiny(flush_interval=0.001)) as log:
        for turn in range(200):
            log.try_append([(b"k", b"%d" % turn)] * 7)
            assert log.count(b"k") % 7 == 0
            assert len(log.scan(b"k").fetchall()) % 7 == 0


# -- counts and listings ----------------------------------------------------------------------------------------------


def test_counts_equal_scans_for_every_range(log: LogDb) -> None:
    for start in range(0, 22, 3):
        for end in (None, *range(0, 22, 4)):
            assert log.count(b"odd", start, end) == len(sequences(log, b"odd", start, end))


def test_approximate_counts_they_are_off_by_the_blocks_at_both_ends_at_most() -> None:
    config = Config(storage="memory://approximate", engine=tiny(l0_sst_size_bytes=1 << 20))
    with LogDb.open(config) as log:
        log.try_append([(b"k", b"x" * 10)] * 2000)
    with LogDb.open(config) as log:
        for start, end in ((0, None), (100, 1900), (990, 1010)):
            exact = log.count(b"k", start, end)
            roughly = log.count(b"k", start, end, options=CountOptions(approximate=True))

            assert abs(exact - roughly) <= 20


def test_keys_with_any_byte_they_are_listed_in_order_and_do_not_mix() -> None:
    config = Config(storage="memory://odd-keys", engine=tiny())
    with LogDb.open(config) as log:
        log.try_append([(key, key + b"!") for key in reversed(ODD)])
        log.try_append([(key, b"2") for key in ODD])
        in_memory = (names(log), [values(log, key) for key in ODD], [log.count(key) for key in ODD])
    with LogDb.open(config) as log:
        in_tables = (names(log), [values(log, key) for key in ODD], [log.count(key) for key in ODD])

    assert in_memory == in_tables == (sorted(ODD), [[key + b"!", b"2"] for key in ODD], [2] * len(ODD))


def test_list_keys_by_segments_they_are_distinct_and_in_order(log: LogDb) -> None:
    log.seal_segment()
    log.try_append([(b"alone", b"1"), (b"odd", b"2")])

    assert names(log) == [b"alone", b"even", b"odd"]
    assert names(log, 1, 2) == names(log, None, 3) == names(log, 0, 3) == names(log, 2, 3) == [b"even", b"odd"]
    assert names(log, 3) == names(log, 3, 4) == [b"alone", b"odd"]
    assert names(log, 4) == names(log, 2, 2) == names(log, 3, 1) == names(log, 0, 1) == []


def test_the_iterator_of_keys_works_like_that_of_entries(log: LogDb) -> None:
    with log.list_keys() as found:
        assert found.fetchmany(1) == [LogKey(b"even")]
        assert next(found) == LogKey(b"odd")
        assert found.fetchmany(3) == found.fetchall() == []
    closed = log.list_keys()
    closed.close()
    assert list(closed) == []


def test_list_segments_by_range_it_gives_those_that_overlap(log: LogDb) -> None:
    first, second = log.list_segments()

    assert (first.id, first.start_seq, second.id, second.start_seq) == (1, 0, 2, 10)
    assert log.list_segments(0, 10) == log.list_segments(9, 10) == [first]
    assert log.list_segments(9, 11) == [first, second]
    assert log.list_segments(10) == log.list_segments(19, 20) == [second]
    assert log.list_segments(5, 5) == log.list_segments(7, 3) == []


@pytest.mark.parametrize("each", [1, 2, 5, 30])
@pytest.mark.parametrize("budget", [0, 1 << 16])
def test_approximate_counts_of_keys_that_share_blocks_they_are_within_a_factor_of_two(each: int, budget: int) -> None:
    config = Config(
        storage="memory://",
        engine=tiny(l0_sst_size_bytes=1 << 20, max_sst_size=1 << 20, sst_block_size=1024, sequence_range_bytes=budget),
    )
    chance = random.Random(each)
    records = [(b"key-%03d" % number, bytes(8)) for number in range(300) for _ in range(each)]
    chance.shuffle(records)
    with LogDb.open(config) as log:
        for start in range(0, len(records), 1000):
            log.try_append(records[start : start + 1000])
        log.try_append([(b"large", bytes(8))] * 2000)
        log._db.flush(lsm.FlushType.MEMTABLE)
        roughly = CountOptions(approximate=True)

        for number in range(300):
            assert each / 2 <= log.count(b"key-%03d" % number, options=roughly) <= 2 * each
        assert abs(log.count(b"large", options=roughly) - 2000) <= 2 * 1024 / 8
        assert log.count(b"nobody", options=roughly) <= 1


def test_approximate_counts_follow_the_range() -> None:
    config = Config(
        storage="memory://", engine=tiny(l0_sst_size_bytes=1 << 20, max_sst_size=1 << 20, sst_block_size=1024)
    )
    with LogDb.open(config) as log:
        log.try_append([(b"key-%02d" % (at % 50), bytes(8)) for at in range(2000)])  # 40 of each key
        log._db.flush(lsm.FlushType.MEMTABLE)

        for number in range(50):
            assert 10 <= log.count(b"key-%02d" % number, 1000, options=CountOptions(approximate=True)) <= 40
