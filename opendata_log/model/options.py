"""Options of scans and counts, and timeouts of calls."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import lsm
from opendata_log.model.config_fields import check_flag, check_integer
from opendata_log.model.errors import InvalidInputError

READ_AHEAD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """Options of a scan. Raises: InvalidInputError where a value is invalid.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://") as log:
    ...     _ = log.try_append([(b"orders", b"created"), (b"orders", b"paid")])
    ...     [entry.value for entry in log.scan(b"orders", options=ScanOptions(limit=1))]
    [b'created']
    """

    limit: int | None = None
    """Maximum entries per scan. `None`: unlimited."""
    read_ahead_bytes: int = READ_AHEAD_BYTES
    """Maximum bytes that a scan requests ahead of the current entry."""
    cache_blocks: bool = True
    """Keep the blocks that the scan reads in the block cache. Set it to False for a large scan that is not repeated."""

    def __post_init__(self) -> None:
        check_integer(self, "limit", low=0, optional=True)
        check_integer(self, "read_ahead_bytes", low=0)
        check_flag(self, "cache_blocks")


@dataclass(frozen=True, kw_only=True, slots=True)
class CountOptions:
    """Options of a count. Raises: InvalidInputError where a value is invalid."""

    approximate: bool = False
    """Read indexes only, not the blocks in which the range starts and ends.

    For a key with blocks of its own, the error is at most the rows of one block per table. For a key that shares
    blocks, the average of such keys of the table is returned, because the index holds no more about them: the result is within
    a factor of two where those keys are about equally large."""

    def __post_init__(self) -> None:
        check_flag(self, "approximate")


def timeout_seconds(value: float | timedelta | None, name: str = "timeout") -> float | None:
    """A timeout in seconds; None: no limit. Raises: InvalidInputError."""
    try:
        return lsm.timeout_seconds(value, name)
    except lsm.InvalidError:
        raise InvalidInputError(f"{name} must be None or at least 0 seconds, got {lsm.shown(value)}") from None
