"""The garbage collector: deletes objects that no manifest, checkpoint, log position or reader of this process needs.

docs/protocol.md, rules G1 to G8. Source: SlateDB protects unpublished tables by comparing ages, which trusts clocks. Here the
collector first commits a horizon to the manifest. From then on no process may publish a table at or below it, so the
collector can delete such tables. `min_age` helps slow readers; the safety of a deletion does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from lsm.checkpoint.checkpoints import ExpiryWatch, load_version
from lsm.errors import CorruptionError, Error, FencedError, UnavailableError, internal
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
from lsm.observe.health import BackgroundHealth
from lsm.runtime import Runtime


class GarbageCollector:
    """Collects garbage, in the writer's process, which knows its unpublished tables, or in another process.

    `own_horizons`: for each epoch of this process, the number up to which it has no unpublished tables. `held_tables`: tables
    that readers of this process may still open.
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
        """Delete all garbage and return it. `dry_run`: only return it.

        Cost: 5 LIST; one manifest commit if a table can be deleted or a checkpoint expired; one DELETE per object; two GET
        the first time for each checkpoint; two GET with a `min_age`.
        """
        age = self._min_age if min_age is None else min_age
        with self._lock:
            # Read before the manifest: a table up to this number that the manifest does not name will not be named later.
            own = self._own_horizons()
            tables = self._old_enough(self._store.list(TABLES), age)
            versions = self._store.list(MANIFESTS)
            recent = self._recent_tables(versions, age)
            # Read again, because other processes drop checkpoints and finish compactions.
            manifest = self._manifests.refresh()
            expired = self._watch.expired(manifest.checkpoints)
            wanted = wanted_horizons(manifest, own)
            found = list(dead_tables(tables, manifest, wanted, self._live(manifest, expired) | recent))
            if (found or expired) and not dry_run:
                manifest = self._manifests.update(lambda fresh: _condemned(fresh, own, expired))
                # Tables published in the meantime are in this version, and no other table can be published any more.
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
        """Return the tables that the manifest or its checkpoints name, or that readers of this process hold."""
        kept = [each.manifest_id for each in manifest.checkpoints if each not in (expired or ())]
        for number in kept:
            if number not in self._pinned:
                self._pinned[number] = self._load_pinned(number, manifest)
        for number in self._pinned.keys() - {each.manifest_id for each in manifest.checkpoints}:
            del self._pinned[number]
        return manifest.table_ids().union(self._held_tables(), *(self._pinned[number] for number in kept))

    def _load_pinned(self, number: int, manifest: Manifest) -> set[int]:
        """Return the tables that a pinned version names. Raises: CorruptionError if the version is lost, so that nothing is
        deleted."""
        try:
            return load_version(self._store, number, manifest.database).table_ids()
        except ObjectMissing:
            if any(each.manifest_id == number for each in self._manifests.refresh().checkpoints):
                raise CorruptionError(
                    "is missing, and a checkpoint needs it", object_name=manifest_name(number)
                ) from None
            return set()  # Another collector dropped the checkpoint, and then the version.

    def _recent_tables(self, versions: list[ObjectInfo], age: float) -> set[int]:
        """Return the tables that the version of `age` seconds ago names, for readers that still use it."""
        if not age:
            return set()
        number = protected_by_age(versions, self._runtime.now_ms() - int(age * 1000))
        if number is None or number >= self._manifests.current.number:
            return set()
        try:
            version = load_version(self._store, number, None)
        except ObjectMissing:  # Another collector deleted it first.
            return set()
        # A process that lost the race to create the database may have put version 1 of its own database here, after our
        # version 1 was deleted (M4).
        return version.table_ids() if version.database == self._manifests.current.database else set()

    def _old_enough(self, objects: Iterable[ObjectInfo], age: float) -> list[ObjectInfo]:
        limit = self._runtime.now_ms() - int(age * 1000)
        return [info for info in objects if not age or info.modified_ms is None or info.modified_ms <= limit]

    def _leftovers(self, age: float) -> list[Garbage]:
        """Return the files that interrupted creates left. A running create whose file is deleted starts again (rule G8)."""
        why = "an interrupted create left it"
        stores = {id(store.store): store for store in (self._store, self._wal_store)}.values()
        left = [info for store in stores for info in self._old_enough(store.leftovers(), age) if is_leftover(info.name)]
        return [Garbage(info.name, info.size, why) for info in left]

    def _keep_pinned(self, retired: list[Garbage], manifest: Manifest) -> None:
        """Copy versions that checkpoints need to `pinned/` before they are deleted (rule G6)."""
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
                # If a different copy exists, keep it: what was just read is another process's late create, made after the
                # version was deleted.
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


class RegularCollection:
    """A thread that collects once per `interval` seconds, until `is_over`."""

    def __init__(
        self,
        runtime: Runtime,
        collect: Callable[[], object],
        *,
        interval: float,
        is_over: Callable[[], bool],
        on_failure: Callable[[Error], None],
        health: BackgroundHealth,
    ) -> None:
        """`on_failure`: called with the error that ends the handle. Raises: UnavailableError: the system gives no further
        thread."""
        self._collect = collect
        self._interval = interval
        self._is_over = is_over
        self._on_failure = on_failure
        self._health = health
        self._ticks = runtime.condition()
        self._task = runtime.spawn("lsm-gc", self._run)

    def _run(self) -> None:
        while True:
            with self._ticks:
                if not self._is_over():
                    self._ticks.wait(self._interval)
                if self._is_over():
                    return
            try:
                self._collect()
                self._health.succeeded("collection")
            except FencedError as error:
                self._on_failure(error)
            except (Error, MemoryError) as error:  # The next round tries again; until then nothing is deleted.
                self._health.failed("collection", error)
            except BaseException as error:
                self._on_failure(internal(f"the collector's thread failed: {error!r}", error))
                return

    def wake(self) -> None:
        """Have the thread look whether it is over."""
        with self._ticks:
            self._ticks.notify_all()

    def join(self) -> None:
        self._task.join()


def _condemned(manifest: Manifest, own: dict[int, int], expired: list[Checkpoint]) -> Manifest | None:
    """Return the manifest with raised horizons and without the expired checkpoints; None: nothing changes."""
    given_up = with_horizons(manifest, wanted_horizons(manifest, own))
    return without_checkpoints(given_up or manifest, expired) or given_up
