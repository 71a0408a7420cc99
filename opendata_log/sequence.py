"""Write walk, after `record`, before `lsm`: sequences are handed out of blocks that are durable already.

A block is a row in the system segment. It is written ahead, while half of the last one is left, so that an append
hardly ever waits for one; it is durable before any number of it is returned, or a crash could give a number that somebody
has seen to other content. After a crash the log goes on behind the last block; after a clean close, without a gap.

Source: opendata common/src/sequence.rs, which writes a block together with its first records, and can lose both.
"""

from __future__ import annotations

import lsm
from opendata_log.keys import SEQ_BLOCK_KEY, SEQUENCE_MAX, SeqBlock

BLOCK_MIN = 4096
BLOCK_MAX = 1 << 20
"""At most this many sequences are reserved ahead; a log that is appended to slowly reserves BLOCK_MIN."""
GROWTH = 4
"""A block for so many times what was appended so far."""


class Sequences:
    """The counter. Requires: the log's write lock around every call."""

    def __init__(self, db: lsm.Db) -> None:
        self._db = db
        stored = db.get(SEQ_BLOCK_KEY)
        block = SeqBlock.decode(stored) if stored is not None else SeqBlock(0, 0)
        self.next = block.end
        self._first = block.end
        self._usable = block.end
        """Numbers below are durably reserved."""
        self._ahead: tuple[int, lsm.WriteHandle] | None = None
        """The end of a block that is written and not known to be durable, and its batch."""

    def ensure(self, count: int) -> int:
        """The next sequence, with `count` numbers from it on durably reserved.

        Waits only if the block ahead is not durable yet. Raises: lsm.Error; nothing was handed out then.
        """
        first = self.next
        if first + count > self._usable:
            self._advance(count)
        elif self._usable - first - count < self._block_size() >> 1:
            self._reserve_ahead(first + count)
        return first

    def has_room(self, count: int) -> bool:
        """`ensure(count)` returns at once."""
        if self.next + count <= self._usable:
            return True
        return self._ahead is not None and self.next + count <= self._ahead[0] and self._is_ahead_durable()

    def _block_size(self) -> int:
        """Grows with what this handle has appended, so fast that a log at full rate soon never waits."""
        return min(max(BLOCK_MIN, GROWTH * (self.next - self._first)), BLOCK_MAX)

    def _is_ahead_durable(self) -> bool:
        return self._ahead is not None and self._db.durable_seq >= self._ahead[1].seqnum

    def _advance(self, count: int) -> None:
        if self._ahead is not None:
            self._await_ahead()
        if self.next + count > self._usable:
            self._reserve(max(self.next + count, self.next + self._block_size()))
            self._await_ahead()

    def _reserve_ahead(self, used: int) -> None:
        if self._ahead is not None:
            if self._is_ahead_durable():
                self._await_ahead()
            return
        self._reserve(used + self._block_size())

    def _reserve(self, end: int) -> None:
        end = min(end, SEQUENCE_MAX)
        handle = self._db.put(SEQ_BLOCK_KEY, SeqBlock(self.next, end - self.next).encode())
        self._ahead = (end, handle)

    def _await_ahead(self) -> None:
        assert self._ahead is not None
        end, handle = self._ahead
        try:
            handle.await_durable()
        except lsm.UnavailableError as error:
            # Whatever became of the block: the batch that needs it was not even tried.
            raise lsm.UnavailableError(f"no sequences could be reserved: {error}") from error
        self._usable, self._ahead = end, None

    def give_back(self) -> None:
        """A clean end: the next open goes on exactly here."""
        if self._usable != self.next or self._ahead is not None:
            self._db.put(SEQ_BLOCK_KEY, SeqBlock(self.next, 0).encode())
