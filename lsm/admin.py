"""A database from outside: checkpoints, manifests, garbage, clones. Takes nothing over from the writer.

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
    """A stored version of the manifest. `modified_ms`: the store's date, where it keeps one."""

    id: int
    size: int
    modified_ms: int | None


class Admin:
    """Looks after a database that others may be writing and reading. Thread-safe; a context manager.

    `components`: as for `Db.open`; where the log has a store of its own, name it here too.
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
        """The newest manifest. Cost: the first time two LIST and a GET, and what `check_place` costs; later one LIST."""
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
        """Pin everything that is durable now, or, with `source`, what that checkpoint pins. Nothing is flushed.

        `lifetime`: seconds; None: until it is deleted. Cost: one commit, and a LIST of the log.
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
        """Let its lifetime begin again, or a new one. Raises: InvalidError where there is no such checkpoint (any more)."""
        return refresh_checkpoint(self._load(), self._runtime, checkpoint_id, lifetime)

    def delete_checkpoint(self, checkpoint_id: str) -> None:
        """Let go of what it pins. One that is gone is fine."""
        delete_checkpoint(self._load(), checkpoint_id)

    def list_checkpoints(self, name: str | None = None) -> list[Checkpoint]:
        """The checkpoints of the newest manifest, oldest first; `name`: those called so."""
        return [each for each in self._load().current.checkpoints if name is None or each.name == name]

    # -- manifests ----------------------------------------------------------------------------------------------------

    def read_manifest(self, manifest_id: int | None = None) -> Manifest:
        """A version of the manifest, None: the newest. Raises: InvalidError where it is gone."""
        current = self._load().current
        if manifest_id is None or integer(manifest_id, "manifest_id", low=1) == current.number:
            return current
        try:
            return load_version(self._stores.main.with_cause("admin"), manifest_id, current.database)
        except ObjectMissing:
            raise InvalidError(f"there is no manifest {manifest_id}: see list_manifests()") from None

    def list_manifests(self, start: int | None = None, end: int | None = None) -> list[ManifestInfo]:
        """The versions that are stored, start <= id < end, oldest first. Cost: one LIST."""
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
        """Delete what nothing refers to, beside a running writer or without one; what it was, and why. Safe at any
        `min_age` (seconds, default `settings.gc_min_age`), with any clock, and beside other collectors.

        What the newest writer has not settled yet stays until its next commit, or the next open. Expiring checkpoints go
        once this object has watched them for their whole lifetime; `trust_clock`: as soon as their time is past by this
        machine's clock. A clone gives its parents' checkpoints back where it has no use for them any more.
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
        """Make a database at `destination` with the content of a checkpoint (None: of this moment, durable data), without
        copying tables: it reads this one's in place until its own compactions have replaced them.

        This database keeps what the clone needs by the checkpoint returned; the clone's `run_gc_once` gives it back.
        Calling it again with the same destination goes on where a call was cut off.
        Cost: the log behind the checkpoint is copied; a GET and a PUT per object. Raises: InvalidError.
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
        """Let go of the store. Idempotent."""
        self._stores.close()
        self._runtime.close()

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
