"""Read walk of another process: a manifest, and the log behind it, as far as somebody else has written them.

It shows what is durable and contiguous in the log, so nothing it has shown can be taken back by a crash of the writer.
"""

from __future__ import annotations

from lsm.components import Stores
from lsm.manifest.model import Manifest
from lsm.manifest.store import ManifestStore
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.view import Bounds, View
from lsm.wal.replay import LogEntries, apply_frames, list_wal, read_wal, read_wal_object


class Following:
    """What has been read of the database so far: a manifest, and the log behind it."""

    def __init__(self, stores: Stores, runtime: Runtime, manifests: ManifestStore) -> None:
        self._store = stores.wal.with_cause("poll")
        self._runtime = runtime
        self._manifests = manifests
        self._manifest = manifests.current
        self._log: list[LogEntries] = []
        self._next = self._manifest.replay_after + 1
        self._epoch = self._manifest.wal_epoch_floor
        self._seq = self._manifest.last_seq
        self._keeps_arrivals = False
        self._table = Memtable(runtime)

    def first(self) -> tuple[View, Bounds]:
        """Cost: one LIST, one GET per log object and one that finds nothing."""
        taken = set(list_wal(self._store))
        end = self._next
        while end in taken:
            end += 1
        database = self._manifest.database
        numbers = range(self._next, end)
        for entries in read_wal(self._store, self._runtime, numbers, database, epoch_floor=self._epoch):
            self._add(entries)
        self._next = end
        self._read_on()  # A listing may leave out what was created meanwhile.
        return self._state()

    def again(self) -> tuple[View, Bounds]:
        """Cost: one GET and one HEAD for the manifest, one GET per new log object and one that finds nothing."""
        manifest = self._manifests.refresh()
        if manifest.replay_after != self._manifest.replay_after:
            self._rebase(manifest)
        self._seq = max(self._seq, manifest.last_seq)  # Without a log, tables are all there is to see.
        self._manifest = manifest
        self._read_on()
        return self._state()

    def keep_arrivals(self) -> None:
        """Rows in memory can be read in the order they came in, from now on."""
        self._keeps_arrivals = True
        self._table.keep_arrivals()

    def _read_on(self) -> None:
        """Read the log up to the first number that is not there."""
        while (entries := read_wal_object(self._store, self._next, self._manifest.database)) is not None:
            self._next += 1
            if entries.epoch >= self._epoch:
                self._add(entries)

    def _add(self, entries: LogEntries) -> None:
        self._epoch = entries.epoch
        self._log.append(entries)
        self._seq = max(self._seq, apply_frames(self._table, entries.frames, after_seq=self._seq))

    def _rebase(self, manifest: Manifest) -> None:
        """The front part of the log is in tables now: start a new memtable behind it. Views of the old one stay whole."""
        self._log = [entries for entries in self._log if entries.number > manifest.replay_after]
        self._next = max(self._next, manifest.replay_after + 1)
        self._epoch = max(self._epoch, manifest.wal_epoch_floor)
        self._table = Memtable(self._runtime)
        if self._keeps_arrivals:
            self._table.keep_arrivals()
        self._seq = manifest.last_seq
        for entries in self._log:
            self._seq = max(self._seq, apply_frames(self._table, entries.frames, after_seq=self._seq))

    def _state(self) -> tuple[View, Bounds]:
        # The table grows with the next poll; the bounds keep this view where it is.
        numbers = {family: series.next_number for family, series in self._table.series.items()}
        return View((self._table,), self._manifest), Bounds(self._seq, numbers)
