"""The garbage collector: deletes what no manifest, checkpoint, log position or reader of this process needs.

docs/protocol.md, rules G1 to G8. Source: SlateDB protects unpublished tables by comparing ages; that trusts clocks. Here the
collector first commits a horizon to the manifest, and nobody may publish a table at or below it any more; only then does
it delete. `min_age` is courtesy to slow readers, never the reason why a deletion is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from lsm.checkpoint.checkpoints import ExpiryWatch, load_version
from lsm.errors import CorruptionError, UnavailableError
from lsm.gc.policy import (
    Garbage,
    dead_copies,
    dead_log,
    dead_manifests,
    dead_tables,
    protected_by_age,
    wanted_horizons,
    with_horizons,
    without_checkpoints,
)
from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.codec import reseal_manifest
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.object_store.contract import ObjectExists, ObjectInfo, ObjectMissing
from lsm.object_store.names import (
    MANIFESTS,
    PINNED,
    TABLES,
    WAL,
    is_leftover,
    manifest_name,
    manifest_number,
    pinned_name,
)
from lsm.object_store.reliable import ReliableStore
from lsm.observe import events
from lsm.runtime import Runtime


class GarbageCollector:
    """Collects in the writer's process, where every table on its way into the manifest is known, or in one of its own.

    `own_horizons`: of this process's epochs, numbers at or below which no table is on its way any more. `held_tables`:
    those that readers of this process may still open.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        store: ReliableStore,
        wal_store: ReliableStore,
        manifests: ManifestStore,
        min_age: float,
        held_tables: Callable[[], set[int]] = set,
        own_horizons: Callable[[], dict[int, int]] = dict,
        trust_clock: bool = False,
    ) -> None:
        self._runtime = runtime
        self._store = store.with_cause("gc")
        self._wal_store = wal_store.with_cause("gc")
        self._manifests = manifests
        self._min_age = min_age
        self._held_tables = held_tables
        self._own_horizons = own_horizons
        self._watch = ExpiryWatch(runtime, trust_clock=trust_clock)
        self._pinned: dict[int, set[int]] = {}
        self._lock = runtime.long_lock()

    def run_once(self, *, dry_run: bool = False, min_age: float | None = None) -> list[Garbage]:
        """Delete everything that can go (`dry_run`: only say what would); what it was.

        Cost: 5 LIST; where a table can go, one manifest commit; one DELETE each; for each checkpoint two GET the first time;
        with a `min_age` two GET.
        """
        age = self._min_age if min_age is None else min_age
        with self._lock:
            # Read before listing: tables that are not listed yet have numbers beyond it, or are in the manifest.
            own = self._own_horizons()
            tables = self._old_enough(self._store.list(TABLES), age)
            versions = self._store.list(MANIFESTS)
            recent = self._recent_tables(versions, age)
            # Looked up anew: others drop checkpoints and finish compactions while this process commits nothing.
            manifest = self._manifests.refresh()
            expired = self._watch.expired(manifest.checkpoints)
            wanted = wanted_horizons(manifest, own)
            found = list(dead_tables(tables, manifest, wanted, self._live(manifest, expired) | recent))
            if (found or expired) and not dry_run:
                manifest = self._manifests.update(lambda fresh: _condemned(fresh, own, expired))
                # Whatever was published meanwhile is in this version, and nothing else can be published any more.
                found = list(dead_tables(tables, manifest, dict(manifest.gc_horizons), self._live(manifest) | recent))
            elif expired:
                found += [Garbage(each.id, 0, "the checkpoint is expired") for each in expired]
            log = self._old_enough(self._wal_store.list(WAL), age)
            found += dead_log(log, manifest)
            old = {info.name for info in self._old_enough(versions, age)}
            found += (retired := list(dead_manifests(versions, old, manifest)))
            found += dead_copies(self._store.list(PINNED), manifest)
            found += self._leftovers(age)
            if not dry_run:
                self._keep_pinned(retired, manifest)
                for each in expired:
                    events.tell(events.CHECKPOINT_EXPIRED, url=self._store.url, checkpoint=each.id)
                self._delete(found, log)
            return found

    def _live(self, manifest: Manifest, expired: list[Checkpoint] | None = None) -> set[int]:
        """What the manifest and its checkpoints name and readers of this process hold."""
        kept = [each.manifest_id for each in manifest.checkpoints if each not in (expired or ())]
        for number in kept:
            if number not in self._pinned:
                self._pinned[number] = self._load_pinned(number, manifest)
        for number in self._pinned.keys() - {each.manifest_id for each in manifest.checkpoints}:
            del self._pinned[number]
        return manifest.table_numbers().union(self._held_tables(), *(self._pinned[number] for number in kept))

    def _load_pinned(self, number: int, manifest: Manifest) -> set[int]:
        """The tables a pinned version names. Raises: CorruptionError where it is lost: nothing must be deleted then."""
        try:
            return load_version(self._store, number, manifest.database).table_numbers()
        except ObjectMissing:
            if any(each.manifest_id == number for each in self._manifests.refresh().checkpoints):
                raise CorruptionError(
                    "is missing, and a checkpoint needs it", object_name=manifest_name(number)
                ) from None
            return set()  # Another collector dropped the checkpoint, and then the version.

    def _recent_tables(self, versions: list[ObjectInfo], age: float) -> set[int]:
        """What the version of `age` seconds ago names: a courtesy to readers that still use it."""
        if not age:
            return set()
        number = protected_by_age(versions, self._runtime.now_ms() - int(age * 1000))
        if number is None or number >= self._manifests.current.number:
            return set()
        try:
            version = load_version(self._store, number, None)
        except ObjectMissing:  # Another collector was faster.
            return set()
        # Who was late to create the database left a first version of another one, where ours was used and deleted (M4).
        return version.table_numbers() if version.database == self._manifests.current.database else set()

    def _old_enough(self, objects: Iterable[ObjectInfo], age: float) -> list[ObjectInfo]:
        limit = self._runtime.now_ms() - int(age * 1000)
        return [info for info in objects if not age or info.modified_ms is None or info.modified_ms <= limit]

    def _leftovers(self, age: float) -> list[Garbage]:
        """What creates that were cut off left behind. One that is still under way begins again (rule G8)."""
        why = "a create that was cut off left it"
        stores = {id(store.store): store for store in (self._store, self._wal_store)}.values()
        left = [info for store in stores for info in self._old_enough(store.leftovers(), age) if is_leftover(info.name)]
        return [Garbage(info.name, info.size, why) for info in left]

    def _keep_pinned(self, retired: list[Garbage], manifest: Manifest) -> None:
        """Copy versions that checkpoints need out of the way of M4, before they go (rule G6)."""
        pinned = {each.manifest_id for each in manifest.checkpoints}
        for garbage in retired:
            number = manifest_number(garbage.name)
            if number in pinned:
                assert number is not None
                try:
                    copy = self._store.insist(partial(self._copy_of, number), is_known=True)
                except ObjectMissing:
                    if any(manifest_number(info.name) == number for info in self._store.list(MANIFESTS)):
                        raise UnavailableError(f"{garbage.name} is listed, and cannot be read: it is kept") from None
                    continue  # Another collector copied and deleted it.
                # Another copy is the right one: what is in the version's place now came late, when the version had gone.
                with suppress(ObjectExists):
                    self._store.put_new(pinned_name(number), copy)

    def _copy_of(self, number: int) -> list[bytes]:
        data = self._store.get(manifest_name(number))
        return reseal_manifest(data, number=number, name=pinned_name(number))

    def _delete(self, found: list[Garbage], log: list[ObjectInfo]) -> None:
        in_log = {info.name for info in log}
        for garbage in found:
            store = self._wal_store if garbage.name in in_log or garbage.name.startswith(WAL) else self._store
            store.delete(garbage.name)


def _condemned(manifest: Manifest, own: dict[int, int], expired: list[Checkpoint]) -> Manifest | None:
    """The manifest with the horizons raised and expired checkpoints taken out."""
    given_up = with_horizons(manifest, wanted_horizons(manifest, own))
    return without_checkpoints(given_up or manifest, expired) or given_up
