"""The figures of a phase: plain values, ready for the table and for JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Measure:
    """One line of the result. Latencies are seconds per call; `bytes` counts keys and values.

    `note` is shown in the line instead of figures.
    """

    name: str
    what: str
    seconds: float = 0.0
    count: int = 0
    bytes: int = 0
    calls: list[float] = field(default_factory=list, repr=False)
    verified: bool = False
    note: str = ""
    requests: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of the block to `seconds`, and as one call to `calls`."""
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        self.calls.append(elapsed)

    @property
    def per_second(self) -> float | None:
        return self.count / self.seconds if self.count and self.seconds else None

    @property
    def bytes_per_second(self) -> float | None:
        return self.bytes / self.seconds if self.bytes and self.seconds else None

    def latency(self, share: float) -> float | None:
        """The latency that `share` of the calls do not exceed; None for fewer than two calls."""
        return percentile(sorted(self.calls), share) if len(self.calls) > 1 else None

    def as_dict(self) -> dict[str, object]:
        """The figures by name, for JSON, without the single calls."""
        return {
            "name": self.name,
            "what": self.what,
            "note": self.note,
            "seconds": self.seconds,
            "count": self.count,
            "bytes": self.bytes,
            "per_second": self.per_second,
            "bytes_per_second": self.bytes_per_second,
            "calls": len(self.calls),
            "p50_seconds": self.latency(0.50),
            "p99_seconds": self.latency(0.99),
            "max_seconds": max(self.calls, default=None),
            "verified": self.verified,
            "requests": self.requests,
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values in ascending order. Requires: at least one value."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
