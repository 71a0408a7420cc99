"""Retires expired segments, using a clock that never jumps forward.

A tick retires whole segments, oldest first. It deletes their metadata, which hides them from every read at once. When the
deletion is durable, the compaction drops their tables (docs/protocol.md, rules S5 and S6).

Source: tick_retention of OpenData Log's writer.rs. Different on purpose: there, a wall clock that jumps forward expires
every segment at the next tick. Here, retention's time passes no faster than the monotonic clock since the log was opened, and
starts at the store's time where that is earlier. There, a segment that began while the clock was ahead stays until its start
time has passed; here, it expires when it has been seen for the retention's time.
"""

from __future__ import annotations

from collections.abc import Iterable

import lsm
from lsm import events
from opendata_log.model.config import RetentionConfig, SegmentConfig
from opendata_log.model.record import Segment, SegmentId, Sequence
from opendata_log.model.segment import SegmentTable, expired, is_last_expired
from opendata_log.model.time_track import MARK_EVERY_MS
from opendata_log.write.writer import LogWriter

JUMP_SECONDS = 30.0
"""Minimum jump of the wall clock that is reported, in seconds; smaller corrections are common."""


class ElapsedTime:
    """Wall-clock time that may stand still or go back, and never jumps forward.

    It starts at `start_ms` and grows no faster than the monotonic clock. A wall clock that is set back is trusted at once,
    because that only keeps segments longer. `monotonic` None: the caller's own clock, perhaps driven by hand, is the only one;
    then a time counts once the next tick reads the same time or a later one.
    """

    def __init__(self, start_ms: int, monotonic: float | None) -> None:
        self._start_ms = start_ms
        self._start = monotonic
        self._last_ms: int | None = None

    def now_ms(self, wall_ms: int, monotonic: float) -> int | None:
        """The trusted time in milliseconds; None at the first tick with a caller's clock."""
        if self._start is not None:
            return min(wall_ms, self._start_ms + int(1000 * (monotonic - self._start)))
        last, self._last_ms = self._last_ms, wall_ms
        return None if last is None else min(last, wall_ms)


class StartsAhead:
    """Segments with a start time in the future: the clock was ahead when they began, and no later segment has an earlier start
    time (rule S3). By their start times alone, they would stay for as long as the clock was ahead."""

    def __init__(self) -> None:
        self._since_ms: dict[SegmentId, int] = {}

    def known_ms(
        self, segments: Iterable[Segment], *, now_ms: int, elapsed_ms: int, latest_ms: int
    ) -> dict[SegmentId, int]:
        """How long every tick has found the segment's start in the future: milliseconds per segment.

        The current time of the measuring clock is between `elapsed_ms` and `latest_ms`. Where possible, that clock is one that
        jumps of the wall clock do not move; where it is set back, the count starts there anew.
        """
        ahead = [segment.id for segment in segments if segment.start_time_ms > now_ms]
        self._since_ms = {each: min(self._since_ms.get(each, latest_ms), latest_ms) for each in ahead}
        return {each: elapsed_ms - since for each, since in self._since_ms.items()}


