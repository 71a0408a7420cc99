"""Writers that take a plain `lsm.Db` over from each other, readers, compactors, collectors, checkpoints and clones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import lsm
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import SimulatedBucket
from tests.simulation.batches import MARK, Batch, History, Rows
from tests.simulation.beside import Collectors, Compactors
from tests.simulation.checkpoints import Checkpoints, Content, PinnedReads
from tests.simulation.clones import Clones
from tests.simulation.owner import KEYS, Owner
from tests.simulation.swarm import Swarm
from tests.simulation.world import EXPECTED, World

T = TypeVar("T")


class RowsWorld(World):
    """The checker is the tree of batches: see batches.py."""

    def __init__(self, swarm: Swarm, steps: int) -> None:
        super().__init__(swarm, steps)
        self.history = History(self.report, self.openings.now)
        self.compactors = Compactors(self, self._open_compactor, takes_back=bool(swarm.engine["compaction_enabled"]))
        self.collectors = Collectors(self, self._open_admin)
        reads = PinnedReads(self.openings.now, self._open_at, self.some_view, self._check_pinned)
        self.checkpoints = Checkpoints(self, self._open_admin, reads)
        self.clones = Clones(self, self._open_admin, self.checkpoints)

    def actor_lives(self) -> list[tuple[str, Callable[[], None]]]:
        swarm = self.swarm
        crowds = (
            (swarm.writers, "w", self._writer),
            (swarm.readers, "r", self._reader),
            (swarm.compactors, "c", self.compactors.life),
            (swarm.collectors, "g", self.collectors.life),
            (swarm.keepers, "k", self.checkpoints.keeper),
            (swarm.keepers, "p", self.checkpoints.reader),
            (swarm.cloners, "n", self.clones.life),
        )
        return self.successions(crowds)

    # -- opening ------------------------------------------------------------------------------------------------------

    def _parts(self, runtime: SimulatedRuntime, bucket: SimulatedBucket | None = None) -> dict[str, Any]:
        client = (bucket or self.bucket).client(runtime.process, is_near=self.swarm.is_near)
        return {"settings": self.swarm.settings(), "object_store": client, "runtime": runtime}

    def _open_admin(self, runtime: SimulatedRuntime) -> lsm.Admin:
        return lsm.Admin("memory://", **self._parts(runtime))

    def _open_compactor(self, runtime: SimulatedRuntime) -> lsm.DbCompactor:
        return lsm.DbCompactor.open("memory://", poll_interval=self.swarm.compactor_interval, **self._parts(runtime))

    def _open_at(self, runtime: SimulatedRuntime, checkpoint: str) -> lsm.DbReader:
        return lsm.DbReader.open("memory://", checkpoint=checkpoint, **self._parts(runtime))

    def _check_pinned(self, name: str, rows: Rows, content: Content) -> None:
        self.history.durable(self.history.check_view(name, rows, content.as_of, content.least))

    def open_db(
        self, name: str, runtime: SimulatedRuntime, bucket: SimulatedBucket | None = None, **parts: Any
    ) -> tuple[lsm.Db | None, int]:
        """A writer's handle, and the moment before it was opened."""
        as_of = self.openings.begin(name, "writer", (bucket or self.bucket).url)
        db, _ = self.attempt(name, "open", lambda: lsm.Db.open("memory://", **self._parts(runtime, bucket), **parts))
        return db, as_of

    # -- calls --------------------------------------------------------------------------------------------------------

    def attempt(self, who: str, what: str, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        try:
            return self.called(call), None
        except lsm.FencedError as error:
            if not self.openings.has_rival(who, ("writer",)):
                self.report("false fence", f"{who}: {what}: nobody else opened it: {error}")
            self.notes["fenced"] += 1
            return None, error
        except EXPECTED as error:
            self.notes[type(error).__name__] += 1
            if isinstance(error, lsm.SnapshotExpiredError) and self._only_own_collector(who):
                self.report("unexpected error", f"{who}: {what}: its own collector took what it reads: {error!r}")
            if who.startswith("final"):
                self.report("no progress", f"{what} failed without faults: {error!r}")
            return None, error
        except Exception as error:
            self.report("unexpected error", f"{who}: {what}: {error!r} from {error.__cause__!r}")
            return None, error

    def _only_own_collector(self, who: str) -> bool:
        """Rule G4: the collector of a writer's process spares what is read there."""
        is_writer = self.openings.kind(who) == "writer"
        return is_writer and not self.swarm.collectors and not self.openings.has_rival(who, ("writer",))

    def _writer(self, name: str, runtime: SimulatedRuntime) -> None:
        db, as_of = self.open_db(name, runtime)
        if db is None:
            return
        self.notes["opened"] += 1
        owner = Owner(self, self.history, name, db, as_of)
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
        as_of = self.openings.begin(name, "reader", self.bucket.url)
        parts = self._parts(runtime)
        reader, _ = self.attempt(
            name,
            "open",
            lambda: lsm.DbReader.open("memory://", refresh_interval=self.swarm.reader_interval, **parts),
        )
        if reader is None:
            return
        least: Batch | None = None
        for _ in range(self.chance.randrange(3, 40)):
            if self.is_healed:
                break
            runtime.sleep(self.chance.expovariate(5.0))
            if self.chance.random() < 0.5:
                asked = self.openings.now()
                _, error = self.attempt(name, "refresh", reader.refresh)
                as_of = asked if error is None else as_of
            rows, _ = self.attempt(name, "scan", lambda: self.some_view(reader))
            if rows is not None:
                least = self.history.check_view(name, rows, as_of, least)
                self.history.durable(least)
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
        self.clones.finish(runtime)
        for name in ("final", "final again"):
            db, as_of = self.open_db(name, runtime)
            if db is None:
                return
            owner = Owner(self, self.history, name, db, as_of)
            if not owner.recover():
                return
            for _ in range(5):
                owner.write(runtime)
            owner.flush(lsm.FlushType.MEMTABLE)
            self.checkpoints.drop_all(name, runtime, self.clones.kept())
            self.quiet(self.objects, runtime, lambda owner=owner: self._settle(owner, runtime), owner.collect)
            owner.view()
            owner.close()

    def _settle(self, owner: Owner, runtime: SimulatedRuntime) -> bool:
        if self.swarm.engine["compaction_enabled"] or not self.swarm.compactors:
            return owner.settle()
        return self.compactors.settle(f"final compactor {self.openings.now()}", runtime)
