"""Write walk, after `write/writer`: the log's own time. Every batch moves it, and sometimes leaves a mark of it (rule S4)."""

from __future__ import annotations

import lsm
from opendata_log.model.keys import TIME_MARK_PREFIX, TimeMark, time_mark_key
from opendata_log.model.record import Sequence
from opendata_log.model.segment import SegmentTable
from opendata_log.model.time_track import TimeTrack, check_clock_ms


class LogClock:
    """The wall clock as the log believes it. Requires: the log's write lock around `take` and `start_ms`."""

    def __init__(self, db: lsm.Db, runtime: lsm.Runtime) -> None:
        self._db = db
        self._runtime = runtime
        # A clock that was handed in is the only time there is: somebody may be driving it by hand.
        self.is_driven = runtime.has_clock
        self._now_ms = self._checked_now_ms if self.is_driven else runtime.now_ms
        self.track = TimeTrack(TimeMark.decode(*row) for row in db.scan_prefix(TIME_MARK_PREFIX))
        """Replaced with every mark, never changed."""
        self._due_ms = self.track.due_ms
        self._latest_ms: int | None = None
        # A time that was right, and when that was by a clock that nobody sets.
        self._right_ms, self._right_at = 0, runtime.monotonic()

    def _checked_now_ms(self) -> int:
        return check_clock_ms(self._runtime.now_ms())

    def take(self, first: Sequence, segments: SegmentTable) -> int:
        """The wall clock before a batch that starts with `first`. Cost: once in some seconds, a mark: a row."""
        now_ms = self._now_ms()
        if self._latest_ms is None:
            self._latest_ms = self._right_ms = self.track.latest_ms(now_ms)
            self._right_at = self._runtime.monotonic()
        elif now_ms > self._latest_ms:
            self._latest_ms = now_ms
        if now_ms >= self._due_ms:
            self._mark(first, now_ms, segments)
        return now_ms

    def _mark(self, first: Sequence, now_ms: int, segments: SegmentTable) -> None:
        """Before a batch, in the order of the log: who sees the batch sees the mark."""
        oldest = segments.oldest
        marking = self.track.marking(first, now_ms, oldest=oldest.start_seq if oldest is not None else 0)
        batch = lsm.WriteBatch().put(time_mark_key(first), marking.mark.encode())
        for sequence in marking.dropped:
            batch.delete(time_mark_key(sequence))
        self._db.write_at_once(batch)
        self._right_ms, self._right_at = now_ms, self._runtime.monotonic()
        self.track = marking.track
        self._due_ms = marking.track.due_ms

    def start_ms(self) -> int:
        """When a segment starts that begins now. Requires: `take` before it."""
        # Retention counts from here for what was appended to the segment before: not earlier than that can have been.
        assert self._latest_ms is not None
        if self.is_driven:
            return self._latest_ms
        # The wall clock may have been set back since, and time went on.
        return max(self._latest_ms, self._right_ms + int(1000 * (self._runtime.monotonic() - self._right_at)))

    @property
    def appended_before_ms(self) -> int:
        """Everything there is was appended at this time or before, by the log's own time."""
        return self._latest_ms if self._latest_ms is not None else self._due_ms
