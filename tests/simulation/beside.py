"""Processes beside the writers: compactors that take each other over, and collectors, several at once."""

from __future__ import annotations

from collections.abc import Callable

import lsm
from lsm.testing.simulated import SimulatedRuntime
from tests.simulation.world import IDLE_SECONDS, World

OpenCompactor = Callable[[SimulatedRuntime], lsm.DbCompactor]
OpenAdmin = Callable[[SimulatedRuntime], lsm.Admin]


class Compactors:
    """Standalone compactors. `takes_back`: a writer that opens takes compaction over, too."""

    def __init__(self, world: World, open_compactor: OpenCompactor, *, takes_back: bool) -> None:
        self._world = world
        self._open = open_compactor
        self._rivals = ("compactor", "writer") if takes_back else ("compactor",)

    def _call(self, name: str, what: str, call: Callable[[], object]) -> Exception | None:
        _, error = self._world.beside(name, what, call)
        if isinstance(error, lsm.FencedError):
            self._world.notes["compactor fenced"] += 1
            if not self._world.openings.has_rival(name, self._rivals):
                self._world.report("false fence", f"{name}: nobody else took compaction over: {error}")
        return error

    def open(self, name: str, runtime: SimulatedRuntime) -> lsm.DbCompactor | None:
        self._world.openings.begin(name, "compactor", self._world.bucket.url)
        compactor, _ = self._world.beside(name, "open", lambda: self._open(runtime))
        return compactor

    def life(self, name: str, runtime: SimulatedRuntime) -> None:
        world, chance = self._world, self._world.chance
        compactor = self.open(name, runtime)
        if compactor is None:
            return
        world.notes["compactors"] += 1
        for _ in range(chance.randrange(1, 10)):
            seconds = chance.choice((0.2, 1.0, 5.0))
            if world.is_healed or self._call(name, "run_once", lambda s=seconds: compactor.run_once(s)):
                break
            runtime.sleep(chance.expovariate(3.0))
        world.notes["compactions"] += compactor.committed
        if chance.random() < 0.7:
            self._call(name, "close", compactor.close)

    def settle(self, name: str, runtime: SimulatedRuntime) -> bool:
        """After the faults: compact until nothing is due."""
        compactor = self.open(name, runtime)
        if compactor is None:
            return False
        is_done = False

        def run() -> None:
            nonlocal is_done
            is_done = compactor.run_once(IDLE_SECONDS)

        self._call(name, "run_once", run)
        self._call(name, "close", compactor.close)
        self._world.openings.end(name)
        return is_done


class Collectors:
    """Hostile ones: nothing is too young for them, and any of them may stall anywhere."""

    def __init__(self, world: World, open_admin: OpenAdmin) -> None:
        self._world = world
        self._open = open_admin

    def life(self, name: str, runtime: SimulatedRuntime) -> None:
        world, chance = self._world, self._world.chance
        with self._open(runtime) as admin:
            for _ in range(chance.randrange(3, 60)):
                if world.is_healed:
                    break
                runtime.sleep(chance.expovariate(2.0))
                min_age = chance.choice((0.0, 0.0, 0.0, 1.0))
                found, _ = world.beside(name, "gc", lambda age=min_age: admin.run_gc_once(min_age=age))
                world.notes["collected elsewhere"] += len(found or ())
