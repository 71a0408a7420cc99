"""Writers that take a log over from each other, and readers, against one bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import opendata_log
from lsm.testing.simulated import SimulatedRuntime
from opendata_log import LogDb, LogDbBuilder, LogDbReader, ScanOptions
from tests.simulation.ledger import Consumer, Entry, Handle, Ledger
from tests.simulation.swarm import Swarm
from tests.simulation.world import World

T = TypeVar("T")

REFUSED = (
    opendata_log.QueueFullError,
    opendata_log.AppendTimeoutError,
    opendata_log.ShutdownError,
    opendata_log.AppendStorageError,
)
"""An append that raises one of these was certainly not applied, unless it says that the outcome is unknown."""
EXPECTED = (opendata_log.StorageError, opendata_log.ClosedError, opendata_log.QueueFullError, TimeoutError)
"""What a store that fails, a newer writer and a close may bring. Everything else is a finding."""
CALL_SECONDS = 400.0


class Gone(Exception):
    """The handle is of no use any more: it was fenced."""


class LogWorld(World):
    """The log's processes."""

    def __init__(self, swarm: Swarm, steps: int) -> None:
        super().__init__(swarm, steps)
        self.ledger = Ledger()
        self.ledger.report = self.report  # type: ignore[method-assign]
        self.keys = [b"key%d" % number for number in range(swarm.keys)]
        self.consumers = [Consumer(self.ledger, key) for key in self.keys]
        self._busy_consumers: set[Consumer] = set()

    def actor_lives(self) -> list[tuple[str, Callable[[], None]]]:
        lives = [
            (f"writers{number}", self.succession(f"w{number}", self._writer)) for number in range(self.swarm.writers)
        ]
        lives += [
            (f"readers{number}", self.succession(f"r{number}", self._reader)) for number in range(self.swarm.readers)
        ]
        return lives

    def process_ended(self, title: str) -> None:
        for handle in self.ledger.handles:
            if handle.name == title:
                self.ledger.ended(handle)

    # -- a call of the product ----------------------------------------------------------------------------------------

    def attempt(self, handle: Handle, what: str, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """The answer, or the error, which must be one that the caller can expect."""
        began = self.scheduler.monotonic()
        try:
            return call(), None
        except opendata_log.FencedError as error:
            self.ledger.fenced(handle)
            self.notes["fenced"] += 1
            return None, error
        except EXPECTED as error:
            self.notes[type(error).__name__] += 1
            if self.is_final(handle):
                self.report("no progress", f"{what} failed without faults: {error!r}")
            return None, error
        except Exception as error:
            self.report("unexpected error", f"{handle.name}: {what}: {error!r} from {error.__cause__!r}")
            return None, error
        finally:
            seconds = self.scheduler.monotonic() - began
            if seconds > CALL_SECONDS:
                self.report("hang", f"{handle.name}: {what} took {seconds:.0f} s")

    @staticmethod
    def is_final(handle: Handle) -> bool:
        return handle.name.startswith("final")

    # -- writers ------------------------------------------------------------------------------------------------------

    def open_writer(self, name: str, runtime: SimulatedRuntime) -> tuple[Handle, LogDb | None]:
        handle = self.ledger.opening(name, is_writer=True)
        builder = LogDbBuilder(self.swarm.log_config()).with_runtime(runtime)
        builder = builder.with_object_store(self.bucket.client(runtime.process, is_near=self.swarm.is_near))
        log, error = self.attempt(handle, "open", builder.build)
        if log is not None:
            self.ledger.opened(handle)
        else:
            self.ledger.ended(handle)
        del error
        return handle, log

    def _writer(self, name: str, runtime: SimulatedRuntime) -> None:
        handle, log = self.open_writer(name, runtime)
        if log is None:
            return
        self.notes["opened"] += 1
        self.check_state(handle, log, is_recovery=True)
        tasks = [
            runtime.spawn(f"client{number}", lambda: self._client(handle, log, runtime))
            for number in range(self.swarm.clients)
        ]
        for task in tasks:
            task.join()
        if self.chance.random() < 0.7:
            self.close(handle, log)

    def close(self, handle: Handle, log: LogDb) -> None:
        invoked = self.ledger.tick()
        _, error = self.attempt(handle, "close", log.close)
        if error is None:
            self.ledger.flushed(handle, invoked)
            self.notes["closed"] += 1
        self.ledger.ended(handle)

    def _client(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        chance = self.chance
        for _ in range(chance.randrange(5, 80)):
            if self.is_healed:
                return
            if chance.random() < 0.3:
                runtime.sleep(chance.expovariate(10.0))
            work = chance.choices(self._WORKS, self._WEIGHTS)[0]
            try:
                work(self, handle, log)
            except Gone:
                return

    def _append(self, handle: Handle, log: LogDb, *, waits: bool = False) -> None:
        chance = self.chance
        keys = [chance.choice(self.keys) for _ in range(1 + chance.randrange(self.swarm.records_max))]
        call = self.ledger.append(handle, keys, size=self.swarm.value_bytes)
        waits = waits or chance.random() < 0.3
        append = (lambda: log.append_timeout(call.records, 20.0)) if waits else (lambda: log.try_append(call.records))
        output, error = self.attempt(handle, "append", append)
        if output is not None:
            self.ledger.accepted(call, output.start_sequence)
        else:
            unknown = getattr(error, "outcome_unknown", False)
            self.ledger.refused(call, is_certain=isinstance(error, REFUSED) and not unknown)
            self._end_if_fenced(error)

    @staticmethod
    def _end_if_fenced(error: Exception | None) -> None:
        if isinstance(error, opendata_log.FencedError | opendata_log.ClosedError):
            raise Gone

    def _flush(self, handle: Handle, log: LogDb) -> None:
        invoked = self.ledger.tick()
        _, error = self.attempt(handle, "flush", log.flush)
        if error is None:
            self.ledger.flushed(handle, invoked)
        self._end_if_fenced(error)

    def _watermark(self, handle: Handle, log: LogDb) -> None:
        value, _ = self.attempt(handle, "durable_sequence", lambda: log.durable_sequence)
        if value is not None:
            self.ledger.watermark(handle, value)

    def _seal(self, handle: Handle, log: LogDb) -> None:
        _, error = self.attempt(handle, "seal", log.seal_segment)
        self._end_if_fenced(error)

    def _collect(self, handle: Handle, log: LogDb) -> None:
        _, error = self.attempt(handle, "collect_garbage", lambda: log.collect_garbage(min_age=0))
        self._end_if_fenced(error)

    def _read(self, handle: Handle, log: LogDb) -> None:
        key = self.chance.choice(self.keys)
        self.scan(handle, log, key, shows_durable=self.swarm.remote)

    def _count(self, handle: Handle, log: Any) -> None:
        key = self.chance.choice(self.keys)
        results = [
            self.attempt(handle, what, call)
            for what, call in (
                ("scan", lambda: len(log.scan(key).fetchall())),
                ("count", lambda: log.count(key)),
                ("scan", lambda: len(log.scan(key).fetchall())),
            )
        ]
        if all(error is None for _, error in results):
            low, count, high = (value for value, _ in results)
            assert low is not None
            assert count is not None
            assert high is not None
            self.ledger.counted(key, low, count, high)

    def _consume(self, handle: Handle, log: Any) -> None:
        """Go on with a consumer that no other handle is at, some entries at a time."""
        if handle.is_writer and not self.swarm.remote:
            return
        consumer = self.chance.choice(self.consumers)
        if consumer in self._busy_consumers:
            return
        self._busy_consumers.add(consumer)
        try:
            for _ in range(self.chance.randrange(1, 4)):
                start = consumer.position
                limit = self.chance.choice((None, 1, 3))
                stop_early = self.chance.random() < 0.3
                found, _ = self.attempt(handle, "scan", lambda: self._take(log, consumer.key, start, limit, stop_early))
                if found is not None:
                    consumer.took(handle, start, *found)
        finally:
            self._busy_consumers.discard(consumer)

    def _take(self, log: Any, key: bytes, start: int, limit: int | None, stop_early: bool) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        with log.scan(key, start, options=ScanOptions(limit=limit)) as scan:
            for entry in scan:
                entries.append((entry.sequence, entry.value))
                if stop_early and len(entries) >= 2:
                    break
            return entries, scan.next_sequence

    _WORKS = (_append, _flush, _watermark, _seal, _collect, _read, _count, _consume)
    _WEIGHTS = (50, 8, 5, 2, 4, 6, 3, 6)

    # -- reading ------------------------------------------------------------------------------------------------------

    def scan(self, handle: Handle, log: Any, key: bytes, *, shows_durable: bool) -> None:
        invoked = self.ledger.tick()
        entries, _ = self.attempt(handle, "scan", lambda: _pairs(log.scan(key)))
        if entries is not None:
            self.ledger.scan(handle, key, entries, invoked=invoked, shows_durable=shows_durable)

    def check_state(self, handle: Handle, log: Any, *, is_recovery: bool) -> dict[bytes, list[Entry]] | None:
        """Every key of a handle that stands still. Its list of keys and segments must agree with what is read."""
        content: dict[bytes, list[Entry]] = {}
        for key in self.keys:
            entries, _ = self.attempt(handle, "scan", lambda key=key: _pairs(log.scan(key)))
            if entries is None:
                return None
            content[key] = entries
        self.ledger.state(handle, content, is_recovery=is_recovery)
        listed, _ = self.attempt(handle, "list_keys", lambda: [found.key for found in log.list_keys()])
        wanted = sorted(key for key, entries in content.items() if entries)
        if listed is not None and listed != wanted:
            self.report("count mismatch", f"{handle.name} lists the keys {listed}, and {wanted} have entries")
        return content

    def _reader(self, name: str, runtime: SimulatedRuntime) -> None:
        handle = self.ledger.opening(name, is_writer=False)
        client = self.bucket.client(runtime.process, is_near=self.swarm.is_near)
        config = self.swarm.reader_config()
        log, _ = self.attempt(handle, "open", lambda: LogDbReader(config, object_store=client, runtime=runtime))
        if log is None:
            return
        self.ledger.opened(handle)
        stands_still = config.refresh_interval > 1e5
        for _ in range(self.chance.randrange(3, 40)):
            if self.is_healed:
                break
            runtime.sleep(self.chance.expovariate(5.0))
            if self.chance.random() < 0.4:
                invoked = self.ledger.tick()
                _, error = self.attempt(handle, "refresh", log.refresh)
                if error is None:
                    self.ledger.refreshed(handle, invoked)
            if stands_still and self.chance.random() < 0.3:
                self.check_state(handle, log, is_recovery=False)
            work = self.chance.choice((self._read_remote, self._count, self._consume))
            work(handle, log)
        self.attempt(handle, "close", log.close)

    def _read_remote(self, handle: Handle, log: Any) -> None:
        self.scan(handle, log, self.chance.choice(self.keys), shows_durable=True)

    # -- the second phase ---------------------------------------------------------------------------------------------

    def finish(self, runtime: SimulatedRuntime) -> None:
        handle, log = self.open_writer("final", runtime)
        if log is None:
            return
        self.check_state(handle, log, is_recovery=True)
        for _ in range(5):
            self._append(handle, log, waits=True)
        self._flush(handle, log)
        self._watermark(handle, log)
        self._count(handle, log)
        for _ in range(3):
            if self.swarm.engine["compaction_enabled"] and not log.wait_idle(60.0):
                self.report("no progress", "compactions do not come to an end")
            self._collect(handle, log)
        self.close(handle, log)
        self._check_clean_reopen(runtime)

    def _check_clean_reopen(self, runtime: SimulatedRuntime) -> None:
        """A clean close leaves no gap in the sequences, and two collections leave no garbage."""
        handle, log = self.open_writer("final again", runtime)
        if log is None:
            return
        content = self.check_state(handle, log, is_recovery=True)
        if content is None:
            return
        last = max((entry[0] for entries in content.values() for entry in entries), default=-1)
        call = self.ledger.append(handle, self.keys[:1])
        output, _ = self.attempt(handle, "append", lambda: log.try_append(call.records))
        if output is not None:
            self.ledger.accepted(call, output.start_sequence)
            if output.start_sequence != last + 1:
                self.report("sequence gap", f"{output.start_sequence} follows {last} after a clean close")
        for consumer in self.consumers:
            consumer.finish(content[consumer.key])
        self._flush(handle, log)
        for _ in range(5):
            # What is flushed or compacted meanwhile leaves garbage of its own, until there is nothing more to do.
            if self.swarm.engine["compaction_enabled"]:
                log.wait_idle(60.0)
            self._collect(handle, log)
            if not self.objects.leaks():
                break
            runtime.sleep(1.0)
        self.check_leaks()
        self.close(handle, log)


def _pairs(scan: Any) -> list[Entry]:
    return [(entry.sequence, entry.value) for entry in scan]
