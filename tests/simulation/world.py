"""A deployment under a seed: processes come, go, die and stall, and two phases. In the first one faults are on. In the second
they are healed, and the database must go on, hold everything it promised, and leave no garbage.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import lsm
import opendata_log
from lsm.testing.scheduler import Process, Scheduler, SimulationStuck, Task
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import ServiceError, SimulatedBucket
from tests.simulation.objects import ObjectWatch
from tests.simulation.openings import Openings
from tests.simulation.swarm import OP_TIMEOUT, Swarm

T = TypeVar("T")
HEALED_SECONDS = 20 * OP_TIMEOUT
"""Virtual time after the healing in which every call under way must have come back."""
FINAL_SECONDS = 60 * OP_TIMEOUT
IDLE_SECONDS = 60.0
EXPECTED = (
    lsm.UnavailableError,
    lsm.ClosedError,
    opendata_log.StorageError,
    opendata_log.ClosedError,
    opendata_log.QueueFullError,
    TimeoutError,
)
"""What a store that fails, a newer owner and a close may bring. Everything else is a finding."""
HANDLED: tuple[tuple[type[Exception], tuple[Any, ...]], ...] = (
    (FileNotFoundError, (2, "No such file or directory")),
    (FileExistsError, (17, "File exists")),
    (PermissionError, (13, "Permission denied")),
    (ServiceError, (404, "NoSuchKey", "the caller's own")),
    (ServiceError, (404, "NoSuchBucket", "the caller's own")),
    (ServiceError, (412, "PreconditionFailed", "the caller's own")),
    (ServiceError, (403, "AccessDenied", "the caller's own")),
)
"""Errors a caller may be handling."""


@dataclass
class Outcome:
    """One run of one seed."""

    seed: int
    steps: int
    seconds: float
    trace: str
    anomalies: list[tuple[str, str]]
    faults: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


class World:
    """Scheduler, bucket and processes of one run. Subclasses bring the database and its checker."""

    def __init__(self, swarm: Swarm, steps: int) -> None:
        self.swarm = swarm
        self.steps = steps
        self.scheduler = Scheduler(
            swarm.seed, points_per_switch=swarm.points_per_switch, leap_probability=swarm.leap_probability
        )
        self.chance = self.scheduler.random
        self.bucket = SimulatedBucket(self.scheduler, swarm.make_faults())
        self.buckets = [self.bucket]
        self.objects = ObjectWatch(self.bucket, self.report)
        self.openings = Openings()
        self._wall_offsets = [(0.0, self.scheduler.wall_offset_ms)]
        self.actors = self.scheduler.process("actors")
        self.alive: list[Process] = []
        self.notes: Counter[str] = Counter()
        self.is_healed = False
        self.anomalies: list[tuple[str, str]] = []

    def report(self, kind: str, detail: str) -> None:
        """An anomaly ends the first phase."""
        self.anomalies.append((kind, f"{detail} [step {self.scheduler.steps}]"))
        self.is_healed = True

    # -- processes ----------------------------------------------------------------------------------------------------

    def start_process(self, name: str, life: Callable[[SimulatedRuntime], None]) -> Task:
        """A process that lives as long as `life` runs, or until it is killed."""
        process = self.scheduler.process(name)
        runtime = SimulatedRuntime(self.scheduler, process, cores=self.swarm.cores)
        if self.swarm.clock_jumps:
            runtime.skew_ms = self.chance.choice((0, 0, -3_600_000, 3_600_000, 315_360_000_000))
        self.alive.append(process)
        return self.scheduler.spawn(name, lambda: life(runtime), process)

    def succession(self, name: str, life: Callable[[str, SimulatedRuntime], None]) -> Callable[[], None]:
        """One process after the other."""

        def run() -> None:
            turn = 0
            while not self.is_healed:
                turn += 1
                self.sleep(self.chance.random() * self.swarm.takeover_seconds)
                if self.is_healed:
                    return
                title = f"{name}.{turn}"
                task = self.start_process(title, lambda runtime, title=title: life(title, runtime))
                task.join()
                self.process_ended(title)
                self.end_process(task.process)

        return run

    def successions(
        self, crowds: Iterable[tuple[int, str, Callable[[str, SimulatedRuntime], None]]]
    ) -> list[tuple[str, Callable[[], None]]]:
        """So many at a time of each kind."""
        names = [(f"{letter}{at}", life) for count, letter, life in crowds for at in range(count)]
        return [(name, self.succession(name, life)) for name, life in names]

    def process_ended(self, title: str) -> None:
        """A process of a succession has come to its end, or died."""
        self.openings.end(title)

    def end_process(self, process: Process) -> None:
        """It exits, whatever it was doing."""
        if process in self.alive:
            self.alive.remove(process)
        if not process.is_dead:
            self.scheduler.kill(process)

    def sleep(self, seconds: float) -> None:
        self.scheduler.wait(seconds)

    # -- calls of the product -----------------------------------------------------------------------------------------

    def called(self, call: Callable[[], T]) -> T:
        """Its result. In some seeds from inside an `except` block: an error that the caller is handling says nothing about
        what the store answers."""
        if not self.swarm.handles_errors:
            return call()
        kind, arguments = self.chance.choice(HANDLED)
        try:
            raise kind(*arguments)
        except Exception:
            return call()

    def beside(
        self, who: str, what: str, call: Callable[[], T], *, also: tuple[type[Exception], ...] = ()
    ) -> tuple[T | None, Exception | None]:
        """The answer, or the error, which must be one that faults may bring, or one of `also`."""
        try:
            return self.called(call), None
        except (*EXPECTED, *also) as error:
            self.notes[type(error).__name__] += 1
            if who.startswith("final") and not isinstance(error, also):
                self.report("no progress", f"{what} failed without faults: {error!r}")
            return None, error
        except Exception as error:
            self.report("unexpected error", f"{who}: {what}: {error!r} from {error.__cause__!r}")
            return None, error

    # -- the two phases -----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        try:
            self._first_phase()
            self._heal()
            if not self.anomalies:
                self._second_phase()
        except SimulationStuck as stuck:
            self.report("hang", str(stuck))
        finally:
            self.scheduler.shut_down()
        for name, error in self.scheduler.failures:
            self.report("thread died", f"{name}: {error!r}")
        return Outcome(
            self.swarm.seed,
            self.scheduler.steps,
            self.scheduler.monotonic(),
            self.scheduler.trace_hash(),
            self.anomalies,
            sum((bucket.injected for bucket in self.buckets), Counter()),
            sum((bucket.calls for bucket in self.buckets), Counter()),
            self.notes,
        )

    def actor_lives(self) -> list[tuple[str, Callable[[], None]]]:
        """What goes on in the first phase."""
        raise NotImplementedError

    def finish(self, runtime: SimulatedRuntime) -> None:
        """The second phase, in a process of its own."""
        raise NotImplementedError

    def _first_phase(self) -> None:
        scheduler = self.scheduler
        tasks = [scheduler.spawn(name, life, self.actors) for name, life in self.actor_lives()]
        tasks.append(scheduler.spawn("mischief", self._mischief, self.actors))
        while scheduler.steps < self.steps and not self.is_healed:
            self.sleep(0.05)
        self._tasks = tasks

    def _heal(self) -> None:
        scheduler = self.scheduler
        self.is_healed = True
        faults = self.bucket.faults
        faults.probability = faults.burst_probability = faults.crash_probability = faults.slow_probability = 0.0
        faults.listing_lag = 0.0
        for bucket in self.buckets:
            bucket.outages.clear()
            bucket.in_pairs.clear()
        scheduler.leap_probability = 0.0
        for process in self.alive:
            process.paused_until = 0.0
        since = scheduler.monotonic()
        for task in self._tasks:
            task.join(max(0.0, since + HEALED_SECONDS - scheduler.monotonic()))
        late = [task.name for task in self._tasks if task.is_alive()]
        if late and not self.anomalies:
            waiting = [f"{each.process.name}/{each.name}" for process in self.alive for each in process.tasks]
            self.report("hang", f"{late} did not end {HEALED_SECONDS} s after the faults; alive: {waiting}")
        self.end_process(self.actors)
        for process in list(self.alive):
            self.end_process(process)

    def _second_phase(self) -> None:
        while any(bucket.late_writes for bucket in self.buckets):
            self.sleep(1.0)
        task = self.start_process("final", self.finish)
        task.join(FINAL_SECONDS)
        if task.is_alive():
            waiting = [each.name for each in task.process.tasks]
            self.report("no progress", f"the last process is still at it after {FINAL_SECONDS} s: {waiting}")
        elif task.process.is_dead:
            self.report("no progress", "the last process died")
        self.end_process(task.process)

    @property
    def wall_offset_max(self) -> int:
        """The furthest the store's clock has been ahead."""
        return max(offset for _, offset in self._wall_offsets)

    def lowest_wall_ms(self, since: float) -> int:
        """The least that the store's clock can have shown between that virtual moment and now."""
        at = max(at for at, (when, _) in enumerate(self._wall_offsets) if when <= since)
        return min(offset for _, offset in self._wall_offsets[at:]) + int(since * 1000)

    def quiet(
        self, objects: ObjectWatch, runtime: SimulatedRuntime, settle: Callable[[], bool], collect: Callable[[], object]
    ) -> None:
        """Compact and collect until there is nothing more to do: then no claim and no garbage may be left."""
        for _ in range(6):
            # What is flushed or compacted meanwhile leaves garbage of its own.
            if not settle():
                self.report("no progress", "compactions do not come to an end")
            collect()
            if not (objects.leaks() or objects.claims()):
                return
            runtime.sleep(1.0)
        leaks, claims = objects.leaks(), objects.claims()
        self.report("leak", f"nothing refers to {leaks}; claims {claims} of {objects.bucket.url}")

    # -- mischief -----------------------------------------------------------------------------------------------------

    def _mischief(self) -> None:
        swarm, chance, scheduler = self.swarm, self.chance, self.scheduler
        while not self.is_healed:
            self.sleep(chance.expovariate(2.0))
            victims = [process for process in self.alive if not process.is_dead]
            if not victims or self.is_healed:
                continue
            victim = chance.choice(victims)
            if chance.random() < swarm.kill_probability:
                self.notes["killed"] += 1
                scheduler.at_step(scheduler.steps + chance.randrange(200), lambda victim=victim: self._kill(victim))
            if chance.random() < swarm.pause_probability:
                self.notes["paused"] += 1
                scheduler.pause(victim, chance.random() * swarm.pause_seconds)
            if swarm.clock_jumps and chance.random() < 0.2:
                self.notes["clock jump"] += 1
                scheduler.wall_offset_ms += chance.choice((-1000, 1000, -3_600_000, 3_600_000, -315_360_000_000))
                self._wall_offsets.append((scheduler.monotonic(), scheduler.wall_offset_ms))

    def _kill(self, process: Process) -> None:
        if not process.is_dead and not self.is_healed:
            self.scheduler.kill(process)


def run_world(make: Callable[[], World]) -> Outcome:
    """One run. The interpreter's collector of cycles is off meanwhile, or its timing would show in what is alive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return make().run()
    finally:
        if was_on:
            gc.enable()
