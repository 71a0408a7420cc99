"""Write walk, beside `wal/log`: when the buffer is sealed, and which waiters share an object. Pure.

The first thread that waits for durability seals the buffer and uploads it. Threads that arrive during an upload form the next
group and share the next object. Without a waiter, a background thread seals the buffer when it is `flush_interval` old. The
appending thread seals a full buffer.
"""

from __future__ import annotations

from typing import Final

JOIN_SECONDS: Final = 0.002
"""Minimum seconds from the start of one upload to the start of a second beside it. Most waiters arrive within that time and
join the second."""
GATHER_SECONDS_MAX: Final = 0.001
GATHER_SHARE: Final = 0.5
"""A group's first waiter waits at most this share of the last upload's time for the threads of the last group."""
ROOMY_BYTES: Final = 1 << 20
"""Batches up to this size skip the check for room: every store's limit leaves this much."""


class GroupCommit:
    """The threads that wait for durability, in groups that share an object.

    Guarded by the write lock: every call requires it. Times are in seconds of one monotonic clock.
    """

    __slots__ = (
        "_awaited",
        "_gather_until",
        "_interval",
        "_last_group",
        "_last_start",
        "buffered_since",
        "has_timer",
        "object_bytes",
    )

    def __init__(self, flush_interval: float | None, object_bytes: int) -> None:
        """`flush_interval`: in seconds; `None` disables sealing by age."""
        self._interval = flush_interval
        self._awaited: list[int] = []
        """The batch that each waiting thread waits for."""
        self._last_group = 0
        """Number of waiting threads at the end of the last upload."""
        self._last_start = 0.0
        self._gather_until = 0.0
        self.object_bytes = object_bytes
        """Size at which the appending thread seals the buffer."""
        self.buffered_since = 0.0
        """Time at which the first batch of the buffer was added."""
        self.has_timer = False
        """Whether one waiter sleeps with a timeout, on behalf of all."""

    def join(self, seq: int) -> None:
        """Record that a thread begins to wait for batch `seq`."""
        self._awaited.append(seq)

    def leave(self, seq: int) -> None:
        """Record that a thread no longer waits for batch `seq`."""
        self._awaited.remove(seq)

    def waiting(self, durable_seq: int) -> int:
        """Count the threads that wait for a batch newer than `durable_seq`."""
        return sum(seq > durable_seq for seq in self._awaited)

    def may_seal(self, now: float, durable_seq: int, *, is_uploading: bool) -> bool:
        """Whether a waiter may seal the buffer now. False: other waiters are expected to join first."""
        if is_uploading and now - self._last_start < JOIN_SECONDS:
            return False
        return now >= self._gather_until or self.waiting(durable_seq) >= self._last_group

    def timer_seconds(self, now: float, *, is_uploading: bool) -> float:
        """Return the seconds that the waiter with the timer sleeps before it checks again."""
        return JOIN_SECONDS if is_uploading else max(0.0, self._gather_until - now)

    def seconds_until_due(self, now: float) -> float | None:
        """Return the seconds until the buffer is sealed by age. 0 or less: now. `None`: sealing by age is disabled."""
        return None if self._interval is None else self.buffered_since + self._interval - now

    def upload_started(self, now: float) -> None:
        self._last_start = now

    def upload_ended(self, now: float) -> None:
        """Let the next first waiter wait a moment for the members of this group, which are about to append again."""
        self._last_group = len(self._awaited)
        self._gather_until = now + min(GATHER_SECONDS_MAX, GATHER_SHARE * (now - self._last_start))
