"""Both walks: the numbered versions of the manifest in the store; compare-and-swap, epochs and fencing.

docs/protocol.md, rules M1 to M5. Source: SlateDB's sequenced objects. Where it keeps a boundary object to make deleted
numbers unusable, old versions are deleted here in ascending order, so a number is known to be fresh while its
predecessor exists.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lsm.errors import CorruptionError, FencedError, InternalError, UnavailableError
from lsm.manifest.codec import decode_manifest, encode_manifest
from lsm.manifest.model import Manifest
from lsm.object_store.contract import ObjectExists, ObjectMissing
from lsm.object_store.names import MANIFESTS, manifest_name, number_of
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime

PROBES_MAX = 4
"""Newer versions looked for one by one before listing them."""
LISTINGS_MAX = 64
"""Listings in a row whose newest manifest was gone when read; only a broken store gets there."""

Edit = Callable[[Manifest], "Manifest | None"]
"""Computes the next version from the current one; None: nothing to change. Run again after a lost race, so it must look
only at its argument, and must recognise its own work."""


class ManifestStore:
    """The current manifest of one process, shared by its writer, compactor and collector. Thread-safe."""

    def __init__(self, store: ReliableStore, runtime: Runtime, current: Manifest) -> None:
        self._store = store.with_cause("manifest")
        self._runtime = runtime
        self._lock = runtime.lock()
        self._is_stale = False
        self._writer_epoch: int | None = None
        self.current = current

    @classmethod
    def load(cls, store: ReliableStore, runtime: Runtime) -> ManifestStore | None:
        """The newest manifest, or None where there is no database. Cost: one LIST, one GET."""
        current = _load_latest(store.with_cause("manifest"))
        return None if current is None else cls(store, runtime, current)

    @classmethod
    def create(cls, store: ReliableStore, runtime: Runtime, manifest: Manifest) -> ManifestStore:
        """Create version 1, or load what somebody else created meanwhile."""
        try:
            parts = encode_manifest(manifest, epoch=0, nonce=runtime.random_bytes(16))
            store.with_cause("manifest").put_new(manifest_name(1), parts)
        except ObjectExists:
            found = cls.load(store, runtime)
            if found is None:
                raise InternalError(
                    "the first manifest exists but cannot be listed: the store is inconsistent"
                ) from None
            return found
        return cls(store, runtime, manifest)

    def claim_writer(self, *, compactor: bool) -> int:
        """Take the writer epoch (and the compactor's, if this process compacts), fencing out every older writer."""
        claimed = 0

        def edit(manifest: Manifest) -> Manifest:
            nonlocal claimed
            claimed = max(manifest.writer_epoch, manifest.compactor_epoch) + 1
            changed = msgspec.structs.replace(manifest, writer_epoch=claimed)
            return msgspec.structs.replace(changed, compactor_epoch=claimed) if compactor else changed

        owned = self.update(edit)
        if owned.writer_epoch != claimed:
            raise FencedError(_fenced(claimed, owned.writer_epoch))
        self._writer_epoch = claimed
        return claimed

    def check_owner(self) -> Manifest:
        """Read the newest version and make sure this process still owns the database.

        Raises: FencedError. Cost: one GET and one HEAD, where nothing changed.
        """
        with self._lock:
            self._refresh()
            return self.current

    def update(self, edit: Edit) -> Manifest:
        """Commit `edit` of the newest version and return what is current then. Cost: one PUT and one HEAD.

        Raises: FencedError: another writer owns the database. UnavailableError: the outcome may be unknown; then delete
        nothing, and call again later (the edit sees whether it was applied).
        """
        with self._lock:
            if self._is_stale:
                self._refresh()
            while True:
                changed = edit(self.current)
                if changed is None:
                    return self.current
                proposed = msgspec.structs.replace(changed, number=self.current.number + 1)
                proposed.check()
                if self._create(proposed):
                    self.current = proposed
                    return proposed
                self._refresh()

    def refresh(self) -> Manifest:
        """Look for a newer version."""
        with self._lock:
            self._refresh()
            return self.current

    def _create(self, proposed: Manifest) -> bool:
        parts = encode_manifest(proposed, epoch=self._writer_epoch or 0, nonce=self._runtime.random_bytes(16))
        self._is_stale = True  # Until the reply is here, the version may or may not exist.
        try:
            self._store.put_new(manifest_name(proposed.number), parts)
            if proposed.number > 1:
                # Rule M4: a number whose predecessor is gone may have been used and deleted before.
                self._store.head(manifest_name(proposed.number - 1))
        except (ObjectExists, ObjectMissing):
            return False
        self._is_stale = False
        return True

    def _refresh(self) -> None:
        found = self._probe()
        if found.number < self.current.number or found.database != self.current.database:
            raise CorruptionError(
                f"the newest manifest is {found.number} of database {found.database.hex()}, "
                f"but {self.current.number} of {self.current.database.hex()} was seen before",
                object_name=manifest_name(found.number),
            )
        self.current = found
        self._is_stale = False
        if self._writer_epoch is not None and found.writer_epoch != self._writer_epoch:
            raise FencedError(_fenced(self._writer_epoch, found.writer_epoch))

    def _probe(self) -> Manifest:
        newest = self.current
        for _ in range(PROBES_MAX):
            try:
                data = self._store.get(manifest_name(newest.number + 1))
            except ObjectMissing:
                try:
                    # Old versions go in ascending order: while the one we knew exists, no later one was ever deleted, so
                    # the missing one was never there, and none of those found is a stalled process's second creation.
                    self._store.head(manifest_name(self.current.number))
                except ObjectMissing:
                    break
                return newest
            newest = decode_manifest(data, number=newest.number + 1, database=newest.database)
        latest = _load_latest(self._store)
        if latest is None:
            raise CorruptionError("every manifest is gone", object_name=manifest_name(newest.number))
        return latest


def _fenced(own: int, found: int) -> str:
    return f"a newer writer (epoch {found}) took over from this one (epoch {own}): stop using this handle"


def _load_latest(store: ReliableStore) -> Manifest | None:
    for _ in range(LISTINGS_MAX):
        numbers = [number for info in store.list(MANIFESTS) if (number := number_of(info.name)) is not None]
        if not numbers:
            return None
        newest = max(numbers)
        try:
            return decode_manifest(store.get(manifest_name(newest)), number=newest, database=None)
        except ObjectMissing:
            continue  # Deleted between listing and reading: then there is a newer one.
    raise UnavailableError("the newest manifest keeps vanishing between listing and reading it: check the store")
