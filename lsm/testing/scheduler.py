"""A deterministic scheduler: one real thread runs at a time, chosen by a seed, and virtual time passes while all wait.

It runs plain blocking code unchanged. Every lock, wait, sleep and store request is a scheduling point. At some of these points,
drawn from the seed, another task goes on. The same seed makes the same choices, so a run can be repeated bit for bit, if the
code under test takes time, randomness and threads from a `SimulatedRuntime` (simulated.py).

A process can be killed at any scheduling point. Then `ProcessKilled` unwinds its tasks one after the other. Every further
scheduling point raises it again, so the tasks' error handling has no effect.
"""

from __future__ import annotations

import _thread
import hashlib
import heapq
import random
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

MICROSECOND = 1e-6
STACK_BYTES = 256 << 10
LEAP_SECONDS_MAX = 300.0
"""Maximum seconds that time leaps ahead while a task could run. A longer leap would make that task's call look hung."""


class ProcessKilled(BaseException):
    """The simulated process is dead. Not an Exception, so that error handling does not catch it."""


class SimulationStuck(Exception):
    """Every task waits and no timer is set, which is a deadlock of the code under test."""


class Process:
    """A simulated process: a group of tasks that are killed together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.paused_until = 0.0
        self.tasks: list[Task] = []


class Task:
    """A thread under the scheduler. `Runtime.spawn` returns it."""

    def __init__(self, scheduler: Scheduler, number: int, name: str, process: Process) -> None:
        self.number = number
        self.name = name
        self.process = process
        self.gate = _thread.allocate_lock()
        self.target: Callable[[], None] | None = None
        self.is_done = False
        self.is_waiting = False
        self.wait_id = 0
        self.was_notified = False
        self._scheduler = scheduler
        self._joiners: list[Task] = []
        self.unwinder: Task | None = None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the task has ended."""
        scheduler = self._scheduler
        deadline = None if timeout is None else scheduler.monotonic() + timeout
        while not self.is_done:
            if deadline is not None and scheduler.monotonic() >= deadline:
                return
            self._joiners.append(scheduler.current)
            scheduler.wait(None if deadline is None else deadline - scheduler.monotonic())

    def is_alive(self) -> bool:
        return not self.is_done

    def ended(self) -> None:
        """Mark the task as ended, and wake the tasks that join it."""
        self.is_done = True
        joiners, self._joiners = self._joiners, []
        for joiner in joiners:
            self._scheduler.make_ready(joiner)


class _Carrier:
    """An operating-system thread that runs one task after another."""

    def __init__(self) -> None:
        self.gate = _thread.allocate_lock()
        self.gate.acquire()
        self.task: Task | None = None
        _thread.start_new_thread(self._serve, ())

    def _serve(self) -> None:
        sys.settrace(threading.gettrace())  # As in `threading`, so that debuggers and coverage work here.
        while True:
            self.gate.acquire()
            task, self.task = self.task, None
            assert task is not None
            following = task._scheduler.run_to_end(task)
            del task
            _idle.append(self)  # Before the next task runs, because that task may give this carrier a new one.
            following.release()
            del following


_idle: list[_Carrier] = []


