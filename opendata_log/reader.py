"""Read walk: a log that another process may be writing, followed and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import lsm
from opendata_log.model.config import ReaderConfig, config_of, engine_settings
from opendata_log.model.errors import ClosedError, translate, translated
from opendata_log.model.keys import (
    SEGMENT_META_PREFIX,
    TIME_MARK_PREFIX,
    LogPartitions,
    LogSeries,
    TimeMark,
    entry_family,
)
from opendata_log.model.record import Sequence
from opendata_log.model.segment import SegmentTable
from opendata_log.model.storage import Storage
from opendata_log.model.time_track import TimeTrack
from opendata_log.read.reads import Reads
from opendata_log.read.scan import SeriesReads
from opendata_log.waiting.wakeups import Wakeups

ATTEMPTS_MAX = 10
"""Looks at the segments in a row that the collector may overtake."""


class _Known(NamedTuple):
    """Segments and frontier as of two versions of the engine's state."""

    version: int
    rows_version: int
    visible: tuple[SegmentTable, Sequence]


class LogDbReader(Reads):
    """Read-only; any number beside one writer. Shows only what is durable. Thread-safe; a context manager."""

    def __init__(
        self,
        config: ReaderConfig,
        *,
        object_store: lsm.ObjectStore | None = None,
        runtime: lsm.Runtime | None = None,
    ) -> None:
        """`object_store` and `runtime` are used instead of what the URL names and the machine offers."""
        self._config = config
        storage = config.storage_config
        self._is_closed = False
        self._runtime = runtime if runtime is not None else lsm.Runtime()
        self._wakeups = Wakeups(self._runtime)
        self._known = _Known(-1, -1, (SegmentTable(), 0))
        try:
            self._db = lsm.DbReader.open(
                storage.url,
                engine_settings(config.engine, storage.engine_changes),
                checkpoint=config.checkpoint,
                refresh_interval=config.refresh_interval,
                runtime=self._runtime,
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
        self._db.on_news(self._wake)

    @classmethod
    def open(cls, config: ReaderConfig | Storage | None = None, **overrides: Any) -> LogDbReader:
        """Open the log `config` names: a `ReaderConfig`, or a URL or path. `overrides` replace its fields.

        Raises: NotFoundError where nobody has written a log; InvalidInputError, CorruptionError.
        """
        return cls(config_of(ReaderConfig, config, overrides))

    def refresh(self) -> None:
        """See everything that is durable now, without waiting for `refresh_interval`. Raises: StorageError."""
        self._engine_for_reads()
        try:
            self._db.refresh()
        except lsm.Error as error:
            raise translate(error) from error

    def _wake(self, names: Mapping[bytes, set[bytes]] | None) -> None:
        """Tell the followers of these keys, by segment; None: all of them."""
        if names is None:
            self._wakeups.tell_all()
        elif self._wakeups.is_followed:
            for keys in names.values():
                self._wakeups.tell(keys)

    def _engine_for_reads(self) -> SeriesReads:
        if self._is_closed:
            raise ClosedError("the reader is closed: open it again")
        return self._db

    def _visible(self) -> tuple[SegmentTable, Sequence]:
        visible = self._seen(may_load=True)
        assert visible is not None
        return visible

    def _visible_at_hand(self) -> tuple[SegmentTable, Sequence] | None:
        return self._seen(may_load=False)

    def _seen(self, *, may_load: bool) -> tuple[SegmentTable, Sequence] | None:
        """Segments and frontier; None where the segments must be loaded, which takes requests, and may not."""
        known = self._known
        try:
            # Versions first: what is read then is at least as new, and kept no longer than until the next one.
            version = self._db.version
            if known.version != version:
                rows_version = self._db.rows_version
                if known.rows_version == rows_version:
                    table = known.visible[0]
                elif may_load:
                    table = self._load_segments()
                else:
                    return None
                latest = table.latest
                if latest is not None:
                    end = latest.start_seq + self._db.series_end(entry_family(latest.id))
                else:
                    end = known.visible[1]  # Retention took everything this reader has shown.
                self._known = known = _Known(version, rows_version, (table, end))
        except lsm.Error as error:
            raise translate(error) from error
        return known.visible

    def _load_segments(self) -> SegmentTable:
        attempts = 0
        while True:
            rows = self._db.scan_prefix(SEGMENT_META_PREFIX)
            try:
                return SegmentTable.stored(rows)
            except lsm.SnapshotExpiredError:
                attempts += 1  # The engine has refreshed: what it sees now is there.
                if attempts == ATTEMPTS_MAX:
                    raise

    def status(self) -> lsm.ReaderStatus:
        """Where this reader stands, how often it polls, what the last poll failed with, requests by kind and cause."""
        return self._db.status()

    def _time_track_at_hand(self) -> None:
        return None  # A look at stored rows.

    def _time_track(self) -> TimeTrack:
        return TimeTrack(TimeMark.decode(*row) for row in self._db.scan_prefix(TIME_MARK_PREFIX))

    def close(self) -> None:
        """Stop following. Idempotent."""
        with translated():
            self._db.close()
        self._is_closed = True
        self._wakeups.tell_all()

    def __enter__(self) -> LogDbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        failure = f", {self._db.last_failure}" if self._db.last_failure is not None else ""
        return f"<LogDbReader {self._config.storage_config.url}, {state}{failure}>"
