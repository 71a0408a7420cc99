"""Test suites make time stand still. Waits end all the same."""

from __future__ import annotations

import time

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import LogDb
from tests.doubles import GatedStore
from tests.lsm.support import open_plain, tiny


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    at, wall = time.monotonic(), time.time_ns()
    for name, value in (("monotonic", at), ("perf_counter", at), ("time", wall / 1e9)):
        monkeypatch.setattr(time, name, lambda value=value: value)
    for name, value in (("monotonic_ns", int(at * 1e9)), ("time_ns", wall)):
        monkeypatch.setattr(time, name, lambda value=value: value)


def test_a_timeout_ends() -> None:
    store = GatedStore(MemoryStore())
    with open_plain(store, tiny()) as db:
        store.shut()
        handle = db.put(b"a", b"1")
        with pytest.raises(TimeoutError):
            handle.await_durable(0.05)
        with pytest.raises(TimeoutError):
            db.wait_durable_beyond(handle.seqnum, 0.05)
        store.open()


def test_the_flush_interval_passes() -> None:
    with open_plain(MemoryStore(), tiny(flush_interval=0.01)) as db:
        handle = db.put(b"a", b"1")

        assert db.wait_durable_beyond(handle.seqnum - 1, 20) == handle.seqnum


def test_a_follower_ends_after_its_timeout() -> None:
    with LogDb.open(storage="memory://") as log:
        log.try_append([(b"k", b"v")])

        assert [entry.value for entry in log.follow(b"k", timeout=0.05)] == [b"v"]


def test_waiting_for_space_ends() -> None:
    store = GatedStore(MemoryStore())
    with open_plain(store, tiny(max_unflushed_bytes=4096, l0_sst_size_bytes=2048)) as db:
        store.shut()
        while db.has_space:
            db.put(b"a", bytes(1000))
        with pytest.raises(lsm.UnavailableError):
            db.wait_space(0.05)
        store.open()
