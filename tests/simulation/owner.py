"""A writer of a plain database: what it does, and what it may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lsm
from lsm.testing.simulated import SimulatedRuntime
from tests.simulation.batches import MARK, Batch, History
from tests.simulation.checkpoints import Content
from tests.simulation.world import IDLE_SECONDS

if TYPE_CHECKING:
    from tests.simulation.rows_world import RowsWorld

KEYS = [b"k%02d" % at for at in range(16)]


class Owner:
    """A writer's handle."""

    def __init__(self, world: RowsWorld, history: History, name: str, db: lsm.Db, as_of: int) -> None:
        self._world = world
        self._history = history
        self._name = name
        self.db = db
        self._as_of = as_of
        self.head: Batch
        self.is_done = False

    def recover(self) -> bool:
        rows, _ = self._world.attempt(self._name, "scan", lambda: dict(self.db.scan()))
        if rows is None:
            return False
        found = self._history.check_view(self._name, rows, self._as_of)
        if found is None:
            return False
        self.head = found
        self._history.durable(found)
        return True

    def work(self, runtime: SimulatedRuntime) -> bool:
        """One call. False where the handle is of no use any more."""
        world, chance = self._world, self._world.chance
        if chance.random() < 0.3:
            runtime.sleep(chance.expovariate(10.0))
        roll = chance.random()
        if roll < 0.7:
            return self.write(runtime)
        if roll < 0.85:
            return self.flush(chance.choice((lsm.FlushType.MEMTABLE, None)))
        if roll < 0.9:
            return self.collect()
        if roll < 0.93 and world.swarm.keepers and self._history is world.history:
            return self.pin()
        return self.view()

    def write(self, runtime: SimulatedRuntime) -> bool:
        world = self._world
        made, batch = self._batch()
        handle, error = world.attempt(self._name, "write", lambda: self.db.write(batch))
        if handle is None:
            return not isinstance(error, lsm.ClosedError)
        self.head = made
        if world.chance.random() < 0.2:
            _, error = world.attempt(
                self._name, "await_durable", lambda: handle.await_durable(30.0 if world.is_healed else 2.0)
            )
            if error is None:
                self._history.durable(made)
        return True

    def _batch(self) -> tuple[Batch, lsm.WriteBatch]:
        """A batch that is about to be written on top of the newest one."""
        chance, history = self._world.chance, self._history
        name = history.next_name()
        rows, batch = dict(self.head.rows), lsm.WriteBatch()
        for key in chance.sample(KEYS, 1 + chance.randrange(4)):
            if chance.random() < 0.3:
                rows.pop(key, None)
                batch.delete(key)
            else:
                rows[key] = name.ljust(self._world.swarm.value_bytes, b".")
                batch.put(key, rows[key])
        batch.put(MARK, name)
        return history.add(self.head, rows), batch

    def flush(self, kind: lsm.FlushType | None) -> bool:
        world, head = self._world, self.head
        if kind is None:
            is_logged = world.swarm.engine["wal_enabled"]
            kind = lsm.FlushType.WAL if is_logged else lsm.FlushType.MEMTABLE
        _, error = world.attempt(self._name, "flush", lambda: self.db.flush(kind))
        if error is None:
            self._history.durable(head)
        return not isinstance(error, lsm.ClosedError)

    def collect(self) -> bool:
        _, error = self._world.attempt(self._name, "collect_garbage", lambda: self.db.collect_garbage(min_age=0))
        return not isinstance(error, lsm.ClosedError)

    def settle(self) -> bool:
        """Wait until nothing is compacted any more, where this handle compacts."""
        return not self._world.swarm.engine["compaction_enabled"] or self.db.wait_idle(IDLE_SECONDS)

    def pin(self) -> bool:
        """A checkpoint of everything written so far."""
        world, lifetime = self._world, self._world.checkpoints.lifetime()
        content = Content(world.openings.now(), self.head)
        made, error = world.attempt(self._name, "create_checkpoint", lambda: self.db.create_checkpoint(lifetime))
        if made is not None:
            self._history.durable(content.least)
            world.checkpoints.made(made, content)
        return not isinstance(error, lsm.ClosedError)

    def view(self) -> bool:
        """Everything, on the thread that writes: nothing else can have changed it."""
        world, head = self._world, self.head
        rows, error = world.attempt(self._name, "scan", lambda: world.some_view(self.db))
        if rows is not None:
            found = self._history.check_view(self._name, rows, self._as_of, head)
            if found is not None and found is not head:
                world.report("phantom", f"{self._name}: shows {found} after {head}")
        return not isinstance(error, lsm.ClosedError)

    def keep_reading(self, runtime: SimulatedRuntime) -> None:
        """Snapshots beside the writing thread, each read twice, with time in between."""
        world = self._world
        while not (self.is_done or world.is_healed):
            runtime.sleep(world.chance.expovariate(4.0))
            snapshot, _ = world.attempt(self._name, "snapshot", self.db.snapshot)
            if snapshot is None:
                return
            first, _ = world.attempt(self._name, "scan", lambda taken=snapshot: world.some_view(taken))
            runtime.sleep(world.chance.expovariate(4.0))
            if world.chance.random() < 0.5:
                self.collect()
            second, _ = world.attempt(self._name, "scan", lambda taken=snapshot: world.some_view(taken))
            if first is not None:
                self._history.check_view(self._name, first, self._as_of)
            if first is not None and second is not None and first != second:
                world.report("torn batch", f"{self._name}: a snapshot changed from {first} to {second}")
            world.attempt(self._name, "close", snapshot.close)

    def close(self) -> None:
        world, head = self._world, self.head
        _, error = world.attempt(self._name, "close", self.db.close)
        if error is None and self.db.durable_seq >= 0 and not self._was_fenced():
            self._history.durable(head)
            world.notes["closed"] += 1
        world.process_ended(self._name)

    def _was_fenced(self) -> bool:
        """A fenced handle closes without an error and without a flush."""
        return "newer writer" in str(self.db.status().close_reason) or self.db.durable_seq < self.db.status().last_seq
