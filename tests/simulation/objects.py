"""What must be in a bucket: recomputed from the manifest, its checkpoints, its claims and its clones after every change."""

from __future__ import annotations

from collections.abc import Callable

from lsm.manifest.checkpoint import Checkpoint
from lsm.manifest.codec import decode_manifest
from lsm.manifest.model import Manifest
from lsm.object_store.names import (
    MANIFESTS,
    PINNED,
    TABLES,
    WAL,
    manifest_name,
    marker_name,
    pinned_name,
    table_name,
    wal_name,
)
from lsm.testing.simulated_bucket import SimulatedBucket
from tests.doubles import number_of

MANIFESTS_KEPT = 8


class ObjectWatch:
    """Reports objects that are needed and gone, manifests that cannot follow each other, and checkpoints that go early.

    `parent`: of a clone, the watch of the database whose tables it reads. `released` are the checkpoints that somebody has
    asked to delete: every other one must stay for its lifetime.
    """

    def __init__(
        self, bucket: SimulatedBucket, report: Callable[[str, str], None], *, parent: ObjectWatch | None = None
    ) -> None:
        self.bucket = bucket
        self._report = report
        self._contents: dict[str, bytes] = {}
        self._versions: dict[int, Manifest] = {}
        self._since: dict[Checkpoint, float] = {}
        self._needed: set[int] = set()
        self._parent = parent
        self._clones: list[ObjectWatch] = []
        self.released: set[str] = set()
        self.manifest: Manifest | None = None
        if parent is not None:
            parent._clones.append(self)
        bucket.on_put = self._put
        bucket.on_delete = self._deleted

    def has_checkpoint(self, checkpoint_id: str) -> bool:
        return self.manifest is not None and self.manifest.checkpoint(checkpoint_id) is not None

    # -- what comes ---------------------------------------------------------------------------------------------------

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
            for what in (
                "writer_epoch",
                "compactor_epoch",
                "replay_after",
                "wal_epoch_floor",
                "last_seq",
                "gc_horizon",
            ):
                if getattr(new, what) < getattr(old, what):
                    self._report("manifest", f"{new.number}: {what} went back to {getattr(new, what)}")
            if new.number != old.number + 1:
                self._report("manifest", f"{new.number} follows {old.number}")
            self._check_dropped(old, new)
        self.manifest = self._versions[new.number] = new
        now = self.bucket.scheduler.monotonic()
        self._since = {each: self._since.get(each, now) for each in new.checkpoints}
        self._needed = self._named(new)
        foreign = new.owners()
        missing = [number for number in sorted(self._needed) if not self._is_stored(number, foreign)]
        if missing:
            self._report(
                "reachable object deleted", f"manifest {new.number} needs tables that are not there: {missing}"
            )

    def _named(self, manifest: Manifest) -> set[int]:
        """The tables of that version and of its checkpoints, and those that claimed compactions have finished."""
        pinned = (self._versions.get(each.manifest_id) for each in manifest.checkpoints)
        named = manifest.table_ids().union(*(each.table_ids() for each in pinned if each is not None))
        return named.union(*({table.number for table in part.done} for job in manifest.jobs for part in job.parts))

    def _is_stored(self, number: int, foreign: dict[int, bytes]) -> bool:
        holder = self._parent if number in foreign and self._parent is not None else self
        return table_name(number) in holder.bucket.objects

    def _check_dropped(self, old: Manifest, new: Manifest) -> None:
        """Rule K3: no checkpoint goes early, whatever any wall clock does."""
        for gone in old.checkpoints:
            if new.checkpoint(gone.id) is not None or gone.id in self.released:
                continue
            age = self.bucket.scheduler.monotonic() - self._since[gone]
            is_over = gone.lifetime_ms is not None and age * 1000 >= gone.lifetime_ms
            if not is_over and not self._is_given_back(gone):
                self._report("expired early", f"{gone} went {age:.3f} s after it was made or refreshed")

    def _is_given_back(self, checkpoint: Checkpoint) -> bool:
        """Rule K6: its clone has no use for it any more. One that does not exist yet has not begun to need it."""
        clones = [each for each in self._clones if each.bucket.url == checkpoint.name.removeprefix("clone:")]
        return bool(clones) and all(each.manifest is not None and not each.needs_of_parent() for each in clones)

    def needs_of_parent(self) -> set[int]:
        """The parent's tables that this clone, or a checkpoint of it, names."""
        return self._needed & self.manifest.owners().keys() if self.manifest is not None else set()

    # -- what goes ----------------------------------------------------------------------------------------------------

    def _deleted(self, name: str) -> None:
        manifest, number = self.manifest, number_of(name)
        if manifest is None or number is None:
            return
        needed_by = self._why_needed(name, number, manifest)
        if needed_by:
            self._report("reachable object deleted", f"{name}, which {needed_by} needs")

    def _why_needed(self, name: str, number: int, manifest: Manifest) -> str:
        """Who needs an object that is about to be, or was just, deleted; empty: nobody."""
        if name in (table_name(number), marker_name(number)):
            if manifest.is_claimed(number):
                return f"a claimed compaction of manifest {manifest.number}"
            if name == marker_name(number):
                return ""
            if number in self._needed:
                return f"manifest {manifest.number} or a checkpoint"
            return "a clone" if any(number in each.needs_of_parent() for each in self._clones) else ""
        if name == wal_name(number):
            is_needed = number > manifest.replay_after or number in manifest.fences
            if is_needed or any(each.needs_log(number) for each in manifest.checkpoints):
                return f"manifest {manifest.number} or a checkpoint"
        elif name == manifest_name(number) and number == manifest.number:
            return "everybody"
        elif any(each.manifest_id == number for each in manifest.checkpoints):
            other = pinned_name(number) if name == manifest_name(number) else manifest_name(number)
            return "" if other in self.bucket.objects else "a checkpoint"
        return ""

    def leaks(self) -> list[str]:
        """Objects nothing refers to."""
        manifest = self.manifest
        assert manifest is not None
        found = []
        for name in self.bucket.objects:
            number = number_of(name)
            if number is None:
                continue  # A probe's leftover, which harms nothing.
            if name.startswith(WAL):
                is_needed = number == manifest.replay_after or bool(self._why_needed(name, number, manifest))
            elif name.startswith(MANIFESTS):
                is_needed = number > manifest.number - MANIFESTS_KEPT
            elif name.startswith(PINNED):
                is_needed = any(each.manifest_id == number for each in manifest.checkpoints)
            else:
                is_needed = bool(self._why_needed(name, number, manifest))
            if not is_needed:
                found.append(name)
        return sorted(found)

    def claims(self) -> list[int]:
        """Compactions that are claimed, by the first number of their first claim."""
        return [] if self.manifest is None else [job.id for job in self.manifest.jobs]
