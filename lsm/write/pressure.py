"""Back-pressure: how long a write is delayed, more and more as level 0 and memory fill up. Pure.

Source: RocksDB's delayed writes. RocksDB multiplies its rate by 0.8 or 1.25 as the backlog grows or shrinks. Here the delay
follows from the fill levels alone, so no state can be wrong.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SECONDS_PER_MIB_MAX: Final = 1.0
"""Maximum delay per MiB, reached at the limit, where writers have to wait anyway."""
SLOW_FROM: Final = 0.5
"""Share of a limit above which writers are slowed."""
DELAY_MAX: Final = 1.0
"""Maximum delay per batch, in seconds."""
DELAY_MIN: Final = 0.002
"""Minimum sleep, in seconds. Shorter delays add up until they reach it."""


class Pressure(NamedTuple):
    """The delay of a write by its size, and the reason; `None`: writes are not delayed."""

    seconds_per_mib: float
    reason: str | None


NONE: Final = Pressure(0.0, None)


def pressure(*, l0: int, l0_max: int | None, unflushed: int, unflushed_max: int) -> Pressure:
    """Return the delay. `l0`: tables in the fullest level 0. `l0_max`: `None` is unlimited (no process compacts)."""
    level0 = _excess(l0, l0_max) if l0_max else 0.0
    memory = _excess(unflushed, unflushed_max)
    if not (level0 or memory):
        return NONE
    if level0 >= memory:
        reason = f"level 0 has {l0} tables, and flushes wait at {l0_max}: compaction is behind"
    else:
        reason = f"{unflushed} of {unflushed_max} bytes are not flushed yet"
    return Pressure(SECONDS_PER_MIB_MAX * max(level0, memory) ** 2, reason)


def _excess(level: float, limit: float) -> float:
    """Return 0 up to SLOW_FROM of the limit, 1 from the limit on, and proportionally in between."""
    return min(1.0, max(0.0, (level / limit - SLOW_FROM) / (1 - SLOW_FROM)))


def delay_of(size: int, found: Pressure) -> float:
    return min(DELAY_MAX, size / (1 << 20) * found.seconds_per_mib)


class Debt:
    """Sum of delays that were too short to sleep. Unlocked: racing threads may lose a little delay, which does no harm."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = 0.0

    def due(self, size: int, found: Pressure) -> float:
        """Return the seconds to sleep for a batch of `size` bytes and for earlier unslept delays. 0.0: no sleep yet."""
        self._seconds += delay_of(size, found)
        if self._seconds < DELAY_MIN:
            return 0.0
        due, self._seconds = self._seconds, 0.0
        return due
