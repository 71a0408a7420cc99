"""A partition is dropped whole: at once, without its tables being touched, and whatever call the process dies at."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest

import lsm
from lsm.object_store import MemoryStore
from tests.doubles import CountingStore, CrashAt, CrashingStore, SimulatedCrash
from tests.lsm.support import append, open_db, read_names, read_rows, read_series, tiny

SETTINGS = tiny(op_timeout=0.5, l0_sst_size_bytes=1 << 20)
KEPT = {b"p0k%d" % at: b"kept" for at in range(20)}
DROPPED = {b"p1k%d" % at: b"dropped" for at in range(20)}


class Drains:
    """Drains the partitions it is told to."""

    def __init__(self) -> None:
        self.prefixes: set[bytes] = set()

    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> Sequence[lsm.CompactionSpec]:
        return [lsm.CompactionSpec.drain(each) for each in manifest.partitions if each.prefix in self.prefixes]


def fill(db: lsm.Db) -> None:
    for key, value in {**KEPT, **DROPPED}.items():
        db.put(key, value)
    append(db, b"p1L", [(b"s", b"%d" % at) for at in range(30)], 0)
    db.flush(lsm.FlushType.MEMTABLE)


def drain(db: lsm.Db, scheduler: Drains) -> None:
    scheduler.prefixes = {b"p1"}
    db.wake_compactor()
    assert db.wait_idle(10)


def test_drops_a_partition_without_touching_its_tables() -> None:
    memory = MemoryStore()
    store = CountingStore(memory)
    scheduler = Drains()
    with open_db(store, SETTINGS, scheduler=scheduler) as db:
        fill(db)
        with db.snapshot() as before:
            store.reset()

            drain(db, scheduler)

            assert {name.split("/")[0] for _, name in store.log} == {"manifest"}
            assert dict(read_rows(db)) == KEPT
            assert read_series(db, b"p1L", b"s") == []
            assert read_names(db, b"p1L") == []
            db.collect_garbage(min_age=0)
            assert {**KEPT, **DROPPED}.items() <= dict(read_rows(before)).items()
        scheduler.prefixes = set()
        db.put(b"p1new", b"life")
        db.flush(lsm.FlushType.MEMTABLE)
    with open_db(memory, SETTINGS) as db:
        db.collect_garbage(min_age=0)
        assert dict(read_rows(db)) == {**KEPT, b"p1new": b"life"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
def test_drops_all_or_nothing_when_the_process_dies(how: CrashAt) -> None:
    outcomes = set()
    for at in range(1, 30):
        memory = MemoryStore()
        with open_db(memory, SETTINGS, scheduler=Drains()) as db:
            fill(db)
        store = CrashingStore(memory, at, how)
        scheduler = Drains()
        with contextlib.suppress(lsm.Error, SimulatedCrash), open_db(store, SETTINGS, scheduler=scheduler) as db:
            drain(db, scheduler)
            db.collect_garbage(min_age=0)
        store.kill()
        with open_db(memory, SETTINGS, scheduler=Drains()) as db:
            found = dict(read_rows(db))
            series = read_series(db, b"p1L", b"s")
            assert {key: value for key, value in found.items() if key.startswith(b"p0")} == KEPT
            assert (len(found) == len(KEPT)) == (not series)
            assert len(series) in (0, 30)
            outcomes.add(bool(series))
            db.put(b"p1after", b"crash")
            db.flush(lsm.FlushType.MEMTABLE)
            db.collect_garbage(min_age=0)
            assert dict(read_rows(db)) == {**found, b"p1after": b"crash"}

    assert outcomes == {True, False}
