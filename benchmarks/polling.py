"""Measured steps of caught-up consumers: polls, followers, counts. They run like the steps in `measurements`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from benchmarks.stores import Store
from benchmarks.stores.contract import Entries
from benchmarks.tasks import Figures, Task
from opendata_log import LogDb

_now = time.perf_counter
_POLLS = 4000
_POLLED_KEYS = 1000
_KEYS = (1_000, 100_000, 1_000_000)
_PER_KEY = 3

Poll = Callable[[bytes, int], tuple[Entries, int]]


def _poll_of(store: Store) -> Poll:
    """The function by which a consumer of this store polls: it returns new entries and the next position."""
    own: Poll | None = getattr(store, "poll", None)
    if own is not None:
        return own

    def poll(key: bytes, cursor: int) -> tuple[Entries, int]:
        entries = store.scan(key, cursor)
        return entries, entries[-1][1] + 1 if entries else cursor

    return poll


def _percentile(times: list[float], share: float) -> float:
    times.sort()
    return times[min(len(times) - 1, int(len(times) * share))] * 1e6


def poll(task: Task) -> Figures:
    """Caught-up consumers poll again: without new records, and with one new record of their key."""
    store, workload = task.open(), task.workload
    for batch in workload.batches():
        store.append(batch)
    store.flush()
    store.settle()
    poll, cursors = _poll_of(store), {}
    keys = [workload.key(number) for number in range(min(workload.keys, _POLLED_KEYS))]
    for key in keys:
        cursors[key] = poll(key, 0)[1]
    idle, fresh = [], []
    for number in range(_POLLS):
        key = keys[number % len(keys)]
        start = _now()
        found, cursors[key] = poll(key, cursors[key])
        idle.append(_now() - start)
        assert not found
    for number in range(_POLLS):
        key = keys[number % len(keys)]
        store.append([(key, b"new")])
        start = _now()
        found, cursors[key] = poll(key, cursors[key])
        fresh.append(_now() - start)
        assert [entry[2] if isinstance(entry, tuple) else entry.value for entry in found] == [b"new"]
    store.close()
    return {"poll_idle_us": _percentile(idle, 0.5), "poll_new_us": _percentile(fresh, 0.5)}


def poll_of_many_keys(task: Task) -> Figures:
    """Poll logs of a thousand, a hundred thousand and a million keys with equally many records per key: the slowest log's
    median divided by the fastest log's. The logs take turns."""
    logs = [LogDb.open(storage=f"file://{task.path}/{count}") for count in _KEYS]
    cursors: list[dict[bytes, int]] = []
    for count, log in zip(_KEYS, logs, strict=True):
        keys = [b"key-%012d" % number for number in range(count)]
        for _ in range(_PER_KEY):
            for start in range(0, count, 1000):
                log.append_timeout([(key, b"v" * 100) for key in keys[start : start + 1000]], None)
        log.flush()
        log.wait_idle(60)
        polled = keys[:: count // _POLLED_KEYS][:_POLLED_KEYS]
        cursors.append({key: _polled(log, key, 0)[1] for key in polled})
    idle: list[list[float]] = [[] for _ in logs]
    fresh: list[list[float]] = [[] for _ in logs]
    for _ in range(_POLLS // _POLLED_KEYS):
        for log, cursor, times, new in zip(logs, cursors, idle, fresh, strict=True):
            for key in cursor:
                start_time = _now()
                found, cursor[key] = _polled(log, key, cursor[key])
                times.append(_now() - start_time)
                assert not found
            for key in cursor:
                log.try_append([(key, b"new")])
                start_time = _now()
                found, cursor[key] = _polled(log, key, cursor[key])
                new.append(_now() - start_time)
                assert len(found) == 1
    for log in logs:
        log.close()
    figures = {}
    for name, all_times in (("idle", idle), ("new", fresh)):
        medians = [_percentile(times, 0.5) for times in all_times]
        figures[f"flat_{name}"] = max(medians) / min(medians)
        figures[f"flat_{name}_us"] = medians[-1]
    return figures


def _polled(log: LogDb, key: bytes, cursor: int) -> tuple[Entries, int]:
    found = log.scan(key, cursor)
    return found.fetchall(), found.next_sequence


def poll_beside_ingest(task: Task) -> Figures:
    """Caught-up consumers of quiet keys, a thousand polls per second, while another thread appends at full speed: the time of
    the call, and the time from when the poll was due to its end."""
    store, workload = task.open(), task.workload
    batches = list(workload.batches())
    quiet = [b"quiet-%09d" % number for number in range(_POLLED_KEYS)]
    store.append([(key, b"") for key in quiet])
    poll, cursors = _poll_of(store), dict.fromkeys(quiet, 0)
    failures: list[BaseException] = []
    is_done = threading.Event()

    def ingest() -> None:
        try:
            for batch in batches:
                store.append(batch)
        except BaseException as error:
            failures.append(error)
        finally:
            is_done.set()

    thread = threading.Thread(target=ingest)
    times, late, number, found_new = [], [], 0, 0
    thread.start()
    due = _now()
    while not is_done.is_set():
        key = quiet[number % len(quiet)]
        number += 1
        due = max(due + 0.001, _now())
        time.sleep(max(0.0, due - _now()))
        start = _now()
        found, cursors[key] = poll(key, cursors[key])
        end = _now()
        times.append(end - start)
        late.append(end - due)
        found_new += len(found)
    thread.join()
    for key in quiet:
        found_new += len(poll(key, cursors[key])[0])
    store.close()
    if failures:
        raise failures[0]
    assert found_new == len(quiet), f"{found_new} of {len(quiet)} records came by"
    return {
        "poll_busy_p50_us": _percentile(times, 0.5),
        "poll_busy_p99_us": _percentile(times, 0.99),
        "poll_late_p99_us": _percentile(late, 0.99),
    }


def follow(task: Task) -> Figures:
    """Time from an append until the follower's thread has the entry, and how often it was late. For stores that can follow."""
    store, workload = task.open(), task.workload
    key = workload.key(0)
    woken: list[float] = []
    came = threading.Event()

    def listen() -> None:
        for _ in store.follow(key):  # type: ignore[attr-defined]
            woken.append(_now())
            came.set()

    thread = threading.Thread(target=listen)
    thread.start()
    sent = []
    for number in range(workload.records):
        time.sleep(0.001)
        came.clear()
        sent.append(_now())
        store.append([(key, b"%d" % number)])
        assert came.wait(10), "the follower was not woken"
    store.close()
    thread.join(10)
    late = [there - start for start, there in zip(sent, woken, strict=True)]
    return {"wake_p50_us": _percentile(late, 0.5), "wake_p99_us": _percentile(late, 0.99)}


def count(task: Task) -> Figures:
    """Exact counts of whole streams, warm, after a clean close and a reopen."""
    store, workload = task.open(), task.workload
    for batch in workload.batches():
        store.append(batch)
    store.close()
    store = task.open()
    store.settle()
    keys = [workload.key(number) for number in range(min(workload.keys, _POLLED_KEYS))]
    times: list[float] = []
    for number in range(len(keys) + 1000):
        key = keys[number % len(keys)]
        start = _now()
        found = store.count(key)  # type: ignore[attr-defined]
        if number >= len(keys):
            times.append(_now() - start)
        assert found == len(workload.sequences(number % len(keys)))
    store.close()
    return {"count_us": _percentile(times, 0.5)}


STEPS: dict[str, Callable[[Task], Figures]] = {
    step.__name__: step for step in (poll, poll_of_many_keys, poll_beside_ingest, follow, count)
}
