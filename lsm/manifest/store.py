"""Both walks: the numbered versions of the manifest in the store; compare-and-swap, epochs and fencing.

docs/protocol.md, rules M1 to M5. Source: SlateDB's sequenced objects. SlateDB keeps a boundary object, so that deleted
numbers cannot be used again. Here a number is deleted only when MANIFESTS_KEPT newer ones exist. So a number is fresh if a
listing shows no number that far above it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from lsm.coding import ENVELOPE
from lsm.errors import CorruptionError, Error, FencedError, UnavailableError
from lsm.manifest.codec import ManifestEncoder, decode_manifest
from lsm.manifest.model import MANIFESTS_KEPT, Manifest, Partition
from lsm.object_store.contract import ObjectExists, ObjectMissing
from lsm.object_store.names import MANIFESTS, manifest_name, manifest_number
from lsm.object_store.probe import probe_conditional_create, put_on_proof
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime

LISTINGS_MAX: Final = 64
"""Maximum listings in a row without a definite newest version. Only a broken store reaches it."""

Edit = Callable[[Manifest], "Manifest | None"]
"""Computes the next version from the current one; None: nothing to change. It is run again after a lost race, so it must
depend only on its argument, and must recognise its own change."""


class Version(NamedTuple):
    """A stored version: its content, and the header of its object with a unique nonce."""

    manifest: Manifest
    header: bytes


class ManifestStore:
    """The current manifest of one process, shared by its writer, compactor and collector. Thread-safe."""

    def __init__(self, store: ReliableStore, runtime: Runtime, current: Version) -> None:
        self._store = store.with_cause("manifest")
        self._runtime = runtime
        self._lock = runtime.long_lock()
        self._is_stale = False
        self._writer_epoch: int | None = None
        self._encoder = ManifestEncoder()
        self._current = current
        self._named: set[int] | None = None
        self.checked_partitions = 0
        """Number of partitions whose tables were checked before commits."""

    @property
    def current(self) -> Manifest:
        return self._current.manifest

    @property
    def encoded_partitions(self) -> int:
        """Number of partitions encoded for commits. The bytes of the others were copied from the previous version."""
        return self._encoder.encoded_partitions

    @classmethod
    def load(cls, store: ReliableStore, runtime: Runtime, *, is_claimed_next: bool = False) -> ManifestStore | None:
        """Load the newest manifest; None if there is no database. Cost: two LIST, one GET.

        `is_claimed_next`: the caller commits before it uses the manifest. The commit makes a listing (M4), so `load` saves one.
        """
        current = _newest(store.with_cause("manifest"), None, is_believed=is_claimed_next)
        return None if current is None else cls(store, runtime, current)

    @classmethod
    def create(cls, store: ReliableStore, runtime: Runtime, manifest: Manifest) -> ManifestStore:
        """Create version 1, or load the manifest that another process created first. Cost: one PUT, two LIST, one GET."""
        parts = ManifestEncoder().encode(manifest, epoch=0, nonce=runtime.random_bytes(16))
        with contextlib.suppress(ObjectExists):
            store.with_cause("manifest").put_new(manifest_name(1), parts)
        # Version 1 has no predecessor to check (M4): another process's version 1 may have been used and deleted.
        found = cls.load(store, runtime)
        if found is not None:
            return found
        # The listing lags behind.
        return cls(store, runtime, _read_version(store.with_cause("manifest"), 1, is_known=True))

    def claim_writer(self, *, compactor: bool) -> int:
        """Claim the writer epoch, which fences every older writer. `compactor`: claim the compactor's epoch, too."""
        claimed = 0

        def edit(manifest: Manifest) -> Manifest:
            nonlocal claimed
            claimed = max(manifest.writer_epoch, manifest.compactor_epoch) + 1
            # A compactor in the old writer's process ends with that writer.
            ended = manifest.compactor_epoch == manifest.writer_epoch
            compactor_epoch = claimed if compactor else 0 if ended else manifest.compactor_epoch
            return msgspec.structs.replace(manifest, writer_epoch=claimed, compactor_epoch=compactor_epoch)

        owned = self.update(edit)
        if owned.writer_epoch != claimed:
            raise FencedError(_fenced(claimed, owned.writer_epoch))
        self._writer_epoch = claimed
        return claimed

    def modified_ms(self) -> int | None:
        """Return when the current version was written, by the store's clock."""
        while True:
            try:
                return self._store.head(manifest_name(self.current.number)).modified_ms
            except ObjectMissing:
                self.refresh()  # The version was collected, so there is a newer one, perhaps of a newer writer.

    def claim_compactor(self) -> int:
        """Claim the compactor's epoch for a process that does not write. Fences every other compactor."""
        claimed = 0

        def edit(manifest: Manifest) -> Manifest:
            nonlocal claimed
            claimed = max(manifest.writer_epoch, manifest.compactor_epoch) + 1
            return msgspec.structs.replace(manifest, compactor_epoch=claimed)

        self.update(edit)
        return claimed

    def check_owner(self) -> Manifest:
        """Read the newest version and check that this process still owns the database.

        Raises: FencedError. Cost: as `refresh`.
        """
        return self.refresh()

    def explain(self, error: Error) -> Error:
        """Return the reason for a damaged or missing object. FencedError: there is a newer writer, whose collector may have
        deleted the object. UnavailableError: the newest manifest could not be read. Otherwise `error`."""
        if isinstance(error, CorruptionError):
            try:
                self.check_owner()
            except (FencedError, UnavailableError) as found:
                return found
        return error

    def update(self, edit: Edit) -> Manifest:
        """Commit `edit` of the newest version, and return the version that is current afterwards.

        Cost: one PUT, a GET of 64 bytes and a LIST; CPU for the partitions that changed.
        Raises: FencedError: another writer owns the database. UnavailableError: the outcome may be unknown; then delete
            nothing, and call again later (the edit recognises whether it was applied).
        """
        with self._lock:
            if self._is_stale:
                self._refresh()
            self._check_epoch()
            while True:
                changed = edit(self.current)
                if changed is None:
                    return self.current
                proposed = msgspec.structs.replace(changed, number=self.current.number + 1)
                named = self._check(proposed)
                if self._create(proposed):
                    self._named = named
                    return proposed
                self._refresh()

    def _check(self, proposed: Manifest) -> set[int]:
        """Check the changed partitions of `proposed`, and return all its table numbers.

        Partitions that are the same objects as in the current version were checked before. Raises: InternalError.
        """
        known = {id(partition) for partition in self.current.partitions}
        changed = [at for at, partition in enumerate(proposed.partitions) if id(partition) not in known]
        kept = set(map(id, proposed.partitions))
        named = self._named if self._named is not None else self.current.table_ids()
        named = named - _numbers(each for each in self.current.partitions if id(each) not in kept)
        for at in changed:
            proposed.check_partition(at)
            numbers = [table.number for table in proposed.partitions[at].tables()]
            proposed.check_fresh(named, numbers)
            named.update(numbers)
        self.checked_partitions += len(changed)
        return named

    def refresh(self) -> Manifest:
        """Read the newest version. Cost: one LIST; for a newer version, a GET and another LIST. Raises: FencedError."""
        with self._lock:
            self._refresh()
            return self.current

    def poll(self) -> Manifest:
        """Like `refresh`, at a sixth of the price if there is no newer version: a GET that finds nothing and one of 64 bytes.

        May miss newer versions if a late copy recreated the known version after its deletion.
        """
        with self._lock:
            if not self._seems_newest():
                self._refresh()
            return self.current

    def _seems_newest(self) -> bool:
        try:
            self._store.get_range(manifest_name(self.current.number + 1), 0, ENVELOPE.size)
        except ObjectMissing:
            # Versions are deleted in ascending order, so while the known one exists, no later one was deleted.
            return self._still_there(self._current)
        return False

    def _create(self, proposed: Manifest) -> bool:
        nonce = self._runtime.random_bytes(16)
        parts = self._encoder.encode(proposed, epoch=self._writer_epoch or 0, nonce=nonce)
        self._is_stale = True  # Until the reply arrives, the version may or may not exist.
        try:
            put_on_proof(self._store, manifest_name(proposed.number), parts, is_commit=True)
        except ObjectExists:
            return False
        if not self._is_fresh(proposed.number):
            return False
        self._current = Version(proposed, parts[0])
        self._is_stale = False
        return True

    def _is_fresh(self, number: int) -> bool:
        """Whether version `number`, which this process just created, never existed before (rule M4)."""
        if not self._still_there(self._current):
            # Either this process slept, or another process's create replaced the version. The probe finds out which.
            probe_conditional_create(self._store)
            return False
        return (_greatest(self._store) or 0) < number - 1 + MANIFESTS_KEPT

    def _still_there(self, known: Version) -> bool:
        """Whether the object that was read as `known` still exists. After its deletion, another slow process may have created
        the same number again, with another nonce. Only a second copy of the same request has the same nonce."""
        try:
            return self._store.get_range(manifest_name(known.manifest.number), 0, ENVELOPE.size) == known.header
        except ObjectMissing:
            return False

    def _refresh(self) -> None:
        found = _newest(self._store, self._current)
        if found is None:
            raise CorruptionError("every manifest is gone", object_name=manifest_name(self.current.number))
        if found.manifest.database != self.current.database:
            raise CorruptionError(
                f"manifest {found.manifest.number} is of database {found.manifest.database.hex()}, "
                f"but {self.current.number} of {self.current.database.hex()} was seen before",
                object_name=manifest_name(found.manifest.number),
            )
        if found is not self._current:
            self._named = None
        self._current = found
        self._is_stale = False
        self._check_epoch()

    def _check_epoch(self) -> None:
        """Rule M3, before every edit. If one thread read a newer writer's version, every thread finds it in `current`."""
        if self._writer_epoch is not None and self.current.writer_epoch != self._writer_epoch:
            raise FencedError(_fenced(self._writer_epoch, self.current.writer_epoch))


