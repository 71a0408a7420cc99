"""Administration beside a running writer: checkpoints, manifests, garbage, clones. Does not fence the writer.

Source: SlateDB's Admin, and its names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from lsm.checkpoint import clone
from lsm.checkpoint.checkpoints import (
    create_checkpoint,
    delete_checkpoint,
    durable_end,
    find_checkpoint,
    load_version,
    refresh_checkpoint,
)
from lsm.checks import age_seconds, integer
from lsm.components import Components, Stores
from lsm.errors import InvalidError, nothing_there
from lsm.gc.collector import GarbageCollector
from lsm.gc.policy import Garbage
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectMissing
from lsm.object_store.names import MANIFESTS, manifest_number
from lsm.runtime import Runtime
from lsm.settings import Settings
from lsm.wal.place import check_place


class ManifestInfo(msgspec.Struct, frozen=True):
    """A stored version of the manifest. `modified_ms`: its time by the store's clock; None: the store keeps no times."""

    id: int
    size: int
    modified_ms: int | None


class Admin:
    """Administers a database while other handles write and read it. Thread-safe; a context manager.

    `components`: as for `Db.open`. If the log has its own store, name that store here, too.
    """

    def __init__(
        self,
        storage: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        **components: Any,
    ) -> None:
        """Cost: no request. Raises: InvalidError."""
        try:
            parts = Components(storage_options=storage_options or {}, **components)
        except TypeError as error:
            raise InvalidError(f"Admin: {error}; components are {sorted(Components.__annotations__)}") from None
        self._settings = settings if settings is not None else Settings()
        self._runtime = parts.runtime if parts.runtime is not None else Runtime(parts.clock)
        self._stores = Stores(os.fspath(storage), self._settings, parts, self._runtime, reads_only=True)
        self._parts = parts
        self._lock = self._runtime.long_lock()
        self._manifests: ManifestStore | None = None
        self._is_checked = False
        self._collector: GarbageCollector | None = None

    def _load(self) -> ManifestStore:
        """Load the newest manifest. Cost: the first time two LIST, a GET and the cost of `check_place`; later one LIST."""
        with self._lock:
            if self._manifests is None:
                self._manifests = ManifestStore.load(self._stores.main, self._runtime)
                if self._manifests is None:
                    raise nothing_there(self._stores.main.url)
            else:
                self._manifests.refresh()
            if not self._is_checked:
                stores = self._stores
                check_place(stores.wal.with_cause("admin"), stores.wal_url, self._manifests.current)
                self._is_checked = True
            return self._manifests

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def create_detached_checkpoint(
        self, lifetime: float | None = None, name: str | None = None, source: str | None = None
    ) -> Checkpoint:
        """Create a checkpoint that pins everything durable now, or, with `source`, the version of that checkpoint. Nothing is
        flushed.

        `lifetime`: seconds; None: it never expires. Cost: one commit, and a LIST of the log.
        Raises: InvalidError, UnavailableError.
        """
        manifests = self._load()
        return create_checkpoint(
            manifests, self._runtime, wal_end=self._durable_end, lifetime=lifetime, name=name, source=source
        )

    def _durable_end(self, manifest: Manifest) -> int:
        manifests = self._load()
        return durable_end(self._stores.wal.with_cause("admin"), manifest, lambda: manifests.refresh().replay_after)

    def refresh_checkpoint(self, checkpoint_id: str, lifetime: float | None = None) -> Checkpoint:
        """Restart a checkpoint's lifetime, with a new one if `lifetime` is given. Raises: InvalidError if the checkpoint does
        not exist (any more)."""
        return refresh_checkpoint(self._load(), self._runtime, checkpoint_id, lifetime)

    def delete_checkpoint(self, checkpoint_id: str) -> None:
        """Delete a checkpoint. A missing one is no error."""
        delete_checkpoint(self._load(), checkpoint_id)

    def list_checkpoints(self, name: str | None = None) -> list[Checkpoint]:
        """Return the checkpoints of the newest manifest, oldest first. `name`: only those with that name; None: all."""
        return [each for each in self._load().current.checkpoints if name is None or each.name == name]

    # -- manifests ----------------------------------------------------------------------------------------------------

    def read_manifest(self, manifest_id: int | None = None) -> Manifest:
        """Return a version of the manifest; None: the newest. Raises: InvalidError if it does not exist (any more)."""
        current = self._load().current
        if manifest_id is None or integer(manifest_id, "manifest_id", low=1) == current.number:
            return current
        try:
            return load_version(self._stores.main.with_cause("admin"), manifest_id, current.database)
        except ObjectMissing:
            raise InvalidError(f"there is no manifest {manifest_id}: see list_manifests()") from None

    def list_manifests(self, start: int | None = None, end: int | None = None) -> list[ManifestInfo]:
        """Return the stored versions with start <= id < end, oldest first. None: no bound. Cost: one LIST."""
        return [
            ManifestInfo(number, info.size, info.modified_ms)
            for info in self._stores.main.with_cause("admin").list(MANIFESTS)
            if (number := manifest_number(info.name)) is not None
            and (start is None or number >= start)
            and (end is None or number < end)
        ]

    # -- garbage ------------------------------------------------------------------------------------------------------

    def run_gc_once(
        self, *, dry_run: bool = False, min_age: float | None = None, trust_clock: bool = False
    ) -> list[Garbage]:
        """Delete unreferenced objects, beside a running writer or without one. Return them, each with the reason.

        It is safe with any `min_age` (seconds; None: `settings.gc_min_age`) and any clock, and beside other collectors.
        `dry_run`: delete nothing.

        Tables that the newest writer has not yet published or given up stay until its next commit, or until the next open.
        A checkpoint expires after this object has watched it for its whole lifetime; with `trust_clock`, as soon as its
        time is past by this machine's clock. A clone deletes its checkpoints in parents that it no longer reads.
        """
        manifests = self._load()
        with self._lock:
            if self._collector is None or trust_clock:
                collector = GarbageCollector(
                    self._runtime,
                    store=self._stores.main,
                    wal_store=self._stores.wal,
                    manifests=manifests,
                    min_age=self._settings.gc_min_age,
                    trust_clock=trust_clock,
                )
                self._collector = self._collector if trust_clock else collector
            else:
                collector = self._collector
        age = None if min_age is None else age_seconds(min_age, "min_age")
        found = collector.run_once(dry_run=dry_run, min_age=age)
        if not dry_run:
            clone.detach(manifests, self._stores, self._runtime)
        return found

    # -- clones -------------------------------------------------------------------------------------------------------

    def create_clone(
        self,
        destination: str | os.PathLike[str],
        checkpoint: str | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        **components: Any,
    ) -> Checkpoint:
        """Make a database at `destination` with the content of a checkpoint; None: everything that is durable now.

        No table is copied. The clone reads this database's tables in place until its own compactions have replaced them.
        The returned checkpoint keeps them in this database; the clone's `run_gc_once` deletes it when the clone no longer
        needs it. After an interrupted call, a call with the same destination continues.
        Cost: copies the log objects of the checkpoint, a GET and a PUT each. Raises: InvalidError.
        """
        manifests = self._load()
        source = None if checkpoint is None else find_checkpoint(manifests.current, checkpoint)
        try:
            parts = Components(
                storage_options=self._parts.storage_options if storage_options is None else storage_options,
                **components,
            )
        except TypeError as error:
            raise InvalidError(f"create_clone: {error}") from None
        stores = Stores(os.fspath(destination), self._settings, parts, self._runtime)
        try:
            return clone.create_clone(
                manifests,
                self._stores,
                stores,
                self._runtime,
                source=source,
                wal_end=self._durable_end,
            )
        finally:
            stores.close()

    def close(self) -> None:
        """Close the stores. Idempotent."""
        self._stores.close()
        self._runtime.close()

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
