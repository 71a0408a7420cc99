"""Checkpoints: they read the same bytes for as long as they stand, and nobody's clock takes them down early."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from lsm.object_store.names import pinned_name
from tests.doubles import CountingStore, CrashAt, CrashingStore, SimulatedCrash
from tests.lsm.support import (
    FAMILIES,
    Lists,
    TwoBytes,
    abandon,
    append,
    objects_of,
    open_db,
    open_plain,
    read_rows,
    tiny,
)

TEN_YEARS_MS = 10 * 365 * 86400 * 1000


class Clocks(lsm.Runtime):
    """A wall clock that jumps as told and a monotonic one that only the test advances."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_ms = 1_700_000_000_000
        self.seconds = 100.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall_ms += int(seconds * 1000)


def open_admin(store: ObjectStore, **components: Any) -> lsm.Admin:
    return lsm.Admin("memory://", object_store=store, settings=tiny(), **components)


def open_reader(store: ObjectStore, **options: Any) -> lsm.DbReader:
    return lsm.DbReader.open(
        "memory://",
        tiny(),
        object_store=store,
        prefix_extractor=TwoBytes(),
        series_layout=Lists(),
        refresh_interval=None,
        **options,
    )


def stored(store: ObjectStore) -> lsm.Manifest:
    with open_admin(store) as admin:
        return admin.read_manifest()


def churn(db: lsm.Db, turns: int, start: int = 0) -> None:
    """Flushes, compactions and collections that replace every table there was."""
    for turn in range(start, start + turns):
        for at in range(20):
            db.put(b"p0k%02d" % at, b"turn %d " % turn + b"x" * 40)
        db.flush(lsm.FlushType.MEMTABLE)
        db.wait_idle(20)
        db.collect_garbage(min_age=0)


def test_reads_the_same_bytes_whatever_happens_to_the_database() -> None:
    store = MemoryStore()
    with open_db(store) as db:
        churn(db, 3)
        append(db, FAMILIES[0], [(b"s", b"in a table")], 0)
        db.flush(lsm.FlushType.MEMTABLE)
        db.put(b"p1log", b"only in the log")
        append(db, FAMILIES[0], [(b"s", b"only in the log")], 1)
        before = read_rows(db)
        made = db.create_checkpoint(name="before")
        for key, _ in before:
            if key[2:3] != b"L":
                db.delete(key)
        churn(db, 12, start=100)

        with open_reader(store, checkpoint=made.id) as reader:
            assert read_rows(reader) == before
            assert [row for rows in reader.scan_series(FAMILIES[0], b"s") for row in zip(*rows, strict=True)] == [
                (0, b"in a table"),
                (1, b"only in the log"),
            ]
            churn(db, 3, start=200)
            reader.refresh()
            assert read_rows(reader) == before
        assert pinned_name(made.manifest_id) in objects_of(store)
    with open_db(store) as db:
        churn(db, 3, start=300)
        with open_reader(store, checkpoint=made.id) as reader:
            assert read_rows(reader) == before


def test_holds_what_was_written_before_without_a_log_too() -> None:
    store = MemoryStore()
    with open_plain(store, tiny(wal_enabled=False)) as db:
        db.put(b"a", b"1")
        made = db.create_checkpoint()
        db.put(b"a", b"2")
    with lsm.DbReader.open("memory://", object_store=store, checkpoint=made.id) as reader:
        assert read_rows(reader) == [(b"a", b"1")]


def test_lets_everything_go_once_it_is_deleted() -> None:
    store = MemoryStore()
    with open_plain(store) as db, open_admin(store) as admin:
        db.put(b"a", b"1")
        made = db.create_checkpoint(name="one")
        churn(db, 12)
        reader = lsm.DbReader.open("memory://", object_store=store, checkpoint=made.id, refresh_interval=None)
        assert [each.id for each in admin.list_checkpoints("one")] == [made.id]
        assert admin.list_checkpoints("two") == []

        admin.delete_checkpoint(made.id)
        admin.delete_checkpoint(made.id)
        churn(db, 12)

        assert pinned_name(made.manifest_id) not in objects_of(store)
        with pytest.raises(lsm.InvalidError, match="no checkpoint"):
            lsm.DbReader.open("memory://", object_store=store, checkpoint=made.id)
        assert reader.get(b"a") == b"1"  # From the log, in memory: a whole answer, or an error.
        reader.close()


def test_a_reader_whose_checkpoint_is_deleted_says_so() -> None:
    store = MemoryStore()
    with open_plain(store) as db, open_admin(store) as admin:
        churn(db, 2)
        made = db.create_checkpoint()
        with lsm.DbReader.open("memory://", tiny(), object_store=store, checkpoint=made.id) as reader:
            admin.delete_checkpoint(made.id)
            churn(db, 12)
            with pytest.raises(lsm.SnapshotExpiredError, match=made.id):
                read_rows(reader)


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [TEN_YEARS_MS, -TEN_YEARS_MS, 0])
def test_a_jumping_clock_takes_none_down_early(jump: int) -> None:
    store, clocks = MemoryStore(), Clocks()
    with open_plain(store, runtime=clocks) as db:
        db.put(b"a", b"1")
        for_ever = db.create_checkpoint()
        hour = db.create_checkpoint(lifetime=3600)
        clocks.wall_ms += jump
        for _ in range(3):
            clocks.pass_by(1190)
            db.collect_garbage(min_age=0)
            assert {each.id for each in stored(store).checkpoints} == {for_ever.id, hour.id}
        clocks.pass_by(3600)
        clocks.wall_ms += TEN_YEARS_MS

        db.collect_garbage(min_age=0)

        assert [each.id for each in stored(store).checkpoints] == [for_ever.id]


