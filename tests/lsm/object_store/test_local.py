"""LocalStore beyond the contract: several processes, kill -9, vanishing directories, and what the disk can say."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lsm.errors import InvalidError
from lsm.object_store import LocalStore, ObjectExists, RequestRefused, StoreFault

REPOSITORY = Path(__file__).parents[3]

_RACER = """
import sys
from lsm.object_store import LocalStore, ObjectExists
store = LocalStore(sys.argv[1], use_tmpfile=sys.argv[2] == "True")
who = int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
won = []
for turn in range(150):
    try:
        store.put_if_absent(f"race/{turn}", [bytes([who]) * 3000], timeout=1)
        won.append(turn)
    except ObjectExists:
        pass
print(*won)
"""

_WRITER = """
import sys
from lsm.object_store import LocalStore
store = LocalStore(sys.argv[1], use_tmpfile=sys.argv[2] == "True")
body = [bytes(range(256)) * 4096] * 16
turn = 0
while True:
    print(turn, flush=True)
    store.put_if_absent(f"wal/{turn}", body, timeout=1)
    turn += 1
"""


def _python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


@pytest.fixture(params=[True, False], ids=["tmpfile", "named"])
def use_tmpfile(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def _put(store: LocalStore, name: str, *parts: bytes) -> None:
    store.put_if_absent(name, parts, timeout=1.0)


def test_of_several_processes_one_wins_each_name(tmp_path: Path, use_tmpfile: bool) -> None:
    racers = [_python(_RACER, tmp_path / "db", use_tmpfile, who) for who in (1, 2, 3)]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    won = [set(map(int, racer.communicate("go\n")[0].split())) for racer in racers]

    assert sum(map(len, won)) == 150
    assert set.union(*won) == set(range(150))
    store = LocalStore(tmp_path / "db")
    for who, turns in enumerate(won, 1):
        for turn in turns:
            assert store.get(f"race/{turn}", timeout=1.0) == bytes([who]) * 3000


def test_kill_while_writing_leaves_no_part_of_an_object(tmp_path: Path, use_tmpfile: bool) -> None:
    for turn in range(6):
        shutil.rmtree(tmp_path / "db", ignore_errors=True)
        writer = _python(_WRITER, tmp_path / "db", use_tmpfile)
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 1:
            pass
        time.sleep(0.004 * turn)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()

        found = LocalStore(tmp_path / "db").list("", timeout=1.0)
        assert found
        assert {info.size for info in found} == {16 << 20}
        if use_tmpfile:
            assert not [name for name in os.listdir(tmp_path / "db/wal") if name.startswith(".tmp-")]


def test_a_leftover_temporary_file_is_never_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    _put(store, "wal/1", b"x")
    (tmp_path / "wal" / ".tmp-12-0123456789abcdef").write_bytes(b"half")

    assert [info.name for info in store.list("", timeout=1.0)] == ["wal/1"]
    assert [info.name for info in store.leftovers(timeout=1.0)] == ["wal/.tmp-12-0123456789abcdef"]


@pytest.mark.parametrize("name", [".tmp-12-ab", ".tmp-0123456789abcdef", ".tmp-12-0123456789abcdef.part", "a.tmp-1-2"])
def test_another_programs_temporary_file_is_no_leftover(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / name).write_bytes(b"x")

    assert store.leftovers(timeout=1.0) == []
    assert [info.name for info in store.list("", timeout=1.0)] == [name]


def _watch_fsync(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


def test_new_parents_are_synced_up_to_the_one_that_existed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = _watch_fsync(monkeypatch)

    _put(LocalStore(tmp_path / "a/b"), "wal/x/1", b"x")

    assert set(synced) == {str(tmp_path / part) for part in ("", "a", "a/b", "a/b/wal", "a/b/wal/x")}
    assert synced[-1] == str(tmp_path / "a/b/wal/x")


def test_a_taken_name_is_durable_before_it_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    _put(store, "wal/1", b"x")
    synced = _watch_fsync(monkeypatch)

    with pytest.raises(ObjectExists):
        _put(store, "wal/1", b"y")

    assert synced == [str(tmp_path / "wal")]


def test_the_bytes_are_synced_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_tmpfile: bool
) -> None:
    store = LocalStore(tmp_path, use_tmpfile=use_tmpfile)
    _put(store, "1", b"x")
    steps: list[str] = []
    for name in ("writev", "fdatasync", "link", "fsync"):
        real = getattr(os, name)

        def step(*arguments: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            steps.append(_name)
            return _real(*arguments, **options)

        monkeypatch.setattr(os, name, step)

    _put(store, "2", b"x")

    assert steps == ["writev", "fdatasync", "link", "fsync"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [bytes(memoryview(parts[0])[:3])]))

    _put(store, "1", b"abcdefgh", b"", b"ij", b"klmnop")

    assert (tmp_path / "1").read_bytes() == b"abcdefghijklmnop"


@pytest.mark.parametrize("call", ["writev", "fdatasync", "link", "open"])
@pytest.mark.parametrize(
    ("code", "is_transient", "advice"),
    [
        (errno.ENOSPC, True, "free space"),
        (errno.EDQUOT, True, "quota"),
        (errno.EMFILE, True, "ulimit -n"),
        (errno.EACCES, False, "permission"),
        (errno.EROFS, False, "read-only"),
        (errno.EFBIG, False, "ulimit -f"),
    ],
)
def test_disk_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, is_transient: bool, advice: str
) -> None:
    store = LocalStore(tmp_path)
    _put(store, "wal/1", b"x")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(RequestRefused, match=advice) as caught:
            _put(store, "wal/2", b"y")

    assert caught.value.transient is is_transient
    assert sorted(os.listdir(tmp_path / "wal")) == ["1"]


def test_a_failed_sync_of_the_name_is_no_proof_of_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    _put(store, "wal/1", b"x")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFault, match="check the disk") as caught:
        _put(store, "wal/2", b"y")

    assert not caught.value.transient
    assert not isinstance(caught.value, RequestRefused)


def test_a_real_shortage_of_descriptors_is_transient(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    _put(store, "wal/1", b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StoreFault, match="ulimit -n") as caught:
            _put(store, "wal/2", b"y")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert caught.value.transient
    _put(store, "wal/2", b"y")


def test_a_file_system_without_unnamed_files_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    real = os.open

    def no_tmpfile(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", no_tmpfile)
    _put(store, "wal/1", b"x")
    with pytest.raises(ObjectExists):
        _put(store, "wal/1", b"y")

    assert os.listdir(tmp_path / "wal") == ["1"]


def test_opening_creates_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "db")

    assert store.list("", timeout=1.0) == []
    assert not (tmp_path / "db").exists()


def test_a_relative_root_stays_put_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("data/log")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    _put(store, "wal/1", b"x")

    assert store.url == f"file://{tmp_path}/data/log"
    assert (tmp_path / "data/log/wal/1").exists()


@pytest.mark.parametrize("below", ["", "/db", "/db/deeper"])
def test_a_file_as_root_or_parent_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_bytes(b"")

    with pytest.raises(InvalidError, match="is a file"):
        LocalStore(f"{tmp_path}/taken{below}")


@pytest.mark.parametrize("below", ["", "/db", "/db/deeper"])
def test_a_link_that_leads_nowhere_is_told_from_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to("gone/away")

    with pytest.raises(InvalidError, match="is a link to 'gone/away', which does not exist"):
        LocalStore(f"{tmp_path}/link{below}")


def test_descriptors_are_returned_on_close(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for folder in range(20):
        _put(store, f"{folder}/1", b"x")

    assert len(_open_below(tmp_path)) == 20

    store.close()

    assert _open_below(tmp_path) == []


def _open_below(path: Path) -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [target for target in found if target.startswith(f"{path}/")]
