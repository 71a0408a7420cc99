"""What tests of retention share: logs whose clock a test turns."""

from __future__ import annotations

from typing import Any

from opendata_log import (
    Config,
    LogDb,
    LogDbBuilder,
    RetentionConfig,
    SegmentConfig,
)
from tests.opendata_log.support import ManualClock, tiny

HOUR = 3600.0
DAY = 24 * HOUR


def config(storage: str, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "storage": storage,
        "segmentation": SegmentConfig(seal_interval=HOUR),
        # The thread's own looks are far apart: tests make them.
        "retention": RetentionConfig(retention=2 * HOUR, check_interval=DAY),
        "engine": tiny(),
    }
    return Config(**{**values, **changes})


def opened(clock: ManualClock, storage: str = "memory://", **changes: Any) -> LogDb:
    return LogDbBuilder(config(storage, **changes)).with_clock(clock).build()


def tick(log: LogDb, times: int = 2) -> None:
    assert log._retention is not None
    for _ in range(times):
        log._retention.tick()


def fill(log: LogDb, clock: ManualClock, hours: int) -> None:
    """A segment an hour, with one record each."""
    for hour in range(hours):
        log.try_append([(b"a", b"%d" % hour), (b"only-%d" % hour, b"")])
        clock.advance(HOUR)
