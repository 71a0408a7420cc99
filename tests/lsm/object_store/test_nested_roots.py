"""Who else has files where a database is: other programs, and other databases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.names import PREFIXES, PROBE
from tests.lsm.audit.test_verify import verify
from tests.lsm.checkpoint.test_checkpoints import churn, open_admin
from tests.lsm.support import objects_of, open_plain, read_rows, tiny

# -- other programs' files --------------------------------------------------------------------------------------------


def foreign_names(store: MemoryStore) -> list[str]:
    """What partial downloads, backups, editors and synchronised folders make of the names that are there, and would be."""
    found = [
        f"{prefix}{name}" for prefix in PREFIXES for name in (".DS_Store", "notes.txt", "0", "x/y.wal", "wal/x/y.wal")
    ]
    for name in objects_of(store).keys() - {PROBE}:
        folder, _, last = name.rpartition("/")
        stem, _, suffix = last.partition(".")
        found += [f"{name}{end}" for end in (".part", ".bak", "~", ".tmp", ".crdownload", "/inside", "\n", " ")]
        found += [f"{folder}/{start}{last}" for start in ("._", "~$", ".", "copy of ")]
        found += [
            f"{folder}/{stem} (conflicted copy 2026-01-01).{suffix}",
            f"{folder}/{stem}",
            f"{folder}/{last.upper()}",
        ]
        found += [
            f"{folder}/{int(stem):019d}.{suffix}",
            f"{folder}/{int(stem):021d}.{suffix}",
            f"{folder}/{folder}/{last}",
        ]
        found += [
            f"{folder}/{int(stem) + 1:020d}.{suffix}.part",
            f"{folder}/{99:020d}.{suffix}.bak",
            f"{folder}/{99:020d}.x",
        ]
        found.append(f"{folder}/{'٣' * 20}.{suffix}")
    return sorted({*found, "sst/.tmp-rsync", "wal/.tmp-1-xyz"} - objects_of(store).keys())


def test_other_programs_files_are_never_read_or_deleted_and_fsck_names_them() -> None:
    store = MemoryStore()
    with open_plain(store) as db:
        churn(db, 3)
        db.create_checkpoint(name="kept")
        churn(db, 12, start=50)
        db.collect_garbage(min_age=0)
        rows = read_rows(db)
    names = foreign_names(store)
    assert len(names) > 300
    for name in names:
        store.put_if_absent(name, [b"not an object of any database"], timeout=1)

    report = verify(store)
    assert report.problems == []
    assert not {orphan.object for orphan in report.orphans} & {*names}
    assert sum("is not this database's" in note for note in report.notes) == 50
    assert f"{len(names) - 50} more names are not this database's" in report.notes
    with open_plain(store) as db:
        assert read_rows(db) == rows
        churn(db, 12, start=80)
        for found in (db.collect_garbage(min_age=0), db.collect_garbage(min_age=0)):
            assert not {each.name for each in found} & {*names}
        rows = read_rows(db)
    with open_admin(store) as admin:
        assert admin.read_manifest().number == max(each.id for each in admin.list_manifests())
        for checkpoint in admin.list_checkpoints():
            admin.delete_checkpoint(checkpoint.id)
        admin.run_gc_once(min_age=0)
    assert {*names} <= objects_of(store).keys()
    with open_plain(store) as db:
        assert read_rows(db) == rows


def test_a_database_is_created_beside_other_programs_files(tmp_path: Path) -> None:
    for prefix in PREFIXES:
        (tmp_path / "db" / prefix).mkdir(parents=True)
        (tmp_path / "db" / prefix / ".DS_Store").write_bytes(b"x")
        os.symlink("nowhere", tmp_path / "db" / prefix / "dangling")
        os.mkfifo(tmp_path / "db" / prefix / "fifo")
        (tmp_path / "db" / prefix / "00000000000000000001.d").mkdir()
    with lsm.Db.open(str(tmp_path / "db"), tiny()) as db:
        db.put(b"a", b"1")
        db.flush(lsm.FlushType.MEMTABLE)
        db.collect_garbage(min_age=0)
    with lsm.Db.open(str(tmp_path / "db"), tiny()) as db:
        assert db.get(b"a") == b"1"

    assert lsm.fsck(str(tmp_path / "db")).is_sound
    assert sorted(path.parent.name + "/" for path in tmp_path.rglob(".DS_Store")) == sorted(PREFIXES)


# -- other databases --------------------------------------------------------------------------------------------------

Place = Callable[[str], dict[str, Any]]
"""From a path to what opens a database there."""


@pytest.fixture(params=["file", "memory", "fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    unique = uuid4().hex
    fs = MemoryFileSystem()
    match request.param:
        case "file":
            yield lambda path: {"storage": f"{tmp_path}/{path}"}
        case "memory":
            yield lambda path: {"storage": f"memory://{unique}/{path}"}
            for name in [name for name in MemoryStore.__module__ and _shared() if name.startswith(unique)]:
                MemoryStore.forget(name)
        case _:
            yield lambda path: {"storage": f"/{unique}/{path}", "file_system": fs}
            fs.rm(f"/{unique}", recursive=True)


def _shared() -> list[str]:
    from lsm.object_store import memory

    return list(memory._shared)


def write(options: dict[str, Any], rows: list[tuple[bytes, bytes]]) -> None:
    with lsm.Db.open(settings=tiny(), **options) as db:
        for key, value in rows:
            db.put(key, value)
        db.flush(lsm.FlushType.MEMTABLE)


def read(options: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    with lsm.DbReader.open(settings=tiny(), refresh_interval=None, **options) as reader:
        return read_rows(reader)


ROWS = [(b"%d" % at, b"value") for at in range(5)]
INSIDE = [*(prefix.rstrip("/") for prefix in PREFIXES), "wal/deeper", "sst/deeper/still"]


@pytest.mark.parametrize("inner", INSIDE)
def test_no_database_is_created_inside_another(place: Place, inner: str) -> None:
    write(place("a/log"), ROWS)

    with pytest.raises(lsm.InvalidError, match="lies inside the database at"):
        lsm.Db.open(settings=tiny(), **place(f"a/log/{inner}"))

    with lsm.Admin(**place("a/log")) as admin:
        admin.run_gc_once(min_age=0)
    assert read(place("a/log")) == ROWS
    assert lsm.fsck(**place("a/log")).notes == []


@pytest.mark.parametrize("inner", INSIDE)
def test_no_database_is_created_around_another(place: Place, inner: str) -> None:
    write(place(f"a/log/{inner}"), ROWS)

    if place("")["storage"].startswith("memory://"):
        write(place("a/log"), ROWS)  # Stores of their own, whatever their names.
    else:
        with pytest.raises(lsm.InvalidError, match="belongs to another one, whose root lies below it"):
            lsm.Db.open(settings=tiny(), **place("a/log"))

    assert read(place(f"a/log/{inner}")) == ROWS


@pytest.mark.parametrize("name", ["log2", "log-wal", "logs/wal", "log/other", "wal", "sst/log"])
def test_neighbours_that_share_no_prefix_are_welcome(place: Place, name: str) -> None:
    write(place("a/log"), ROWS)
    write(place(f"a/{name}"), ROWS[:2])

    for path in ("a/log", f"a/{name}"):
        with lsm.Admin(**place(path)) as admin:
            admin.run_gc_once(min_age=0)
    assert read(place("a/log")) == ROWS
    assert read(place(f"a/{name}")) == ROWS[:2]


@pytest.mark.parametrize("inner", ["log/wal", "log/sst/x", "wal-of-log/wal", "wal-of-log/wal/x", "own/sst"])
def test_no_log_is_put_inside_another_database(tmp_path: Path, inner: str) -> None:
    write({"storage": f"{tmp_path}/log", "wal_url": f"{tmp_path}/wal-of-log"}, ROWS)

    with pytest.raises(lsm.InvalidError, match="lies inside the database at"):
        lsm.Db.open(f"{tmp_path}/own", tiny(), wal_url=f"{tmp_path}/{inner}")

    assert not (tmp_path / "own").exists()


def test_a_log_may_be_put_where_its_database_has_none(tmp_path: Path) -> None:
    place = {"storage": f"{tmp_path}/own", "wal_url": f"{tmp_path}/own/wal"}
    write(place, ROWS)

    assert read(place) == ROWS
    assert lsm.fsck(**place).notes == []
    with pytest.raises(lsm.InvalidError, match="lies inside the database at"):
        lsm.Db.open(f"{tmp_path}/w/wal", tiny(), wal_url=f"{tmp_path}/w")


def test_no_log_is_put_where_another_database_is(tmp_path: Path) -> None:
    write({"storage": f"{tmp_path}/log"}, ROWS)
    shutil.rmtree(tmp_path / "log" / "wal")

    with pytest.raises(lsm.InvalidError, match=r"wal_url: .*/log holds a database"):
        lsm.Db.open(f"{tmp_path}/own", tiny(), wal_url=f"{tmp_path}/log")


@pytest.mark.parametrize("inner", INSIDE)
def test_no_clone_goes_inside_another_database(tmp_path: Path, inner: str) -> None:
    write({"storage": f"{tmp_path}/log"}, ROWS)
    with lsm.Admin(f"{tmp_path}/log") as admin:
        with pytest.raises(lsm.InvalidError, match="lies inside the database at"):
            admin.create_clone(f"{tmp_path}/log/{inner}")
        with pytest.raises(lsm.InvalidError, match="lies inside the database at"):
            admin.create_clone(f"{tmp_path}/clone", wal_url=f"{tmp_path}/log/{inner}")

    assert not (tmp_path / "clone").exists()


def test_a_link_into_another_database_is_inside_it(tmp_path: Path) -> None:
    write({"storage": f"{tmp_path}/log"}, ROWS)
    (tmp_path / "link").symlink_to("log/wal")

    with pytest.raises(lsm.InvalidError, match="lies inside the database at"):
        lsm.Db.open(f"{tmp_path}/link/inner", tiny())


@pytest.mark.parametrize("inner", INSIDE)
def test_databases_that_were_nested_before_both_stay_whole(tmp_path: Path, inner: str) -> None:
    """Moved there, as nothing creates them there."""
    write({"storage": f"{tmp_path}/inner"}, ROWS[:2])
    write({"storage": f"{tmp_path}/log"}, ROWS)
    shutil.copytree(f"{tmp_path}/inner", f"{tmp_path}/log/{inner}", dirs_exist_ok=True)

    with lsm.Db.open(f"{tmp_path}/log", tiny()) as db:
        churn(db, 12)
        db.collect_garbage(min_age=0)
        rows = read_rows(db)
    assert lsm.fsck(f"{tmp_path}/log").is_sound

    assert read({"storage": f"{tmp_path}/log"}) == rows
    assert read({"storage": f"{tmp_path}/log/{inner}"}) == ROWS[:2]
