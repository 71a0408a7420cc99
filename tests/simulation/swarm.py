"""From a seed to a deployment: which settings, how many processes, which faults. Half of the faults are off in each."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import lsm
from lsm.testing.simulated_bucket import ALL_FAULTS, Faults
from lsm.testing.stores import Fault
from opendata_log import Config, LogCompactionOptions, ReaderConfig, ReadVisibility, RetentionConfig, SegmentConfig

OP_TIMEOUT = 5.0
"""Of most seeds."""
SHORT_OP_TIMEOUTS = (1.2, 2.0)
"""Of seeds with a quick store: there calls do fail at their deadlines, and what fails must not count as done."""


@dataclass(kw_only=True)
class Swarm:
    """One seed's choices."""

    seed: int
    writers: int
    readers: int
    compactors: int
    collectors: int
    keepers: int
    """Those who make and drop checkpoints, and as many who read them."""
    cloners: int
    followers: int
    clients: int
    keys: int
    records_max: int
    value_bytes: int
    takeover_seconds: float
    is_near: bool
    cores: int
    points_per_switch: float
    leap_probability: float
    kill_probability: float
    """Of a pause between two events to end with a process killed at an arbitrary scheduling point."""
    pause_probability: float
    pause_seconds: float
    clock_jumps: bool
    remote: bool
    sequence_block: int
    """Sequences reserved at a time."""
    segment_bytes: int | None
    segment_seconds: float | None
    l0_only: bool
    reader_interval: float
    compactor_interval: float
    retention: float | None
    """Needs `segment_seconds`."""
    handles_errors: bool = False
    """Calls are made where the caller is handling an error of its own."""
    faults: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> lsm.Settings:
        return lsm.Settings(**self.engine)

    def make_faults(self) -> Faults:
        return Faults(**self.faults)

    def log_config(self) -> Config:
        return Config(
            storage="memory://",
            engine=self.settings(),
            segmentation=SegmentConfig(seal_interval=self.segment_seconds, seal_byte_limit=self.segment_bytes),
            retention=RetentionConfig(retention=self.retention, check_interval=0.3),
            read_visibility=ReadVisibility.REMOTE if self.remote else ReadVisibility.MEMORY,
            compaction=LogCompactionOptions(min_l0_per_compaction=2, max_l0_per_compaction=3, l0_only=self.l0_only),
        )

    def reader_config(self, checkpoint: str | None = None) -> ReaderConfig:
        interval = self.reader_interval
        return ReaderConfig(
            storage="memory://", engine=self.settings(), refresh_interval=interval, checkpoint=checkpoint
        )


def swarm(seed: int) -> Swarm:
    """The choices of a seed."""
    chance = random.Random(f"swarm {seed}")

    def maybe(value: Any, otherwise: Any = 0.0) -> Any:
        return value if chance.random() < 0.5 else otherwise

    segment_seconds, retention = chance.choice(((None, None), (None, None), (0.5, None), (0.5, 0.5), (0.5, 3.0)))
    compactors = chance.choice((0, 0, 0, 1, 2))
    kinds = tuple(fault for fault in ALL_FAULTS if chance.random() < 0.5) or (Fault.REPLY_LOST,)
    chosen = Swarm(
        seed=seed,
        writers=chance.choice((1, 2, 2, 3)),
        readers=chance.choice((0, 1, 1, 2)),
        compactors=compactors,
        collectors=chance.choice((0, 0, 1, 2)),
        keepers=chance.choice((0, 0, 1, 2)),
        cloners=chance.choice((0, 0, 1, 2)),
        followers=chance.choice((0, 0, 1, 2)),
        clients=chance.choice((1, 1, 2, 3)),
        keys=chance.choice((1, 2, 4)),
        records_max=chance.choice((1, 3, 6)),
        value_bytes=chance.choice((8, 24, 60)),
        takeover_seconds=chance.choice((0.2, 1.0, 4.0)),
        is_near=chance.random() < 0.3,
        cores=chance.choice((1, 2, 4)),
        points_per_switch=chance.choice((1.0, 3.0, 8.0, 20.0)),
        leap_probability=maybe(chance.choice((0.01, 0.05))),
        kill_probability=maybe(chance.choice((0.1, 0.4))),
        pause_probability=maybe(0.2),
        pause_seconds=chance.choice((1.0, 10.0, 60.0)),
        clock_jumps=maybe(True, False),
        remote=maybe(True, False),
        segment_bytes=chance.choice((None, 100, 400)),
        segment_seconds=segment_seconds,
        retention=retention,
        l0_only=chance.random() < 0.2,
        reader_interval=chance.choice((0.2, 2.0, 1e6)),
        compactor_interval=chance.choice((0.05, 0.5)),
        faults={
            "probability": maybe(chance.choice((0.05, 0.15, 0.35))),
            "kinds": kinds,
            "late_seconds": chance.choice((1.0, 10.0, 60.0)),
            "latency": chance.choice((0.002, 0.02, 0.1)),
            "slow_probability": maybe(0.05),
            "burst_probability": maybe(0.005),
            "burst_seconds": chance.choice((0.5, 3.0, 12.0)),
            "crash_probability": maybe(chance.choice((0.002, 0.01))),
        },
        engine=_engine(chance, compaction_probability=0.5 if compactors else 0.9),
        # The last choice: those above stay what they were for a seed.
        sequence_block=chance.choice((4, 16, 1 << 20)),
    )
    if chosen.faults["latency"] < 0.1 and chance.random() < 0.6:
        chosen.engine["op_timeout"] = chance.choice(SHORT_OP_TIMEOUTS)
    chosen.faults["pair_probability"] = maybe(0.5)
    chosen.handles_errors = maybe(True, False)
    return chosen


def _engine(chance: random.Random, *, compaction_probability: float) -> dict[str, Any]:
    l0_bytes = chance.choice((200, 600, 2000))
    return {
        "flush_interval": chance.choice((None, 0.02, 0.1)),
        "wal_enabled": chance.random() < 0.9,
        "wal_object_bytes": chance.choice((60, 400, 1 << 20)),
        "wal_uploads_max": chance.choice((1, 2, 4)),
        "max_wal_objects_before_l0_flush": chance.choice((2, 8, 512)),
        "l0_sst_size_bytes": l0_bytes,
        "max_unflushed_bytes": l0_bytes * chance.choice((2, 6)),
        "block_cache_bytes": chance.choice((0, 400, 1 << 20)),
        "sst_block_size": chance.choice((64, 128)),
        "max_sst_size": chance.choice((256, 600)),
        "compression": chance.choice(("zstd", None)),
        "min_filter_keys": chance.choice((1, 4)),
        "l0_max_ssts": chance.choice((3, 6)),
        "l0_flush_parallelism": chance.choice((1, 2, 3)),
        "compaction_enabled": chance.random() < compaction_probability,
        "compaction_workers": chance.choice((1, 2)),
        "compaction_placement": "thread",
        "flush_placement": "thread",
        "l0_compaction_min": 2,
        "l0_compaction_max": chance.choice((2, 4)),
        "level_size_ratio": 2,
        "level_base_bytes": 500,
        "op_timeout": OP_TIMEOUT,
        "request_timeout": 1.0,
        "gc_interval": chance.choice((None, 0.3, 2.0)),
        "gc_min_age": chance.choice((0.0, 0.0, 1.0)),
    }
