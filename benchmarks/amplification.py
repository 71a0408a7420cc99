"""Bytes written and stored per byte of input: a database of random keys beside RocksDB, and a log that is sealed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.process import written_bytes
from benchmarks.tasks import Figures, Task

_BATCH = 1000
_SETTLING_SECONDS = 240.0


def random_keys(task: Task) -> Figures:
    """Put rows with keys of 16 random bytes into a plain database and let it compact: bytes written per byte of the rows."""
    batches = list(task.workload.batches())
    before = written_bytes()
    rows = {"ours": _into_ours, "rocksdict": _into_rocks}[task.store](task, batches)
    return {"written_x": (written_bytes() - before) / (rows * (16 + task.workload.value_bytes))}


def _into_ours(task: Task, batches: list[Any]) -> int:
    import lsm

    rows = 0
    settings = lsm.Settings.from_dict(task.options.get("engine", {}))
    with lsm.Db.open(f"file://{task.path}", settings) as db:
        for batch in batches:
            write = lsm.WriteBatch()
            for _, value in batch:
                write.put(os.urandom(16), value)
            db.write(write)
            rows += len(batch)
        db.flush(lsm.FlushType.MEMTABLE)
        assert db.wait_idle(_SETTLING_SECONDS), "compaction goes on"
    return rows


def _into_rocks(task: Task, batches: list[Any]) -> int:
    from rocksdict import Options, Rdict, WriteBatch

    rows = 0
    db = Rdict(task.path, Options(raw_mode=True))
    for batch in batches:
        write = WriteBatch(raw_mode=True)
        for _, value in batch:
            write.put(os.urandom(16), value)
        db.write(write)
        rows += len(batch)
    db.flush()
    end = time.monotonic() + _SETTLING_SECONDS
    while any(db.property_int_value(f"rocksdb.{name}") for name in ("compaction-pending", "num-running-compactions")):
        assert time.monotonic() < end, "compaction goes on"
        time.sleep(0.1)
    db.close()
    return rows


def sealed_log(task: Task) -> Figures:
    """Append to a log that is sealed every `seal_bytes`: table bytes written per byte flushed, and bytes stored after garbage
    collection per byte of keys and values. Flushes and compactions run in threads, where their writes are counted."""
    from lsm import FlushType, Settings
    from opendata_log import Config, LogDb, SegmentConfig

    threads = {"flush_placement": "thread", "compaction_placement": "thread"}
    config = Config(
        storage=f"file://{task.path}",
        engine=Settings.from_dict({**task.options.get("engine", {}), **threads}),
        segmentation=SegmentConfig(seal_byte_limit=int(task.options["seal_bytes"])),
    )
    written = {"flush": 0, "compaction": 0}

    def settle(log: LogDb) -> None:
        assert log.wait_idle(_SETTLING_SECONDS), "compaction goes on"
        for (_, cause), traffic in log.status().requests.items():
            if cause in written:
                written[cause] += traffic.bytes_out

    with LogDb.open(config) as log:
        for batch in task.workload.batches():
            log.try_append(batch)
        log.seal_segment()
        log.try_append([(b"next", b"")])
        log._db.flush(FlushType.MEMTABLE)  # Otherwise closing flushes, after the counts are read.
        settle(log)
    with LogDb.open(config) as log:
        settle(log)
        log.collect_garbage(min_age=0)
    stored = sum(path.stat().st_size for path in Path(task.path).rglob("*") if path.is_file())
    return {
        "tables_x": sum(written.values()) / written["flush"],
        "stored_x": stored / task.workload.payload_bytes,
    }


STEPS = {step.__name__: step for step in (random_keys, sealed_log)}
