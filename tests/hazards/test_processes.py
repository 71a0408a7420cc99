"""What Python does to processes: forks with locks held, exits without a close, directories that cannot be written any more."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lsm
from opendata_log import ClosedError, LogDb
from tests.opendata_log.support import tiny, values

ROOT = Path(__file__).resolve().parents[2]


def in_a_fork(call: Callable[[], Any], seconds: float = 5.0) -> str:
    """What the call raises in a forked child, or a word for everything else."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            call()
            told = "returned"
        except ClosedError as error:
            told = f"closed: {error}"
        except BaseException as error:
            told = repr(error)
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + seconds
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)
            return "hangs"
        time.sleep(0.002)
    told = os.read(reading, 10_000).decode()
    os.close(reading)
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_threads_hold_every_lock_it_refuses_and_the_parent_goes_on(tmp_path: Path) -> None:
    with LogDb.open(storage=str(tmp_path), engine=tiny(flush_interval=0.005)) as log:
        watch = log.subscribe_durable()
        done = threading.Event()
        appended = [0, 0, 0]

        def work(at: int) -> None:
            while not done.is_set():
                log.try_append([(b"key-%d" % at, b"%d" % appended[at])])
                appended[at] += 1
                if not appended[at] % 50:
                    log.flush()
                    log.durable_sequence  # noqa: B018 -- it takes a lock
                    values(log, b"key-%d" % at, last=5)
                time.sleep(0.0005)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
        for thread in threads:
            thread.start()
        calls: list[Callable[[], Any]] = [
            lambda: log.try_append([(b"child", b"1")]),
            lambda: log.append_timeout([(b"child", b"1")], 1),
            log.flush,
            log.seal_segment,
            lambda: values(log, b"key-0"),
            lambda: log.count(b"key-0"),
            lambda: list(log.list_keys()),
            log.list_segments,
            log.tree_summary,
            lambda: log.sequence_at(0),
            lambda: list(log.follow(b"child")),
            lambda: watch.wait(1 << 60),
            log.collect_garbage,
        ]
        try:
            told = [in_a_fork(call) for _ in range(2) for call in calls]
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert [one for one in zip([*range(len(calls))] * 2, told) if not one[1].startswith("closed: ")] == []
        assert any("fork" in one for one in told)
        assert in_a_fork(lambda: log.durable_sequence) == "returned"
        assert in_a_fork(log.close) == in_a_fork(log.status) == "returned"

        log.flush()
        for at in range(3):
            assert values(log, b"key-%d" % at) == [b"%d" % number for number in range(appended[at])]
        assert log.count(b"child") == 0


EXITS = {
    "end of the program": "",
    "sys.exit": "sys.exit(0)",
    "in a thread that follows": """
thread = threading.Thread(target=lambda: list(log.follow(b'k')), daemon=True)
thread.start()
time.sleep(0.05)
""",
    "with a flush in another thread": """
threading.Thread(target=log.flush, daemon=True).start()
""",
}


@pytest.mark.parametrize("way", EXITS)
@pytest.mark.parametrize("engine", ["lsm.Settings()", "lsm.Settings(flush_interval=0.001, gc_interval=0.001)"])
def test_an_exit_without_a_close_it_ends_at_once_and_what_was_durable_is_there(
    tmp_path: Path, way: str, engine: str
) -> None:
    script = f"""
import sys, threading, time
import lsm
from opendata_log import LogDb
log = LogDb.open(storage=sys.argv[1], engine={engine})
for at in range(300):
    log.try_append([(b'k', b'%d' % at)])
log.flush()
for at in range(300, 400):
    log.try_append([(b'k', b'%d' % at)])
{EXITS[way]}
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    with LogDb.open(storage=str(tmp_path)) as log:
        found = values(log, b"k")
    assert found == [b"%d" % at for at in range(len(found))]
    assert len(found) >= 300


READ_ONLY = """
import os, sys
from opendata_log import LogDb, LogDbReader, StorageError
root = sys.argv[1]
if os.getuid() == 0:
    os.chown(root, 65534, 65534)
    os.setuid(65534)
log = LogDb.open(storage=root, engine={"op_timeout": 1.0, "gc_interval": None})
log.try_append([(b"k", b"0")])
log.flush()
folders = [root, *(os.path.join(root, name) for name in os.listdir(root))]
for folder in folders:
    os.chmod(folder, 0o555)
log.try_append([(b"k", b"1")])
try:
    log.flush()
except StorageError as error:
    print("refused:", error)
with LogDbReader.open(storage=root) as reader:
    print("read:", [entry.value for entry in reader.scan(b"k")])
for folder in folders:
    os.chmod(folder, 0o755)
log.flush()
log.try_append([(b"k", b"2")])
log.close()
with LogDbReader.open(storage=root) as reader:
    print("read:", [entry.value for entry in reader.scan(b"k")])
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_directory_that_becomes_read_only_it_says_so_is_read_and_goes_on_afterwards(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(0o755)
    place = tmp_path / "log"
    place.mkdir()

    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_ONLY, str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 0, ended.stderr
    refused, during, after = ended.stdout.splitlines()
    assert refused.startswith("refused:")
    assert "permission denied" in refused
    assert during == "read: [b'0']"
    assert after == "read: [b'0', b'1', b'2']"


DROPPED = """
import gc, sys
import lsm
from opendata_log import LogDb

settings = lsm.Settings(flush_interval=None)
LogDb.open(storage=sys.argv[1] + "/log", engine=settings).try_append([(b"k", b"1")])
lsm.Db.open(sys.argv[1] + "/db", settings).put(b"k", b"1")
gc.collect()
"""


def test_handles_that_nobody_holds_are_ended_with_the_program(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", DROPPED, str(tmp_path)], cwd=ROOT, check=True, timeout=60)

    with LogDb.open(storage=str(tmp_path / "log")) as log, lsm.Db.open(tmp_path / "db") as db:
        assert [entry.value for entry in log.scan(b"k")] == [b"1"]
        assert db.get(b"k") == b"1"
