"""A log with all that a year brings: retired segments, checkpoints, a clone, a compaction that was cut off. fsck passes it,
tells every kind of object that is damaged or missing, and a quiet collection leaves what is needed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

import lsm
import lsm.__main__
import opendata_log.__main__
from lsm.object_store import LocalStore
from opendata_log import Config, LogDb, LogDbBuilder, RetentionConfig, SegmentConfig
from opendata_log.maintain.compactor import open_compactor
from tests.doubles import SimulatedCrash, WrappedStore, number_of
from tests.opendata_log.support import ManualClock, tiny, values

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
T = TypeVar("T")
HOUR = 3600.0
COMMANDS = {"lsm": lsm.__main__.main, "opendata_log": opendata_log.__main__.main}


def config(place: Path) -> Config:
    return Config(
        storage=str(place),
        segmentation=SegmentConfig(seal_interval=HOUR),
        retention=RetentionConfig(retention=2 * HOUR, check_interval=24 * HOUR),
        engine=tiny(compaction_enabled=False, op_timeout=1.0),
    )


def fill_hours(log: LogDb, clock: ManualClock, hours: int, *, batches: int = 2) -> None:
    for hour in range(hours):
        for batch in range(batches):
            log.try_append([(b"key %d" % (at % 3), b"%d %d %d " % (hour, batch, at) * 9) for at in range(30)])
            log._db.flush(lsm.FlushType.MEMTABLE)
        clock.advance(HOUR)


class DyingStore(WrappedStore):
    """The process dies when it has said of so many tables that they are finished."""

    def __init__(self, store: lsm.ObjectStore, notes: int) -> None:
        super().__init__(store)
        self._notes = notes

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        if self._notes == 0:
            raise SimulatedCrash(name)
        found = request()
        self._notes -= call == "put_if_absent" and name.endswith(".done")
        return found


def compact(place: Path, *, notes: int = -1) -> bool:
    """Until nothing is due, or the compactor dies after so many finished tables of claimed jobs: False."""
    store = DyingStore(LocalStore(place), notes)
    with (
        contextlib.suppress(lsm.Error, SimulatedCrash),
        open_compactor(config(place), object_store=store) as compactor,
    ):
        return compactor.run_once(30)
    return False


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("aged")
    place, clock = root / "live", ManualClock()
    with LogDbBuilder(config(place)).with_clock(clock).build() as log:
        fill_hours(log, clock, 4)
        assert compact(place)
        log.create_checkpoint(name="kept")
        fill_hours(log, clock, 3)
        assert log._retention is not None
        for _ in range(2):
            log._retention.tick()
        log._db.flush(lsm.FlushType.MEMTABLE)
        log.collect_garbage(min_age=0)
        log.clone(str(root / "clone"))
        fill_hours(log, clock, 2, batches=6)
        while compact(place, notes=2):  # Threads that were quick found less for the job that is to be cut off.
            fill_hours(log, clock, 2, batches=6)
        log.collect_garbage(min_age=0)
        for _ in range(4):
            log.try_append([(b"key 0", b"in the log")])
            log.flush()
        shutil.copytree(place, root / "log")  # As if the writer had been killed now.
    with lsm.Admin(root / "log") as admin:
        manifest = admin.read_manifest()
        assert manifest.jobs
        assert len(manifest.checkpoints) == 2
    return root


def run(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status = COMMANDS[command](["fsck", str(place), "--json"])
    return status, [each["object"] for each in json.loads(capsys.readouterr().out)["problems"]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("which", ["log", "clone"])
def test_passes(command: str, which: str, aged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, aged / which, capsys) == (0, [])


def kinds(place: Path) -> dict[str, str]:
    """An object of every kind that something needs, by its kind."""
    with lsm.Admin(place) as admin:
        newest = admin.read_manifest()
        pinned = min(each.manifest_id for each in newest.checkpoints)
        of_checkpoint = admin.read_manifest(pinned).table_ids() - newest.table_ids()
    notes = sorted(path.name for path in (place / "sst").glob("*.done"))
    claimed = next(name for name in notes if newest.is_claimed(number_of(f"sst/{name}") or 0))
    return {
        "table": f"sst/{min(newest.table_ids()):020d}.sst",
        "table of a checkpoint": f"sst/{min(of_checkpoint):020d}.sst",
        "table of a job": f"sst/{claimed.removesuffix('.done')}.sst",
        "note of a job": f"sst/{claimed}",
        "manifest": f"manifest/{newest.number - 2:020d}.manifest",
        "pinned manifest": f"pinned/{pinned:020d}.manifest",
        "log object": f"wal/{newest.replay_after + 1:020d}.wal",
        "fence": f"wal/{newest.fences[0]:020d}.wal",
    }


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change", [flip, Path.unlink], ids=["damaged", "missing"])
def test_tells_every_kind_of_object(
    command: str,
    change: Callable[[Path], None],
    aged: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, name in kinds(aged / "log").items():
        if kind == "note of a job" and change is not flip:
            continue  # A table without its note is one that was being written.
        place = tmp_path / kind
        shutil.copytree(aged / "log", place)
        change(place / name)
        status, problems = run(command, place, capsys)
        assert (status, problems[:1]) == (3, [name]), kind


def test_a_quiet_collection_leaves_what_is_needed(aged: Path, tmp_path: Path) -> None:
    place = tmp_path / "log"
    shutil.copytree(aged / "log", place)
    (place / "sst" / ".tmp-77-00000000deadbeef").write_bytes(b"half a table")
    (place / "sst" / f"{99:020d}.done").write_bytes(b"note of a job nobody knows")
    with lsm.Admin(place) as admin:
        told = {each.name: each.reason for each in admin.run_gc_once(dry_run=True, min_age=0)}
        assert "sst/.tmp-77-00000000deadbeef" in told
        assert all(told.values())
    compact(place)  # The next compactor takes the dead one's claim over.
    clock = ManualClock(int(100 * HOUR * 1000))
    with LogDbBuilder(config(place)).with_clock(clock).build() as log:
        expected = {key: values(log, key) for key in (b"key 0", b"key 1", b"key 2")}
        log._db.flush(lsm.FlushType.MEMTABLE)
        for _ in range(2):
            log.collect_garbage(min_age=0)
        assert {key: values(log, key) for key in expected} == expected
    with lsm.Admin(place) as admin:
        while admin.run_gc_once(min_age=0):
            pass
        newest = admin.read_manifest()
        assert newest.jobs == ()
        versions = [newest, *(admin.read_manifest(each.manifest_id) for each in newest.checkpoints)]
    tables = set().union(*(each.table_ids() for each in versions))
    assert {path.name for path in (place / "sst").iterdir()} == {f"{number:020d}.sst" for number in tables}
    pinned = {each.manifest_id for each in newest.checkpoints if each.manifest_id <= newest.number - 8}
    assert {number_of(f"pinned/{path.name}") for path in (place / "pinned").iterdir()} == pinned
    for path in (place / "wal").iterdir():
        number = number_of(f"wal/{path.name}")
        assert number is not None
        needed = number in newest.fences or any(each.needs_log(number) for each in newest.checkpoints)
        assert needed or number >= newest.replay_after
    assert len(list((place / "manifest").iterdir())) == 8
