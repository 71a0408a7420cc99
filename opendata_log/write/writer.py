"""Write walk, after `write/appends`: a batch gets its sequences and its segment, and goes to the engine as columns.

docs/protocol.md, rules S1 to S5. One lock orders everything: sequences, segments and the engine's batches are in the same
order. It is held for some microseconds and never during a request: what has to be durable first, or needs space, is waited
for without it, by those who may wait.
"""

from __future__ import annotations

import lsm
from opendata_log.maintain.policy import LiveSegments
from opendata_log.model.config import SegmentConfig
from opendata_log.model.errors import AppendFencedError, WouldBlock
from opendata_log.model.record import SegmentId, Sequence
from opendata_log.waiting.wakeups import Wakeups
from opendata_log.write.clock import LogClock
from opendata_log.write.durable import DurableSequence
from opendata_log.write.segments import LogSegments
from opendata_log.write.sequence import Sequences


class LogWriter:
    """The writing half of an open log: its lock, and the order in which a batch passes the stations."""

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
        self._wakeups = wakeups
        self._lock = runtime.long_lock()
        self._sequences = Sequences(db, sequence_block)
        self.clock = LogClock(db, runtime)
        self.segments = LogSegments(db, runtime, self.clock, config, live)
        self._sequences.open()
        self.next_sequence: Sequence = self._sequences.next
        """Everything below is accepted and visible."""
        self.durable = DurableSequence(db, runtime, self._sequences.next)

    # -- appending ----------------------------------------------------------------------------------------------------

    def append(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence:
        """The sequence of the batch's first record. Makes no request. Raises: SequencesShortError, lsm.Error; nothing was
        accepted then."""
        with self._lock:
            return self._append(keys, values, size)

    def append_nowait(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence:
        """As `append`. Raises: WouldBlock where another thread holds the lock; nothing was appended then."""
        lock, is_mine = self._lock, True
        if lock.is_held_here():
            raise lsm.ReentrantError
        # Not before the `try`: what a signal handler raises may come between any two instructions, the lock being taken.
        try:
            is_mine = lock.acquire(blocking=False)
            if not is_mine:
                raise WouldBlock
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
        now_ms = self.clock.take(first, self.segments.table)
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
        segments = self.segments
        if segments.needs_new(now_ms):
            seq = segments.begin(first, keys, values)
        else:
            seq = self._db.append_series(segments.family, keys, first - segments.start, values, size)
        segments.active_bytes += size
        self.durable.add(end, seq)
        self.next_sequence = end
        if self._wakeups.is_followed:
            self._wakeups.appended(keys, seq)

    # -- segments -----------------------------------------------------------------------------------------------------

    def seal(self) -> SegmentId:
        """As `LogSegments.seal`. Raises: lsm.Error."""
        with self._lock:
            return self.segments.seal()

    def retire(self, segment_id: SegmentId, *, appended: Sequence | None = None) -> None:
        """Hide the segments up to and including `segment_id` from every read: with the latest one among them only if nothing
        was appended since `next_sequence` was `appended`, else nothing is done. Raises: lsm.Error."""
        with self._lock:
            self.segments.retire(segment_id, is_quiet=self.next_sequence == appended)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Accept nothing more, and give unused sequences back before a clean close. Calling again is right. Raises:
        lsm.Error."""
        with self._lock:
            self._sequences.give_back()

    def undurable(self) -> str:
        """The records that are not known to be durable, for the text of an error; empty where all are."""
        accepted, durable = self.next_sequence, self.durable.advance()
        return (
            f"the records with sequences from {durable} to {accepted - 1} are not known to be durable: "
            if durable < accepted
            else ""
        )

    def check_all_durable(self) -> None:
        """After the close. Raises: AppendFencedError, where a newer writer came before that."""
        accepted, durable = self.next_sequence, self.durable.advance()
        if durable < accepted:
            raise AppendFencedError(
                f"a newer writer took over: the records with sequences from {durable} to {accepted - 1}, appended here, "
                f"are not known to be durable and may be lost"
            )
