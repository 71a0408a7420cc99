"""Checkpoints, clones and fsck of a log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lsm
from opendata_log import InvalidInputError, LogDb, LogDbBuilder, LogDbReader, SnapshotExpired, StorageError
from opendata_log.__main__ import main
from opendata_log.fsck import fsck
from opendata_log.model.keys import SEQ_BLOCK_KEY, LogPartitions, LogSeries, SegmentMeta, SeqBlock, segment_meta_key
from tests.lsm.support import tiny

Entries = list[tuple[bytes, int, bytes]]


class Epoch:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 0


def settings(**changes: Any) -> lsm.Settings:
    return tiny(flush_interval=0.05, **changes)


def fill(log: LogDb, segments: int = 3, start: int = 0) -> None:
    for turn in range(start, start + segments):
        for at in range(10):
            log.try_append([(b"key %d" % (each % 4), b"%d %d %d" % (turn, at, each) + b"x" * 20) for each in range(8)])
        log.seal_segment()
        log.flush()


def everything(log: LogDb | LogDbReader) -> tuple[Entries, list[Any]]:
    keys = [each.key for each in log.list_keys()]
    return [tuple(entry) for key in keys for entry in log.scan(key)], log.list_segments()  # type: ignore[misc]


def test_a_checkpoint_reads_the_same_entries_for_ever(tmp_path: Path) -> None:
    with LogDb.open(storage=str(tmp_path), engine=settings()) as log:
        fill(log)
        log.try_append([(b"key 0", b"appended, not flushed")])
        before = everything(log)
        made = log.create_checkpoint(name="before")
        fill(log, start=10)
        log.wait_idle(20)
        log.collect_garbage(min_age=0)
        with LogDbReader.open(storage=str(tmp_path), checkpoint=made.id) as reader:
            assert everything(reader) == before
            fill(log, start=20)
            log.wait_idle(20)
            log.collect_garbage(min_age=0)
            reader.refresh()
            assert everything(reader) == before
            assert reader.count(b"key 0") == len(list(reader.scan(b"key 0")))
    with lsm.Admin(tmp_path) as admin:
        admin.delete_checkpoint(made.id)
    with pytest.raises((InvalidInputError, SnapshotExpired), match="no checkpoint"):
        LogDbReader.open(storage=str(tmp_path), checkpoint=made.id)
    with pytest.raises(InvalidInputError, match="checkpoint"):
        LogDbReader.open(storage=str(tmp_path), checkpoint=7)


def test_a_clone_continues_by_itself(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with LogDb.open(storage=str(first), engine=settings()) as log:
        fill(log)
        log.try_append([(b"key 0", b"not flushed")])
        before = everything(log)
        made = log.clone(str(second))
        with lsm.Admin(first) as admin:
            assert [each.id for each in admin.list_checkpoints()] == [made.id]
        here = log.try_append([(b"key 0", b"here")]).start_sequence
        with LogDb.open(storage=str(second), engine=settings()) as clone:
            assert everything(clone) == before
            there = clone.try_append([(b"key 0", b"there")]).start_sequence
            assert there >= len(before[0])
            fill(clone, start=30)
            clone.wait_idle(20)
            clone.collect_garbage(min_age=0)
            assert [entry.value for entry in clone.scan(b"key 0", there, there + 1)] == [b"there"]
        assert [entry.value for entry in log.scan(b"key 0", here)] == [b"here"]
        with LogDb.open(storage=str(tmp_path / "other"), engine=settings()) as other:
            fill(other, 1)
        with pytest.raises(InvalidInputError, match="holds a database already"):
            log.clone(str(tmp_path / "other"))
        with pytest.raises(InvalidInputError, match="a place of its own"):
            log.clone(str(first))
    assert fsck(str(first)).problems == []
    assert fsck(str(second)).problems == []


def test_fsck_is_silent_on_a_sound_log_and_exits_with_3_on_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LogDb.open(storage=str(tmp_path), engine=settings()) as log:
        fill(log, 5)
        log.try_append([(b"tail", b"in the log")])
        log.flush()
        assert fsck(str(tmp_path)).problems == []  # Beside its writer.
    assert main(["fsck", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "sound"
    with lsm.Admin(tmp_path) as admin:
        table = tmp_path / next(admin.read_manifest().partitions[-1].tables()).name
    table.chmod(0o644)
    damaged = bytearray(table.read_bytes())
    damaged[20] ^= 1
    table.write_bytes(damaged)

    assert main(["fsck", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problems"][0]["object"] == f"sst/{table.name}"
    with pytest.raises(StorageError, match="no database"):
        fsck(str(tmp_path / "nothing"))
    done = subprocess.run(
        [sys.executable, "-m", "opendata_log", "fsck", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "no database" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (SEQ_BLOCK_KEY, SeqBlock(0, 5).encode(), "sequences reserved end before 5"),
        (SEQ_BLOCK_KEY, b"short", "sequence block"),
        (segment_meta_key(2), SegmentMeta(3, 0).encode(), "starts at 3"),
        (segment_meta_key(3), None, "which has no metadata"),
        (segment_meta_key(9), SegmentMeta(10_000, 1 << 50).encode(), "no record"),
        (segment_meta_key(2), SegmentMeta(0, 0).encode(), "cannot follow"),
    ],
)
def test_fsck_tells_what_the_logs_own_rows_get_wrong(tmp_path: Path, key: bytes, value: bytes | None, why: str) -> None:
    with LogDbBuilder(storage=str(tmp_path), engine=settings()).with_clock(Epoch()).build() as log:
        fill(log)
    with lsm.Db.open(tmp_path, settings(), prefix_extractor=LogPartitions(), series_layout=LogSeries()) as db:
        if value is None:
            db.delete(key)
        else:
            db.put(key, value)

    report = fsck(str(tmp_path))

    assert any(why in each.message for each in report.problems), report.problems
