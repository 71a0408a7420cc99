"""LocalStore in a rough world: roots that go away, closed standard descriptors, systems without its calls."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lsm.object_store import LocalStore, StoreFault
from lsm.object_store import file_descriptors as descriptors

REPOSITORY = Path(__file__).parents[3]


def _put(store: LocalStore, name: str, *parts: bytes) -> None:
    store.put_if_absent(name, parts, timeout=1.0)


def _check(script: str, *arguments: object) -> None:
    """It must come to its end. What it printed is shown where it does not."""
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=REPOSITORY, check=True, timeout=120)


@pytest.fixture(params=[True, False], ids=["tmpfile", "named"])
def use_tmpfile(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# -- a root that goes away --------------------------------------------------------------------------------------------

Lose = Callable[[Path], None]


def _move(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}-moved"))


def _leave_a_mount_point(path: Path) -> None:
    _move(path)
    path.mkdir()


def _replace_by_a_copy(path: Path) -> None:
    _move(path)
    shutil.copytree(path.with_name(f"{path.name}-moved"), path)


def _delete(path: Path) -> None:
    shutil.rmtree(path)


def _delete_and_make_again(path: Path) -> None:
    below = [each.relative_to(path) for each in path.rglob("*") if each.is_dir()]
    shutil.rmtree(path)
    for each in (Path(), *below):
        (path / each).mkdir()


def _put_a_file_there(path: Path) -> None:
    _move(path)
    path.write_bytes(b"")


def _link_elsewhere(path: Path) -> None:
    _move(path)
    path.with_name("other").mkdir()
    path.symlink_to(path.with_name("other"))


LOSSES = [
    _move,
    _leave_a_mount_point,
    _replace_by_a_copy,
    _delete,
    _delete_and_make_again,
    _put_a_file_there,
    _link_elsewhere,
]


def _everything(path: Path) -> set[Path]:
    """But for what was moved away."""
    return {each for each in path.rglob("*") if path / "wal-moved" not in each.parents}


@pytest.mark.parametrize("part", ["", "wal"])
@pytest.mark.parametrize("lose", LOSSES)
def test_nothing_counts_after_the_root_or_a_directory_in_it_went_away(
    tmp_path: Path, use_tmpfile: bool, lose: Lose, part: str
) -> None:
    """Whatever was put there before, and by whichever call it was first found."""
    _put(LocalStore(tmp_path / "db"), "wal/1", b"x")
    writer, reader, looker = (LocalStore(tmp_path / "db", use_tmpfile=use_tmpfile) for _ in range(3))
    _put(writer, "wal/2", b"y")
    reader.get("wal/1", timeout=1.0)
    looker.list("wal/", timeout=1.0)
    lose(tmp_path / "db" / part)
    there = _everything(tmp_path / "db")

    for store in (writer, reader, looker):
        assert store.is_replaced()
        with pytest.raises(StoreFault, match="moved, replaced or unmounted") as caught:
            _put(store, "wal/3", b"z")
        assert not caught.value.transient
        with pytest.raises(StoreFault, match="moved, replaced or unmounted"):
            store.get("wal/4", timeout=1.0)
        with pytest.raises(StoreFault, match="moved, replaced or unmounted"):
            store.head("wal/4", timeout=1.0)
        with pytest.raises(StoreFault, match="moved, replaced or unmounted"):
            store.list("wal/", timeout=1.0)
        with pytest.raises(StoreFault, match="moved, replaced or unmounted"):
            store.leftovers(timeout=1.0)
        store.delete("wal/1", timeout=1.0)

    assert _everything(tmp_path / "db") == there


def test_a_root_that_is_put_back_is_used_on(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "db")
    _put(store, "wal/1", b"x")
    _move(tmp_path / "db")
    with pytest.raises(StoreFault):
        _put(store, "wal/2", b"y")
    (tmp_path / "db-moved").rename(tmp_path / "db")

    _put(store, "wal/3", b"z")

    assert store.get("wal/3", timeout=1.0) == b"z"
    assert not store.is_replaced()


def test_a_store_that_was_closed_takes_what_it_finds_then(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "db")
    _put(store, "wal/1", b"x")
    shutil.rmtree(tmp_path / "db")
    store.close()

    _put(store, "wal/2", b"y")

    assert [info.name for info in store.list("", timeout=1.0)] == ["wal/2"]


def test_a_store_that_may_not_create_its_root_says_so(tmp_path: Path, use_tmpfile: bool) -> None:
    store = LocalStore(tmp_path / "db", use_tmpfile=use_tmpfile, may_create=False)

    with pytest.raises(StoreFault, match="does not exist, and only creating a database makes it") as caught:
        _put(store, "wal/1", b"x")

    assert not caught.value.transient
    assert not (tmp_path / "db").exists()
    LocalStore(tmp_path / "db").put_if_absent("sst/1", [b"x"], timeout=1.0)
    _put(store, "wal/1", b"x")


@pytest.mark.parametrize("call", ["open", "stat", "unlink"])
def test_a_directory_that_is_opened_anew_meanwhile_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The first put opens the directory to sync it, and the number it had before goes to whatever is opened next."""
    _put(LocalStore(tmp_path), "sst/1", b"x")
    store = LocalStore(tmp_path)
    store.list("sst/", timeout=1.0)
    real = getattr(os, call)
    taken: list[int] = []

    def after_a_put(path: str, *arguments: Any, **options: Any) -> Any:
        if path == "1" and not taken:
            taken.append(-1)
            _put(store, "sst/2", b"y")
            taken.extend(os.open("/proc/self", os.O_RDONLY) for _ in range(8))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, call, after_a_put)
    try:
        if call == "open":
            assert store.get("sst/1", timeout=1.0) == b"x"
        elif call == "stat":
            assert store.head("sst/1", timeout=1.0).size == 1
        else:
            store.delete("sst/1", timeout=1.0)
            assert not (tmp_path / "sst/1").exists()
    finally:
        for descriptor in taken[1:]:
            os.close(descriptor)
    assert taken


