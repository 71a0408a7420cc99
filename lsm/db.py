"""The database: joins the write walk and the read walk. Holds no format and no policy.

Source: SlateDB's `Db`. Synchronous and thread-safe; one handle owns a database, and opening another fences this one out.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lsm.checkpoint.checkpoints import create_checkpoint
from lsm.checks import age_seconds, timeout_seconds
from lsm.compaction.plan import compact_range
from lsm.components import Components
from lsm.concurrency.exits import tell_at_exit
from lsm.concurrency.forks import tell_in_child
from lsm.errors import (
    ClosedError,
    Error,
    FencedError,
    InvalidError,
    SnapshotExpiredError,
    TableMissingError,
    UnavailableError,
    internal,
    kept,
)
from lsm.gc.policy import Garbage
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import Manifest
from lsm.observe import events
from lsm.observe.health import failing_for, newest_failure
from lsm.opening.engine import Engine
from lsm.read.iterator import DurabilityLevel
from lsm.read.reads import Reads
from lsm.read.snapshot import Snapshot
from lsm.rows.bytes_in import BytesLike, as_key
from lsm.rows.chunk import partition_rows
from lsm.runtime import Task
from lsm.settings import Settings
from lsm.status import PartitionStatus, Status
from lsm.view import Bounds, View
from lsm.write.batch import Prefixes, WriteBatch, WriteHandle


class FlushType(enum.Enum):
    """`WAL`: make everything durable. `MEMTABLE`: also write it to tables."""

    WAL = "wal"
    MEMTABLE = "memtable"


class Db(Reads):
    """A single-writer key-value database on an object store. Open it with `Db.open`."""

    def __init__(self, url: str, settings: Settings, parts: Components) -> None:
        self._closed: Error | None = None
        self._engine = Engine(url, settings, parts)
        self._tables = self._engine.tables
        self._layout = self._engine.rules.layout
        self._prefixes = Prefixes(self._known_prefixes, self._engine.runtime.lock())
        self._close_lock = self._engine.runtime.long_lock()
        self._is_shut = False
        self._ticks = self._engine.runtime.condition()
        self._gc_task: Task | None = None
        if settings.gc_interval is not None:
            try:
                self._gc_task = self._engine.runtime.spawn("lsm-gc", self._collect_regularly)
            except BaseException:
                self._engine.shut_down()
                raise
        tell_in_child(self)
        tell_at_exit(self, self._engine.runtime)

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        **components: Any,
    ) -> Db:
        """Open the database at an fsspec URL or path, or create it, and take it over from any other writer.

        `components` are the fields of `Components`. Cost: see `open_database`; no request per table.
        Raises: InvalidError, UnavailableError, CorruptionError, FencedError (another process opened it meanwhile).
        """
        try:
            parts = Components(storage_options=storage_options or {}, **components)
        except TypeError as error:
            raise InvalidError(f"Db.open: {error}; components are {sorted(Components.__annotations__)}") from None
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidError(f"settings must be an lsm.Settings, got {type(settings).__name__}")
        return cls(os.fspath(storage), settings if settings is not None else Settings(), parts)

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: BytesLike, value: BytesLike, *, await_durable: bool = False) -> WriteHandle:
        """Set a key. Visible to reads at once; durable when the handle (or `await_durable`) says so."""
        return self.write(WriteBatch().put(key, value), await_durable=await_durable)

    def delete(self, key: BytesLike, *, await_durable: bool = False) -> WriteHandle:
        """Remove a key, present or not."""
        return self.write(WriteBatch().delete(key), await_durable=await_durable)

    def write(self, batch: WriteBatch, *, await_durable: bool = False) -> WriteHandle:
        """Apply a batch atomically. Waits while `max_unflushed_bytes` are unflushed, and a little when level 0 or memory
        is more than half full (`status().slowed_by`).

        Raises: InvalidError for an empty batch or a key inside a series family; UnavailableError where the log cannot be
        written or no space became free within `op_timeout`; ClosedError, FencedError. Nothing was applied then.
        """
        self._check_open()
        if not len(batch):
            raise InvalidError("an empty batch cannot be written")
        self._check_keys(batch)
        writer = self._engine.writer
        if not writer.has_space:
            self._engine.runtime.check_waiting()
            writer.wait_space(self._engine.settings.op_timeout)
        if writer.pressure.reason is not None:
            writer.slow_down(batch.size, self._engine.settings.op_timeout)
        handle = WriteHandle(writer.write(batch), self._wait_durable)
        if await_durable:
            handle.await_durable()
        return handle

    def write_at_once(self, batch: WriteBatch, *, in_outage: bool = False) -> WriteHandle:
        """As `write` for rows that must not wait, however little space there is: a few small ones. `in_outage`: also while
        the log cannot be written at present; they become durable after everything before them. Makes no request.

        Raises: InvalidError, UnavailableError, ClosedError, FencedError. Nothing was applied then.
        """
        self._check_open()
        self._check_keys(batch)
        return WriteHandle(self._engine.writer.write(batch, in_outage=in_outage), self._wait_durable)

    def append_series(self, family: bytes, names: list[bytes], first: int, values: list[bytes], size: int) -> int:
        """Append one row to each of `names` (repeats are fine), numbered first, first + 1, ...; the batch's seqnum.

        The fast path of a log: columns in, no object per row. Requires: lists of bytes nobody changes afterwards, of one
        length; `size` is the total length of names and values; numbers never go back within a family. Never waits: see
        `has_space`. Raises: as `write`.
        """
        if self._closed is not None:
            raise kept(self._closed)
        return self._engine.writer.append_series(family, names, first, values, size)

    def keep_arrivals(self) -> None:
        """Keep series rows that are appended from now on in the order they come, too, while they are in memory, for
        `series_arrivals`. Cost: two list references a batch."""
        self._engine.writer.keep_arrivals()

    @property
    def has_space(self) -> bool:
        """Less than `max_unflushed_bytes` are accepted and not flushed."""
        return self._engine.writer.has_space

    def wait_space(self, timeout: float | None = None) -> None:
        """Wait for `has_space`. Raises: UnavailableError after `timeout`, ClosedError, FencedError."""
        self._check_open()
        self._engine.runtime.check_waiting()
        self._engine.writer.wait_space(timeout_seconds(timeout))

    @property
    def is_slowed(self) -> bool:
        """Whether `slow_down` would pause."""
        return self._engine.writer.pressure.reason is not None

    def slow_down(self, size: int, timeout: float | None = None) -> None:
        """Before `append_series`, for callers that may wait: nothing, or a pause that grows with the size of what is to
        come and with how full level 0 and memory are. At most a second, and `timeout`."""
        self._engine.writer.slow_down(size, timeout_seconds(timeout))

    def _check_keys(self, batch: WriteBatch) -> None:
        rules = self._engine.rules
        keys = batch.columns()[0]
        if rules.layout is not None:
            for key in keys:
                if rules.layout.family(key) is not None:
                    raise InvalidError(f"key {key!r} belongs to a series: use append_series")
        elif batch.series:
            raise InvalidError("the database was opened without a series layout")
        for part in batch.series:
            part.check(rules.layout)
        if rules.extractor is not None:
            listed = (directory for part in batch.series if (directory := part.directory(rules.layout)) is not None)
            for key in [*keys, *(part.family for part in batch.series), *listed]:
                self._prefixes.check(rules.prefix_of(key), key, rules.extractor.name)

    def _known_prefixes(self) -> Iterator[bytes]:
        """Of every partition there is, in tables and in memory. Cost: sorts what memory holds."""
        view, rules = self._engine.views.current, self._engine.rules
        for partition in view.manifest.partitions:
            yield partition.prefix
        for table in view.memtables:
            for family in list(table.series):
                yield rules.prefix_of(family + b"\x00")
            for chunk in table.all_rows():
                for prefix, _, _ in partition_rows(chunk.keys, rules.prefix_of):
                    yield prefix

    # -- durability ---------------------------------------------------------------------------------------------------

    @property
    def durable_seq(self) -> int:
        """Batches with sequence numbers up to this one are durable."""
        return self._engine.wal.durable_seq

    @property
    def last_seq(self) -> int:
        """The newest accepted batch."""
        return self._engine.writer.last_seq

    def subscribe(self, on_durable: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Call `on_durable` whenever `durable_seq` has advanced, `on_failure` once when this handle has failed or closed.

        They are called from whichever thread it happens in, under the engine's lock: they must return at once and must
        not call the database.
        """
        self._engine.wal.subscribe(on_durable, on_failure)

    def flush(self, kind: FlushType = FlushType.WAL) -> None:
        """Return when everything written before is durable (`MEMTABLE`: and in tables).

        Raises: UnavailableError; calling again tries again. ReentrantError.
        """
        self._check_open()
        if kind is FlushType.MEMTABLE:
            self.check_outside()
        self._flush(kind)

    def flush_tables(self) -> None:
        """As `flush(FlushType.MEMTABLE)`, for background threads of those who build on this database: `flush` refuses them,
        as it cannot tell their own work from a finalizer that interrupts it. Requires: no lock is held."""
        self._check_open()
        self._engine.runtime.check_waiting()
        self._flush(FlushType.MEMTABLE)

    def _flush(self, kind: FlushType) -> None:
        engine = self._engine
        if kind is FlushType.WAL:
            if not engine.settings.wal_enabled:
                raise InvalidError("flush(WAL) with the log switched off: use FlushType.MEMTABLE")
            self._wait_durable(engine.writer.last_seq, None)
        else:
            engine.flusher.wait_flushed(engine.writer.freeze())

    def await_durable(self, timeout: float | None = None) -> None:
        """Return when everything written before is durable. Raises: TimeoutError, UnavailableError, ClosedError."""
        self._check_open()
        self._wait_durable(self._engine.writer.last_seq, timeout_seconds(timeout))

    def flush_soon(self) -> None:
        """Have a background thread make durable what was written so far. Returns at once."""
        if self._engine.settings.wal_enabled:
            self._engine.writer.seal()
        else:
            self._engine.writer.freeze()

    def _wait_durable(self, seq: int, timeout: float | None) -> None:
        engine = self._engine
        if engine.wal.durable_seq >= seq:
            return
        if self._closed is not None:
            raise kept(self._closed)
        engine.runtime.check_waiting()
        if not engine.settings.wal_enabled:
            engine.writer.freeze()
            if timeout is None:  # Where level 0 is full and nobody compacts, that must come to an end.
                engine.flusher.wait_flushed(seq)
                return
        engine.wal.wait_durable(seq, timeout)

    def wait_durable_beyond(self, seq: int, timeout: float | None = None) -> int:
        """Wait until something newer than batch `seq` is durable; the newest durable batch.

        Raises: TimeoutError, ClosedError, FencedError.
        """
        if self.durable_seq <= seq:
            if self._closed is not None:
                raise kept(self._closed)
            self.check_outside()
        return self._engine.wal.wait_beyond(seq, timeout_seconds(timeout))

    # -- reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """A consistent, unchanging view of this moment. Close it: it keeps old versions from being dropped."""
        view, bounds = self._see(DurabilityLevel.MEMORY)
        engine = self._engine
        return Snapshot(
            view, bounds, self._tables, self._layout, engine.snapshots, self._check_open, explained=self._explained
        )

    def _explained(self, error: TableMissingError) -> Error:
        """A table that this handle's own collector left alone: one of another process took it, or it is lost."""
        try:
            manifest = self._engine.manifests.refresh()
        except FencedError as fenced:
            self.fail(fenced)
            return fenced
        if manifest.names(error.object_name):
            events.tell(events.CORRUPTION, url=self.url, reason=events.reason(error))
            return error
        events.tell(events.READER_OVERTAKEN, url=self.url, reason=events.reason(error))
        return SnapshotExpiredError(f"{error.object_name} was compacted away, and collected from outside: read again")

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        self._check_open()
        engine = self._engine
        view = engine.views.current
        bounds = engine.writer.bounds()
        if durability is DurabilityLevel.REMOTE:
            bounds.seq = engine.wal.durable_seq
        return view, bounds

    def _see_family(self, family: bytes) -> tuple[View, int]:
        if self._closed is not None:
            raise kept(self._closed)
        engine = self._engine
        if engine.writer.poison is not None:
            raise kept(engine.writer.poison)
        view = engine.views.current
        return view, engine.writer.series_bound(family)

    # -- care ---------------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The manifest reads use at this moment."""
        return self._engine.views.current.manifest

    def create_checkpoint(self, lifetime: float | None = None, name: str | None = None) -> Checkpoint:
        """Pin what is written so far: `DbReader.open(..., checkpoint=made.id)` reads the same bytes whatever becomes of the
        database, for at least `lifetime` seconds (None: until it is deleted, see `Admin`).

        Makes everything written before durable first. Cost: `flush`, and one commit of the manifest.
        """
        self._check_open()
        self.check_outside()
        engine = self._engine
        is_logged = engine.settings.wal_enabled
        self._flush(FlushType.WAL if is_logged else FlushType.MEMTABLE)

        def wal_end(manifest: Manifest) -> int:
            return engine.wal.durable_number if is_logged else manifest.replay_after

        return create_checkpoint(engine.manifests, engine.runtime, wal_end=wal_end, lifetime=lifetime, name=name)

    def store_time_ms(self) -> int | None:
        """When the newest manifest was written, by the store's own clock; None where it keeps no times. Cost: one HEAD."""
        return self._engine.manifests.modified_ms()

    def wake_compactor(self) -> None:
        """Ask the scheduler again: something outside of the manifest that it decides by has changed."""
        if self._engine.compactor is not None:
            self._engine.compactor.wake()

    def compact(self, start: BytesLike | None = None, end: BytesLike | None = None) -> None:
        """Write to tables what is in memory, then merge what is in [start, end) into one run (of each partition), and return
        when that is done: rows come to lie in order, and deletes that nothing needs any more go.

        Cost: everything in the range is rewritten, unless it is one run already.
        Raises: InvalidError where this handle does not compact, UnavailableError, ClosedError, FencedError.
        """
        self._check_open()
        compactor = self._engine.compactor
        if compactor is None:
            raise InvalidError("compaction_enabled is off: another process compacts this database, or nobody does")
        low, high = None if start is None else as_key(start), None if end is None else as_key(end)
        self.check_outside()
        self._flush(FlushType.MEMTABLE)
        compactor.compact(lambda manifest, busy: compact_range(manifest, low, high, busy))

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no compaction is running or due. False after `timeout`."""
        self._check_open()
        self.check_outside()
        compactor, seconds = self._engine.compactor, timeout_seconds(timeout)
        return True if compactor is None else compactor.wait_idle(seconds)

    def collect_garbage(self, *, dry_run: bool = False, min_age: float | None = None) -> list[Garbage]:
        """Delete what nothing refers to; what it was, and why. Safe at any `min_age`, 0 included."""
        self._check_open()
        age = None if min_age is None else age_seconds(min_age, "min_age")
        return self._engine.collect(dry_run=dry_run, min_age=age)

    def _collect_regularly(self) -> None:
        interval = self._engine.settings.gc_interval
        while True:
            with self._ticks:
                if self._closed is None:
                    self._ticks.wait(interval)
                if self._closed is not None:
                    return
            try:
                self._engine.collect()
                self._engine.health.succeeded("collection")
            except FencedError as error:
                self.fail(error)
            except (Error, MemoryError) as error:  # The next round tries again; until then nothing is deleted.
                self._engine.health.failed("collection", error)
            except BaseException as error:
                self.fail(internal(f"the collector's thread failed: {error!r}", error))
                return

    @property
    def url(self) -> str:
        return self._engine.stores.main.url

    def job_failed(self, job: str, error: BaseException) -> None:
        """Report that background work failed and will be tried again: for those who build on this database, as `fail`. It is
        told in a log line and in `status().background`."""
        self._engine.health.failed(job, error)

    def job_succeeded(self, job: str) -> None:
        """Report that background work succeeded, which ends what `job_failed` reported. Cost: nothing where nothing failed."""
        self._engine.health.succeeded(job)

    def status(self) -> Status:
        """State and counters of this handle."""
        engine = self._engine
        view = engine.views.current
        stores = [engine.stores.main.health, engine.stores.wal.health]
        requests = engine.stores.main.traffic()
        if engine.stores.wal is not engine.stores.main:
            requests |= engine.stores.wal.traffic()
        reason = self._closed or engine.writer.poison
        return Status(
            url=engine.stores.main.url,
            manifest_number=view.manifest.number,
            writer_epoch=engine.epoch,
            last_seq=engine.writer.last_seq,
            durable_seq=engine.wal.durable_seq,
            flushed_seq=engine.flusher.flushed_seq,
            unflushed_bytes=engine.writer.unflushed_bytes,
            slowed_by=engine.writer.pressure.reason,
            frozen_memtables=len(view.memtables) - 1,
            close_reason=None if reason is None else str(reason),
            partitions=tuple(
                PartitionStatus(
                    partition.prefix,
                    len(partition.l0),
                    {run.level: len(run.tables) for run in partition.runs},
                    partition.size,
                )
                for partition in view.manifest.partitions
            ),
            compactions=engine.compactor.committed if engine.compactor is not None else 0,
            jobs=engine.jobs(),
            refused_compactions=engine.compactor.refused if engine.compactor is not None else 0,
            caches=engine.tables.cache_status(),
            requests=requests,
            failing_for=failing_for(*stores),
            last_failure=newest_failure(engine.health, *stores),
            background=engine.health.status(),
        )

    def check(self) -> None:
        """Raise what keeps this handle from working: ClosedError, FencedError, or the failure of a background thread."""
        self._check_open()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed is not None:
            raise kept(self._closed)
        poison = self._engine.writer.poison
        if poison is not None:
            raise kept(poison)

    def check_outside(self) -> None:
        """Raise ReentrantError where this thread could not wait for others: in a signal handler or a finalizer that runs in
        the middle of a call, and in a thread of the database's own. Cost: a look at each of its locks."""
        self._engine.runtime.check_outside()

    def fail(self, error: Error) -> None:
        """Refuse further work with `error`: for background threads of those who build on this database."""
        self._engine.fail(error)

    def close(self) -> None:
        """Flush everything to tables and stop. Idempotent; after it every call raises ClosedError.

        Raises: UnavailableError where the store kept the flush from succeeding: nothing more is written, background threads
        go on trying, and calling again tries again. Any other failure of the background or the flush: the handle is closed
        all the same, and what was durable stays so. A fenced handle closes without flushing.
        ReentrantError: it is not closed, see `check_outside`.
        """
        if self._is_shut:
            return
        self.check_outside()
        with self._close_lock:
            if self._is_shut:
                return
            try:
                if self._closed is None:  # Else an earlier call was interrupted: what is left is to stop the threads.
                    self._stop_writing()
            except UnavailableError:
                raise
            except BaseException:
                self._shut_down()
                raise
            self._shut_down()

    def _shut_down(self) -> None:
        self._closed = ClosedError("the database is closed: open it again")
        self._engine.writer.fail(self._closed)
        with self._ticks:
            self._ticks.notify_all()
        self._engine.shut_down()
        if self._gc_task is not None:
            self._gc_task.join()
        self._is_shut = True
        self._tell_closed()

    def _tell_closed(self) -> None:
        durable, last = self.durable_seq, self.last_seq
        if durable < last:
            events.tell(events.CLOSED_EARLY, url=self.url, first=durable + 1, last=last)
        else:
            events.tell(events.CLOSED, url=self.url, last=last)

    def _stop_writing(self) -> None:
        self._engine.writer.stop(ClosedError("the database is being closed: open it again"))
        failure = self._engine.writer.poison
        if failure is None:
            self._flush_all()
        elif not isinstance(failure, FencedError):
            raise kept(failure)

    def _flush_all(self) -> None:
        with contextlib.suppress(FencedError):
            self._engine.flusher.drain()
            if self._engine.settings.wal_enabled:
                self._flush(FlushType.WAL)
            self._flush(FlushType.MEMTABLE)

    def be_ended(self, seconds: float) -> str | None:
        """The program ends: take no more batches, and wait until those that were taken are durable. What is not, if any."""
        if self._closed is not None:
            return None
        url, writer = self._engine.stores.main.url, self._engine.writer
        writer.stop(ClosedError("the program has ended: the database takes no more batches"))
        why = f"not stored within {seconds:.1f} s"
        try:
            self._wait_durable(writer.last_seq, seconds)
        except TimeoutError:
            pass
        except Error as error:
            why = events.reason(error)
        durable = self.durable_seq
        self._closed = ClosedError("the program has ended: open the database again")
        self._is_shut = True
        if durable >= writer.last_seq:
            return None
        self._tell_closed()
        return (
            f"{url} was not closed before the program ended: batches {durable + 1} to {writer.last_seq} are not durable "
            f"({why}) and may be lost; call close(), or open it in a `with` block"
        )

    def be_forked(self) -> None:
        self._closed = ClosedError("this database was opened before a fork: open it again in the child process")
        self._is_shut = True

    def __enter__(self) -> Db:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed is not None else f"seq {self._engine.writer.last_seq}"
        return f"<lsm.Db {self._engine.stores.main.url} epoch {self._engine.epoch}, {state}>"
