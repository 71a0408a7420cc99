"""Signal handlers and finalizers that call the log in the middle of a call, and every way in which an interpreter ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opendata_log import LogDb

ROOT = Path(__file__).resolve().parents[2]


def complaints(folder: Path, first: int, count: int) -> str:
    """The failures of these rounds."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.hazards.endings", str(folder), str(first), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + 12 * count,
    )
    assert ended.stdout.endswith("done\n"), ended.stdout + ended.stderr
    return ended.stdout.removesuffix("done\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("first", [0, 15])
def test_a_call_that_comes_back_and_an_interpreter_that_ends_lose_nothing_and_hang_nowhere(
    tmp_path: Path, first: int
) -> None:
    assert complaints(tmp_path, first, 15) == ""


LETS_GO = """
import gc, sys
from opendata_log import LogDb

def append():
    log = LogDb.open(sys.argv[1], engine={"flush_interval": 60})
    log.try_append([(b"k", b"v")])

append()
gc.collect()
"""


def test_a_log_that_a_program_lets_go_of_is_durable_when_the_program_ends(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LETS_GO, str(tmp_path)], cwd=ROOT, check=True, timeout=60)

    with LogDb.open(tmp_path) as log:
        assert [entry.value for entry in log.scan(b"k")] == [b"v"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_a_call_that_comes_back_and_an_interpreter_that_ends_in_the_long_run(tmp_path: Path, first: int) -> None:
    assert complaints(tmp_path, first, 100) == ""
