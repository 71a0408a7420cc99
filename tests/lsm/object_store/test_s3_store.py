"""S3Store against real server processes: request budgets, error answers, timeouts, persistence."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.asyn import sync

from lsm.errors import InvalidError, UnavailableError
from lsm.object_store import (
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    ReliableStore,
    RequestRefused,
    S3Store,
    StoreFault,
    open_store,
)
from lsm.runtime import Runtime
from tests.servers.s3 import BUCKET, Ministack, Seaweed, ServerProcess, close_file_system, free_ports

pytestmark = pytest.mark.s3


@pytest.fixture(params=["ministack", "seaweed"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    found: ServerProcess = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(server: ServerProcess) -> Iterator[ObjectStore]:
    made = open_store(server.url(f"s3-{random.getrandbits(64):x}"), server.storage_options)
    yield made
    made.close()


def count_requests(store: ObjectStore) -> Counter[str]:
    """Requests by operation, as botocore sends them."""
    assert isinstance(store, S3Store)
    sent: Counter[str] = Counter()
    fs = store._fs
    sync(fs.loop, fs.set_session)

    def note(request: Any, event_name: str, **rest: Any) -> None:
        sent[event_name.rpartition(".")[2]] += 1

    fs._s3.meta.events.register("before-send.s3", note)
    return sent


def test_every_call_is_one_request(store: ObjectStore) -> None:
    sent = count_requests(store)

    store.put_if_absent("wal/1", [b"0123456789"], timeout=30.0)
    assert sent == {"PutObject": 1}
    store.get("wal/1", timeout=30.0)
    store.get_range("wal/1", 2, 5, timeout=30.0)
    store.get_range("wal/1", 50, 60, timeout=30.0)
    assert sent == {"PutObject": 1, "GetObject": 3}
    store.head("wal/1", timeout=30.0)
    store.list("wal/", timeout=30.0)
    store.list("nothing/", timeout=30.0)
    store.delete("wal/1", timeout=30.0)
    store.delete("wal/1", timeout=30.0)
    assert sent == {"PutObject": 1, "GetObject": 3, "HeadObject": 1, "ListObjectsV2": 2, "DeleteObject": 2}
    with pytest.raises(ObjectMissing):
        store.get("wal/1", timeout=30.0)
    assert sent["GetObject"] == 4


@pytest.mark.parametrize(("count", "pages"), [(1100, 2), pytest.param(2300, 3, marks=pytest.mark.slow)])
def test_list_pages_through_more_than_a_thousand_names(ministack: Ministack, count: int, pages: int) -> None:
    store = open_store(ministack.url(f"pages-{count}"), ministack.storage_options)
    fs = ministack.file_system()
    fs.pipe({f"{BUCKET}/pages-{count}/wal/{i:05d}": b"x" for i in range(count)})
    close_file_system(fs)
    sent = count_requests(store)

    found = store.list("wal/", timeout=30.0)

    assert [info.name for info in found] == [f"wal/{i:05d}" for i in range(count)]
    assert sent == {"ListObjectsV2": pages}
    assert all(info.modified_ms for info in found)
    store.close()


def test_a_missing_bucket_is_named_with_the_remedy(server: ServerProcess) -> None:
    store = open_store("s3://no-such-bucket-anywhere/db", server.storage_options)

    requests: list[Callable[[], object]] = [
        lambda: store.get("wal/1", timeout=30.0),
        lambda: store.list("wal/", timeout=30.0),
        lambda: store.delete("wal/1", timeout=30.0),
    ]
    if isinstance(server, Ministack):  # SeaweedFS makes the bucket on the first write
        requests.append(lambda: store.put_if_absent("wal/1", [b"x"], timeout=30.0))
    for request in requests:
        with pytest.raises(RequestRefused, match=r"no-such-bucket-anywhere.*create it first") as caught:
            request()
        assert not caught.value.transient
    store.close()


def test_wrong_credentials_are_permanent(seaweed: Seaweed) -> None:
    for wrong in ({"secret": "wrong"}, {"key": "nobody"}):
        store = open_store(seaweed.url("x"), {**seaweed.storage_options, **wrong})
        with pytest.raises(RequestRefused, match="credentials") as caught:
            store.put_if_absent("wal/1", [b"x"], timeout=30.0)
        assert not caught.value.transient
        store.close()


def test_missing_credentials_are_permanent(
    ministack: Ministack, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = open_store(ministack.url("x"), {"endpoint_url": ministack.endpoint})

    with pytest.raises(RequestRefused, match="no usable credentials") as caught:
        store.get("wal/1", timeout=30.0)

    assert not caught.value.transient
    store.close()


def test_nobody_listening_is_transient_and_asked_once() -> None:
    store = open_store(
        f"s3://{BUCKET}/x",
        {"key": "a", "secret": "b", "endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}"},
    )
    sent = count_requests(store)

    with pytest.raises(StoreFault) as caught:
        store.get("wal/1", timeout=30.0)

    assert caught.value.transient
    assert sent == {"GetObject": 1}
    store.close()


def test_a_server_that_hangs_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = open_store(
            f"s3://{BUCKET}/x",
            {"key": "a", "secret": "b", "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"},
        )
        begin = time.monotonic()

        with pytest.raises(StoreFault) as caught:
            store.get("wal/1", timeout=0.2)

        assert caught.value.transient
        assert time.monotonic() - begin < 5.0
        store.close()


def test_calls_from_the_io_thread_are_refused(ministack: Ministack) -> None:
    store = open_store(ministack.url("io"), ministack.storage_options)
    assert isinstance(store, S3Store)

    async def call() -> None:
        store.get("wal/1", timeout=1.0)

    with pytest.raises(InvalidError, match="I/O thread"):
        sync(store._fs.loop, call)
    store.close()


def test_calls_from_inside_another_event_loop_work(ministack: Ministack) -> None:
    store = open_store(ministack.url("loop"), ministack.storage_options)

    async def call() -> bytes:
        store.put_if_absent("wal/1", [b"x"], timeout=30.0)
        return store.get("wal/1", timeout=30.0)

    assert asyncio.run(call()) == b"x"
    store.close()


def test_a_closed_store_says_so_and_leaves_nothing_open(server: ServerProcess) -> None:
    store = open_store(server.url("closing"), server.storage_options)
    store.list("", timeout=30.0)

    store.close()
    store.close()
    with pytest.raises(InvalidError, match="closed"):
        store.get("wal/1", timeout=30.0)
    del store
    gc.collect()  # an unclosed session would warn here, and warnings are errors


def test_a_file_system_handed_in_stays_open(ministack: Ministack) -> None:
    fs = ministack.file_system()
    store = open_store(f"{BUCKET}/handed-in", fs=fs)
    store.put_if_absent("wal/1", [b"x"], timeout=30.0)
    store.close()

    assert fs.cat_file(f"{BUCKET}/handed-in/wal/1") == b"x"
    assert store.spec() is None
    close_file_system(fs)


def test_threads_share_one_store(server: ServerProcess, store: ObjectStore) -> None:
    problems: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for turn in range(10):
                body = bytes([who, turn]) * 500
                store.put_if_absent(f"{who}/{turn}", [body], timeout=30.0)
                assert store.get(f"{who}/{turn}", timeout=30.0) == body
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert len(store.list("", timeout=30.0)) == 80


@pytest.mark.slow
def test_what_seaweed_acknowledged_survives_kill_and_restart() -> None:
    server = Seaweed()
    runtime = Runtime()
    try:
        server.start()
        raw = open_store(server.url("persist"), server.storage_options, request_timeout=5.0)
        store = ReliableStore(raw, runtime, op_timeout=60.0, request_timeout=5.0)
        for turn in range(100):
            store.put_new(f"wal/{turn:03d}", [b"%d" % turn])
        server.restart()

        for turn in range(100):
            assert store.get(f"wal/{turn:03d}") == b"%d" % turn
        with pytest.raises(ObjectExists):
            store.put_new("wal/000", [b"other"])
        server.kill()
        short = ReliableStore(raw, runtime, op_timeout=0.5, request_timeout=0.5)
        with pytest.raises(UnavailableError) as caught:
            short.put_new("wal/100", [b"x"])
        assert caught.value.outcome_unknown
        raw.close()
    finally:
        runtime.close()
        server.stop()
