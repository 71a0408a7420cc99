"""A log's compactor by itself: the command a user types, and the same as a call."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from opendata_log import Config, InvalidInputError, LogDb, LogDbBuilder, SegmentConfig, StorageError
from opendata_log.compactor import open_compactor
from tests.opendata_log.support import tiny, values

ROOT = Path(__file__).resolve().parents[2]


def config_of(path: Path, **engine: Any) -> Config:
    return Config(storage=str(path), engine=tiny(compaction_enabled=False, **engine))


def fill(log: LogDb) -> None:
    for at in range(60):
        log.append_timeout([(b"key-%d" % (at % 3), b"%d" % at * 40)], 10)
        if at == 40:
            log.seal_segment()
    while log.status().frozen_memtables:  # A compactor sees what is in tables.
        time.sleep(0.005)


def expected(key: int) -> list[bytes]:
    return [b"%d" % at * 40 for at in range(60) if at % 3 == key]


def command(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "error", "-m", "opendata_log", "compactor", str(path), *more]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_one_command_compacts_a_log_beside_its_writer(tmp_path: Path) -> None:
    with LogDb.open(config_of(tmp_path)) as log:
        fill(log)

        done = command(tmp_path, "--once")

        assert done.returncode == 0, done.stderr
        log.collect_garbage(min_age=0)  # Looks at the manifest, too.
        sealed = [each for each in log.status().partitions if sum(each.levels.values()) and not each.l0]
        assert sealed
        assert [values(log, b"key-%d" % key) for key in range(3)] == [expected(key) for key in range(3)]
        log.try_append([(b"key-0", b"more")])
    with LogDb.open(config_of(tmp_path)) as log:
        assert values(log, b"key-0") == [*expected(0), b"more"]


def test_the_call_takes_the_logs_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with LogDb.open(config) as log, ThreadPoolExecutor(2) as pool:
        fill(log)
        with open_compactor(config, compaction_executor=pool) as compactor:
            assert compactor.run_once(30)
            assert compactor.committed
        assert values(log, b"key-1") == expected(1)


def test_says_what_is_wrong(tmp_path: Path) -> None:
    done = command(tmp_path / "nothing")
    assert done.returncode == 2
    assert "StorageError" in done.stderr
    assert "--storage-option needs NAME=VALUE" in command(tmp_path, "--storage-option", "anon").stderr
    with pytest.raises(StorageError, match="nobody has written"):
        open_compactor(config_of(tmp_path / "nothing"))


def test_the_builder_takes_an_executor() -> None:
    with pytest.raises(InvalidInputError, match="submit"):
        LogDbBuilder().with_compaction_executor(object())  # type: ignore[arg-type]
    config = Config(storage="memory://", segmentation=SegmentConfig(seal_byte_limit=4000), engine=tiny())
    with (
        ThreadPoolExecutor(2) as pool,
        LogDbBuilder(config).with_compaction_executor(pool).build() as log,
    ):
        fill(log)
        assert log.wait_idle(30)
        assert values(log, b"key-2") == expected(2)
