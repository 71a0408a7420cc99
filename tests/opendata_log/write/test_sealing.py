"""Segments: sealed by hand, by time and by size; the successor begins with the next batch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from lsm.object_store import MemoryStore
from opendata_log import Config, LogDb, LogDbBuilder, Segment, SegmentConfig
from tests.opendata_log.support import ManualClock, tiny, values


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"memory://{request.node.name}"
    MemoryStore.forget(request.node.name)


def open_log(place: str, clock: ManualClock | None = None, **sealing: Any) -> LogDb:
    config = Config(storage=place, segmentation=SegmentConfig(**sealing), engine=tiny())
    return LogDbBuilder(config).with_clock(clock if clock is not None else ManualClock()).build()


def starts(log: LogDb) -> list[tuple[int, int]]:
    return [(one.id, one.start_seq) for one in log.list_segments()]


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_sealing_by_hand_the_next_append_begins_the_successor(place: str) -> None:
    clock = ManualClock(5000)
    with open_log(place, clock) as log:
        log.try_append([(b"k", b"1"), (b"k", b"2")])
        clock.advance(1)

        assert log.seal_segment() == 1
        assert starts(log) == [(1, 0)]
        log.try_append([(b"k", b"3")])

        assert log.list_segments() == [Segment(1, 0, 5000), Segment(2, 2, 6000)]
        assert values(log, b"k") == [b"1", b"2", b"3"]
        assert log.seal_segment() == 2


def test_sealing_what_is_sealed_or_empty_it_changes_nothing(place: str) -> None:
    with open_log(place) as log:
        log.seal_segment()
        assert log.list_segments() == []

        log.try_append([(b"k", b"1")])
        assert [log.seal_segment() for _ in range(3)] == [1, 1, 1]
        log.try_append([(b"k", b"2")])

        assert starts(log) == [(1, 0), (2, 1)]


def test_sealing_before_a_reopen_the_successor_begins_after_it(place: str) -> None:
    with open_log(place) as log:
        log.try_append([(b"k", b"1")])
        log.seal_segment()

    with open_log(place) as log:
        assert log.seal_segment() == 1
        assert starts(log) == [(1, 0)]
        log.try_append([(b"k", b"2")])
        assert starts(log) == [(1, 0), (2, 1)]

    with open_log(place) as log:
        log.try_append([(b"k", b"3")])
        assert starts(log) == [(1, 0), (2, 1)]
        assert values(log, b"k") == [b"1", b"2", b"3"]


def test_a_seal_by_hand_of_long_ago_it_does_not_keep_later_ones_from_sealing_themselves(place: str) -> None:
    with open_log(place) as log:
        log.try_append([(b"k", b"1")])
        log.seal_segment()
        log.try_append([(b"k", b"2")])

    with open_log(place, seal_byte_limit=10) as log:
        for _ in range(3):
            log.try_append([(b"k", b"v" * 10)])

        assert starts(log) == [(1, 0), (2, 1), (3, 3), (4, 4)]


# -- by time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [3600, timedelta(hours=1)])
def test_sealing_by_time_it_is_checked_before_a_batch(place: str, interval: Any) -> None:
    clock = ManualClock(0)
    with open_log(place, clock, seal_interval=interval) as log:
        for seconds in (0, 3599.999, 0.001, 3600, 3600):
            clock.advance(seconds)
            log.try_append([(b"k", b"v")] * 2)

        assert [(one.start_seq, one.start_time_ms) for one in log.list_segments()] == [
            (0, 0),
            (4, 3_600_000),
            (6, 7_200_000),
            (8, 10_800_000),
        ]


def test_sealing_by_time_after_a_reopen_it_counts_from_the_segments_beginning(place: str) -> None:
    clock = ManualClock()
    with open_log(place, clock, seal_interval=3600) as log:
        log.try_append([(b"k", b"v")])
    clock.advance(3599)
    with open_log(place, clock, seal_interval=3600) as log:
        log.try_append([(b"k", b"v")])
        assert starts(log) == [(1, 0)]
        clock.advance(1)
        log.try_append([(b"k", b"v")])

        assert starts(log) == [(1, 0), (2, 2)]


def test_a_clock_set_back_it_gives_no_segment_an_earlier_time_than_its_predecessor(place: str) -> None:
    clock = ManualClock(10_000)
    with open_log(place, clock) as log:
        log.try_append([(b"k", b"v")])
        log.seal_segment()
        clock.advance(-5)
        log.try_append([(b"k", b"v")])

        assert [one.start_time_ms for one in log.list_segments()] == [10_000, 10_000]


# -- by size ----------------------------------------------------------------------------------------------------------


def test_sealing_by_size_it_is_soft_and_checked_before_a_batch(place: str) -> None:
    with open_log(place, seal_byte_limit=100) as log:
        log.try_append([(b"k", b"v" * 98)])  # 99 bytes: one more batch goes in, of any size.
        log.try_append([(b"k", b"v" * 1000)] * 2)
        log.try_append([(b"k", b"v" * 99)])  # 100 bytes: the next batch begins a segment.
        log.try_append([(b"k", b"")])
        log.try_append([(b"k", b"")])

        assert starts(log) == [(1, 0), (2, 3), (3, 4)]


def test_sealing_by_size_after_a_reopen_it_counts_anew(place: str) -> None:
    for _ in range(3):
        with open_log(place, seal_byte_limit=100) as log:
            log.try_append([(b"k", b"v" * 98)])
            assert starts(log) == [(1, 0)]


def test_a_batch_it_lands_in_one_segment(place: str) -> None:
    with open_log(place, seal_byte_limit=10) as log:
        for size in (3, 1, 5):
            log.try_append([(b"k%d" % at, b"v" * 10) for at in range(size)])

        assert starts(log) == [(1, 0), (2, 3), (3, 4)]


def test_scans_and_counts_across_many_segments_they_see_all(place: str) -> None:
    with open_log(place, seal_byte_limit=1) as log:
        for number in range(50):
            log.try_append([(b"k", b"%d" % number)])
    with open_log(place) as log:
        assert len(log.list_segments()) == 50
        assert values(log, b"k") == [b"%d" % number for number in range(50)]
        assert values(log, b"k", 13, 17) == [b"13", b"14", b"15", b"16"]
        assert log.count(b"k", 13, 40) == 27
