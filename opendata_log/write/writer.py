"""Write walk, after `write/appends`: a batch gets its sequences and its segment, and goes to the engine as columns.

docs/protocol.md, rules S1 to S5. One lock gives sequences, segments and the engine's batches the same order. It is held for
some microseconds, and never during a request: a caller waits for space or durable sequences without it.
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
    """The write side of an open log: its lock, and the steps of a batch in their order."""

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
        """Every record below is accepted and visible."""
        self.durable = DurableSequence(db, runtime, self._sequences.next)

    # -- appending ----------------------------------------------------------------------------------------------------

    def append(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence:
        """Append a batch; returns the sequence of its first record. Makes no request. Raises: SequencesShortError, lsm.Error;
        then nothing was accepted."""
        with self._lock:
            return self._append(keys, values, size)

    def append_nowait(self, keys: list[bytes], values: list[bytes], size: int) -> Sequence:
        """As `append`. Raises: WouldBlock where another thread holds the lock; then nothing was appended."""
        lock, is_mine = self._lock, True
        if lock.is_held_here():
            raise lsm.ReentrantError
        # A signal handler may raise between any two instructions, so the lock is taken inside the `try`.
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
        """As `append`. Requires: the lock."""
        first = self._sequences.ensure(len(keys))
        now_ms = self.clock.take(first, self.segments.table)
        try:
            self._write(first, now_ms, keys, values, size)
        except lsm.Error:
            self._sequences.next = first  # The engine refused the whole batch.
            raise
        except BaseException as error:
            # After KeyboardInterrupt or MemoryError, the engine may have a batch that this writer has not recorded.
            failure = lsm.InternalError(
                f"an append was interrupted halfway by {error!r}: close this handle and open it again"
            )
            failure.__cause__ = error
            self._db.fail(failure)
            raise
        return first

    def _write(self, first: Sequence, now_ms: int, keys: list[bytes], values: list[bytes], size: int) -> None:
        end = first + len(keys)
        # The sequences are spent before the write: an interrupt in between leaves a gap, never two records per sequence.
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
        """Hide the segments up to and including `segment_id` from every read. Raises: lsm.Error.

        Nothing is hidden where the latest segment is among them and `next_sequence` is no longer `appended`.
        """
        with self._lock:
            self.segments.retire(segment_id, is_quiet=self.next_sequence == appended)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Accept no more batches, and give unused sequences back before a clean close. Idempotent. Raises: lsm.Error."""
        with self._lock:
            self._sequences.give_back()

    def undurable(self) -> str:
        """The records that are not known to be durable, as the text of an error; empty where all are durable."""
        accepted, durable = self.next_sequence, self.durable.advance()
        return (
            f"the records with sequences from {durable} to {accepted - 1} are not known to be durable: "
            if durable < accepted
            else ""
        )

    def check_all_durable(self) -> None:
        """Check after the close. Raises: AppendFencedError where a newer writer took over before all records were durable."""
        accepted, durable = self.next_sequence, self.durable.advance()
        if durable < accepted:
            raise AppendFencedError(
                f"a newer writer took over: the records with sequences from {durable} to {accepted - 1}, appended here, "
                f"are not known to be durable and may be lost"
            )
