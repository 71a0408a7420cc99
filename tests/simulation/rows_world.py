"""Writers that take a plain `lsm.Db` over from each other, and readers. Every batch writes its own name under one key, so a
view of one moment says itself which batches it must show: those up to that one, each whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import lsm
from lsm.testing.simulated import SimulatedRuntime
from tests.simulation.swarm import Swarm
from tests.simulation.world import World

T = TypeVar("T")
MARK = b"mark"
KEYS = [b"k%02d" % at for at in range(16)]
EXPECTED = (lsm.UnavailableError, lsm.ClosedError, TimeoutError)
Rows = dict[bytes, bytes]


@dataclass(eq=False)
class Batch:
    """One batch: the one it follows, and what the database holds with it."""

    name: bytes
    parent: Batch | None
    rows: Rows
    depth: int
    owner: str
    durable: int | None = None

    def __str__(self) -> str:
        return f"batch {self.name!r} (depth {self.depth})"


class RowsWorld(World):
    """The checker is the tree of batches: each owner goes on where it found the database."""

    def __init__(self, swarm: Swarm, steps: int) -> None:
        super().__init__(swarm, steps)
        self.root = Batch(b"", None, {}, 0, "")
        self.batches: dict[bytes, Batch] = {b"": self.root}
        self._events = 0
        self._openings: list[tuple[str, int]] = []
        self._ended: dict[str, int] = {}

    def now(self) -> int:
        self._events += 1
        return self._events

    def actor_lives(self) -> list[tuple[str, Callable[[], None]]]:
        swarm = self.swarm
        lives = [(f"writers{at}", self.succession(f"w{at}", self._writer)) for at in range(swarm.writers)]
        return lives + [(f"readers{at}", self.succession(f"r{at}", self._reader)) for at in range(swarm.readers)]

    def process_ended(self, title: str) -> None:
        self._ended.setdefault(title, self.now())

    # -- the tree of batches ------------------------------------------------------------------------------------------

    def batch(self, owner: str, parent: Batch) -> tuple[Batch, lsm.WriteBatch]:
        """A batch that is about to be written on top of another one."""
        chance = self.chance
        name = b"%d" % len(self.batches)
        rows, batch = dict(parent.rows), lsm.WriteBatch()
        for key in chance.sample(KEYS, 1 + chance.randrange(4)):
            if chance.random() < 0.3:
                rows.pop(key, None)
                batch.delete(key)
            else:
                rows[key] = name.ljust(self.swarm.value_bytes, b".")
                batch.put(key, rows[key])
        batch.put(MARK, name)
        made = self.batches[name] = Batch(name, parent, rows, parent.depth + 1, owner)
        return made, batch

    def durable(self, batch: Batch | None) -> None:
        now = self.now()
        while batch is not None and batch.durable is None:
            batch.durable = now
            batch = batch.parent

    def check_view(self, who: str, rows: Rows, as_of: int, least: Batch | None = None) -> Batch | None:
        """A view of one moment, of somebody who must see what was durable at `as_of`, and the batch `least`."""
        rows = dict(rows)
        name = rows.pop(MARK, b"")
        batch = self.batches.get(name)
        if batch is None:
            self.report("phantom", f"{who}: nobody wrote batch {name!r}")
            return None
        if rows != batch.rows:
            wrong = {key for key in rows.keys() | batch.rows.keys() if rows.get(key) != batch.rows.get(key)}
            kind = "torn batch" if wrong else "lost"
            self.report(kind, f"{who}: at {batch}, {sorted(wrong)} are not as they were written: {rows}")
        needed = [each for each in self.batches.values() if each.durable is not None and each.durable < as_of]
        for each in [*needed, *([least] if least is not None else [])]:
            if not self._follows(batch, each):
                self.report("lost", f"{who}: shows {batch}, which does not follow {each}")
                break
        return batch

    @staticmethod
    def _follows(batch: Batch, older: Batch) -> bool:
        at: Batch | None = batch
        while at is not None and at.depth > older.depth:
            at = at.parent
        return at is older

    # -- calls --------------------------------------------------------------------------------------------------------

    def attempt(self, who: str, what: str, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        try:
            return call(), None
        except lsm.FencedError as error:
            since = dict(self._openings)[who]
            if not any(name != who and self._ended.get(name, since + 1) > since for name, _ in self._openings):
                self.report("false fence", f"{who}: {what}: nobody else opened it: {error}")
            self.notes["fenced"] += 1
            return None, error
        except EXPECTED as error:
            self.notes[type(error).__name__] += 1
            if who.startswith("final"):
                self.report("no progress", f"{what} failed without faults: {error!r}")
            return None, error
        except Exception as error:
            self.report("unexpected error", f"{who}: {what}: {error!r} from {error.__cause__!r}")
            return None, error

    def _open(self, name: str, runtime: SimulatedRuntime) -> tuple[lsm.Db | None, int]:
        as_of = self.now()
        self._openings.append((name, as_of))
        client = self.bucket.client(runtime.process, is_near=self.swarm.is_near)
        settings = self.swarm.settings()
        db, _ = self.attempt(
            name, "open", lambda: lsm.Db.open("memory://", settings, object_store=client, runtime=runtime)
        )
        return db, as_of

    def _writer(self, name: str, runtime: SimulatedRuntime) -> None:
        db, as_of = self._open(name, runtime)
        if db is None:
            return
        self.notes["opened"] += 1
        owner = _Owner(self, name, db, as_of)
        if not owner.recover():
            return
        snapshots = runtime.spawn("reads", lambda: owner.keep_reading(runtime))
        for _ in range(self.chance.randrange(5, 120)):
            if self.is_healed or not owner.work(runtime):
                break
        owner.is_done = True
        snapshots.join()
        if self.chance.random() < 0.7:
            owner.close()

    def _reader(self, name: str, runtime: SimulatedRuntime) -> None:
        as_of = self.now()
        self._openings.append((name, as_of))
        client = self.bucket.client(runtime.process, is_near=self.swarm.is_near)
        reader, _ = self.attempt(
            name,
            "open",
            lambda: lsm.DbReader.open(
                "memory://",
                self.swarm.settings(),
                object_store=client,
                runtime=runtime,
                refresh_interval=self.swarm.reader_interval,
            ),
        )
        if reader is None:
            return
        least: Batch | None = None
        for _ in range(self.chance.randrange(3, 40)):
            if self.is_healed:
                break
            runtime.sleep(self.chance.expovariate(5.0))
            if self.chance.random() < 0.5:
                asked = self.now()
                _, error = self.attempt(name, "refresh", reader.refresh)
                as_of = asked if error is None else as_of
            rows, _ = self.attempt(name, "scan", lambda: self.some_view(reader))
            if rows is not None:
                least = self.check_view(name, rows, as_of, least)
                self.durable(least)
        self.attempt(name, "close", reader.close)

    def some_view(self, db: Any) -> Rows:
        """All rows as of one moment, one way or the other."""
        way = self.chance.randrange(3)
        if way == 0:
            return dict(db.scan())
        if way == 1:
            found = [tuple(row) for row in db.scan(order=lsm.IterationOrder.DESCENDING)]
            if found != sorted(found, reverse=True):
                self.report("reorder", f"a descending scan gave {found}")
            return dict(found)
        wanted = [MARK, *KEYS]
        return {key: value for key, value in zip(wanted, db.get_many(wanted), strict=True) if value is not None}

    # -- the second phase ---------------------------------------------------------------------------------------------

    def finish(self, runtime: SimulatedRuntime) -> None:
        for name in ("final", "final again"):
            db, as_of = self._open(name, runtime)
            if db is None:
                return
            owner = _Owner(self, name, db, as_of)
            if not owner.recover():
                return
            for _ in range(5):
                owner.write(runtime)
            owner.flush(lsm.FlushType.MEMTABLE)
            for _ in range(5):
                if self.swarm.engine["compaction_enabled"] and not db.wait_idle(60.0):
                    self.report("no progress", "compactions do not come to an end")
                owner.collect()
                if not self.objects.leaks():
                    break
                runtime.sleep(1.0)
            self.check_leaks()
            owner.view()
            owner.close()


class _Owner:
    """A writer's handle."""

    def __init__(self, world: RowsWorld, name: str, db: lsm.Db, as_of: int) -> None:
        self._world = world
        self._name = name
        self._db = db
        self._as_of = as_of
        self._head = world.root
        self.is_done = False

    def recover(self) -> bool:
        world = self._world
        rows, _ = world.attempt(self._name, "scan", lambda: dict(self._db.scan()))
        if rows is None:
            return False
        found = world.check_view(self._name, rows, self._as_of)
        if found is None:
            return False
        self._head = found
        world.durable(found)
        return True

    def work(self, runtime: SimulatedRuntime) -> bool:
        """One call. False where the handle is of no use any more."""
        chance = self._world.chance
        if chance.random() < 0.3:
            runtime.sleep(chance.expovariate(10.0))
        roll = chance.random()
        if roll < 0.7:
            return self.write(runtime)
        if roll < 0.85:
            return self.flush(chance.choice((lsm.FlushType.MEMTABLE, None)))
        if roll < 0.9:
            return self.collect()
        return self.view()

    def write(self, runtime: SimulatedRuntime) -> bool:
        world = self._world
        made, batch = world.batch(self._name, self._head)
        handle, error = world.attempt(self._name, "write", lambda: self._db.write(batch))
        if handle is None:
            return not isinstance(error, lsm.ClosedError)
        self._head = made
        if world.chance.random() < 0.2:
            _, error = world.attempt(
                self._name, "await_durable", lambda: handle.await_durable(30.0 if world.is_healed else 2.0)
            )
            if error is None:
                world.durable(made)
        return True

    def flush(self, kind: lsm.FlushType | None) -> bool:
        world, head = self._world, self._head
        if kind is None:
            is_logged = world.swarm.engine["wal_enabled"]
            kind = lsm.FlushType.WAL if is_logged else lsm.FlushType.MEMTABLE
        _, error = world.attempt(self._name, "flush", lambda: self._db.flush(kind))
        if error is None:
            world.durable(head)
        return not isinstance(error, lsm.ClosedError)

    def collect(self) -> bool:
        _, error = self._world.attempt(self._name, "collect_garbage", lambda: self._db.collect_garbage(min_age=0))
        return not isinstance(error, lsm.ClosedError)

    def view(self) -> bool:
        """Everything, on the thread that writes: nothing else can have changed it."""
        world, head = self._world, self._head
        rows, error = world.attempt(self._name, "scan", lambda: world.some_view(self._db))
        if rows is not None:
            found = world.check_view(self._name, rows, self._as_of, head)
            if found is not None and found is not head:
                world.report("phantom", f"{self._name}: shows {found} after {head}")
        return not isinstance(error, lsm.ClosedError)

    def keep_reading(self, runtime: SimulatedRuntime) -> None:
        """Snapshots beside the writing thread, each read twice, with time in between."""
        world = self._world
        while not (self.is_done or world.is_healed):
            runtime.sleep(world.chance.expovariate(4.0))
            snapshot, _ = world.attempt(self._name, "snapshot", self._db.snapshot)
            if snapshot is None:
                return
            first, _ = world.attempt(self._name, "scan", lambda taken=snapshot: world.some_view(taken))
            runtime.sleep(world.chance.expovariate(4.0))
            second, _ = world.attempt(self._name, "scan", lambda taken=snapshot: world.some_view(taken))
            if first is not None:
                world.check_view(self._name, first, self._as_of)
            if first is not None and second is not None and first != second:
                world.report("torn batch", f"{self._name}: a snapshot changed from {first} to {second}")
            world.attempt(self._name, "close", snapshot.close)

    def close(self) -> None:
        world, head = self._world, self._head
        _, error = world.attempt(self._name, "close", self._db.close)
        if error is None and self._db.durable_seq >= 0 and not self._was_fenced():
            world.durable(head)
            world.notes["closed"] += 1
        world.process_ended(self._name)

    def _was_fenced(self) -> bool:
        """A fenced handle closes without an error and without a flush."""
        return (
            "newer writer" in str(self._db.status().close_reason) or self._db.durable_seq < self._db.status().last_seq
        )
