"""`python -m lsm`: what the commands print and how they exit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lsm
from lsm.__main__ import main
from tests.lsm.support import read_rows, tiny


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.fixture
def database(tmp_path: Path) -> Path:
    with lsm.Db.open(tmp_path / "db", tiny()) as db:
        for turn in range(3):
            for at in range(30):
                db.put(b"k%02d" % at, b"turn %d " % turn + b"x" * 50)
            db.flush(lsm.FlushType.MEMTABLE)
            db.wait_idle(20)
    return tmp_path / "db"


def test_gc_says_why_and_then_does_it(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover = database / "sst" / ".tmp-1-00000000000000ff"
    leftover.write_bytes(b"half an object")
    status, out, err = run(capsys, "gc", str(database), "--dry-run", "--min-age", "0")
    could_go = json.loads(out)
    assert status == 0
    assert "can go" in err
    assert {each["name"].split("/")[0] for each in could_go} >= {"sst", "wal"}
    assert all(each["reason"] for each in could_go)
    assert all((database / each["name"]).exists() for each in could_go)

    status, out, _ = run(capsys, "gc", str(database), "--min-age", "0")

    assert {each["name"] for each in json.loads(out)} >= {each["name"] for each in could_go}
    assert not any((database / each["name"]).exists() for each in could_go)
    assert not leftover.exists()
    with lsm.Db.open(database, tiny()) as db:
        assert len(read_rows(db)) == 30


def test_checkpoints_from_a_terminal(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(database)
    _, out, _ = run(capsys, "checkpoint", "create", url, "--name", "nightly", "--lifetime", "3600")
    made = json.loads(out)
    assert (made["name"], made["lifetime_ms"]) == ("nightly", 3_600_000)
    assert json.loads(run(capsys, "checkpoint", "list", url)[1]) == [made]
    refreshed = json.loads(run(capsys, "checkpoint", "refresh", url, made["id"], "--lifetime", "60")[1])
    assert refreshed["lifetime_ms"] == 60_000
    assert run(capsys, "clone", url, str(database.parent / "copy"), "--checkpoint", made["id"])[0] == 0
    with lsm.Db.open(database.parent / "copy", tiny()) as copy:
        assert len(read_rows(copy)) == 30
    run(capsys, "checkpoint", "delete", url, made["id"])
    assert [each["name"] for each in json.loads(run(capsys, "checkpoint", "list", url)[1])] == [
        f"clone:file://{database.parent / 'copy'}"
    ]
    assert len(json.loads(run(capsys, "manifests", url)[1])) > 3


def test_fsck_exits_with_3_on_damage_and_1_where_it_cannot_look(
    database: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _ = run(capsys, "fsck", str(database))
    assert (status, out.splitlines()[-1]) == (0, "sound")
    assert json.loads(run(capsys, "fsck", str(database), "--json")[1])["is_sound"] is True
    table = sorted((database / "sst").iterdir())[-1]
    table.chmod(0o644)
    table.write_bytes(table.read_bytes()[:-1])

    status, out, _ = run(capsys, "fsck", str(database))
    assert status == 3
    assert f"DAMAGE sst/{table.name}" in out
    status, _, err = run(capsys, "fsck", str(tmp_path / "nothing"))
    assert status == 1
    assert "no database" in err


def test_runs_as_a_module(database: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lsm", "fsck", str(database)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "sound"), done.stderr
