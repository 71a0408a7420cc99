"""Write walk: waits until batches are durable, or in tables."""

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
    """How far a flush goes. `WAL`: every batch is durable. `MEMTABLE`: every batch is also in tables."""

    WAL = "wal"
    MEMTABLE = "memtable"


class Durability:
    """Waits of the callers' threads. The log makes batches durable; if the log is disabled, flushes do."""

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
            if timeout is None:  # `wait_flushed` raises if level 0 stays full; `wait_durable` would wait on.
                self._flusher.wait_flushed(seq)
                return
        self._wal.wait_durable(seq, timeout)

    def wait_for_all(self, timeout: float | None) -> None:
        """Return when every batch accepted before is durable. Raises: as `wait`."""
        self._state.check()
        self.wait(self._writer.last_seq, timeout_seconds(timeout))

    def wait_beyond(self, seq: int, timeout: float | None) -> int:
        """Wait until a batch newer than `seq` is durable; return the newest durable batch. Does not start an upload."""
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
        """Make every batch accepted before durable: in the log, or in tables if the log is disabled."""
        self.finish(FlushType.WAL if self._wal_enabled else FlushType.MEMTABLE)

    def finish(self, kind: FlushType) -> None:
        """Flush. Works also while the handle is being closed. Requires: the caller may wait."""
        if kind is FlushType.WAL:
            if not self._wal_enabled:
                raise InvalidError("flush(WAL) with the log switched off: use FlushType.MEMTABLE")
            self.wait(self._writer.last_seq, None)
        else:
            self._flusher.wait_flushed(self._writer.freeze())

    def finish_all(self) -> None:
        """Flush every batch to tables. Requires: the writer takes no more batches."""
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
