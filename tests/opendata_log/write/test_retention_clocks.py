"""Retention, and clocks that jump: nothing goes early, and nothing stays for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

import lsm
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulation import Simulation
from opendata_log import (
    LogDb,
    LogDbBuilder,
    RetentionConfig,
    Segment,
)
from opendata_log.write.retention import ElapsedTime, StartsAhead
from tests.opendata_log.retained import DAY, HOUR, config, fill, opened, tick
from tests.opendata_log.support import ManualClock, values


def test_time_passes_no_faster_than_the_monotonic_clock() -> None:
    time = ElapsedTime(1_000, 5.0)

    assert time.now_ms(1_000, 5.0) == 1_000
    assert time.now_ms(10_000_000, 6.0) == 2_000, "a jump forward does not count"
    assert time.now_ms(500, 7.0) == 500, "a clock set back does, at once"
    assert time.now_ms(4_000, 8.0) == 4_000
    assert time.now_ms(10_000_000, 9.0) == 5_000


def test_a_time_that_a_caller_gives_has_to_be_given_twice() -> None:
    time = ElapsedTime(0, None)

    assert time.now_ms(100, 0.0) is None
    assert time.now_ms(10_000_000, 0.0) == 100
    assert time.now_ms(200, 0.0) == 200
    assert time.now_ms(300, 0.0) == 200


@pytest.mark.parametrize("jump", [10 * 365 * DAY, -10 * 365 * DAY])
def test_a_jump_that_is_taken_back_takes_nothing(jump: float) -> None:
    clock = ManualClock(40 * 365 * int(DAY) * 1000)
    with opened(clock) as log:
        fill(log, clock, 2)
        tick(log, 1)
        clock.advance(jump)
        tick(log, 1)
        clock.advance(-jump)
        tick(log, 2)

        assert [one.id for one in log.list_segments()] == [1, 2]


def test_a_segment_sealed_while_the_clock_was_set_back_is_not_old() -> None:
    """By size, while it reads 1970: what was just appended must not look as if it were from then."""
    clock = ManualClock(50 * 365 * int(DAY) * 1000)
    with opened(clock, retention=RetentionConfig(retention=DAY, check_interval=DAY)) as log:
        log.try_append([(b"a", b"old")])
        clock.advance(30 * 60)
        log.try_append([(b"a", b"fresh")])
        right, clock.ms = clock.ms, 0
        log.seal_segment()
        log.try_append([(b"a", b"next")])
        clock.ms = right + 1000 * int(HOUR)

        tick(log, 3)

        assert values(log, b"a") == [b"old", b"fresh", b"next"]
        assert log.list_segments()[1].start_time_ms >= right


def test_without_a_clock_of_the_callers_a_jump_forward_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with LogDb.open(config("memory://")) as log:
        for _ in range(3):
            log.try_append([(b"a", b"")])
            log.seal_segment()
        now = lsm.Runtime.now_ms
        monkeypatch.setattr(lsm.Runtime, "now_ms", lambda runtime: now(runtime) + 10 * 365 * int(DAY) * 1000)
        tick(log, 3)

        assert len(log.list_segments()) == 3


def test_a_clock_that_is_ahead_at_the_open_is_checked_with_the_stores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = str(tmp_path)
    with LogDb.open(config(storage)) as log:
        for _ in range(3):
            log.try_append([(b"a", b"")])
            log.seal_segment()
    now = lsm.Runtime.now_ms
    monkeypatch.setattr(lsm.Runtime, "now_ms", lambda runtime: now(runtime) + 10 * 365 * int(DAY) * 1000)
    with LogDb.open(config(storage)) as log:
        tick(log, 3)

        assert len(log.list_segments()) == 3


def test_what_began_while_the_clock_was_ahead_goes_when_it_has_been_seen_long_enough() -> None:
    clock = ManualClock(40 * 365 * int(DAY) * 1000)
    with opened(clock) as log:
        clock.advance(10 * 365 * DAY)
        fill(log, clock, 3)
        clock.advance(-10 * 365 * DAY)  # Set right: everything there is, and all that follows, starts in ten years.
        tick(log)
        for hour in range(2):
            log.seal_segment()
            log.try_append([(b"a", b"later %d" % hour)])
            tick(log)
            assert len(log.list_segments()) == 4 + hour, "nothing goes early"
            clock.advance(HOUR)
        tick(log)
        assert len(log.list_segments()) == 5
        clock.ms += 1
        tick(log)

        # 3 ended when 4 began, more than two hours ago; of 4 it is known for an hour that it has ended.
        assert [one.id for one in log.list_segments()] == [4, 5]
        clock.advance(HOUR + 1)
        tick(log)
        assert [one.id for one in log.list_segments()] == [5]
        clock.advance(HOUR)  # It has been left alone for the seal interval and the retention.
        tick(log)
        assert log.list_segments() == []


def test_how_long_a_start_in_the_future_has_been_known() -> None:
    one, two = Segment(1, 0, 500), Segment(2, 10, 9_000)
    ahead = StartsAhead()

    def known(segments: list[Segment], now_ms: int, elapsed_ms: int, latest_ms: int | None = None) -> dict[int, int]:
        latest_ms = elapsed_ms if latest_ms is None else latest_ms
        return ahead.known_ms(segments, now_ms=now_ms, elapsed_ms=elapsed_ms, latest_ms=latest_ms)

    assert known([one, two], 1_000, 50) == {2: 0}
    assert known([one, two], 2_000, 80) == {2: 30}
    assert known([one, two], 100, 90) == {1: 0, 2: 40}
    assert known([one, two], 1_000, 95) == {2: 45}, "1 was: a clock set back for a moment"
    assert known([one, two], 9_000, 99) == {}
    assert known([one, two], 1_000, 99, 150) == {2: -51}
    assert known([one, two], 1_000, 150, 160) == {2: 0}
    assert known([two], 1_000, 20) == {2: 0}
    assert known([two], 1_000, 25, 1_000) == {2: 5}


@pytest.mark.parametrize("jump", [10 * 365 * DAY, -10 * 365 * DAY], ids=["forward", "back"])
@pytest.mark.parametrize("is_taken_back", [True, False])
def test_no_jump_of_the_machines_clock_takes_early_or_keeps_for_ever(jump: float, *, is_taken_back: bool) -> None:
    """In virtual time, with the thread's own looks: segments of an hour that are to stay for three."""

    def life(runtime: SimulatedRuntime, store: lsm.ObjectStore) -> None:
        settings = config("memory://", retention=RetentionConfig(retention=3 * HOUR, check_interval=60.0))
        builder = LogDbBuilder(settings).with_runtime(runtime).with_object_store(store)
        with builder.build() as log:
            for hour in range(20):
                if hour == 5:
                    runtime.skew_ms = int(1000 * jump)
                if hour == 8 and is_taken_back:
                    runtime.skew_ms = 0
                log.try_append([(b"a", b"%d" % hour)])
                there = [int(value) for value in values(log, b"a")]
                assert there == list(range(there[0], hour + 1))
                assert there[0] <= max(0, hour - 3), "gone early"
                assert there[0] >= hour - 7, "kept for more than twice as long"
                runtime.sleep(HOUR + 1)

    with Simulation(seed=1) as simulation:
        simulation.run(life)
