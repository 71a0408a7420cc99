"""A process is overtaken in the middle of a call: a newer writer opens, flushes and collects before the call goes on.

Found by simulation; here each case is put together by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeVar

import msgspec
import pytest

import lsm
from lsm.coding import KIND_WAL_DATA, seal_envelope
from lsm.errors import CompactorFencedError, TableMissingError
from lsm.manifest.codec import encode_manifest
from lsm.object_store import MemoryStore
from lsm.object_store.names import manifest_name, wal_name
from lsm.wal.frames import WAL_VERSION, encode_mark
from lsm.wal.upload import PIPELINE_MAX
from tests.doubles import Fault, FaultyStore, WrappedStore
from tests.lsm.support import open_plain, read_rows, tiny

T = TypeVar("T")
KEYS = [b"new%d" % at for at in range(6)]


class Interrupted(WrappedStore):
    """Once, before a certain call: something else happens first."""

    def __init__(self, store: MemoryStore, call: str, name: str, happens: Callable[[], object]) -> None:
        super().__init__(store)
        self.has_happened = False
        self._call, self._name, self._happens = call, name, happens

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if not self.has_happened and call == self._call and name.startswith(self._name):
            self.has_happened = True
            self._happens()
        return request()


def take_over(store: MemoryStore, *, versions: int = 1) -> None:
    """Open, write everything to tables, merge them, and collect what is left over."""
    with open_plain(store) as db:
        for at in range(versions):
            db.put(b"new%d" % at, b"x")
            db.flush(lsm.FlushType.MEMTABLE)
        db.wait_idle(30)
        db.compact()
        db.collect_garbage(min_age=0)


def test_every_thread_of_a_fenced_writer_learns_of_it_whichever_was_told_first() -> None:
    memory = MemoryStore()
    old = open_plain(memory)
    with open_plain(memory) as new:
        with pytest.raises(lsm.FencedError):
            old._engine.manifests.check_owner()
        with pytest.raises(lsm.FencedError):
            old._engine.manifests.update(lambda manifest: manifest)

        assert new.manifest.number == new._engine.manifests.refresh().number
    old.close()


def test_opens_what_another_process_creates_at_the_same_moment() -> None:
    memory = MemoryStore()
    store = Interrupted(memory, "list", "wal/", lambda: take_over(memory))

    with open_plain(store) as db:
        assert read_rows(db) == [(b"new0", b"x")]
    assert store.has_happened


def test_creates_no_second_database_where_the_first_version_was_collected() -> None:
    memory = MemoryStore()
    store = Interrupted(memory, "put_if_absent", manifest_name(1), lambda: take_over(memory, versions=20))

    with open_plain(store) as db:
        assert store.has_happened
        assert len(read_rows(db)) == 20
        db.put(b"z", b"mine", await_durable=True)
    with open_plain(memory) as db:
        assert len(read_rows(db)) == 21


@pytest.mark.parametrize(
    "read",
    [
        lambda db: [db.get(key) for key in KEYS],
        lambda db: db.scan().fetchmany(6),
        lambda db: db.get_many(KEYS),
    ],
    ids=["get", "scan", "get_many"],
)
@pytest.mark.parametrize("through", [lambda db: db, lambda db: db.snapshot()], ids=["handle", "snapshot"])
def test_a_fenced_writer_whose_tables_were_collected_says_fenced_not_damaged(
    read: Callable[[object], object], through: Callable[[lsm.Db], object]
) -> None:
    memory = MemoryStore()
    old = open_plain(memory, tiny(block_cache_bytes=0, compaction_enabled=False))
    for key in KEYS:
        old.put(key, b"1")
        old.flush(lsm.FlushType.MEMTABLE)
    source = through(old)
    take_over(memory, versions=6)

    with pytest.raises(lsm.FencedError):
        read(source)
    with pytest.raises(lsm.FencedError):
        old.put(b"a", b"1")
    old.close()


@pytest.mark.parametrize(("call", "name"), [("put_if_absent", "wal/"), ("get", "wal/")])
def test_an_open_that_a_newer_one_overtakes_says_fenced_not_damaged(call: str, name: str) -> None:
    memory = MemoryStore()
    old = open_plain(memory)
    for at in range(4):
        old.put(b"%d" % at, b"1", await_durable=True)
    store = Interrupted(memory, call, name, lambda: take_over(memory, versions=3))

    with pytest.raises(lsm.FencedError):
        open_plain(store)
    assert store.has_happened
    with open_plain(memory) as db:
        assert len(read_rows(db)) == 7


@pytest.mark.parametrize(("call", "name"), [("list", "wal/"), ("get", "wal/")])
def test_a_reader_opens_although_the_log_is_flushed_and_collected_meanwhile(call: str, name: str) -> None:
    memory = MemoryStore()
    old = open_plain(memory)
    for at in range(5):
        old.put(b"%d" % at, b"1", await_durable=True)
    store = Interrupted(memory, call, name, lambda: take_over(memory, versions=3))
    with lsm.DbReader.open("memory://", object_store=store, refresh_interval=None) as reader:
        assert store.has_happened
        assert [key for key, _ in read_rows(reader)][:5] == [b"%d" % at for at in range(5)]
    old.close()


def test_a_refresh_shows_all_that_was_durable_although_the_log_is_collected_meanwhile() -> None:
    memory = MemoryStore()
    old = open_plain(memory)
    old.put(b"0", b"1", await_durable=True)
    store = Interrupted(memory, "get", "wal/00000000000000000004", lambda: take_over(memory, versions=3))
    with lsm.DbReader.open("memory://", object_store=store, refresh_interval=None) as reader:
        for at in range(5):
            old.put(b"%d" % at, b"1", await_durable=True)
        reader.refresh()

        assert store.has_happened
        assert [key for key, _ in read_rows(reader)][:5] == [b"%d" % at for at in range(5)]
    old.close()


def test_an_open_that_is_overtaken_puts_no_fence_in_the_newer_writers_way() -> None:
    memory = MemoryStore()
    open_plain(memory).close()
    newer: list[lsm.Db] = []

    def writes_on() -> None:
        newer.append(open_plain(memory))
        for at in range(2 * PIPELINE_MAX):
            newer[0].put(b"%02d" % at, b"x", await_durable=True)

    # Between its claim and its fence, whatever it does there first.
    claims = Interrupted(memory, "list", "wal/", writes_on)
    with pytest.raises(lsm.FencedError):
        open_plain(claims)

    assert claims.has_happened
    newer[0].put(b"after", b"x", await_durable=True)
    assert len(read_rows(newer[0])) == 2 * PIPELINE_MAX + 1
    newer[0].close()


def test_keeps_a_late_object_that_lies_on_a_fenced_writers_next_number() -> None:
    memory = MemoryStore()
    open_plain(memory).close()
    idle = open_plain(memory)
    log = sorted(name for name in memory._objects if name.startswith("wal/"))
    late = int(log[-1][4:24]) + 1
    memory.put_if_absent(
        wal_name(late),
        seal_envelope(
            wal_name(late),
            KIND_WAL_DATA,
            WAL_VERSION,
            database=idle.manifest.database,
            number=late,
            epoch=1,
            nonce=bytes(16),
            body=[encode_mark(late - 1)],
        ),
        timeout=1,
    )
    take_over(memory, versions=3)

    with pytest.raises(lsm.FencedError):
        idle.put(b"zombie", b"x", await_durable=True)
    idle.close()
    with open_plain(memory) as db:
        assert db.get(b"zombie") is None


def test_a_table_that_is_gone_while_the_store_is_down_is_not_called_damage() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory, only=("get", "head"))
    old = open_plain(store, tiny(block_cache_bytes=0, compaction_enabled=False, op_timeout=0.2))
    for key in KEYS:
        old.put(key, b"1")
        old.flush(lsm.FlushType.MEMTABLE)
    take_over(memory, versions=6)
    store.script([Fault.BUSY] * 20)

    with pytest.raises(lsm.UnavailableError):
        old.get(KEYS[0])
    store.script([])
    with pytest.raises(lsm.FencedError):
        old.get(KEYS[0])
    old.close()


def test_a_checkpoint_is_read_from_its_copy_where_something_late_has_the_number_of_its_version() -> None:
    memory = MemoryStore()
    with open_plain(memory) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
        pinned = db.create_checkpoint()
        before = read_rows(db)
    take_over(memory, versions=20)
    name = manifest_name(pinned.manifest_id)
    with lsm.Admin("memory://", object_store=memory) as admin:
        stale = msgspec.structs.replace(admin.read_manifest(pinned.manifest_id), partitions=(), checkpoints=())
        # What a process sends that slept before its commit of that version, until all behind it was collected.
        memory.put_if_absent(name, encode_manifest(stale, epoch=1, nonce=bytes(16)), timeout=1.0)

        for reading in range(2):
            with lsm.DbReader.open("memory://", object_store=memory, checkpoint=pinned.id) as reader:
                assert read_rows(reader) == before, reading
            admin.run_gc_once(min_age=0)
        assert name not in [info.name for info in memory.list("manifest/", timeout=1.0)]


def test_a_writer_that_is_overtaken_while_it_asks_for_the_time_says_fenced() -> None:
    memory = MemoryStore()
    store = Interrupted(memory, "head", "manifest/", lambda: take_over(memory, versions=20))
    db = open_plain(store)

    with pytest.raises(lsm.FencedError):
        db.store_time_ms()
    assert store.has_happened
    db.close()


def test_a_writer_that_commits_nothing_collects_what_others_let_go() -> None:
    memory = MemoryStore()
    with open_plain(memory, tiny(compaction_enabled=False)) as db, lsm.Admin("memory://", object_store=memory) as admin:
        db.put(b"a", b"1", await_durable=True)
        db.put(b"b", b"1", await_durable=True)
        pinned = admin.create_detached_checkpoint()
        db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
        log = {info.name for info in memory.list("wal/", timeout=1.0)}
        admin.delete_checkpoint(pinned.id)

        found = {garbage.name for garbage in db.collect_garbage(min_age=0)}

    assert found & log


def test_a_writer_without_a_log_says_so_where_whoever_compacts_is_gone_and_level_0_is_full() -> None:
    memory = MemoryStore()
    settings = tiny(wal_enabled=False, l0_max_ssts=3, l0_compaction_min=2, op_timeout=0.3)
    with open_plain(memory, settings) as db:
        lsm.DbCompactor.open("memory://", settings, object_store=memory).close()

        with pytest.raises(lsm.UnavailableError, match="level 0 is full"):
            for at in range(20):
                db.put(b"%d" % at, b"x", await_durable=True)


def test_a_collector_passes_over_a_first_version_that_was_created_late(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    take_over(memory, versions=6)
    with open_plain(memory) as db:
        rows = read_rows(db)
        other = msgspec.structs.replace(db.manifest, number=1, database=b"somebody else's.", partitions=())
        memory.put_if_absent(manifest_name(1), encode_manifest(other, epoch=0, nonce=bytes(16)), timeout=1.0)
        monkeypatch.setattr(
            "lsm.gc.collector.protected_by_age", lambda *_: 1
        )  # By some clock it is the one of that time.

        db.collect_garbage(min_age=60.0)
        db.collect_garbage(min_age=0)

        assert read_rows(db) == rows
        assert manifest_name(1) not in [info.name for info in memory.list("manifest/", timeout=1.0)]


def test_a_compaction_that_fails_because_another_compactor_took_over_says_so() -> None:
    memory = MemoryStore()
    with open_plain(memory, tiny(compaction_enabled=False)) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
    with lsm.DbCompactor.open("memory://", tiny(), object_store=memory) as old:
        (table,) = old._compactor._claims.manifest.partitions[0].l0
        failure = TableMissingError("the table is missing", object_name=table.name, offset=0)
        job = SimpleNamespace(parts=[], failed_elsewhere=lambda _: False)
        with pytest.raises(TableMissingError):
            old._compactor._give_up(job, failure)  # type: ignore[arg-type]
        with lsm.DbCompactor.open("memory://", tiny(), object_store=memory), pytest.raises(CompactorFencedError):
            old._compactor._give_up(job, failure)  # type: ignore[arg-type]


def test_a_reader_that_an_old_versions_second_copy_holds_back_is_overtaken_and_not_damaged() -> None:
    memory = MemoryStore()
    with open_plain(memory, tiny(compaction_enabled=False)) as db:
        for _ in range(2):
            db.put(b"new0", b"1")
            db.flush(lsm.FlushType.MEMTABLE)
    with lsm.DbReader.open(
        "memory://", tiny(block_cache_bytes=0), object_store=memory, refresh_interval=None
    ) as reader:
        name = manifest_name(reader.manifest.number)
        copy = memory.get(name, timeout=1.0)
        take_over(memory, versions=12)
        memory.put_if_absent(name, [copy], timeout=1.0)

        with pytest.raises(lsm.SnapshotExpiredError):
            read_rows(reader)
        assert len(read_rows(reader)) == 12


class HeldTables(WrappedStore):
    """Tables are not stored before they may be."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.may_go = threading.Event()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "put_if_absent" and name.startswith("sst/"):
            assert self.may_go.wait(30)
        return request()


