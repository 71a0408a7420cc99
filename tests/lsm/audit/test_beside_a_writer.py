"""fsck beside a writer that flushes and collects before any request of it: no damage is found but what is there."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TypeVar

import pytest

import lsm
from lsm.audit.report import FsckReport, Problem
from lsm.audit.verify import fsck
from lsm.object_store import MemoryStore, ObjectStore
from lsm.object_store.names import TABLES, WAL
from tests.doubles import WrappedStore
from tests.lsm.read.support import BusyWriter, HookedStore, busy_writer
from tests.lsm.support import layouts, open_plain, tiny

T = TypeVar("T")


class Beside(WrappedStore):
    """Lets a writer work before every `every`-th request."""

    def __init__(self, store: ObjectStore, work: Callable[[], object], every: int) -> None:
        super().__init__(store)
        self._work = work
        self._every = every
        self.made = 0

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        self.made += 1
        if not self.made % self._every:
            self._work()
        return request()


@pytest.mark.parametrize("every", [1, 5])
def test_finds_nothing_that_is_not_there(every: int) -> None:
    memory = MemoryStore()
    with busy_writer(memory) as writer:
        store = Beside(memory, writer.step, every)
        report = fsck("memory://", object_store=store, **layouts())
        assert report.problems == []
        assert store.made > 10
    assert fsck("memory://", object_store=memory, **layouts()).is_sound


def test_finds_nothing_wherever_a_flush_and_a_collection_come_between() -> None:
    """Before the log is listed, they take the objects that the manifest still replays, and leave ones that build on them."""
    at = 0
    while True:
        memory = MemoryStore()
        with busy_writer(memory) as writer:

            def move(writer: BusyWriter = writer) -> None:
                writer.write()
                writer.step()
                writer.write()

            store = HookedStore(memory)
            store.arm(at, move)
            assert fsck("memory://", object_store=store, **layouts()).problems == []
        if store.made <= at:
            break
        at += 1
    assert at > 10


def test_finds_nothing_where_every_run_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryStore()
    alarms: list[int] = []
    kept = FsckReport.keep
    with busy_writer(memory) as writer:

        class BeforeTheLog(WrappedStore):
            def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
                if (call, name) == ("list", WAL):
                    for _ in range(2):
                        writer.write()
                    writer.step()
                    writer.write()
                return request()

        def keep(report: FsckReport, problems: Set[Problem]) -> None:
            alarms.append(len(report.problems))
            kept(report, problems)

        monkeypatch.setattr(FsckReport, "keep", keep)
        assert fsck("memory://", object_store=BeforeTheLog(memory), **layouts()).problems == []
    assert alarms == [1]  # The last run found another object missing than the one before.


def test_finds_what_is_there() -> None:
    """A table of the writer's that nobody rewrites is damaged."""
    memory = MemoryStore()
    with open_plain(memory, tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20)) as db:
        db.put(b"k", b"v" * 100)
        db.flush(lsm.FlushType.MEMTABLE)
        name = next(info.name for info in memory.list(TABLES, timeout=1))
        data = bytearray(memory.get(name, timeout=1))
        data[20] ^= 1
        memory._objects[name] = bytes(data)

        def step() -> None:
            db.put(b"other", b"v")
            db.flush(lsm.FlushType.MEMTABLE)
            db.collect_garbage(min_age=0)

        report = fsck("memory://", object_store=Beside(memory, step, 7))
        assert {problem.object for problem in report.problems} == {name}


class Small(WrappedStore):
    """Takes no object beyond a few bytes."""

    def __init__(self, store: ObjectStore, most: int) -> None:
        super().__init__(store)
        self.object_bytes_max = most


@pytest.mark.parametrize("small", ["tables", "log", "both"])
@pytest.mark.parametrize("in_key", [False, True])
def test_a_batch_that_one_of_the_stores_cannot_hold_is_refused_before_it_is_durable(small: str, in_key: bool) -> None:
    most = 3 << 20
    tables, log = MemoryStore(), MemoryStore()
    stores = {
        "object_store": Small(tables, most) if small != "log" else tables,
        "wal_object_store": Small(log, most) if small != "tables" else log,
    }
    settings = tiny(compression=None, l0_sst_size_bytes=1 << 24)
    with lsm.Db.open("memory://", settings, **stores) as db:
        batch = lsm.WriteBatch()
        if in_key:
            for at in range(50):
                batch.put(b"%05d" % at + b"k" * 60_000, b"")
        else:
            batch.put(b"k", bytes(most))
        objects = len(log.list(WAL, timeout=1))
        with pytest.raises(lsm.InvalidError, match="too large"):
            db.write(batch)
        db.put(b"k", bytes(most // 2))
        db.flush(lsm.FlushType.MEMTABLE)
        assert len(db.get(b"k") or b"") == most // 2
        assert len(log.list(WAL, timeout=1)) > objects
    lsm.Db.open("memory://", settings, **stores).close()


def test_the_writer_of_the_tests_moves_everything() -> None:
    memory = MemoryStore()
    with busy_writer(memory) as writer:
        assert isinstance(writer, BusyWriter)
        before = set(memory._objects)
        writer.step()
        assert before - set(memory._objects)
