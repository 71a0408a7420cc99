"""The cache: what a scan may push out, budgets, honest weights, one load per item, and databases that do not mix."""

from __future__ import annotations

import gc
import os
import random
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsm
from lsm.object_store import MemoryStore
from lsm.rows.chunk import RowChunk
from lsm.runtime import Runtime
from lsm.sst.block import KIND_ROWS, KIND_SERIES, encode_rows, encode_series
from lsm.sst.bloom import Filter, FilterBuilder
from lsm.sst.cache import PROOF, Cache, Caches, Loads
from lsm.sst.index import Index, encode_index
from lsm.sst.table import decode_block, weight_of
from tests.doubles import CountingStore, Fault, FaultyStore
from tests.lsm.support import open_plain, tiny

RUNTIME = Runtime()
A, B = b"a" * 16, b"b" * 16


def keys(count: int, start: int = 0) -> list[tuple[Any, ...]]:
    return [(A, at) for at in range(start, start + count)]


def fill(cache: Cache, wanted: list[tuple[Any, ...]], weight: int = 1) -> None:
    for key in wanted:
        cache.put(key, key, weight)


def kept(cache: Cache, wanted: list[tuple[Any, ...]]) -> int:
    return sum(cache.peek(key) is not None for key in wanted)


# -- what stays -------------------------------------------------------------------------------------------------------


def test_keeps_everything_within_the_budget() -> None:
    cache = Cache(100, RUNTIME)

    fill(cache, keys(50), weight=2)

    assert kept(cache, keys(50)) == 50
    assert cache.status() == lsm.CacheStatus(capacity=100, size=100, items=50, hits=50, misses=50, evictions=0)


