"""A compactor in a process of its own: beside a writer, fenced, killed at every step, and with kill -9."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from tests.doubles import CrashAt, CrashingStore, SimulatedCrash, number_of
from tests.lsm.support import Lists, TwoBytes, append, copy_of, objects_of, open_db, read_rows, tiny

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
ROOT = Path(__file__).resolve().parents[2]
WRITER = tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20, l0_max_ssts=200)
COMPACTOR = tiny(l0_compaction_min=2, l0_compaction_max=8, op_timeout=0.5)
RULES = {"prefix_extractor": TwoBytes(), "series_layout": Lists()}


def open_compactor(store: Any, settings: lsm.Settings = COMPACTOR, *, poll_interval: float = 0.01) -> lsm.DbCompactor:
    return lsm.DbCompactor.open("memory://", settings, object_store=store, poll_interval=poll_interval, **RULES)


def fill(db: lsm.Db, *, turns: int = 4, seed: int = 1, first: int = 0) -> int:
    """Level-0 tables that overlap; the next number of the series."""
    chance = random.Random(seed)
    for _ in range(turns):
        for _ in range(40):
            db.put(b"p0%c%02d" % (chance.choice(b"AKMZ"), chance.randrange(40)), chance.randbytes(30))
        rows = [(b"s%d" % chance.randrange(3), chance.randbytes(20)) for _ in range(30)]
        append(db, b"p0L", rows, first)
        first += len(rows)
        db.flush(lsm.FlushType.MEMTABLE)
    return first


@contextlib.contextmanager
def filled() -> Iterator[tuple[MemoryStore, lsm.Db]]:
    memory = MemoryStore()
    with open_db(memory, WRITER) as db:
        fill(db)
        yield memory, db


def l0_of(manifest: lsm.Manifest) -> int:
    return sum(len(partition.l0) for partition in manifest.partitions)


def assert_no_orphans(memory: MemoryStore, manifest: lsm.Manifest) -> None:
    """Every object under sst/ is a table of the manifest."""
    stored = {name for name in objects_of(memory) if name.startswith("sst/")}
    assert {number_of(name) for name in stored} == manifest.table_ids()
    assert all(name.endswith(".sst") for name in stored)


def test_compacts_beside_a_writer_that_sees_it_with_its_next_flush() -> None:
    with filled() as (memory, db):
        before = read_rows(db)

        with open_compactor(memory) as compactor:
            assert compactor.run_once(20)
            assert compactor.committed >= 1
            db.put(b"p0new", b"x")
            db.flush(lsm.FlushType.MEMTABLE)

        assert l0_of(db.manifest) == 1
        assert read_rows(db) == [*before, (b"p0new", b"x")]
        assert db.manifest.jobs == ()
        db.collect_garbage(min_age=0)
        assert_no_orphans(memory, db.manifest)
        assert read_rows(db) == [*before, (b"p0new", b"x")]
    with open_db(memory, WRITER) as db:
        assert read_rows(db) == [*before, (b"p0new", b"x")]


def test_goes_on_when_the_writer_opens_anew() -> None:
    with filled() as (memory, db):
        before = read_rows(db)
        db.close()
        with open_compactor(memory) as compactor:
            with open_db(memory, WRITER) as later:
                assert later.status().writer_epoch > compactor.epoch
                next_number = fill(later, seed=2, first=120)
                later.collect_garbage(min_age=0)
                assert compactor.run_once(20)
                expected = read_rows(later)
                later.put(b"p0zz", b"")
            assert next_number
            assert compactor.committed
    with open_db(memory, WRITER) as db:
        assert read_rows(db) == [*expected, (b"p0zz", b"")]
        assert len(expected) > len(before)


def test_a_newer_compactor_fences_it_and_the_writer_is_not_touched() -> None:
    with filled() as (memory, db), open_compactor(memory) as older, open_compactor(memory) as newer:
        assert newer.epoch > older.epoch

        with pytest.raises(lsm.FencedError, match="another compactor"):
            older.run_once(20)

        assert newer.run_once(20)
        db.put(b"p0more", b"x").await_durable()


def test_a_writer_that_compacts_takes_it_back() -> None:
    with filled() as (memory, db):
        db.close()
        with open_compactor(memory) as compactor, open_db(memory, COMPACTOR) as later:
            assert later.wait_idle(20)
            with pytest.raises(lsm.FencedError):
                compactor.run()
            assert l0_of(later.manifest) == 0


def test_takes_it_from_a_writer_that_compacts_and_the_writer_goes_on() -> None:
    memory = MemoryStore()
    with open_db(memory, tiny(l0_sst_size_bytes=1 << 20, l0_compaction_min=2, l0_max_ssts=4)) as db:
        fill(db, turns=1)
        with open_compactor(memory) as compactor:
            compactor._start()
            fill(db, turns=9, seed=3, first=30)  # More than level 0 holds: somebody relieves it.
            assert db.wait_idle(20)
            assert db._engine.compactor is not None
            assert db._engine.compactor.is_superseded
            assert compactor.run_once(20)
            assert compactor.committed
        db.put(b"p0after", b"x").await_durable()


def test_refuses_other_rules_and_an_empty_place() -> None:
    with filled() as (memory, _), pytest.raises(lsm.InvalidError, match="prefix extractor"):
        lsm.DbCompactor.open("memory://", object_store=memory)
    with pytest.raises(lsm.UnavailableError, match="nobody has written"):
        lsm.DbCompactor.open("memory://")
    with pytest.raises(lsm.InvalidError, match="components are"):
        lsm.DbCompactor.open("memory://", colour="red")


# -- dying at every step --------------------------------------------------------------------------------------------------


def compaction_calls() -> int:
    with filled() as (memory, _):
        store = CrashingStore(copy_of(memory))
        with open_compactor(store, poll_interval=20) as compactor:
            assert compactor.run_once(20)
        calls = {(call, name.rpartition(".")[2]) for call, name in store.log}
        assert {("put_if_absent", "sst"), ("put_if_absent", "done"), ("put_if_absent", "manifest")} <= calls
        return store.calls


CALLS = compaction_calls()


@pytest.mark.parametrize("which", ["odd", pytest.param("even", marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
def test_killed_at_every_call_the_next_one_finishes_the_job_and_nothing_is_left(how: CrashAt, which: str) -> None:
    """Each way takes the other half of the calls than the one before it; the long run takes all."""
    first_call = 1 + (list(CrashAt).index(how) + (which == "even")) % 2
    resumed = crashed = 0
    with filled() as (original, db):
        expected = read_rows(db)
        db.close()
        for at in range(first_call, CALLS + 1, 2):
            memory = copy_of(original)
            store = CrashingStore(memory, at, how)
            with contextlib.suppress(lsm.Error, SimulatedCrash), open_compactor(store, poll_interval=20) as first:
                first.run_once(20)
            crashed += store.is_dead
            store.kill()
            with open_db(memory, WRITER) as writer:
                writer.collect_garbage(min_age=0)  # What a claimed job has finished is not garbage.
                with open_compactor(memory) as second:
                    assert second.run_once(20)
                writer.put(b"p0zz", b"")
                writer.flush(lsm.FlushType.MEMTABLE)
                writer.collect_garbage(min_age=0)
                where = f"call {at} of {CALLS} ({store.log[-1]}), {how.value}"
                assert read_rows(writer) == [*expected, (b"p0zz", b"")], where
                assert writer.manifest.jobs == (), where
                assert_no_orphans(memory, writer.manifest)
                runs = [run for partition in writer.manifest.partitions for run in partition.runs]
                epochs = {table.number >> 40 for run in runs for table in run.tables}
                resumed += epochs == {2, 4}  # The first compactor's and the second's; the writer's is between them.
    assert resumed > 2
    assert crashed >= CALLS // 2 - 5  # A thread may need a call or two less than when they were counted.


def half_done() -> tuple[MemoryStore, list[tuple[bytes, bytes]]]:
    """A database whose compactor died after its second table, and its rows."""
    memory = MemoryStore()
    with open_db(memory, WRITER) as db:
        fill(db, turns=2)
        expected = read_rows(db)
    counting = CrashingStore(copy_of(memory))
    with open_compactor(counting, poll_interval=20) as compactor:
        assert compactor.run_once(20)
    notes = [at for at, (_, name) in enumerate(counting.log, 1) if name.endswith(".done")]
    store = CrashingStore(memory, notes[1], CrashAt.AFTER)
    with contextlib.suppress(lsm.Error, SimulatedCrash), open_compactor(store, poll_interval=20) as first:
        first.run_once(20)
    store.kill()
    return memory, expected


@pytest.mark.parametrize("how", CrashAt, ids=lambda how: how.name.lower())
def test_killed_at_every_call_of_a_takeover_the_third_one_finishes_the_job_and_nothing_is_left(how: CrashAt) -> None:
    original, expected = half_done()
    at, taken_twice = 0, 0
    is_dead = True
    while is_dead:
        at += 1
        memory = copy_of(original)
        store = CrashingStore(memory, at, how)
        with contextlib.suppress(lsm.Error, SimulatedCrash), open_compactor(store, poll_interval=20) as second:
            second.run_once(20)
        is_dead = store.is_dead
        store.kill()
        with open_db(memory, WRITER) as writer:
            writer.collect_garbage(min_age=0)
            with open_compactor(memory) as third:
                assert third.run_once(20)
            writer.put(b"p0zz", b"")
            writer.flush(lsm.FlushType.MEMTABLE)
            writer.collect_garbage(min_age=0)
            where = f"call {at} ({store.log[-1]}), {how.value}"
            assert read_rows(writer) == [*expected, (b"p0zz", b"")], where
            assert writer.manifest.jobs == (), where
            assert_no_orphans(memory, writer.manifest)
            epochs = {t.number >> 40 for each in writer.manifest.partitions for run in each.runs for t in run.tables}
            taken_twice += len(epochs) == 3  # Tables of all three compactors are in the one run.
    assert at > 15
    assert taken_twice > 2


def test_finished_tables_of_a_dead_compactor_are_used() -> None:
    with filled() as (memory, db):
        expected = read_rows(db)
        counting = CrashingStore(copy_of(memory))
        with open_compactor(counting, poll_interval=20) as compactor:  # No look in between, which would be a call.
            compactor.run_once(20)
        notes = [at for at, (_, name) in enumerate(counting.log, 1) if name.endswith(".done")]
        store = CrashingStore(memory, notes[3], CrashAt.AFTER)
        with contextlib.suppress(lsm.Error, SimulatedCrash), open_compactor(store, poll_interval=20) as first:
            first.run_once(20)
        db.flush(lsm.FlushType.MEMTABLE)

        with open_compactor(memory) as second:
            assert second.run_once(20)
        db.put(b"p0zz", b"")
        db.flush(lsm.FlushType.MEMTABLE)

        epochs = [t.number >> 40 for partition in db.manifest.partitions for run in partition.runs for t in run.tables]
        assert epochs.count(first.epoch) >= 3
        assert epochs.count(second.epoch) >= 1
        assert read_rows(db) == [*expected, (b"p0zz", b"")]


def test_what_still_works_for_an_older_claim_harms_nothing() -> None:
    """A worker of a dead compactor may go on: it writes under numbers that nobody will look at."""
    with filled() as (memory, db):
        expected = read_rows(db)
        store = CrashingStore(memory, None)
        with open_compactor(store) as first:
            first._compactor.start()
            while not any(name.endswith(".done") for _, name in store.log):
                time.sleep(0.001)
            with open_compactor(memory) as second:
                assert second.run_once(20)
        db.put(b"p0zz", b"")
        db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
        db.collect_garbage(min_age=0)
        assert_no_orphans(memory, db.manifest)
        assert read_rows(db) == [*expected, (b"p0zz", b"")]


# -- the command ----------------------------------------------------------------------------------------------------------


def command(url: Path, *more: str) -> subprocess.Popen[str]:
    rules = "tests.lsm.test_db_compactor:RULES"
    words = [sys.executable, "-W", "error", "-m", "lsm", "compactor", str(url), "--rules", rules, *more]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def on_disk(path: Path, settings: lsm.Settings = WRITER) -> lsm.Db:
    return lsm.Db.open(path, settings, **RULES)


def test_the_command_compacts_once(tmp_path: Path) -> None:
    with on_disk(tmp_path) as db:
        fill(db)
        expected = read_rows(db)

        process = command(tmp_path, "--once", "--workers", "2")
        _, told = process.communicate(timeout=60)

        assert process.returncode == 0, told
        assert "1 compactions committed" in told
        db.put(b"p0zz", b"")
        db.flush(lsm.FlushType.MEMTABLE)
        assert l0_of(db.manifest) == 1
        assert read_rows(db) == [*expected, (b"p0zz", b"")]


def test_the_command_ends_on_sigterm_with_nothing_lost(tmp_path: Path) -> None:
    with on_disk(tmp_path) as db:
        fill(db)
        process = command(tmp_path)
        assert process.stderr is not None
        assert "compacting under epoch" in process.stderr.readline()
        while db._engine.manifests.refresh().jobs or l0_of(db._engine.manifests.current):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "committed" in told


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    process = command(tmp_path)
    assert "nobody has written one yet" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


@pytest.mark.parametrize("kills", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_nine_of_the_command_again_and_again_loses_nothing(tmp_path: Path, kills: int) -> None:
    chance = random.Random(4)
    number = 0
    settings = tmp_path / "settings.toml"
    settings.write_text(
        "max_sst_size = 2000\nsst_block_size = 200\nl0_compaction_min = 2\ncompaction_placement = 'thread'\n"
    )
    place = tmp_path / "db"
    with on_disk(place) as db:
        for turn in range(kills):
            number = fill(db, turns=6, seed=turn, first=number)
            process = command(place, "--settings", str(settings))
            assert process.stderr is not None
            process.stderr.readline()
            time.sleep(chance.random() * 0.1)
            process.kill()
            process.communicate()
            db.collect_garbage(min_age=0)
        expected = read_rows(db)
        process = command(place, "--settings", str(settings), "--once")
        assert process.wait(60) == 0
        process.communicate()
        db.put(b"p0zz", b"")
        db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
        assert read_rows(db) == [*expected, (b"p0zz", b"")]
        stored = {path.name for path in (place / "sst").iterdir()}
        assert {number_of(f"sst/{name}") for name in stored} == db.manifest.table_ids()
        assert db.manifest.jobs == ()
