"""Worker processes in a rough world: how they start, print, fall silent, die, and outlive their parents."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from lsm.workers import channel, pool
from lsm.workers.channel import Worker, import_path, interpreter
from lsm.workers.pool import WorkerProcesses

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no worker processes elsewhere")


# -- what a worker is sent ------------------------------------------------------------------------------------------------


def found() -> dict[str, str]:
    """Where the worker got its modules from, and how it was started."""
    names = ("pickle", "threading", "lsm", "msgspec")
    return {name: str(sys.modules[name].__file__) for name in names} | {"site": str("site" in sys.modules)}


def die() -> None:
    os._exit(9)


def hang(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    threading.Event().wait()


def work_on(seconds: float) -> str:
    """Slow, and alive: each step is a sign of it."""
    for _ in range(int(seconds / 0.01)):
        time.sleep(0.01)
        pool.process_runtime().hand_over()
    return "done"


def shout() -> int:
    """More than a pipe holds, through every way out."""
    for _ in range(20):
        os.write(1, b"x" * 20_000)
        os.write(2, b"x" * 20_000)
    print("y" * 100_000)
    return sys.stdin.read() == ""


def leave() -> None:
    sys.exit(7)


class Unreadable:
    def __reduce__(self) -> Any:
        return (int, ("not a number",))


def give_unreadable() -> Unreadable:
    return Unreadable()


# -- starting -------------------------------------------------------------------------------------------------------------


def test_a_worker_takes_nothing_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, here = tmp_path / f"si{os.pathsep}te", tmp_path / "here"
    for folder in (site, here):
        folder.mkdir()
        for name in ("sitecustomize", "usercustomize", "lsm", "pickle", "threading", "msgspec", "struct", "site"):
            (folder / f"{name}.py").write_text("import os\nprint('hello')\nos._exit(3)\n")
    (tmp_path / "startup.py").write_text("import os\nos._exit(4)\n")
    monkeypatch.chdir(here)
    odd: Any = [Path("/opt/plugins"), None, b"/bytes", 7, "", ".", "no\0name", "gone", "/surro\udcffgate", str(here)]
    monkeypatch.setattr(sys, "path", [*odd[:4], "", str(here), *sys.path, *odd[4:]])
    for name, value in {
        "PYTHONPATH": os.pathsep.join([str(site), str(here), "/surro\udcffgate"]),
        "PYTHONINSPECT": "1",
        "PYTHONSTARTUP": str(tmp_path / "startup.py"),
        "PYTHONWARNINGS": "error",
        "PYTHONHOME": "/nonexistent",
        "PYTHONSAFEPATH": "",
        "PYTHONDEVMODE": "1",
        "PYTHONIOENCODING": "nonsense",
    }.items():
        monkeypatch.setenv(name, value)

    with WorkerProcesses(1) as workers:
        told = workers.submit(found).result(60)

    assert told == {name: str(sys.modules[name].__file__) for name in ("pickle", "threading", "lsm", "msgspec")} | {
        "site": "False"
    }


def test_the_current_directory_comes_last_on_the_path_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "lib", Path("/x"), None, "/y"])

    assert import_path() == [str(ROOT), str(tmp_path / "lib"), "/y", str(tmp_path)]


def test_a_current_directory_that_is_gone_keeps_no_worker_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "path", ["", "lib", *sys.path])
    with WorkerProcesses(1) as workers:
        assert workers.submit(int).result(60) == 0


@pytest.mark.parametrize(
    "executable", [None, "", "python3", 7, "/bin/sh", "/usr/bin/uwsgi", "/nonexistent/app", Path(sys.executable)]
)
def test_only_an_interpreter_is_started(monkeypatch: pytest.MonkeyPatch, executable: Any) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was started")

    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(channel.subprocess, "Popen", never)
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []
    with WorkerProcesses(1) as workers, pytest.raises(BrokenExecutor, match=r"sys\.executable"):
        workers.submit(int).result(60)
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_frozen_application_is_never_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(BrokenExecutor, match="frozen"):
        interpreter()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("exit 3", "of no use any more"),
        ("echo hello; exec sleep 100", "made no progress"),
        ('eval "echo hello >&$5"; exec sleep 100', "."),
        ("exec cat", "."),
        ("kill -STOP $$", "made no progress"),
    ],
)
def test_a_program_that_only_calls_itself_python_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, why: str
) -> None:
    app = tmp_path / "python"
    app.write_text(f"#!/bin/sh\n{said}\n")
    app.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(app))
    monkeypatch.setattr(pool, "SILENCE_SECONDS_MIN", 0.3)
    with WorkerProcesses(1, silence_max=0.3) as workers, pytest.raises(BrokenExecutor, match=why):
        workers.submit(int).result(30)


def test_a_worker_of_another_version_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "fingerprint", lambda: b"cpython-311 lsm 99")
    with WorkerProcesses(1) as workers, pytest.raises(BrokenExecutor, match="another version"):
        workers.submit(int).result(60)


def test_descriptors_that_are_refused_break_the_call_and_none_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, opened = os.pipe, []

    def refusing() -> tuple[int, int]:
        if opened:
            raise OSError(24, "Too many open files")
        opened.append(pipe())
        return opened[0]

    monkeypatch.setattr(channel.os, "pipe", refusing)
    with pytest.raises(BrokenExecutor, match="Too many open files"):
        Worker(niceness=0, silence_max=1.0)
    for fd in opened[0]:
        with pytest.raises(OSError):
            os.fstat(fd)


# -- working --------------------------------------------------------------------------------------------------------------


def test_what_a_job_prints_and_reads_is_not_in_its_pipes() -> None:
    with WorkerProcesses(1) as workers:
        assert workers.submit(shout).result(60) == 1
        assert workers.submit(int, "7").result(60) == 7


def test_whatever_a_job_raises_reaches_the_caller_and_the_worker_goes_on() -> None:
    with WorkerProcesses(1) as workers:
        pid = workers.submit(os.getpid).result(60)
        with pytest.raises(SystemExit):
            workers.submit(leave).result(60)
        with pytest.raises((pickle.PicklingError, AttributeError)):
            workers.submit(lambda: 1).result(60)
        assert workers.submit(os.getpid).result(60) == pid
        with pytest.raises(BrokenExecutor, match="cannot be read"):
            workers.submit(give_unreadable).result(60)


def test_a_silent_worker_is_killed_and_the_next_call_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SILENCE_SECONDS_MIN", 0.1)
    with WorkerProcesses(1, silence_max=60) as workers:
        first = workers.submit(os.getpid).result(60)
        worker = workers._workers[0]
        worker._silence_max = 0.3
        with pytest.raises(BrokenExecutor, match="no progress"):
            workers.submit(hang, str(tmp_path / "pid")).result(30)
        assert not worker.is_alive
        second = workers.submit(os.getpid).result(60)
        os.kill(second, signal.SIGSTOP)
        workers._workers[0]._silence_max = 0.3
        with pytest.raises(BrokenExecutor, match="no progress"):
            workers.submit(int).result(30)
        assert workers.submit(os.getpid).result(60) not in (first, second)


@pytest.mark.slow
def test_a_worker_that_makes_progress_may_take_long() -> None:
    with WorkerProcesses(1, silence_max=2.0) as workers:
        workers.submit(int).result(60)
        workers._workers[0]._silence_max = 1.5
        assert workers.submit(work_on, 3.0).result(60) == "done"


def test_a_worker_that_dies_breaks_its_call_and_no_other() -> None:
    with WorkerProcesses(1) as workers:
        with pytest.raises(BrokenExecutor, match="of no use"):
            workers.submit(die).result(60)
        idle = workers.submit(os.getpid).result(60)
        os.kill(idle, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while workers._workers[0].is_alive and time.monotonic() < deadline:
            time.sleep(0.002)
        assert workers.submit(os.getpid).result(60) != idle


def test_a_shutdown_cuts_off_a_call_whose_worker_is_stopped(tmp_path: Path) -> None:
    workers = WorkerProcesses(1)
    call = workers.submit(hang, str(tmp_path / "pid"))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.005)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGSTOP)

    workers.shutdown(wait=False)

    with pytest.raises(BrokenExecutor, match="of no use any more"):
        call.result(0)


# -- parents and children -------------------------------------------------------------------------------------------------

FORKING = """
import os, sys, threading
from lsm.workers.pool import WorkerProcesses
workers = WorkerProcesses(1)
pid = workers.submit(os.getpid).result(60)
if not os.fork():
    threading.Event().wait()  # It lives on, and has inherited the ends of the pipes.
print(pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_ends_with_its_parent_though_a_forked_child_lives_on() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKING], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        deadline = time.monotonic() + 20
        while is_there(worker) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_there(worker)
        os.killpg(parent.pid, 0)  # The child is still there.
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def is_there(pid: int) -> bool:
    """Whether it runs. One that ended, and that nobody waits for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_forked_child_takes_nothing_away_from_its_parents_worker() -> None:
    with WorkerProcesses(1) as workers:
        pid = workers.submit(os.getpid).result(60)
        child = os.fork()
        if not child:
            os._exit(workers._workers[0].is_alive)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert workers.submit(os.getpid).result(60) == pid
