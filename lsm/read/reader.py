"""Read walk of another process: follows a database's manifest and log, and never writes.

It shows what is durable and contiguous in the log, so nothing it has shown can be taken back by a crash of the writer. It
keeps nothing from being collected; a read that began with tables that are gone raises SnapshotExpiredError, never less than
the whole answer.

Source: SlateDB's DbReader in its mode FollowLatest, with the log; its managed checkpoint is a write per poll.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lsm.components import Components, Stores, table_reader
from lsm.errors import ClosedError, Error, InvalidError, SnapshotExpiredError, TableMissingError, UnavailableError
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.read.following import Following
from lsm.read.iterator import DurabilityLevel
from lsm.read.reads import Reads
from lsm.runtime import Runtime, Task
from lsm.settings import Settings
from lsm.view import Bounds, View


class DbReader(Reads):
    """A read-only handle on a database that another process may be writing. Thread-safe; a context manager."""

    def __init__(self, url: str, settings: Settings, parts: Components, refresh_interval: float | None) -> None:
        self._closed: Error | None = None
        self._runtime = parts.runtime if parts.runtime is not None else Runtime(parts.clock)
        self._stores = Stores(url, settings, parts, self._runtime)
        self._layout = parts.series_layout
        self._interval = refresh_interval
        self._refreshing = self._runtime.lock()
        self._ticks = self._runtime.condition()
        self._task: Task | None = None
        self.last_failure: Error | None = None
        try:
            self._open(url, settings, parts)
        except BaseException:
            self._stores.close()
            self._runtime.close()
            raise
        if refresh_interval is not None:
            self._task = self._runtime.spawn("lsm-refresh", self._refresh_regularly)

    def _open(self, url: str, settings: Settings, parts: Components) -> None:
        manifests = ManifestStore.load(self._stores.main, self._runtime)
        if manifests is None:
            raise UnavailableError(f"there is no database at {self._stores.main.url}: nobody has written one yet")
        found = manifests.current
        names = (found.extractor_name, found.series_name)
        extractor, layout = parts.prefix_extractor, parts.series_layout
        wanted = (extractor.name if extractor is not None else "", layout.name if layout is not None else "")
        if names != wanted:
            raise InvalidError(f"the database was created with extractor and layout {names}, not {wanted}")
        self._tables = table_reader(self._stores.main, found.database, self._runtime, settings, parts.block_cache)
        self._following = Following(self._stores, self._runtime, manifests)
        self._state = self._following.first()

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        refresh_interval: float | None = 10.0,
        storage_options: Mapping[str, Any] | None = None,
        **components: Any,
    ) -> DbReader:
        """Open what somebody wrote at an fsspec URL or path. `refresh_interval` None: only `refresh()` looks for more.

        Raises: UnavailableError where nobody has written a database; InvalidError, CorruptionError.
        """
        try:
            parts = Components(storage_options=storage_options or {}, **components)
        except TypeError as error:
            raise InvalidError(f"DbReader.open: {error}") from None
        settings = settings if settings is not None else Settings()
        return cls(os.fspath(storage), settings, parts, refresh_interval)

    # -- following ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """See everything that is durable now. Raises: UnavailableError, CorruptionError; what was seen stays readable."""
        self._check_open()
        with self._refreshing:
            self._state = self._following.again()

    def keep_arrivals(self) -> None:
        """As `Db.keep_arrivals`, for rows that are found from now on."""
        with self._refreshing:
            self._following.keep_arrivals()

    def _refresh_regularly(self) -> None:
        while True:
            with self._ticks:
                if self._closed is None:
                    self._ticks.wait(self._interval)
                if self._closed is not None:
                    return
            try:
                self.refresh()
                self.last_failure = None
            except Error as error:
                self.last_failure = error  # The next poll tries again; reads go on with what was seen.

    @property
    def manifest(self) -> Manifest:
        """The manifest reads use at this moment."""
        return self._state[0].manifest

    def series_end(self, family: bytes) -> int:
        """One more than the greatest number of the family's durable rows seen so far; 0 where there are none."""
        view, bounds = self._state
        end = view.manifest.series_ends().get(family, 0)
        if any(family in memtable.series for memtable in view.memtables):
            end = max(end, bounds.number(family))
        return end

    # -- reading ------------------------------------------------------------------------------------------------------

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        self._check_open()
        return self._state

    def _explained(self, error: TableMissingError) -> Error:
        """Collected, or lost? A table the newest manifest still names has no business being gone."""
        self.refresh()
        if any(table.name == error.object_name for each in self.manifest.partitions for table in each.tables()):
            return error
        return SnapshotExpiredError(f"{error.object_name} was compacted away and collected: read again")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    def close(self) -> None:
        """Stop following. Idempotent."""
        with self._ticks:
            if self._closed is not None:
                return
            self._closed = ClosedError("the reader is closed: open it again")
            self._ticks.notify_all()
        if self._task is not None:
            self._task.join()
        self._stores.close()
        self._runtime.close()

    def __enter__(self) -> DbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
