"""The scenarios, their default sizes, the rows they give and the project's goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Row:
    """One figure of a scenario, as the report shows it.

    `goals`: peer to the minimum ratio, inverted where less is better, so that more is always better.
    `limit`: maximum of our own figure, or minimum if more is better.
    """

    metric: str
    label: str
    unit: str
    more_is_better: bool = True
    goals: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None


@dataclass(frozen=True)
class Scenario:
    """Steps that run in sequence, each in its own process, on one directory per store and round.

    `prepare`: a step that runs once per store; all rounds share its directory.
    `scale`: the share of the records that a slow peer gets, to keep a round short; rates are per record anyway.
    """

    name: str
    workload: Workload
    steps: tuple[str, ...]
    rows: tuple[Row, ...]
    peers: tuple[str, ...]
    prepare: str | None = None
    scale: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def sized(self, store: str, records: int | None, kind: str | None) -> Workload:
        """The workload for one store; `records` and `kind` are what the command line asked for, if anything."""
        whole = records if records is not None else self.workload.records
        share = max(self.workload.batch, int(whole * self.scale.get(store, 1.0)))
        keys = min(self.workload.keys, share) if self.workload.keys != self.workload.records else share
        while keys > 1 and keys % 7919 == 0:
            keys -= 1
        return replace(self.workload, records=share, keys=keys, kind=kind or self.workload.kind)


_SLOW = {"slatedb": 0.08, "slatedb+": 0.25, "sqlite3": 0.25}
_APPEND_GOALS = {"slatedb": 25.0, "slatedb+": 7.0, "rocksdict": 0.8, "lmdb": 2.0, "sqlite3": 8.0}
_SCAN_GOALS = {"slatedb": 10.0, "lmdb": 0.8}
_SMALL_TABLES = {"l0_sst_size_bytes": 16 << 20}

SCENARIOS = (
    Scenario(
        name="ingest",
        workload=Workload(1_000_000),
        steps=("ingest",),
        peers=("slatedb", "slatedb+", "rocksdict", "lmdb", "sqlite3", "floor"),
        scale=_SLOW,
        rows=(
            Row("appended_per_s", "append, last append", "rec/s", goals=_APPEND_GOALS),
            Row("flushed_per_s", "append, to end of flush", "rec/s"),
            Row("settled_per_s", "append, settled and closed", "rec/s", goals=_APPEND_GOALS),
            Row("cpu_us", "CPU per record", "µs", more_is_better=False, limit=2.5),
        ),
    ),
    Scenario(
        name="compaction",
        workload=Workload(3_000_000),
        steps=("ingest",),
        peers=("uncompacted",),
        options={"engine": _SMALL_TABLES},
        rows=(Row("flushed_per_s", "append while compacting", "rec/s", goals={"uncompacted": 0.9}),),
    ),
    Scenario(
        name="merge",
        workload=Workload(600_000),
        steps=("merge",),
        peers=("floor",),
        rows=(
            Row("rows_interleaved_per_s", "merge on one core, rows between rows / sorted", "rec/s"),
            Row("series_interleaved_per_s", "the same, 1,000 series / sorted", "rec/s"),
            Row("rows_spliced_mb_per_s", "blocks taken over, rows / zstd", "MB/s"),
            Row("series_spliced_mb_per_s", "the same, series / zstd", "MB/s"),
        ),
    ),
    Scenario(
        name="leveled",
        workload=Workload(2_600_000),
        steps=("random_keys",),
        peers=("rocksdict",),
        rows=(Row("written_x", "random keys, written / put", "x", False, goals={"rocksdict": 0.33}),),
    ),
    Scenario(
        name="sealing",
        workload=Workload(1_500_000),
        steps=("sealed_log",),
        peers=(),
        options={"engine": _SMALL_TABLES, "seal_bytes": 64 << 20},
        rows=(
            Row("tables_x", "sealed log, tables written / flushed", "x", False, limit=2.0),
            Row("stored_x", "the same, stored in the end / appended", "x", False, limit=1.1),
        ),
    ),
    Scenario(
        name="ingest-1k",
        workload=Workload(200_000, value_bytes=1024),
        steps=("ingest",),
        peers=("rocksdict",),
        scale=_SLOW,
        rows=(
            Row("appended_per_s", "append 1 KiB, last append", "rec/s", goals={"rocksdict": 1.5}),
            Row("settled_per_s", "append 1 KiB, settled", "rec/s", goals={"rocksdict": 1.5}),
        ),
    ),
    Scenario(
        name="single",
        workload=Workload(200_000, batch=1),
        steps=("ingest",),
        peers=("sqlite3", "rocksdict"),
        scale=_SLOW,
        rows=(Row("flushed_per_s", "append, one record a call", "rec/s", goals={"sqlite3": 4.0}),),
    ),
    Scenario(
        name="durable",
        workload=Workload(300_000),
        steps=("durable",),
        peers=("rocksdict", "lmdb", "sqlite3"),
        scale=_SLOW,
        options={"flush_every": 1000},
        rows=(Row("durable_per_s", "durable, flush each 1,000", "rec/s", goals={"rocksdict": 0.5}),),
    ),
    Scenario(
        name="threads",
        workload=Workload(4_000, batch=1),
        steps=("threads",),
        peers=("sqlite3", "rocksdict"),
        options={"threads": 8},
        rows=(Row("threads_per_s", "durable, 8 threads, each record", "rec/s", goals={"sqlite3": 1.0}),),
    ),
    Scenario(
        name="scan-one",
        workload=Workload(100_000, keys=1),
        steps=("scan",),
        peers=("slatedb", "slatedb+", "lmdb", "plyvel"),
        prepare="load",
        rows=(Row("scan_per_s", "cold scan, one stream", "rec/s", goals={**_SCAN_GOALS, "plyvel": 1.0}),),
    ),
    Scenario(
        name="scan-many",
        workload=Workload(1_000_000),
        steps=("scan",),
        peers=("slatedb", "slatedb+", "lmdb"),
        prepare="load",
        scale={"slatedb": 0.4, "slatedb+": 0.4},
        rows=(Row("scan_per_s", "cold scan, 1,000 streams", "rec/s", goals=_SCAN_GOALS),),
    ),
    Scenario(
        name="scan-1k",
        workload=Workload(200_000, keys=100, value_bytes=1024),
        steps=("scan",),
        peers=("lmdb",),
        prepare="load",
        rows=(Row("scan_per_s", "cold scan, 1 KiB values", "rec/s", goals={"lmdb": 1.0}),),
    ),
    Scenario(
        name="rescan-one",
        workload=Workload(100_000, keys=1),
        steps=("rescan",),
        peers=("lmdb",),
        prepare="load",
        rows=(Row("rescan_per_s", "warm scan, one stream", "rec/s", goals={"lmdb": 1.0}),),
    ),
    Scenario(
        name="rescan-many",
        workload=Workload(1_000_000),
        steps=("rescan",),
        peers=("lmdb",),
        prepare="load",
        rows=(Row("rescan_per_s", "warm scan, 1,000 streams", "rec/s", goals={"lmdb": 1.0}),),
    ),
    Scenario(
        name="recovery",
        workload=Workload(100_000),
        steps=("crash", "recover"),
        peers=("rocksdict",),
        rows=(Row("recovery_ms", "open after kill -9, all in WAL", "ms", False, goals={"rocksdict": 1.0}),),
    ),
    Scenario(
        name="latency",
        workload=Workload(1_000_000),
        steps=("latency",),
        peers=(),
        options={"engine": _SMALL_TABLES},
        rows=(
            Row("p50_ms", "append call of 100, p50", "ms", False),
            Row("p99_ms", "append call of 100, p99", "ms", False, limit=1.0),
            Row("p999_ms", "append call of 100, p99.9", "ms", False),
        ),
    ),
    Scenario(
        name="latency-1",
        workload=Workload(500_000, batch=1),
        steps=("latency",),
        peers=(),
        options={"engine": _SMALL_TABLES},
        rows=(
            Row("p50_ms", "append call of 1, p50", "ms", False),
            Row("p99_ms", "append call of 1, p99", "ms", False, limit=1.0),
            Row("p999_ms", "append call of 1, p99.9", "ms", False),
        ),
    ),
    Scenario(
        name="poll",
        workload=Workload(100_000),
        steps=("poll",),
        peers=("slatedb+", "rocksdict", "lmdb", "sqlite3"),
        rows=(
            Row("poll_idle_us", "poll, nothing new, p50", "µs", False, goals={"sqlite3": 1.0}, limit=8.0),
            Row("poll_new_us", "poll, one new record, p50", "µs", False, limit=15.0),
        ),
    ),
    Scenario(
        name="poll-keys",
        workload=Workload(3_303_000),
        steps=("poll_of_many_keys",),
        peers=(),
        rows=(
            Row("flat_idle", "poll, 1 k .. 1 M keys: worst / best", "x", False, limit=1.5),
            Row("flat_new", "the same, one new record", "x", False, limit=1.5),
            Row("flat_idle_us", "poll of 1 M keys, nothing new, p50", "µs", False),
            Row("flat_new_us", "the same, one new record, p50", "µs", False),
        ),
    ),
    Scenario(
        name="poll-busy",
        workload=Workload(2_000_000),
        steps=("poll_beside_ingest",),
        peers=("lmdb", "rocksdict"),
        rows=(
            Row("poll_busy_p50_us", "poll beside full ingest, p50", "µs", False),
            Row("poll_busy_p99_us", "poll beside full ingest, p99", "µs", False, limit=1000.0),
            Row("poll_late_p99_us", "the same, from when it was due", "µs", False),
        ),
    ),
    Scenario(
        name="follow",
        workload=Workload(2_000, keys=1),
        steps=("follow",),
        peers=(),
        rows=(
            Row("wake_p50_us", "append to follower, p50", "µs", False),
            Row("wake_p99_us", "append to follower, p99", "µs", False, limit=5000.0),
        ),
    ),
    Scenario(
        name="aio",
        workload=Workload(1_800_000),
        steps=("tasks",),
        peers=(),
        rows=(
            Row("aio_of_loop", "100 tasks append / blocking loop", "x", limit=0.8),
            Row("aio_of_threads", "and 1,000 follow / threads", "x", limit=0.8),
            Row("aio_appended_per_s", "append, 100 tasks", "rec/s"),
            Row("aio_followed_per_s", "entries read by 1,000 followers meanwhile", "rec/s"),
            Row("aio_beat_p99_us", "1 ms heartbeat late, p99", "µs", False, limit=10_000.0),
            Row("aio_pass_p99_us", "CPU of the loop between beats, p99", "µs", False),
            Row("aio_idle_p99_us", "the same of an idle loop", "µs", False),
            Row("aio_beat_max_us", "1 ms heartbeat late, max", "µs", False),
        ),
    ),
    Scenario(
        name="count-short",
        workload=Workload(100_000),
        steps=("count",),
        peers=(),
        rows=(Row("count_us", "count of a stream of 100", "µs", False, limit=17.0),),
    ),
    Scenario(
        name="count-long",
        workload=Workload(100_000, keys=1),
        steps=("count",),
        peers=(),
        rows=(Row("count_us", "count of a stream of 100,000", "µs", False, limit=250.0),),
    ),
    Scenario(
        name="memory",
        workload=Workload(1_000_000),
        steps=("memory_ingest",),
        peers=(),
        rows=(
            Row("peak_mb", "peak memory over the ingest", "MB", False),
            Row("worker_peak_mb", "the same, largest worker", "MB", False),
        ),
    ),
    Scenario(
        name="memory-keys",
        workload=Workload(100_000, keys=100_000),
        steps=("memory_keys", "memory_reopened"),
        peers=(),
        rows=(
            Row("key_bytes", "memory per live key", "B", False),
            Row("reopened_key_bytes", "the same, reopened", "B", False),
        ),
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
# The slow binding of the same engine writes the same files: let the quick one load them.
LOADED_BY = {"slatedb": "slatedb+"}
