"""Which sequences are younger than a time: never too few, whatever the clock does, and not many too many."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from opendata_log.model.errors import InvalidInputError
from opendata_log.model.keys import TimeMark
from opendata_log.model.time_track import GONE_MAX, MARK_EVERY_MS, MARKS_MAX, TimeTrack, check_clock_ms, moment_ms


class Writer:
    """Appends as the log's writer does, and remembers every batch's time."""

    def __init__(self) -> None:
        self.track = TimeTrack()
        self.stored: dict[int, TimeMark] = {}
        self.appended: list[tuple[int, int]] = []
        self.sequence = 0

    def append(self, now_ms: int, count: int = 1, *, oldest: int = 0, outcome: str = "appended") -> None:
        if now_ms >= self.track.due_ms:
            track, mark, dropped = self.track.marking(self.sequence, now_ms, oldest=oldest)
            self.stored[mark.sequence] = mark
            for each in dropped:
                self.stored.pop(each, None)  # An interrupted batch may have deleted it already.
            if outcome == "interrupted":  # After the mark was written, before the writer took note of it.
                self.sequence += count
                return
            self.track = track
        if outcome == "appended":
            self.appended.append((self.sequence, now_ms))
            self.sequence += count

    def reopen(self) -> None:
        self.track = TimeTrack(sorted(self.stored.values(), key=lambda mark: mark.sequence))

    def check(self, moment: int) -> None:
        found = self.track.sequence_at(moment, self.sequence)
        younger = [sequence for sequence, at in self.appended if at >= moment]
        assert found <= (younger[0] if younger else self.sequence)


steps = st.one_of(st.integers(-20_000, 20_000), st.sampled_from([0, 1, 10**9, -(10**9), MARK_EVERY_MS]))
outcomes = st.sampled_from(["appended"] * 5 + ["refused", "interrupted", "reopened"])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(steps, st.integers(1, 5), outcomes), max_size=60),
    st.lists(st.integers(-30_000, 30_000), max_size=10),
    st.sampled_from([4, 12, MARKS_MAX]),
)
@example([(at, 1, "appended") for at in (0, 20_000, -20_000, MARK_EVERY_MS)], [0, 5_000, 19_000], MARKS_MAX)
@example([(0, 1, "appended"), (9_000, 1, "refused"), (9_000, 1, "appended")], [9_000], MARKS_MAX)
def test_whatever_the_clock_does_nothing_appended_since_is_left_out(
    batches: list[tuple[int, int, str]], asked: list[int], marks_max: int
) -> None:
    writer, now = Writer(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opendata_log.model.time_track.MARKS_MAX", marks_max)
        for step, count, outcome in batches:
            now += step
            writer.append(now, count, outcome=outcome) if outcome != "reopened" else writer.reopen()

    for moment in [*asked, *(at + near for _, at in writer.appended for near in (-1, 0, 1))]:
        writer.check(moment)
    writer.reopen()
    for moment in asked:
        writer.check(moment)


def test_where_everything_is_older_the_frontier_is_the_answer() -> None:
    writer = Writer()
    writer.append(1_000_000, 7)

    assert writer.track.sequence_at(1_000_000 + MARK_EVERY_MS, 7) == 7
    assert writer.track.sequence_at(1_000_000 + MARK_EVERY_MS - 1, 7) == 0


def test_after_a_pause_the_entries_before_it_are_left_out() -> None:
    writer = Writer()
    writer.append(0, 7)
    writer.append(3_600_000, 7)

    assert writer.track.sequence_at(MARK_EVERY_MS, 14) == 7
    assert writer.track.sequence_at(MARK_EVERY_MS - 1, 14) == 0


def test_no_answer_is_beyond_the_frontier() -> None:
    writer = Writer()
    for at in range(10):
        writer.append(at * MARK_EVERY_MS, 10)

    assert writer.track.sequence_at(5 * MARK_EVERY_MS, 23) == 23
    assert TimeTrack().sequence_at(5, 23) == 0


def test_is_bounded_and_as_fine_as_it_says() -> None:
    writer, now = Writer(), 0
    year = 365 * 86_400_000
    while now < year:
        writer.append(now)
        now += MARK_EVERY_MS if len(writer.appended) % 2000 else year // 40

    assert len(writer.track) <= MARKS_MAX
    assert writer.stored.keys() == {mark.sequence for mark in writer.track._marks}
    for sequence, at in writer.appended[::97]:
        found = writer.track.sequence_at(at, writer.sequence)
        oldest_shown = writer.appended[found][1]
        assert found <= sequence
        assert at - oldest_shown <= max(2 * MARK_EVERY_MS, (now - at) / 16)


def test_marks_of_entries_that_retention_took_go_some_dozens_at_a_time() -> None:
    track, dropped = TimeTrack(), []
    for at in range(1000):
        marking = track.marking(at, at * MARK_EVERY_MS, oldest=max(0, at - 100))
        track = marking.track
        dropped += marking.dropped
        assert len(track) <= 100 + GONE_MAX + 2
        assert track.sequence_at((at - 100) * MARK_EVERY_MS, at + 1) in (max(0, at - 100), max(0, at - 101))
    assert dropped == list(range(len(dropped)))
    assert len(dropped) > 800


def test_entries_that_retention_took_are_forgotten_when_marks_are_thinned() -> None:
    writer = Writer()
    for at in range(MARKS_MAX):
        writer.append(at * MARK_EVERY_MS)
    assert len(writer.track) == MARKS_MAX

    writer.append(MARKS_MAX * MARK_EVERY_MS, oldest=1000)

    assert len(writer.track) < 100
    assert [sequence for sequence in writer.stored if sequence < 990] == []
    writer.check(1000 * MARK_EVERY_MS)


def test_clocks_that_jump_to_the_ends_of_time_keep_it_bounded() -> None:
    writer = Writer()
    for at in range(3 * MARKS_MAX):
        writer.append(-(1 << 62) + (1 << 50) * at)

    assert len(writer.track) <= MARKS_MAX


# -- moments ----------------------------------------------------------------------------------------------------------


def test_moments_are_milliseconds_rounded_down() -> None:
    assert moment_ms(-5, 0) == -5
    assert moment_ms(datetime(1970, 1, 1, 0, 0, 1, 999, tzinfo=UTC), 0) == 1000
    assert moment_ms(datetime(1970, 1, 1, 2, 0, tzinfo=timezone(timedelta(hours=2))), 0) == 0
    assert moment_ms(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), 0) == -1
    assert moment_ms(timedelta(seconds=2), 5000) == 3000
    assert moment_ms(timedelta(microseconds=1), 5000) == 4999


def test_naive_datetimes_are_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert moment_ms(datetime(1970, 1, 1, 9, 0, 1), 0) == 1000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("moment", "sentence"),
    [
        (True, "a time must be a datetime"),
        (1.5, "a time must be a datetime"),
        ("2026-01-01", "got '2026-01-01'"),
        (datetime(2026, 1, 1).date(), "a time must be a datetime"),
        (timedelta(seconds=-1), "is in the future"),
        (datetime.min, "is no moment of this system's local time"),
    ],
)
def test_what_is_no_moment_is_refused(moment: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with pytest.raises(InvalidInputError, match=sentence):
            moment_ms(moment, 0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("now", [None, 1.0, "1", 1 << 63, (1 << 63) - 1, -(1 << 63)])
def test_clocks_that_give_no_time_are_refused(now: Any) -> None:
    with pytest.raises(InvalidInputError, match="must give milliseconds"):
        check_clock_ms(now)
