"""`Db.compact`: a range becomes one run, through the compactor, in front of what the scheduler wants."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

import lsm
from lsm.compaction import compactor
from lsm.object_store import MemoryStore, RequestRefused
from tests.doubles import Fault, FaultyStore, WrappedStore
from tests.lsm.support import append, open_db, open_plain, read_rows, tiny

T = TypeVar("T")


class Nothing:
    def propose(self, _manifest: lsm.Manifest, _busy: frozenset[int]) -> list[lsm.CompactionSpec]:
        return []


QUIET = tiny(l0_sst_size_bytes=1 << 20, l0_max_ssts=100)


def shape(db: lsm.Db, prefix: bytes = b"p0") -> tuple[int, int]:
    """Tables in level 0, and runs."""
    partition = db.manifest.partition(prefix)
    return (0, 0) if partition is None else (len(partition.l0), len(partition.runs))


def fill(db: lsm.Db, turns: int = 4) -> None:
    for turn in range(turns):
        for at in range(30):
            db.put(b"p%d%02d" % (at % 2, at), b"%d" % turn * 20)
        db.delete(b"p0%02d" % (2 * turn))
        append(db, b"p0L", [(b"s%d" % at, bytes([turn])) for at in range(9)], 9 * turn)
        db.flush(lsm.FlushType.MEMTABLE)


def test_everything_becomes_one_run_of_each_partition_what_is_in_memory_too() -> None:
    with open_db(MemoryStore(), QUIET, scheduler=Nothing()) as db:
        fill(db)
        db.put(b"p0last", b"in memory")
        expected = read_rows(db)
        assert shape(db) == (4, 0)

        db.compact()

        assert shape(db) == shape(db, b"p1") == (0, 1)
        assert read_rows(db) == expected
        before = db.status().compactions
        db.compact()
        assert db.status().compactions == before


class RefusedListing(WrappedStore):
    """Refuses one listing: the one that confirms commit number `at`, which is stored by then."""

    at = 0

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "list" and name == "manifest/" and self.at == 1:
            self.at = 0
            raise RequestRefused("403")
        found = request()
        if call == "put_if_absent" and name.startswith("manifest/") and self.at > 1:
            self.at -= 1
        return found


@pytest.mark.parametrize(("turns", "at"), [(1, 2), (1, 3), (4, 2), (4, 3), (4, 4), (4, 5)])
def test_a_commit_that_counts_although_it_was_not_confirmed_is_no_refusal(
    turns: int, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One turn: tables are moved; four: claimed and merged."""
    monkeypatch.setattr(compactor, "RETRY_SECONDS", 0.001)
    store = RefusedListing(MemoryStore())
    settings = tiny(l0_sst_size_bytes=1 << 20, l0_max_ssts=100, max_sst_size=400)
    with open_db(store, settings, scheduler=Nothing()) as db:
        fill(db, turns)
        expected = read_rows(db)
        store.at = at

        db.compact()

        assert store.at == 0
        assert shape(db) == shape(db, b"p1") == (0, 1)
        assert read_rows(db) == expected
        assert db.status().refused_compactions == 0


def test_a_range_leaves_other_partitions_alone() -> None:
    with open_db(MemoryStore(), QUIET, scheduler=Nothing()) as db:
        fill(db)
        expected = read_rows(db)

        db.compact(b"p1", b"p2")

        assert shape(db) == (4, 0)
        assert shape(db, b"p1") == (0, 1)
        assert read_rows(db) == expected


def test_ends_although_a_writer_never_does() -> None:
    with open_plain(MemoryStore(), QUIET) as db:
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                db.put(b"k%03d" % (number % 100), b"%d" % number)
                number += 1
                db.flush(lsm.FlushType.MEMTABLE)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(3):
                db.compact()
        finally:
            stop.set()
            thread.join()
        assert any(partition.runs for partition in db.manifest.partitions)


def test_refuses_where_this_handle_does_not_compact() -> None:
    with open_plain(MemoryStore(), tiny(compaction_enabled=False)) as db:
        with pytest.raises(lsm.InvalidError, match="compaction_enabled is off"):
            db.compact()
        db.close()
        with pytest.raises(lsm.ClosedError):
            db.compact()


def test_tells_of_a_store_that_stays_away() -> None:
    memory = MemoryStore()
    faulty = FaultyStore(memory, only=("get_range",))
    db = open_plain(faulty, tiny(l0_sst_size_bytes=1 << 20, l0_max_ssts=100, op_timeout=0.2), scheduler=Nothing())
    for turn in range(3):
        for at in range(50):
            db.put(b"k%02d" % at, b"%d" % turn * 30)
        db.flush(lsm.FlushType.MEMTABLE)
    faulty._script = iter([Fault.NOT_SENT] * 10_000)

    with pytest.raises(lsm.UnavailableError):
        db.compact()

    faulty._script = iter(())
    db.compact()
    assert shape(db, b"") == (0, 1)
    db.close()
