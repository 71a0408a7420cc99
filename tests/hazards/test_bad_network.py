"""A bad network: every request of an open, a flush, a compaction, a collection and a poll fails in every way, also in pairs.

Whatever happens, the handle is not dead, no error is of the wrong class, nothing of another database appears, and once the
network is sound again everything can be done and every accepted record is there. The same where the application makes the
call while it handles an HTTP error of its own.

Here the bucket is in this process, so that all of it can be tried. test_bad_network_s3.py tries a part through sockets.
"""

from __future__ import annotations

import random
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from itertools import product
from typing import Any

import pytest

import lsm
from lsm.compaction import compactor
from lsm.object_store import open as opening
from lsm.write import flush
from opendata_log import AppendStorageError, Config, LogDb, LogDbReader, ReaderConfig, StorageConfig, StorageError
from tests.opendata_log.support import tiny, values
from tests.servers.rough import Act, Seen
from tests.servers.scripted import BUCKET, ScriptedBucket, ScriptedFileSystem

URL = f"s3://{BUCKET}/log"
KEYS = (b"a", b"b", b"c")
REFUSALS = {Act.FORBIDDEN, Act.MOVED}
"""Errors raised to the caller at once; after any other, the request is silently repeated."""
STORAGE = StorageConfig(url=URL)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A log with tables, garbage and log objects behind them. Pauses are short, as no test depends on their length."""
    made = World(ScriptedBucket())
    sleep = lsm.Runtime.sleep
    monkeypatch.setattr(lsm.Runtime, "sleep", lambda self, seconds: sleep(self, min(seconds, 0.0005)))
    monkeypatch.setattr(flush, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(compactor, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(opening, "_file_system_class", made.file_system_class)
    with made.open() as log:
        for turn in range(4):
            made.append(log, 3)
            log.flush()
            log._db.flush(lsm.FlushType.MEMTABLE)
            if turn % 2:
                log._db.compact()
        made.append(log, 2)
        log.flush()
    with made.open() as log:
        made.append(log, 2)
        log.flush()
    made.pristine, made.kept = made.bucket.copy(), {key: list(found) for key, found in made.accepted.items()}
    return made


@dataclass
class World:
    bucket: ScriptedBucket
    accepted: dict[bytes, list[bytes]] = field(default_factory=lambda: {key: [] for key in KEYS})
    count: int = 0
    pristine: ScriptedBucket = field(default_factory=ScriptedBucket)
    kept: dict[bytes, list[bytes]] = field(default_factory=dict)

    def file_system_class(self, scheme: str) -> Any:
        world = self

        class Bound(ScriptedFileSystem):
            def __init__(self, **options: Any) -> None:
                super().__init__(world.bucket)

        return Bound

    def begin_again(self) -> None:
        self.bucket = self.pristine.copy()
        self.accepted = {key: list(found) for key, found in self.kept.items()}

    def open(self) -> LogDb:
        return LogDb.open(Config(storage=STORAGE, engine=tiny(op_timeout=60.0)))

    def reader(self) -> LogDbReader:
        return LogDbReader.open(ReaderConfig(storage=STORAGE, refresh_interval=3600))

    def append(self, log: LogDb, count: int) -> None:
        for _ in range(count):
            batch = [(key, b"%s %d " % (key, self.count) * 20) for key in KEYS]
            self.count += 1
            log.try_append(batch)
            for key, value in batch:
                self.accepted[key].append(value)

    def check(self, log: LogDb | LogDbReader) -> None:
        assert {key: values(log, key) for key in KEYS} == self.accepted


# -- what is done while the network is bad ----------------------------------------------------------------------------


def appends(world: World, log: LogDb, reader: LogDbReader) -> None:
    world.append(log, 2)
    log.flush()


def tables(world: World, log: LogDb, reader: LogDbReader) -> None:
    world.append(log, 1)
    log._db.flush(lsm.FlushType.MEMTABLE)
    assert log.wait_idle(60)


def compaction(world: World, log: LogDb, reader: LogDbReader) -> None:
    log._db.compact()
    assert log.wait_idle(60)


def collection(world: World, log: LogDb, reader: LogDbReader) -> None:
    log.collect_garbage(min_age=0)


def checkpoint(world: World, log: LogDb, reader: LogDbReader) -> None:
    log.create_checkpoint()


def poll(world: World, log: LogDb, reader: LogDbReader) -> None:
    """A store that says of a log object that it is missing is believed until the next look: what is shown is older."""
    reader.refresh()
    for key in KEYS:
        shown = values(reader, key)
        assert shown == world.accepted[key][: len(shown)]


def reads(world: World, log: LogDb, reader: LogDbReader) -> None:
    log.drop_cached()
    world.check(log)


Phase = Callable[[World, LogDb, LogDbReader], None]
PHASES: dict[str, Phase] = {
    "append and flush": appends,
    "write tables": tables,
    "compaction": compaction,
    "collection": collection,
    "checkpoint": checkpoint,
    "poll": poll,
    "cold reads": reads,
}


def handling(work: Callable[[], None], *, is_inside: bool) -> None:
    """Run the call, or run it while an HTTP error of the application is handled."""
    if not is_inside:
        work()
        return
    try:
        raise urllib.error.HTTPError("http://config/marker", 404, "Not Found", Message(), None)
    except urllib.error.HTTPError:
        work()


class Plan:
    """The requests from now on that fail, and how."""

    def __init__(self, acts: dict[int, Act]) -> None:
        self.acts = acts
        self.count = 0
        self.done: list[str] = []

    def __call__(self, seen: Seen) -> Act | None:
        act = self.acts.get(self.count)
        self.count += 1
        if act is not None:
            self.done.append(f"{act.name} of {seen.method} {seen.path}")
        return act


def attempt(world: World, plan: Plan, work: Callable[[], None], *, is_inside: bool) -> None:
    """Run `work` under the plan. It may raise only a refusal, unchanged."""
    world.bucket.rule = plan
    try:
        handling(work, is_inside=is_inside)
    except (StorageError, lsm.UnavailableError) as error:
        assert type(error) in (StorageError, AppendStorageError, lsm.UnavailableError), plan.done
        assert REFUSALS.intersection(plan.acts.values()), plan.done
        assert not error.retryable
    finally:
        world.bucket.rule = None


def check_full_use(world: World, log: LogDb) -> None:
    world.append(log, 1)
    log.flush()
    world.check(log)
    log._db.flush(lsm.FlushType.MEMTABLE)
    log._db.compact()
    assert log.wait_idle(60)
    log.collect_garbage(min_age=0)
    log.drop_cached()
    world.check(log)


def check_afterwards(world: World, database: bytes) -> None:
    report = lsm.fsck(URL)
    assert not report.problems
    with world.open() as log:
        assert log._db.manifest.database == database
        world.check(log)


def run_phase(world: World, phase: Phase, acts: dict[int, Act], *, is_inside: bool = False) -> int:
    """Run a phase once and return its number of requests."""
    world.begin_again()
    plan = Plan(acts)
    with world.open() as log, world.reader() as reader:
        if phase is compaction:
            world.append(log, 1)
            log._db.flush(lsm.FlushType.MEMTABLE)
        world.append(log, 1)
        log.flush()
        assert log.wait_idle(60)
        database = log._db.manifest.database
        attempt(world, plan, lambda: phase(world, log, reader), is_inside=is_inside)
        if REFUSALS.intersection(acts.values()):
            log.flush()  # A refusal that the background met refuses appends, too, until a write has succeeded.
        check_full_use(world, log)
        reader.refresh()
        world.check(reader)
    check_afterwards(world, database)
    return plan.count


def run_open(world: World, acts: dict[int, Act], *, is_inside: bool = False) -> int:
    world.begin_again()
    plan = Plan(acts)
    with world.reader() as reader:
        database = reader._db.manifest.database
        opened: list[LogDb] = []
        attempt(world, plan, lambda: opened.append(world.open()), is_inside=is_inside)
        with opened[0] if opened else world.open() as log:
            world.check(log)
            check_full_use(world, log)
    check_afterwards(world, database)
    return plan.count


def _run(phase: Phase) -> Callable[..., int]:
    return lambda world, acts, **rest: run_phase(world, phase, acts, **rest)


RUNS: dict[str, Callable[..., int]] = {"open": run_open, **{name: _run(phase) for name, phase in PHASES.items()}}
PAIRED = (Act.RESET_BEFORE, Act.TAKEN_AFTER, Act.MISSING, Act.FORBIDDEN, Act.PAGE)
"""One of each kind: no answer, the answer to another copy, a wrong one, a refusal, a foreign one."""


@pytest.mark.parametrize(("turn", "name"), list(enumerate(RUNS)))
def test_faults_are_survived(world: World, turn: int, name: str) -> None:
    """A selection in which every fault comes up, in some direction; the whole is below."""
    run = RUNS[name]
    count = run(world, {})
    acts = list(Act)
    for each in range(min(6, count)):
        run(world, {each * count // 6: acts[(turn * 6 + each) % len(acts)]}, is_inside=bool(each % 2))
    # A lost reply and a broken connection behind it; a wrong answer and a page of some gateway behind it.
    for each, (first, second) in enumerate(((Act.TAKEN_AFTER, Act.RESET_BEFORE), (Act.MISSING, Act.PAGE))):
        at = (turn + each) * 7 % count
        run(world, {at: first, at + 1: second}, is_inside=bool(each))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", RUNS)
def test_every_fault_of_every_request_is_survived(world: World, name: str) -> None:
    run = RUNS[name]
    for at, act, is_inside in product(range(run(world, {})), Act, (False, True)):
        run(world, {at: act}, is_inside=is_inside)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", RUNS)
def test_pairs_of_faults_are_survived(world: World, name: str) -> None:
    """In a row, where the second one hits what the engine does about the first, and further apart."""
    run, chance = RUNS[name], random.Random(name)
    count = run(world, {})
    for at, first, second in product(range(count), PAIRED, PAIRED):
        run(world, {at: first, at + 1: second}, is_inside=chance.random() < 0.5)
        run(world, {at: first, at + chance.randint(2, count + 2): second}, is_inside=chance.random() < 0.5)
