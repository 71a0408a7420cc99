"""The phases of the benchmark: the steps of a new user's log, from the first append to a reopen.

Only calls on the log are timed. Records are built, and results verified, between the calls.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from opendata_log import Config, LogDb, Record, StorageConfig
from opendata_log.bench.measure import Measure
from opendata_log.bench.options import Options
from opendata_log.bench.progress import Progress
from opendata_log.bench.workload import VerificationError, Workload

_TAIL_KEY = b"tail"
_TAIL_SECONDS = 2.0
_POLLS_MAX = 20_000
_ARRIVALS_MAX = 2_000
_FULL_QUEUE_SECONDS = 60.0


class Run:
    """One log from its creation to its reopen. Call the phases in order; each returns its measure."""

    def __init__(self, storage: StorageConfig, options: Options, progress: Progress) -> None:
        self._config = Config(storage=storage)
        self._options = options
        self._progress = progress
        self._workload = Workload(options.keys, options.value_size)
        self._log = LogDb.open(self._config)
        self._base = 0
        self.records = 0

    def close(self) -> None:
        self._log.close()

    def phases(self) -> Iterator[Measure]:
        """Every phase, in order."""
        yield self.ingest()
        yield self.flush()
        yield self.scan("scan, warm", "every key, right after the ingest")
        yield self.poll()
        yield self.arrivals()
        yield self.follow()
        yield self.reopen()
        yield self.scan("scan, reopened", "every key, after close and open")

    def ingest(self) -> Measure:
        """Append until the requested records are appended, or the requested seconds are over."""
        options, log = self._options, self._log
        measure = Measure("ingest", f"append in batches of {options.batch:,}")
        with self._phase(measure, options.records):
            while self.records < options.records and measure.seconds < (options.seconds or float("inf")):
                batch = self._workload.batch(self.records, min(options.batch, options.records - self.records))
                with measure.timed():
                    out = log.append_timeout(batch, _FULL_QUEUE_SECONDS)
                self._place(out.start_sequence, len(batch))
                if len(measure.calls) % 64 == 0:
                    self._progress.advance(self.records)
        measure.count, measure.bytes = self.records, self.records * self._workload.record_bytes
        return measure

    def _place(self, start: int, count: int) -> None:
        """Count an appended batch, and check its sequence: between open and close, sequences have no gaps."""
        if self.records == 0:
            self._base = start
        elif start != self._base + self.records:
            raise VerificationError(f"batch at sequence {start:,}, expected {self._base + self.records:,}")
        self.records += count

    def flush(self) -> Measure:
        """Make all records durable."""
        measure = Measure("flush", "wait until everything is durable")
        with self._phase(measure, 1), measure.timed():
            self._log.flush()
        return measure

    def scan(self, name: str, what: str) -> Measure:
        """Read every key from its start to its end, and compare its entries with the appended records."""
        log, workload = self._log, self._workload
        measure = Measure(name, what)
        with self._phase(measure, workload.keys):
            for number, key in enumerate(workload.names):
                with measure.timed():
                    entries = log.scan(key).fetchall()
                measure.count += len(entries)
                workload.verify(number, entries, self.records, self._base)
                if number % 16 == 0:
                    self._progress.advance(number)
        if measure.count != self.records:
            raise VerificationError(f"{measure.count:,} entries scanned, {self.records:,} appended")
        measure.bytes = measure.count * workload.record_bytes
        measure.verified = True
        return measure

    def poll(self) -> Measure:
        """Poll a key without new records, as a caught-up consumer does most of the time."""
        log = self._log
        self._append_tail(0)
        measure = Measure("poll, caught up", "scan from the end, nothing new")
        position = _drained(log, 0)
        with self._phase(measure, _POLLS_MAX):
            for _ in _bounded(_POLLS_MAX):
                with measure.timed():
                    tail = log.scan(_TAIL_KEY, position)
                    entries = tail.fetchall()
                    position = tail.next_sequence
                if entries:
                    raise VerificationError("a caught-up poll returned entries")
        measure.count = len(measure.calls)
        measure.verified = True
        return measure

    def arrivals(self) -> Measure:
        """Poll a key that has one new record each time."""
        log = self._log
        measure = Measure("poll, one new", "append one record, scan from the end")
        position = _drained(log, 0)
        with self._phase(measure, _ARRIVALS_MAX):
            for number in _bounded(_ARRIVALS_MAX):
                sequence = self._append_tail(number)
                with measure.timed():
                    tail = log.scan(_TAIL_KEY, position)
                    entries = tail.fetchall()
                    position = tail.next_sequence
                if [(entry.sequence, entry.value) for entry in entries] != [(sequence, b"%d" % number)]:
                    raise VerificationError("a poll did not return exactly the one new record")
        measure.count = len(measure.calls)
        measure.verified = True
        return measure

    def follow(self) -> Measure:
        """Append, and wait until a thread that follows the key has the entry: the cost of a push from end to end."""
        log = self._log
        measure = Measure("follow, woken", "append one record, a waiting follower has it")
        position, came = _drained(log, 0), threading.Semaphore(0)
        seen: list[tuple[int, bytes]] = []

        def listen() -> None:
            for entry in log.follow(_TAIL_KEY, position, timeout=_TAIL_SECONDS):
                seen.append((entry.sequence, entry.value))
                came.release()
                if entry.value == b"":
                    return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        self._append_tail_value(b"first")
        came.acquire(timeout=_TAIL_SECONDS)
        with self._phase(measure, _ARRIVALS_MAX):
            for number in _bounded(_ARRIVALS_MAX):
                with measure.timed():
                    sequence = self._append_tail(number)
                    is_there = came.acquire(timeout=_TAIL_SECONDS)
                if not is_there or seen[-1] != (sequence, b"%d" % number):
                    raise VerificationError("a follower did not get exactly the one new record")
        self._append_tail_value(b"")
        listener.join()
        measure.count = len(measure.calls)
        measure.verified = True
        return measure

    def reopen(self) -> Measure:
        """Close and open again: the time that users wait during a restart."""
        measure = Measure("reopen", "close, then open")
        with self._phase(measure, 2):
            with measure.timed():
                self._log.close()
            self._progress.advance(1)
            with measure.timed():
                self._log = LogDb.open(self._config)
        measure.note = f"close {measure.calls[0] * 1e3:,.0f} ms, open {measure.calls[1] * 1e3:,.0f} ms"
        measure.calls = []
        return measure

    def _append_tail(self, number: int) -> int:
        return self._append_tail_value(b"%d" % number)

    def _append_tail_value(self, value: bytes) -> int:
        return self._log.append_timeout([Record(_TAIL_KEY, value)], _FULL_QUEUE_SECONDS).start_sequence

    @contextmanager
    def _phase(self, measure: Measure, total: int) -> Iterator[None]:
        """Show progress, and add the store requests made in the block to the measure."""
        before = requests_by_kind(self._log)
        with self._progress.phase(measure.name, total):
            yield
        after = requests_by_kind(self._log)
        measure.requests = {
            kind: made - before.get(kind, 0) for kind, made in after.items() if made > before.get(kind, 0)
        }


def _drained(log: LogDb, start: int) -> int:
    tail = log.scan(_TAIL_KEY, start)
    tail.fetchall()
    return tail.next_sequence


def _bounded(most: int) -> Iterator[int]:
    """Count from 0 up to `most`, but for no more than _TAIL_SECONDS."""
    end = time.monotonic() + _TAIL_SECONDS
    for number in range(most):
        yield number
        if time.monotonic() > end:
            return


def requests_by_kind(log: LogDb) -> dict[str, int]:
    """Object-store requests so far, by kind."""
    made: Counter[str] = Counter()
    for (kind, _cause), traffic in log.status().requests.items():
        made[kind] += traffic.requests
    return dict(made)
