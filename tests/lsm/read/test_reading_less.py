"""What a cursor does not need is not asked for: counted on the store, cold and warm."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.sst.block import SeriesBlock
from tests.doubles import CountingStore, SlowStore
from tests.lsm.support import FAMILIES, append, open_db, read_series, tiny

FAMILY = FAMILIES[0]
NAMES = [b"k%03d" % at for at in range(40)]
IDLE = b"k020"
ROWS = 10


def quiet(**changes: object) -> lsm.Settings:
    """One table a flush, nothing compacted."""
    values = {"compaction_enabled": False, "l0_sst_size_bytes": 1 << 24, "max_sst_size": 1 << 24, "l0_max_ssts": 64}
    return tiny(**{**values, **changes})


def with_an_idle_series(tables: int = 6, **changes: object) -> tuple[MemoryStore, int]:
    """Tables of all series but one, which has rows in the first table only. The store, and the idle series' end."""
    store = MemoryStore()
    end = number = 0
    with open_db(store, quiet(**changes)) as db:
        for table in range(tables):
            names = [name for name in NAMES if table == 0 or name != IDLE] * ROWS
            if table == 0:
                end = len(names) - NAMES[::-1].index(IDLE)
            append(db, FAMILY, [(name, b"v" * 10) for name in names], number)
            number += len(names)
            db.flush(lsm.FlushType.MEMTABLE)
    return store, end


def asked(store: CountingStore, read: Callable[[], object]) -> list[str]:
    """The tables asked of, once per request."""
    store.reset()
    read()
    assert {call for call, _ in store.log} <= {"get_range"}
    return [name for _, name in store.log]


def test_an_advanced_cursor_on_an_idle_series_opens_nothing() -> None:
    memory, end = with_an_idle_series()
    store = CountingStore(memory)
    with open_db(store, quiet()) as db:
        tables = [table.name for table in db.manifest.partitions[0].l0]
        cold = asked(store, lambda: read_series(db, FAMILY, IDLE, end))
        warm = asked(store, lambda: read_series(db, FAMILY, IDLE, end))
        rows = read_series(db, FAMILY, IDLE, end - 1)

    assert sorted(cold) == sorted(tables)  # Filter and index of each: not one block.
    assert warm == []
    assert [number for number, _ in rows] == [end - 1]


def test_tables_before_the_cursor_cost_nothing_even_cold() -> None:
    memory, _ = with_an_idle_series()
    store = CountingStore(memory)
    with open_db(store, quiet()) as db:
        oldest_first = db.manifest.partitions[0].l0[::-1]
        assert [table.first_position for table in oldest_first[1:]] == [
            each.last_position + 1 for each in oldest_first[:-1]
        ]
        cold = asked(store, lambda: read_series(db, FAMILY, IDLE, oldest_first[4].last_position + 1))
        inside = asked(store, lambda: read_series(db, FAMILY, b"k001", 0, oldest_first[0].last_position))

    assert cold == [oldest_first[5].name]
    assert set(inside) == {oldest_first[0].name}


def test_an_advanced_cursor_opens_no_block_of_a_compacted_run() -> None:
    memory, end = with_an_idle_series()
    with open_db(memory, tiny(max_sst_size=1 << 24)) as db:
        db.wait_idle(20)
        assert not db.manifest.partitions[0].l0
    store = CountingStore(memory)
    with open_db(store, quiet()) as db:
        cold = asked(store, lambda: read_series(db, FAMILY, IDLE, end))
        warm = asked(store, lambda: read_series(db, FAMILY, IDLE, end))

    assert len(cold) == len(set(cold)) == 1
    assert warm == []


@pytest.mark.parametrize(("budget", "blocks"), [(0, 1), (100, 0)])
def test_an_idle_series_keeps_its_entry_where_the_budget_is_short(budget: int, blocks: int) -> None:
    memory, end = with_an_idle_series(sequence_range_bytes=budget)
    with open_db(memory, tiny(max_sst_size=1 << 24, sequence_range_bytes=budget)) as db:
        db.wait_idle(20)
    store = CountingStore(memory)
    with open_db(store, quiet()) as db:
        (table,) = (table for run in db.manifest.partitions[0].runs for table in run.tables)
        found = db._engine.tables.index(table).last_positions
        assert found is None if not budget else found is not None and not found.is_whole
        assert len(asked(store, lambda: read_series(db, FAMILY, IDLE, end))) == blocks


# -- seeking --------------------------------------------------------------------------------------------------------------


