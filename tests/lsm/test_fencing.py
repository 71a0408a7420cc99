"""Two writers, one store: the second opens, the first steps down, and nothing that was promised is lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore, StoreFault
from lsm.object_store.names import manifest_name, wal_name
from lsm.wal.upload import PIPELINE_MAX
from tests.doubles import Fault, FaultyStore, WrappedStore
from tests.lsm.support import open_plain, read_rows, tiny

T = TypeVar("T")


class HeldStore(WrappedStore):
    """Holds creates of names that `is_held` picks until `release`; then they go on, late."""

    def __init__(self, store: MemoryStore, is_held: Callable[[str], bool]) -> None:
        super().__init__(store)
        self.held: list[str] = []
        self.arrived = threading.Event()
        self._is_held = is_held
        self._go = threading.Event()

    def release(self) -> None:
        self._go.set()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "put_if_absent" and not self._go.is_set() and self._is_held(name):
            self.held.append(name)
            self.arrived.set()
            assert self._go.wait(30)
        return request()


class BrokenFor(WrappedStore):
    """Creates of these names fail for good."""

    def __init__(self, store: MemoryStore, names: set[str]) -> None:
        super().__init__(store)
        self.names = names

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "put_if_absent" and name in self.names:
            raise StoreFault(f"{name}: injected", transient=False)
        return request()


@contextlib.contextmanager
def abandoned(db: lsm.Db) -> Iterator[lsm.Db]:
    try:
        yield db
    finally:
        with contextlib.suppress(lsm.Error):
            db.close()


FIRST_MOVES: dict[str, Callable[[lsm.Db], object]] = {
    "a put that waits": lambda db: db.put(b"late", b"1", await_durable=True),
    "a flush of the log": lambda db: (db.put(b"late", b"1"), db.flush()),
    "a flush to tables": lambda db: (db.put(b"late", b"1"), db.flush(lsm.FlushType.MEMTABLE)),
    "a wait on a handle": lambda db: db.put(b"late", b"1").await_durable(5),
}


@pytest.mark.parametrize("move", FIRST_MOVES.values(), ids=FIRST_MOVES)
def test_fences_the_older_writer_at(move: Callable[[lsm.Db], object]) -> None:
    store = MemoryStore()
    with abandoned(open_plain(store)) as old:
        old.put(b"a", b"1", await_durable=True)
        old.put(b"b", b"not promised")

        with open_plain(store) as new:
            with pytest.raises(lsm.FencedError):
                move(old)
            for call in (lambda: old.put(b"x", b"y"), lambda: old.get(b"a"), old.flush, old.collect_garbage):
                with pytest.raises(lsm.FencedError):
                    call()
            old.close()

            assert new.get(b"a") == b"1"
            assert new.get(b"late") is None
            new.put(b"c", b"3", await_durable=True)
    with open_plain(store) as again:
        assert read_rows(again) == [(b"a", b"1"), (b"c", b"3")]


def test_lets_the_last_of_many_writers_win() -> None:
    store = MemoryStore()
    expected: dict[bytes, bytes] = {}
    handles: list[lsm.Db] = []

    for turn in range(12):
        db = open_plain(store)
        handles.append(db)
        for at in range(turn % 4):
            db.put(b"%d %d" % (turn, at), b"x", await_durable=True)
            expected[b"%d %d" % (turn, at)] = b"x"
        if turn % 3 == 2:
            db.flush(lsm.FlushType.MEMTABLE)
            db.collect_garbage(min_age=0)

    assert dict(read_rows(handles[-1])) == expected
    for db in handles[:-1]:
        with pytest.raises(lsm.FencedError):
            db.put(b"zombie", b"x", await_durable=True)
        db.close()
    handles[-1].close()
    with open_plain(store) as db:
        assert dict(read_rows(db)) == expected


@pytest.mark.parametrize("writes_after", [0, 1, 3, 20])
def test_never_resurrects_what_a_fenced_writer_puts_late(writes_after: int) -> None:
    memory = MemoryStore()
    old_store = HeldStore(memory, lambda name: name.startswith("wal/") and int(name[4:24]) > PIPELINE_MAX + 3)
    old = open_plain(old_store, tiny(wal_uploads_max=8, wal_object_bytes=1, flush_interval=0.001))
    for at in range(PIPELINE_MAX + 2):
        old.put(b"a%02d" % at, b"promised", await_durable=True)
    assert old_store.held == []
    with pytest.raises(TimeoutError):
        old.wait_durable_beyond(old.durable_seq, timeout=0.01)
    for at in range(30):
        old.put(b"zombie%d" % at, b"x")
    assert old_store.arrived.wait(10)
    promised = old.durable_seq

    new = open_plain(memory)
    for at in range(writes_after):
        new.put(b"n%02d" % at, b"new", await_durable=True)
    expected = dict(read_rows(new))
    old_store.release()
    with pytest.raises(lsm.FencedError):
        old.put(b"more", b"x", await_durable=True)
    old.close()
    for at in range(30):
        new.put(b"m%02d" % at, b"newer", await_durable=True)
        expected[b"m%02d" % at] = b"newer"

    assert dict(read_rows(new)) == expected
    assert sum(key.startswith(b"a") for key in expected) >= min(promised, PIPELINE_MAX + 2)
    with open_plain(memory) as third:  # `new` is fenced, not closed: everything comes out of the log.
        assert dict(read_rows(third)) == expected
    new.close()


def test_takes_over_a_log_whose_first_gap_lies_far_behind_the_fastest_upload() -> None:
    memory = MemoryStore()
    gap = PIPELINE_MAX + 4
    old = open_plain(
        BrokenFor(memory, {wal_name(gap)}), tiny(wal_uploads_max=8, wal_object_bytes=1, flush_interval=0.001)
    )
    for at in range(60):
        with contextlib.suppress(lsm.UnavailableError):
            old.put(b"%02d" % at, b"x")
        with contextlib.suppress(lsm.UnavailableError):
            if at < 8:
                old.flush()
    promised = old.durable_seq
    taken = {int(name[4:24]) for name in memory._objects if name.startswith("wal/")}

    assert max(taken) < gap + PIPELINE_MAX
    with open_plain(memory) as new:
        assert len(read_rows(new)) >= promised
        for at in range(3 * PIPELINE_MAX):
            new.put(b"new %02d" % at, b"y", await_durable=True)
        expected = read_rows(new)
        with pytest.raises(lsm.Error):
            old.put(b"zombie", b"x", await_durable=True)
        with contextlib.suppress(lsm.Error):
            old.close()
    with open_plain(memory) as again:
        assert read_rows(again) == expected


@pytest.mark.parametrize("seed", range(6))
def test_takes_lost_and_doubled_replies_for_no_fence(seed: int) -> None:
    faults = (Fault.NOT_SENT, Fault.REPLY_LOST, Fault.DELIVERED_TWICE)
    store = FaultyStore(MemoryStore(), seed=seed, probability=0.15, faults=faults, only=("put_if_absent", "delete"))
    db = open_plain(store, tiny(op_timeout=60.0))
    expected = {}
    for at in range(12):
        db.put(b"%02d" % at, b"x" * 60, await_durable=True)
        expected[b"%02d" % at] = b"x" * 60
        if at % 4 == 3:
            db.flush(lsm.FlushType.MEMTABLE)
    db.wait_idle(30)
    db.collect_garbage(min_age=0)
    db.close()

    assert sum(store.injected[fault] for fault in faults) > 0
    with open_plain(store.store) as again:
        assert dict(read_rows(again)) == expected


def test_does_not_believe_a_manifest_number_it_can_create_because_the_old_one_was_collected() -> None:
    memory = MemoryStore()
    old = open_plain(memory)
    old.put(b"a", b"1", await_durable=True)
    base = old.manifest.number
    with open_plain(memory) as new:
        for at in range(30):
            new.put(b"b%d" % at, b"2")
            new.flush(lsm.FlushType.MEMTABLE)
        new.wait_idle(30)
        new.collect_garbage(min_age=0)
        assert manifest_name(base) not in memory._objects
        assert manifest_name(base + 1) not in memory._objects

        with pytest.raises(lsm.FencedError):
            old._engine.manifests.update(lambda manifest: manifest)
        old.close()
        assert new.get(b"a") == b"1"


class StoppedOpener(WrappedStore):
    """Runs `meanwhile` when its owner, who has claimed an epoch, is about to look where the log ends."""

    def __init__(self, store: MemoryStore, meanwhile: Callable[[], object]) -> None:
        super().__init__(store)
        self._meanwhile: list[Callable[[], object]] = [meanwhile]

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "list" and name.startswith("wal") and self._meanwhile:
            self._meanwhile.pop()()
        return request()


def test_an_opener_that_slept_while_another_took_over_leaves_its_log_alone() -> None:
    """Awake again, it finds the log longer than it was: the first gap is the rightful writer's next number by then."""
    memory, newer = MemoryStore(), []
    open_plain(memory, tiny()).close()

    def take_over() -> None:
        db = open_plain(memory, tiny())
        newer.append(db)
        for number in range(3 * PIPELINE_MAX):
            db.put(b"%03d" % number, b"", await_durable=True)

    with pytest.raises(lsm.FencedError):
        open_plain(StoppedOpener(memory, take_over), tiny())

    with newer[0] as db:
        for number in range(3 * PIPELINE_MAX, 4 * PIPELINE_MAX):
            db.put(b"%03d" % number, b"", await_durable=True)
    with open_plain(memory, tiny()) as db:
        assert len(read_rows(db)) == 4 * PIPELINE_MAX
