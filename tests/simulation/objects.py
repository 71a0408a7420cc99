"""What must be in the bucket: recomputed from the manifest after every create and delete."""

from __future__ import annotations

from collections.abc import Callable

from lsm.manifest.codec import decode_manifest
from lsm.manifest.model import Manifest
from lsm.object_store.names import MANIFESTS, TABLES, WAL, number_of, table_name
from lsm.testing.bucket import SimulatedBucket

MANIFESTS_KEPT = 8


class ObjectWatch:
    """Reports objects that the newest manifest needs and that are gone, and manifests that cannot follow each other."""

    def __init__(self, bucket: SimulatedBucket, report: Callable[[str, str], None]) -> None:
        self._bucket = bucket
        self._report = report
        self._contents: dict[str, bytes] = {}
        self.manifest: Manifest | None = None
        bucket.on_put = self._put
        bucket.on_delete = self._deleted

    def _put(self, name: str, body: bytes) -> None:
        number = number_of(name)
        if number is not None and self._contents.setdefault(name, body) != body and self._counts(name, number):
            self._report("name reuse", f"{name} was created twice with different bytes")
        if name.startswith(MANIFESTS) and number is not None:
            self._new_manifest(decode_manifest(body, number=number, database=None))

    def _counts(self, name: str, number: int) -> bool:
        """Whether anybody may still read it: a fenced process can put late what it likes where all is collected."""
        if name.startswith(WAL):
            return self.manifest is None or number > self.manifest.replay_after
        return name.startswith(TABLES)

    def _new_manifest(self, new: Manifest) -> None:
        old = self.manifest
        if old is not None:
            if new.number <= old.number:
                return  # A late copy of one that was deleted: everybody finds it is not the newest.
            for what in ("writer_epoch", "replay_after", "wal_epoch_floor", "last_seq", "gc_horizon"):
                if getattr(new, what) < getattr(old, what):
                    self._report("manifest", f"{new.number}: {what} went back to {getattr(new, what)}")
            if new.number != old.number + 1:
                self._report("manifest", f"{new.number} follows {old.number}")
        self.manifest = new
        missing = [number for number in new.table_numbers() if table_name(number) not in self._bucket.objects]
        if missing:
            self._report(
                "reachable object deleted", f"manifest {new.number} names tables that are not there: {missing}"
            )

    def _deleted(self, name: str) -> None:
        manifest, number = self.manifest, number_of(name)
        if manifest is None or number is None:
            return
        if (
            (name == table_name(number) and number in manifest.table_numbers())
            or (name.startswith(WAL) and (number > manifest.replay_after or number in manifest.fences))
            or (name.startswith(MANIFESTS) and number == manifest.number)
        ):
            self._report("reachable object deleted", f"{name}, which manifest {manifest.number} needs")

    def leaks(self) -> list[str]:
        """Objects nothing refers to."""
        manifest = self.manifest
        assert manifest is not None
        found = []
        for name in self._bucket.objects:
            number = number_of(name)
            if number is None:
                continue  # A probe's leftover, which harms nothing.
            if name.startswith(TABLES):
                is_needed = name == table_name(number) and number in manifest.table_numbers()
            elif name.startswith(WAL):
                is_needed = number >= manifest.replay_after or number in manifest.fences
            else:
                is_needed = number > manifest.number - MANIFESTS_KEPT
            if not is_needed:
                found.append(name)
        return sorted(found)
