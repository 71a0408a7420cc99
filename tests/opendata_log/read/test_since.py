"""Scans from a time, over reopening, crashes, readers and clocks that are set back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from opendata_log import Config, Error, InvalidInputError, LogDb, LogDbBuilder, LogDbReader, ReadVisibility, ScanOptions
from opendata_log.model.keys import TIME_MARK_PREFIX
from opendata_log.model.time_track import MARK_EVERY_MS, MARKS_MAX
from tests.doubles import CrashAt, CrashingStore, SimulatedCrash
from tests.opendata_log.support import ManualClock, tiny

KEY = b"k"
PLACE = "memory://since"
START = 1_700_000_000_000


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    MemoryStore.forget("since")


def open_log(clock: ManualClock, **options: Any) -> LogDb:
    return LogDbBuilder(Config(storage=PLACE, engine=tiny(), **options)).with_clock(clock).build()


def append_every_minute(log: LogDb, clock: ManualClock, count: int) -> list[tuple[int, int]]:
    """(sequence, time) of one entry a minute."""
    found = []
    for _ in range(count):
        found.append((log.try_append([(KEY, b"x")]).start_sequence, clock.ms))
        clock.advance(60)
    return found


def marks(log: LogDb) -> int:
    return len(list(log._db.scan_prefix(TIME_MARK_PREFIX)))


def test_scans_from_a_time_however_it_is_given() -> None:
    clock = ManualClock(START)
    with open_log(clock) as log:
        rows = append_every_minute(log, clock, 10)
        sequence, at = rows[7]
        for since in (
            at,
            datetime.fromtimestamp(at / 1000, UTC),
            datetime.fromtimestamp(at / 1000),
            timedelta(minutes=3),
        ):
            assert [entry.sequence for entry in log.scan(KEY, since=since)] == [7, 8, 9]
            assert log.sequence_at(since) == sequence

        assert log.scan(KEY, since=timedelta(days=1)).fetchall() == log.scan(KEY).fetchall()
        nothing = log.scan(KEY, since=clock.ms)
        assert nothing.fetchall() == []
        assert nothing.next_sequence == 10
        assert log.sequence_at(0) == 0


def test_goes_together_with_the_other_ends_of_a_scan() -> None:
    clock = ManualClock(START)
    with open_log(clock) as log:
        rows = append_every_minute(log, clock, 10)
        since = rows[5][1]

        def found(*arguments: Any, **options: Any) -> list[int]:
            return [entry.sequence for entry in log.scan(KEY, *arguments, since=since, **options)]

        assert found(8) == [8, 9]
        assert found(2, 7) == [5, 6]
        assert found(2, 4) == []
        assert found(last=2) == [8, 9]
        assert found(last=100) == [5, 6, 7, 8, 9]
        assert found(reverse=True) == [9, 8, 7, 6, 5]
        assert found(options=ScanOptions(limit=2)) == [5, 6]
        assert log.scan(KEY, 2, since=since).next_sequence == 5


def test_lasts_over_a_reopen_and_in_a_reader() -> None:
    clock = ManualClock(START)
    with open_log(clock) as log:
        rows = append_every_minute(log, clock, 5)
        log.seal_segment()
        rows += append_every_minute(log, clock, 5)
    with open_log(clock) as log, LogDbReader.open(storage=PLACE, refresh_interval=3600) as reader:
        rows += append_every_minute(log, clock, 5)
        log.flush()
        reader.refresh()

        for sequence, at in rows:
            assert log.sequence_at(at) == reader.sequence_at(at) == sequence
            assert reader.scan(KEY, since=at).fetchall() == log.scan(KEY, sequence).fetchall()
        assert reader.sequence_at(timedelta(0)) == 15


def test_what_a_crash_took_with_it_is_not_missed() -> None:
    clock = ManualClock(START)
    log = open_log(clock)
    rows = append_every_minute(log, clock, 5)
    log.flush()
    append_every_minute(log, clock, 5)  # Lost with the process, and their marks with them.
    try:
        clock.advance(-400)
        with open_log(clock) as successor:
            rows += append_every_minute(successor, clock, 12)

            for _, at in rows:
                assert [entry.sequence for entry in successor.scan(KEY, since=at)][-1] == rows[-1][0]
                assert successor.sequence_at(at) <= min(number for number, time in rows if time >= at)
            assert successor.sequence_at(rows[-1][1]) == rows[-1][0]
    finally:
        with pytest.raises(Exception, match="newer writer"):
            log.close()


class Scenario:
    """Appends under a clock that goes back and forth, over three openings. `rows` has (sequence, time) of every append."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.rows: list[tuple[int, int]] = []

    def run(self, store: CrashingStore) -> None:
        for turn in range(3):
            log = open_on(store, self.clock)
            try:
                for step in (0, 7, 60, -40, 3, 50):
                    self.clock.advance(step)
                    self.rows.append((log.try_append([(KEY, b"x")]).start_sequence, self.clock.ms))
                    if step != 60:
                        log.flush()
                if turn == 1:
                    log.seal_segment()
                log.close()
            except (SimulatedCrash, Error):  # An Error tells of a background thread that died first.
                log._db._engine.fail(lsm.InternalError("the simulated process died"))
                with contextlib.suppress(Exception, SimulatedCrash):
                    log.close()
                raise
            self.clock.advance(-30)


