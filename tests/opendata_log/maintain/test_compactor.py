"""A log's compactor by itself: the command a user types, and the same as a call."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import (
    Config,
    InvalidInputError,
    LogDb,
    LogDbBuilder,
    RetentionConfig,
    SegmentConfig,
    StorageError,
)
from opendata_log.fsck import fsck
from opendata_log.maintain.compactor import open_compactor
from opendata_log.model.keys import LogPartitions, LogSeries, parse_routing_prefix, segment_meta_key
from tests.opendata_log.support import ManualClock, tiny, values

ROOT = Path(__file__).resolve().parents[3]
HOUR = 3600.0


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


# -- what the writer's retention took ---------------------------------------------------------------------------------


def retaining(storage: str, clock: ManualClock) -> LogDb:
    config = Config(
        storage=storage,
        segmentation=SegmentConfig(seal_interval=HOUR),
        retention=RetentionConfig(retention=2 * HOUR, check_interval=24 * HOUR),
        engine=tiny(compaction_enabled=False),
    )
    return LogDbBuilder(config).with_clock(clock).build()


def fill_hours(log: LogDb, clock: ManualClock, hours: int) -> None:
    """A segment an hour, each in two level-0 tables."""
    for hour in range(hours):
        for half in (b"a", b"b"):
            log.try_append([(b"key", b"%d%s" % (hour, half))] * 3)
            log._db.flush(lsm.FlushType.MEMTABLE)
        clock.advance(HOUR)


def retire(log: LogDb) -> None:
    assert log._retention is not None
    for _ in range(2):  # A clock that is handed in counts when it is seen twice.
        log._retention.tick()


def trees(manifest: lsm.Manifest) -> dict[int, tuple[int, int]]:
    """Level-0 tables and runs of every user segment with tables."""
    found = {parse_routing_prefix(each.prefix): (len(each.l0), len(each.runs)) for each in manifest.partitions}
    return {each: shape for each, shape in found.items() if each}


def newest(store: lsm.ObjectStore) -> lsm.Manifest:
    with lsm.Admin("memory://", object_store=store) as admin:
        return admin.read_manifest()


def test_drains_what_the_writer_retired_and_merges_what_it_sealed() -> None:
    clock, place = ManualClock(), "memory://compactor-retention"
    store = MemoryStore.shared("compactor-retention")
    with retaining(place, clock) as log, open_compactor(Config(storage=place, engine=tiny())) as compactor:
        fill_hours(log, clock, 6)
        assert compactor.run_once(30)
        assert trees(newest(store)) == {**dict.fromkeys(range(1, 6), (0, 1)), 6: (2, 0)}

        retire(log)
        assert [each.id for each in log.list_segments()] == [4, 5, 6]
        assert compactor.run_once(30)
        assert min(trees(newest(store))) == 1, "that is in the log so far, and not in tables"
        log._db.flush(lsm.FlushType.MEMTABLE)
        before = log.status().requests.get(("put", "compaction"))
        wait_for(lambda: compactor.run_once(30) and min(trees(newest(store))) == 4)

        assert log.status().requests.get(("put", "compaction")) == before
        assert trees(newest(store)) == {4: (0, 1), 5: (0, 1), 6: (2, 0)}
        log.collect_garbage(min_age=0)
        stored = [name for name in store._objects if name.startswith("sst/")]
        assert {int(name[4:24]) for name in stored} == newest(store).table_ids()
        assert values(log, b"key") == [
            b"%d%s" % (hour, half) for hour in (3, 4, 5) for half in (b"a", b"b") for _ in "123"
        ]
    assert fsck(place).problems == []


def test_a_newest_segment_without_metadata_ends_it() -> None:
    clock, place = ManualClock(), "memory://compactor-metadata"
    with retaining(place, clock) as log:
        fill_hours(log, clock, 3)
    with lsm.Db.open(
        place, tiny(compaction_enabled=False), prefix_extractor=LogPartitions(), series_layout=LogSeries()
    ) as db:
        db.delete(segment_meta_key(3))
        db.flush(lsm.FlushType.MEMTABLE)
    before = newest(MemoryStore.shared("compactor-metadata")).partitions

    with (
        open_compactor(Config(storage=place, engine=tiny())) as compactor,
        pytest.raises(lsm.InternalError, match="segment 3 has tables and no metadata"),
    ):
        compactor.run_once(30)

    assert newest(MemoryStore.shared("compactor-metadata")).partitions == before, "nothing was compacted or dropped"


def test_segment_metadata_that_does_not_decode_ends_it() -> None:
    clock, place = ManualClock(), "memory://compactor-damage"
    with retaining(place, clock) as log:
        fill_hours(log, clock, 2)
        log._db.put(segment_meta_key(1), b"short")

    with (
        open_compactor(Config(storage=place, engine=tiny())) as compactor,
        pytest.raises(lsm.CorruptionError, match="segment"),
    ):
        compactor.run_once(30)


def test_the_command_drains_beside_a_writer_in_another_process(tmp_path: Path) -> None:
    clock = ManualClock()
    with retaining(str(tmp_path), clock) as log:
        fill_hours(log, clock, 4)
        words = [sys.executable, "-W", "error", "-m", "opendata_log", "compactor", str(tmp_path)]
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            assert "compacting under epoch" in process.stderr.readline()
            retire(log)
            log._db.flush(lsm.FlushType.MEMTABLE)

            def drained() -> bool:
                with lsm.Admin(tmp_path) as admin:
                    return trees(admin.read_manifest()) == {2: (0, 1), 3: (0, 1), 4: (2, 0)}

            wait_for(drained)
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
        assert values(log, b"key", 0, None) == [
            b"%d%s" % (hour, half) for hour in (1, 2, 3) for half in (b"a", b"b") for _ in "123"
        ]
    assert fsck(str(tmp_path)).problems == []


def wait_for(is_true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


def test_says_what_is_wrong(tmp_path: Path) -> None:
    done = command(tmp_path / "nothing")
    assert done.returncode == 1
    assert "NotFoundError" in done.stderr
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
