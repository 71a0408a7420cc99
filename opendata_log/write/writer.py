"""Write walk, after `log_db`: a batch gets its sequences and its segment, and goes to the engine as columns.

docs/protocol.md, rules S1 to S5. One lock orders everything: sequences, segments and the engine's batches are in the same
order. It is held for some microseconds and never during a request: what has to be durable first, or needs space, is waited
for without it, by those who may wait.
"""

from __future__ import annotations

from bisect import bisect_right

import lsm
from opendata_log.maintain.policy import LiveSegments
from opendata_log.model.config import SegmentConfig
from opendata_log.model.errors import AppendFencedError
from opendata_log.model.keys import (
    LAST_RETIRED_KEY,
    SEAL_MARK_KEY,
    SEGMENT_META_PREFIX,
    TIME_MARK_PREFIX,
    SegmentMeta,
    TimeMark,
    decode_seal_mark,
    encode_seal_mark,
    entry_family,
    segment_meta_key,
    time_mark_key,
)
from opendata_log.model.record import Segment, SegmentId, Sequence
from opendata_log.model.segment import SealPolicy, SegmentTable, last_retired, successor
from opendata_log.model.time_track import TimeTrack, check_clock_ms
from opendata_log.waiting.wakeups import Wakeups
from opendata_log.write.sequence import Sequences

MARKS_MAX = 8192
"""Batches remembered for the durable watermark before the durable ones among them are forgotten."""


