"""Measured step of asyncio programs: many tasks on one loop, against threads that do the same with the blocking API.

Two comparisons: tasks that append, against one blocking loop with the same batches; and tasks that append and follow, against a
thread for each of them. They alternate in one process, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.tasks import Figures, Task
from opendata_log import LogDb, aio

_now = time.perf_counter
PAIRS = 3
APPENDERS = 100
FOLLOWERS = 1000
BATCH = 100
FOLLOWED = 10
"""Records per batch that go to followed keys."""

Batches = list[list[tuple[bytes, bytes]]]


def _batches(task: Task) -> list[Batches]:
    """Each appender's batches: every followed key gets its share, the other records go to other keys."""
    rounds = max(1, task.workload.records // PAIRS // (APPENDERS * BATCH))
    value = b"x" * 100
    made = []
    for number in range(APPENDERS):
        keys = [b"followed-%d" % ((number * FOLLOWED + at) % FOLLOWERS) for at in range(FOLLOWED)]
        others = [b"other-%d" % (number * 97 + at) for at in range(BATCH - FOLLOWED)]
        made.append([[(key, value) for key in keys + others] for _ in range(rounds)])
    return made


def _blocking(path: Path, work: list[Batches]) -> float:
    log = LogDb.open(storage=f"file://{path}")
    start = _now()
    for turn in zip(*work, strict=True):
        for batch in turn:
            log.try_append(batch)
    seconds = _now() - start
    log.close()
    return seconds


def _threads(path: Path, work: list[Batches]) -> float:
    """A thread for each appender and each follower."""
    log = LogDb.open(storage=f"file://{path}")

    def follow(number: int) -> None:
        for _ in log.follow(b"followed-%d" % number):
            pass

    def append(batches: Batches) -> None:
        for batch in batches:
            log.try_append(batch)

    before = threading.stack_size(256 << 10)
    followers = [threading.Thread(target=follow, args=(number,)) for number in range(FOLLOWERS)]
    appenders = [threading.Thread(target=append, args=(batches,)) for batches in work]
    threading.stack_size(before)
    for each in followers:
        each.start()
    start = _now()
    for each in appenders:
        each.start()
    for each in appenders:
        each.join()
    seconds = _now() - start
    log.close()
    for each in followers:
        each.join()
    return seconds


async def _appending(path: Path, work: list[Batches]) -> float:
    """A task for each appender, without followers."""
    log = await aio.LogDb.open(storage=f"file://{path}")

    async def append(batches: Batches) -> None:
        for batch in batches:
            await log.try_append(batch)

    start = _now()
    await asyncio.gather(*map(append, work))
    seconds = _now() - start
    await log.close()
    return seconds


async def _beat(late: list[float], spent: list[float]) -> None:
    """Record how late each beat is, and the CPU time of the loop's thread in that time."""
    while True:
        start, busy = _now(), time.thread_time()
        await asyncio.sleep(0.001)
        late.append(_now() - start - 0.001)
        spent.append(time.thread_time() - busy)


async def _idle(late: list[float]) -> None:
    """Record how late a heartbeat is on a loop without other work."""
    beating = asyncio.create_task(_beat(late, []))
    await asyncio.sleep(0.5)
    beating.cancel()


async def _tasks(path: Path, work: list[Batches], late: list[float], spent: list[float]) -> tuple[float, int]:
    """Seconds until the last append, and the entries that followers had by then."""
    log = await aio.LogDb.open(storage=f"file://{path}")
    followed = 0

    async def follow(number: int) -> None:
        nonlocal followed
        async for _ in log.follow(b"followed-%d" % number):
            followed += 1

    async def append(batches: Batches) -> None:
        for batch in batches:
            await log.try_append(batch)

    followers = [asyncio.create_task(follow(number)) for number in range(FOLLOWERS)]
    await asyncio.sleep(0.1)
    beating = asyncio.create_task(_beat(late, spent))
    start = _now()
    await asyncio.gather(*map(append, work))
    seconds, had = _now() - start, followed
    expected = sum(FOLLOWED * len(batches) for batches in work)
    while followed < expected:
        await asyncio.sleep(0.001)
    beating.cancel()
    await log.close()
    await asyncio.gather(*followers)
    return seconds, had


def tasks(task: Task) -> Figures:
    """100 tasks append batches of 100, 1,000 tasks follow a key each, a heartbeat beats every millisecond."""
    work = _batches(task)
    records = sum(len(batch) for batches in work for batch in batches)
    late: list[float] = []
    idle: list[float] = []
    spent: list[float] = []
    alone, beside, rates, read = [], [], [], []
    for pair in range(PAIRS):
        path = Path(task.path)
        asyncio.run(_idle(idle))
        blocking = _blocking(path / f"blocking-{pair}", work)
        alone.append(blocking / asyncio.run(_appending(path / f"appending-{pair}", work)))
        threads = _threads(path / f"threads-{pair}", work)
        seconds, had = asyncio.run(_tasks(path / f"tasks-{pair}", work, late, spent))
        beside.append(threads / seconds)
        rates.append(records / seconds)
        read.append(had / seconds)
    late.sort()
    idle.sort()
    spent.sort()
    return {
        "aio_pass_p99_us": spent[int(len(spent) * 0.99)] * 1e6,
        "aio_idle_p99_us": idle[int(len(idle) * 0.99)] * 1e6,
        "aio_of_loop": sorted(alone)[PAIRS // 2],
        "aio_of_threads": sorted(beside)[PAIRS // 2],
        "aio_appended_per_s": sorted(rates)[PAIRS // 2],
        "aio_followed_per_s": sorted(read)[PAIRS // 2],
        "aio_beat_p99_us": late[int(len(late) * 0.99)] * 1e6,
        "aio_beat_max_us": late[-1] * 1e6,
    }


STEPS: dict[str, Callable[[Task], Figures]] = {"tasks": tasks}
