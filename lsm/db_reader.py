"""Read walk of another process: follows a database's manifest and log, and never writes.

It shows only batches that are durable and contiguous in the log, so a crash of the writer cannot take back rows that it has
shown. It does not keep tables from being collected. A read whose tables are deleted raises SnapshotExpiredError; it never
returns a partial answer.

Source: SlateDB's DbReader in its mode FollowLatest, with the log. SlateDB writes a managed checkpoint per poll, and polls at a
fixed rate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from lsm.checks import wait_seconds
from lsm.components import Components, Stores, table_reader
from lsm.concurrency.exits import tell_at_exit
from lsm.concurrency.forks import tell_in_child
from lsm.errors import (
    ClosedError,
    CorruptionError,
    Error,
    InternalError,
    InvalidError,
    TableMissingError,
    UnavailableError,
    kept,
    nothing_there,
    out_of_memory,
)
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.observe import events
from lsm.observe.health import BackgroundHealth
from lsm.read.checkpoint_reader import Frozen
from lsm.read.following import Following, News
from lsm.read.iterator import DurabilityLevel
from lsm.read.poll_pauses import SURE_LOOKS, is_look_due, next_interval, pause
from lsm.read.reads import Reads
from lsm.runtime import Runtime, Task
from lsm.settings import Settings
from lsm.status import ReaderStatus
from lsm.view import Bounds, View
from lsm.wal.place import check_place

SeriesNews = Mapping[bytes, set[bytes]] | None
"""By series family, the names that got rows. `None`: any name may have got rows."""


class DbReader(Reads):
    """A read-only handle on a database that another process may write. Thread-safe; a context manager."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        parts: Components,
        refresh_interval: float | None,
        checkpoint: str | None = None,
    ) -> None:
        if checkpoint is not None:
            refresh_interval = None
        self._closed: Error | None = None
        self._damage: Error | None = None
        self._runtime = parts.runtime if parts.runtime is not None else Runtime(parts.clock)
        self._stores = Stores(url, settings, parts, self._runtime, reads_only=True)
        self._health = BackgroundHealth(self._runtime, self._stores.main.url)
        self._layout = parts.series_layout
        self._refresh_interval = refresh_interval
        self._interval = refresh_interval
        self._refreshing = self._runtime.long_lock()
        self._ticks = self._runtime.condition()
        self._task: Task | None = None
        self._callbacks: tuple[Callable[[SeriesNews], object], ...] = ()
        self.last_failure: Error | None = None
        """The error of the last poll; `None` if it succeeded."""
        try:
            self._open(settings, parts, checkpoint)
        except BaseException as error:
            if isinstance(error, CorruptionError):
                events.tell(events.CORRUPTION, url=self._stores.main.url, reason=events.reason(error))
            self._stores.close()
            self._runtime.close()
            raise
        self._refreshed_at = self._polled_at = self._looked_at = self._runtime.monotonic()
        tell_in_child(self)
        tell_at_exit(self, self._runtime)
        if refresh_interval is not None:
            try:
                self._task = self._runtime.spawn("lsm-refresh", self._refresh_regularly)
            except BaseException:
                self.close()
                raise

    def _open(self, settings: Settings, parts: Components, checkpoint: str | None) -> None:
        manifests = ManifestStore.load(self._stores.main, self._runtime)
        if manifests is None:
            raise nothing_there(self._stores.main.url)
        found = manifests.current
        names = (found.extractor_name, found.series_name)
        extractor, layout = parts.prefix_extractor, parts.series_layout
        wanted = (extractor.name if extractor is not None else "", layout.name if layout is not None else "")
        if names != wanted:
            raise InvalidError(f"the database was created with extractor and layout {names}, not {wanted}")
        check_place(self._stores.wal.with_cause("open"), self._stores.wal_url, found)
        self._stores.attach(found.parents)
        self._tables = table_reader(self._stores.main, found, self._runtime, settings, parts)
        self._following: Following | Frozen
        if checkpoint is None:
            self._following = Following(self._stores, self._runtime, manifests)
        else:
            self._following = Frozen(self._stores, self._runtime, manifests, checkpoint)
        self._following.first()

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        checkpoint: str | None = None,
        refresh_interval: float | None = 10.0,
        storage_options: Mapping[str, Any] | None = None,
        **components: Any,
    ) -> DbReader:
        """Open the database at an fsspec URL or path, and follow it.

        `refresh_interval`: maximum seconds until reads see a durable batch. `None`: only `refresh()` looks for news. After
        news, polls come up to 16 times as often. An idle database costs three requests per interval. `refresh()` notices a lost
        log object at once; regular polls notice it within sixteen intervals.
        Cost: 4 LIST, 1 + n GET for n log objects; tables cost nothing.

        `checkpoint`: the id of a checkpoint. The reader shows exactly the bytes that it pins, until the checkpoint ends.

        Raises: NotFoundError if there is no database; InvalidError, CorruptionError.
        """
        try:
            parts = Components(storage_options=storage_options or {}, **components)
        except TypeError as error:
            raise InvalidError(f"DbReader.open: {error}") from None
        settings = settings if settings is not None else Settings()
        if refresh_interval is not None:
            refresh_interval = wait_seconds(refresh_interval, "refresh_interval", least=1e-9)
        return cls(os.fspath(storage), settings, parts, refresh_interval, checkpoint)

    # -- following ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Make reads see every batch that is durable now.

        Cost: one GET per new log object, one LIST of the log, one LIST of the manifest's versions; with a newer version, two
        and a GET.
        Raises: UnavailableError, CorruptionError; rows that were visible stay readable.
        """
        if self._closed is not None:
            raise kept(self._closed)
        self._poll(look=True, sure=True)

    def on_news(self, callback: Callable[[SeriesNews], object]) -> None:
        """Call `callback` after every refresh that made rows visible. The thread that refreshed makes the call, and holds no
        lock.

        The argument maps each series family to the names that got rows. It is `None` if the names are not known (rows that
        were first seen in tables), and when reads begin to fail because the log is damaged. The callback must be quick, because
        polls wait for it. An exception from it is kept in `last_failure`.
        """
        self._callbacks = (*self._callbacks, callback)

    def _poll(self, *, look: bool, sure: bool = False) -> bool:
        """Look for news once; return whether rows became visible. Raises: Error."""
        news: News | None = None
        try:
            with self._refreshing:
                self._polled_at = self._runtime.monotonic()
                if look:
                    self._looked_at = self._polled_at
                try:
                    found = self._following.catch_up(look=look, sure=sure)
                finally:
                    news = self._following.take_news()
                self._refreshed_at = self._polled_at
                self.last_failure = self._damage = None
            self._health.succeeded("refresh")
        except Error as error:
            self._failed(error)
            raise
        except MemoryError as error:
            failure = out_of_memory("the reader did not look for news", error)
            self._failed(failure)
            raise failure from error
        finally:
            if news is not None:
                self._tell(news.names)
        return found

    def _failed(self, error: Error) -> None:
        """Record a failed poll. In an outage, reads continue with the rows seen so far. After any other error reads fail,
        because no newer rows would ever be seen."""
        is_end = not isinstance(error, UnavailableError) and self._damage is None
        if is_end:
            self._damage = error
        self.last_failure = error
        self._health.failed("refresh", error)
        if is_end:
            event = events.CORRUPTION if isinstance(error, CorruptionError) else events.FAILED
            events.tell(event, url=self._stores.main.url, reason=events.reason(error))
            self._tell(None)

    def _tell(self, names: SeriesNews) -> None:
        for callback in self._callbacks:
            try:
                callback(names)
            except Exception as error:
                self.last_failure = InternalError(f"a callback of on_news failed: {error!r}")
                self.last_failure.__cause__ = error
                events.tell(events.CALLBACK_FAILED, url=self._stores.main.url, reason=events.reason(error))

    def keep_arrivals(self) -> None:
        """As `Db.keep_arrivals`, for rows that polls find from now on."""
        with self._refreshing:
            self._following.keep_arrivals()

    def _refresh_regularly(self) -> None:
        assert self._refresh_interval is not None
        interval = refresh_interval = self._refresh_interval
        looks = 0
        while self._wait(interval, refresh_interval):
            now = self._runtime.monotonic()
            found = False
            try:
                is_due = is_look_due(now, looked_at=self._looked_at, refresh_interval=refresh_interval)
                looks += is_due
                found = self._poll(look=is_due, sure=is_due and looks % SURE_LOOKS == 0)
            except Error:
                pass  # `last_failure` has it, and the next poll tries again.
            except BaseException as error:
                failure = InternalError(f"a poll failed: {error!r}")
                failure.__cause__ = error
                self._failed(failure)
            interval = self._interval = next_interval(interval, refresh_interval, found_news=found)

    def _wait(self, interval: float, refresh_interval: float) -> bool:
        """Wait until the next poll is due. False: the reader is closed."""
        with self._ticks:
            if self._closed is None:
                now = self._runtime.monotonic()
                self._ticks.wait(
                    pause(
                        now,
                        polled_at=self._polled_at,
                        looked_at=self._looked_at,
                        interval=interval,
                        refresh_interval=refresh_interval,
                    )
                )
            return self._closed is None

    # -- what is seen -------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The manifest that reads use now."""
        return self._following.state.seen[0].manifest

    @property
    def version(self) -> int:
        """Grows whenever the rows that reads see have changed, so that callers can cache results. Raises: as reads."""
        self._check_open()
        return self._following.state.version

    @property
    def rows_version(self) -> int:
        """Grows whenever rows outside of series may have changed, which is less often than `version`."""
        return self._following.state.rows_version

    def series_end(self, family: bytes) -> int:
        """Return one more than the greatest position of the family's durable rows seen so far; 0 if there are none."""
        view, bounds = self._following.state.seen
        return max(view.series_end(family), bounds.position(family))

    def _see(self, durability: DurabilityLevel) -> tuple[View, Bounds]:
        self._check_open()
        return self._following.state.seen

    def _explained(self, error: TableMissingError) -> Error:
        """Return why a table is missing: it was collected, or it is lost."""
        self.refresh()
        found = self._following.explained(error)
        event = events.CORRUPTION if found is error else events.READER_OVERTAKEN
        events.tell(event, url=self._stores.main.url, reason=events.reason(error))
        return found

    def status(self) -> ReaderStatus:
        """State and counters of this handle. Cost: no request."""
        view, bounds = self._following.state.seen
        requests = self._stores.main.traffic()
        if self._stores.wal is not self._stores.main:
            requests |= self._stores.wal.traffic()
        reason = self._closed or self._damage
        return ReaderStatus(
            url=self._stores.main.url,
            manifest_number=view.manifest.number,
            next_log_object=self._following.next_number,
            last_seq=bounds.seq,
            memory_bytes=self._following.memory.size,
            refresh_age=self._runtime.monotonic() - self._refreshed_at,
            refresh_interval=self._interval,
            last_failure=None if self.last_failure is None else str(self.last_failure),
            close_reason=None if reason is None else str(reason),
            caches=self._tables.cache_status(),
            requests=requests,
            failing_for=self._health.failing_for("refresh"),
        )

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed is not None:
            raise kept(self._closed)
        if self._damage is not None:
            raise kept(self._damage)

    def close(self) -> None:
        """Stop following. Idempotent. Raises: ReentrantError in a signal handler or finalizer that interrupts a call; the
        reader is not closed then."""
        if self._closed is not None:
            return
        self._runtime.check_outside()
        with self._ticks:
            if self._closed is None:
                self._closed = ClosedError("the reader is closed: open it again")
            self._ticks.notify_all()
        # Each step can be repeated, because an earlier call may have been interrupted.
        if self._task is not None:
            self._task.join()
        self._stores.close()
        self._runtime.close()

    def be_ended(self, seconds: float) -> None:
        """End the reader with the program. There is nothing to store or to wait for."""
        if self._closed is None:
            self._closed = ClosedError("the program has ended: open the reader again")

    def be_forked(self) -> None:
        self._closed = ClosedError("this reader was opened before a fork: open it again in the child process")

    def __enter__(self) -> DbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed is not None else f"seq {self._following.state.seen[1].seq}"
        failure = f", {self.last_failure}" if self.last_failure is not None else ""
        return f"<lsm.DbReader {self._stores.main.url}, {state}{failure}>"