class LogWriter:
    """The writing half of an open log."""

    def __init__(
        self,
        db: lsm.Db,
        runtime: lsm.Runtime,
        config: SegmentConfig,
        wakeups: Wakeups,
        live: LiveSegments,
        sequence_block: int,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._wakeups = wakeups
        self._lock = runtime.long_lock()
        self._policy = SealPolicy(config)
        self._may_seal_by_itself = config.seal_interval is not None or config.seal_byte_limit is not None
        self._sequences = Sequences(db, sequence_block)
        self._active_bytes = 0
        self._active_since = runtime.monotonic()
        # A clock that was handed in is the only time there is: somebody may be driving it by hand.
        self._has_own_time = not runtime.has_clock
        self._now_ms = runtime.now_ms if self._has_own_time else self._checked_now_ms
        self._family = b""
        self._base = 0
        self._live = live
        self._retired: tuple[lsm.WriteHandle, SegmentId] | None = None
        self.segments = self._load_segments()
        self._last_retired = last_retired(db)
        live.load(self.segments, self._last_retired)
        self._sealed_by_hand = self._load_seal_mark()
        self.time_track = TimeTrack(TimeMark.decode(*row) for row in db.scan_prefix(TIME_MARK_PREFIX))
        self._due_ms = self.time_track.due_ms
        self._latest_ms: int | None = None
        # A time that was right, and when that was by a clock that nobody sets.
        self._right_ms, self._right_at = 0, runtime.monotonic()
        self._adopt(self.segments.latest)
        self._sequences.open()
        self.next_sequence: Sequence = self._sequences.next
        """Everything below is accepted and visible."""
        # Which sequences became durable with which batch of the engine: parallel and ascending. Taken from the front under a
        # lock of their own: whoever asks how much is durable does not wait for an append that waits for sequences.
        self._marks_lock = runtime.lock()
        self._mark_seqs: list[int] = []
        self._mark_ends: list[Sequence] = []
        self._durable: Sequence = self._sequences.next

    def _load_segments(self) -> SegmentTable:
        return SegmentTable.stored(self._db.scan_prefix(SEGMENT_META_PREFIX))

    def _load_seal_mark(self) -> SegmentId:
        """The latest segment's id if it is sealed by hand. The mark of an older one stays stored and means nothing."""
        value = self._db.get(SEAL_MARK_KEY)
        latest = self.segments.latest
        marked = decode_seal_mark(value) if value is not None else 0
        return marked if latest is not None and latest.id == marked else 0

    def _adopt(self, segment: Segment | None) -> None:
        if segment is not None:
            self._family = entry_family(segment.id)
            self._base = segment.start_seq

    # -- appending ----------------------------------------------------------------------------------------------------

    def append(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence:
        """The sequence of the batch's first record. Makes no request. Raises: SequencesShortError, lsm.Error; nothing was
        accepted then."""
        with self._lock:
            return self._append(keys, values, size)

    def append_if_quick(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence | None:
        """As `append`; None where another thread holds the lock. Nothing was appended then."""
        lock, is_mine = self._lock, True
        if lock.is_held_here():
            raise lsm.ReentrantError
        # Not before the `try`: what a signal handler raises may come between any two instructions, the lock being taken.
        try:
            is_mine = lock.acquire(blocking=False)
            if not is_mine:
                return None
            return self._append(keys, values, size)
        finally:
            if is_mine:
                lock.release()

    def await_turn(self) -> None:
        """Wait until no other thread appends."""
        with self._lock:
            pass

    def await_sequences(self, count: int, timeout: float | None) -> None:
        """Wait until `count` sequences are durably reserved. Raises: TimeoutError, lsm.Error."""
        with self._lock:
            handle = self._sequences.awaited(count)
        if handle is not None:
            handle.await_durable(timeout)

    def _append(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence:
        """Requires: the lock."""
        first = self._sequences.ensure(len(keys))
        now_ms = self._take_time(first)
        try:
            self._write(first, now_ms, keys, values, size)
        except lsm.Error:
            self._sequences.next = first  # Refused whole.
            raise
        except BaseException as error:
            # KeyboardInterrupt, MemoryError: the engine may have the batch, and this writer does not know of it.
            failure = lsm.InternalError(
                f"an append was interrupted halfway by {error!r}: close this handle and open it again"
            )
            failure.__cause__ = error
            self._db.fail(failure)
            raise
        return first

    def _write(self, first: Sequence, now_ms: int, keys: list[bytes], values: list[bytes], size: int) -> None:
        end = first + len(keys)
        # Spent before they are written: an interrupt in between leaves a gap, and never a sequence for two records.
        self._sequences.next = end
        if self._needs_segment(now_ms):
            seq = self._append_in_new_segment(first, keys, values)
        else:
            seq = self._db.append_series(self._family, keys, first - self._base, values, size)
        self._active_bytes += size
        # The ends first: whoever finds a batch in the other column finds its end.
        self._mark_ends.append(end)
        self._mark_seqs.append(seq)
        self.next_sequence = end
        if self._wakeups.is_followed:
            self._wakeups.appended(keys, seq)
        if len(self._mark_seqs) > MARKS_MAX:
            self._advance_durable()

    def _checked_now_ms(self) -> int:
        return check_clock_ms(self._runtime.now_ms())

    def _take_time(self, first: Sequence) -> int:
        """The wall clock, which moves the log's own forward, and from time to time marks the sequence it is at."""
        now_ms = self._now_ms()
        if self._latest_ms is None:
            self._latest_ms = self._right_ms = self.time_track.latest_ms(now_ms)
            self._right_at = self._runtime.monotonic()
        elif now_ms > self._latest_ms:
            self._latest_ms = now_ms
        if now_ms >= self._due_ms:
            self._mark_time(first, now_ms)
        return now_ms

    def _mark_time(self, first: Sequence, now_ms: int) -> None:
        """Before a batch, in the order of the log: who sees the batch sees the mark. Cost: once in some seconds, a row."""
        oldest = self.segments.oldest
        marking = self.time_track.marking(first, now_ms, oldest=oldest.start_seq if oldest is not None else 0)
        batch = lsm.WriteBatch().put(time_mark_key(first), marking.mark.encode())
        for sequence in marking.dropped:
            batch.delete(time_mark_key(sequence))
        self._db.write_at_once(batch)
        self._right_ms, self._right_at = now_ms, self._runtime.monotonic()
        self.time_track = marking.track
        self._due_ms = marking.track.due_ms

    def _needs_segment(self, now_ms: int) -> bool:
        if not self._family:
            return True
        if self._sealed_by_hand:
            return True
        if not self._may_seal_by_itself:
            return False
        return self._policy.is_due(
            self.segments.latest,
            now_ms=now_ms,
            active_bytes=self._active_bytes,
            held_ms=int(1000 * (self._runtime.monotonic() - self._active_since)) if self._has_own_time else 0,
        )

    def _append_in_new_segment(self, first: Sequence, keys: list[bytes], values: list[bytes]) -> int:
        """The segment's metadata and its first batch, atomically."""
        # Retention counts from here for what was appended to the segment before: not earlier than that can have been.
        assert self._latest_ms is not None
        now_ms = self._latest_ms
        if self._has_own_time:  # The wall clock may have been set back since, and time went on.
            now_ms = max(now_ms, self._right_ms + int(1000 * (self._runtime.monotonic() - self._right_at)))
        segment = successor(self.segments.latest, start_seq=first, now_ms=now_ms, last_retired=self._last_retired)
        meta = SegmentMeta(segment.start_seq, segment.start_time_ms)
        self._live.begin(segment.id)
        batch = lsm.WriteBatch().put(segment_meta_key(segment.id), meta.encode())
        batch.append_series(entry_family(segment.id), keys, 0, values)
        seq = self._db.write_at_once(batch).seqnum
        self.segments = self.segments.adding(segment)
        self._adopt(segment)
        self._active_bytes = 0
        self._active_since = self._runtime.monotonic()
        self._sealed_by_hand = 0
        return seq

    def seal(self) -> SegmentId:
        """Seal the active segment: the next append starts another, also after a reopen. Its id; that of the last one there
        was where retention took all; 0 where nothing was ever appended. Sealing what is sealed changes nothing."""
        with self._lock:
            latest = self.segments.latest
            if latest is None:
                return self._last_retired
            if self._sealed_by_hand != latest.id:
                self._db.write_at_once(lsm.WriteBatch().put(SEAL_MARK_KEY, encode_seal_mark(latest.id)))
                self._sealed_by_hand = latest.id
            return latest.id

    def retire(self, segment_id: SegmentId, *, appended: Sequence | None = None) -> None:
        """Hide the segments up to and including `segment_id` from every read: with the latest one among them only if nothing
        was appended since `next_sequence` was `appended`, else nothing is done. Raises: lsm.Error."""
        with self._lock:
            batch = lsm.WriteBatch()
            latest = self.segments.latest
            is_all = latest is None or segment_id >= latest.id
            if is_all:
                if self.next_sequence != appended:
                    return
                batch.put(LAST_RETIRED_KEY, encode_seal_mark(segment_id))  # In the same batch: rule S7.
            for segment in self.segments.between(None, segment_id + 1):
                batch.delete(segment_meta_key(segment.id))
            self._retired = self._db.write_at_once(batch), segment_id + 1
            self.segments = self.segments.dropping_through(segment_id)
            if is_all:
                self._last_retired = segment_id
                self._family = b""  # The next append begins a segment.

    @property
    def appended_before_ms(self) -> int:
        """Everything there is was appended at this time or before, by the log's own time."""
        return self._latest_ms if self._latest_ms is not None else self._due_ms

    def announce_retired(self) -> bool:
        """Make the last `retire` durable, and have the compaction drop what it retired; False where that is done already.
        Raises: lsm.Error; then calling again is right."""
        if self._retired is None:
            return False
        handle, oldest = self._retired
        handle.await_durable()
        self._live.expire(oldest)
        self._retired = None
        return True

    # -- durability ---------------------------------------------------------------------------------------------------

    @property
    def durable_sequence(self) -> Sequence:
        """Every record below is durable. Never waits for a request."""
        return self._advance_durable()

    def _advance_durable(self) -> Sequence:
        if self._marks_lock.is_held_here():
            return self._durable  # From a signal handler: what was durable a moment ago.
        with self._marks_lock:
            known = bisect_right(self._mark_seqs, self._db.durable_seq)
            if known:
                self._durable = self._mark_ends[known - 1]
                del self._mark_seqs[:known], self._mark_ends[:known]
            return self._durable

    def finish(self) -> None:
        """Accept nothing more, and give unused sequences back before a clean close. Calling again is right. Raises:
        lsm.Error."""
        with self._lock:
            self._sequences.give_back()

    def undurable(self) -> str:
        """The records that are not known to be durable, for the text of an error; empty where all are."""
        accepted, durable = self.next_sequence, self.durable_sequence
        return (
            f"the records with sequences from {durable} to {accepted - 1} are not known to be durable: "
            if durable < accepted
            else ""
        )

    def check_all_durable(self) -> None:
        """After the close. Raises: AppendFencedError, where a newer writer came before that."""
        accepted, durable = self.next_sequence, self.durable_sequence
        if durable < accepted:
            raise AppendFencedError(
                f"a newer writer took over: the records with sequences from {durable} to {accepted - 1}, appended here, "
                f"are not known to be durable and may be lost"
            )
