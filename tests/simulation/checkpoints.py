"""Checkpoints made, refreshed and deleted while everything else goes on, and readers of what they pin.

A reader of a checkpoint sees the same entries at any time until it is over, and a clear error then: never a short answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lsm
import opendata_log
from lsm.testing.simulated import SimulatedRuntime
from tests.simulation.beside import OpenAdmin
from tests.simulation.world import World

PINNED_MAX = 12
OVER = (lsm.InvalidError, opendata_log.InvalidInputError)
"""What an open at a checkpoint that is over says. One that is overtaken while it reads says that its snapshot expired."""
EXPIRED = (*OVER, lsm.SnapshotExpiredError, opendata_log.SnapshotExpired)


@dataclass
class Content:
    """What a checkpoint pins, as the first reader found it. Shared by checkpoints made of each other."""

    as_of: int
    """What was durable then must be in it."""
    least: Any = None
    """What its maker had written by then must be in it, too."""
    found: Any = None


@dataclass(eq=False)
class Pinned:
    """A checkpoint that somebody has been given."""

    id: str
    content: Content = field(repr=False)


class PinnedReads:
    """How a world reads a checkpoint. `check` is asked about the first reading only."""

    def __init__(
        self,
        now: Callable[[], int],
        open_at: Callable[[SimulatedRuntime, str], Any],
        read: Callable[[Any], Any],
        check: Callable[[str, Any, Content], None],
    ) -> None:
        self.now, self.open_at, self.read, self.check = now, open_at, read, check


class Checkpoints:
    """Those who make checkpoints, and those who read them."""

    def __init__(self, world: World, open_admin: OpenAdmin, reads: PinnedReads) -> None:
        self._world = world
        self._open_admin = open_admin
        self._reads = reads
        self.pinned: list[Pinned] = []

    def made(self, checkpoint: lsm.Checkpoint, content: Content) -> Pinned:
        """Somebody was given this checkpoint."""
        self._world.notes["checkpoints"] += 1
        pinned = Pinned(checkpoint.id, content)
        self.pinned.append(pinned)
        if len(self.pinned) > PINNED_MAX:
            del self.pinned[0]
        return pinned

    def lifetime(self) -> float | None:
        return self._world.chance.choice((None, 0.5, 3.0, 20.0, 300.0))

    # -- from outside -------------------------------------------------------------------------------------------------

    def keeper(self, name: str, runtime: SimulatedRuntime) -> None:
        world, chance = self._world, self._world.chance
        with self._open_admin(runtime) as admin:
            for _ in range(chance.randrange(3, 30)):
                if world.is_healed:
                    break
                runtime.sleep(chance.expovariate(1.0))
                roll = chance.random()
                if roll < 0.5 or not self.pinned:
                    self._create(name, admin)
                elif roll < 0.75:
                    self._refresh(name, admin, chance.choice(self.pinned))
                else:
                    self.delete(name, admin, chance.choice(self.pinned).id)

    def _create(self, name: str, admin: lsm.Admin) -> None:
        world, chance = self._world, self._world.chance
        source = chance.choice(self.pinned) if self.pinned and chance.random() < 0.3 else None
        content = Content(self._reads.now()) if source is None else source.content
        lifetime, title, origin = self.lifetime(), chance.choice((None, "nightly")), source.id if source else None
        made, error = world.beside(
            name,
            "create_checkpoint",
            lambda: admin.create_detached_checkpoint(lifetime, title, origin),
            also=OVER if source else (),
        )
        if made is not None:
            self.made(made, content)
        self._check_over(name, "create_checkpoint", source, error)

    def _refresh(self, name: str, admin: lsm.Admin, pinned: Pinned) -> None:
        lifetime = self.lifetime()
        _, error = self._world.beside(
            name, "refresh_checkpoint", lambda: admin.refresh_checkpoint(pinned.id, lifetime), also=OVER
        )
        self._check_over(name, "refresh_checkpoint", pinned, error)

    def delete(self, name: str, admin: lsm.Admin, checkpoint_id: str) -> None:
        self._world.objects.released.add(checkpoint_id)
        self._world.beside(name, "delete_checkpoint", lambda: admin.delete_checkpoint(checkpoint_id))

    def _check_over(self, name: str, what: str, pinned: Pinned | None, error: Exception | None) -> None:
        """Whoever is told that a checkpoint is over is told the truth."""
        if isinstance(error, EXPIRED) and pinned is not None:
            self._world.notes["checkpoint over"] += 1
            if self._world.objects.has_checkpoint(pinned.id):
                self._world.report("false expiry", f"{name}: {what}: {pinned} is there: {error!r}")

    # -- readers ------------------------------------------------------------------------------------------------------

    def reader(self, name: str, runtime: SimulatedRuntime) -> None:
        world, chance = self._world, self._world.chance
        if not self.pinned:
            return
        pinned = chance.choice(self.pinned)
        handle, error = world.beside(
            name, "open at a checkpoint", lambda: self._reads.open_at(runtime, pinned.id), also=EXPIRED
        )
        self._check_over(name, "open", pinned, error)
        if handle is None:
            return
        for _ in range(chance.randrange(2, 12)):
            if world.is_healed:
                break
            found, error = world.beside(name, "read", lambda: self._reads.read(handle), also=EXPIRED)
            self._check_over(name, "read", pinned, error)
            if error is None:
                self._compare(name, pinned, found)
            runtime.sleep(chance.expovariate(2.0))
        world.beside(name, "close", handle.close)

    def _compare(self, name: str, pinned: Pinned, found: Any) -> None:
        content = pinned.content
        self._world.notes["checkpoint read"] += 1
        if content.found is None:
            content.found = found
            self._reads.check(name, found, content)
        elif found != content.found:
            self._world.report("checkpoint changed", f"{name}: {pinned} showed {content.found}, now {found}")

    # -- after the faults ---------------------------------------------------------------------------------------------

    def drop_all(self, name: str, runtime: SimulatedRuntime, kept: set[str]) -> None:
        """Whatever is left, those too whose id nobody was given, but those of clones."""
        with self._open_admin(runtime) as admin:
            listed, _ = self._world.beside(name, "list_checkpoints", admin.list_checkpoints)
            for each in listed or ():
                if each.id not in kept:
                    self.delete(name, admin, each.id)
