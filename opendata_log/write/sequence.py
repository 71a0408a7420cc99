"""Write walk, after `model/record`, before `lsm`: sequences are given out of blocks that are already durable.

A block is a row in the system segment. Opening makes the first block durable. Each next block is written while three quarters
of the last one are left, and becomes durable in the background. So an append never waits for a block; it is refused if none is
durable in time. After a crash, sequences continue after the last block; after a clean close, without a gap.

Source: opendata common/src/sequence.rs, which writes a block together with its first records, and can lose both.
"""

from __future__ import annotations

import lsm
from opendata_log.model.keys import SEQ_BLOCK_KEY, SEQUENCE_MAX, SeqBlock

BLOCK_MIN = 1 << 20
BLOCK_MAX = 1 << 24
"""Maximum sequences per block. A log with few appends reserves BLOCK_MIN."""
GROWTH = 4
"""Sequences per block, as a multiple of the records appended so far."""


class SequencesShortError(lsm.UnavailableError):
    """Too few durable sequences are left for a batch. The next block is being made durable."""


class Sequences:
    """The sequence counter. Only `open` makes a request. Requires: the log's write lock around every call but `open`."""

    def __init__(self, db: lsm.Db, block_min: int = BLOCK_MIN) -> None:
        self._db = db
        self._block_min = block_min
        stored = db.get(SEQ_BLOCK_KEY)
        block = SeqBlock.decode(stored) if stored is not None else SeqBlock(0, 0)
        self.next = block.end
        self._first = block.end
        self._usable = block.end
        """Every sequence below is durably reserved."""
        self._low = 0
        """The next block is written when fewer sequences than this are left."""
        self._ahead: tuple[int, lsm.WriteHandle] | None = None
        """The end and the batch of a written block that is not known to be durable."""
        self._is_hurried = False
        self._is_given_back = False

    def open(self) -> None:
        """Make the first block durable. Cost: one PUT. Raises: lsm.Error."""
        if self.next < SEQUENCE_MAX:
            self._reserve(self.next)
            assert self._ahead is not None
            self._ahead[1].await_durable()
            self._look()

    def ensure(self, count: int) -> int:
        """The next sequence; it and the `count - 1` after it are durably reserved.

        Raises: SequencesShortError, lsm.Error; then no sequence was given out.
        """
        first = self.next
        if self._usable - first - count < self._low:
            self._stay_ahead(first + count)
            if first + count > self._usable:
                raise SequencesShortError(f"no {count} sequences are durably reserved at present")
        return first

    def awaited(self, count: int) -> lsm.WriteHandle | None:
        """The write that must become durable before `ensure(count)` succeeds; None: it succeeds now. Raises: lsm.Error."""
        try:
            self.ensure(count)
        except SequencesShortError:
            assert self._ahead is not None
            return self._ahead[1]
        return None

    def _block_size(self) -> int:
        """Sequences of the next block: GROWTH times those that this handle has used, within the limits."""
        return min(max(self._block_min, GROWTH * (self.next - self._first)), BLOCK_MAX)

    def _look(self) -> None:
        """Use the block ahead if it is durable by now."""
        if self._ahead is not None and self._db.durable_seq >= self._ahead[1].seqnum:
            self._usable, self._ahead = self._ahead[0], None

    def _stay_ahead(self, used: int) -> None:
        if self._is_given_back:
            raise lsm.ClosedError("the log is being closed: open it again")
        self._look()
        left = self._usable - used
        if left >= self._low:
            return
        if self._ahead is None:
            if used > SEQUENCE_MAX:
                raise lsm.InternalError(f"sequences are used up: the next one is {self.next}")
            if self._usable < SEQUENCE_MAX:
                self._reserve(used)
        if self._ahead is not None and left < self._low >> 1 and not self._is_hurried:
            self._is_hurried = True  # Where only waiters flush, there may be no waiter.
            self._db.flush_soon()

    def _reserve(self, used: int) -> None:
        size = self._block_size()
        end = min(used + size, SEQUENCE_MAX)
        block = SeqBlock(self.next, end - self.next)
        handle = self._db.write_at_once(lsm.WriteBatch().put(SEQ_BLOCK_KEY, block.encode()))
        self._ahead, self._low, self._is_hurried = (end, handle), size - (size >> 2), False

    def give_back(self) -> None:
        """Give up unused sequences, so that the next open continues exactly here. No more are given out. Raises: lsm.Error."""
        if not self._is_given_back:
            row = lsm.WriteBatch().put(SEQ_BLOCK_KEY, SeqBlock(self.next, 0).encode())
            self._db.write_at_once(row, in_outage=True)
            self._usable, self._ahead, self._is_given_back = self.next, None, True
