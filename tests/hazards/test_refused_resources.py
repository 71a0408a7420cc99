"""Threads, descriptors and memory that the system refuses: a typed error or less speed, nothing half applied, and full use when
there is some again. And a main thread that ends while the others go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.concurrency.threads import ThreadPool
from lsm.wal import frames
from opendata_log import Config, Error, LogDb, LogDbReader, QueueFullError, RetentionConfig, SegmentConfig, StorageError
from tests.lsm.support import engine_threads
from tests.opendata_log.support import tiny, values

ROOT = Path(__file__).resolve().parents[2]


class Threads:
    """Lets a number of threads start, and refuses all later ones, as a limit of the system does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 1 << 30
        self.refused = 0
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if self.left <= 0 and thread.name.startswith(("lsm-", "log-")):
                self.refused += 1
                raise RuntimeError("can't start new thread")
            self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


def config(path: Path) -> Config:
    return Config(
        storage=str(path),
        engine=tiny(gc_interval=60.0, flush_interval=0.01),
        segmentation=SegmentConfig(seal_interval=3600.0),
        retention=RetentionConfig(retention=7200.0),
    )


def test_an_open_that_gets_too_few_threads_fails_whole_and_the_next_one_works(tmp_path: Path, threads: Threads) -> None:
    before = {thread for thread in engine_threads() if thread.is_alive()}
    failures = 0
    for allowed in range(12):
        threads.left = allowed
        try:
            log = LogDb.open(config(tmp_path))
        except StorageError as error:
            assert "could not be started" in str(error)
            failures += 1
            left = [thread for thread in engine_threads() if thread not in before and thread.is_alive()]
            assert not [thread for thread in left if not thread.name.startswith("lsm-io")], allowed
            continue
        break
    assert 2 <= failures < 11
    threads.left = 1 << 30
    with log:
        log.try_append([(b"k", b"1")])
        log.flush()
        assert values(log, b"k") == [b"1"]


def test_a_reader_that_gets_no_thread_fails_whole_and_the_next_one_works(tmp_path: Path, threads: Threads) -> None:
    with LogDb.open(config(tmp_path)) as log:
        log.try_append([(b"k", b"1")])
    threads.left = 0
    with pytest.raises(Error, match="could not be started"):
        LogDbReader.open(storage=str(tmp_path))
    threads.left = 1 << 30
    with LogDbReader.open(storage=str(tmp_path)) as reader:
        assert [entry.value for entry in reader.scan(b"k")] == [b"1"]


def test_an_open_log_that_gets_no_further_thread_works_on_and_compacts_all_the_same(
    tmp_path: Path, threads: Threads
) -> None:
    log = LogDb.open(config(tmp_path))
    threads.left = 0
    expected = []
    for turn in range(12):
        batch = [(b"k%d" % (at % 3), b"%d" % (100 * turn + at) * 20) for at in range(40)]
        log.append_timeout(batch, 10)
        expected += [value for key, value in batch if key == b"k0"]
        log._db.flush(lsm.FlushType.MEMTABLE)
        assert values(log, b"k0") == expected
    assert log.wait_idle(30)
    assert threads.refused
    assert log.status().compactions
    assert log.status().background == {}
    log.close()

    threads.left = 1 << 30
    with LogDb.open(config(tmp_path)) as log:
        assert values(log, b"k0") == expected


def test_appends_without_a_thread_become_durable_by_themselves_when_there_is_one_again(
    tmp_path: Path, threads: Threads
) -> None:
    with LogDb.open(config(tmp_path)) as log:
        threads.left = 0
        log.try_append([(b"k", b"1")])
        log.try_append([(b"k", b"2")])
        threads.left = 1 << 30
        end = log.try_append([(b"k", b"3")]).start_sequence + 1

        assert log.subscribe_durable().wait(end - 1, timeout=30) == end
        assert values(log, b"k") == [b"1", b"2", b"3"]


def test_a_pool_without_a_thread_refuses_the_call_and_does_not_make_it_later(threads: Threads) -> None:
    pool, made = ThreadPool("lsm-test", 2), list[int]()
    threads.left = 0
    with pytest.raises(lsm.UnavailableError, match="ulimit -u"):
        pool.submit(made.append, 1)
    threads.left = 1
    pool.submit(made.append, 2).result(10)
    pool.submit(made.append, 3).result(10)
    pool.shutdown()
    assert made == [2, 3]
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(made.append, 4)


class Memory:
    """Refuses a number of a function's allocations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
        self.refusals = 0
        call = getattr(place, name)

        def limited(*arguments: Any, **options: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise MemoryError
            return call(*arguments, **options)

        monkeypatch.setattr(place, name, limited)


APPENDS: dict[str, Callable[[LogDb, bytes], object]] = {
    "one": lambda log, value: log.try_append([(b"k", value)]),
    "a slice": lambda log, value: log.try_append([(b"k", value)] + [(b"other", b"x" * 100)] * 2000),
    "in a new segment": lambda log, value: (log.seal_segment(), log.try_append([(b"k", value)])),
}


@pytest.mark.parametrize("way", APPENDS)
@pytest.mark.parametrize("refusals", [1, 3])
def test_memory_that_runs_out_while_the_log_is_encoded_refuses_a_batch_or_a_flush_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, refusals: int
) -> None:
    memory = Memory(monkeypatch, frames, "encode_frame")
    accepted = [b"before"]
    with LogDb.open(storage=str(tmp_path), engine=tiny(l0_sst_size_bytes=1 << 20)) as log:
        log.try_append([(b"k", b"before")])
        memory.refusals = refusals
        for at in range(6):
            value = b"%d" % at
            try:
                APPENDS[way](log, value)
            except (StorageError, QueueFullError) as error:
                assert error.retryable
            else:
                accepted.append(value)
            try:
                log.flush()
            except StorageError as error:
                assert "not enough memory" in str(error)
            assert values(log, b"k") == accepted
        assert memory.refusals == 0
        assert len(accepted) > 3
    with LogDb.open(storage=str(tmp_path)) as log:
        assert values(log, b"k") == accepted


AFTER_MAIN = """
import sys, threading, warnings
from opendata_log import LogDb, LogDbReader

log = LogDb.open(storage=sys.argv[1], engine={"l0_sst_size_bytes": 65536, "max_unflushed_bytes": 1 << 20,
                                              "flush_placement": sys.argv[2], "compaction_placement": sys.argv[2]})

def work():
    threading.main_thread().join()
    for at in range(120):
        log.append_timeout([(b"k%d" % (at % 7), b"v" * 2000)] * 3, 10)
        if at % 10 == 0:
            log.flush()
    assert sum(len(log.scan(b"k%d" % at).fetchall()) for at in range(7)) == 360
    log.close()
    with LogDb.open(storage=sys.argv[1]) as again, LogDbReader.open(storage=sys.argv[1]) as reader:
        assert sum(again.count(b"k%d" % at) for at in range(7)) == 360
        assert sum(len(reader.scan(b"k%d" % at).fetchall()) for at in range(7)) == 360
    print("done")

threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("placement", ["auto", "thread"])
def test_a_log_works_on_when_the_main_thread_has_ended(tmp_path: Path, placement: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", AFTER_MAIN, str(tmp_path), placement],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)
