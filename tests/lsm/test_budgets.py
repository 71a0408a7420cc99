"""Requests are money: what each operation may cost, counted on the store, never timed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.sst.bloom import Filter
from tests.doubles import CountingStore, WrappedStore
from tests.lsm.support import FAMILIES, append, open_db, open_plain, read_series, tiny

T = TypeVar("T")


def test_costs_nothing_while_idle() -> None:
    store = CountingStore(MemoryStore())
    with open_plain(store, tiny(flush_interval=0.01)) as db:
        db.put(b"a", b"1", await_durable=True)
        db.flush(lsm.FlushType.MEMTABLE)
        db.wait_idle(10)
        store.reset()

        with pytest.raises(TimeoutError):
            db.wait_durable_beyond(db.durable_seq, timeout=0.5)

        assert store.log == []


def test_writes_by_itself_after_the_flush_interval() -> None:
    store = CountingStore(MemoryStore())
    with open_plain(store, tiny(flush_interval=0.005)) as db:
        store.reset()

        handle = db.put(b"a", b"1")

        assert db.wait_durable_beyond(handle.seqnum - 1, timeout=20) == handle.seqnum
        assert Counter(call for call, _ in store.log) == {"put_if_absent": 1}


class GateStore(WrappedStore):
    """Holds the first create of a log object until told to go on."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.is_armed = False
        self.entered = threading.Event()
        self.go = threading.Event()
        self.creates = 0

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if call == "put_if_absent" and self.is_armed:
            self.creates += 1
            if self.creates == 1:
                self.entered.set()
                assert self.go.wait(30)
        return request()


def test_commits_a_group_with_one_create() -> None:
    store = GateStore(MemoryStore())
    with open_plain(store, tiny(wal_uploads_max=1, l0_sst_size_bytes=1 << 20)) as db:
        store.is_armed = True
        first = threading.Thread(target=lambda: db.put(b"first", b"x", await_durable=True))
        first.start()
        assert store.entered.wait(30)
        handles = [db.put(b"%d" % at, b"x") for at in range(50)]
        store.go.set()
        for handle in handles:
            handle.await_durable()
        first.join()

        assert store.creates == 2


def test_writes_late_rows_even_where_the_interval_ended_during_another_upload() -> None:
    store = GateStore(MemoryStore())
    with open_plain(store, tiny(wal_uploads_max=1, flush_interval=0.01)) as db:
        store.is_armed = True
        first = threading.Thread(target=lambda: db.put(b"first", b"x", await_durable=True))
        first.start()
        assert store.entered.wait(30)
        handle = db.put(b"second", b"x")
        with pytest.raises(TimeoutError):  # The interval ends while the only slot is taken.
            db.wait_durable_beyond(0, timeout=0.3)
        store.go.set()

        assert db.wait_durable_beyond(handle.seqnum - 1, timeout=20) >= handle.seqnum
        first.join()


def many_tables(count: int) -> MemoryStore:
    store = MemoryStore()
    settings = tiny(compaction_enabled=False, l0_max_ssts=2000, min_filter_keys=1)
    with open_plain(store, settings) as db:
        for at in range(count):
            db.put(b"key%05d" % (at * 10), b"x")
            db._engine.writer.freeze()
        db.flush(lsm.FlushType.MEMTABLE)
        assert sum(partition.l0 for partition in db.status().partitions) == count
    return store


def test_opens_as_cheaply_with_a_thousand_tables_as_with_ten() -> None:
    costs = []
    for count in (10, 1000):
        memory = many_tables(count)
        with open_plain(memory) as db:  # What lies in the log must not differ.
            db.collect_garbage(min_age=0)
        store = CountingStore(memory)
        db = open_plain(store, tiny(compaction_enabled=False))
        costs.append(store.counts)
        db.close()

    assert costs[0] == costs[1]
    assert sum(costs[0].values()) <= 11


def test_reads_a_cold_key_with_two_requests_and_a_warm_one_with_none() -> None:
    memory = many_tables(20)
    store = CountingStore(memory)
    with open_plain(store, tiny(compaction_enabled=False)) as db:
        store.reset()

        assert db.get(b"key00050") == b"x"
        cold = store.calls
        assert db.get(b"key00050") == b"x"

        assert cold <= 2
        assert store.calls == cold


def test_asks_nothing_for_a_key_that_no_warm_filter_admits() -> None:
    store = CountingStore(MemoryStore())
    with open_plain(store, tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20)) as db:
        for at in range(100):
            db.put(b"key%03d" % at, b"x")
        db.flush(lsm.FlushType.MEMTABLE)
        db.get(b"key050")
        (table,) = db.manifest.partitions[0].l0
        table_filter = db._engine.tables.meta(table)[0]
        assert isinstance(table_filter, Filter)
        absent = [key for key in (b"key050-%d" % at for at in range(50)) if not table_filter.may_contain(key)]
        store.reset()

        assert db.get_many(absent) == [None] * len(absent)

        assert len(absent) > 40
        assert store.log == []


def test_counts_a_long_series_by_the_index_and_two_blocks() -> None:
    store = CountingStore(MemoryStore())
    settings = tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20, sst_block_size=64)
    with open_db(store, settings) as db:
        append(db, FAMILIES[0], [(b"a", b"value %d" % at) for at in range(2000)], 0)
        db.flush(lsm.FlushType.MEMTABLE)
        store.reset()

        assert db.count_series(FAMILIES[0], b"a", 3, 1998) == 1995

        assert store.calls <= 3
        assert len(read_series(db, FAMILIES[0], b"a")) == 2000


def test_flushes_the_memtable_once_per_so_many_log_objects() -> None:
    often = tiny(
        max_wal_objects_before_l0_flush=10, l0_sst_size_bytes=1 << 20, l0_max_ssts=64, compaction_enabled=False
    )
    db = open_db(MemoryStore(), often)

    for at in range(40):
        db.put(b"p0k%d" % at, b"x").await_durable()
    while db.status().frozen_memtables:
        lsm.Runtime().sleep(0.001)
    status = db.status()

    assert status.requests["put", "wal"].requests == 40
    assert 3 <= sum(each.l0 for each in status.partitions) <= 4
    db.close()


def test_a_scan_asks_for_as_much_ahead_as_it_is_told() -> None:
    store = CountingStore(MemoryStore())
    with open_db(store, tiny(sst_block_size=128)) as db:
        append(db, FAMILIES[0], [(b"a", b"x" * 60)] * 64, 0)
    made = {}

    for ahead in (0, 1 << 20):
        with open_db(store, tiny(sst_block_size=128)) as db:
            store.reset()
            rows = [
                value for _, values in db.scan_series(FAMILIES[0], b"a", read_ahead_bytes=ahead) for value in values
            ]
            made[ahead] = store.counts["get_range"]
        assert len(rows) == 64

    assert made[0] > 30
    assert made[1 << 20] == 1 + 6  # filter and index; 1, 2, 4, 8, 16 blocks and what is left
