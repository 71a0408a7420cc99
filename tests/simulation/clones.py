"""Clones made and written while their source goes on, is compacted and collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lsm
from lsm.testing.scheduler import Process
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import SimulatedBucket
from tests.simulation.batches import History
from tests.simulation.beside import OpenAdmin
from tests.simulation.checkpoints import OVER, Checkpoints, Pinned
from tests.simulation.objects import ObjectWatch
from tests.simulation.owner import Owner

if TYPE_CHECKING:
    from tests.simulation.rows_world import RowsWorld

CLONES_MAX = 2


class Clone:
    """A database that begins with the source's tables, in a bucket of its own."""

    def __init__(self, world: RowsWorld, number: int, source: Pinned | None) -> None:
        url = f"simulated://clone{number}"
        self.bucket = SimulatedBucket(world.scheduler, world.bucket.faults, url=url)
        self.objects = ObjectWatch(self.bucket, world.report, parent=world.objects)
        self.history = History(world.report, world.openings.now, source=world.history)
        self.source = source
        self.as_of = world.openings.now() if source is None else source.content.as_of
        """What was durable in the source then must be in it."""
        self.checkpoint: str | None = None
        """The one in the source that keeps what this clone needs; None: it is not made yet."""
        self.is_given_up = False
        self.maker: Process | None = None
        """Who makes it. One at a time: the second of two would be refused."""

    @property
    def is_being_made(self) -> bool:
        return self.checkpoint is None and self.maker is not None and not self.maker.is_dead


class Clones:
    """Those who make clones, and those who write them."""

    def __init__(self, world: RowsWorld, open_admin: OpenAdmin, checkpoints: Checkpoints) -> None:
        self._world = world
        self._open_admin = open_admin
        self._checkpoints = checkpoints
        self.clones: list[Clone] = []

    def life(self, name: str, runtime: SimulatedRuntime) -> None:
        world, chance = self._world, self._world.chance
        clone = self._choose()
        if clone is None or not self._make(name, runtime, clone):
            return
        owner = self._open(name, runtime, clone)
        if owner is None:
            return
        for _ in range(chance.randrange(5, 60)):
            if world.is_healed or not owner.work(runtime):
                break
        if chance.random() < 0.7:
            owner.close()

    def _choose(self) -> Clone | None:
        world, chance = self._world, self._world.chance
        usable = [each for each in self.clones if not (each.is_given_up or each.is_being_made)]
        if usable and (len(self.clones) == CLONES_MAX or chance.random() < 0.7):
            return chance.choice(usable)
        if len(self.clones) == CLONES_MAX or world.objects.manifest is None:
            return None
        source = chance.choice([None, *self._checkpoints.pinned])
        clone = Clone(world, len(self.clones), source)
        world.buckets.append(clone.bucket)
        self.clones.append(clone)
        return clone

    def _make(self, name: str, runtime: SimulatedRuntime, clone: Clone) -> bool:
        """Make it, or go on where somebody was cut off."""
        if clone.checkpoint is not None:
            return True
        world, source = self._world, clone.source
        clone.maker = runtime.process
        client = clone.bucket.client(runtime.process, is_near=world.swarm.is_near)
        with self._open_admin(runtime) as admin:
            made, error = world.beside(
                name,
                "create_clone",
                lambda: admin.create_clone("memory://", source.id if source else None, object_store=client),
                also=OVER if source else (),
            )
        if source is not None and isinstance(error, OVER):
            clone.is_given_up = True
            if world.objects.has_checkpoint(source.id):
                world.report("false expiry", f"{name}: {source} is there: {error!r}")
        clone.maker = None
        if made is not None:
            world.notes["clones"] += 1
            clone.checkpoint = made.id
        return made is not None

    def _open(self, name: str, runtime: SimulatedRuntime, clone: Clone) -> Owner | None:
        """Open it, and check what is in it."""
        world = self._world
        parents = {world.bucket.url: world.bucket.client(runtime.process, is_near=world.swarm.is_near)}
        db, as_of = world.open_db(name, runtime, clone.bucket, parent_stores=parents)
        if db is None:
            return None
        if clone.history.root is None:
            rows, _ = world.attempt(name, "scan", lambda: dict(db.scan()))
            if rows is None:
                return None
            if clone.source is not None and clone.source.content.found not in (None, rows):
                world.report("checkpoint changed", f"{name}: a clone of {clone.source} begins with {rows}")
            clone.history.begin(world.history.check_view(name, rows, clone.as_of))
        owner = Owner(world, clone.history, name, db, as_of)
        return owner if owner.recover() else None

    # -- after the faults ---------------------------------------------------------------------------------------------

    def kept(self) -> set[str]:
        """The checkpoints that clones need, those of clones that nobody was told of included."""
        manifests = [each.objects.manifest for each in self.clones]
        return {manifest.database.hex() for manifest in manifests if manifest is not None}

    def finish(self, runtime: SimulatedRuntime) -> None:
        """Every clone has what it needs, leaves no garbage, and gives the source's tables back when it has its own."""
        world = self._world
        for number, clone in enumerate(self.clones):
            name, manifest = f"final clone {number}", clone.objects.manifest
            if manifest is None:
                continue
            clone.checkpoint = manifest.database.hex()
            owner = self._open(name, runtime, clone)
            if owner is None:
                world.report("no progress", f"{name} cannot be opened")
                return
            owner.write(runtime)
            owner.flush(lsm.FlushType.MEMTABLE)
            if world.swarm.engine["compaction_enabled"]:
                world.attempt(name, "compact", owner.db.compact)
            world.quiet(clone.objects, runtime, lambda owner=owner: owner.settle(), owner.collect)
            if not clone.objects.needs_of_parent() and world.objects.has_checkpoint(clone.checkpoint):
                world.report("leak", f"{name} has tables of its own, and {clone.checkpoint} is still kept for it")
            owner.view()
            owner.close()
