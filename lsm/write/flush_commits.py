"""Write walk, after `write/level0_tables`, before `manifest/store`: commits flushed tables to the manifest, in batch order.

docs/protocol.md, rule F2: the replay position moves in the same commit.
"""

from __future__ import annotations

import msgspec

from lsm.errors import Error, UnavailableError
from lsm.manifest.model import Manifest, Partition
from lsm.manifest.store import ManifestStore
from lsm.manifest.table_ids import TableIds
from lsm.rows.memtable import Memtable
from lsm.view import LiveViews
from lsm.write.level0_tables import Built


class FlushCommits:
    """Commits the tables of one memtable at a time. Only the flush thread uses it."""

    def __init__(
        self, manifests: ManifestStore, views: LiveViews, table_ids: TableIds, new_fences: tuple[int, ...]
    ) -> None:
        """`new_fences`: fences, and log objects that recovery left out; no manifest lists them yet (rule W6)."""
        self._manifests = manifests
        self._views = views
        self._table_ids = table_ids
        self._new_fences = new_fences

    def commit(self, table: Memtable, built: Built, first_number: int) -> Manifest:
        """Commit a memtable's tables and return the new manifest. When this returns, reads use the tables, not the memtable.

        Requires: older memtables are committed. Raises: UnavailableError, FencedError.
        """
        fences = self._new_fences

        def edit(manifest: Manifest) -> Manifest | None:
            flushed = with_flush(manifest, table, built, fences)
            return None if flushed is None else self._table_ids.settle(flushed, committing=first_number)

        manifest = self._manifests.update(edit)
        self._new_fences = ()
        self._views.publish_flush(table, manifest)
        return manifest

    def poll(self) -> Manifest | None:
        """Look for a manifest of another process that is newer than the one reads use. Return it; `None` if there is none."""
        manifest = self._manifests.poll()
        return manifest if manifest.number > self._views.current.manifest.number else None

    def explain(self, error: Error) -> Error:
        """As `ManifestStore.explain`: the cause of any error may be a newer owner."""
        return self._manifests.explain(error)


def with_flush(manifest: Manifest, table: Memtable, built: Built, fences: tuple[int, ...]) -> Manifest | None:
    """Return the manifest with a memtable's tables on top of their partitions; `None` if it has them already. Pure.

    Raises: UnavailableError: the collector may have deleted the tables (rule G2), so they must be built again.
    """
    if manifest.last_seq >= table.last_seq:
        return None
    if any(manifest.is_given_up(info.number) for _, info in built):
        raise UnavailableError("the tables were built too long ago and may be collected: building them again")
    changed = manifest
    for prefix, info in built:
        partition = changed.partition(prefix) or Partition(prefix)
        ends = dict(partition.series_ends)
        ends.update((family, rows.next_position) for family, rows in table.series.items() if family.startswith(prefix))
        changed = changed.with_partition(
            msgspec.structs.replace(partition, l0=(info, *partition.l0), series_ends=tuple(sorted(ends.items())))
        )
    return msgspec.structs.replace(
        changed,
        last_seq=table.last_seq,
        replay_after=max(manifest.replay_after, table.wal_last),
        # Rule W4: the epoch at object `wal_last`, not this writer's: later objects of an older epoch must still be replayed.
        wal_epoch_floor=max(manifest.wal_epoch_floor, table.wal_epoch),
        fences=tuple(sorted({*manifest.fences, *fences})),
    )
