"""Write walk: when what was written is durable, and when it is in tables."""

from __future__ import annotations

import enum

from lsm.checks import timeout_seconds
from lsm.errors import InvalidError, kept
from lsm.runtime import Runtime
from lsm.wal.log import WriteAheadLog
from lsm.write.flush import Flusher
from lsm.write.handle_state import HandleState
from lsm.write.writer import Writer


class FlushType(enum.Enum):
    """`WAL`: make everything durable. `MEMTABLE`: also write it to tables."""

    WAL = "wal"
    MEMTABLE = "memtable"


class Durability:
    """Waits of the callers' threads. The log makes batches durable, or, where it is switched off, the flushes."""

    def __init__(
        self,
        state: HandleState,
        runtime: Runtime,
        writer: Writer,
        wal: WriteAheadLog,
        flusher: Flusher,
        *,
        wal_enabled: bool,
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._writer = writer
        self._wal = wal
        self._flusher = flusher
        self._wal_enabled = wal_enabled

    def wait(self, seq: int, timeout: float | None) -> None:
        """Return when batches up to `seq` are durable. Raises: TimeoutError, UnavailableError, ClosedError, FencedError."""
        if self._wal.durable_seq >= seq:
            return
        if self._state.closed is not None:
            raise kept(self._state.closed)
        self._runtime.check_waiting()
        if not self._wal_enabled:
            self._writer.freeze()
            if timeout is None:  # Where level 0 is full and nobody compacts, that must come to an end.
                self._flusher.wait_flushed(seq)
                return
        self._wal.wait_durable(seq, timeout)

    def wait_for_all(self, timeout: float | None) -> None:
        """Return when everything written before is durable. Raises: as `wait`."""
        self._state.check()
        self.wait(self._writer.last_seq, timeout_seconds(timeout))

    def wait_beyond(self, seq: int, timeout: float | None) -> int:
        """Wait, without causing it, until something newer than batch `seq` is durable; the newest durable batch."""
        if self._wal.durable_seq <= seq:
            if self._state.closed is not None:
                raise kept(self._state.closed)
            self._runtime.check_outside()
        return self._wal.wait_beyond(seq, timeout_seconds(timeout))

    def flush(self, kind: FlushType) -> None:
        """See `Db.flush`."""
        self._state.check()
        if kind is FlushType.MEMTABLE:
            self._runtime.check_outside()
        self.finish(kind)

    def flush_tables(self) -> None:
        """See `Db.flush_tables`."""
        self._state.check()
        self._runtime.check_waiting()
        self.finish(FlushType.MEMTABLE)

    def make_durable(self) -> None:
        """Flush as little as makes everything written before durable."""
        self.finish(FlushType.WAL if self._wal_enabled else FlushType.MEMTABLE)

    def finish(self, kind: FlushType) -> None:
        """Flush, also while the handle is being closed. Requires: the caller may wait."""
        if kind is FlushType.WAL:
            if not self._wal_enabled:
                raise InvalidError("flush(WAL) with the log switched off: use FlushType.MEMTABLE")
            self.wait(self._writer.last_seq, None)
        else:
            self._flusher.wait_flushed(self._writer.freeze())

    def finish_all(self) -> None:
        """Flush everything to tables. Requires: the writer takes no more batches."""
        self._flusher.drain()
        if self._wal_enabled:
            self.finish(FlushType.WAL)
        self.finish(FlushType.MEMTABLE)

    def flush_soon(self) -> None:
        """See `Db.flush_soon`."""
        if self._wal_enabled:
            self._writer.seal()
        else:
            self._writer.freeze()
