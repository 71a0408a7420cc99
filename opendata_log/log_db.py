"""Both walks start here: the writer's handle of a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import lsm
from opendata_log.maintain.policy import LiveSegments, LogScheduler, segment_states
from opendata_log.model.config import Config, ReadVisibility, config_of, writer_settings
from opendata_log.model.errors import (
    AppendStorageError,
    AppendTimeoutError,
    ClosedError,
    Error,
    InvalidInputError,
    QueueFullError,
    ShutdownError,
    StorageError,
    translate,
    translate_append,
    translated,
)
from opendata_log.model.keys import LogPartitions, LogSeries
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import AppendOutput, BytesLike, RecordLike, SegmentId, Sequence, columns
from opendata_log.model.segment import SegmentTable
from opendata_log.model.storage import Storage, StorageConfig
from opendata_log.model.time_track import TimeTrack
from opendata_log.read.reads import Reads
from opendata_log.read.scan import SeriesReads
from opendata_log.waiting.wakeups import DurableWakeups, Wakeups
from opendata_log.waiting.watch import DurableWatch
from opendata_log.write.retention import Retention
from opendata_log.write.sequence import BLOCK_MIN, SequencesShortError
from opendata_log.write.writer import LogWriter

_NOTHING_WRITTEN = AppendOutput(0)
HAND_OVER_ROWS = 1024
"""Records appended between two chances for threads that read; some half a millisecond."""
CLONE_SECONDS = 300.0
"""How long what is cloned is kept at least, should the call be cut off."""


class LogDb(Reads):
    """A keyed log: one writer, and reads of what it wrote. Thread-safe; a context manager.

    >>> with LogDb.open(storage="memory://") as log:
    ...     log.try_append([(b"orders", b"created"), (b"users", b"login"), (b"orders", b"paid")])
    ...     [(entry.sequence, entry.value) for entry in log.scan(b"orders")]
    AppendOutput(start_sequence=0)
    [(0, b'created'), (2, b'paid')]
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: lsm.Clock | None = None,
        file_system: Any = None,
        object_store: lsm.ObjectStore | None = None,
        runtime: lsm.Runtime | None = None,
        compaction_executor: Executor | None = None,
        sequence_block: int = BLOCK_MIN,
    ) -> None:
        self._config = config
        self._is_closed = self._is_shut = self._may_not_read = self._was_read = False
        self._since_read, self._loss = 0, ""
        self._runtime = runtime if runtime is not None else lsm.Runtime(clock)
        storage = config.storage_config
        settings = writer_settings(config)
        live = LiveSegments()
        self._flush_type = lsm.FlushType.WAL if settings.wal_enabled else lsm.FlushType.MEMTABLE
        try:
            self._db = lsm.Db.open(
                storage.url,
                settings,
                storage_options=storage.storage_options,
                wal_url=storage.wal_url,
                parent_storage_options=storage.parent_storage_options,
                file_system=file_system,
                caches=storage.caches,
                object_store=object_store,
                prefix_extractor=LogPartitions(),
                series_layout=LogSeries(),
                scheduler=LogScheduler(
                    config.compaction, live, segmentation=config.segmentation, l0_max_ssts=settings.l0_max_ssts
                ),
                compaction_executor=compaction_executor,
                runtime=self._runtime,
            )
        except lsm.Error as error:
            raise translate(error) from error
        self._places, self._file_system = _absolute(storage, file_system), file_system
        self._is_memory_visible = config.read_visibility is ReadVisibility.MEMORY
        self._wakeups = Wakeups(self._runtime) if self._is_memory_visible else DurableWakeups(self._runtime, self._db)
        self._db.subscribe(self._wakeups.advanced, self._stop_reads)
        self._watchers = Wakeups(self._runtime)
        self._db.subscribe(self._watchers.tell_all, self._watchers.tell_all)
        try:
            self._writer = LogWriter(self._db, self._runtime, config.segmentation, self._wakeups, live, sequence_block)
            segment_states(self._db.manifest, live.bounds)  # Refuses a log whose newest segment has no metadata.
            self._db.wake_compactor()
            self._retention: Retention | None = None
            if config.retention.retention is not None:
                retention, segmentation = config.retention, config.segmentation
                self._retention = Retention(self._db, self._runtime, self._writer, retention, segmentation)
        except BaseException as error:
            with suppress(lsm.Error):
                self._db.close()
            if isinstance(error, lsm.Error):
                raise translate(error) from error
            raise
        self._belong_to_process()

    def _belong_to_process(self) -> None:
        lsm.tell_in_child(self)
        lsm.tell_at_exit(self, self._runtime, instead_of=self._db)

    @classmethod
    def open(cls, config: Config | Storage | None = None, **overrides: Any) -> LogDb:
        """Open the log `config` names, or create it, and take it over from any older writer.

        `config`: a `Config`, or a URL or path: `LogDb.open("s3://bucket/orders")`. `overrides` replace fields of the
        configuration: `LogDb.open("/srv/log", read_visibility="remote")`.
        Raises: InvalidInputError, StorageError, CorruptionError, FencedError (another process opened it meanwhile).
        """
        return LogDbBuilder(config, **overrides).build()

    # -- appending ----------------------------------------------------------------------------------------------------

    def try_append(self, records: Iterable[RecordLike]) -> AppendOutput:
        """Append a batch: atomic, one contiguous run of sequences, in one segment. Never waits for the store.

        `records`: any iterable of `Record` or `(key, value)`. An empty batch writes nothing.
        Cost: about 0.3 µs a record; no request.
        Raises: InvalidInputError; QueueFullError where `engine.max_unflushed_bytes` are not flushed yet, or the store is too
        slow for sequences to be durably reserved in time;
        AppendStorageError; ShutdownError; an error that is AppendError and FencedError. Nothing was appended then.
        """
        keys, values, size, batch = self._welcome(records)
        return self._append(keys, values, size, batch) if keys else _NOTHING_WRITTEN

    def _welcome(
        self, records: Iterable[RecordLike], *, may_wait: bool = False
    ) -> tuple[list[bytes], list[bytes], int, list[Any]]:
        """A batch that may be appended now: keys, values, their size, and the batch for an error to carry."""
        keys, values, key_bytes, value_bytes, batch = columns(records)
        if not keys:
            self._check_open()
        elif self._is_closed:
            raise ShutdownError("the log is closed: open it again", batch)
        elif not (may_wait or self._db.has_space):
            raise self._full(batch)
        return keys, values, key_bytes + value_bytes, batch

    def _append(self, keys: list[bytes], values: list[bytes], size: int, batch: list[Any]) -> AppendOutput:
        try:
            first = self._writer.append(keys, values, size)
        except SequencesShortError as error:
            raise QueueFullError(f"the log is behind: {error}; append again later", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error
        if self._was_read:
            self._since_read += len(keys)
            if self._since_read >= HAND_OVER_ROWS:
                # A thread that appends without end would make every other wait for the interpreter's switch interval.
                self._was_read, self._since_read = False, 0
                self._runtime.hand_over()
        return AppendOutput(first)

    def append_if_quick(self, records: Iterable[RecordLike]) -> AppendOutput | None:
        """As `try_append`, for a thread that waits for no lock: None where another thread appends at this moment. Nothing was
        appended then, and `try_append` after `await_turn` in another thread can do it."""
        keys, values, size, batch = self._welcome(records)
        try:
            first = self._writer.append_if_quick(keys, values, size) if keys else 0
        except SequencesShortError as error:
            raise QueueFullError(f"the log is behind: {error}; append again later", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error
        return None if first is None else AppendOutput(first)

    @property
    def is_slowed(self) -> bool:
        """Whether `append_timeout` would wait a moment."""
        return self._db.is_slowed

    def await_turn(self) -> None:
        """Wait for the lock that `append_if_quick` lacks. It is not held during a request."""
        self._writer.await_turn()

    def append_timeout(self, records: Iterable[RecordLike], timeout: float | timedelta | None) -> AppendOutput:
        """As `try_append`, but waits up to `timeout` seconds for space and sequences (None: as long as it takes), and a moment
        where space or level 0 run short (`status().slowed_by`).

        Raises: as `try_append`, with AppendTimeoutError instead of QueueFullError; its `records` can be appended again.
        """
        seconds = timeout_seconds(timeout)
        keys, values, size, batch = self._welcome(records, may_wait=True)
        if not keys:
            return _NOTHING_WRITTEN
        begun = self._runtime.monotonic()
        try:
            if not self._db.has_space:
                self._db.wait_space(seconds)
            else:
                self._db.slow_down(size, seconds)
        except lsm.UnavailableError as error:
            raise AppendTimeoutError(f"no space within {seconds} s: {error}", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error
        while True:
            try:
                return self._append(keys, values, size, batch)
            except QueueFullError:
                left = None if seconds is None else max(0.0, begun + seconds - self._runtime.monotonic())
                self._await_sequences(len(keys), left, batch)

    def append(
        self,
        key: BytesLike,
        value: BytesLike,
        *,
        durable: bool = False,
        timeout: float | timedelta | None = None,
    ) -> AppendOutput:
        """Append one record. Waits for space, and with `durable` until the record is durable, up to `timeout` seconds for
        both together (None: `engine.op_timeout`).

        >>> with LogDb.open("memory://") as log:
        ...     log.append(b"orders", b"created", durable=True)
        ...     log.durable_sequence
        AppendOutput(start_sequence=0)
        1

        Cost: some 10 µs; `durable`: one PUT, shared by all threads that wait. Batches are far cheaper: `try_append`.
        Raises: as `append_timeout`. An error of a `durable` append whose `records` is None: the record was accepted and may
        still become durable, so do not append it again; call `flush`.
        """
        seconds = timeout_seconds(timeout)
        if seconds is None:
            seconds = self.op_timeout
        begun = self._runtime.monotonic()
        output = self.append_timeout([(key, value)], seconds)
        if durable:
            try:
                self._db.await_durable(max(0.0, begun + seconds - self._runtime.monotonic()))
            except TimeoutError as error:
                raise not_durable_in_time(seconds) from error
            except lsm.UnavailableError as error:
                raise AppendStorageError(
                    f"accepted, and not known to be durable: {error}", outcome_unknown=True
                ) from error
            except lsm.Error as error:
                raise translate_append(error, None) from error
        return output

    @property
    def op_timeout(self) -> float:
        """Seconds that `append` waits where no `timeout` is given."""
        return writer_settings(self._config).op_timeout

    def _await_sequences(self, count: int, seconds: float | None, batch: list[Any]) -> None:
        try:
            self._writer.await_sequences(count, seconds)
        except TimeoutError as error:
            raise AppendTimeoutError(f"no {count} sequences could be durably reserved in time", batch) from error
        except lsm.UnavailableError as error:
            # Whatever became of the block: the batch that needs it was not even tried.
            raise AppendStorageError(f"no sequences could be reserved: {error}", batch) from error
        except lsm.Error as error:
            raise translate_append(error, batch) from error

    def _full(self, batch: list[Any]) -> Error:
        try:
            self._db.wait_space(0)
        except lsm.UnavailableError as error:
            return QueueFullError(f"the log is behind: {error}; append again later", batch)
        except lsm.Error as error:
            return translate_append(error, batch)
        return QueueFullError("the log is behind; append again now", batch)

    def flush(self) -> None:
        """Return when every earlier append is durable, on local files against power loss too; `durable_sequence` then
        covers it. Cost: one PUT, shared by everybody who waits. Raises: StorageError, FencedError, ClosedError."""
        self._check_open()
        try:
            self._db.flush(self._flush_type)
        except lsm.Error as error:
            raise translate(error) from error

    @property
    def durable_sequence(self) -> Sequence:
        """Exclusive: every record with a lower sequence is durable. Advances by itself."""
        return self._writer.durable.advance()

    def subscribe_durable(self) -> DurableWatch:
        """The durable watermark to wait for."""
        self._check_open()
        return DurableWatch(
            lambda: self._writer.durable.advance(),
            self._db.wait_durable_beyond,
            self._db,
            self._runtime,
            self._watchers,
        )

    def seal_segment(self) -> SegmentId:
        """Seal the active segment and return its id; the successor appears with the next append, also after a reopen.

        Sealing a segment that is sealed already changes nothing and returns its id; 0 where nothing was ever appended.
        """
        self._check_open()
        try:
            return self._writer.seal()
        except lsm.Error as error:
            raise translate(error) from error

    # -- reading ------------------------------------------------------------------------------------------------------

    def _engine_for_reads(self) -> SeriesReads:
        if self._may_not_read:
            self._check_open()
            try:
                self._db.check()
            except lsm.Error as error:
                raise translate(error) from error
        return self._db

    def _stop_reads(self) -> None:
        """The handle is closed, or the engine has failed: reads say so, and whoever follows is told."""
        self._may_not_read = True
        self._wakeups.tell_all()

    def _visible(self) -> tuple[SegmentTable, Sequence]:
        self._was_read = True
        # The frontier first: the segments of everything below it are in the table by then.
        writer = self._writer
        if self._is_memory_visible:
            frontier = writer.next_sequence
        else:
            frontier = writer.durable.advance()
        return writer.segments.table, frontier

    def _visible_at_hand(self) -> tuple[SegmentTable, Sequence]:
        return self._visible()

    def _time_track(self) -> TimeTrack:
        return self._writer.clock.track

    def _time_track_at_hand(self) -> TimeTrack:
        return self._writer.clock.track

    # -- care ---------------------------------------------------------------------------------------------------------

    def status(self) -> lsm.Status:
        """State and counters of the engine: tables, compactions, requests by kind and cause."""
        with translated():
            return self._db.status()

    def create_checkpoint(self, lifetime: float | timedelta | None = None, name: str | None = None) -> lsm.Checkpoint:
        """Pin everything appended so far: `LogDbReader.open(..., checkpoint=made.id)` reads the same entries whatever
        becomes of the log, for at least `lifetime` seconds (None: until `lsm.Admin` deletes it).

        Cost: `flush`, and one commit of the manifest. Raises: StorageError, FencedError, ClosedError.
        """
        self._check_open()
        seconds = timeout_seconds(lifetime, "lifetime")
        with translated():
            return self._db.create_checkpoint(seconds, name)

    def clone(
        self,
        destination: str,
        checkpoint: str | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> lsm.Checkpoint:
        """Make a log at `destination` with everything appended so far, or what `checkpoint` pins, without copying tables:
        it reads this log's in place until its own compactions have replaced them, and is written on its own. Until then it is
        no copy: without this log it cannot be read. Where its `storage_options` do not open this log, it is opened with
        `StorageConfig(parent_storage_options={url: ...})`.

        The checkpoint returned keeps here what the clone needs, until the clone's collector gives it back.
        Raises: InvalidInputError where something is at `destination`, StorageError.
        """
        self._check_open()
        storage = self._config.storage_config
        try:
            source = checkpoint if checkpoint is not None else self._db.create_checkpoint(CLONE_SECONDS).id
            with lsm.Admin(
                self._places[0],
                storage_options=storage.storage_options,
                wal_url=self._places[1],
                parent_storage_options=storage.parent_storage_options,
                file_system=self._file_system,
            ) as admin:
                made = admin.create_clone(destination, source, storage_options=storage_options)
                if checkpoint is None:
                    admin.delete_checkpoint(source)
                return made
        except lsm.Error as error:
            raise translate(error) from error

    def wait_idle(self, timeout: float | timedelta | None = None) -> bool:
        """Wait until no compaction is running or due. False after `timeout` seconds."""
        self._check_open()
        with translated():
            return self._db.wait_idle(timeout_seconds(timeout))

    def collect_garbage(self, *, dry_run: bool = False, min_age: float | timedelta | None = None) -> list[lsm.Garbage]:
        """Delete the objects that nothing refers to; what they were, and why. Safe at any `min_age`, 0 included."""
        self._check_open()
        age = timeout_seconds(min_age, "min_age")
        with translated():
            return self._db.collect_garbage(dry_run=dry_run, min_age=age)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the log is closed: open it again")

    def close(self) -> None:
        """Flush, stop all background work and let go of the log. Idempotent; a call that was interrupted is finished by the
        next one.

        Raises: StorageError where the store kept it from flushing: nothing more is appended, background threads go on trying,
        and calling again tries again. Any other error tells which records may be lost, and the log is closed; FencedError
        where a newer writer took over before all of it was durable.
        """
        if self._is_shut:
            if self._loss:
                raise ClosedError(self._loss)
            return
        with translated():
            self._db.check_outside()
        self._is_closed = True
        self._stop_reads()
        if self._retention is not None:
            self._retention.close()
        try:
            with suppress(lsm.FencedError):  # A newer writer owns the log: there is nothing left for this one to do.
                try:
                    self._writer.finish()
                finally:
                    self._db.close()
        except lsm.UnavailableError as error:
            raise StorageError(
                f"closing failed: {error}; {self._writer.undurable()}call close() again to try again",
                outcome_unknown=error.outcome_unknown,
            ) from error
        except lsm.Error as error:
            self._is_shut = True
            found = translate(error)
            if lost := self._writer.undurable():
                found.args = (f"{found}; {lost}they may be lost",)
            raise found from error
        self._is_shut = True
        self._writer.check_all_durable()

    def be_ended(self, seconds: float) -> str | None:
        """The program ends: take no more records, and wait until those that were taken are durable. What is not, if any."""
        if self._is_closed:
            return None
        self._is_closed = True
        self._stop_reads()
        loss = self._db.be_ended(seconds)
        self._is_shut = True
        accepted, durable = self._writer.next_sequence, self.durable_sequence
        if loss is None or durable >= accepted:
            return None
        self._loss = (
            f"the log was not closed before the program ended, and {accepted - durable} records, with sequences from "
            f"{durable} to {accepted - 1}, are not durable and may be lost: {loss}"
        )
        return self._loss

    def be_forked(self) -> None:
        self._is_closed = self._may_not_read = self._is_shut = True

    def __enter__(self) -> LogDb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        url = self._config.storage_config.url
        if self._is_closed:
            return f"<LogDb {url}, closed>"
        return f"<LogDb {url}, next sequence {self._writer.next_sequence}, durable {self.durable_sequence}>"


class LogDbBuilder:
    """A log with components of one's own: each `with_…` returns the builder, `build` opens."""

    def __init__(self, config: Config | Storage | None = None, **overrides: Any) -> None:
        """`config`: a `Config`, or a URL or path. `overrides` replace its fields."""
        self._config = config_of(Config, config, overrides)
        self._clock: lsm.Clock | None = None
        self._file_system: Any = None
        self._object_store: lsm.ObjectStore | None = None
        self._runtime: lsm.Runtime | None = None
        self._compaction_executor: Executor | None = None
        self.sequence_block = BLOCK_MIN
        """Sequences reserved at a time, at least. For tests: small ones run out."""

    def with_sst_block_size(self, size: int) -> LogDbBuilder:
        """Bytes of keys and values in a block of a table."""
        self._config = replace(self._config, sst_block_size=size)
        return self

    def with_clock(self, clock: lsm.Clock) -> LogDbBuilder:
        """A wall clock: an object with `now_ms() -> int`. It dates segments; it protects nothing."""
        if not callable(getattr(clock, "now_ms", None)):
            raise InvalidInputError(f"a clock needs a method now_ms(), {type(clock).__name__} has none")
        self._clock = clock
        return self

    def with_object_store(self, store: Any) -> LogDbBuilder:
        """An fsspec file system to keep the log in, below the path of the configured URL; or an `lsm.ObjectStore`, which
        is used as it is."""
        if isinstance(store, lsm.ObjectStore):
            self._object_store = store
        else:
            self._file_system = store
        return self

    def with_runtime(self, runtime: lsm.Runtime) -> LogDbBuilder:
        """Where threads, time and chance come from, such as a simulation's (`lsm.testing`). Goes before `with_clock`."""
        if not isinstance(runtime, lsm.Runtime):
            raise InvalidInputError(f"runtime must be an lsm.Runtime, got {type(runtime).__name__}")
        self._runtime = runtime
        return self

    def with_caches(self, caches: lsm.Caches) -> LogDbBuilder:
        """Memory for what is read of tables, shared with other logs and readers; instead of sizes in the storage's settings."""
        storage = replace(self._config.storage_config, caches=caches, block_cache_bytes=None, meta_cache_bytes=None)
        self._config = replace(self._config, storage=storage)
        return self

    def with_compaction_executor(self, executor: Executor) -> LogDbBuilder:
        """Run compactions on any `concurrent.futures.Executor`, such as a dask client's, instead of worker processes of this
        machine. Its workers need this package and access to the store. It is the caller's to shut down."""
        if not callable(getattr(executor, "submit", None)):
            raise InvalidInputError(f"an executor needs a method submit(), {type(executor).__name__} has none")
        self._compaction_executor = executor
        return self

    def build(self) -> LogDb:
        """Open the log. Raises: as `LogDb.open`."""
        return LogDb(
            self._config,
            clock=self._clock,
            file_system=self._file_system,
            object_store=self._object_store,
            runtime=self._runtime,
            compaction_executor=self._compaction_executor,
            sequence_block=self.sequence_block,
        )


def not_durable_in_time(seconds: float) -> AppendTimeoutError:
    """For a record that was accepted."""
    return AppendTimeoutError(f"accepted, and not durable within {seconds} s: flush, do not append it again")


def _absolute(storage: StorageConfig, file_system: Any) -> tuple[str, str | None]:
    """The log's URL and its `wal_url`: relative ones are those of this moment, wherever the process goes later."""
    wal_url = None if storage.wal_url is None else lsm.absolute_url(storage.wal_url)
    return lsm.absolute_url(storage.url, fs=file_system), wal_url
