"""The garbage collector: deletes what no manifest, log position or reader of this process needs.

docs/protocol.md, rules G1 to G5. Source: SlateDB protects unpublished tables by comparing ages; that trusts clocks. Here the
collector first commits a horizon to the manifest, and nobody may publish a table at or below it any more; only then does
it delete. `min_age` is courtesy to slow readers, never the reason why a deletion is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectInfo
from lsm.object_store.names import MANIFESTS, TABLES, WAL, number_of, table_name
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime

MANIFESTS_KEPT = 8
"""The newest versions stay, so that nobody who just listed them finds them gone."""


class Garbage(msgspec.Struct, frozen=True):
    """An object that can go, and why."""

    name: str
    size: int
    reason: str


class GarbageCollector:
    """Collects in the writer's process, where every table on its way into the manifest is known."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        store: ReliableStore,
        wal_store: ReliableStore,
        manifests: ManifestStore,
        min_age: float,
        held_tables: Callable[[], set[int]],
        safe_horizon: Callable[[], int],
    ) -> None:
        self._runtime = runtime
        self._store = store.with_cause("gc")
        self._wal_store = wal_store.with_cause("gc")
        self._manifests = manifests
        self._min_age = min_age
        self._held_tables = held_tables
        self._safe_horizon = safe_horizon
        self._lock = runtime.lock()

    def run_once(self, *, dry_run: bool = False, min_age: float | None = None) -> list[Garbage]:
        """Delete everything that can go (`dry_run`: only say what would); what it was.

        Cost: 3 LIST; where a table can go, one manifest commit; one DELETE each.
        """
        age = self._min_age if min_age is None else min_age
        with self._lock:
            # Read before listing: tables that are not listed yet have numbers beyond it, or are in the manifest.
            horizon = self._safe_horizon()
            tables = self._old_enough(self._store.list(TABLES), age)
            manifest = self._manifests.current
            found = list(self._dead_tables(tables, manifest, horizon))
            if found and not dry_run:
                manifest = self._manifests.update(lambda fresh: _with_horizon(fresh, horizon))
                # Whatever was published meanwhile is in this version, and nothing else can be published any more.
                found = list(self._dead_tables(tables, manifest, manifest.gc_horizon))
            found += self._dead_log(self._old_enough(self._wal_store.list(WAL), age), manifest)
            found += self._dead_manifests(self._store.list(MANIFESTS), age, manifest)
            if not dry_run:
                for garbage in found:
                    store = self._wal_store if garbage.name.startswith(WAL) else self._store
                    store.delete(garbage.name)
            return found

    def _old_enough(self, objects: list[ObjectInfo], age: float) -> list[ObjectInfo]:
        limit = self._runtime.now_ms() - int(age * 1000)
        return [info for info in objects if not age or info.modified_ms is None or info.modified_ms <= limit]

    def _dead_tables(self, tables: list[ObjectInfo], manifest: Manifest, horizon: int) -> Iterator[Garbage]:
        live = manifest.table_numbers() | self._held_tables()
        for info in tables:
            number = number_of(info.name)
            if number is not None and number <= horizon and number not in live and info.name == table_name(number):
                yield Garbage(info.name, info.size, f"not in manifest {manifest.number}, and at or below {horizon}")

    def _dead_log(self, objects: list[ObjectInfo], manifest: Manifest) -> Iterator[Garbage]:
        for info in objects:
            number = number_of(info.name)
            # Rule W6: a fence stays for ever, or the writer it stopped could write its number after all.
            if number is not None and number < manifest.replay_after and number not in manifest.fences:
                yield Garbage(
                    info.name, info.size, f"all its rows are in tables (replay starts after {manifest.replay_after})"
                )

    def _dead_manifests(self, objects: list[ObjectInfo], age: float, manifest: Manifest) -> Iterator[Garbage]:
        old = {info.name for info in self._old_enough(objects, age)}
        for info in sorted(objects, key=lambda info: info.name):
            number = number_of(info.name)
            if number is None:
                continue
            # Rule M4: in ascending order, none left out, whatever the ages say.
            if number > manifest.number - MANIFESTS_KEPT or info.name not in old:
                return
            yield Garbage(info.name, info.size, f"manifest {manifest.number} is the newest")


def _with_horizon(manifest: Manifest, horizon: int) -> Manifest | None:
    if horizon <= manifest.gc_horizon:
        return None
    return msgspec.structs.replace(manifest, gc_horizon=horizon)
