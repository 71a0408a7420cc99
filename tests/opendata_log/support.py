"""What the log's tests share: tiny settings, a clock one can set, and a way to read everything."""

from __future__ import annotations

from typing import Any

import lsm
from opendata_log import LogDb


def tiny(**changes: Any) -> lsm.Settings:
    """Settings under which some dozen records go through every stage, and nothing happens unless it is asked for."""
    values: dict[str, Any] = {
        "flush_interval": None,
        "l0_sst_size_bytes": 2048,
        "sst_block_size": 96,
        "max_sst_size": 1024,
        "l0_compaction_min": 2,
        "l0_compaction_max": 3,
        "level_base_bytes": 2048,
        "min_filter_keys": 4,
        "gc_interval": None,
        "gc_min_age": 0.0,
        "compaction_placement": "thread",
        "flush_placement": "thread",
        "op_timeout": 10.0,
    }
    return lsm.Settings(**{**values, **changes})


class ManualClock:
    """A wall clock that stands still until it is moved."""

    def __init__(self, ms: int = 1_000_000) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


def values(log: LogDb, key: Any, *arguments: Any, **options: Any) -> list[bytes]:
    return [entry.value for entry in log.scan(key, *arguments, **options)]


def names(log: LogDb, *arguments: Any) -> list[bytes]:
    return [found.key for found in log.list_keys(*arguments)]
