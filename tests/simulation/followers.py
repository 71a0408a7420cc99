"""Those who follow a log: every entry once, in order, from wherever the one before them stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lsm.testing.simulated import SimulatedRuntime
from tests.simulation.ledger import Consumer, Entry, Handle

if TYPE_CHECKING:
    from tests.simulation.log_world import LogWorld


class Followers:
    """Followers of one key and of all of them, on readers and on writers."""

    def __init__(self, world: LogWorld) -> None:
        self._world = world
        self.consumers = [Consumer(world.ledger, key) for key in world.keys]
        self.consumers.append(Consumer(world.ledger, *world.keys))
        self._busy: set[Consumer] = set()

    def life(self, name: str, runtime: SimulatedRuntime) -> None:
        """A reader's process that does nothing else."""
        world = self._world
        handle, log = world.open_reader(name, runtime)
        if log is None:
            return
        for _ in range(world.chance.randrange(1, 4)):
            if not world.is_healed:
                self.resume(handle, log)
        world.attempt(handle, "close", log.close)

    def resume(self, handle: Handle, log: Any) -> None:
        """Go on with one that nobody is at, on a handle that shows only what is durable."""
        consumer = self._world.chance.choice(self.consumers)
        if consumer in self._busy:
            return
        self._busy.add(consumer)
        try:
            self._follow(handle, log, consumer)
        finally:
            self._busy.discard(consumer)

    def beside_appends(self, handle: Handle, log: Any) -> None:
        """On the writer's handle, which may show what is not durable: nobody else can go on from there."""
        world = self._world
        keys = world.chance.choice(([world.chance.choice(world.keys)], world.keys))
        consumer = Consumer(world.ledger, *keys)
        consumer.position = max(0, handle.watermark - world.chance.randrange(20))
        self._follow(handle, log, consumer)

    def _follow(self, handle: Handle, log: Any, consumer: Consumer) -> None:
        world, chance = self._world, self._world.chance
        timeout = chance.choice((0.1, 0.5, 2.0))
        first = at = consumer.position
        follower, _ = world.attempt(handle, "follow", lambda: self._open(log, consumer, timeout))
        if follower is None:
            return
        taken: list[Entry] = []
        with follower:
            for _ in range(chance.randrange(1, 12)):
                if world.is_healed:
                    break
                count = chance.choice((1, 3, 100))
                found, _ = world.attempt(handle, "follow", lambda n=count: follower.fetchmany(n))
                if found is None:
                    continue  # No error ends a follower.
                if world.see_floor(handle, log) is None:
                    break
                entries = [(each.key, (each.sequence, each.value)) for each in found]
                consumer.took(handle, at, entries, follower.next_sequence)
                at = follower.next_sequence
                taken += [entry for _, entry in entries]
                world.notes["followed"] += len(entries)
            self._compare(handle, log, consumer.keys, first, at, taken)

    def _open(self, log: Any, consumer: Consumer, timeout: float) -> Any:
        start = consumer.position
        if len(consumer.keys) == 1:
            return log.follow(consumer.key, start, timeout=timeout)
        if self._world.chance.random() < 0.5:
            return log.follow_all(consumer.keys, start, timeout=timeout)
        return log.follow_all(None, start, prefix=b"key", timeout=timeout)

    def _compare(
        self, handle: Handle, log: Any, keys: tuple[bytes, ...], first: int, end: int, taken: list[Entry]
    ) -> None:
        """What was followed is what a scan of the same handle finds there."""
        world = self._world
        scanned: list[Entry] = []
        for key in keys:
            found, _ = world.attempt(
                handle, "scan", lambda key=key: [(each.sequence, each.value) for each in log.scan(key, first, end)]
            )
            if found is None:
                return
            scanned += found
        if world.see_floor(handle, log) is None:
            return
        missed = sorted(entry for entry in set(scanned) - set(taken) if entry[0] >= handle.floor)
        gone = sorted(entry for entry in set(taken) - set(scanned) if entry[0] >= handle.floor)
        if missed or gone:
            world.report("skip", f"{handle.name}: followed {keys} in [{first}, {end}): missed {missed}, gone {gone}")
