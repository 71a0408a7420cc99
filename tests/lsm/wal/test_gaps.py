"""A log object that is gone from the middle of the log (rule W7): whatever reads the log says so. What was never written, or
was collected, is no loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

import lsm
from lsm.audit.verify import fsck
from lsm.errors import CorruptionError
from lsm.object_store import MemoryStore
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import wal_name
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.wal.gaps import first_gap, was_durable
from tests.doubles import CountingStore, WrappedStore
from tests.lsm.read.support import HookedStore, WriterOfObjects, open_reader
from tests.lsm.support import copy_of, open_plain, tiny

T = TypeVar("T")
LOG = tiny(l0_sst_size_bytes=1 << 20)


def written(batches: int) -> MemoryStore:
    """A database whose writer died: a fence at 1, and one log object for each batch."""
    memory = MemoryStore()
    db = open_plain(memory, LOG)
    for at in range(batches):
        db.put(b"k%d" % at, b"v", await_durable=True)
    dead = copy_of(memory)
    db.close()
    return dead


@pytest.fixture
def holed() -> MemoryStore:
    memory = written(12)
    memory.delete(wal_name(8), timeout=1)
    return memory


def admin(store: Any) -> lsm.Admin:
    return lsm.Admin("memory://", object_store=store)


WAYS: dict[str, Callable[[MemoryStore], object]] = {
    "open": lambda store: open_plain(store, LOG),
    "read": open_reader,
    "checkpoint": lambda store: admin(store).create_detached_checkpoint(name="nightly"),
    "clone": lambda store: admin(store).create_clone("memory://clone-past-a-hole"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [2, 8, 12])
def test_says_that_a_log_object_is_lost(way: str, number: int) -> None:
    memory = written(12)
    memory.delete(wal_name(number), timeout=1)
    before = set(memory._objects)

    with pytest.raises(CorruptionError, match="is missing, and a later log object builds on it") as caught:
        WAYS[way](memory)
    assert caught.value.object_name == wal_name(number)
    if way != "open":
        assert set(memory._objects) == before


def test_fsck_names_the_same_object(holed: MemoryStore) -> None:
    report = fsck("memory://", object_store=holed)
    assert [(each.object, each.message) for each in report.problems] == [
        (wal_name(8), "is missing, and a later log object builds on it")
    ]


def test_a_refresh_finds_what_was_lost_while_the_reader_was_open() -> None:
    memory = written(3)
    with open_reader(memory) as reader:
        for at, number in enumerate(range(5, 9), 4):
            WriterOfObjects(memory, reader.manifest.database).put(number, 1, at, b"k")
        memory.delete(wal_name(4), timeout=1)
        reader.refresh()  # It has read number 4: what is gone behind it is no matter.
        memory.delete(wal_name(8), timeout=1)
        WriterOfObjects(memory, reader.manifest.database).put(10, 1, 9, b"k", through=9)

        with pytest.raises(CorruptionError) as caught:
            reader.refresh()
        assert caught.value.object_name == wal_name(9)
        with pytest.raises(CorruptionError):
            reader.get(b"k")

        WriterOfObjects(memory, reader.manifest.database).put(9, 1, 8, b"k")  # Found again.
        reader.refresh()
        assert reader.status().last_seq == 9


def test_a_regular_look_finds_it_too() -> None:
    memory = written(3)
    with open_reader(memory) as reader:
        WriterOfObjects(memory, reader.manifest.database).put(6, 1, 5, b"k")

        assert not reader._poll(look=True, sure=False)  # Fifteen looks of sixteen go by the next number alone.
        with pytest.raises(CorruptionError):
            reader._poll(look=True, sure=True)


@pytest.mark.parametrize("way", ["open", "read", "checkpoint"])
def test_an_upload_that_is_under_way_or_was_cut_off_is_no_loss(way: str) -> None:
    memory = written(3)
    with open_reader(memory) as reader:
        database = reader.manifest.database
    objects = WriterOfObjects(memory, database)
    for number in (6, 7):
        objects.put(number, 1, number - 1, b"late", through=4)
    assert first_gap(ReliableStore(memory, Runtime(), op_timeout=5, request_timeout=5), 2, database, int) == 5

    found = WAYS[way](memory)
    close = getattr(found, "close", None)
    if close is not None:
        close()


class Gateway(WrappedStore):
    """A listing from before log object 8 was created, though it shows later ones; and two false answers about that object."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.is_near = False
        self.false_answers = 2
        self.is_early = True

    def list(self, prefix: str, *, timeout: float) -> Any:
        found = super().list(prefix, timeout=timeout)
        if prefix == "wal/" and self.is_early:
            self.is_early = False
            return [info for info in found if info.name != wal_name(8)]
        return found

    def head(self, name: str, *, timeout: float) -> Any:
        if name == wal_name(8) and self.false_answers:
            self.false_answers -= 1
            raise ObjectMissing(name)
        return super().head(name, timeout=timeout)


@pytest.mark.parametrize("way", ["open", "read", "checkpoint"])
def test_a_false_answer_about_a_log_object_that_is_there_is_doubted(way: str) -> None:
    store = Gateway(written(12))

    found = WAYS[way](store)  # type: ignore[arg-type]

    assert store.false_answers == 0
    if isinstance(found, lsm.Db | lsm.DbReader):
        assert len(list(found.scan())) == 12
        found.close()


def test_what_lies_behind_a_gap_is_read_once() -> None:
    memory = written(3)
    store = CountingStore(memory)
    with open_reader(store) as reader:
        for number in (6, 7):
            WriterOfObjects(memory, reader.manifest.database).put(number, 1, number - 1, b"late", through=4)
        reader.refresh()
        store.reset()
        reader.refresh()
        assert store.counts == {"list": 2}


@pytest.mark.parametrize("way", ["read", "checkpoint", "refresh"])
def test_what_a_collector_took_is_no_loss(way: str) -> None:
    """Beside a writer that flushes and collects before any request of it in turn."""
    at = 0
    while True:
        memory = MemoryStore()
        with open_plain(memory, LOG) as db:

            def work(db: lsm.Db = db) -> None:
                for _ in range(3):
                    db.put(b"k", b"v", await_durable=True)

            def move(db: lsm.Db = db) -> None:
                work(db)
                db.flush(lsm.FlushType.MEMTABLE)
                db.collect_garbage(min_age=0)
                work(db)

            work()
            store = HookedStore(memory)
            with open_reader(store) as reader:
                move()
                store.arm(at, move)
                promised = db.durable_seq
                if way == "refresh":
                    reader.refresh()
                    assert reader.status().last_seq >= promised
                elif way == "read":
                    with open_reader(store) as other:
                        assert other.status().last_seq >= promised
                else:
                    with admin(store) as care:
                        made = care.create_detached_checkpoint()
                    with open_reader(memory, checkpoint=made.id) as other:
                        assert other.status().last_seq >= promised
                if store.made <= at:
                    break
        at += 1
    assert at > 3


def test_decides_by_what_later_objects_say() -> None:
    assert not was_durable(5, {})
    assert not was_durable(5, {6: 4, 7: 4})
    assert was_durable(5, {6: 4, 7: 5})
    assert not was_durable(5, {3: 9, 5: 9})