def _fenced(own: int, found: int) -> str:
    return f"a newer writer (epoch {found}) took over from this one (epoch {own}): stop using this handle"


def _read_version(store: ReliableStore, number: int, *, is_known: bool = False) -> Version:
    """Read and decode one version. `is_known`: it was seen, so one answer that it is missing is not believed. Raises:
    ObjectMissing, CorruptionError."""

    def read() -> Version:
        data = store.get(manifest_name(number))
        return Version(decode_manifest(data, number=number, database=None), data[: ENVELOPE.size])

    return store.insist(read, is_known=is_known)


def _numbers(partitions: Iterable[Partition]) -> set[int]:
    return {table.number for partition in partitions for table in partition.tables()}


def _newest(store: ReliableStore, known: Version | None, *, is_believed: bool = False) -> Version | None:
    """Return the newest stored version; None if there is none.

    A version counts if a listing made after reading it shows so few newer ones that it cannot have been deleted and created
    again. `is_believed`: it counts without that listing. Cost: one LIST if `known` is the newest; else one more and a GET.
    """
    found = known
    for _ in range(LISTINGS_MAX):
        greatest = _greatest(store)
        if greatest is None:
            return None
        if found is not None and greatest == found.manifest.number:
            return found
        if found is not None and found is not known and greatest < found.manifest.number + MANIFESTS_KEPT:
            return found
        if known is not None and greatest < known.manifest.number:
            continue  # A listing is not a snapshot: newer versions were created while it was made.
        with contextlib.suppress(ObjectMissing):  # Deleted between listing and reading, so there is a newer version.
            found = _read_version(store, greatest)
            if is_believed:
                return found
    if known is not None and (greatest or 0) < known.manifest.number:
        raise CorruptionError(
            f"the newest manifest is {greatest}, but {known.manifest.number} was seen before",
            object_name=manifest_name(known.manifest.number),
        )
    raise UnavailableError("the newest manifest keeps vanishing between listing and reading it: check the store")


def _greatest(store: ReliableStore) -> int | None:
    """Return the greatest number of a stored version. Cost: one LIST."""
    return max(
        (number for info in store.list(MANIFESTS) if (number := manifest_number(info.name)) is not None), default=None
    )
