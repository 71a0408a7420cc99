"""The database: joins the write walk and the read walk. Holds no format, no policy and no thread.

Source: SlateDB's `Db`. Synchronous and thread-safe; one handle owns a database, and opening another fences this one out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from lsm.checks import timeout_seconds
from lsm.components import Components
from lsm.concurrency.exits import tell_at_exit
from lsm.concurrency.forks import tell_in_child
from lsm.errors import Error, InvalidError, TableMissingError, kept
from lsm.gc.collector import RegularCollection
from lsm.gc.policy import Garbage
from lsm.maintenance import Maintenance
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import Manifest
from lsm.opening.closing import Closing
from lsm.opening.engine import Engine
from lsm.read.iterator import DurabilityLevel
from lsm.read.reads import Reads
from lsm.read.snapshot import Snapshot
from lsm.rows.bytes_in import BytesLike
from lsm.settings import Settings
from lsm.status import Status, status_of_handle
from lsm.view import Bounds, View
from lsm.write.admission import Intake
from lsm.write.batch import WriteBatch, WriteHandle
from lsm.write.durability import Durability, FlushType
from lsm.write.handle_state import HandleState
from lsm.write.layout_checks import KeyChecks


class Db(Reads):
    """A single-writer key-value database on an object store. Open it with `Db.open`.

    Large: it is the whole public face of a database, and its methods only forward to the parts that do the work.
    """

    def __init__(self, url: str, settings: Settings, parts: Components) -> None:
        self._engine = engine = Engine(url, settings, parts)
        self._tables = engine.tables
        self._layout = engine.rules.layout
        runtime, writer = engine.runtime, engine.writer
        self._state = state = HandleState(writer)
        self._durability = durability = Durability(
            state, runtime, writer, engine.wal, engine.flusher, wal_enabled=settings.wal_enabled
        )
        keys = KeyChecks(runtime, engine.rules, engine.views)
        self._intake = Intake(state, runtime, writer, durability, keys, op_timeout=settings.op_timeout)
        self._maintenance = Maintenance(engine, state, durability)
        self._closing = Closing(engine, state, durability, self._start_collection(settings.gc_interval))
        tell_in_child(state)
        tell_at_exit(self, runtime)

    def _start_collection(self, interval: float | None) -> RegularCollection | None:
        if interval is None:
            return None
        engine, state = self._engine, self._state
        try:
            return RegularCollection(
                engine.runtime,
                engine.collect,
                interval=interval,
                is_over=lambda: state.closed is not None,
                # This callback keeps the handle referenced, so that the program's end finds it even if no caller holds it.
                on_failure=self.fail,
                health=engine.health,
            )
        except BaseException:
            engine.shut_down()
            raise

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        **components: Any,
    ) -> Db:
        """Open or create the database at an fsspec URL or path. A writer that has it open is fenced out.

        `components`: the fields of `Components`. Cost: see `open_database`; no request per table.
        Raises: InvalidError, UnavailableError, CorruptionError, FencedError (another process opened it at the same time).
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
        """Set a key. Reads see it at once. `await_durable`, here or on the returned handle, waits until it is durable."""
        return self._intake.write(WriteBatch().put(key, value), await_durable=await_durable)

    def delete(self, key: BytesLike, *, await_durable: bool = False) -> WriteHandle:
        """Remove a key, whether it is present or not."""
        return self._intake.write(WriteBatch().delete(key), await_durable=await_durable)

    def write(self, batch: WriteBatch, *, await_durable: bool = False) -> WriteHandle:
        """Apply a batch atomically. Waits while `max_unflushed_bytes` are unflushed. Pauses briefly while level 0 or
        memory is more than half full (`status().slowed_by`).

        Raises: InvalidError for an empty batch or a key inside a series family; UnavailableError if the log cannot be
        written or no space became free within `op_timeout`; ClosedError, FencedError. The batch was not applied then.
        """
        return self._intake.write(batch, await_durable=await_durable)

    def write_at_once(self, batch: WriteBatch, *, in_outage: bool = False) -> WriteHandle:
        """As `write`, but without waiting for space: for a few small rows. `in_outage`: accept the batch even if the log cannot
        be written at present; it becomes durable after all batches before it. Makes no request.

        Raises: InvalidError, UnavailableError, ClosedError, FencedError. The batch was not applied then.
        """
        return self._intake.write_at_once(batch, in_outage=in_outage)

    def append_series(self, family: bytes, names: list[bytes], first: int, values: list[bytes], size: int) -> int:
        """Append one row to each of `names` (repeats are allowed), numbered first, first + 1, ... Return the batch's seqnum.

        The fast path of a log: columns in, no object per row. Requires: lists of bytes of one length that are not changed
        afterwards; `size` is the total length of names and values; numbers never decrease within a family. Never waits: see
        `has_space`. Raises: as `write`.
        """
        if self._state.closed is not None:
            raise kept(self._state.closed)
        return self._engine.writer.append_series(family, names, first, values, size)

    def keep_arrivals(self) -> None:
        """From now on, also keep series rows in memory in the order of their arrival, for `series_arrivals`. Cost: two list
        references per batch."""
        self._engine.writer.keep_arrivals()

    @property
    def has_space(self) -> bool:
        """Whether fewer than `max_unflushed_bytes` bytes are accepted but not flushed."""
        return self._engine.writer.has_space

    def wait_space(self, timeout: float | None = None) -> None:
        """Wait for `has_space`. Raises: UnavailableError after `timeout`, ClosedError, FencedError."""
        self._intake.wait_space(timeout)

    @property
    def is_slowed(self) -> bool:
        """Whether `slow_down` would pause."""
        return self._engine.writer.pressure.reason is not None

    def slow_down(self, size: int, timeout: float | None = None) -> None:
        """Back-pressure for callers that may wait: call it before `append_series` with the size of the rows. Pauses longer for
        more bytes and for a fuller level 0 or memory; at most a second, and at most `timeout`."""
        self._engine.writer.slow_down(size, timeout_seconds(timeout))

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
        """Call `on_durable` whenever `durable_seq` has advanced, and `on_failure` once when this handle has failed or closed.

        The thread that causes the event makes the call, under the engine's lock. Callbacks must return at once and must not
        call the database.
        """
        self._engine.wal.subscribe(on_durable, on_failure)

    def flush(self, kind: FlushType = FlushType.WAL) -> None:
        """Return when every batch written before is durable (`MEMTABLE`: and in tables).

        Raises: UnavailableError (call again to retry), ReentrantError.
        """
        self._durability.flush(kind)

    def flush_tables(self) -> None:
        """As `flush(FlushType.MEMTABLE)`, for background threads of a layer on top of this database. `flush` refuses such
        threads, because it cannot distinguish their work from a finalizer that interrupts it. Requires: holding no lock."""
        self._durability.flush_tables()

    def await_durable(self, timeout: float | None = None) -> None:
        """Return when every batch written before is durable. Raises: TimeoutError, UnavailableError, ClosedError."""
        self._durability.wait_for_all(timeout)

    def flush_soon(self) -> None:
        """Make a background thread flush every batch written so far. Returns at once."""
        self._durability.flush_soon()

    def wait_durable_beyond(self, seq: int, timeout: float | None = None) -> int:
        """Wait until a batch newer than `seq` is durable; return the newest durable batch.

        Raises: TimeoutError, ClosedError, FencedError.
        """
        return self._durability.wait_beyond(seq, timeout)

    # -- reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return a consistent view of this moment. Close it after use: an open snapshot keeps old versions of rows."""
        view, bounds = self._see(DurabilityLevel.MEMORY)
        engine = self._engine
        return Snapshot(
            view, bounds, self._tables, self._layout, engine.snapshots, self._state.check, explained=engine.explained
        )

    def _explained(self, error: TableMissingError) -> Error:
        return self._engine.explained(error)

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        self._state.check()
        engine = self._engine
        view = engine.views.current
        bounds = engine.writer.bounds()
        if durability is DurabilityLevel.REMOTE:
            bounds.seq = engine.wal.durable_seq
        return view, bounds

    def _see_family(self, family: bytes) -> tuple[View, int]:
        if self._state.closed is not None:
            raise kept(self._state.closed)
        engine = self._engine
        if engine.writer.poison is not None:
            raise kept(engine.writer.poison)
        view = engine.views.current
        return view, engine.writer.series_bound(family)

    # -- maintenance --------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The manifest that reads use now."""
        return self._engine.views.current.manifest

    def create_checkpoint(self, lifetime: float | None = None, name: str | None = None) -> Checkpoint:
        """Pin the current contents. `DbReader.open(..., checkpoint=made.id)` reads exactly these bytes, even after the database
        changes, for at least `lifetime` seconds (`None`: until the checkpoint is deleted, see `Admin`).

        First makes every batch written before durable. Cost: `flush`, and one commit of the manifest.
        """
        return self._maintenance.create_checkpoint(lifetime, name)

    def store_time_ms(self) -> int | None:
        """Return when the newest manifest was written, by the store's clock; `None` if it keeps no times. Cost: one HEAD."""
        return self._engine.manifests.modified_ms()

    def wake_compactor(self) -> None:
        """Make the scheduler propose again. Call this when values outside the manifest that it depends on have changed."""
        self._maintenance.wake_compactor()

    def compact(self, start: BytesLike | None = None, end: BytesLike | None = None) -> None:
        """Flush memory to tables, then merge all rows in [start, end) into one run per partition. Return when that is done:
        the rows are in key order, and unneeded deletes are dropped.

        Cost: rewrites all rows in the range, unless they are one run already.
        Raises: InvalidError if this handle does not compact; UnavailableError, ClosedError, FencedError.
        """
        self._maintenance.compact(start, end)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no compaction is running or due. False after `timeout`."""
        return self._maintenance.wait_idle(timeout)

    def collect_garbage(self, *, dry_run: bool = False, min_age: float | None = None) -> list[Garbage]:
        """Delete unreferenced objects; return each with the reason. Safe at any `min_age`, including 0."""
        return self._maintenance.collect_garbage(dry_run=dry_run, min_age=min_age)

    @property
    def url(self) -> str:
        return self._engine.stores.main.url

    def job_failed(self, job: str, error: BaseException) -> None:
        """Report that background work failed and will be retried: for a layer on top of this database. The report appears in a
        log line and in `status().background`."""
        self._engine.health.failed(job, error)

    def job_succeeded(self, job: str) -> None:
        """Report that background work succeeded, which ends the reports of `job_failed`. Cost: none without a failure."""
        self._engine.health.succeeded(job)

    def status(self) -> Status:
        """State and counters of this handle."""
        return status_of_handle(self._engine, self._state.reason)

    def check(self) -> None:
        """Raise the error that stops this handle, if any: ClosedError, FencedError, or the failure of a background thread."""
        self._state.check()

    # -- the end ------------------------------------------------------------------------------------------------------

    def check_outside(self) -> None:
        """Raise ReentrantError if this thread must not wait for others: in a signal handler or finalizer that interrupts a
        call, or in one of the database's own threads. Cost: one check per lock of the database."""
        self._engine.runtime.check_outside()

    def fail(self, error: Error) -> None:
        """Refuse further work with `error`: for background threads of a layer on top of this database."""
        self._engine.fail(error)

    def close(self) -> None:
        """Flush every batch to tables and stop. Idempotent. After it, every call raises ClosedError.

        Raises: UnavailableError: the store prevented the flush. The handle is not closed; it takes no more batches, and
        background threads continue to retry. Call `close` again to retry. Any other failure of a background thread or of the
        flush: the handle is closed all the same, and durable batches stay durable. ReentrantError: the handle is not closed,
        see `check_outside`. A fenced handle closes without a flush.
        """
        self._closing.close()

    def be_ended(self, seconds: float) -> str | None:
        """End the handle with the program: refuse new batches, and wait until accepted batches are durable. Return a report of
        batches that are not durable; `None` if there are none."""
        return self._closing.be_ended(seconds)

    def __enter__(self) -> Db:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._state.closed is not None else f"seq {self._engine.writer.last_seq}"
        return f"<lsm.Db {self._engine.stores.main.url} epoch {self._engine.epoch}, {state}>"
