"""Clones read their parents' tables in place, and let go of them when they have none left."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from tests.doubles import CountingStore, CrashAt, CrashingStore, SimulatedCrash
from tests.lsm.checkpoint.test_checkpoints import churn, open_admin
from tests.lsm.support import FAMILIES, append, layouts, objects_of, open_db, read_rows, read_series, tiny


class Named(MemoryStore):
    """A memory store under a URL of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.url = f"memory://{name}"


def clone(parent: ObjectStore, child: ObjectStore, checkpoint: str | None = None, **components: Any) -> lsm.Checkpoint:
    with open_admin(parent, **components) as admin:
        return admin.create_clone("memory://", checkpoint, object_store=child)


def test_a_clone_finds_what_its_parent_cached(tmp_path: Path) -> None:
    child, settings = Named("child"), tiny(disk_cache_dir=str(tmp_path), compaction_enabled=False)
    parent = CountingStore(Named("parent"))
    caches, other = lsm.Caches(), lsm.Caches()
    stores = {"parent_stores": {parent.url: parent}}
    with open_db(parent, settings, caches=caches) as db:
        fill(db)
        db.flush(lsm.FlushType.MEMTABLE)
        clone(parent, child)
        before = read_rows(db)
    parent.reset()

    for memory in (caches, other):  # The second one has nothing, and finds it on disk.
        with open_db(child, settings, caches=memory, **stores) as db:
            assert read_rows(db) == before

    assert [name for _, name in parent.log if name.startswith("sst/")] == []
    assert other.status().blocks.misses > 0


def tables_of(store: MemoryStore) -> set[str]:
    return {name for name in objects_of(store) if name.startswith("sst/")}


def fill(db: lsm.Db) -> None:
    churn(db, 3)
    append(db, FAMILIES[0], [(b"s", b"one"), (b"t", b"two")], 0)
    db.flush(lsm.FlushType.MEMTABLE)
    db.put(b"p1log", b"only in the log", await_durable=True)
    append(db, FAMILIES[0], [(b"s", b"three")], 2)
    db.flush()


def test_a_clone_goes_its_own_way() -> None:
    parent, child = Named("parent"), Named("child")
    stores = {"parent_stores": {parent.url: parent}}
    with open_db(parent) as db:
        fill(db)
        before = read_rows(db)
        clone(parent, child)
        assert not tables_of(child)
        for at in range(20):
            db.delete(b"p0k%02d" % at)
        churn(db, 12, start=50)

        with open_db(child, **stores) as copy:
            assert read_rows(copy) == before
            assert read_series(copy, FAMILIES[0], b"s") == [(0, b"one"), (2, b"three")]
            append(copy, FAMILIES[0], [(b"s", b"four")], 3)
            copy.put(b"p2own", b"the clone's")
            copy.flush(lsm.FlushType.MEMTABLE)
            copy.wait_idle(20)
            copy.collect_garbage(min_age=0)
            expected = read_rows(copy)
            assert db.get(b"p2own") is None
        with open_db(child, **stores) as copy:
            assert read_rows(copy) == expected
            assert read_series(copy, FAMILIES[0], b"s") == [(0, b"one"), (2, b"three"), (3, b"four")]


@pytest.mark.parametrize("is_embedded", [True, False], ids=["the writer", "a process of its own"])
def test_lets_go_of_the_parent_when_its_tables_are_rewritten(is_embedded: bool) -> None:
    parent, child = Named("parent"), Named("child")
    stores = {"parent_stores": {parent.url: parent}}
    with open_db(parent) as db:
        churn(db, 3)
        clone(parent, child)
        with open_db(child, **stores) as copy, open_admin(child, **stores) as care:

            def collect() -> None:
                if is_embedded:
                    copy.collect_garbage(min_age=0)
                else:
                    care.run_gc_once(min_age=0)

            collect()
            assert len(care.read_manifest().parents) == 1
            rewrite(copy)
            expected = read_rows(copy)
            gc.collect()  # Views of before.

            collect()

            assert care.read_manifest().parents == ()
            with open_admin(parent) as admin:
                assert admin.list_checkpoints() == []
            churn(db, 12, start=80)
            assert read_rows(copy) == expected
        with open_db(child) as copy:  # Needs no parent any more.
            assert read_rows(copy) == expected


def rewrite(db: lsm.Db) -> None:
    """Compactions that replace every table of a parent."""
    external = set(db.manifest.owners())
    for turn in range(30):
        for at in range(20):
            db.put(b"p0k%02d" % at, b"turn %d " % turn + b"y" * 40)
        db.flush(lsm.FlushType.MEMTABLE)
        db.wait_idle(20)
        if not external & db.manifest.table_ids():
            return
    raise AssertionError("the parent's tables are still named")


def test_clones_of_clones_and_of_checkpoints() -> None:
    first, second, third = Named("first"), Named("second"), Named("third")
    stores = {"parent_stores": {each.url: each for each in (first, second)}}
    with open_db(first) as db:
        fill(db)
        before = read_rows(db)
        made = db.create_checkpoint()
        churn(db, 12, start=50)
        clone(first, second, made.id)
        with open_db(second, **stores) as middle:
            middle.put(b"p2own", b"second")
            middle.flush(lsm.FlushType.MEMTABLE)
            clone(second, third, **stores)
            churn(middle, 12, start=100)
            with open_admin(second, **stores) as care:
                care.run_gc_once(min_age=0)
        with open_admin(first) as admin:
            admin.delete_checkpoint(made.id)
        churn(db, 12, start=150)
    with open_db(third, **stores) as last:
        assert read_rows(last) == sorted([*before, (b"p2own", b"second")])
        churn(last, 3, start=200)
    reader = lsm.DbReader.open("memory://", tiny(), object_store=second, **stores, **layouts())
    with reader:
        assert reader.get(b"p2own") == b"second"


def test_refuses_a_place_that_is_taken() -> None:
    parent, child = Named("parent"), Named("child")
    with open_db(parent) as db:
        fill(db)
    with open_db(child) as db:
        db.put(b"p0x", b"y")
    with pytest.raises(lsm.InvalidError, match="holds a database already"):
        clone(parent, child)
    with pytest.raises(lsm.InvalidError, match="a place of its own"):
        clone(parent, parent)
    for name in [name for name in objects_of(child) if name.startswith("manifest/")]:
        child.delete(name, timeout=1)
    with pytest.raises(lsm.InvalidError, match="log objects or tables already"):
        clone(parent, child)


@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
@pytest.mark.parametrize("side", ["parent", "child"])
def test_a_call_that_was_cut_off_is_finished_by_the_next(how: CrashAt, side: str) -> None:
    at = 0
    while True:
        at += 1
        parent, child = Named("parent"), Named("child")
        with open_db(parent) as db:
            fill(db)
            before = read_rows(db)
            dying = CrashingStore(parent if side == "parent" else child, at, how)
            with contextlib.suppress(SimulatedCrash, lsm.Error):
                if side == "parent":
                    clone(dying, child)
                else:
                    clone(parent, dying)
            if not dying.is_dead:
                break
            made = clone(parent, child)
            assert clone(parent, child) == made
            churn(db, 3, start=50)
        with open_db(child, parent_stores={parent.url: parent}) as copy:
            assert read_rows(copy) == before
        with open_admin(parent) as admin:
            assert [each.id for each in admin.list_checkpoints()] == [made.id]
    assert at > 8
