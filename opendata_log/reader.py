"""Read walk: the read-only handle of a log that another process may be writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lsm
from lsm import DbReader
from opendata_log.model.config import ReaderConfig, config_of, engine_settings
from opendata_log.model.errors import ClosedError, WouldBlock, translate, translated
from opendata_log.model.keys import (
    SEGMENT_META_PREFIX,
    TIME_MARK_PREFIX,
    LogPartitions,
    LogSeries,
    TimeMark,
    entry_family,
)
from opendata_log.model.segment import SegmentTable
from opendata_log.model.storage_config import Storage
from opendata_log.model.time_track import TimeTrack
from opendata_log.read.reads import Reads
from opendata_log.read.source import View
from opendata_log.waiting.wakeups import Wakeups

ATTEMPTS_MAX = 10
"""Maximum attempts per load of the segments; the collector may overtake all but the last one."""


class _Known(NamedTuple):
    """Segments and frontier, with the two versions of the engine's state that they belong to."""

    version: int
    rows_version: int
    view: View


class ReaderSource:
    """The `Source` (`read/source`) of a reader's handle."""

    def __init__(self, db: lsm.DbReader, runtime: lsm.Runtime, wakeups: Wakeups) -> None:
        self.runtime = runtime
        self.wakeups = wakeups
        self._db = db
        self._known = _Known(-1, -1, (SegmentTable(), 0))
        self.is_closed = False

    def engine(self) -> lsm.DbReader:
        if self.is_closed:
            raise ClosedError("the reader is closed: open it again")
        return self._db

    def view(self) -> View:
        """Cost: a scan of the segments' rows, where they may have changed."""
        try:
            return self._view(self._load_segments)
        except lsm.Error as error:
            raise translate(error) from error

    def view_nowait(self) -> View:
        try:
            return self._view(_would_block)
        except lsm.Error as error:
            raise translate(error) from error

    def _view(self, load: Callable[[], SegmentTable]) -> View:
        """Segments and frontier; `load` is called where the known segments may be out of date."""
        known = self._known
        # Versions first: the rows read after them are at least as new, so a newer version is noticed at the next call.
        version = self._db.version
        if known.version != version:
            rows_version = self._db.rows_version
            table = known.view[0] if known.rows_version == rows_version else load()
            latest = table.latest
            if latest is not None:
                end = latest.start_seq + self._db.series_end(entry_family(latest.id))
            else:
                end = known.view[1]  # Retention deleted every segment this reader has shown.
            self._known = known = _Known(version, rows_version, (table, end))
        return known.view

    def _load_segments(self) -> SegmentTable:
        attempts = 0
        while True:
            rows = self._db.scan_prefix(SEGMENT_META_PREFIX)
            try:
                return SegmentTable.stored(rows)
            except lsm.SnapshotExpiredError:
                attempts += 1  # The engine has refreshed, so the next attempt reads tables that exist.
                if attempts == ATTEMPTS_MAX:
                    raise

    def time_track(self) -> TimeTrack:
        """Cost: a scan of the time marks."""
        return TimeTrack(TimeMark.decode(*row) for row in self._db.scan_prefix(TIME_MARK_PREFIX))

    def time_track_nowait(self) -> TimeTrack:
        raise WouldBlock


def _would_block() -> SegmentTable:
    raise WouldBlock


class LogDbReader(Reads):
    """A keyed log, open for reads only. Thread-safe; a context manager.

    Any number of readers run beside one writer, in any process. A reader shows durable records only; it polls for new ones
    every `refresh_interval` seconds, or sooner after a poll that found some.

    >>> from opendata_log import LogDb
    >>> with LogDb.open("memory://reader-example") as log:
    ...     _ = log.append(b"orders", b"created", durable=True)
    ...     with LogDbReader.open("memory://reader-example") as reader:
    ...         reader.scan(b"orders").fetchall()
    [LogEntry(key=b'orders', sequence=0, value=b'created')]
    """

    source: ReaderSource

    def __init__(
        self,
        config: ReaderConfig,
        *,
        object_store: lsm.ObjectStore | None = None,
        runtime: lsm.Runtime | None = None,
    ) -> None:
        """For `open`, which makes the handle.

        `object_store` `None`: the store that the URL names. `runtime` `None`: the machine's threads, time and chance.
        """
        self._config = config
        storage = config.storage_config
        runtime = runtime if runtime is not None else lsm.Runtime()
        self._wakeups = Wakeups(runtime)
        try:
            self._db = DbReader.open(
                storage.url,
                engine_settings(config.engine, storage.engine_changes),
                checkpoint=config.checkpoint,
                refresh_interval=config.refresh_interval,
                runtime=runtime,
                storage_options=storage.storage_options,
                wal_url=storage.wal_url,
                parent_storage_options=storage.parent_storage_options,
                caches=storage.caches,
                object_store=object_store,
                prefix_extractor=LogPartitions(),
                series_layout=LogSeries(),
            )
        except lsm.Error as error:
            raise translate(error) from error
        super().__init__(ReaderSource(self._db, runtime, self._wakeups))
        self._db.on_news(self._wake)

    @classmethod
    def open(cls, config: ReaderConfig | Storage | None = None, **overrides: Any) -> LogDbReader:
        """Open the log that `config` names for reading.

        `config`: a `ReaderConfig`, or the URL or path of the log. `None`: the default `ReaderConfig()`, which reads
        `.data/log`. `overrides` replace fields of the configuration: `LogDbReader.open("/srv/log", refresh_interval=5)`.
        Raises: NotFoundError where no log exists; InvalidInputError, StorageError, CorruptionError.
        """
        return cls(config_of(ReaderConfig, config, overrides))

    def refresh(self) -> None:
        """Poll now, without waiting for `refresh_interval`: later reads see everything that is durable at this moment.

        Raises: StorageError, CorruptionError, ClosedError.
        """
        self.source.engine()
        try:
            self._db.refresh()
        except lsm.Error as error:
            raise translate(error) from error

    def _wake(self, names: Mapping[bytes, set[bytes]] | None) -> None:
        """Wake the followers of these keys. `names`: keys by segment; `None` wakes all followers."""
        if names is None:
            self._wakeups.tell_all()
        elif self._wakeups.is_followed:
            for keys in names.values():
                self._wakeups.tell(keys)

    def status(self) -> lsm.ReaderStatus:
        """Position, pause between polls, error of the last poll, requests by kind and cause. Cost: no request."""
        return self._db.status()

    def close(self) -> None:
        """Stop polling and close the handle; its followers end. Idempotent."""
        with translated():
            self._db.close()
        self.source.is_closed = True
        self._wakeups.tell_all()

    def __enter__(self) -> LogDbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.source.is_closed else "open"
        failure = f", {self._db.last_failure}" if self._db.last_failure is not None else ""
        return f"<LogDbReader {self._config.storage_config.url}, {state}{failure}>"
