"""Write walk, after `write/writer`: which sequences are durable, told from which of the engine's batches are."""

from __future__ import annotations

from bisect import bisect_right

import lsm
from opendata_log.model.record import Sequence

MARKS_MAX = 8192
"""Batches remembered before the durable ones among them are forgotten."""


class DurableSequence:
    """The durable watermark. Never waits for a request, and not for an append that waits for sequences."""

    def __init__(self, db: lsm.Db, runtime: lsm.Runtime, durable: Sequence) -> None:
        self._db = db
        self._durable = durable
        # Which sequences became durable with which batch of the engine: parallel and ascending. Added to under the log's
        # write lock, taken from the front under this one.
        self._lock = runtime.lock()
        self._batches: list[int] = []
        self._ends: list[Sequence] = []

    def add(self, end: Sequence, batch: int) -> None:
        """The engine's batch of that number holds the sequences below `end`. Requires: the log's write lock."""
        # The ends first: a thread that finds a batch in the other column finds its end.
        self._ends.append(end)
        self._batches.append(batch)
        if len(self._batches) > MARKS_MAX:
            self.advance()

    def advance(self) -> Sequence:
        """The watermark: every record below is durable."""
        if self._lock.is_held_here():
            return self._durable  # From a signal handler: what was durable a moment ago.
        with self._lock:
            known = bisect_right(self._batches, self._db.durable_seq)
            if known:
                self._durable = self._ends[known - 1]
                del self._batches[:known], self._ends[:known]
            return self._durable
