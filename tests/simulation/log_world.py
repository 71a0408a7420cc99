"""Writers that take a log over from each other, readers, followers, compactors, collectors and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import lsm
import opendata_log
from lsm.testing.simulated import SimulatedRuntime
from opendata_log import LogDb, LogDbBuilder, LogDbReader, ScanOptions
from opendata_log.maintain.compactor import open_compactor
from tests.simulation.beside import Collectors, Compactors
from tests.simulation.checkpoints import Checkpoints, Content, PinnedReads
from tests.simulation.followers import Followers
from tests.simulation.ledger import Consumer, Entry, Handle, Ledger
from tests.simulation.swarm import Swarm
from tests.simulation.world import EXPECTED, IDLE_SECONDS, World

T = TypeVar("T")

REFUSED = (
    opendata_log.QueueFullError,
    opendata_log.AppendTimeoutError,
    opendata_log.ShutdownError,
    opendata_log.AppendStorageError,
)
"""An append that raises one of these was certainly not applied, unless it says that the outcome is unknown."""
CALL_SECONDS = 400.0


class Gone(Exception):
    """The handle is of no use any more: it was fenced."""


class LogWorld(World):
    """The log's processes."""

    def __init__(self, swarm: Swarm, steps: int) -> None:
        super().__init__(swarm, steps)
        retention_ms = None if swarm.retention is None else int(swarm.retention * 1000)
        self.ledger = Ledger(retention_ms, self._honest_ms, lambda: int(self.scheduler.monotonic() * 1000))
        self.ledger.report = self.report  # type: ignore[method-assign]
        self.keys = [b"key%d" % number for number in range(swarm.keys)]
        self.consumers = [Consumer(self.ledger, key) for key in self.keys]
        self._busy_consumers: set[Consumer] = set()
        self.followers = Followers(self)
        takes_back = bool(swarm.engine["compaction_enabled"])
        self.compactors = Compactors(self, self._open_compactor, takes_back=takes_back)
        self.collectors = Collectors(self, self._open_admin)
        reads = PinnedReads(self.ledger.tick, self._open_at, self._read_pinned, self._check_pinned)
        self.checkpoints = Checkpoints(self, self._open_admin, reads)

    def _honest_ms(self) -> int:
        """The latest that the store's clock, which may be set back, has let anybody believe."""
        return self.wall_offset_max + int(self.scheduler.monotonic() * 1000)

    def actor_lives(self) -> list[tuple[str, Callable[[], None]]]:
        swarm = self.swarm
        crowds = (
            (swarm.writers, "w", self._writer),
            (swarm.readers, "r", self._reader),
            (swarm.compactors, "c", self.compactors.life),
            (swarm.collectors, "g", self.collectors.life),
            (swarm.keepers, "k", self.checkpoints.keeper),
            (swarm.keepers, "p", self.checkpoints.reader),
            (swarm.followers, "f", self.followers.life),
        )
        return self.successions(crowds)

    def process_ended(self, title: str) -> None:
        super().process_ended(title)
        for handle in self.ledger.handles:
            if handle.name == title:
                self.ledger.ended(handle)

    # -- a call of the product ----------------------------------------------------------------------------------------

    def attempt(self, handle: Handle, what: str, call: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """The answer, or the error, which must be one that the caller can expect."""
        began = self.scheduler.monotonic()
        try:
            return self.called(call), None
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

    # -- opening ------------------------------------------------------------------------------------------------------

    def _parts(self, runtime: SimulatedRuntime) -> dict[str, Any]:
        return {"object_store": self.bucket.client(runtime.process, is_near=self.swarm.is_near), "runtime": runtime}

    def _open_admin(self, runtime: SimulatedRuntime) -> lsm.Admin:
        return lsm.Admin("memory://", settings=self.swarm.settings(), **self._parts(runtime))

    def _open_compactor(self, runtime: SimulatedRuntime) -> lsm.DbCompactor:
        interval = self.swarm.compactor_interval
        return open_compactor(self.swarm.log_config(), poll_interval=interval, **self._parts(runtime))

    def _open_at(self, runtime: SimulatedRuntime, checkpoint: str) -> LogDbReader:
        return LogDbReader(self.swarm.reader_config(checkpoint), **self._parts(runtime))

    def _read_pinned(self, log: LogDbReader) -> tuple[int | None, dict[bytes, list[Entry]]]:
        """Where the first segment starts (None: there is none), and every key."""
        starts = [segment.start_seq for segment in log.list_segments()]
        return min(starts, default=None), {key: _pairs(log.scan(key)) for key in self.keys}

    def _check_pinned(self, name: str, found: tuple[int | None, dict[bytes, list[Entry]]], content: Content) -> None:
        handle = self.ledger.opening(f"{name} at a checkpoint", is_writer=False)
        handle.is_pinned, handle.fresh_as_of = True, content.as_of
        if self.swarm.retention is not None:
            if found[0] is None:
                return  # Retention took all there was, or nothing was there yet.
            self.ledger.floor(handle, found[0], is_durable=False)
        self.ledger.state(handle, found[1], is_recovery=False, needed=content.least or ())

    def see_floor(self, handle: Handle, log: Any, *, is_durable: bool = False) -> int | None:
        """Where the handle's segments begin, which moves only where there is retention; None: that failed, or cannot be
        told."""
        if self.swarm.retention is None:
            return 0

        def look() -> list[int]:
            starts = [each.start_seq for each in log.list_segments()]
            if starts or not handle.is_writer:
                return starts  # A reader that never saw a segment cannot tell where the next one will begin.
            # Retention took all, or nothing is there yet: what is in front of the frontier is gone, if there is none after it.
            scan = log.scan(self.keys[0])
            scan.fetchall()
            return [each.start_seq for each in log.list_segments()] or [scan.next_sequence]

        starts, _ = self.attempt(handle, "segments", look)
        if not starts:
            return None
        self.notes["retired"] += starts[0] > handle.floor
        self.ledger.floor(handle, starts[0], is_durable=is_durable or not handle.is_writer)
        return handle.floor

    # -- writers ------------------------------------------------------------------------------------------------------

    def open_writer(self, name: str, runtime: SimulatedRuntime) -> tuple[Handle, LogDb | None]:
        handle = self.ledger.opening(name, is_writer=True)
        self.openings.begin(name, "writer", self.bucket.url)
        builder = LogDbBuilder(self.swarm.log_config()).with_runtime(runtime)
        builder = builder.with_object_store(self.bucket.client(runtime.process, is_near=self.swarm.is_near))
        builder.sequence_block = self.swarm.sequence_block
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
                work(self, handle, log, runtime)
            except Gone:
                return

    def _append(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime, *, waits: bool = False) -> None:
        chance = self.chance
        keys = [chance.choice(self.keys) for _ in range(1 + chance.randrange(self.swarm.records_max))]
        began = self.scheduler.monotonic()
        call = self.ledger.append(handle, keys, size=self.swarm.value_bytes, stamp_ms=runtime.now_ms())
        waits = waits or chance.random() < 0.3
        append = (lambda: log.append_timeout(call.records, 20.0)) if waits else (lambda: log.try_append(call.records))
        output, error = self.attempt(handle, "append", append)
        call.stamp_ms = self.lowest_wall_ms(began) + runtime.skew_ms
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

    def _flush(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        invoked = self.ledger.tick()
        _, error = self.attempt(handle, "flush", log.flush)
        if error is None:
            self.ledger.flushed(handle, invoked)
        self._end_if_fenced(error)

    def _watermark(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        value, _ = self.attempt(handle, "durable_sequence", lambda: log.durable_sequence)
        if value is not None:
            self.ledger.watermark(handle, value)

    def _seal(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        _, error = self.attempt(handle, "seal", log.seal_segment)
        self._end_if_fenced(error)

    def _collect(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        _, error = self.attempt(handle, "collect_garbage", lambda: log.collect_garbage(min_age=0))
        self._end_if_fenced(error)

    def _read(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        key = self.chance.choice(self.keys)
        self.scan(handle, log, key, shows_durable=self.swarm.remote)

    def _pin(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        if not self.swarm.keepers:
            return
        invoked, lifetime = self.ledger.tick(), self.checkpoints.lifetime()
        content = Content(invoked, [call for call in handle.calls if call.outcome == "ok"])
        made, error = self.attempt(handle, "create_checkpoint", lambda: log.create_checkpoint(lifetime))
        if made is not None:
            self.ledger.flushed(handle, invoked)
            self.checkpoints.made(made, content)
        self._end_if_fenced(error)

    def _follow(self, handle: Handle, log: LogDb, runtime: SimulatedRuntime) -> None:
        if self.swarm.remote:
            self.followers.resume(handle, log)
        else:
            self.followers.beside_appends(handle, log)

    def _count(self, handle: Handle, log: Any, runtime: SimulatedRuntime) -> None:
        key = self.chance.choice(self.keys)
        floor = self.see_floor(handle, log)
        results = [
            self.attempt(handle, what, call)
            for what, call in (
                ("scan", lambda: len(log.scan(key).fetchall())),
                ("count", lambda: log.count(key)),
                ("scan", lambda: len(log.scan(key).fetchall())),
            )
        ]
        if all(error is None for _, error in results) and self.see_floor(handle, log) == floor:
            low, count, high = (value for value, _ in results)
            assert low is not None
            assert count is not None
            assert high is not None
            self.ledger.counted(key, low, count, high)

    def _consume(self, handle: Handle, log: Any, runtime: SimulatedRuntime) -> None:
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
                if found is not None and self.see_floor(handle, log) is not None:
                    entries, next_sequence = found
                    named = [(consumer.key, entry) for entry in entries]
                    consumer.took(handle, start, named, next_sequence)
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

    _WORKS = (_append, _flush, _watermark, _seal, _collect, _read, _count, _consume, _pin, _follow)
    _WEIGHTS = (50, 8, 5, 2, 4, 6, 3, 6, 1, 2)

    # -- reading ------------------------------------------------------------------------------------------------------

    def scan(self, handle: Handle, log: Any, key: bytes, *, shows_durable: bool) -> None:
        invoked, floor = self.ledger.tick(), handle.floor
        entries, _ = self.attempt(handle, "scan", lambda: _pairs(log.scan(key)))
        if entries is not None and self.see_floor(handle, log) is not None:
            self.ledger.scan(handle, key, entries, invoked=invoked, shows_durable=shows_durable, floor=floor)

    def check_state(self, handle: Handle, log: Any, *, is_recovery: bool) -> dict[bytes, list[Entry]] | None:
        """Every key of a handle that stands still. Its list of keys and segments must agree with what is read."""
        content: dict[bytes, list[Entry]] = {}
        floor = self.see_floor(handle, log, is_durable=is_recovery)
        for key in self.keys:
            entries, _ = self.attempt(handle, "scan", lambda key=key: _pairs(log.scan(key)))
            if entries is None:
                return None
            content[key] = entries
        if self.see_floor(handle, log) is None:
            return None
        self.ledger.state(handle, content, is_recovery=is_recovery)
        listed, _ = self.attempt(handle, "list_keys", lambda: [found.key for found in log.list_keys()])
        wanted = sorted(key for key, entries in content.items() if entries)
        if listed is not None and listed != wanted and self.see_floor(handle, log) == floor:
            self.report("count mismatch", f"{handle.name} lists the keys {listed}, and {wanted} have entries")
        return content

    def open_reader(self, name: str, runtime: SimulatedRuntime) -> tuple[Handle, LogDbReader | None]:
        handle = self.ledger.opening(name, is_writer=False)
        config, parts = self.swarm.reader_config(), self._parts(runtime)
        log, _ = self.attempt(handle, "open", lambda: LogDbReader(config, **parts))
        if log is not None:
            self.ledger.opened(handle)
        return handle, log

    def _reader(self, name: str, runtime: SimulatedRuntime) -> None:
        handle, log = self.open_reader(name, runtime)
        if log is None:
            return
        stands_still = self.swarm.reader_interval > 1e5
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
            work(handle, log, runtime)
        self.attempt(handle, "close", log.close)

    def _read_remote(self, handle: Handle, log: Any, runtime: SimulatedRuntime) -> None:
        self.scan(handle, log, self.chance.choice(self.keys), shows_durable=True)

    # -- the second phase ---------------------------------------------------------------------------------------------

    def finish(self, runtime: SimulatedRuntime) -> None:
        handle, log = self.open_writer("final", runtime)
        if log is None:
            return
        self.check_state(handle, log, is_recovery=True)
        for _ in range(5):
            self._append(handle, log, runtime, waits=True)
        self._flush(handle, log, runtime)
        self._watermark(handle, log, runtime)
        self._count(handle, log, runtime)
        for _ in range(3):
            if not self._settle(log, runtime):
                self.report("no progress", "compactions do not come to an end")
            self._collect(handle, log, runtime)
        self.close(handle, log)
        self._check_clean_reopen(runtime, log.durable_sequence)

    def _settle(self, log: LogDb, runtime: SimulatedRuntime) -> bool:
        """Compact until there is nothing to do, in whatever process does it here."""
        if self.swarm.engine["compaction_enabled"]:
            return log.wait_idle(IDLE_SECONDS)
        return not self.swarm.compactors or self.compactors.settle(f"final compactor {self.ledger.tick()}", runtime)

    def _check_clean_reopen(self, runtime: SimulatedRuntime, ended: int) -> None:
        """A clean close leaves no gap in the sequences, and collections leave no garbage. `ended`: the sequence that the log
        was closed at. What it holds does not tell: retention may take the newest records while it is read."""
        handle, log = self.open_writer("final again", runtime)
        if log is None:
            return
        content = self.check_state(handle, log, is_recovery=True)
        if content is None:
            return
        call = self.ledger.append(handle, self.keys[:1], stamp_ms=runtime.now_ms())
        # What was replayed may fill the memory that appends are allowed, until it is flushed.
        output, _ = self.attempt(handle, "append", lambda: log.append_timeout(call.records, 20.0))
        if output is not None:
            self.ledger.accepted(call, output.start_sequence)
            if output.start_sequence != ended:
                self.report("sequence gap", f"{output.start_sequence} follows {ended - 1} after a clean close")
        for consumer in [*self.consumers, *self.followers.consumers]:
            consumer.finish(content, handle.floor)
        self._flush(handle, log, runtime)
        self.checkpoints.drop_all(handle.name, runtime, set())
        self.quiet(
            self.objects, runtime, lambda: self._settle(log, runtime), lambda: self._collect(handle, log, runtime)
        )
        self.close(handle, log)


def _pairs(scan: Any) -> list[Entry]:
    return [(entry.sequence, entry.value) for entry in scan]
