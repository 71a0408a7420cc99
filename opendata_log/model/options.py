"""What a call takes beside keys and ranges: options of scans and counts, timeouts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import lsm
from opendata_log.model.errors import InvalidInputError
from opendata_log.model.fields import check_flag, check_integer

READ_AHEAD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How a scan reads."""

    limit: int | None = None
    """Entries to yield at most. None: all."""
    read_ahead_bytes: int = READ_AHEAD_BYTES
    """Bytes fetched ahead of what was asked for."""
    cache_blocks: bool = True
    """Keep what was read in the block cache. Off for a large scan that nobody repeats."""

    def __post_init__(self) -> None:
        check_integer(self, "limit", low=0, optional=True)
        check_integer(self, "read_ahead_bytes", low=0)
        check_flag(self, "cache_blocks")


@dataclass(frozen=True, kw_only=True, slots=True)
class CountOptions:
    """How a count is made."""

    approximate: bool = False
    """Read indexes only, not the blocks in which the range starts and ends. Off by at most the rows of one block per table for
    a key that has blocks of its own. A key that shares its block counts as the average of those that share blocks in the table:
    within a factor of two where they are about equally large, which is all that an index knows of them."""

    def __post_init__(self) -> None:
        check_flag(self, "approximate")


def timeout_seconds(value: float | timedelta | None, name: str = "timeout") -> float | None:
    """How long to wait, None for as long as it takes. Raises: InvalidInputError."""
    try:
        return lsm.timeout_seconds(value, name)
    except lsm.InvalidError:
        raise InvalidInputError(f"{name} must be None or at least 0 seconds, got {lsm.shown(value)}") from None
