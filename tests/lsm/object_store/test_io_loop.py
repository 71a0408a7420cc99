"""fsspec's event loop is usable before a store is opened on it: its thread runs, and its look-ups outlive the main thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fsspec import asyn

import lsm
from lsm.object_store.io_loop import ready_loop

ROOT = Path(__file__).resolve().parents[3]


def test_a_refused_thread_is_an_error_and_the_next_open_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyn, "loop", [None])
    monkeypatch.setattr(asyn, "iothread", [None])
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if thread.name == "fsspecIO":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refusing)
        with pytest.raises(lsm.UnavailableError, match="ulimit -u"):
            ready_loop()
        with pytest.raises(RuntimeError):
            asyn.get_loop()  # Somebody else meets the same, and leaves a loop that does not run.
    ready_loop()
    assert asyn.sync(asyn.get_loop(), _answer, timeout=10) == 7
    loop = asyn.get_loop()
    loop.call_soon_threadsafe(loop.stop)
    asyn.iothread[0].join(10)
    loop.close()


async def _answer() -> int:
    return 7


LOOK_UP = """
import asyncio, threading
from fsspec import asyn
from lsm.object_store.io_loop import ready_loop

async def look_up():
    return len(await asyncio.get_running_loop().getaddrinfo("localhost", 80)) > 0

EARLY

def work():
    threading.main_thread().join()
    ready_loop()
    print(asyn.sync(asyn.get_loop(), look_up, timeout=10))

threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("early", ["", "asyn.sync(asyn.get_loop(), look_up)", "ready_loop()"])
def test_names_are_looked_up_after_the_main_thread_has_ended(early: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOOK_UP.replace("EARLY", early)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.stdout, ended.stderr) == ("True\n", "")
