"""Both walks start here: the handle that writes a log, and reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import lsm
from lsm import Db
from opendata_log.maintain.policy import LiveSegments, LogScheduler, segment_states
from opendata_log.model.config import Config, ReadVisibility, config_of, writer_settings
from opendata_log.model.errors import ClosedError, StorageError, translate, translated
from opendata_log.model.keys import LogPartitions, LogSeries
from opendata_log.model.options import timeout_seconds
from opendata_log.model.record import AppendOutput, BytesLike, RecordLike, SegmentId, Sequence
from opendata_log.model.storage_config import Storage, StorageConfig
from opendata_log.read.reads import Reads
from opendata_log.waiting.durable_watch import DurableWatch
from opendata_log.waiting.wakeups import DurableWakeups, Wakeups
from opendata_log.write.appends import Appends
from opendata_log.write.retention import Retention
from opendata_log.write.sequence import BLOCK_MIN
from opendata_log.write.writer import LogWriter
from opendata_log.write.writer_source import OpenState, WriterSource

CLONE_SECONDS = 300.0
"""Lifetime, in seconds, of the checkpoint that protects a clone's source while the clone is made."""


class LogDb(Reads):
    """A keyed log, open for appends and reads. A log has one writer at a time. Thread-safe; a context manager.

    >>> with LogDb.open(storage="memory://") as log:
    ...     log.try_append([(b"orders", b"created"), (b"users", b"login"), (b"orders", b"paid")])
    ...     [(entry.sequence, entry.value) for entry in log.scan(b"orders")]
    AppendOutput(start_sequence=0)
    [(0, b'created'), (2, b'paid')]
    """

    source: WriterSource

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
        """For `open` and `LogDbBuilder`, which make the handle. A component of `None`: the default one."""
        self._config = config
        self._runtime = runtime if runtime is not None else lsm.Runtime(clock)
        self._is_shut, self._loss = False, ""
        settings = writer_settings(config)
        live = LiveSegments()
        components = {
            "file_system": file_system,
            "object_store": object_store,
            "runtime": self._runtime,
            "compaction_executor": compaction_executor,
        }
        with translated():
            self._db = _open_engine(config, settings, live, components)
        self._places, self._file_system = _absolute(config.storage_config, file_system), file_system
        self._flush_type = lsm.FlushType.WAL if settings.wal_enabled else lsm.FlushType.MEMTABLE
        shows_undurable = config.read_visibility is ReadVisibility.MEMORY
        wakeups = Wakeups(self._runtime) if shows_undurable else DurableWakeups(self._runtime, self._db)
        self._state = OpenState(wakeups)
        # A program may drop its last reference to an open log. Subscribing `self._stop_reads` keeps this handle alive while the
        # engine lives, so that `be_ended` makes its appends durable when the program ends.
        self._db.subscribe(wakeups.advanced, self._stop_reads)
        self._watchers = Wakeups(self._runtime)
        self._db.subscribe(self._watchers.tell_all, self._watchers.tell_all)
        try:
            self._writer = LogWriter(self._db, self._runtime, config.segmentation, wakeups, live, sequence_block)
            segment_states(self._db.manifest, live.bounds)  # Raises if the newest segment with tables has no metadata.
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
        super().__init__(
            WriterSource(self._db, self._runtime, self._writer, wakeups, self._state, shows_undurable=shows_undurable)
        )
        self.appends = Appends(self._db, self._runtime, self._writer, self.source, self._state, settings.op_timeout)
        """Appends batches; shared with the asyncio handle."""
        self._belong_to_process()

    def _stop_reads(self) -> None:
        self._state.stop_reads()

    def _belong_to_process(self) -> None:
        lsm.tell_in_child(self)
        lsm.tell_at_exit(self, self._runtime, instead_of=self._db)

    @classmethod
    def open(cls, config: Config | Storage | None = None, **overrides: Any) -> LogDb:
        """Open the log that `config` names, or create it. Fences any older writer.

        `config`: a `Config`, or the URL or path of the log: `LogDb.open("s3://bucket/orders")`. `None`: the default
        `Config()`, which stores the log in `.data/log`. `overrides` replace fields of the configuration:
        `LogDb.open("/srv/log", read_visibility="remote")`.
        Raises: InvalidInputError, StorageError, CorruptionError; FencedError where another process opened the log meanwhile.
        """
        return cls(config_of(Config, config, overrides))

    # -- appending ----------------------------------------------------------------------------------------------------

    def try_append(self, records: Iterable[RecordLike]) -> AppendOutput:
        """Append a batch atomically, without waiting for the store.

        The batch gets contiguous sequences in the order of `records`, all in one segment. `records`: any iterable of `Record`
        or `(key, value)`; an empty batch writes nothing.
        Cost: about 0.3 µs a record; no request.
        Raises: InvalidInputError; QueueFullError where `engine.max_unflushed_bytes` are not flushed yet, or where the store
        is too slow to reserve sequences durably in time; AppendStorageError; ShutdownError; an error that is both
        AppendError and FencedError. After an error, nothing was appended.
        """
        return self.appends.try_append(records)

    def append_timeout(self, records: Iterable[RecordLike], timeout: float | timedelta | None) -> AppendOutput:
        """Append a batch as `try_append` does, but wait for space and sequences up to `timeout` seconds.

        `timeout` `None`: no limit. Where memory or level 0 fills up, the call is delayed (`status().slowed_by`).
        Raises: as `try_append`, with AppendTimeoutError instead of QueueFullError; its `records` can be appended again.
        """
        return self.appends.append_timeout(records, timeout)

    def append(
        self,
        key: BytesLike,
        value: BytesLike,
        *,
        durable: bool = False,
        timeout: float | timedelta | None = None,
    ) -> AppendOutput:
        """Append one record; with `durable`, return when the record is durable.

        Waits up to `timeout` seconds for space and durability together. `timeout` `None`: `engine.op_timeout`.

        >>> with LogDb.open("memory://") as log:
        ...     log.append(b"orders", b"created", durable=True)
        ...     log.durable_sequence
        AppendOutput(start_sequence=0)
        1

        Cost: some 10 µs; with `durable`, one PUT, which all waiting threads share. A batch costs less per record: `try_append`.
        Raises: as `append_timeout`. Where a `durable` append raises an error whose `records` is None, the record was accepted
        and may still become durable: do not append it again, call `flush`.
        """
        return self.appends.append(key, value, durable=durable, timeout=timeout)

    def flush(self) -> None:
        """Return when every earlier append is durable. `durable_sequence` then covers all of them.

        Local files are synced, so the appends survive a power loss too.
        Cost: one PUT, which all waiting threads share. Raises: StorageError, FencedError, ClosedError.
        """
        self._state.check()
        try:
            self._db.flush(self._flush_type)
        except lsm.Error as error:
            raise translate(error) from error

    @property
    def durable_sequence(self) -> Sequence:
        """The durable watermark, exclusive: every record with a lower sequence is durable. It advances by itself."""
        return self._writer.durable.advance()

    def subscribe_durable(self) -> DurableWatch:
        """A watch that waits for the durable watermark to advance.

        >>> with LogDb.open("memory://") as log:
        ...     output = log.try_append([(b"orders", b"created"), (b"orders", b"paid")])
        ...     log.subscribe_durable().wait(output.start_sequence + 1, timeout=60)
        2

        Raises: ClosedError.
        """
        self._state.check()
        return DurableWatch(
            self._writer.durable.advance, self._db.wait_durable_beyond, self._db, self._runtime, self._watchers
        )

    def seal_segment(self) -> SegmentId:
        """Seal the active segment and return its id. The next append starts another segment, also after a reopen.

        Sealing a sealed segment changes nothing and returns its id. In a log without any append, the result is 0.
        Raises: StorageError, FencedError, ClosedError.
        """
        self._state.check()
        try:
            return self._writer.seal()
        except lsm.Error as error:
            raise translate(error) from error

    # -- operation ----------------------------------------------------------------------------------------------------

    def status(self) -> lsm.Status:
        """State and counters of the engine: tables, compactions, requests by kind and cause. Cost: no request."""
        with translated():
            return self._db.status()

    def create_checkpoint(self, lifetime: float | timedelta | None = None, name: str | None = None) -> lsm.Checkpoint:
        """Pin everything appended so far, for at least `lifetime` seconds.

        Until then `LogDbReader.open(..., checkpoint=made.id)` reads the same entries, even after retention has deleted them.
        `lifetime` `None`: until `lsm.Admin` deletes the checkpoint. `name` `None`: the checkpoint has no name.
        Cost: `flush`, and one commit of the manifest. Raises: StorageError, FencedError, ClosedError.
        """
        self._state.check()
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
        """Make a log at `destination` that starts with this log's entries, without copying tables.

        `checkpoint`: the id of the checkpoint to clone; `None` clones everything appended so far. `storage_options` `None`:
        those of this log. The two logs are written independently. The clone reads this log's tables in place until its own
        compactions have replaced them; until then it cannot be read without this log. Where the clone's `storage_options` do
        not open this log, open the clone with `StorageConfig(parent_storage_options={url: ...})`.

        Returns the checkpoint that keeps this log's tables for the clone, until the clone's collector releases it.
        Raises: InvalidInputError where `destination` is not empty; StorageError.
        """
        self._state.check()
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
        """Wait until no compaction is running or due; False after `timeout` seconds. `timeout` `None`: no limit."""
        self._state.check()
        with translated():
            return self._db.wait_idle(timeout_seconds(timeout))

    def collect_garbage(self, *, dry_run: bool = False, min_age: float | timedelta | None = None) -> list[lsm.Garbage]:
        """Delete the objects that nothing refers to, and return each with the reason.

        `dry_run`: return the objects, delete none. `min_age`: minimum age of a deleted object in seconds; `None`:
        `engine.gc_min_age`. Every `min_age` is safe, including 0. Raises: StorageError, FencedError, ClosedError.
        """
        self._state.check()
        age = timeout_seconds(min_age, "min_age")
        with translated():
            return self._db.collect_garbage(dry_run=dry_run, min_age=age)

    def close(self) -> None:
        """Flush, stop all background work and close the log. Idempotent; after an interrupt, the next call finishes the close.

        Raises: StorageError where the store failed during the flush: the log accepts no more appends, background threads go on
        trying, and another call tries again. After any other error the log is closed, and the error names the records that may
        be lost; FencedError where a newer writer took over before all records were durable.
        """
        if self._is_shut:
            if self._loss:
                raise ClosedError(self._loss)
            return
        with translated():
            self._db.check_outside()
        self._state.close()
        if self._retention is not None:
            self._retention.close()
        try:
            with suppress(lsm.FencedError):  # A newer writer owns the log, so this one has nothing left to do.
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
        """The program ends: take no more records, and wait up to `seconds` until the accepted ones are durable.

        Returns a text that names the records which may be lost; None if there are none.
        """
        if self._state.is_closed:
            return None
        self._state.close()
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
        """Close this handle in a forked child process, without a request; the parent's stays open."""
        self._state.abandon()
        self._is_shut = True

    def __enter__(self) -> LogDb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        url = self._config.storage_config.url
        if self._state.is_closed:
            return f"<LogDb {url}, closed>"
        return f"<LogDb {url}, next sequence {self._writer.next_sequence}, durable {self.durable_sequence}>"


def _open_engine(config: Config, settings: lsm.Settings, live: LiveSegments, components: Mapping[str, Any]) -> lsm.Db:
    storage = config.storage_config
    return Db.open(
        storage.url,
        settings,
        storage_options=storage.storage_options,
        wal_url=storage.wal_url,
        parent_storage_options=storage.parent_storage_options,
        caches=storage.caches,
        prefix_extractor=LogPartitions(),
        series_layout=LogSeries(),
        scheduler=LogScheduler(
            config.compaction, live, segmentation=config.segmentation, l0_max_ssts=settings.l0_max_ssts
        ),
        **components,
    )


def _absolute(storage: StorageConfig, file_system: Any) -> tuple[str, str | None]:
    """The log's URL and its `wal_url`, made absolute now, because the process may change its directory later."""
    wal_url = None if storage.wal_url is None else lsm.absolute_url(storage.wal_url)
    return lsm.absolute_url(storage.url, fs=file_system), wal_url
