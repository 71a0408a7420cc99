"""The measured steps. Each runs in its own process, on one store, and returns named figures.

A step builds its records before its clock starts and hides them from the garbage collector, because they belong to the
benchmark, not to the store. It verifies the records it read after its clock stopped.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks import amplification, looping, merging, polling, process
from benchmarks.stores import Batch, Store
from benchmarks.tasks import Figures, Task
from benchmarks.workloads import Workload

_now = time.perf_counter


def _prepared(workload: Workload) -> list[Batch]:
    batches: list[Batch] = list(workload.batches())
    gc.collect()
    gc.freeze()
    return batches


def ingest(task: Task) -> Figures:
    """Append everything, flush, settle, close: the rate up to each of these points, and the CPU time of all."""
    batches, records = _prepared(task.workload), task.workload.records
    store = task.open()
    append = store.append
    cpu, start = process.cpu_seconds(), _now()
    for batch in batches:
        append(batch)
    appended = _now()
    store.flush()
    flushed = _now()
    store.settle()
    store.close()
    settled, cpu = _now(), process.cpu_seconds() - cpu
    return {
        "appended_per_s": records / (appended - start),
        "flushed_per_s": records / (flushed - start),
        "settled_per_s": records / (settled - start),
        "cpu_us": cpu / records * 1e6,
    }


def durable(task: Task) -> Figures:
    """Append with a flush every `flush_every` records."""
    batches, records = _prepared(task.workload), task.workload.records
    every = int(task.options["flush_every"]) // task.workload.batch
    store = task.open(durable=True)
    start = _now()
    for number, batch in enumerate(batches, 1):
        store.append(batch)
        if number % every == 0:
            store.flush()
    store.flush()
    elapsed = _now() - start
    store.close()
    return {"durable_per_s": records / elapsed}


def threads(task: Task) -> Figures:
    """Eight threads, each appending one record and flushing it before the next."""
    batches, lanes = _prepared(task.workload), int(task.options.get("threads", 8))
    store = task.open(durable=True)
    failures: list[BaseException] = []
    ready = threading.Barrier(lanes + 1)

    def lane(number: int) -> None:
        ready.wait()
        try:
            for batch in batches[number::lanes]:
                store.append(batch)
                store.flush()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = _now()
    for worker in workers:
        worker.join()
    elapsed = _now() - start
    store.close()
    if failures:
        raise failures[0]
    return {"threads_per_s": task.workload.records / elapsed}


def load(task: Task) -> Figures:
    """Append everything and close, for a later process to read. Not a measurement.

    Compaction that closing leaves is finished before any measurement, because it would run beside the first scan.
    """
    store = task.open()
    for batch in task.workload.batches():
        store.append(batch)
    store.flush()
    store.close()
    store = task.open()
    store.settle()
    store.close()
    return {}


def scan(task: Task) -> Figures:
    """Read every key of a log that another process wrote and closed."""
    store = task.open()
    elapsed = _read_all(store, task.workload)
    store.close()
    return {"scan_per_s": task.workload.records / elapsed}


def rescan(task: Task) -> Figures:
    """Read every key a second time, with the caches that the first time filled."""
    store = task.open()
    _read_all(store, task.workload)
    elapsed = _read_all(store, task.workload)
    store.close()
    return {"rescan_per_s": task.workload.records / elapsed}


def _read_all(store: Store, workload: Workload) -> float:
    """Seconds to read every key, without the verification."""
    elapsed = 0.0
    for number in range(workload.keys):
        key = workload.key(number)
        start = _now()
        entries = store.scan(key)
        elapsed += _now() - start
        workload.verify(number, entries)
    return elapsed


def crash(task: Task) -> Figures:
    """Append everything, make it durable in the write-ahead log only, and kill this process."""
    store = task.open()
    for batch in task.workload.batches():
        store.append(batch)
    store.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def recover(task: Task) -> Figures:
    """Open after the crash and read one record; then verify that nothing was lost."""
    start = _now()
    store = task.open()
    first = store.scan(task.workload.key(0), 0, 1)
    elapsed = _now() - start
    assert len(first) == 1, "the first record is missing after the crash"
    for number in range(task.workload.keys):
        task.workload.verify(number, store.scan(task.workload.key(number)))
    store.close()
    return {"recovery_ms": elapsed * 1e3}


def latency(task: Task) -> Figures:
    """The distribution of single append calls, back to back, while flushes and compactions run beside them."""
    batches = _prepared(task.workload)
    store = task.open()
    append, calls = store.append, []
    for batch in batches:
        start = _now()
        append(batch)
        calls.append(_now() - start)
    store.close()
    calls.sort()
    points = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    return {name: calls[min(len(calls) - 1, int(len(calls) * point))] * 1e3 for name, point in points.items()}


def memory_ingest(task: Task) -> Figures:
    """Peak resident memory of the process during an ingest of records that only the store keeps."""
    store = task.open()
    for batch in task.workload.batches():
        store.append(batch)
    store.flush()
    store.close()
    return {
        "peak_mb": process.peak_bytes() / 1e6,
        "worker_peak_mb": process.children_peak_bytes() / 1e6,
    }


def _warm_base(task: Task) -> int:
    """Resident bytes with everything imported and one small store opened, used and closed."""
    small = replace(task, path=f"{task.path}-warm", workload=replace(task.workload, records=1, keys=1))
    os.makedirs(small.path, exist_ok=True)
    load(small)
    store = small.open()
    store.scan(small.workload.key(0))  # Some stores load the code for reads at the first read.
    store.close()
    return process.resident_bytes()


def memory_keys(task: Task) -> Figures:
    """Resident bytes per live key with one record each, the record included."""
    base = _warm_base(task)
    store = task.open()
    for batch in task.workload.batches():
        store.append(batch)
    store.flush()
    grown = process.resident_bytes() - base
    store.close()
    return {"key_bytes": grown / task.workload.keys}


def memory_reopened(task: Task) -> Figures:
    """Resident bytes per live key after a clean close, in a fresh process that has read one key."""
    base = _warm_base(task)
    store = task.open()
    assert len(store.scan(task.workload.key(0))) == 1
    grown = process.resident_bytes() - base
    store.close()
    return {"reopened_key_bytes": grown / task.workload.keys}


_STEPS: tuple[Callable[[Task], Figures], ...] = (
    ingest,
    durable,
    threads,
    load,
    scan,
    rescan,
    crash,
    recover,
    latency,
    memory_ingest,
    memory_keys,
    memory_reopened,
)
STEPS = {
    **{step.__name__: step for step in _STEPS},
    **polling.STEPS,
    **looping.STEPS,
    **merging.STEPS,
    **amplification.STEPS,
}
