"""The exit status of `fsck` tells what was found, whatever becomes of what it prints."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.__main__ import main as engine_main
from opendata_log import LogDb
from opendata_log.__main__ import main as log_main

MAINS: dict[str, Callable[[list[str]], int]] = {"lsm": engine_main, "opendata_log": log_main}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A log, whose name ASCII cannot write."""
    root = tmp_path / "l\u00f6g"
    with LogDb.open(storage=root) as log:
        log.try_append([(b"k", b"v")])
    return root


def damage(root: Path) -> None:
    table = next((root / "sst").iterdir())
    table.chmod(0o644)
    data = bytearray(table.read_bytes())
    data[20] ^= 1
    table.write_bytes(data)


class Full(io.StringIO):
    """A stream on a full disk."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


class Closed(io.StringIO):
    """A stream nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def ascii_only() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


STREAMS: dict[str, Callable[[], Any]] = {
    "a full disk": Full,
    "a closed pipe": Closed,
    "ASCII": ascii_only,
    "a closed file": lambda: io.StringIO(),
    "none": lambda: None,
}


@pytest.mark.parametrize("package", MAINS)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("both", [False, True])
def test_is_what_was_found_wherever_the_output_goes(
    stored: Path, package: str, stream: str, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(*arguments: str) -> int:
        with monkeypatch.context() as patched:
            for name in ("stdout", "stderr") if both else ("stdout",):
                found = STREAMS[stream]()
                if stream == "a closed file":
                    found.close()
                patched.setattr(sys, name, found)
            return MAINS[package](["fsck", str(stored), *arguments])

    assert status() == 0
    assert status("--json") == 0
    damage(stored)
    assert status() == 3
    assert status("--json") == 3


@pytest.mark.parametrize("package", MAINS)
def test_of_a_process_whose_reader_has_left_or_whose_disk_is_full(stored: Path, package: str) -> None:
    """The interpreter writes what is left when it ends, and has an exit status of its own for trouble with that."""
    command = [sys.executable, "-m", package, "fsck", str(stored)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, b"could not be written" in done.stderr) == (0, True), done.stderr
    damage(stored)
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=full, timeout=60, check=False)
        assert done.returncode == 3


@pytest.mark.parametrize("package", MAINS)
def test_tells_what_could_not_be_done_from_damage_and_from_a_wrong_command_line(
    tmp_path: Path, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = MAINS[package]
    assert run(["fsck", str(tmp_path / "nothing")]) == 1
    assert run(["fsck", "nosuchscheme://x"]) == 1
    assert run(["fsck", str(tmp_path), "--storage-option", "x"]) == 1
    for arguments in (["--storage-options", "[1]"], ["--storage-options", "{"], ["--no-such"], ["--wal-url"]):
        with pytest.raises(SystemExit) as caught:
            run(["fsck", str(tmp_path), *arguments])
        assert caught.value.code == 2
    assert "must be a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("package", MAINS)
def test_looks_for_the_log_where_it_is_told(tmp_path: Path, package: str) -> None:
    url, wal_url = str(tmp_path / "tables"), str(tmp_path / "wal")
    with LogDb.open(storage={"url": url, "wal_url": wal_url}) as log:
        log.try_append([(b"k", b"v")])

    assert MAINS[package](["fsck", url, "--wal-url", wal_url]) == 0
    assert MAINS[package](["fsck", url]) == 1


@pytest.mark.parametrize("value", ["nan", "-1", "x", "-inf"])
def test_refuses_durations_without_sense(tmp_path: Path, value: str) -> None:
    for arguments in (["gc", "--min-age"], ["gc", "--every"], ["checkpoint", "create", "--lifetime"]):
        with pytest.raises(SystemExit) as caught:
            engine_main([*arguments[:-1], str(tmp_path), f"{arguments[-1]}={value}"])
        assert caught.value.code == 2
    with lsm.Db.open(tmp_path / "db"):
        pass
    assert engine_main(["gc", str(tmp_path / "db"), "--min-age", "0"]) == 0
