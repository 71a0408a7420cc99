"""Collectors beside writers, readers, checkpoints, clones and each other: nothing needed goes, and nothing else stays."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.object_store import LocalStore, MemoryStore
from lsm.object_store.names import COUNTER_BITS, PROBE
from tests.doubles import CountingStore, CrashAt, CrashingStore, SimulatedCrash, number_of
from tests.lsm.audit.test_verify import verify
from tests.lsm.checkpoint.test_checkpoints import TEN_YEARS_MS, Clocks, churn, open_admin
from tests.lsm.checkpoint.test_clone import Named
from tests.lsm.support import FAMILIES, append, layouts, objects_of, open_db, open_plain, read_rows, tiny
from tests.lsm.test_fencing import HeldStore, abandoned


def reachable(store: MemoryStore) -> set[str]:
    """What must be stored, worked out from the manifest alone, and nothing that need not."""
    with open_admin(store) as admin:
        newest = admin.read_manifest()
        kept = {newest.number, *(each.manifest_id for each in newest.checkpoints)}
        numbers = set().union(*(admin.read_manifest(each).table_ids() for each in kept))
    names = set()
    for name in objects_of(store):
        if name == PROBE:
            names.add(name)
            continue
        number = number_of(name)
        kind = name.split("/")[0]
        assert number is not None
        if (
            (kind == "sst" and number in numbers)
            or (kind == "manifest" and number > newest.number - 8)
            or (kind == "pinned" and number in kept)
            or (
                kind == "wal"
                and (
                    number >= newest.replay_after
                    or number in newest.fences
                    or any(each.needs_log(number) for each in newest.checkpoints)
                )
            )
        ):
            names.add(name)
    return names


def test_the_stored_set_is_the_reachable_set_after_a_quiet_cycle() -> None:
    store = MemoryStore()
    with open_db(store) as db:
        churn(db, 6)
        db.create_checkpoint()
        churn(db, 12, start=50)
    with open_db(store) as db, open_admin(store) as admin:
        churn(db, 3, start=100)
        admin.run_gc_once(min_age=0)
        assert set(objects_of(store)) == reachable(store)
        assert admin.run_gc_once(min_age=0) == []
        for each in admin.list_checkpoints():
            admin.delete_checkpoint(each.id)
        db.flush(lsm.FlushType.MEMTABLE)
        admin.run_gc_once(min_age=0)
        admin.run_gc_once(min_age=0)
        assert set(objects_of(store)) == reachable(store)
        assert not [name for name in objects_of(store) if name.startswith("pinned/")]
    assert verify(store).problems == []


def test_a_clone_and_its_parent_keep_what_they_need_and_nothing_else() -> None:
    parent, child = Named("parent"), Named("child")
    stores = {"parent_stores": {parent.url: parent}}
    with open_db(parent) as db:
        churn(db, 3)
        db.put(b"p1only", b"a table of its own")
        db.flush(lsm.FlushType.MEMTABLE)
        with open_admin(parent) as admin:
            admin.create_clone("memory://", object_store=child)
            churn(db, 12, start=50)
            with open_db(child, **stores) as copy, open_admin(child, **stores) as care:
                churn(copy, 12, start=80)
                for each, store in ((admin, parent), (care, child)):
                    while each.run_gc_once(min_age=0):
                        pass
                    assert set(objects_of(store)) == reachable(store)
                assert care.read_manifest().parents, "the clone still reads a table of its parent"
                assert copy.get(b"p1only") == b"a table of its own"


def test_what_a_dead_writer_left_goes_without_a_new_one() -> None:
    store = MemoryStore()
    with abandoned(open_plain(store)) as old:
        old.put(b"a", b"1", await_durable=True)
        store.put_if_absent(f"sst/{(1 << COUNTER_BITS) + 999:020d}.sst", [b"never committed"], timeout=1)
        with open_plain(store) as db:
            db.put(b"b", b"2", await_durable=True)
            with open_admin(store) as admin:
                before = admin.read_manifest().number
                gone = admin.run_gc_once(min_age=0)
                assert "epoch 1 is over" in next(each.reason for each in gone if each.name.startswith("sst/"))
                assert admin.read_manifest().number <= before + 1


def test_leaves_tables_on_their_way_alone() -> None:
    """Tables are uploaded, their commit is held: a collector elsewhere must neither take nor condemn them."""
    memory = MemoryStore()
    store = HeldStore(memory, lambda name: name.startswith("manifest/") and armed.is_set())
    armed = threading.Event()
    with open_db(store, tiny(compaction_enabled=False)) as db, open_admin(memory) as admin:
        churn(db, 3)
        db.put(b"p0k", b"on its way")
        armed.set()
        flushing = threading.Thread(target=db.flush, args=(lsm.FlushType.MEMTABLE,))
        flushing.start()
        assert store.arrived.wait(20)
        uploaded = {name for name in objects_of(memory) if name.startswith("sst/")}

        admin.create_detached_checkpoint()  # Another commit in between: the writer's meets a taken number.
        admin.run_gc_once(min_age=0)

        assert {name for name in objects_of(memory) if name.startswith("sst/")} == uploaded
        store.release()
        flushing.join(20)
        assert {name for name in objects_of(memory) if name.startswith("sst/")} == uploaded  # None was built again.
        assert db.get(b"p0k") == b"on its way"
    assert verify(memory).problems == []


def test_a_writer_that_slept_through_a_takeover_publishes_nothing() -> None:
    memory = MemoryStore()
    armed = threading.Event()
    store = HeldStore(memory, lambda name: name.startswith("manifest/") and armed.is_set())
    with abandoned(open_db(store, tiny(op_timeout=20))) as old, open_admin(memory) as admin:
        churn(old, 2)
        old.put(b"p0k", b"durable", await_durable=True)
        armed.set()
        failures: list[BaseException] = []

        def flush() -> None:
            try:
                old.flush(lsm.FlushType.MEMTABLE)
            except lsm.Error as error:
                failures.append(error)

        flushing = threading.Thread(target=flush)
        flushing.start()
        assert store.arrived.wait(20)
        with open_db(memory) as new:
            churn(new, 12, start=50)
            admin.run_gc_once(min_age=0)
            store.release()
            flushing.join(20)
            assert isinstance(failures[0], lsm.FencedError)
            admin.run_gc_once(min_age=0)
            assert new.get(b"p0k") == b"durable"
            expected = read_rows(new)
    assert verify(memory).problems == []
    with open_db(memory) as db:
        assert read_rows(db) == expected


@pytest.mark.parametrize("jump", [TEN_YEARS_MS, -TEN_YEARS_MS])
def test_two_collectors_with_wrong_clocks_beside_a_writer(jump: int) -> None:
    store = MemoryStore()
    wrong = Clocks()
    wrong.wall_ms += jump
    done = threading.Event()
    failures: list[BaseException] = []

    def collect(runtime: lsm.Runtime | None) -> None:
        try:
            with open_admin(store, runtime=runtime) as admin:
                while not done.is_set():
                    admin.run_gc_once(min_age=0)
        except BaseException as error:
            failures.append(error)

    with open_db(store) as db:
        db.put(b"p0first", b"kept")
        made = db.create_checkpoint()
        collectors = [threading.Thread(target=collect, args=(runtime,)) for runtime in (None, wrong)]
        for thread in collectors:
            thread.start()
        try:
            for turn in range(15):
                append(db, FAMILIES[0], [(b"s", b"%d" % turn)], turn)
                churn(db, 1, start=turn)
        finally:
            done.set()
            for thread in collectors:
                thread.join(30)
        assert failures == []
        expected = read_rows(db)
        assert len([row for row in expected if row[0].startswith(FAMILIES[0])]) == 15
        with open_admin(store) as admin:
            admin.run_gc_once(min_age=0)
    assert verify(store).problems == []
    with open_db(store) as db:
        assert read_rows(db) == expected
    with lsm.DbReader.open("memory://", tiny(), object_store=store, checkpoint=made.id, **layouts()) as reader:
        assert reader.get(b"p0first") == b"kept"


def test_a_read_under_way_gets_all_or_is_told() -> None:
    store = MemoryStore()
    with open_db(store, tiny(block_cache_bytes=0, meta_cache_bytes=0)) as db, open_admin(store) as admin:
        churn(db, 3)
        rows = iter(db.scan())
        first = next(rows)
        snapshot = db.snapshot()
        churn(db, 6, start=50)  # With this process's own collections: the scan is safe from those.
        assert next(rows) > first
        admin.run_gc_once(min_age=0)
        with pytest.raises(lsm.SnapshotExpiredError, match="collected from outside"):
            list(snapshot.scan())
        snapshot.close()
        assert len(list(db.scan())) == 20


def test_min_age_spares_what_was_in_use_a_moment_ago(tmp_path: Path) -> None:
    """Old tables that were compacted away just now: their own age says nothing about who still reads them."""
    with open_db(LocalStore(tmp_path)) as db:
        churn(db, 3)
        expected = read_rows(db)
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 7200))
    tables = set((tmp_path / "sst").iterdir())
    reader = lsm.DbReader.open(
        tmp_path, tiny(block_cache_bytes=0, meta_cache_bytes=0), refresh_interval=None, **layouts()
    )
    with reader, open_db(LocalStore(tmp_path)) as db, open_admin(LocalStore(tmp_path)) as admin:
        for turn in range(12):
            db.put(b"p0k00", b"turn %d" % turn)
            db.flush(lsm.FlushType.MEMTABLE)
            db.wait_idle(20)
        assert not tables & {tmp_path / each.name for each in db.manifest.partitions[0].tables()}

        admin.run_gc_once(min_age=3600)
        assert tables <= set((tmp_path / "sst").iterdir())
        assert read_rows(reader) == expected
        admin.run_gc_once(min_age=0)
        assert not tables & set((tmp_path / "sst").iterdir())


@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
def test_a_collection_that_dies_anywhere_harms_nothing(how: CrashAt) -> None:
    """At every store call of a collection that has everything to do: horizon, expiry, copy, tables, log, manifests."""
    image = MemoryStore()
    clocks = Clocks()
    with open_db(image) as db:
        churn(db, 2)
        kept = db.create_checkpoint()
        at_checkpoint = read_rows(db)
        for turn in range(12):
            db.put(b"p1k", b"%d" % turn)
            db.flush(lsm.FlushType.MEMTABLE)
        db.wait_idle(20)
        expected = read_rows(db)
    with open_admin(image, runtime=clocks) as admin:
        admin.create_detached_checkpoint(lifetime=1)
    clocks.pass_by(TEN_YEARS_MS / 1000)
    at = 0
    deleted: set[str] = set()
    while True:
        at += 1
        store = MemoryStore()
        objects_of(store).update(objects_of(image))
        dying = CrashingStore(store, at, how)
        with contextlib.suppress(SimulatedCrash, lsm.Error), open_admin(dying, runtime=clocks) as admin:
            admin.run_gc_once(min_age=0, trust_clock=True)
        assert verify(store).problems == [], at
        if not dying.is_dead:
            deleted = {name.split("/")[0] for name in objects_of(image).keys() - objects_of(store).keys()}
            break
        with open_admin(store, runtime=clocks) as admin:
            admin.run_gc_once(min_age=0, trust_clock=True)
            assert [each.id for each in admin.list_checkpoints()] == [kept.id]
        assert set(objects_of(store)) == reachable(store), at
        with lsm.DbReader.open("memory://", tiny(), object_store=store, checkpoint=kept.id, **layouts()) as reader:
            assert read_rows(reader) == at_checkpoint
    assert at > 30
    assert deleted == {"sst", "wal", "manifest"}
    with open_db(store) as db:
        assert read_rows(db) == expected


def test_refuses_to_delete_anything_where_a_pinned_version_is_lost() -> None:
    store = MemoryStore()
    with open_db(store) as db:
        churn(db, 2)
        made = db.create_checkpoint()
        churn(db, 12, start=50)
    for name in list(objects_of(store)):
        if number_of(name) == made.manifest_id and not name.startswith("wal/"):
            store.delete(name, timeout=1)
    before = set(objects_of(store))
    store.put_if_absent("sst/00000000000000000001.sst", [b"left"], timeout=1)

    with open_admin(store) as admin, pytest.raises(lsm.CorruptionError, match="a checkpoint needs it"):
        admin.run_gc_once(min_age=0)
    assert set(objects_of(store)) >= before


def test_removes_what_a_killed_create_left_and_disturbs_none_under_way(tmp_path: Any, monkeypatch: Any) -> None:
    store = LocalStore(tmp_path / "db", use_tmpfile=False)
    with open_plain(store) as db:
        db.put(b"a", b"1", await_durable=True)
        (tmp_path / "db" / "wal" / ".tmp-77-00000000deadbeef").write_bytes(b"half")
        link = os.link
        collected: list[lsm.Garbage] = []

        def collect_first(source: str, target: str, **options: Any) -> None:
            if not collected:
                with open_admin(LocalStore(tmp_path / "db")) as admin:
                    collected.extend(admin.run_gc_once(min_age=0))
            link(source, target, **options)

        monkeypatch.setattr(os, "link", collect_first)
        db.put(b"b", b"2", await_durable=True)
        monkeypatch.undo()
        names = [each.name for each in collected if ".tmp-" in each.name]
        assert len(names) == 2
        assert "wal/.tmp-77-00000000deadbeef" in names
        assert read_rows(db) == [(b"a", b"1"), (b"b", b"2")]
    assert not list((tmp_path / "db").rglob(".tmp-*"))


def test_costs_five_lists_where_there_is_nothing_to_do() -> None:
    store = CountingStore(MemoryStore())
    with open_plain(store) as db:
        db.put(b"a", b"1", await_durable=True)
        db.collect_garbage(min_age=0)
        store.reset()
        assert db.collect_garbage(min_age=0) == []
        assert store.counts == {"list": 5}
