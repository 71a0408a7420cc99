"""Many threads, one handle: nothing torn, nothing lost, nothing stuck, and failures reach whoever comes next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore, StoreFault
from tests.doubles import WrappedStore
from tests.lsm.support import FAMILIES, append, engine_threads, open_db, open_plain, read_rows, read_series, tiny

T = TypeVar("T")


def together(*targets: Callable[[], object]) -> None:
    """Run all at once; the first exception of any is raised here."""
    failures: list[BaseException] = []

    def run(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


@pytest.mark.parametrize("uploads", [1, 4])
def test_never_shows_part_of_a_batch(uploads: int) -> None:
    store = MemoryStore()
    wanted = [b"p%d" % part + b"k%d" % at for part in range(3) for at in range(4)]
    done = threading.Event()
    torn: list[object] = []

    with open_db(store, tiny(wal_uploads_max=uploads, sst_block_size=64)) as db:
        db.write(_batch(wanted, b"start"))

        def write(mark: int) -> None:
            for at in range(40):
                handle = db.write(_batch(wanted, b"%d-%d" % (mark, at)))
                if at % 4 == mark % 4:
                    handle.await_durable()

        def read() -> None:
            while not done.is_set():
                seen = set(db.get_many(wanted))
                with db.snapshot() as snapshot:
                    seen_twice = {value for key, value in read_rows(snapshot) if key in wanted}
                    again = set(snapshot.get_many(wanted))
                if len(seen) != 1 or len(seen_twice) != 1 or seen_twice != again:
                    torn.append((seen, seen_twice, again))
                    return

        def write_all() -> None:
            try:
                together(*(lambda mark=mark: write(mark) for mark in range(8)))
            finally:
                done.set()

        together(write_all, read, read, lambda: [db.collect_garbage(min_age=0) for _ in range(20)])
        assert torn == []
        final = db.get_many(wanted)
    with open_db(store) as db:
        assert db.get_many(wanted) == final


def _batch(keys: list[bytes], value: bytes) -> lsm.WriteBatch:
    batch = lsm.WriteBatch()
    for key in keys:
        batch.put(key, value)
    return batch


def test_keeps_what_many_threads_waited_for() -> None:
    store = MemoryStore()
    db = open_plain(store, tiny(wal_uploads_max=4))

    def write(mark: int) -> None:
        for at in range(60):
            db.put(b"%d-%03d" % (mark, at), b"x" * 20, await_durable=True)

    together(*(lambda mark=mark: write(mark) for mark in range(8)))

    with open_plain(store) as again:  # Taken over, not closed.
        assert len(read_rows(again)) == 8 * 60
    db.close()


def test_scans_series_whole_while_they_grow() -> None:
    store = MemoryStore()
    done = threading.Event()
    with open_db(store, tiny(flush_interval=0.01)) as db:

        def write() -> None:
            try:
                for at in range(300):
                    append(db, FAMILIES[0], [(b"a", b"%d" % at), (b"b", b"%d" % at)], 2 * at)
            finally:
                done.set()

        def read() -> None:
            last = 0
            while not done.is_set():
                one = read_series(db, FAMILIES[0], b"a")
                two = read_series(db, FAMILIES[0], b"b")
                assert one == [(2 * at, b"%d" % at) for at in range(len(one))]
                assert len(two) >= len(one) >= last
                assert db.count_series(FAMILIES[0], b"a") >= len(one)
                last = len(one)

        together(write, read, read)
        assert db.wait_idle(30)
        assert len(read_series(db, FAMILIES[0], b"a")) == 300


class SwitchedStore(WrappedStore):
    """Refuses creates of one kind of object while switched off."""

    def __init__(self, store: MemoryStore, kind: str) -> None:
        super().__init__(store)
        self.kind = kind
        self.is_off = False
        self.refused = threading.Event()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if self.is_off and call == "put_if_absent" and name.startswith(self.kind):
            self.refused.set()
            raise StoreFault(f"{name}: injected", transient=False)
        return request()


@pytest.mark.parametrize("kind", ["wal/", "sst/", "manifest/"])
def test_tells_the_next_caller_of_an_outage_and_goes_on_after_it(kind: str) -> None:
    store = SwitchedStore(MemoryStore(), kind)
    with open_plain(store) as db:
        db.put(b"before", b"1", await_durable=True)
        store.is_off = True
        db.put(b"during", b"2")
        with pytest.raises(lsm.UnavailableError):
            db.flush(lsm.FlushType.MEMTABLE)
        store.is_off = False

        db.flush(lsm.FlushType.MEMTABLE)
        db.put(b"after", b"3", await_durable=True)

    with open_plain(store.store) as again:
        assert read_rows(again) == [(b"after", b"3"), (b"before", b"1"), (b"during", b"2")]


@pytest.mark.parametrize("kind", ["wal/", "sst/", "manifest/"])
def test_closes_with_an_error_while_the_store_is_down_and_ends_its_threads_once_a_close_succeeds(kind: str) -> None:
    before = set(engine_threads())
    store = SwitchedStore(MemoryStore(), kind)
    db = open_plain(store, tiny(flush_interval=0.01))
    store.is_off = True
    db.put(b"a", b"1")

    for _ in range(2):
        with pytest.raises(lsm.UnavailableError):
            db.close()
        with pytest.raises(lsm.ClosedError):
            db.put(b"b", b"2")
    store.is_off = False
    db.close()
    db.close()

    with pytest.raises(lsm.ClosedError):
        db.get(b"a")
    assert [
        thread for thread in engine_threads() if thread not in before and not thread.name.startswith("lsm-io")
    ] == []


def test_wakes_a_flush_when_the_compactor_gives_up() -> None:
    class Mistaken:
        def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> list[lsm.CompactionSpec]:
            asked.set()
            assert go.wait(30)
            raise lsm.InternalError("a mistake in the policy")

    asked, go, full = threading.Event(), threading.Event(), threading.Event()
    go.set()
    scheduler = _Exchanged()
    db = open_plain(MemoryStore(), tiny(l0_max_ssts=3, l0_compaction_min=2, l0_compaction_max=2), scheduler=scheduler)
    scheduler.present = Mistaken()
    go.clear()
    db.wake_compactor()
    assert asked.wait(30)

    def flush() -> None:
        for at in range(3):
            db.put(b"%d" % at, b"x")
            db.flush(lsm.FlushType.MEMTABLE)
        db.put(b"too much", b"x")
        full.set()
        with pytest.raises(lsm.InternalError):  # Level 0 is full: only a compaction could end this.
            db.flush(lsm.FlushType.MEMTABLE)

    def fail() -> None:
        assert full.wait(30)
        go.set()

    together(flush, fail)
    with pytest.raises(lsm.InternalError):
        db.put(b"a", b"1")
    with pytest.raises(lsm.InternalError):
        db.close()


class _Nothing:
    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> list[lsm.CompactionSpec]:
        return []


class _Exchanged:
    """Proposes nothing, until the test puts another scheduler in its place."""

    def __init__(self) -> None:
        self.present: lsm.CompactionScheduler = _Nothing()

    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> Sequence[lsm.CompactionSpec]:
        return self.present.propose(manifest, busy)


def test_closes_although_level_0_is_full_and_nobody_compacts() -> None:
    store = MemoryStore()
    db = open_plain(store, tiny(l0_max_ssts=3), scheduler=_Nothing())
    for at in range(8):
        db.put(b"%d" % at, b"x")
        db._engine.writer.freeze()

    together(db.close)

    with open_plain(store) as again:
        assert len(read_rows(again)) == 8


def test_loses_nothing_it_accepted_while_it_was_being_closed() -> None:
    for _ in range(10):
        store = MemoryStore()
        db = open_plain(store, tiny(l0_sst_size_bytes=1 << 20))
        accepted: list[bytes] = []
        started = threading.Event()

        def write(
            mark: int, db: lsm.Db = db, accepted: list[bytes] = accepted, started: threading.Event = started
        ) -> None:
            for at in range(10_000):
                key = b"%d-%05d" % (mark, at)
                try:
                    db.put(key, b"x")
                except lsm.ClosedError:
                    return
                accepted.append(key)
                if at == 20:
                    started.set()

        def close(db: lsm.Db = db, started: threading.Event = started) -> None:
            assert started.wait(30)
            db.close()

        together(*(lambda mark=mark: write(mark) for mark in range(3)), close)

        with open_plain(store) as again:
            assert [key for key, _ in read_rows(again)] == sorted(accepted)


def test_tries_a_move_again_whose_commit_failed() -> None:
    store = SwitchedStore(MemoryStore(), "manifest/")
    scheduler = _Exchanged()
    with open_plain(store, scheduler=scheduler) as db:
        for key in (b"a", b"b"):
            db.put(key, b"x")
            db.flush(lsm.FlushType.MEMTABLE)
        store.is_off = True
        scheduler.present = lsm.LeveledScheduler(l0_min=2)
        db.wake_compactor()
        assert store.refused.wait(30)
        store.is_off = False

        assert db.wait_idle(30)
        assert db.manifest.partitions[0].l0 == ()
        assert db.get_many([b"a", b"b"]) == [b"x", b"x"]


def test_refuses_a_proposal_that_would_lose_rows_and_says_so_where_flushes_wait_for_it() -> None:
    class Mistaken:
        def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> list[lsm.CompactionSpec]:
            return [lsm.CompactionSpec(each.prefix, (each.l0[0].number,), (), 1) for each in manifest.partitions]

    settings = tiny(l0_max_ssts=2, l0_compaction_min=1, l0_compaction_max=2, op_timeout=0.3)
    scheduler = _Exchanged()
    db = open_plain(MemoryStore(), settings, scheduler=scheduler)
    for at in range(2):
        db.put(b"%d" % at, b"x")
        db.flush(lsm.FlushType.MEMTABLE)

    scheduler.present = Mistaken()
    db.wake_compactor()
    assert db.wait_idle(30)
    db.put(b"more", b"x")

    assert db.status().refused_compactions > 0
    with pytest.raises(lsm.UnavailableError, match="level 0"):
        db.flush(lsm.FlushType.MEMTABLE)
    assert db.get(b"0") == b"x"
    db.close()


def test_gives_up_waiting_for_durability_while_the_store_hangs() -> None:
    class Hanging(WrappedStore):
        def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
            if name.startswith("wal/"):
                assert healed.wait(60)
            super().put_if_absent(name, parts, timeout=timeout)

    healed = threading.Event()
    healed.set()
    db = open_plain(Hanging(MemoryStore()), tiny())
    healed.clear()

    handle = db.put(b"a", b"1")
    with pytest.raises(TimeoutError):
        handle.await_durable(timeout=0.02)

    assert db.durable_seq < handle.seqnum
    healed.set()
    handle.await_durable(timeout=60)
    db.close()


def test_builds_no_table_before_the_log_covers_its_rows() -> None:
    class Hanging(WrappedStore):
        def put_if_absent(self, name: str, parts: Sequence[bytes], *, timeout: float) -> None:
            if name.startswith("wal/"):
                assert healed.wait(60)
                super().put_if_absent(name, parts, timeout=timeout)
                stored.set()
                return
            if name.startswith("sst/"):
                order.append(stored.is_set())
                built.set()
            super().put_if_absent(name, parts, timeout=timeout)

    healed, stored, built = threading.Event(), threading.Event(), threading.Event()
    order: list[bool] = []
    healed.set()
    db = open_plain(Hanging(MemoryStore()), tiny())
    healed.clear()
    stored.clear()

    db.put(b"a", b"1")
    flushing = threading.Thread(target=lambda: db.flush(lsm.FlushType.MEMTABLE))
    flushing.start()
    assert not built.wait(0.2)
    healed.set()
    flushing.join(60)

    assert order == [True]
    db.close()