def open_on(store: ObjectStore, clock: ManualClock) -> LogDb:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsm.components.open_store", lambda *_arguments, **_options: store)
        return open_log(clock)


def calls_of_scenario() -> int:
    store = CrashingStore(MemoryStore())
    Scenario().run(store)
    return store.calls


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", CrashAt)
def test_dying_at_any_store_call_it_leaves_nothing_out(how: CrashAt) -> None:
    for at in range(1, calls_of_scenario() + 1):
        memory, scenario = MemoryStore(), Scenario()
        with contextlib.suppress(SimulatedCrash, Error):
            scenario.run(CrashingStore(memory, at, how))
        scenario.clock.advance(-20)
        with open_on(memory, scenario.clock) as log:
            for step in (0, 10, 30):
                scenario.clock.advance(step)
                scenario.rows.append((log.try_append([(KEY, b"x")]).start_sequence, scenario.clock.ms))
            survived = {entry.sequence for entry in log.scan(KEY)}
            rows = [(sequence, time) for sequence, time in scenario.rows if sequence in survived]
            for _, moment in rows:
                wanted = min(sequence for sequence, time in rows if time >= moment)
                assert log.sequence_at(moment) <= wanted, (at, how, moment)


def test_a_clock_set_back_leaves_nothing_out() -> None:
    clock = ManualClock(START)
    with open_log(clock, read_visibility=ReadVisibility.MEMORY) as log:
        rows = append_every_minute(log, clock, 10)
        clock.advance(-480)
        rows += append_every_minute(log, clock, 4)
        log.seal_segment()
        rows += append_every_minute(log, clock, 20)

        for _, at in rows:
            wanted = min(sequence for sequence, time in rows if time >= at)
            assert log.sequence_at(at) <= wanted
        assert log.sequence_at(rows[-1][1]) == rows[-1][0]


def test_a_busy_log_is_marked_once_in_some_seconds() -> None:
    clock = ManualClock(START)
    with open_log(clock) as log:
        for _ in range(1000):
            log.try_append([(KEY, b"x")])
            clock.ms += 100

        assert marks(log) == 100_000 // MARK_EVERY_MS


def test_marks_that_are_thinned_out_are_deleted() -> None:
    clock = ManualClock(START)
    with open_log(clock) as log:
        for _ in range(MARKS_MAX + 1):
            log.try_append([(KEY, b"x")])
            clock.ms += MARK_EVERY_MS
        left = marks(log)
        assert left == len(log._writer.clock.track) < MARKS_MAX // 2
    with open_log(clock) as log:
        assert marks(log) == left == len(log._writer.clock.track)
        assert log.sequence_at(START + 100 * MARK_EVERY_MS) in range(100 - MARKS_MAX // 16, 101)


def test_a_log_that_nothing_was_appended_to_has_no_times() -> None:
    with open_log(ManualClock(START)) as log:
        assert log.sequence_at(0) == 0
        assert log.scan(KEY, since=START).fetchall() == []


def test_bad_times_are_refused() -> None:
    with open_log(ManualClock(START)) as log:
        for since in (True, 1.5, "yesterday"):
            with pytest.raises(InvalidInputError, match="a time must be a datetime"):
                log.scan(KEY, since=since)  # type: ignore[arg-type]
            with pytest.raises(InvalidInputError, match="a time must be a datetime"):
                log.sequence_at(since)  # type: ignore[arg-type]