def test_a_checkpoint_from_outside_holds_the_log_behind_what_a_flush_and_a_collection_took_meanwhile() -> None:
    memory = MemoryStore()
    held = HeldTables(memory)
    with open_plain(held, tiny(l0_sst_size_bytes=1 << 20)) as db:
        for _ in range(2):
            first = db.put(b"a", b"in tables", await_durable=True)
        db._engine.writer.freeze()
        db.put(b"b", b"in the log", await_durable=True)

        def collects() -> None:
            """The oldest objects of the log go, between a look at the manifest and a listing of the log."""
            held.may_go.set()
            db._engine.flusher.wait_flushed(first.seqnum)
            db.collect_garbage(min_age=0)

        store = Interrupted(memory, "list", "wal/", collects)
        with lsm.Admin("memory://", object_store=store) as admin:
            pinned = admin.create_detached_checkpoint()

        assert store.has_happened
        with lsm.DbReader.open("memory://", object_store=memory, checkpoint=pinned.id) as reader:
            assert read_rows(reader) == [(b"a", b"in tables"), (b"b", b"in the log")]


def test_a_compaction_whose_sources_an_earlier_attempt_has_merged_is_planned_anew() -> None:
    """The reply to its commit was lost, and a collector elsewhere took what it had merged."""
    memory = MemoryStore()
    with open_plain(memory, tiny(compaction_enabled=False)) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
    with lsm.DbCompactor.open("memory://", tiny(), object_store=memory) as compactor:
        failure = TableMissingError("the table is missing", object_name="sst/1.sst", offset=0)

        compactor._compactor._give_up(SimpleNamespace(parts=[], failed_elsewhere=lambda _: False), failure)  # type: ignore[arg-type]

        assert compactor._compactor.last_failure is failure
        assert compactor.run_once(20)
