"""How much a writer slows down before it has to stop: a delay that grows as level 0 and memory fill up. Pure.

Source: RocksDB's delayed writes. There the rate is stepped up and down by 0.8 and 1.25 as the backlog moves; here it follows
from the levels alone, so there is no state that could be wrong.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SECONDS_PER_MIB_MAX: Final = 1.0
"""At the limit, where writers have to wait anyway."""
SLOW_FROM: Final = 0.5
"""The share of a limit from which on writers are slowed."""
DELAY_MAX: Final = 1.0
"""No batch waits longer for its size."""
DELAY_MIN: Final = 0.002
"""Shorter delays add up until it is worth sleeping."""


class Pressure(NamedTuple):
    """What a write costs in time, by its size, and why; None: nothing."""

    seconds_per_mib: float
    reason: str | None


NONE: Final = Pressure(0.0, None)


def pressure(*, l0: int, l0_max: int | None, unflushed: int, unflushed_max: int) -> Pressure:
    """The delay at these levels. `l0`: tables in the fullest level 0; `l0_max`: None where nobody relieves it."""
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
    """How far between SLOW_FROM of its limit and the limit a level is, from 0 to 1."""
    return min(1.0, max(0.0, (level / limit - SLOW_FROM) / (1 - SLOW_FROM)))


def delay_of(size: int, found: Pressure) -> float:
    return min(DELAY_MAX, size / (1 << 20) * found.seconds_per_mib)


class Debt:
    """Delays that were too short to sleep. Threads that race here owe a little less: it is a brake, not an account."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds = 0.0

    def due(self, size: int, found: Pressure) -> float:
        """How long to sleep for a batch of `size` bytes, and for those before it that did not sleep; 0.0: not now."""
        self._seconds += delay_of(size, found)
        if self._seconds < DELAY_MIN:
            return 0.0
        due, self._seconds = self._seconds, 0.0
        return due
