"""A reader beside writers that flush, compact, collect, die and are fenced: what it shows is durable, whole and in order."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.names import wal_name
from tests.doubles import CountingStore, WrappedStore, number_of
from tests.lsm.read.support import HookedStore, WriterOfObjects, busy_writer, open_reader, open_series_reader, shown_by
from tests.lsm.support import FAMILIES, append, objects_of, open_db, open_plain, read_rows, tiny

T = TypeVar("T")


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def by_hand(memory: MemoryStore) -> WriterOfObjects:
    """A database whose log is object 1, the fence of epoch 1; its writer is gone."""
    open_plain(memory)._engine.fail(lsm.InternalError("gone"))
    with open_reader(memory) as reader:
        return WriterOfObjects(memory, reader.manifest.database)


# -- what a crash could take back -------------------------------------------------------------------------------------


def test_shows_nothing_beyond_a_gap_and_of_a_fenced_writer_nothing_late(
    memory: MemoryStore, by_hand: WriterOfObjects
) -> None:
    with open_reader(memory) as reader:
        by_hand.put(2, 1, 1, b"a")
        by_hand.put(4, 1, 3, b"c", through=2)
        reader.refresh()
        assert read_rows(reader) == [(b"a", b"epoch 1")]

        by_hand.put(3, 2)  # The new owner fences the first gap, ...
        by_hand.put(5, 1, 4, b"d", through=2)  # ... and more of the old one comes in late.
        by_hand.put(6, 2, 2, b"b")
        reader.refresh()
        found = read_rows(reader)

    assert found == [(b"a", b"epoch 1"), (b"b", b"epoch 2")]
    with open_plain(memory) as db:
        assert read_rows(db) == found


@pytest.mark.parametrize("is_opened_before", [False, True])
def test_takes_the_epoch_that_counts_from_the_manifest(
    memory: MemoryStore, by_hand: WriterOfObjects, is_opened_before: bool
) -> None:
    """The objects that proved epoch 2 are in tables; what an older writer puts late behind them still does not count."""
    sleeper = open_reader(memory)
    by_hand.put(2, 1, 1, b"0")
    with open_plain(memory, tiny(compaction_enabled=False)) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
        after, epoch = db.manifest.replay_after, db.status().writer_epoch
    assert epoch == 2

    by_hand.put(after + 1, 1, 3, b"zombie", through=0)
    by_hand.put(after + 2, 2, 3, b"b")
    with sleeper, open_reader(memory) as opened:
        reader = sleeper if is_opened_before else opened
        reader.refresh()
        assert read_rows(reader) == [(b"0", b"epoch 1"), (b"a", b"1"), (b"b", b"epoch 2")]


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_late_object_under_a_number_the_collector_freed_it_does_not_hide_a_batch(is_listed: bool) -> None:
    memory = MemoryStore()
    first = open_plain(memory)
    first.put(b"a", b"1", await_durable=True)
    with open_reader(memory) as reader:
        by_hand = WriterOfObjects(memory, reader.manifest.database)
        second = open_plain(memory, tiny(compaction_enabled=False))
        for at in range(20 if is_listed else 3):
            second.put(b"b%02d" % at, b"2", await_durable=True)
        second.flush(lsm.FlushType.MEMTABLE)
        # The collector got as far as the second writer's first object, and the first writer's late one takes its name.
        fence = max(second.manifest.fences)
        memory.delete(wal_name(fence + 1), timeout=1)
        by_hand.put(fence + 1, 1, 2, b"zombie", through=0)

        reader._poll(look=False)

        assert read_rows(reader) == read_rows(second)
    second.close()
    with contextlib.suppress(lsm.Error):
        first.close()


class LateStore(WrappedStore):
    """Creates of log objects are held at random, and arrive later or never."""

    def __init__(self, store: MemoryStore, chance: random.Random) -> None:
        super().__init__(store)
        self.is_shaky = False
        self.gates: list[threading.Event] = []
        self._chance = chance
        self._lock = threading.Lock()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        gate = None
        with self._lock:
            if call == "put_if_absent" and name.startswith("wal/") and self.is_shaky and self._chance.random() < 0.3:
                gate = threading.Event()
                self.gates.append(gate)
        if gate is not None:
            assert gate.wait(60)
        return request()

    def let_one_through(self) -> None:
        with self._lock:
            if self.gates:
                self.gates.pop(self._chance.randrange(len(self.gates))).set()

    def let_all_through(self) -> None:
        with self._lock:
            self.is_shaky = False
            for gate in self.gates:
                gate.set()
            self.gates = []


@pytest.mark.parametrize("seed", range(8))
def test_takeovers_amid_late_objects_it_shows_only_what_stays(seed: int) -> None:
    chance = random.Random(seed)
    memory = MemoryStore()
    settings = tiny(wal_uploads_max=8, wal_object_bytes=1, flush_interval=0.001, l0_sst_size_bytes=1 << 20)
    old: list[tuple[lsm.Db, LateStore]] = []
    open_plain(memory).close()
    shown: list[tuple[bytes, bytes]] = []
    polls = 0
    with open_reader(memory) as reader:
        for turn in range(4):
            store = LateStore(memory, chance)
            db = open_plain(store, settings)
            for at in range(12):
                db.put(b"%d-%03d" % (turn, at), b"promised", await_durable=True)
            store.is_shaky = True
            for at in range(12, 40):
                with contextlib.suppress(lsm.Error):
                    db.put(b"%d-%03d" % (turn, at), b"perhaps")
                if chance.random() < 0.3:
                    for _, other in [*old, (db, store)]:
                        other.let_one_through()
                if chance.random() < 0.3:
                    reader._poll(look=chance.random() < 0.5)
                    seen = read_rows(reader)
                    assert seen[: len(shown)] == shown, "what was shown stays"
                    shown, polls = seen, polls + 1
            old.append((db, store))
        with open_plain(memory) as last:
            for _, store in old:
                store.let_all_through()
            for at in range(20):
                last.put(b"9-%03d" % at, b"promised", await_durable=True)
            final = read_rows(last)
            assert final[: len(shown)] == shown, "no takeover takes back what was shown"
            reader.refresh()
            assert read_rows(reader) == final
            for db, _ in old:
                with contextlib.suppress(lsm.Error):
                    db.close()
    assert polls > 10
    with open_plain(memory) as again:
        assert read_rows(again) == final


# -- beside a flush, a compaction, a collection -----------------------------------------------------------------------


@pytest.mark.parametrize("at", range(14))
def test_whatever_happens_between_two_requests_of_an_open_it_shows_all_that_was_durable(at: int) -> None:
    memory = MemoryStore()
    with busy_writer(memory) as writer:
        durable = writer.end
        store = HookedStore(memory)
        store.arm(at, writer.step)

        with open_series_reader(store) as reader:
            assert shown_by(reader) >= durable


@pytest.mark.parametrize("behind", [0, 2, 12])
@pytest.mark.parametrize("at", range(8))
def test_whatever_happens_between_two_requests_of_a_refresh_it_shows_all_that_was_durable(at: int, behind: int) -> None:
    memory = MemoryStore()
    store = HookedStore(memory)
    with busy_writer(memory) as writer, open_series_reader(store) as reader:
        for _ in range(behind):
            writer.write()
        durable = writer.end
        store.arm(at, writer.step)

        reader.refresh()

        assert shown_by(reader) >= durable
        store.arm(-1, int)
        reader.refresh()
        assert shown_by(reader) == writer.end


def test_a_reader_that_slept_through_collections_goes_on_in_the_tables() -> None:
    memory = MemoryStore()
    with busy_writer(memory) as writer, open_series_reader(memory) as reader:
        heard: list[Any] = []
        reader.on_news(heard.append)
        for _ in range(6):
            writer.step()
        before = reader.version

        reader._poll(look=False)
        assert (reader.version, heard) == (before, [])
        reader.refresh()

        assert shown_by(reader) == writer.end
        assert heard == [None]  # Nobody can tell which series rows in tables belong to.


def test_a_read_whose_tables_were_collected_it_says_so_and_reads_again() -> None:
    memory = MemoryStore()
    with busy_writer(memory) as writer, open_series_reader(memory) as reader:
        begun = reader.scan_series(FAMILIES[0], b"s")
        for _ in range(3):
            writer.step()

        with pytest.raises(lsm.SnapshotExpiredError, match="read again"):
            list(begun)

        assert shown_by(reader) == writer.end


def test_a_table_the_newest_manifest_names_is_gone_it_is_damage() -> None:
    memory = MemoryStore()
    with busy_writer(memory), open_series_reader(memory) as reader:
        for name in [name for name in objects_of(memory) if name.startswith("sst/")]:
            memory.delete(name, timeout=1)

        with pytest.raises(lsm.CorruptionError, match="sst/"):
            list(reader.scan_series(FAMILIES[0], b"s"))


def test_a_listed_log_object_that_vanishes_and_is_in_no_table_it_is_damage() -> None:
    memory = MemoryStore()
    store = HookedStore(memory)
    with open_plain(memory) as db, open_reader(store) as reader:
        for at in range(20):
            db.put(b"%02d" % at, b"x", await_durable=True)
        numbers = sorted(number_of(name) or 0 for name in objects_of(memory) if name.startswith("wal/"))
        lost = wal_name(numbers[-5])
        store.arm(10, lambda: memory.delete(lost, timeout=1))

        with pytest.raises(lsm.CorruptionError, match=lost):
            reader.refresh()


def test_with_the_log_switched_off_it_follows_the_tables() -> None:
    memory = MemoryStore()
    with open_db(memory, tiny(wal_enabled=False)) as db, open_series_reader(memory) as reader:
        heard: list[Any] = []
        reader.on_news(heard.append)
        for turn in range(3):
            append(db, FAMILIES[0], [(b"s", b"%d" % turn)], turn)
            db.flush(lsm.FlushType.MEMTABLE)
            reader.refresh()

            assert reader.series_end(FAMILIES[0]) == turn + 1
            assert reader.status().memory_bytes == 0
        assert heard == [None] * 3


def test_memory_holds_what_the_writer_has_not_flushed_and_no_more() -> None:
    memory = MemoryStore()
    with open_db(memory, tiny(l0_sst_size_bytes=1 << 20)) as db, open_series_reader(memory) as reader:
        for turn in range(4):
            for at in range(5):
                first = 5 * turn + at
                append(db, FAMILIES[0], [(b"s", b"x" * 100)], first)
                db.flush()
                reader._poll(look=False)
            assert 500 < reader.status().memory_bytes < 1000
            db.flush(lsm.FlushType.MEMTABLE)
            reader.refresh()
            assert reader.status().memory_bytes == 0


# -- requests ---------------------------------------------------------------------------------------------------------


def test_budgets_of_polls_and_refreshes() -> None:
    memory = MemoryStore()
    store = CountingStore(memory)
    with open_plain(memory, tiny(l0_sst_size_bytes=1 << 20)) as db, open_reader(store) as reader:

        def cost(objects: int, *, look: bool, sure: bool = False) -> dict[str, int]:
            for _ in range(objects):
                db.put(b"k", b"x", await_durable=True)
            store.reset()
            reader._poll(look=look, sure=sure)
            return dict(store.counts)

        assert cost(0, look=False) == {"get": 1}
        assert cost(0, look=True) == {"get": 1, "get_range": 2}
        assert cost(0, look=True, sure=True) == {"list": 2}
        assert cost(3, look=True, sure=True) == {"get": 3, "list": 2}
        assert cost(1, look=False) == {"get": 2}
        assert cost(5, look=True) == {"get": 5 + 1, "get_range": 2}
        assert cost(100, look=False) == {"get": 100, "list": 1}
        assert cost(0, look=False) == {"get": 1}
        requests = reader.status().requests
        assert sum(row.requests for row in requests.values()) >= 112
        assert {"poll", "manifest"} <= {cause for _, cause in requests}


def test_opens_with_as_many_requests_as_there_are_log_objects() -> None:
    memory = MemoryStore()
    with open_plain(memory, tiny(l0_sst_size_bytes=1 << 20)) as db:
        for _ in range(10):
            db.put(b"k", b"x", await_durable=True)
        store = CountingStore(memory)

        open_reader(store).close()

        assert store.counts == {"list": 2 + 1 + 1, "get": 1 + 11}


def test_a_refresh_beside_a_writer_that_never_stops_it_ends() -> None:
    memory = MemoryStore()

    class Busy(HookedStore):
        def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
            db.put(b"k", b"x", await_durable=True)
            return request()

    with open_plain(memory, tiny(l0_sst_size_bytes=1 << 20)) as db, open_reader(Busy(memory)) as reader:
        for _ in range(30):
            db.put(b"k", b"x", await_durable=True)
        promised = db.durable_seq

        reader.refresh()

        assert promised <= reader.status().last_seq < promised + 100