def test_a_create_looks_at_its_directory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    _put(store, "wal/1", b"x")
    looks: list[object] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: looks.append(path) or real(path, **options))

    _put(store, "wal/2", b"x")

    assert looks == [f"{tmp_path}/wal"]


# -- descriptors 0 to 2 -----------------------------------------------------------------------------------------------

_CLOSED = r"""
import os, sys
from lsm.object_store import LocalStore
from lsm.runtime import Runtime
from lsm.sst.disk_cache import DiskCache
root, use_tmpfile, closed = sys.argv[1], sys.argv[2] == "True", [int(each) for each in sys.argv[3]]
for descriptor in closed:
    os.close(descriptor)
opened = set()
real = os.open
class Watched:
    def __getattr__(self, name):
        return getattr(os, name)
    def open(self, path, flags, *rest, **options):
        found = real(path, flags, *rest, **options)
        if found <= 2 and flags & (os.O_WRONLY | os.O_RDWR):
            os.write(found, b"WARNING: printed by a C library\n")
        return found
import lsm.object_store.file_descriptors as descriptors
descriptors.os = Watched()
store = LocalStore(root, use_tmpfile=use_tmpfile)
for number in range(20):
    store.put_if_absent(f"wal/{number}", [b"%d" % number], timeout=1)
    assert store.get(f"wal/{number}", timeout=1) == b"%d" % number
assert len(store.list("", timeout=1)) == 20 and not store.leftovers(timeout=1)
cache = DiskCache(root + "/cache", 1 << 20, Runtime())
assert cache.read(bytes(16), "sst/1", 4, 0, 4, lambda start, end: b"part") == b"part"
assert cache.read(bytes(16), "sst/1", 4, 0, 4, lambda start, end: b"????") == b"part"
assert not [number for number in closed if os.path.exists(f"/proc/self/fd/{number}")]
open(root + "/done", "w").close()
"""


@pytest.mark.parametrize("closed", ["0", "12"])
def test_stored_bytes_never_meet_a_standard_descriptor(tmp_path: Path, use_tmpfile: bool, closed: str) -> None:
    _check(_CLOSED, tmp_path, use_tmpfile, closed)

    assert (tmp_path / "done").exists()
    assert (tmp_path / "wal/7").read_bytes() == b"7"


# -- other systems ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [None, errno.ENOTSUP, errno.EIO])
def test_where_fsync_is_not_enough_the_drive_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_tmpfile: bool, refusal: int | None
) -> None:
    """macOS: its fsync leaves the bytes in the drive's cache. A file system without the call gets an fsync."""
    calls: list[str] = []

    class Fcntl:
        @staticmethod
        def fcntl(descriptor: int, command: int) -> None:
            assert command == 51
            calls.append("full")
            if refusal is not None:
                raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(descriptors, "_fcntl", Fcntl)
    monkeypatch.setattr(descriptors, "_FULL_SYNC", 51)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: calls.append("fdatasync"))
    store = LocalStore(tmp_path, use_tmpfile=use_tmpfile)

    if refusal == errno.EIO:
        with pytest.raises(StoreFault, match="check the disk"):
            _put(store, "1", b"x")
        return
    _put(store, "1", b"x")

    assert "fdatasync" not in calls
    assert calls.count("full") >= 2
    assert calls.count("fsync") == (0 if refusal is None else calls.count("full"))


_WINDOWS = """
import asyncio, concurrent.futures.thread, os, pathlib, select, signal, ssl, subprocess, sys, tempfile
import s3fs
assert not any(name.split(".")[0] in ("lsm", "opendata_log") for name in sys.modules)
# What others import is imported: from here on this is Windows.
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_TMPFILE", "O_PATH", "pread", "preadv", "writev", "fdatasync", "sysconf", "nice",
             "sched_getaffinity", "register_at_fork", "fork", "mkfifo", "getuid", "getppid", "getpgid", "killpg", "setsid",
             "waitid", "P_PID", "WNOHANG", "WSTOPPED", "WNOWAIT", "geteuid", "uname", "statvfs"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGSTOP", "SIGCONT", "SIGCHLD", "pthread_sigmask"):
    delattr(signal, name)
del select.poll, select.POLLIN, select.POLLOUT
sys.platform = "win32"
sys.modules.update(dict.fromkeys(("fcntl", "pwd", "grp", "resource", "termios"), None))
import lsm, opendata_log, lsm.__main__, opendata_log.__main__, opendata_log.aio
with opendata_log.LogDb.open(storage="memory://") as log:
    log.try_append([(b"k", b"v")])
    assert log.count(b"k") == 1
    log.flush()
    log.append(b"k", b"w")
    assert [entry.value for entry in log.scan(b"k")] == [b"v", b"w"]
    assert log.list_keys()
with lsm.Db.open("memory://windows") as db:
    db.put(b"k", b"v")
    db.flush(lsm.FlushType.MEMTABLE)
    assert db.get(b"k") == b"v"
assert lsm.fsck("memory://windows").is_sound
lsm.open_store("s3://bucket/log", {"key": "a", "secret": "b", "endpoint_url": "http://localhost:1"}).close()
for url in ("log", "file:///log"):
    try:
        opendata_log.LogDb.open(storage=url)
    except opendata_log.InvalidInputError as error:
        assert "POSIX" in str(error) and "s3://" in str(error), error
    else:
        raise AssertionError("local directories were not refused")
"""


def test_without_posix_calls_all_but_local_directories_works() -> None:
    _check(_WINDOWS)