class Retention:
    """A thread that checks for expired segments every `check_interval` seconds. Requires: `config.retention` is set."""

    def __init__(
        self,
        db: lsm.Db,
        runtime: lsm.Runtime,
        writer: LogWriter,
        config: RetentionConfig,
        segmentation: SegmentConfig,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._writer = writer
        self._config = config
        self._seal_interval_ms = segmentation.seal_interval_ms
        self._quiet: tuple[Sequence, int] = -1, 0
        """The log's next sequence, and the time, by retention's clock, since which every tick has found it unchanged."""
        self._must_flush = False
        self._url = db.url
        self._clock_difference = runtime.now_ms() / 1000 - runtime.monotonic()
        self._ticks = runtime.condition()
        self._is_closing = False
        self._time = self._started()
        self._ahead = StartsAhead()
        self._task = runtime.spawn("log-retention", self._run)

    def _started(self) -> ElapsedTime:
        if self._runtime.has_clock:
            return ElapsedTime(0, None)
        wall_ms, store_ms = self._runtime.now_ms(), self._db.store_time_ms()
        return ElapsedTime(wall_ms if store_ms is None else min(wall_ms, store_ms), self._runtime.monotonic())

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self.tick()
                    self._db.job_succeeded("retention")
                except (lsm.UnavailableError, lsm.InvalidError, lsm.ReentrantError, MemoryError) as error:
                    # The store fails, or the caller's clock gives no valid time: nothing is retired until a tick succeeds.
                    self._db.job_failed("retention", error)
        except lsm.Error:
            return  # The handle is closed, fenced or failed; every later call raises that.
        except BaseException as error:
            failure = lsm.InternalError(f"the retention thread failed: {error!r}")
            failure.__cause__ = error
            self._db.fail(failure)

    def _wait(self) -> bool:
        with self._ticks:
            if not self._is_closing:
                self._ticks.wait(self._config.check_interval)
            return not self._is_closing

    def tick(self) -> None:
        """Retire the expired segments. Raises: lsm.Error; then the next tick continues from there.

        Cost: no request where none is expired. Else one durable batch, and a flush, so that no record of a retired segment
        stays in the log's objects.
        """
        wall_ms, monotonic = self._runtime.now_ms(), self._runtime.monotonic()
        self._look_for_jump(wall_ms, monotonic)
        now_ms = self._time.now_ms(wall_ms, monotonic)
        if now_ms is None:
            return
        appended, segments = self._writer.next_sequence, self._writer.segments.table
        elapsed = (now_ms, wall_ms) if self._runtime.has_clock else 2 * (int(1000 * monotonic),)
        known_ms = self._ahead.known_ms(segments, now_ms=now_ms, elapsed_ms=elapsed[0], latest_ms=elapsed[1])
        due = expired(segments, now_ms=now_ms, retention=self._config, known_ms=known_ms)
        if self._is_all_due(segments, len(due), appended, now_ms, elapsed):
            due = [segment.id for segment in segments]
        if due:
            self._writer.retire(due[-1], appended=appended)
            events.tell(events.SEGMENTS_RETIRED, url=self._url, count=len(due), segment=due[-1])
        if self._writer.segments.announce_retired():
            self._must_flush = True
            self._db.wake_compactor()
        if self._must_flush:
            self._db.flush_tables()
            self._must_flush = False

    def _is_all_due(
        self, segments: SegmentTable, due: int, appended: Sequence, now_ms: int, elapsed: tuple[int, int]
    ) -> bool:
        """Whether every segment is expired, the last one included. `due`: how many are, without the last one."""
        seen, since_ms = self._quiet
        self._quiet = appended, min(since_ms, elapsed[1]) if seen == appended else elapsed[1]
        latest, retention_ms = segments.latest, self._config.retention_ms
        if latest is None or due < len(segments) - 1 or retention_ms is None or self._seal_interval_ms is None:
            return False
        appended_before_ms = self._writer.clock.appended_before_ms
        was_ahead = latest.start_time_ms > now_ms or appended_before_ms > now_ms + MARK_EVERY_MS
        return is_last_expired(
            latest,
            now_ms=now_ms,
            appended_before_ms=appended_before_ms,
            quiet_ms=elapsed[0] - self._quiet[1] if was_ahead else None,
            seal_interval_ms=self._seal_interval_ms,
            retention_ms=retention_ms,
        )

    def _look_for_jump(self, wall_ms: int, monotonic: float) -> None:
        """Report a jump of the wall clock. A caller's clock may stand still or run at any speed, so it is not checked."""
        difference = wall_ms / 1000 - monotonic
        jump, self._clock_difference = difference - self._clock_difference, difference
        if abs(jump) >= JUMP_SECONDS and not self._runtime.has_clock:
            events.tell(events.CLOCK_JUMPED, url=self._url, seconds=jump)

    def close(self) -> None:
        """Stop the thread. Idempotent."""
        with self._ticks:
            self._is_closing = True
            self._ticks.notify_all()
        self._task.join()