def test_a_refresh_begins_the_lifetime_anew() -> None:
    store, clocks = MemoryStore(), Clocks()
    with open_plain(store, runtime=clocks) as db, open_admin(store, runtime=clocks) as admin:
        db.put(b"a", b"1")
        made = db.create_checkpoint(lifetime=100)
        db.collect_garbage(min_age=0)
        for _ in range(5):
            clocks.pass_by(90)
            refreshed = admin.refresh_checkpoint(made.id)
            db.put(b"b", b"2")
            db.flush(lsm.FlushType.MEMTABLE)  # Learns of the refresh with its commit.
            db.collect_garbage(min_age=0)
            assert stored(store).checkpoints == (refreshed,)
        assert admin.refresh_checkpoint(made.id, lifetime=500).lifetime_ms == 500_000
        clocks.pass_by(499)
        assert admin.run_gc_once(min_age=0) is not None
        assert len(admin.list_checkpoints()) == 1


def test_a_collector_that_runs_once_believes_a_clock_only_if_told_to() -> None:
    store, clocks = MemoryStore(), Clocks()
    with open_plain(store) as db:
        db.put(b"a", b"1")
    with open_admin(store, runtime=clocks) as admin:
        made = admin.create_detached_checkpoint(lifetime=10)
        clocks.pass_by(11)

        admin.run_gc_once(min_age=0)
        assert admin.list_checkpoints() == [made]
        told = admin.run_gc_once(min_age=0, trust_clock=True, dry_run=True)
        assert [each.reason for each in told if each.name == made.id] == ["the checkpoint is expired"]
        assert admin.list_checkpoints() == [made]

        admin.run_gc_once(min_age=0, trust_clock=True)
        assert admin.list_checkpoints() == []


# -- from outside -----------------------------------------------------------------------------------------------------


def test_a_detached_one_holds_what_is_durable_and_disturbs_nobody() -> None:
    store = MemoryStore()
    with open_plain(store) as db, open_admin(store) as admin:
        db.put(b"a", b"durable", await_durable=True)
        db.put(b"b", b"not durable")
        made = admin.create_detached_checkpoint(name="outside")
        db.put(b"a", b"later", await_durable=True)
        copy = admin.create_detached_checkpoint(source=made.id, lifetime=60)
        assert (copy.manifest_id, copy.wal_last) == (made.manifest_id, made.wal_last)
        admin.delete_checkpoint(made.id)
        churn(db, 12)

        with lsm.DbReader.open("memory://", object_store=store, checkpoint=copy.id) as reader:
            assert read_rows(reader) == [(b"a", b"durable")]
        assert db.get(b"a") == b"later"
    assert admin.read_manifest(copy.manifest_id).number == copy.manifest_id


def test_refuses_what_cannot_be() -> None:
    store = MemoryStore()
    with open_plain(store) as db, open_admin(store) as admin:
        for lifetime in (0, -1, "x", True, 1e12):
            with pytest.raises(lsm.InvalidError, match="lifetime"):
                db.create_checkpoint(lifetime=lifetime)  # type: ignore[arg-type]
        for bad in ("", "xyz", 5, None):
            with pytest.raises(lsm.InvalidError, match="checkpoint id"):
                admin.refresh_checkpoint(bad)  # type: ignore[arg-type]
        with pytest.raises(lsm.InvalidError, match="no checkpoint"):
            admin.create_detached_checkpoint(source="0" * 32)
        with pytest.raises(lsm.InvalidError, match="no manifest"):
            admin.read_manifest(999)
    with pytest.raises(lsm.UnavailableError, match="nobody has written"):
        open_admin(MemoryStore()).list_checkpoints()


def test_costs_a_flush_and_a_commit() -> None:
    store = CountingStore(MemoryStore())
    with open_plain(store) as db:
        db.put(b"a", b"1", await_durable=True)
        store.reset()
        db.create_checkpoint()
        assert store.counts == {"put_if_absent": 1, "get_range": 1, "list": 1}


@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
@pytest.mark.parametrize("what", ["create", "detached", "refresh", "delete"])
def test_a_crash_at_any_call_leaves_a_whole_checkpoint_or_none(how: CrashAt, what: str) -> None:
    at = 0
    while True:
        at += 1
        memory = MemoryStore()
        with open_plain(memory) as db:
            db.put(b"a", b"1")
            first = db.create_checkpoint(lifetime=100)
        db = open_plain(store := CrashingStore(memory))
        db.put(b"b", b"2", await_durable=True)
        store.die_at(store.calls + at, how)
        with contextlib.suppress(SimulatedCrash, lsm.Error), open_admin(store) as admin:
            if what == "create":
                db.create_checkpoint()
            elif what == "detached":
                admin.create_detached_checkpoint()
            elif what == "refresh":
                admin.refresh_checkpoint(first.id, lifetime=500)
            else:
                admin.delete_checkpoint(first.id)
        was_cut_off = store.is_dead
        store.kill()
        abandon(db)
        with open_plain(memory) as db:
            assert read_rows(db) == [(b"a", b"1"), (b"b", b"2")]
            churn(db, 9)
        found = {each.id: each for each in stored(memory).checkpoints}
        for each in found:
            with lsm.DbReader.open("memory://", object_store=memory, checkpoint=each) as reader:
                rows = [(b"a", b"1")] if each == first.id else [(b"a", b"1"), (b"b", b"2")]
                assert read_rows(reader) == rows
        if not was_cut_off:
            assert len(found) == {"create": 2, "detached": 2, "refresh": 1, "delete": 0}[what]
            break
    assert at > 2
