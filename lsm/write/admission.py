"""Checks the batch of `Db.write`, waits for space, and hands the batch to `write/writer`. Series appends at most wait here."""

from __future__ import annotations

from lsm.checks import timeout_seconds
from lsm.errors import InvalidError
from lsm.runtime import Runtime
from lsm.write.batch import WriteBatch, WriteHandle
from lsm.write.durability import Durability
from lsm.write.handle_state import HandleState
from lsm.write.layout_checks import KeyChecks
from lsm.write.writer import Writer


class Intake:
    """The steps of a write outside the write lock."""

    def __init__(
        self,
        state: HandleState,
        runtime: Runtime,
        writer: Writer,
        durability: Durability,
        keys: KeyChecks,
        *,
        op_timeout: float,
    ) -> None:
        self._state = state
        self._runtime = runtime
        self._writer = writer
        self._durability = durability
        self._keys = keys
        self._op_timeout = op_timeout

    def write(self, batch: WriteBatch, *, await_durable: bool) -> WriteHandle:
        """See `Db.write`."""
        self._state.check()
        if not len(batch):
            raise InvalidError("an empty batch cannot be written")
        self._keys.check(batch)
        writer = self._writer
        if not writer.has_space:
            self._runtime.check_waiting()
            writer.wait_space(self._op_timeout)
        if writer.pressure.reason is not None:
            writer.slow_down(batch.size, self._op_timeout)
        handle = WriteHandle(writer.write(batch), self._durability.wait)
        if await_durable:
            handle.await_durable()
        return handle

    def write_at_once(self, batch: WriteBatch, *, in_outage: bool) -> WriteHandle:
        """See `Db.write_at_once`."""
        self._state.check()
        self._keys.check(batch)
        return WriteHandle(self._writer.write(batch, in_outage=in_outage), self._durability.wait)

    def wait_space(self, timeout: float | None) -> None:
        """See `Db.wait_space`."""
        self._state.check()
        self._runtime.check_waiting()
        self._writer.wait_space(timeout_seconds(timeout))
