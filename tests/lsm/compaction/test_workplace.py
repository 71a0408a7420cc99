"""Where jobs run: threads, worker processes, executors of the caller, and what happens when those fail."""

from __future__ import annotations

import importlib.util
import os
import random
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.compaction import running_job as running
from lsm.compaction import workplace
from lsm.object_store import MemoryStore
from lsm.workers.pool import WorkerProcesses
from tests.lsm.support import Lists, TwoBytes, append, engine_threads, open_db, read_rows, tiny

WHOLE: dict[str, Any] = {"l0_sst_size_bytes": 1 << 20, "level_base_bytes": 1 << 30}
SETTINGS = tiny(**WHOLE, compaction_placement="auto", compaction_workers=2, compaction_part_bytes=4000)


@pytest.fixture(autouse=True)
def small_jobs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (running, workplace):
        monkeypatch.setattr(module, "WORKER_BYTES_MIN", 1)


def open_on_disk(path: Path, settings: lsm.Settings = SETTINGS, **components: Any) -> lsm.Db:
    return lsm.Db.open(path, settings, prefix_extractor=TwoBytes(), series_layout=Lists(), **components)


def fill(db: lsm.Db) -> list[tuple[bytes, bytes]]:
    chance = random.Random(1)
    for turn in range(6):
        for _ in range(60):
            db.put(b"p0%c%02d" % (chance.choice(b"AKMZ"), chance.randrange(90)), chance.randbytes(50))
        append(db, b"p0L", [(b"s%d" % chance.randrange(3), chance.randbytes(20)) for _ in range(30)], 30 * turn)
        db.flush(lsm.FlushType.MEMTABLE)
    expected = read_rows(db)
    assert db.wait_idle(60)
    assert read_rows(db) == expected
    assert sum(each.l0 for each in db.status().partitions) < 2
    return expected


class Watched(Executor):
    """Passes on and remembers."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.submitted = 0
        self.is_shut_down = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        return self.executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.is_shut_down = True


def test_jobs_run_in_an_executor_of_the_callers_and_it_stays_open(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        watched = Watched(pool)
        with open_on_disk(tmp_path, compaction_executor=watched) as db:
            fill(db)
        assert watched.submitted > 2
        assert not watched.is_shut_down
        assert pool.submit(os.getpid).result() != os.getpid()


def test_threads_of_the_callers_need_no_pickling() -> None:
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
        with open_db(MemoryStore(), tiny(l0_sst_size_bytes=1 << 20), compaction_executor=pool) as db:
            fill(db)
            assert not [thread for thread in engine_threads() if thread.name.startswith("lsm-merge")]
        assert pool.submit(int).result() == 0


def test_refuses_an_executor_that_cannot_reach_the_store() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(lsm.InvalidError, match="compaction_executor: no other process"):
        lsm.Db.open("memory://", compaction_executor=pool)


def test_a_large_job_is_cut_and_its_parts_run_side_by_side(tmp_path: Path) -> None:
    with WorkerProcesses(2, niceness=5) as pool:
        watched = Watched(pool)
        parts: dict[str, Any] = {"compaction_workers": 3, "compaction_part_bytes": 4000}
        settings = tiny(**WHOLE, **parts, l0_compaction_min=6, l0_compaction_max=8)
        with open_on_disk(tmp_path, settings, compaction_executor=watched) as db:
            fill(db)
            assert db.status().compactions == 1
        assert watched.submitted >= 3
        assert pool.submit(os.nice, 0).result() == os.nice(0) + 5


class Failing(Executor):
    """Every job ends as a scheduler of somebody else's would report it."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        future: Future[Any] = Future()
        future.set_exception(RuntimeError("KilledWorker: tcp://10.0.0.9:1234"))
        return future


def test_goes_on_in_this_process_where_the_executor_loses_jobs(tmp_path: Path) -> None:
    failing = Failing()
    with open_on_disk(tmp_path, compaction_executor=failing) as db:
        fill(db)
        assert db.status().compactions
        assert failing.submitted


class Silent(Executor):
    """Takes jobs and never answers; the second time around it works."""

    def __init__(self) -> None:
        self.silent = 0
        self.pool = WorkerProcesses(1)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.silent < 2:
            self.silent += 1
            return Future()
        return self.pool.submit(fn, *args, **kwargs)


def test_takes_a_worker_for_dead_that_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workplace, "HEARTBEAT_SECONDS", 0.01)
    silent = Silent()
    with silent.pool:
        settings = tiny(**WHOLE, compaction_stall_timeout=0.2)
        with open_on_disk(tmp_path, settings, compaction_executor=silent) as db:
            fill(db)
            assert silent.silent == 2
            assert db.status().compactions


def test_status_tells_of_running_jobs_and_close_cuts_them_off() -> None:
    store = MemoryStore()
    started, go_on = threading.Event(), threading.Event()

    class Slow(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            is_cancelled = kwargs["is_cancelled"]

            def asked() -> bool:
                started.set()
                while not (is_cancelled() or go_on.is_set()):
                    time.sleep(0.001)
                return bool(is_cancelled())

            return super().submit(fn, *args, is_cancelled=asked)

    with Slow(2) as pool:
        db = open_db(store, tiny(**WHOLE, l0_compaction_min=4, l0_compaction_max=4), compaction_executor=pool)
        for turn in range(4):
            for at in range(40):
                db.put(b"p0%02d" % at, os.urandom(30))
            db.put(b"p0t", b"%d" % turn)
            db.flush(lsm.FlushType.MEMTABLE)
        try:
            assert started.wait(20)
            expected = read_rows(db)

            [job] = db.status().jobs
            assert (job.prefix, job.target, job.parts, job.finished_parts) == (b"p0", 1, 1, 0)
            assert job.size == sum(each.size for each in db.status().partitions)
            assert job.age >= 0
            assert f":{os.getpid()} " in job.where
        finally:
            db.close()

    assert not go_on.is_set()  # Nothing but the closing ended the job.
    with open_db(store) as db:
        assert db.wait_idle(20)
        assert read_rows(db) == expected
        assert db.manifest.jobs == ()


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_compacts_a_log(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    from examples.dask_compaction import main

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        levels = main(f"file://{tmp_path}", client)
        assert sum(client.run(_jobs_done).values()) >= 1
    assert levels


def _jobs_done() -> int:
    """How many stores this worker has opened: only jobs open one."""
    from lsm.workers import pool

    return len(pool._opened)
