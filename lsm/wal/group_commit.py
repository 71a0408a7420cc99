"""Write walk, after `wal/log`, before `wal/upload`: when the buffer is sealed, and which threads share an object. Pure.

The first thread that waits for durability seals the buffer and uploads it. Threads that arrive during an upload form the next
group and share the next object. Without a waiter, a background thread seals the buffer once it is `flush_interval` old. The
appending thread seals it once it is full.
"""

from __future__ import annotations

from typing import Final

JOIN_SECONDS: Final = 0.002
"""A waiter starts a second object beside one under way only this long after the first one's start: most waiters arrive within
that time, and join."""
GATHER_SECONDS_MAX: Final = 0.001
GATHER_SHARE: Final = 0.5
"""How long a first waiter waits for the other members of the last group: at most this share of the last upload's time."""
ROOMY_BYTES: Final = 1 << 20
"""A batch up to this size fits wherever the buffer stands."""


class GroupCommit:
    """The threads that wait for durability, as groups that share an object.

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
        """`flush_interval`: None disables sealing by age."""
        self._interval = flush_interval
        self._awaited: list[int] = []
        """For each waiting thread the batch it waits for."""
        self._last_group = 0
        """Waiting threads at the end of the last upload."""
        self._last_start = 0.0
        self._gather_until = 0.0
        self.object_bytes = object_bytes
        """A buffer of this size is sealed by the appending thread."""
        self.buffered_since = 0.0
        """When the first batch of the buffer was added."""
        self.has_timer = False
        """One waiter sleeps with a timeout, for all of them."""

    def join(self, seq: int) -> None:
        """A thread begins to wait for batch `seq`."""
        self._awaited.append(seq)

    def leave(self, seq: int) -> None:
        """A thread ends to wait for batch `seq`."""
        self._awaited.remove(seq)

    def waiting(self, durable_seq: int) -> int:
        """Threads whose batch is newer than `durable_seq`."""
        return sum(seq > durable_seq for seq in self._awaited)

    def may_seal(self, now: float, durable_seq: int, *, is_uploading: bool) -> bool:
        """Whether a waiter seals the buffer now. False: other waiters are expected to join first."""
        if is_uploading and now - self._last_start < JOIN_SECONDS:
            return False
        return now >= self._gather_until or self.waiting(durable_seq) >= self._last_group

    def timer_seconds(self, now: float, *, is_uploading: bool) -> float:
        """How long the waiter with the timer sleeps before it looks again."""
        return JOIN_SECONDS if is_uploading else max(0.0, self._gather_until - now)

    def seconds_until_due(self, now: float) -> float | None:
        """How long the buffer may stay as it is without a waiter; None: for ever. At most 0: it is to be sealed."""
        return None if self._interval is None else self.buffered_since + self._interval - now

    def upload_started(self, now: float) -> None:
        self._last_start = now

    def upload_ended(self, now: float) -> None:
        """The members of the group are about to append again: the next first waiter waits for them, a moment."""
        self._last_group = len(self._awaited)
        self._gather_until = now + min(GATHER_SECONDS_MAX, GATHER_SHARE * (now - self._last_start))
