"""Read walk of another process: the version and the log that a checkpoint pins. They never change."""

from __future__ import annotations

from lsm.checkpoint.checkpoints import find_checkpoint, load_checkpoint
from lsm.components import Stores
from lsm.errors import CorruptionError, Error, SnapshotExpiredError
from lsm.manifest.store import ManifestStore
from lsm.read.following import State
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.view import Bounds, View
from lsm.wal.replay import apply_frames, read_wal


class Frozen:
    """A pinned version and the log behind it. Takes the place that `Following` has in a following reader."""

    def __init__(self, stores: Stores, runtime: Runtime, manifests: ManifestStore, checkpoint_id: str) -> None:
        self._stores = stores
        self._runtime = runtime
        self._manifests = manifests
        self._checkpoint = find_checkpoint(manifests.current, checkpoint_id)
        self.next_number = self._checkpoint.wal_last + 1
        self.memory = Memtable(runtime)
        self.state = State((View((self.memory,), manifests.current), Bounds(0, {})), 0, 0)

    def first(self) -> None:
        """Cost: one GET for the version, two where only its copy is left, and one per log object."""
        try:
            self._load()
        except CorruptionError as error:
            raise self.explained(error) from error

    def _load(self) -> None:
        pinned = self._checkpoint
        manifest = load_checkpoint(self._stores.main.with_cause("open"), self._manifests.current, pinned)
        table = self.memory
        seq = manifest.last_seq
        numbers = range(pinned.wal_first, pinned.wal_last + 1)
        log = self._stores.wal.with_cause("open")
        floor = manifest.wal_epoch_floor
        for entries in read_wal(log, self._runtime, numbers, manifest.database, epoch_floor=floor):
            seq = max(seq, apply_frames(table, entries.frames, after_seq=seq))
        ends = {family: series.next_position for family, series in table.series.items()}
        self.state = State((View((table,), manifest), Bounds(seq, ends)), 0, 0)

    def catch_up(self, *, look: bool, sure: bool) -> bool:
        """Return False: a checkpoint never gets new rows. Cost: no request."""
        return False

    def take_news(self) -> None:
        """Return None: a checkpoint never gets new rows."""

    def keep_arrivals(self) -> None:
        """Do nothing: no rows arrive."""

    def explained(self, error: CorruptionError) -> Error:
        """The error for a missing object: the checkpoint has ended, or the database is damaged. Cost: a manifest refresh."""
        if self._manifests.refresh().checkpoint(self._checkpoint.id) is None:
            return SnapshotExpiredError(f"checkpoint {self._checkpoint.id} expired or was deleted: {error}")
        return error
