"""File systems that write in place: the only writer dies inside a write, wherever that is."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import lsm
from lsm.object_store import FsspecStore, ObjectExists, StoreFault, open_store
from opendata_log import Config, InvalidInputError, LogDb, LogDbBuilder, LogDbReader, ReaderConfig
from opendata_log.fsck import fsck
from opendata_log.model.keys import LogPartitions, LogSeries
from tests.lsm.support import abandon

SECONDS = 5.0


class Died(BaseException):
    """Stands for a killed process: no `except Exception` sees it."""


class InPlace(LocalFileSystem):
    """Local files, without the care of our own store. Dies at the `dies_at`-th step that changes anything, half-way."""

    protocol = ("in-place",)
    cachable = False

    def __init__(self, moves_by: str = "rename", **options: Any) -> None:
        super().__init__(**options)
        self.moves_by = moves_by
        self.steps = 0
        self.dies_at = 0
        self.fails_at = 0

    def _is_last(self) -> bool:
        self.steps += 1
        if self.steps == self.fails_at:
            return True
        if self.dies_at and self.steps > self.dies_at:
            raise Died
        return self.steps == self.dies_at

    def _stop(self) -> None:
        if self.steps == self.fails_at:
            raise ConnectionResetError("the connection broke in the middle of the write")
        raise Died

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if self._is_last():
            Path(path).write_bytes(value[: len(value) // 2])
            self._stop()
        Path(path).write_bytes(value)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if self.moves_by == "nothing":
            raise NotImplementedError
        if self.moves_by == "copying":
            self.pipe_file(path2, Path(path1).read_bytes())
            self.rm_file(path1)
            return
        if self._is_last():
            self._stop()
        super().mv(path1, path2)

    def rm_file(self, path: str) -> None:
        if self._is_last():
            self._stop()
        super().rm_file(path)


WAYS = ("rename", "copying", "nothing")


def store_of(fs: InPlace, root: Path) -> FsspecStore:
    return FsspecStore(fs, str(root), "in-place://x", assume_single_writer=True)


@pytest.mark.parametrize("moves_by", WAYS)
def test_a_create_that_died_anywhere_is_whole_or_nothing_after_the_next_open(tmp_path: Path, moves_by: str) -> None:
    outcomes = set()
    for at in range(1, 5):
        root = tmp_path / str(at)
        fs = InPlace(moves_by)
        fs.dies_at = at
        try:
            store_of(fs, root).put_if_absent("wal/00000000000000000001.wal", [b"0123456789"], timeout=SECONDS)
        except Died:
            pass
        else:
            continue

        store = store_of(InPlace(moves_by), root)
        store.finish_creates(timeout=SECONDS)

        found = [(info.name, info.size) for info in store.list("", timeout=SECONDS)]
        assert found in ([], [("wal/00000000000000000001.wal", 10)])
        assert len(list((root / "wal").iterdir())) == len(found)
        if found:
            assert store.get("wal/00000000000000000001.wal", timeout=SECONDS) == b"0123456789"
        outcomes.add(len(found))
    assert 0 in outcomes


@pytest.mark.parametrize("moves_by", WAYS)
def test_a_create_whose_connection_broke_anywhere_is_done_by_the_next_attempt(tmp_path: Path, moves_by: str) -> None:
    for at in range(1, 5):
        fs = InPlace(moves_by)
        fs.fails_at = at
        store = store_of(fs, tmp_path / str(at))
        try:
            store.put_if_absent("wal/00000000000000000001.wal", [b"0123456789"], timeout=SECONDS)
        except StoreFault as fault:
            assert fault.transient
            with contextlib.suppress(ObjectExists):
                store.put_if_absent("wal/00000000000000000001.wal", [b"0123456789"], timeout=SECONDS)

        assert store.get("wal/00000000000000000001.wal", timeout=SECONDS) == b"0123456789"
        assert [info.name for info in store.list("", timeout=SECONDS)] == ["wal/00000000000000000001.wal"]
        with pytest.raises(ObjectExists):
            store.put_if_absent("wal/00000000000000000001.wal", [b"other"], timeout=SECONDS)


def test_a_listing_shows_no_temporary_file(tmp_path: Path) -> None:
    fs = InPlace()
    fs.dies_at = 1
    store = store_of(fs, tmp_path)
    with pytest.raises(Died):
        store.put_if_absent("wal/00000000000000000001.wal", [b"0123456789"], timeout=SECONDS)

    assert [path.name for path in (tmp_path / "wal").iterdir()] == [".tmp-00000000000000000001.wal"]
    assert store.list("", timeout=SECONDS) == store.list("wal/", timeout=SECONDS) == []


def open_log(root: Path, fs: InPlace) -> LogDb:
    engine = {"assume_single_writer": True, "compaction_enabled": False, "flush_interval": None, "op_timeout": 0.2}
    inside = DirFileSystem(str(root), fs)
    return LogDbBuilder(Config(storage="log", engine=engine)).with_object_store(inside).build()  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("moves_by", WAYS)
def test_a_log_opens_again_with_everything_acknowledged_wherever_its_writer_died(tmp_path: Path, moves_by: str) -> None:
    died = 0
    for at in range(1, 60, 3):
        root = tmp_path / str(at)
        fs = InPlace(moves_by)
        fs.dies_at = at
        acknowledged = 0
        log = None
        try:
            log = open_log(root, fs)
            for turn in range(4):
                log.try_append([(b"k", b"%d" % turn)])
                log.flush()
                acknowledged = turn + 1
            log.close()
        except (Died, Exception):
            died += 1
        finally:
            fs.dies_at = 1
            if log is not None:
                abandon(log._db)

        with open_log(root, InPlace(moves_by)) as again:
            found = [entry.value for entry in again.scan(b"k")]
        assert found[:acknowledged] == [b"%d" % turn for turn in range(acknowledged)], f"died at step {at}"
    assert died > 3


# -- the application's own classes ------------------------------------------------------------------------------------


class Plain(InPlace):
    """An application's class that knows no option of fsspec's."""

    protocol = ("plain",)

    def __init__(self) -> None:
        super().__init__()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sys.modules["fsspec.registry"]._registry
    for scheme in ("in-place", "plain", "mine"):
        monkeypatch.delitem(found, scheme, raising=False)
        monkeypatch.setitem(found, scheme, {"in-place": InPlace, "plain": Plain, "mine": MemoryFileSystem}[scheme])


ASSERTED = {"assume_single_writer": True}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("scheme", ["in-place", "plain"])
def test_a_class_that_the_application_registered_opens_for_a_single_writer(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}/db"
    with LogDb.open(Config(storage=url, engine=ASSERTED)) as log:  # type: ignore[arg-type]
        log.try_append([(b"k", b"1")])
        log.flush()
        log._db.flush(lsm.FlushType.MEMTABLE)

    assert (tmp_path / "db/manifest").is_dir()
    with LogDb.open(Config(storage=url, engine=ASSERTED)) as log:  # type: ignore[arg-type]
        assert [entry.value for entry in log.scan(b"k")] == [b"1"]


@pytest.mark.usefixtures("registered")
def test_a_registered_class_needs_the_assertion_to_write_and_nothing_to_read(tmp_path: Path) -> None:
    url = f"in-place://{tmp_path}/db"
    with pytest.raises(InvalidInputError, match="assume_single_writer"):
        LogDb.open(Config(storage=url))
    assert list(tmp_path.iterdir()) == []
    with LogDb.open(Config(storage=url, engine=ASSERTED)) as log:  # type: ignore[arg-type]
        log.try_append([(b"k", b"1")])
        log.flush()

    with LogDbReader.open(ReaderConfig(storage=url)) as reader:
        assert [entry.value for entry in reader.scan(b"k")] == [b"1"]
    with lsm.DbReader.open(url, prefix_extractor=LogPartitions(), series_layout=LogSeries()) as db:
        assert db.manifest.number > 0
    assert fsck(url).is_sound
    assert lsm.fsck(url).is_sound
    with lsm.Admin(url) as admin:
        assert admin.list_checkpoints() == []
        assert admin.read_manifest().number > 0
        assert all(garbage.reason for garbage in admin.run_gc_once(dry_run=True))
        with pytest.raises(lsm.InvalidError, match="assume_single_writer"):
            admin.create_detached_checkpoint()
    with lsm.Admin(url, settings=lsm.Settings(assume_single_writer=True)) as admin:
        assert admin.create_detached_checkpoint().id
    with pytest.raises(InvalidInputError, match="assume_single_writer"):
        LogDb.open(Config(storage=url))


def test_a_file_system_handed_in_needs_no_assertion_to_read(tmp_path: Path) -> None:
    fs = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))
    config = Config(storage="log", engine=ASSERTED)  # type: ignore[arg-type]
    with LogDbBuilder(config).with_object_store(fs).build() as log:
        log.try_append([(b"k", b"1")])
        log.flush()

    store = open_store("log", fs=fs, reads_only=True)

    assert store.list("wal/", timeout=SECONDS)
    with pytest.raises(lsm.InvalidError, match="assume_single_writer"):
        store.put_if_absent("wal/x", [b""], timeout=SECONDS)


@pytest.mark.usefixtures("registered")
def test_a_scheme_of_the_applications_own_is_no_part_of_the_path(tmp_path: Path) -> None:
    store = open_store("mine://registered-by-a-test/db", assume_single_writer=True)

    store.put_if_absent("wal/00000000000000000001.wal", [b"x"], timeout=SECONDS)

    fs = MemoryFileSystem()
    assert fs.cat_file("/registered-by-a-test/db/wal/00000000000000000001.wal") == b"x"
    assert [info.name for info in store.list("", timeout=SECONDS)] == ["wal/00000000000000000001.wal"]
    fs.rm("/registered-by-a-test", recursive=True)


@pytest.mark.usefixtures("registered")
def test_no_worker_process_is_told_a_scheme_that_only_this_one_knows(tmp_path: Path) -> None:
    assert open_store(f"in-place://{tmp_path}", assume_single_writer=True).spec() is None
