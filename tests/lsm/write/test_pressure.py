"""Writers that may wait are slowed before they have to stop; the others see it in the status."""

from __future__ import annotations

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.runtime import Runtime
from lsm.write.pressure import DELAY_MAX, NONE, SECONDS_PER_MIB_MAX, Pressure, delay_of, pressure
from tests.lsm.support import append, open_db, open_plain, tiny


class Sleeps(Runtime):
    """Remembers the pauses instead of making them."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def at(l0: int = 0, unflushed: int = 0, l0_max: int | None = 16) -> Pressure:
    return pressure(l0=l0, l0_max=l0_max, unflushed=unflushed, unflushed_max=1000)


def test_nothing_is_slowed_up_to_half_of_a_limit() -> None:
    assert at() == at(l0=8, unflushed=500) == at(l0=99, l0_max=None) == NONE


def test_the_delay_grows_smoothly_to_the_limit_and_no_further() -> None:
    delays = [at(l0=tables).seconds_per_mib for tables in range(8, 18)]
    memory = [at(unflushed=size).seconds_per_mib for size in range(500, 1100, 50)]

    for found in (delays, memory):
        assert found == sorted(found)
        assert found[0] == 0
        assert found[-1] == found[-2] == SECONDS_PER_MIB_MAX
        assert max(high - low for low, high in zip(found, found[1:], strict=False)) < SECONDS_PER_MIB_MAX / 2
    assert at(l0=12, unflushed=950).seconds_per_mib == at(unflushed=950).seconds_per_mib


def test_says_which_limit_is_near() -> None:
    assert at(l0=12).reason == "level 0 has 12 tables, and flushes wait at 16: compaction is behind"
    assert at(l0=9, unflushed=900).reason == "900 of 1000 bytes are not flushed yet"


def test_a_delay_follows_the_size_up_to_a_second() -> None:
    full = at(l0=16)
    assert delay_of(1 << 19, full) == SECONDS_PER_MIB_MAX / 2
    assert delay_of(1 << 30, full) == DELAY_MAX
    assert delay_of(1 << 30, NONE) == 0


def test_writes_are_slowed_by_a_full_memory_and_appends_that_never_wait_are_not() -> None:
    runtime = Sleeps()
    settings = tiny(compaction_enabled=False, l0_sst_size_bytes=100_000, max_unflushed_bytes=100_000)
    with open_db(MemoryStore(), settings, runtime=runtime) as db:
        assert not db.status().is_slowed
        db.put(b"p0a", bytes(85_000))
        assert runtime.pauses == []
        assert "not flushed yet" in (db.status().slowed_by or "")

        append(db, b"p0L", [(b"s", bytes(5000))], 0)
        assert runtime.pauses == []
        db.put(b"p0b", bytes(5000))
        first = runtime.pauses[:]
        assert len(first) == 1
        assert 0 < first[0] < 0.01
        db.slow_down(1 << 20, 0.25)
        assert runtime.pauses == [*first, 0.25]

        db.flush(lsm.FlushType.MEMTABLE)
        assert not db.status().is_slowed


class Nothing:
    def propose(self, _manifest: lsm.Manifest, _busy: frozenset[int]) -> list[lsm.CompactionSpec]:
        return []


@pytest.mark.parametrize("compacts", [True, False])
def test_a_filling_level_0_slows_writers_where_somebody_relieves_it(compacts: bool) -> None:
    runtime = Sleeps()
    settings = tiny(compaction_enabled=compacts, l0_max_ssts=4, l0_compaction_min=3)
    with open_plain(MemoryStore(), settings, scheduler=Nothing(), runtime=runtime) as db:
        for at_table in range(3):
            db.put(b"k%d" % at_table, b"")
            db.flush(lsm.FlushType.MEMTABLE)
        assert db.status().is_slowed == compacts
        db.put(b"large", bytes(200_000))
        assert bool(runtime.pauses) == compacts


def test_a_handle_that_opens_a_full_level_0_is_slow_from_the_start() -> None:
    store = MemoryStore()
    with open_plain(store, tiny(compaction_enabled=False)) as db:
        for number in range(3):
            db.put(b"k%d" % number, b"")
            db.flush(lsm.FlushType.MEMTABLE)

    with open_plain(store, tiny(l0_max_ssts=4, l0_compaction_min=3), scheduler=Nothing()) as db:
        assert "compaction is behind" in (db.status().slowed_by or "")
