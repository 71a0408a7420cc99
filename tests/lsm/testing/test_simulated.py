"""Threads under a seed: exclusion, waits, virtual time, and processes that die."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lsm.testing import ProcessKilled, Scheduler, SimulatedRuntime, SimulationStuck


def together(seed: int, make: Callable[[SimulatedRuntime], list[Callable[[], None]]]) -> Scheduler:
    """Run targets at once in one process, to their ends."""
    scheduler = Scheduler(seed, points_per_switch=1.0)
    runtime = SimulatedRuntime(scheduler)
    tasks = [runtime.spawn(f"t{at}", target) for at, target in enumerate(make(runtime))]
    for task in tasks:
        task.join()
    scheduler.shut_down()
    assert scheduler.failures == []
    return scheduler


@pytest.mark.parametrize("seed", range(20))
def test_a_lock_lets_in_one_at_a_time(seed: int) -> None:
    inside: list[int] = []

    def make(runtime: SimulatedRuntime) -> list[Callable[[], None]]:
        lock = runtime.lock()

        def enter() -> None:
            for _ in range(10):
                with lock:
                    inside.append(1)
                    runtime.hand_over()
                    assert len(inside) == 1
                    inside.pop()

        return [enter] * 4

    assert together(seed, make).switches > 10


@pytest.mark.parametrize("seed", range(20))
def test_a_condition_loses_no_wake_up(seed: int) -> None:
    taken: list[int] = []

    def make(runtime: SimulatedRuntime) -> list[Callable[[], None]]:
        lock = runtime.lock()
        filled, queue = runtime.condition(lock), []

        def put() -> None:
            for at in range(20):
                with filled:
                    queue.append(at)
                    filled.notify()

        def take() -> None:
            for _ in range(10):
                with filled:
                    while not queue:
                        filled.wait()
                    taken.append(queue.pop(0))

        return [put, take, take]

    together(seed, make)
    assert sorted(taken) == list(range(20))


def test_the_same_seed_makes_the_same_choices_and_another_one_others() -> None:
    def make(runtime: SimulatedRuntime) -> list[Callable[[], None]]:
        return [lambda: [runtime.hand_over() for _ in range(50)] and None] * 3

    traces = [together(seed, make).trace_hash() for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


def test_sleepers_wake_in_the_order_of_their_times_and_no_real_time_passes() -> None:
    woken: list[float] = []

    def make(runtime: SimulatedRuntime) -> list[Callable[[], None]]:
        def sleep(seconds: float) -> None:
            runtime.sleep(seconds)
            woken.append(seconds)

        return [lambda seconds=seconds: sleep(seconds) for seconds in (30_000.0, 10.0, 20.0)]

    assert together(3, make).monotonic() >= 30_000
    assert woken == [10.0, 20.0, 30_000.0]


def test_an_executor_runs_calls_and_hands_back_results_and_errors() -> None:
    found: list[object] = []

    def make(runtime: SimulatedRuntime) -> list[Callable[[], None]]:
        def use() -> None:
            executor = runtime.executor("e", 2)
            futures = [executor.submit(divmod, 7, by) for by in (2, 3, 0)]
            found.append([future.result() for future in futures[:2]])
            with pytest.raises(ZeroDivisionError):
                futures[2].result()
            found.append(runtime.map(lambda at: at * at, list(range(20))))
            executor.shutdown()
            runtime.close()

        return [use]

    together(4, make)
    assert found == [[(3, 1), (2, 1)], [at * at for at in range(20)]]


def test_a_deadlock_is_told() -> None:
    scheduler = Scheduler(0)
    runtime = SimulatedRuntime(scheduler)
    lock = runtime.lock()

    def hold_and_wait() -> None:
        lock.acquire()
        lock.acquire()

    task = runtime.spawn("stuck", hold_and_wait)
    with pytest.raises(SimulationStuck, match="stuck"):
        task.join()
    scheduler.shut_down()


@pytest.mark.parametrize("at_step", range(1, 60, 3))
def test_a_killed_process_stops_wherever_it_is_and_changes_nothing_any_more(at_step: int) -> None:
    scheduler = Scheduler(5, points_per_switch=2.0)
    process = scheduler.process("victim")
    runtime, other = SimulatedRuntime(scheduler, process), SimulatedRuntime(scheduler)
    lock, condition = runtime.lock(), runtime.condition()
    done: list[str] = []

    def work() -> None:
        try:
            while True:
                with lock, condition:
                    condition.wait(0.001)
                assert not process.is_dead
        finally:
            with lock:
                done.append("after death")

    def live_on() -> None:
        for _ in range(100):
            other.sleep(0.001)
        done.append("lived")

    tasks = [runtime.spawn(f"w{at}", work) for at in range(3)]
    survivor = other.spawn("survivor", live_on)
    scheduler.at_step(at_step, lambda: scheduler.kill(process))
    survivor.join()

    assert done == ["lived"]
    assert all(not task.is_alive() for task in tasks)
    with pytest.raises(ProcessKilled):
        lock.acquire()
    scheduler.shut_down()


def test_a_paused_process_does_nothing_while_time_passes() -> None:
    scheduler = Scheduler(6)
    process = scheduler.process("paused")
    runtime = SimulatedRuntime(scheduler, process)
    ticks: list[float] = []

    def tick() -> None:
        for _ in range(5):
            runtime.sleep(1.0)
            ticks.append(scheduler.monotonic())

    task = runtime.spawn("tick", tick)
    scheduler.wait(2.5)
    scheduler.pause(process, 100.0)
    task.join()

    assert [int(each) for each in ticks] == [1, 2, 102, 103, 104]
    scheduler.shut_down()


def test_an_exception_that_escapes_a_thread_is_kept() -> None:
    scheduler = Scheduler(7)
    runtime = SimulatedRuntime(scheduler)
    runtime.spawn("fails", lambda: divmod(1, 0) and None).join()

    assert [(name, type(error)) for name, error in scheduler.failures] == [("fails", ZeroDivisionError)]
    scheduler.shut_down()
