"""Where a log is: roots that go away while it is open, relative paths, and a write-ahead log that is moved."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import InvalidInputError, LogDb, LogDbReader, StorageConfig, StorageError
from opendata_log.fsck import fsck
from opendata_log.maintain.compactor import open_compactor
from opendata_log.model.config import Config
from tests.opendata_log.support import tiny, values

KEY = b"k"


def fill(log: LogDb, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        log.try_append([(KEY, b"%d" % number)])
        log.flush()


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def contents(path: Path) -> set[Path]:
    return set(path.rglob("*"))


# -- a root that goes away --------------------------------------------------------------------------------------------


def moved(path: Path) -> Path:
    return path.with_name(f"{path.name}-away")


def unmount(path: Path) -> None:
    """What is left is an empty mount point."""
    path.rename(moved(path))
    path.mkdir()


def take_away(path: Path) -> None:
    path.rename(moved(path))


def mount_a_copy(path: Path) -> None:
    path.rename(moved(path))
    shutil.copytree(moved(path), path)


def put_back(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    moved(path).rename(path)


LOSSES = pytest.mark.parametrize("lose", [unmount, take_away, mount_a_copy])


@LOSSES
@pytest.mark.parametrize("part", ["log", "log/wal", "wal", "wal/wal"])
def test_nothing_is_acknowledged_into_a_directory_that_went_away(
    tmp_path: Path, lose: Callable[[Path], None], part: str
) -> None:
    wal = str(tmp_path / "wal") if part.startswith("wal") else None
    storage = StorageConfig(url=str(tmp_path / "log"), wal_url=wal)
    log = LogDb.open(storage=storage, engine=tiny())
    fill(log, 3)
    lose(tmp_path / part)
    there = contents(tmp_path / part)

    log.try_append([(KEY, b"lost?")])
    for _ in range(2):
        with pytest.raises(StorageError, match="moved, replaced or unmounted"):
            log.flush()
    assert log.durable_sequence == 3
    assert contents(tmp_path / part) == there
    put_back(tmp_path / part)
    log.flush()
    log.close()

    with LogDb.open(storage=storage, engine=tiny()) as log:
        assert values(log, KEY) == [*numbers(3), b"lost?"]


@LOSSES
@pytest.mark.parametrize("part", ["", "manifest", "sst"])
def test_tables_and_manifests_are_committed_to_no_other_directory(
    tmp_path: Path, lose: Callable[[Path], None], part: str
) -> None:
    root = tmp_path / "log"
    with lsm.Db.open(str(root), tiny()) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
        db.put(b"b", b"2")
        lose(root / part)

        with pytest.raises(lsm.UnavailableError, match="moved, replaced or unmounted"):
            db.flush(lsm.FlushType.MEMTABLE)
        with pytest.raises(lsm.UnavailableError, match="moved, replaced or unmounted"):
            db.collect_garbage(min_age=0)
        put_back(root / part)
        db.flush(lsm.FlushType.MEMTABLE)

    with lsm.Db.open(str(root), tiny()) as db:
        assert [tuple(row) for row in db.scan()] == [(b"a", b"1"), (b"b", b"2")]


@LOSSES
def test_a_reader_of_a_directory_that_went_away_says_so(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    root = tmp_path / "log"
    with LogDb.open(storage=str(root), engine=tiny()) as log:
        fill(log, 3)
    with (
        LogDbReader.open(storage=str(root), engine=tiny(), refresh_interval=1000) as reader,
        lsm.Admin(str(root)) as admin,
    ):
        admin.list_checkpoints()
        lose(root)

        with pytest.raises(StorageError, match="moved, replaced or unmounted"):
            reader.refresh()
        for call in (admin.read_manifest, admin.create_detached_checkpoint, admin.run_gc_once):
            with pytest.raises(lsm.UnavailableError, match="moved, replaced or unmounted"):
                call()
        assert values(reader, KEY) == numbers(3)
        put_back(root)
        reader.refresh()
        assert values(reader, KEY) == numbers(3)


@pytest.mark.parametrize("opens", [LogDbReader.open, lsm.fsck, lambda storage: lsm.Admin(storage).read_manifest()])
def test_only_a_writer_makes_a_directory(tmp_path: Path, opens: Callable[..., Any]) -> None:
    with pytest.raises((StorageError, lsm.Error), match=r"no database|nobody"):
        opens(storage=str(tmp_path / "log"))

    assert contents(tmp_path) == set()


def test_relative_places_are_those_of_the_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = tiny(disk_cache_dir="cache", flush_placement="process", compaction_placement="process")
    storage = StorageConfig(url="file://data/log", wal_url="data/wal")
    with LogDb.open(storage=storage, engine=settings) as log:
        monkeypatch.chdir(tmp_path / "elsewhere")
        fill(log, 30)
        log.clone(str(tmp_path / "clone"))
        log.collect_garbage(min_age=0)
    assert contents(tmp_path / "elsewhere") == set()
    with LogDb.open(storage=str(tmp_path / "clone"), engine=tiny()) as clone:
        assert values(clone, KEY) == numbers(30)
    monkeypatch.chdir(tmp_path)
    with LogDb.open(storage=storage, engine=tiny()) as log:
        assert values(log, KEY) == numbers(30)


# -- a write-ahead log that is moved ----------------------------------------------------------------------------------


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    """A log of ten records, its write-ahead log apart."""
    made = StorageConfig(url=str(tmp_path / "log"), wal_url=str(tmp_path / "wal"))
    with LogDb.open(storage=made, engine=tiny()) as log:
        fill(log, 10)
    return made


def written(storage: StorageConfig) -> list[bytes]:
    with LogDb.open(storage=storage, engine=tiny()) as log:
        found = values(log, KEY)
        fill(log, 1, first=len(found))
        return found


def test_a_log_is_told_where_its_write_ahead_log_is_now(tmp_path: Path, storage: StorageConfig) -> None:
    (tmp_path / "new").mkdir()
    for part in ("log", "wal"):
        (tmp_path / part).rename(tmp_path / "new" / part)
    there = StorageConfig(url=str(tmp_path / "new/log"), wal_url=str(tmp_path / "new/wal"))
    with LogDbReader.open(storage=there, engine=tiny()) as reader:
        assert values(reader, KEY) == numbers(10)

    assert written(there) == numbers(10)
    assert written(there) == numbers(11)
    with lsm.Admin(there.url, wal_url=there.wal_url) as admin:
        assert admin.read_manifest().wal_url == f"file://{there.wal_url}"
    assert fsck(there.url, wal_url=there.wal_url).is_sound


def test_a_link_to_the_write_ahead_log_is_the_log(tmp_path: Path, storage: StorageConfig) -> None:
    (tmp_path / "link").symlink_to("wal")

    assert written(replace(storage, wal_url=str(tmp_path / "link"))) == numbers(10)
    assert written(storage) == numbers(11)


def test_a_write_ahead_log_may_move_out_of_the_database_and_back(tmp_path: Path) -> None:
    inside = StorageConfig(url=str(tmp_path / "log"))
    with LogDb.open(storage=inside, engine=tiny()) as log:
        fill(log, 10)
    outside = replace(inside, wal_url=str(tmp_path / "fast"))
    (tmp_path / "fast").mkdir()
    (tmp_path / "log/wal").rename(tmp_path / "fast/wal")

    assert written(outside) == numbers(10)
    with pytest.raises(InvalidInputError, match=r"wal_url"):
        LogDb.open(storage=inside)


def empty(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()


def of_another_log(tmp_path: Path) -> None:
    other = StorageConfig(url=str(tmp_path / "another"), wal_url=str(tmp_path / "other"))
    with LogDb.open(storage=other, engine=tiny()) as log:
        fill(log, 30)


def a_log_itself(tmp_path: Path) -> None:
    with LogDb.open(storage=str(tmp_path / "other"), engine=tiny()) as log:
        fill(log, 30)


def a_copy_that_was_left_behind(tmp_path: Path) -> None:
    """The log moved on from there since: it was opened at the new place."""
    shutil.copytree(tmp_path / "wal", tmp_path / "other")
    (tmp_path / "wal").rename(tmp_path / "moved")
    storage = StorageConfig(url=str(tmp_path / "log"), wal_url=str(tmp_path / "moved"))
    assert written(storage) == numbers(10)


def nothing(tmp_path: Path) -> None:
    pass


WRONG = pytest.mark.parametrize("other", [nothing, empty, of_another_log, a_log_itself, a_copy_that_was_left_behind])


@WRONG
@pytest.mark.parametrize("opens", [LogDb.open, LogDbReader.open])
def test_a_store_that_is_not_the_logs_is_refused(
    tmp_path: Path, storage: StorageConfig, other: Callable[[Path], None], opens: Callable[..., Any]
) -> None:
    other(tmp_path)
    before = contents(tmp_path)

    with pytest.raises(InvalidInputError, match=r"wal_url.*is not this database's log"):
        opens(storage=replace(storage, wal_url=str(tmp_path / "other")), engine=tiny())

    assert contents(tmp_path) == before


@pytest.mark.parametrize("leaves", [os.mkdir, lambda path: None])
@pytest.mark.parametrize("opens", [LogDb.open, LogDbReader.open])
def test_a_write_ahead_log_that_is_not_mounted_is_no_empty_one(
    tmp_path: Path, storage: StorageConfig, leaves: Callable[[Path], None], opens: Callable[..., Any]
) -> None:
    (tmp_path / "wal").rename(tmp_path / "away")
    leaves(tmp_path / "wal")
    before = contents(tmp_path)

    with pytest.raises(InvalidInputError, match=r"wal_url: there is no log at .*: mount the volume"):
        opens(storage=storage, engine=tiny())

    assert contents(tmp_path) == before


def test_an_open_that_is_cut_off_before_the_first_fence_is_repeated() -> None:
    """Between the first manifest and the first log object the log is empty, and rightly so."""
    main, wal = MemoryStore("memory://main"), MemoryStore("memory://wal")
    with lsm.Db.open("memory://", tiny(), object_store=main, wal_object_store=wal):
        pass
    for name in [*wal._objects]:
        wal.delete(name, timeout=1)
    for name in sorted(main._objects)[2:]:
        main.delete(name, timeout=1)

    with lsm.Db.open("memory://", tiny(), object_store=main, wal_object_store=wal) as db:
        db.put(b"a", b"1", await_durable=True)
    with lsm.Db.open("memory://", tiny(), object_store=main, wal_object_store=wal) as db:
        assert db.get(b"a") == b"1"


# -- who is not told --------------------------------------------------------------------------------------------------


def test_nobody_reads_a_log_without_its_write_ahead_log(tmp_path: Path, storage: StorageConfig) -> None:
    url = str(tmp_path / "log")
    with lsm.Admin(url, wal_url=storage.wal_url) as admin:
        checkpoint = admin.create_detached_checkpoint().id
    calls: list[Callable[[], Any]] = [
        lambda: LogDb.open(storage=url),
        lambda: LogDbReader.open(storage=url),
        lambda: LogDbReader.open(storage=url, checkpoint=checkpoint),
        lambda: lsm.Admin(url).create_detached_checkpoint(),
        lambda: lsm.Admin(url).create_clone(tmp_path / "clone"),
        lambda: lsm.Admin(url).run_gc_once(),
        lambda: lsm.fsck(url),
        lambda: fsck(url),
    ]
    for call in calls:
        with pytest.raises((InvalidInputError, lsm.InvalidError), match=f"pass wal_url='file://{tmp_path}/wal'"):
            call()
    assert not (tmp_path / "clone").exists()


def test_a_compactor_needs_no_write_ahead_log(tmp_path: Path, storage: StorageConfig) -> None:
    with open_compactor(Config(storage=str(tmp_path / "log"), engine=tiny())) as compactor:
        compactor.run_once()


def test_a_reader_learns_that_the_write_ahead_log_moved(tmp_path: Path, storage: StorageConfig) -> None:
    with LogDbReader.open(storage=storage, engine=tiny(), refresh_interval=1000) as reader:
        shutil.copytree(tmp_path / "wal", tmp_path / "new")
        there = replace(storage, wal_url=str(tmp_path / "new"))
        assert written(there) == numbers(10)

        with pytest.raises(InvalidInputError, match=r"log was moved from .*/wal' to .*/new': open the reader again"):
            reader.refresh()

    with LogDbReader.open(storage=there, engine=tiny()) as reader:
        assert values(reader, KEY) == numbers(11)
