"""The contract, over every store and every double: what the engine relies on and nothing else."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lsm.errors import InvalidError
from lsm.object_store import (
    CREATE_BYTES_MAX,
    LocalStore,
    MemoryStore,
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    ReliableStore,
    open_store,
    probe_conditional_create,
)
from lsm.object_store.names import PROBE
from lsm.runtime import Runtime
from tests.doubles import CountingStore, CrashingStore, FaultyStore, SlowStore

SECONDS = 30.0
BACKENDS = [
    "memory",
    "memory_shared",
    "local",
    "local_without_tmpfile",
    "fsspec_memory",
    "faulty_double",
    "crashing_double",
    "counting_double",
    "slow_double",
    pytest.param("s3_ministack", marks=pytest.mark.s3),
    pytest.param("s3_seaweed", marks=pytest.mark.s3),
]


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[ObjectStore]:
    unique = f"{random.getrandbits(64):016x}"
    made = _make(request, tmp_path, unique)
    yield made
    made.close()
    made.close()
    MemoryStore.forget(unique)


def _make(request: pytest.FixtureRequest, tmp_path: Any, unique: str) -> ObjectStore:
    match request.param:
        case "memory":
            return open_store("memory://")
        case "memory_shared":
            return open_store(f"memory://{unique}")
        case "local":
            return open_store(f"file://{tmp_path}/db/deep")
        case "local_without_tmpfile":
            return LocalStore(tmp_path / "db", use_tmpfile=False)
        case "fsspec_memory":
            return open_store(f"/{unique}/db", fs=MemoryFileSystem())
        case "s3_ministack" | "s3_seaweed":
            server = request.getfixturevalue(request.param.removeprefix("s3_"))
            return open_store(server.url(unique), server.storage_options)
        case double:
            doubles: dict[str, Callable[[ObjectStore], ObjectStore]] = {
                "faulty": FaultyStore,
                "crashing": CrashingStore,
                "counting": CountingStore,
                "slow": lambda inner: SlowStore(inner, 0.0),
            }
            return doubles[double.removesuffix("_double")](MemoryStore())


def put(store: ObjectStore, name: str, *parts: bytes) -> None:
    store.put_if_absent(name, parts, timeout=SECONDS)


def names(store: ObjectStore, prefix: str) -> list[str]:
    return [info.name for info in store.list(prefix, timeout=SECONDS)]


def test_put_stores_the_parts_one_after_the_other(store: ObjectStore) -> None:
    put(store, "wal/1", b"ab", b"", b"c", b"def")

    assert store.get("wal/1", timeout=SECONDS) == b"abcdef"


@pytest.mark.parametrize("parts", [(), (b"",)])
def test_put_takes_an_empty_object(store: ObjectStore, parts: tuple[bytes, ...]) -> None:
    put(store, "empty", *parts)

    assert store.get("empty", timeout=SECONDS) == b""
    assert store.get_range("empty", 0, 10, timeout=SECONDS) == b""
    assert store.head("empty", timeout=SECONDS).size == 0


def test_put_takes_many_parts_and_buffers_of_any_kind(store: ObjectStore) -> None:
    parts = [bytes([i % 251]) * (i % 7) for i in range(3000)]

    put(store, "many", *parts)
    store.put_if_absent("buffers", [bytearray(b"ab"), memoryview(b"cd")], timeout=SECONDS)  # type: ignore[list-item]

    assert store.get("many", timeout=SECONDS) == b"".join(parts)
    assert store.get("buffers", timeout=SECONDS) == b"abcd"


def test_second_put_is_refused_and_changes_nothing(store: ObjectStore) -> None:
    put(store, "manifest/1", b"first")

    for body in (b"second", b"first", b""):
        with pytest.raises(ObjectExists):
            put(store, "manifest/1", body)

    assert store.get("manifest/1", timeout=SECONDS) == b"first"


def test_objects_of_several_mebibytes_come_back_whole(store: ObjectStore) -> None:
    body = random.Random(7).randbytes(3 << 20)

    put(store, "sst/large", body[: 1 << 20], body[1 << 20 :])

    assert store.get("sst/large", timeout=SECONDS) == body
    assert store.get_range("sst/large", 2_000_000, 2_000_100, timeout=SECONDS) == body[2_000_000:2_000_100]


def test_an_object_above_the_limit_is_refused(store: ObjectStore) -> None:
    if store.object_bytes_max > CREATE_BYTES_MAX:
        pytest.skip("local and memory stores take objects of any size")
    half = bytes(CREATE_BYTES_MAX // 2 + 1)

    with pytest.raises(InvalidError, match="may exceed"):
        put(store, "huge", half, half)

    assert names(store, "") == []


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 10, b"0123456789"),
        (0, 1, b"0"),
        (3, 7, b"3456"),
        (9, 10, b"9"),
        (7, 99, b"789"),
        (2, 1 << 40, b"23456789"),
        (10, 11, b""),
        (10, 99, b""),
        (500, 900, b""),
        (4, 4, b""),
        (7, 3, b""),
    ],
)
def test_ranges_end_where_the_object_ends(store: ObjectStore, start: int, end: int, expected: bytes) -> None:
    put(store, "sst/1", b"0123456789")

    assert store.get_range("sst/1", start, end, timeout=SECONDS) == expected


def test_missing_objects_are_reported_as_missing(store: ObjectStore) -> None:
    put(store, "dir/there", b"x")

    for name in ("nothing", "dir/nothing", "dir/there/below"):
        with pytest.raises(ObjectMissing):
            store.get(name, timeout=SECONDS)
        with pytest.raises(ObjectMissing):
            store.get_range(name, 0, 5, timeout=SECONDS)
        with pytest.raises(ObjectMissing):
            store.head(name, timeout=SECONDS)


def test_a_prefix_is_not_an_object(store: ObjectStore) -> None:
    put(store, "dir/there", b"x")

    with pytest.raises(ObjectMissing):
        store.get("dir", timeout=SECONDS)
    with pytest.raises(ObjectMissing):
        store.head("dir", timeout=SECONDS)


def test_head_tells_the_size(store: ObjectStore) -> None:
    put(store, "sst/1", b"12345")

    info = store.head("sst/1", timeout=SECONDS)

    assert (info.name, info.size) == ("sst/1", 5)


def test_list_is_recursive_in_byte_order_and_relative_to_the_root(store: ObjectStore) -> None:
    for name in ("wal/10", "wal/2", "wal/a/b/c", "wal/A", "wal/a-b", "sst/1", "wal2/x", "top"):
        put(store, name, name.encode())

    assert names(store, "wal/") == ["wal/10", "wal/2", "wal/A", "wal/a-b", "wal/a/b/c"]
    assert names(store, "") == ["sst/1", "top", "wal/10", "wal/2", "wal/A", "wal/a-b", "wal/a/b/c", "wal2/x"]
    assert [info.size for info in store.list("wal/", timeout=SECONDS)] == [6, 5, 5, 7, 9]


def test_list_of_nothing_is_empty(store: ObjectStore) -> None:
    assert names(store, "") == []
    put(store, "wal/1", b"x")
    assert names(store, "nothing/here/") == []


def test_delete_removes_and_forgives(store: ObjectStore) -> None:
    put(store, "wal/1", b"x")
    put(store, "wal/2", b"y")

    store.delete("wal/1", timeout=SECONDS)
    store.delete("wal/1", timeout=SECONDS)
    store.delete("never/was/there", timeout=SECONDS)

    assert names(store, "") == ["wal/2"]
    put(store, "wal/1", b"again")
    assert store.get("wal/1", timeout=SECONDS) == b"again"


def test_the_probe_accepts_the_store_and_asks_one_request_from_then_on(store: ObjectStore) -> None:
    reliable = ReliableStore(store, Runtime(), op_timeout=60.0, request_timeout=SECONDS)

    probe_conditional_create(reliable)
    assert names(store, "") == [PROBE]
    assert sum(reliable.requests().values()) == 4
    probe_conditional_create(reliable)

    assert names(store, "") == [PROBE]
    assert sum(reliable.requests().values()) == 5


def test_of_eight_creators_one_wins_and_readers_see_whole_objects(store: ObjectStore) -> None:
    # SeaweedFS answers contended creates of one name in seconds, hence few rounds.
    rounds, size = (2 if "127.0.0.1" in _endpoint(store) else 12), 20_000
    for turn in range(rounds):
        name = f"race/{turn}"
        winners, problems = _race(store, name, size)

        assert problems == []
        assert len(winners) == 1
        assert store.get(name, timeout=SECONDS) == bytes([winners[0]]) * size


def _endpoint(store: ObjectStore) -> str:
    spec = store.spec()
    return str(spec.storage_options.get("endpoint_url", "")) if spec is not None else ""


def _race(store: ObjectStore, name: str, size: int) -> tuple[list[int], list[str]]:
    winners: list[int] = []
    problems: list[str] = []
    start = threading.Barrier(10)
    is_over = threading.Event()

    def create(who: int) -> None:
        start.wait()
        try:
            put(store, name, bytes([who]) * (size // 2), bytes([who]) * (size - size // 2))
            winners.append(who)
        except ObjectExists:
            pass
        except Exception as error:
            problems.append(f"writer {who}: {error!r}")

    def read() -> None:
        start.wait()
        while not is_over.is_set():
            try:
                found = store.get(name, timeout=SECONDS)
            except ObjectMissing:
                continue
            except Exception as error:
                problems.append(f"reader: {error!r}")
                return
            if len(found) != size or len(set(found)) != 1:
                problems.append(f"reader saw {len(found)} bytes of {len(set(found))} kinds")
                return

    creators = [threading.Thread(target=create, args=(who,)) for who in range(1, 9)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in creators + readers:
        thread.start()
    for thread in creators:
        thread.join()
    is_over.set()
    for thread in readers:
        thread.join()
    return winners, problems
