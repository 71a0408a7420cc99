"""Scans from the end of a range: what they yield, where they resume, and that they leave the history alone."""

from __future__ import annotations

from typing import Any

import pytest

from lsm.object_store import MemoryStore
from lsm.object_store.open import open_store
from opendata_log import (
    Config,
    InvalidInputError,
    LogDb,
    LogDbReader,
    LogEntry,
    LogIterator,
    LogRead,
    ReadVisibility,
    ReverseIterator,
    ScanOptions,
)
from tests.doubles import CountingStore
from tests.opendata_log.support import tiny

KEY = b"k"


def sequences(found: LogIterator) -> list[int]:
    return [entry.sequence for entry in found]


@pytest.fixture
def log() -> Any:
    """Sequences 0 to 29, every second one of KEY, in three segments; the last ten are in memory."""
    with LogDb.open(storage="memory://", engine=tiny()) as log:
        for turn in range(3):
            log.try_append([(KEY if at % 2 == 0 else b"other", b"%d" % (turn * 10 + at)) for at in range(10)])
            if turn < 2:
                log.seal_segment()
                log.flush()
        yield log


def test_reverse_yields_entries_newest_first_across_segments(log: LogDb) -> None:
    assert log.scan(KEY, reverse=True).fetchall() == log.scan(KEY).fetchall()[::-1]
    assert sequences(log.scan(KEY, 7, 23, reverse=True)) == [22, 20, 18, 16, 14, 12, 10, 8]
    assert log.scan(KEY, 26, reverse=True).fetchall() == [LogEntry(KEY, 28, b"28"), LogEntry(KEY, 26, b"26")]


def test_last_yields_the_last_entries_of_the_range_in_order(log: LogDb) -> None:
    assert sequences(log.scan(KEY, last=3)) == [24, 26, 28]
    assert sequences(log.scan(KEY, 0, 21, last=7)) == [8, 10, 12, 14, 16, 18, 20]
    assert sequences(log.scan(KEY, 18, 21, last=7)) == [18, 20]
    assert sequences(log.scan(KEY, last=0)) == []
    assert sequences(log.scan(b"nobody", last=5)) == []


def test_a_limit_cuts_what_is_yielded(log: LogDb) -> None:
    two = ScanOptions(limit=2)

    assert sequences(log.scan(KEY, reverse=True, options=two)) == [28, 26]
    assert sequences(log.scan(KEY, last=5, options=two)) == [20, 22]
    assert sequences(log.scan(KEY, last=5, reverse=True, options=two)) == [28, 26]
    assert sequences(log.scan(KEY, last=5, reverse=True)) == [28, 26, 24, 22, 20]


def test_next_sequence_of_last_is_that_of_an_ascending_scan(log: LogDb) -> None:
    found = log.scan(KEY, 4, last=3)

    assert found.next_sequence == 4
    assert sequences([next(found)]) == [24]  # type: ignore[arg-type]
    assert found.next_sequence == 25
    found.fetchall()
    assert found.next_sequence == 30
    assert log.scan(KEY, last=0).next_sequence == 0
    only_new = log.scan(KEY, last=0)
    assert only_new.fetchall() == []
    assert only_new.next_sequence == 30


def test_next_sequence_of_reverse_is_the_start_until_nothing_is_left(log: LogDb) -> None:
    found = log.scan(KEY, 4, 27, reverse=True)
    assert isinstance(found, ReverseIterator)

    assert found.next_sequence == 4
    found.fetchmany(5)
    assert found.next_sequence == 4
    found.fetchall()
    assert found.next_sequence == 27
    found.close()
    assert found.next_sequence == 27

    cut = log.scan(KEY, 4, reverse=True)
    next(cut)
    cut.close()
    assert cut.next_sequence == 4
    assert list(cut) == []


def test_pages_backwards_by_the_sequence_of_the_last_entry(log: LogDb) -> None:
    pages, end = [], None
    while page := log.scan(KEY, 0, end, reverse=True, options=ScanOptions(limit=4)).fetchall():
        pages.append([entry.sequence for entry in page])
        end = page[-1].sequence

    assert pages == [[28, 26, 24, 22], [20, 18, 16, 14], [12, 10, 8, 6], [4, 2, 0]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"last": -1}, "last must not be negative, got -1"),
        ({"last": True}, "last must be a number of entries, got True"),
        ({"last": 1.5}, "last must be a number of entries, got 1.5"),
        ({"last": "3"}, "last must be a number of entries, got '3'"),
        ({"reverse": 1}, "reverse must be True or False, got 1"),
        ({"reverse": None}, "reverse must be True or False, got None"),
    ],
)
def test_bad_values_are_refused(log: LogDb, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        log.scan(KEY, **options)


def test_shows_only_what_is_durable_where_reads_do() -> None:
    config = Config(storage="memory://", read_visibility=ReadVisibility.REMOTE, engine=tiny())
    with LogDb.open(config) as log:
        log.try_append([(KEY, b"1")] * 3)
        log.flush()
        log.try_append([(KEY, b"2")] * 3)

        found = log.scan(KEY, last=2)

        assert sequences(found) == [1, 2]
        assert found.next_sequence == 3
        assert sequences(log.scan(KEY, reverse=True)) == [2, 1, 0]


def test_entries_appended_after_the_call_are_not_shown(log: LogDb) -> None:
    found, last = log.scan(KEY, reverse=True), log.scan(KEY, last=2)
    log.try_append([(KEY, b"later")])

    assert next(found).sequence == 28
    assert sequences(last) == [26, 28]
    assert last.next_sequence == 30


def write_history(place: str, segments: int) -> None:
    for turn in range(segments):
        with LogDb.open(storage=place, engine=tiny()) as log:
            log.try_append(
                [(b"a%d" % at, b"x") for at in range(5)] + [(KEY, b"%d %d" % (turn, at)) for at in range(60)]
            )
            log.seal_segment()
            log.wait_idle(30)


@pytest.mark.parametrize("segments", [3, 12])
def test_the_last_entries_cost_the_same_however_long_the_history_is(
    segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"memory://history-{segments}"
    write_history(place, segments)
    stores: list[CountingStore] = []

    def counted(*arguments: Any, **options: Any) -> CountingStore:
        stores.append(CountingStore(open_store(*arguments, **options)))
        return stores[-1]

    monkeypatch.setattr("lsm.components.open_store", counted)
    try:
        for open_it in (
            lambda: LogDb.open(storage=place, engine=tiny(compaction_enabled=False)),
            lambda: LogDbReader.open(storage=place, refresh_interval=3600),
        ):
            log: LogRead
            with open_it() as log:
                log.list_segments()  # A reader looks the segments up once.
                for options in ({"last": 3}, {"reverse": True, "options": ScanOptions(limit=3)}):
                    for store in stores:
                        store.reset()
                    assert len(log.scan(KEY, **options).fetchall()) == 3  # type: ignore[arg-type]
                    assert sum(store.calls for store in stores) <= 2  # filter and index, a block; then cached
    finally:
        MemoryStore.forget(f"history-{segments}")
