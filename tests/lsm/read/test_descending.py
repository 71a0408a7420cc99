"""A series read from its end: the same rows the other way round, and nothing touched before it is asked for."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.rows.memtable import SLICE_ROWS, SeriesRows
from lsm.runtime import Runtime
from tests.doubles import CountingStore
from tests.lsm.support import FAMILIES, append, open_db, read_series, read_series_descending, tiny

FAMILY = FAMILIES[0]


def many_sources(store: MemoryStore, flushes: int, *, rows: int = 40) -> None:
    """Level-0 tables above runs: every second time the tables are merged."""
    for turn in range(flushes):
        with open_db(store, tiny(compaction_enabled=turn % 4 == 3, l0_max_ssts=64)) as db:
            append(db, FAMILY, [(b"a", b"a %d" % at) for at in range(rows)] + [(b"b", b"b")], turn * (rows + 1))
            db.flush(lsm.FlushType.MEMTABLE)
            db.wait_idle(30)


def test_memory_level_0_and_runs_follow_each_other_newest_first() -> None:
    store = MemoryStore()
    many_sources(store, 9)
    with open_db(store, tiny(compaction_enabled=False)) as db:
        append(db, FAMILY, [(b"a", b"new")] * 5, 10_000)
        partition = db.manifest.partitions[0]
        assert partition.l0
        assert partition.runs

        found = read_series_descending(db, FAMILY, b"a")

        assert found == read_series(db, FAMILY, b"a")[::-1]
        assert len(found) == 9 * 40 + 5
        assert read_series_descending(db, FAMILY, b"a", 30, 200) == read_series(db, FAMILY, b"a", 30, 200)[::-1]
        assert read_series_descending(db, FAMILY, b"a", 200, 30) == []
        assert read_series_descending(db, FAMILY, b"nobody") == []


def test_chunks_and_their_rows_both_descend() -> None:
    store = MemoryStore()
    many_sources(store, 3)
    with open_db(store, tiny(compaction_enabled=False)) as db:
        chunks = [list(numbers) for numbers, _ in db.scan_series(FAMILY, b"a", descending=True)]

        assert len(chunks) > 3
        assert all(left > right for chunk in chunks for left, right in pairwise(chunk))
        assert all(newer[-1] > older[0] for newer, older in pairwise(chunks))


def test_sees_the_moment_of_the_call() -> None:
    with open_db(MemoryStore(), tiny()) as db:
        append(db, FAMILY, [(b"a", b"before")] * 3, 0)
        stream = db.scan_series(FAMILY, b"a", descending=True)
        append(db, FAMILY, [(b"a", b"after")] * 3, 3)
        db.flush(lsm.FlushType.MEMTABLE)

        assert [number for numbers, _ in stream for number in numbers] == [2, 1, 0]


def test_rows_that_are_in_a_memtable_and_in_tables_of_the_view_come_once() -> None:
    """A compaction may publish the manifest of a flush before the flush lets go of its memtable."""
    with open_db(MemoryStore(), tiny(compaction_enabled=False)) as db:
        append(db, FAMILY, [(b"a", b"%d" % at) for at in range(30)], 0)
        memtables = db._engine.views.current.memtables
        db.flush(lsm.FlushType.MEMTABLE)
        append(db, FAMILY, [(b"a", b"x")], 30)
        views = db._engine.views
        views.replace(memtables=(*views.current.memtables, *memtables))

        assert [number for number, _ in read_series_descending(db, FAMILY, b"a")] == [*range(30, -1, -1)]


@pytest.mark.parametrize("flushes", [4, 24])
def test_the_newest_rows_cost_the_same_however_long_the_history_is(flushes: int) -> None:
    memory = MemoryStore()
    many_sources(memory, flushes)
    store = CountingStore(memory)
    with open_db(store, tiny(compaction_enabled=False, l0_max_ssts=64)) as db:
        store.reset()
        numbers, _ = next(iter(db.scan_series(FAMILY, b"a", descending=True)))

        assert numbers[0] == flushes * 41 - 2
        assert store.counts == {"get_range": 2}  # filter and index of one table, and its last block


def test_rows_in_memory_cost_no_request() -> None:
    memory = MemoryStore()
    many_sources(memory, 4)
    store = CountingStore(memory)
    with open_db(store, tiny(compaction_enabled=False)) as db:
        append(db, FAMILY, [(b"a", b"new")] * 5, 10_000)
        store.reset()

        numbers, _ = next(iter(db.scan_series(FAMILY, b"a", descending=True)))

        assert list(numbers) == [10_004, 10_003, 10_002, 10_001, 10_000]
        assert store.calls == 0


def test_what_is_asked_for_grows_towards_the_front_up_to_the_read_ahead() -> None:
    memory = MemoryStore()
    with open_db(memory, tiny(sst_block_size=128, l0_sst_size_bytes=1 << 20, max_sst_size=1 << 20)) as db:
        append(db, FAMILY, [(b"a", b"x" * 60)] * 128, 0)
    made = {}

    for ahead in (0, 1 << 20):
        store = CountingStore(memory)
        with open_db(store, tiny(compaction_enabled=False)) as db:
            store.reset()
            rows = [
                number
                for numbers, _ in db.scan_series(FAMILY, b"a", descending=True, read_ahead_bytes=ahead)
                for number in numbers
            ]
            made[ahead] = store.counts["get_range"]
        assert rows == [*range(127, -1, -1)]

    assert made[1 << 20] <= 8  # filter and index, then 1, 2, 4, 8, 16, 32 blocks and what is left
    assert made[0] > 40


def test_blocks_that_are_cached_are_not_asked_for_again() -> None:
    memory = MemoryStore()
    many_sources(memory, 4)
    store = CountingStore(memory)
    with open_db(store, tiny(compaction_enabled=False)) as db:
        rows = read_series(db, FAMILY, b"a")
        store.reset()

        assert read_series_descending(db, FAMILY, b"a") == rows[::-1]
        assert store.calls == 0


def test_a_long_series_in_memory_is_copied_a_slice_at_a_time() -> None:
    series = SeriesRows(FAMILY, Runtime())
    series.append([b"a"] * 5000, 0, [b"x"] * 5000)

    numbers, values = series.last_rows(b"a", 0, 4000, SLICE_ROWS)

    assert numbers == [*range(4000 - SLICE_ROWS, 4000)]
    assert len(values) == SLICE_ROWS
    assert series.last_rows(b"a", 3999, 4000, SLICE_ROWS)[0] == [3999]
    assert series.last_rows(b"a", 5000, 6000, SLICE_ROWS)[0] == []


def test_long_series_in_memory_are_read_whole_over_several_slices() -> None:
    with open_db(MemoryStore(), tiny(l0_sst_size_bytes=1 << 24)) as db:
        append(db, FAMILY, [(b"a", b"x")] * 5000, 7)

        chunks = list(islice(db.scan_series(FAMILY, b"a", 100, 5000, descending=True), 10))

        assert [len(numbers) for numbers, _ in chunks] == [1024, 1024, 1024, 1024, 804]
        assert [number for numbers, _ in chunks for number in numbers] == [*range(4999, 99, -1)]
