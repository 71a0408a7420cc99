"""Read walk of another process: follows a database's manifest and log, and never writes.

It shows what is durable and contiguous in the log, so nothing it has shown can be taken back by a crash of the writer. It
keeps nothing from being collected; a read that began with tables that are gone raises SnapshotExpiredError, never less than
the whole answer.

Source: SlateDB's DbReader in its mode FollowLatest, with the log; its managed checkpoint is a write per poll.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lsm.components import Components, Stores, table_reader
from lsm.errors import ClosedError, Error, InvalidError, SnapshotExpiredError, TableMissingError, UnavailableError
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.read import lookup
from lsm.read.iterator import IterationOrder, RowIterator, range_under
from lsm.read.scan import scan as scan_rows
from lsm.read.series import NumbersAndValues, count_series, scan_series, series_names
from lsm.rows.chunk import RowChunk
from lsm.rows.content import BytesLike, as_bytes, as_key
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime, Task
from lsm.settings import Settings
from lsm.sst.table import READ_AHEAD_BYTES
from lsm.view import Bounds, View
from lsm.wal.replay import LogEntries, apply_frames, list_wal, read_wal, read_wal_object

T = TypeVar("T")
NUMBER_MAX = (1 << 64) - 1


class _Following:
    """What has been read of the database so far: a manifest, and the log behind it."""

    def __init__(self, stores: Stores, runtime: Runtime, manifests: ManifestStore) -> None:
        self._store = stores.wal.with_cause("poll")
        self._runtime = runtime
        self._manifests = manifests
        self._manifest = manifests.current
        self._log: list[LogEntries] = []
        self._next = self._manifest.replay_after + 1
        self._epoch = self._manifest.wal_epoch_floor
        self._seq = self._manifest.last_seq
        self._table = Memtable(runtime)

    def first(self) -> tuple[View, Bounds]:
        """Cost: one LIST, one GET per log object and one that finds nothing."""
        taken = set(list_wal(self._store))
        end = self._next
        while end in taken:
            end += 1
        database = self._manifest.database
        numbers = range(self._next, end)
        for entries in read_wal(self._store, self._runtime, numbers, database, epoch_floor=self._epoch):
            self._add(entries)
        self._next = end
        self._read_on()  # A listing may leave out what was created meanwhile.
        return self._state()

    def again(self) -> tuple[View, Bounds]:
        """Cost: one GET and one HEAD for the manifest, one GET per new log object and one that finds nothing."""
        manifest = self._manifests.refresh()
        if manifest.replay_after != self._manifest.replay_after:
            self._rebase(manifest)
        self._seq = max(self._seq, manifest.last_seq)  # Without a log, tables are all there is to see.
        self._manifest = manifest
        self._read_on()
        return self._state()

    def _read_on(self) -> None:
        """Read the log up to the first number that is not there."""
        while (entries := read_wal_object(self._store, self._next, self._manifest.database)) is not None:
            self._next += 1
            if entries.epoch >= self._epoch:
                self._add(entries)

    def _add(self, entries: LogEntries) -> None:
        self._epoch = entries.epoch
        self._log.append(entries)
        self._seq = max(self._seq, apply_frames(self._table, entries.frames, after_seq=self._seq))

    def _rebase(self, manifest: Manifest) -> None:
        """The front part of the log is in tables now: start a new memtable behind it. Views of the old one stay whole."""
        self._log = [entries for entries in self._log if entries.number > manifest.replay_after]
        self._next = max(self._next, manifest.replay_after + 1)
        self._epoch = max(self._epoch, manifest.wal_epoch_floor)
        self._table = Memtable(self._runtime)
        self._seq = manifest.last_seq
        for entries in self._log:
            self._seq = max(self._seq, apply_frames(self._table, entries.frames, after_seq=self._seq))

    def _state(self) -> tuple[View, Bounds]:
        # The table grows with the next poll; the bounds keep this view where it is.
        numbers = {family: series.next_number for family, series in self._table.series.items()}
        return View((self._table,), self._manifest), Bounds(self._seq, numbers)


class DbReader:
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
        self._following = _Following(self._stores, self._runtime, manifests)
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
            end = max(end, bounds.number(family, is_known=True))
        return end

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: BytesLike) -> bytes | None:
        """The value of a key, or None."""
        self._check_open()
        view, bounds = self._state
        return self._guard(lambda: lookup.get(view, bounds, as_key(key), self._tables, self._layout))

    def scan(
        self,
        start: BytesLike | None = None,
        end: BytesLike | None = None,
        *,
        order: IterationOrder = IterationOrder.ASCENDING,
    ) -> RowIterator:
        """Rows with start <= key < end, all from the moment of the call."""
        self._check_open()
        view, bounds = self._state
        low = None if start is None else as_bytes(start, "start")
        high = None if end is None else as_bytes(end, "end")
        if low is not None and high is not None and low > high:
            raise InvalidError(f"scan from {low!r} to {high!r}: start is after end")
        descending = order is IterationOrder.DESCENDING

        def chunks(begin: bytes | None) -> Iterator[RowChunk]:
            return self._guarded(scan_rows(view, bounds, begin, high, self._tables, descending=descending))

        return RowIterator(chunks, low=low, high=high, descending=descending)

    def scan_prefix(
        self, prefix: BytesLike, start: BytesLike | None = None, end: BytesLike | None = None
    ) -> RowIterator:
        """Rows whose keys begin with `prefix`; the bounds are relative to it."""
        low, high = range_under(prefix, start, end)
        return self.scan(low, high)

    def scan_series(
        self,
        family: bytes,
        name: bytes,
        low: int = 0,
        high: int = NUMBER_MAX,
        *,
        cache_blocks: bool = True,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
    ) -> Iterator[NumbersAndValues]:
        """As `Db.scan_series`."""
        self._check_open()
        view, bounds = self._state
        tables = self._tables
        return self._guarded(
            scan_series(view, bounds, family, name, low, high, tables, keep=cache_blocks, ahead_bytes=read_ahead_bytes)
        )

    def count_series(
        self, family: bytes, name: bytes, low: int = 0, high: int = NUMBER_MAX, *, approximate: bool = False
    ) -> int:
        """As `Db.count_series`."""
        self._check_open()
        view, bounds = self._state
        return self._guard(
            lambda: count_series(view, bounds, family, name, low, high, self._tables, approximate=approximate)
        )

    def series_names(self, family: bytes, *, below: int | None = None) -> Iterator[Sequence[bytes]]:
        """As `Db.series_names`."""
        self._check_open()
        directory = self._layout.directory(family) if self._layout is not None else None
        if directory is None:
            raise InvalidError(f"family {family!r} keeps no directory of its series")
        view, bounds = self._state
        bound = bounds.number(family, is_known=True)
        bound = bound if below is None else min(bound, below)
        return self._guarded(series_names(view, family, directory, bound, self._tables))

    def _guard(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except TableMissingError as error:
            raise self._expired(error) from error

    def _guarded(self, stream: Iterator[T]) -> Iterator[T]:
        try:
            yield from stream
        except TableMissingError as error:
            raise self._expired(error) from error

    def _expired(self, error: TableMissingError) -> Error:
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
