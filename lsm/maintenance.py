"""The work that callers request of a handle: checkpoints, compactions, collections."""

from __future__ import annotations

from lsm.checkpoint.checkpoints import create_checkpoint
from lsm.checks import age_seconds, timeout_seconds
from lsm.compaction.plan import compact_range
from lsm.errors import InvalidError
from lsm.gc.policy import Garbage
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import Manifest
from lsm.opening.engine import Engine
from lsm.rows.bytes_in import BytesLike, as_key
from lsm.write.durability import Durability, FlushType
from lsm.write.handle_state import HandleState


class Maintenance:
    """Each call checks the handle, waits if necessary, and then calls the part that does the work."""

    def __init__(self, engine: Engine, state: HandleState, durability: Durability) -> None:
        self._engine = engine
        self._state = state
        self._durability = durability

    def create_checkpoint(self, lifetime: float | None, name: str | None) -> Checkpoint:
        """See `Db.create_checkpoint`."""
        engine = self._engine
        self._state.check()
        engine.runtime.check_outside()
        self._durability.make_durable()

        def wal_end(manifest: Manifest) -> int:
            return engine.wal.durable_number if engine.settings.wal_enabled else manifest.replay_after

        return create_checkpoint(engine.manifests, engine.runtime, wal_end=wal_end, lifetime=lifetime, name=name)

    def compact(self, start: BytesLike | None, end: BytesLike | None) -> None:
        """See `Db.compact`."""
        self._state.check()
        compactor = self._engine.compactor
        if compactor is None:
            raise InvalidError("compaction_enabled is off: another process compacts this database, or nobody does")
        low, high = None if start is None else as_key(start), None if end is None else as_key(end)
        self._engine.runtime.check_outside()
        self._durability.finish(FlushType.MEMTABLE)
        compactor.compact(lambda manifest, busy: compact_range(manifest, low, high, busy))

    def wake_compactor(self) -> None:
        """See `Db.wake_compactor`."""
        if self._engine.compactor is not None:
            self._engine.compactor.wake()

    def wait_idle(self, timeout: float | None) -> bool:
        """See `Db.wait_idle`."""
        self._state.check()
        self._engine.runtime.check_outside()
        compactor, seconds = self._engine.compactor, timeout_seconds(timeout)
        return True if compactor is None else compactor.wait_idle(seconds)

    def collect_garbage(self, *, dry_run: bool, min_age: float | None) -> list[Garbage]:
        """See `Db.collect_garbage`."""
        self._state.check()
        age = None if min_age is None else age_seconds(min_age, "min_age")
        return self._engine.collect(dry_run=dry_run, min_age=age)
