"""Write walk, after `write/writer`: which sequences are durable, derived from the durable batches of the engine."""

from __future__ import annotations

from bisect import bisect_right

import lsm
from opendata_log.model.record import Sequence

MARKS_MAX = 8192
"""Maximum batches kept before the durable ones are removed."""


class DurableSequence:
    """The durable watermark. Reading it never blocks behind a request or a waiting append."""

    def __init__(self, db: lsm.Db, runtime: lsm.Runtime, durable: Sequence) -> None:
        self._db = db
        self._durable = durable
        # Two parallel ascending columns: a batch of the engine, and the end of its sequences. Items are added under the log's
        # write lock, and removed from the front under this lock.
        self._lock = runtime.lock()
        self._batches: list[int] = []
        self._ends: list[Sequence] = []

    def add(self, end: Sequence, batch: int) -> None:
        """The sequences below `end` are in the engine's batch of that number, or earlier. Requires: the log's write lock."""
        # The end first, so that a thread that finds the batch also finds its end.
        self._ends.append(end)
        self._batches.append(batch)
        if len(self._batches) > MARKS_MAX:
            self.advance()

    def advance(self) -> Sequence:
        """The watermark, brought up to date: every record below it is durable."""
        if self._lock.is_held_here():
            return self._durable  # In a signal handler: the last known watermark.
        with self._lock:
            known = bisect_right(self._batches, self._db.durable_seq)
            if known:
                self._durable = self._ends[known - 1]
                del self._batches[:known], self._ends[:known]
            return self._durable
