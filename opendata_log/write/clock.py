"""Write walk, after `write/writer`: the log's own time. Every batch advances it; some batches store a time mark (rule S4)."""

from __future__ import annotations

import lsm
from opendata_log.model.keys import TIME_MARK_PREFIX, TimeMark, time_mark_key
from opendata_log.model.record import Sequence
from opendata_log.model.segment import SegmentTable
from opendata_log.model.time_track import TimeTrack, check_clock_ms


class LogClock:
    """The wall clock as far as the log trusts it. Requires: the log's write lock around `take` and `start_ms`."""

    def __init__(self, db: lsm.Db, runtime: lsm.Runtime) -> None:
        self._db = db
        self._runtime = runtime
        # The caller may drive its own clock by hand, so then no other clock is used.
        self.is_driven = runtime.has_clock
        self._now_ms = self._checked_now_ms if self.is_driven else runtime.now_ms
        self.track = TimeTrack(TimeMark.decode(*row) for row in db.scan_prefix(TIME_MARK_PREFIX))
        """A value that every new mark replaces."""
        self._due_ms = self.track.due_ms
        self._latest_ms: int | None = None
        # The last trusted wall time, and the monotonic time at which it was taken.
        self._right_ms, self._right_at = 0, runtime.monotonic()

    def _checked_now_ms(self) -> int:
        return check_clock_ms(self._runtime.now_ms())

    def take(self, first: Sequence, segments: SegmentTable) -> int:
        """The wall time before a batch that starts with `first`. Cost: every few seconds, a row for a time mark."""
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
        """Write a time mark before a batch, in the order of the log, so that a read that sees the batch sees the mark."""
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
        """The start time of a segment that begins now. Requires: `take` was called before."""
        # Retention of the previous segment counts from this time, so it must not be before any append to that segment.
        assert self._latest_ms is not None
        if self.is_driven:
            return self._latest_ms
        # The wall clock may have been set back since, so add the monotonic time that passed.
        return max(self._latest_ms, self._right_ms + int(1000 * (self._runtime.monotonic() - self._right_at)))

    @property
    def appended_before_ms(self) -> int:
        """Every existing entry was appended at this time or before, by the log's own time."""
        return self._latest_ms if self._latest_ms is not None else self._due_ms
