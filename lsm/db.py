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
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import Manifest
from lsm.opening.closing import Closing
from lsm.opening.engine import Engine
from lsm.opening.maintenance import Maintenance
from lsm.read.iterator import DurabilityLevel
from lsm.read.reads import Reads
from lsm.read.snapshot import Snapshot
from lsm.rows.bytes_in import BytesLike
from lsm.settings import Settings
from lsm.status import Status, status_of_handle
from lsm.view import Bounds, View
from lsm.write.batch import WriteBatch, WriteHandle
from lsm.write.durability import Durability, FlushType
from lsm.write.handle_state import HandleState
from lsm.write.intake import Intake
from lsm.write.key_checks import KeyChecks


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
                # The thread holds the handle by this: at the end of the program, one that nobody else holds is ended, too.
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
        return self._intake.write(WriteBatch().put(key, value), await_durable=await_durable)

    def delete(self, key: BytesLike, *, await_durable: bool = False) -> WriteHandle:
        """Remove a key, present or not."""
        return self._intake.write(WriteBatch().delete(key), await_durable=await_durable)

    def write(self, batch: WriteBatch, *, await_durable: bool = False) -> WriteHandle:
        """Apply a batch atomically. Waits while `max_unflushed_bytes` are unflushed, and a little when level 0 or memory
        is more than half full (`status().slowed_by`).

        Raises: InvalidError for an empty batch or a key inside a series family; UnavailableError where the log cannot be
        written or no space became free within `op_timeout`; ClosedError, FencedError. Nothing was applied then.
        """
        return self._intake.write(batch, await_durable=await_durable)

    def write_at_once(self, batch: WriteBatch, *, in_outage: bool = False) -> WriteHandle:
        """As `write` for rows that must not wait, however little space there is: a few small ones. `in_outage`: also while
        the log cannot be written at present; they become durable after everything before them. Makes no request.

        Raises: InvalidError, UnavailableError, ClosedError, FencedError. Nothing was applied then.
        """
        return self._intake.write_at_once(batch, in_outage=in_outage)

    def append_series(self, family: bytes, names: list[bytes], first: int, values: list[bytes], size: int) -> int:
        """Append one row to each of `names` (repeats are fine), numbered first, first + 1, ...; the batch's seqnum.

        The fast path of a log: columns in, no object per row. Requires: lists of bytes nobody changes afterwards, of one
        length; `size` is the total length of names and values; numbers never go back within a family. Never waits: see
        `has_space`. Raises: as `write`.
        """
        if self._state.closed is not None:
            raise kept(self._state.closed)
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
        self._intake.wait_space(timeout)

    @property
    def is_slowed(self) -> bool:
        """Whether `slow_down` would pause."""
        return self._engine.writer.pressure.reason is not None

    def slow_down(self, size: int, timeout: float | None = None) -> None:
        """Before `append_series`, for callers that may wait: nothing, or a pause that grows with the size of what is to
        come and with how full level 0 and memory are. At most a second, and `timeout`."""
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
        """Call `on_durable` whenever `durable_seq` has advanced, `on_failure` once when this handle has failed or closed.

        They are called from whichever thread it happens in, under the engine's lock: they must return at once and must
        not call the database.
        """
        self._engine.wal.subscribe(on_durable, on_failure)

    def flush(self, kind: FlushType = FlushType.WAL) -> None:
        """Return when everything written before is durable (`MEMTABLE`: and in tables).

        Raises: UnavailableError; calling again tries again. ReentrantError.
        """
        self._durability.flush(kind)

    def flush_tables(self) -> None:
        """As `flush(FlushType.MEMTABLE)`, for background threads of those who build on this database: `flush` refuses them,
        as it cannot tell their own work from a finalizer that interrupts it. Requires: no lock is held."""
        self._durability.flush_tables()

    def await_durable(self, timeout: float | None = None) -> None:
        """Return when everything written before is durable. Raises: TimeoutError, UnavailableError, ClosedError."""
        self._durability.wait_for_all(timeout)

    def flush_soon(self) -> None:
        """Have a background thread make durable what was written so far. Returns at once."""
        self._durability.flush_soon()

    def wait_durable_beyond(self, seq: int, timeout: float | None = None) -> int:
        """Wait until something newer than batch `seq` is durable; the newest durable batch.

        Raises: TimeoutError, ClosedError, FencedError.
        """
        return self._durability.wait_beyond(seq, timeout)

    # -- reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """A consistent, unchanging view of this moment. Close it: it keeps old versions from being dropped."""
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
        """The manifest reads use at this moment."""
        return self._engine.views.current.manifest

    def create_checkpoint(self, lifetime: float | None = None, name: str | None = None) -> Checkpoint:
        """Pin what is written so far: `DbReader.open(..., checkpoint=made.id)` reads the same bytes whatever becomes of the
        database, for at least `lifetime` seconds (None: until it is deleted, see `Admin`).

        Makes everything written before durable first. Cost: `flush`, and one commit of the manifest.
        """
        return self._maintenance.create_checkpoint(lifetime, name)

    def store_time_ms(self) -> int | None:
        """When the newest manifest was written, by the store's own clock; None where it keeps no times. Cost: one HEAD."""
        return self._engine.manifests.modified_ms()

    def wake_compactor(self) -> None:
        """Ask the scheduler again: something outside of the manifest that it decides by has changed."""
        self._maintenance.wake_compactor()

    def compact(self, start: BytesLike | None = None, end: BytesLike | None = None) -> None:
        """Write to tables what is in memory, then merge what is in [start, end) into one run (of each partition), and return
        when that is done: rows come to lie in order, and deletes that nothing needs any more go.

        Cost: everything in the range is rewritten, unless it is one run already.
        Raises: InvalidError where this handle does not compact, UnavailableError, ClosedError, FencedError.
        """
        self._maintenance.compact(start, end)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no compaction is running or due. False after `timeout`."""
        return self._maintenance.wait_idle(timeout)

    def collect_garbage(self, *, dry_run: bool = False, min_age: float | None = None) -> list[Garbage]:
        """Delete what nothing refers to; what it was, and why. Safe at any `min_age`, 0 included."""
        return self._maintenance.collect_garbage(dry_run=dry_run, min_age=min_age)

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
        return status_of_handle(self._engine, self._state.reason)

    def check(self) -> None:
        """Raise what keeps this handle from working: ClosedError, FencedError, or the failure of a background thread."""
        self._state.check()

    # -- the end ------------------------------------------------------------------------------------------------------

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
        self._closing.close()

    def be_ended(self, seconds: float) -> str | None:
        """The program ends: take no more batches, and wait until those that were taken are durable. What is not, if any."""
        return self._closing.be_ended(seconds)

    def __enter__(self) -> Db:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._state.closed is not None else f"seq {self._engine.writer.last_seq}"
        return f"<lsm.Db {self._engine.stores.main.url} epoch {self._engine.epoch}, {state}>"