def test_a_scan_of_any_length_leaves_what_proved_useful() -> None:
    cache = Cache(1000, RUNTIME)
    hot = keys(500)
    fill(cache, hot)
    for _ in range(1 + 2 * PROOF // len(hot)):
        assert kept(cache, hot) == len(hot)

    fill(cache, keys(50_000, start=1000))

    assert kept(cache, hot) == len(hot)
    assert cache.status().size <= 1000


def test_touching_a_block_many_times_in_a_row_proves_nothing() -> None:
    """A scan of one stream after another touches a block once for each stream in it, and those of other segments between."""
    cache = Cache(1000, RUNTIME)
    hot = keys(500)
    fill(cache, hot)
    for _ in range(1 + 2 * PROOF // len(hot)):
        kept(cache, hot)

    for start in range(1000, 50_000, 10):
        batch = keys(10, start=start)
        fill(cache, batch)
        for _ in range(20):
            assert kept(cache, batch) == 10

    assert kept(cache, hot) == len(hot)


def test_a_new_working_set_replaces_an_old_one() -> None:
    cache = Cache(1000, RUNTIME)
    old, new = keys(900), keys(900, start=5000)
    fill(cache, old)
    for _ in range(1 + 2 * PROOF // len(old)):
        kept(cache, old)

    for _ in range(12):
        for key in new:
            if cache.peek(key) is None:
                cache.put(key, key, 1)

    assert kept(cache, new) > 850


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = Cache(10, RUNTIME)

    cache.put((A, 1), "x", 11)
    Cache(0, RUNTIME).put((A, 1), "x", 0)

    assert cache.peek((A, 1)) is None
    assert cache.status().size == 0


operations = st.lists(st.tuples(st.sampled_from(["put", "peek", "drop"]), st.integers(0, 30), st.integers(1, 40)))


@settings(deadline=None)
@given(operations, st.integers(1, 100))
def test_never_lies_and_never_exceeds_its_budget(steps: list[tuple[str, int, int]], capacity: int) -> None:
    cache = Cache(capacity, RUNTIME)
    weights: dict[tuple[Any, ...], int] = {}
    for step, number, weight in steps:
        key = ((A, B)[number % 2], number)
        if step == "put":
            cache.put(key, (key, weight), weight)
            weights[key] = weight
        elif step == "peek":
            assert cache.peek(key) in (None, (key, weights.get(key)))
        else:
            cache.drop(key[0])
            weights = {each: size for each, size in weights.items() if each[0] != key[0]}
        status = cache.status()
        here = [each for each in weights if cache.peek(each) is not None]
        assert status.size == sum(weights[each] for each in here) <= capacity
        assert status.items == len(here)


def test_threads_may_do_anything_at_once() -> None:
    cache = Cache(500, RUNTIME)
    wrong: list[object] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(4000):
            key = ((A, B)[seed % 2], chance.randrange(300))
            found = cache.peek(key)
            if found is None:
                cache.put(key, key, chance.randrange(1, 9))
            elif found != key:
                wrong.append(found)
            if chance.random() < 0.002:
                cache.drop(key[0])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    cache.drop(A)
    cache.drop(B)
    status = cache.status()
    assert (status.size, status.items) == (0, 0)


# -- weights ----------------------------------------------------------------------------------------------------------


def series_block(rows: int, groups: int, size: int, *, varies: bool) -> bytes:
    chance = random.Random(1)
    names = [b"stream-%06d" % at for at in range(groups)]
    numbers = [1_000_000 + 7 * at for at in range(rows)]
    values = [os.urandom(chance.randrange(1, 2 * size) if varies else size) for _ in numbers]
    return encode_series(b"\x01\x00\x05", names, [rows // groups] * groups, numbers, values)


def rows_block(rows: int, size: int) -> bytes:
    names = [b"some-key-%08d" % at for at in range(rows)]
    return encode_rows(RowChunk(names, range(1000, 1000 + rows), [0] * rows, [os.urandom(size) for _ in names]))


def index_of(blocks: int, width: int) -> bytes:
    names = [b"k" * width + b"%06d" % at for at in range(blocks)]
    return encode_index(names, [2] * blocks, range(20_000, 20_000 + blocks), range(100, 100 + blocks))


def weighed(kind: type[Index] | type[Filter]) -> Callable[[bytes], tuple[Any, int]]:
    def decode(payload: bytes) -> tuple[Any, int]:
        found = kind(payload, name="n", offset=0)
        return found, found.weight

    return decode


def block(kind: int) -> Callable[[bytes], tuple[Any, int]]:
    def decode(payload: bytes) -> tuple[Any, int]:
        found = decode_block(kind, payload, name="n", offset=0)
        return found, weight_of(found)

    return decode


def filter_of(items: int) -> bytes:
    builder = FilterBuilder(16)
    builder.add([b"%06d" % at for at in range(items)])
    return builder.finish()


TYPICAL = {
    "series, one stream": (block(KIND_SERIES), series_block(600, 1, 100, varies=False)),
    "series, values of many lengths": (block(KIND_SERIES), series_block(600, 1, 100, varies=True)),
    "series, small values": (block(KIND_SERIES), series_block(5000, 5, 10, varies=True)),
    "series, a row per stream": (block(KIND_SERIES), series_block(500, 500, 100, varies=False)),
    "series, large values": (block(KIND_SERIES), series_block(60, 2, 1000, varies=True)),
    "rows": (block(KIND_ROWS), rows_block(500, 100)),
    "rows without values": (block(KIND_ROWS), rows_block(3000, 0)),
    "rows with large values": (block(KIND_ROWS), rows_block(60, 1000)),
    "index": (weighed(Index), index_of(700, 20)),
    "index of a small table": (weighed(Index), index_of(40, 20)),
    "index with long keys": (weighed(Index), index_of(300, 200)),
    "filter": (weighed(Filter), filter_of(100_000)),
    "filter of a small table": (weighed(Filter), filter_of(200)),
}


@pytest.mark.parametrize("name", TYPICAL)
def test_weights_are_what_is_allocated(name: str) -> None:
    decode, payload = TYPICAL[name]
    decode(payload)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        items = [decode(bytes(bytearray(payload))) for _ in range(10)]
        gc.collect()
        allocated = (tracemalloc.get_traced_memory()[0] - before) / len(items)
    finally:
        tracemalloc.stop()

    assert items[0][1] == pytest.approx(allocated, rel=0.25)


# -- loads ------------------------------------------------------------------------------------------------------------


def test_one_load_however_many_ask() -> None:
    cache, loads, calls = Cache(100, RUNTIME), Loads(RUNTIME), []
    go = threading.Event()

    def load() -> tuple[str, int]:
        calls.append(1)
        go.wait(10)
        return "value", 5

    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(loads.get(cache, (A, 1), load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()

    assert (found, len(calls), cache.peek((A, 1))) == (["value"] * 8, 1, "value")


def test_a_failed_load_is_tried_again_by_the_next() -> None:
    cache, loads = Cache(100, RUNTIME), Loads(RUNTIME)

    def fail() -> tuple[str, int]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        loads.get(cache, (A, 1), fail)

    assert loads.get(cache, (A, 1), lambda: ("value", 5), keep=False) == "value"
    assert cache.peek((A, 1)) is None


# -- shared -----------------------------------------------------------------------------------------------------------


def test_databases_share_a_budget_and_never_content() -> None:
    caches = Caches(block_bytes=1 << 20, meta_bytes=1 << 20)
    one = open_plain(MemoryStore(), tiny(), caches=caches, runtime=Runtime())
    two = open_plain(MemoryStore(), tiny(), caches=caches, runtime=Runtime())
    for db, value in ((one, b"1"), (two, b"2")):
        db.put(b"key", value)
        db.flush(lsm.FlushType.MEMTABLE)

    assert [one.get(b"key"), two.get(b"key"), one.get(b"key")] == [b"1", b"2", b"1"]
    assert (caches.status().blocks.items, caches.status().meta.items) == (2, 2)
    assert one.status().caches == caches.status()

    one.drop_cached()
    assert (caches.status().blocks.items, caches.status().meta.items) == (1, 1)
    one.close()
    assert two.get(b"key") == b"2"
    two.close()
    assert caches.status().blocks.items == 1


def test_a_reader_finds_what_the_writer_of_its_process_read() -> None:
    store, caches = CountingStore(MemoryStore()), Caches()
    with open_plain(store, tiny(), caches=caches) as db:
        db.put(b"key", b"value")
        db.flush(lsm.FlushType.MEMTABLE)
        assert db.get(b"key") == b"value"
        store.reset()

        with lsm.DbReader.open("memory://", tiny(), object_store=store, caches=caches, refresh_interval=None) as reader:
            assert reader.get(b"key") == b"value"

    assert [name for _, name in store.log if name.startswith("sst/")] == []


def test_one_handles_failing_store_is_not_the_others() -> None:
    store, caches = MemoryStore(), Caches()
    with open_plain(store, tiny(), caches=caches) as db:
        db.put(b"key", b"value")
        db.flush(lsm.FlushType.MEMTABLE)
        broken = FaultyStore(store, [Fault.NONE, Fault.REFUSED], only=("get_range",))  # after a look at the manifest
        with lsm.DbReader.open(
            "memory://", tiny(), object_store=broken, caches=caches, refresh_interval=None
        ) as reader:
            with pytest.raises(lsm.UnavailableError):
                reader.get(b"key")
            assert db.get(b"key") == b"value"
            assert reader.get(b"key") == b"value"


@pytest.mark.parametrize("wrong", [{"block_bytes": -1}, {"meta_bytes": 1.5}, {"block_bytes": True}])
def test_wrong_sizes_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(lsm.InvalidError, match=next(iter(wrong))):
        Caches(**wrong)


def test_something_else_than_caches_is_refused() -> None:
    with pytest.raises(lsm.InvalidError, match=r"caches must be an lsm\.Caches"):
        open_plain(MemoryStore(), tiny(), caches={})
