"""Beside long jobs: level 0 is relieved in the partition they work on; moves and drains wait for no slot and no worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import lsm
from lsm.compaction.job import CompactionJob
from lsm.compaction.plan import CompactionScheduler, CompactionSpec, merge_spec
from lsm.object_store import MemoryStore
from tests.doubles import number_of
from tests.lsm.support import append, objects_of, open_db, read_rows, read_series, tiny

LEVELED = lsm.LeveledScheduler(l0_min=2, l0_max=3, base_bytes=800, ratio=2)
TIERED = lsm.SizeTieredScheduler(l0_min=2, l0_max=3, runs_min=2, runs_max=4)


class Gate(ThreadPoolExecutor):
    """Holds the jobs it is told to, each in a thread of its own, until it is opened."""

    def __init__(self, is_held: Callable[[CompactionJob], bool]) -> None:
        super().__init__(8)
        self._is_held = is_held
        self._is_open = threading.Event()
        self.held = threading.Event()
        self.jobs: list[CompactionJob] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        job = next(each for each in args if isinstance(each, CompactionJob))
        if not self._is_held(job):
            return super().submit(fn, *args, **kwargs)
        self.jobs.append(job)
        self.held.set()

        def later() -> Any:
            assert self._is_open.wait(30)
            return fn(*args, **kwargs)

        return super().submit(later)

    def open(self) -> None:
        self._is_open.set()


@contextmanager
def gate(is_held: Callable[[CompactionJob], bool]) -> Iterator[Gate]:
    with Gate(is_held) as found:
        try:
            yield found
        finally:
            found.open()


class Watched:
    """A policy, and the jobs it proposed that take nothing of level 0."""

    def __init__(self, policy: CompactionScheduler) -> None:
        self.policy = policy
        self.deep: list[CompactionSpec] = []

    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        found = self.policy.propose(manifest, busy)
        self.deep += [spec for spec in found if not spec.l0 and len(spec.tables) > 1]
        return found

    def is_deep(self, job: CompactionJob) -> bool:
        numbers = {table.number for table in job.sources.tables}
        return any(numbers == spec.numbers for spec in self.deep)


@pytest.mark.parametrize("policy", [LEVELED, TIERED], ids=["leveled", "size-tiered"])
def test_level_0_is_relieved_while_a_long_job_holds_the_runs(policy: CompactionScheduler) -> None:
    scheduler = Watched(policy)
    settings = tiny(l0_sst_size_bytes=1 << 20, l0_max_ssts=4, compaction_workers=2, max_sst_size=400)
    with (
        gate(scheduler.is_deep) as workers,
        open_db(MemoryStore(), settings, scheduler=scheduler, compaction_executor=workers) as db,
    ):
        number = 0

        def flush() -> None:
            nonlocal number
            db.put(b"p0k%03d" % (number % 37), b"%d" % number * 5)
            append(db, b"p0L", [(b"s%d" % (at % 3), b"%d" % at) for at in range(20)], number)
            number += 20
            db.flush(lsm.FlushType.MEMTABLE)

        while not workers.held.is_set():
            flush()
            db.wait_idle(0.1)
            assert number < 4000, "no long job ever began"
        held = {table.number for table in workers.jobs[0].sources.tables}

        for _ in range(24):  # Six times as many as flushes would wait for.
            flush()

        tree = db.manifest.partition(b"p0")
        assert tree is not None
        assert held <= {table.number for table in tree.tables()}, "the long job was still held"
        assert len(tree.l0) <= 4
        expected = read_rows(db)
        workers.open()
        assert db.wait_idle(30)
        assert db.status().refused_compactions == 0
        assert read_rows(db) == expected
        found = [row for name in (b"s0", b"s1", b"s2") for row in read_series(db, b"p0L", name)]
        assert sorted(at for at, _ in found) == list(range(number))
        tree = db.manifest.partition(b"p0")
        assert tree is not None
        assert not held & {table.number for table in tree.tables()}


class Told:
    """Proposes what it is told to."""

    def __init__(self) -> None:
        self.plan: Callable[[lsm.Manifest], list[CompactionSpec]] = lambda manifest: []

    def propose(self, manifest: lsm.Manifest, busy: frozenset[int]) -> Sequence[CompactionSpec]:
        return self.plan(manifest)


def merged(partition: lsm.Partition) -> CompactionSpec:
    return merge_spec(partition, partition.l0, partition.runs, target=9)


def tree_of(db: lsm.Db, prefix: bytes) -> tuple[int, int]:
    partition = db.manifest.partition(prefix)
    return (len(partition.l0), len(partition.runs)) if partition is not None else (0, 0)


def wait_for(is_true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_true():
            return
        lsm.Runtime().sleep(0.005)
    raise AssertionError("it never came true")


def test_drains_and_moves_wait_for_no_slot_and_a_drain_ends_the_job_of_its_partition() -> None:
    memory, scheduler = MemoryStore(), Told()
    settings = tiny(l0_sst_size_bytes=1 << 20, compaction_workers=2)
    with (
        gate(lambda job: True) as workers,
        open_db(memory, settings, scheduler=scheduler, compaction_executor=workers) as db,
    ):
        for turn in range(2):
            for prefix in (b"p0", b"p1", b"p2"):
                for at in range(40):
                    db.put(prefix + b"k%02d" % at, b"%d" % turn * 20)
            db.put(b"p3%d" % turn, b"disjoint")
            db.flush(lsm.FlushType.MEMTABLE)
        expected = dict(read_rows(db))
        long = [b"p0", b"p1", b"p2"]
        scheduler.plan = lambda manifest: [merged(each) for each in manifest.partitions if each.prefix in long]
        db.wake_compactor()
        wait_for(
            lambda: len(workers.jobs) == 2 and len(db.manifest.jobs) == 2
        )  # All slots, and one too many is put off.

        def others(manifest: lsm.Manifest) -> list[CompactionSpec]:
            p3 = manifest.partition(b"p3")
            moves = [merge_spec(p3, p3.l0, (), target=5)] if p3 is not None and p3.l0 else []
            drains = [CompactionSpec.drain(each) for each in manifest.partitions if each.prefix in (b"p1", b"p2")]
            return [*moves, *drains]

        scheduler.plan = others
        db.wake_compactor()
        wait_for(lambda: tree_of(db, b"p3") == (0, 1) and tree_of(db, b"p1") == tree_of(db, b"p2") == (0, 0))

        assert [job.prefix for job in db.manifest.jobs] == [b"p0"], "the claim on the drained partition went with it"
        wait_for(lambda: [job.prefix for job in db.status().jobs] == [b"p0"])
        scheduler.plan = lambda manifest: []
        workers.open()
        assert db.wait_idle(30)
        assert tree_of(db, b"p0") == (0, 1)
        assert db.status().refused_compactions == 0
        assert dict(read_rows(db)) == {
            key: value for key, value in expected.items() if not key.startswith((b"p1", b"p2"))
        }
    with open_db(memory, settings, scheduler=Told()) as db:
        db.collect_garbage(min_age=0)
        stored = [name for name in objects_of(memory) if name.startswith("sst/")]
        assert {number_of(name) for name in stored} == db.manifest.table_ids()