class Scheduler:
    """Runs one task at a time. The thread that makes it is its first task, in the process "driver", which cannot be killed."""

    def __init__(self, seed: int, *, points_per_switch: float = 6.0, leap_probability: float = 0.0) -> None:
        """`points_per_switch`: mean number of scheduling points that a task passes before another task may go on.
        `leap_probability`: probability, at a switch, that time leaps to the next timer although a task could run."""
        self.random = random.Random(seed)
        self.steps = 0
        self.next_decision = 0
        self.switches = 0
        self.failures: list[tuple[str, BaseException]] = []
        self.wall_offset_ms = 1_700_000_000_000
        self.driver = Process("driver")
        self._points_per_switch = points_per_switch
        self.leap_probability = leap_probability
        self._base = 0.0
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Task | None, int, Callable[[], None] | None]] = []
        self._timer_number = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._task_number = 0
        self._trace: list[int] = []
        self._is_stuck = False
        self._processes: list[Process] = []
        self.current = self._main = Task(self, 0, "driver", self.driver)
        self._main.gate.acquire()
        self._schedule_decision()

    # -- time ---------------------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Return virtual seconds. Each scheduling point takes a microsecond."""
        return self._base + self.steps * MICROSECOND

    def now_ms(self) -> int:
        """Return the virtual wall clock. Change `wall_offset_ms` to make it jump."""
        return self.wall_offset_ms + int(self.monotonic() * 1000)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` after `seconds`, between two steps of the task that runs then. `action` must not block."""
        self._add_timer(self.monotonic() + seconds, None, action)

    def at_step(self, step: int, action: Callable[[], None]) -> None:
        """Run `action` at the first scheduling point from step `step` on."""
        self._timer_number += 1
        heapq.heappush(self._events, (step, self._timer_number, action))
        self.next_decision = min(self.next_decision, step)

    # -- the trace ----------------------------------------------------------------------------------------------------

    def note(self, fact: int) -> None:
        """Add a fact, such as a store call, to the trace."""
        self._trace.append(fact)

    def trace_hash(self) -> str:
        """Return a hash of the run. Two runs with the same decisions and noted facts in the same order have the same hash."""
        return hashlib.sha256(repr((self._trace, self.steps, self._base)).encode()).hexdigest()

    # -- tasks --------------------------------------------------------------------------------------------------------

    def spawn(self, name: str, target: Callable[[], None], process: Process) -> Task:
        """Make a task that is ready to run."""
        if process.is_dead:
            raise ProcessKilled(process.name)
        self._task_number += 1
        task = Task(self, self._task_number, name, process)
        task.target = target
        process.tasks.append(task)
        self._ready.append(task)
        return task

    def run_to_end(self, task: Task) -> Any:
        """Run the task's target on its own thread. Return the gate of the task that runs next."""
        target, task.target = task.target, None
        assert target is not None
        try:
            if not task.process.is_dead:
                target()
        except ProcessKilled:
            pass
        except BaseException as error:
            if not task.process.is_dead:
                self.failures.append((task.name, error))
        del target
        task.ended()
        task.process.tasks.remove(task)
        following = task.unwinder or self._next()
        self.current = following
        self._trace.append(following.number)
        return self._gate_of(following)

    def point(self) -> None:
        """Pass a scheduling point: another task may run now. Raises: ProcessKilled."""
        self.steps += 1
        if self.steps >= self.next_decision:
            self.decide()
        if self.current.process.is_dead:
            raise ProcessKilled(self.current.process.name)

    def decide(self) -> None:
        """Run a task that the seed chooses, perhaps the current one."""
        me = self.current
        self._schedule_decision()
        if me.process.is_dead:
            raise ProcessKilled(me.process.name)
        while self._events and self._events[0][0] <= self.steps:
            heapq.heappop(self._events)[2]()
        self._fire_timers()
        may_leap = self._ready and self._timers and self.random.random() < self.leap_probability
        if may_leap and self._timers[0][0] - self.monotonic() < LEAP_SECONDS_MAX:
            self._leap_to_next_timer()
        if self._ready or me.process.paused_until > self.monotonic():
            self._ready.append(me)
            self._switch(self._next())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `make_ready`, or for `timeout` seconds. Return False after the timeout."""
        me = self.current
        if me.process.is_dead:
            raise ProcessKilled(me.process.name)
        self.steps += 1
        me.is_waiting = True
        me.was_notified = False
        me.wait_id += 1
        if timeout is not None:
            self._add_timer(self.monotonic() + max(timeout, 0.0), me, None)
        self._switch(self._next())
        return me.was_notified

    def make_ready(self, task: Task) -> None:
        """End the task's wait."""
        if task.is_waiting and not task.process.is_dead:
            task.is_waiting = False
            task.was_notified = True
            self._ready.append(task)

    # -- processes ----------------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        """Make a process. Pass it to all runtimes and stores that should be killed together."""
        made = Process(name)
        self._processes.append(made)
        return made

    def kill(self, process: Process) -> None:
        """Stop every task of the process for ever. A timer (`at`) must not call it.

        Raises: ProcessKilled, if the current task belongs to the process.
        """
        if process is self.driver:
            raise ValueError("the driver of a simulation cannot be killed")
        process.is_dead = True
        self.next_decision = 0
        me = self.current
        self._ready = [task for task in self._ready if task.process is not process]
        for task in list(process.tasks):
            if task.target is not None:
                task.target = None
                task.ended()
                process.tasks.remove(task)
            elif task is not me:
                task.unwinder = me
                task.is_waiting = False
                self._hand_to(task)
        if me.process is process:
            raise ProcessKilled(process.name)

    def shut_down(self) -> None:
        """End every task except the driver. Requires: the driver calls it."""
        for process in self._processes:
            if not process.is_dead:
                self.kill(process)

    def pause(self, process: Process, seconds: float) -> None:
        """Stop the process's tasks for `seconds`, as SIGSTOP would."""
        if process is not self.driver:
            process.paused_until = self.monotonic() + seconds
            self._add_timer(process.paused_until, None, _nothing)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _schedule_decision(self) -> None:
        mean = self._points_per_switch
        self.next_decision = self.steps + 1 + int(self.random.expovariate(1.0 / mean)) if mean > 0 else self.steps + 1
        if self._events:
            self.next_decision = min(self.next_decision, max(self._events[0][0], self.steps + 1))

    def _add_timer(self, when: float, task: Task | None, action: Callable[[], None] | None) -> None:
        self._timer_number += 1
        wait_id = task.wait_id if task is not None else 0
        heapq.heappush(self._timers, (when, self._timer_number, task, wait_id, action))

    def _fire_timers(self) -> None:
        now = self.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, task, wait_id, action = heapq.heappop(self._timers)
            if action is not None:
                action()
            elif task is not None and task.is_waiting and task.wait_id == wait_id:
                task.is_waiting = False
                if not task.process.is_dead:
                    self._ready.append(task)

    def _leap_to_next_timer(self) -> None:
        self._base += max(0.0, self._timers[0][0] - self.monotonic())
        self._fire_timers()

    def _next(self) -> Task:
        """Remove a task from the ready ones and return it. Advance time until one is ready."""
        while True:
            ready = self._ready
            now = self.monotonic()
            count = len(ready)
            if count:
                at = int(self.random.random() * count)
                for turn in range(count):
                    task = ready[(at + turn) % count]
                    if task.process.paused_until <= now:
                        del ready[(at + turn) % count]
                        return task
            if self._timers:
                self._leap_to_next_timer()
                continue
            # No task can ever go on, so the driver's wait raises SimulationStuck.
            self._is_stuck = True
            self._main.is_waiting = False
            return self._main

    def _gate_of(self, task: Task) -> Any:
        if task.target is not None:  # Not started yet.
            carrier = _idle.pop() if _idle else _new_carrier()
            carrier.task = task
            task.gate.acquire()
            return carrier.gate
        return task.gate

    def _switch(self, following: Task) -> None:
        """Run `following`, and return when the current task is chosen again. Raises: ProcessKilled, SimulationStuck."""
        me = self.current
        if following is not me:
            self._hand_to(following)
        if me.process.is_dead:
            raise ProcessKilled(me.process.name)
        if self._is_stuck and me is self._main:
            self._is_stuck = False
            raise SimulationStuck("every task waits and no timer is set: " + _who_waits(self._processes))

    def _hand_to(self, following: Task) -> None:
        me = self.current
        self.switches += 1
        self._trace.append(following.number)
        self.current = following
        self._gate_of(following).release()
        me.gate.acquire()


def _who_waits(processes: Sequence[Process]) -> str:
    return ", ".join(f"{task.process.name}/{task.name}" for each in processes for task in each.tasks)


def _nothing() -> None:
    """The action of a timer that only ends a leap of time."""


def _new_carrier() -> _Carrier:
    previous = _thread.stack_size(STACK_BYTES)
    try:
        return _Carrier()
    finally:
        _thread.stack_size(previous)