class Ranges(CountingStore):
    """Keeps the ranges as well."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.ranges: list[tuple[str, int, int]] = []

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        found = super().get_range(name, start, end, timeout=timeout)
        self.ranges.append((name, start, end))
        return found

    def reset(self) -> None:
        super().reset()
        self.ranges = []


@pytest.fixture(scope="module")
def segment() -> MemoryStore:
    """A compacted partition: 12 series of very different lengths, their numbers interleaved, in several tables."""
    store = MemoryStore()
    chance = random.Random(5)
    names = [name for at, name in enumerate(NAMES[:12]) for _ in range(1 + at * at)]
    settings = {"sst_block_size": 4096, "max_sst_size": 150_000, "compression": None}
    number = 0
    with open_db(store, quiet(**settings)) as db:
        for _ in range(6):
            batch = chance.choices(names, k=1000)
            append(db, FAMILY, [(name, chance.randbytes(100)) for name in batch], number)
            number += len(batch)
            db.flush(lsm.FlushType.MEMTABLE)
    settings |= {"l0_compaction_min": 6, "l0_compaction_max": 8, "level_base_bytes": 1 << 30}
    with open_db(store, tiny(**settings)) as db:
        db.wait_idle(20)
        (partition,) = db.manifest.partitions
        assert not partition.l0
        assert len(partition.runs) == 1
        assert len(partition.runs[0].tables) > 2
    return store


class Place(NamedTuple):
    """A block with rows of a series."""

    table: str
    offset: int
    first: int
    last: int


def places(db: lsm.Db, name: bytes) -> list[Place]:
    """Where a series is, found by looking at every block."""
    found = []
    tables = db._engine.tables
    for table in db.manifest.partitions[0].runs[0].tables:
        index = tables.index(table)
        for at in range(len(index)):
            block = tables.block(table, at, keep=False)
            if isinstance(block, SeriesBlock):
                start, end = block.find(FAMILY, name, 0, 1 << 63)
                if start < end:
                    numbers = block.positions
                    found.append(Place(table.name, index.offsets[at], numbers[start], numbers[end - 1]))
    return found


def data_reads(db: lsm.Db, store: Ranges) -> list[tuple[str, int]]:
    """Where the requests for blocks began."""
    ends = {table.name: table.filter_offset for table in db.manifest.partitions[0].tables()}
    return [(name, start) for name, start, end in store.ranges if end <= ends[name]]


@pytest.mark.parametrize("name", [NAMES[0], NAMES[1], NAMES[5], NAMES[10], NAMES[11]])
def test_a_catch_up_starts_at_the_cursors_block_and_reads_each_once(segment: MemoryStore, name: bytes) -> None:
    store = Ranges(segment)
    with open_db(store, quiet(block_cache_bytes=0)) as db:
        rows = [number for number, _ in read_series(db, FAMILY, name)]
        blocks = places(db, name)
        cursors = {0, *rows[:: max(1, len(rows) // 10)], *(number + 1 for number in rows[::7])}
        for block in blocks:
            cursors |= {block.first, block.last, block.last + 1}
        for low in sorted(cursors):
            store.reset()
            assert [number for number, _ in read_series(db, FAMILY, name, low)] == [n for n in rows if n >= low]
            expected = [(block.table, block.offset) for block in blocks if block.last >= low]

            assert data_reads(db, store)[:1] == expected[:1]
            assert len(store.ranges) <= 1.1 * len(expected) + 2 * len({table for table, _, _ in store.ranges})


@pytest.mark.parametrize("descending", [False, True])
def test_without_read_ahead_only_blocks_of_the_series_are_read(segment: MemoryStore, descending: bool) -> None:
    store = Ranges(segment)
    with open_db(store, quiet(block_cache_bytes=0)) as db:
        for name in NAMES[:12]:
            expected = [(block.table, block.offset) for block in places(db, name)]
            store.reset()
            for _ in db.scan_series(FAMILY, name, descending=descending, read_ahead_bytes=0):
                pass

            assert data_reads(db, store) == (expected[::-1] if descending else expected)


# -- a store that is far --------------------------------------------------------------------------------------------------


def test_a_scan_of_a_far_store_overlaps_its_requests() -> None:
    memory, _ = with_an_idle_series(tables=12)
    with open_db(memory, quiet()) as db:
        expected = read_series(db, FAMILY, b"k003")
    store = SlowStore(memory, {"get_range": 0.02})
    store.is_near = False
    with open_db(store, quiet()) as db:
        store.most_at_once = 0
        found = read_series(db, FAMILY, b"k003")

    assert found == expected
    assert store.most_at_once > 4


def test_a_scan_of_a_near_store_asks_one_after_the_other() -> None:
    memory, _ = with_an_idle_series(tables=12)
    store = SlowStore(memory, {"get_range": 0.001})
    assert store.is_near
    with open_db(store, quiet()) as db:
        store.most_at_once = 0
        read_series(db, FAMILY, b"k003")

    assert store.most_at_once == 1
