"""Read walk of another process: follows a manifest and the log behind it while another process writes them.

docs/protocol.md, rules R1 to R5. A reader shows the durable, contiguous part of the log, by the same rules as replay. So a
crash of the writer cannot take back rows that a reader has shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from lsm.components import Stores
from lsm.errors import CorruptionError, Error, InvalidError, SnapshotExpiredError, TableMissingError
from lsm.manifest.model import Manifest, may_have_dropped
from lsm.manifest.store import ManifestStore
from lsm.object_store.names import wal_name
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime
from lsm.view import Bounds, View
from lsm.wal.frames import Frame
from lsm.wal.gaps import is_lost, lost, was_durable
from lsm.wal.replay import PREFETCH, LogEntries, apply_frames, list_wal, read_wal_object

SINGLE_READS_MAX: Final = 8
"""Maximum log objects read one by one before the log is listed. After the listing the rest are read in parallel, and the
read has an end even if the writer is as fast as this reader."""


class News(NamedTuple):
    """Rows became visible. `names`: per family, the series that got rows; None if they are not known."""

    names: Mapping[bytes, set[bytes]] | None


class State(NamedTuple):
    """What reads see. `version` grows with every change; `rows_version` grows when rows outside of series may have changed."""

    seen: tuple[View, Bounds]
    version: int
    rows_version: int


class Following:
    """The part of the database read so far: a manifest and the log behind it. Requires: one caller at a time; any thread may
    read `state`."""

    def __init__(self, stores: Stores, runtime: Runtime, manifests: ManifestStore) -> None:
        self._store = stores.wal.with_cause("poll")
        self._runtime = runtime
        self._manifests = manifests
        self._is_torn = False
        self._drops = self._drops_read = 0
        self._keeps_arrivals = False
        self._marks: dict[int, int] = {}
        self._added: list[LogEntries] = []
        self._missed_rows = False
        self._has_new_rows = False
        self._start_over(manifests.current)
        self._told_seq = self._seq
        self.state = State(self._current(), 0, 0)

    def _start_over(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._log: list[LogEntries] = []
        self._next = manifest.replay_after + 1
        self._epoch = manifest.wal_epoch_floor
        self._seq = manifest.last_seq
        self._table = self._new_table()

    def _new_table(self) -> Memtable:
        table = Memtable(self._runtime)
        if self._keeps_arrivals:
            table.keep_arrivals()
        return table

    def keep_arrivals(self) -> None:
        """From now on, keep the arrival order of rows in memory."""
        self._keeps_arrivals = True
        self._table.keep_arrivals()

    @property
    def next_number(self) -> int:
        """The number of the next log object to read."""
        return self._next

    @property
    def memory(self) -> Memtable:
        """The log's rows that are not in tables yet."""
        return self._table

    def explained(self, error: TableMissingError) -> Error:
        """Return the error for a missing table: it was collected, or it is lost."""
        if self._manifest.names(error.object_name):
            return error
        return SnapshotExpiredError(f"{error.object_name} was compacted away and collected: read again")

    # -- reading on ---------------------------------------------------------------------------------------------------

    def first(self) -> None:
        """Read the database for the first time. Cost: one LIST, one GET per log object; one LIST for the manifest."""
        if self._read_listed() or self._look() or self._is_ahead:
            self.catch_up(look=True, sure=True)
        self._publish()
        self.take_news()

    def catch_up(self, *, look: bool, sure: bool) -> bool:
        """Read all of the log that is durable at the time of the call; with `look`, the newest manifest too. Return whether
        rows became visible.

        Cost: one GET per new log object and one that finds nothing; one LIST from SINGLE_READS_MAX new objects on. `look`
        adds two short GETs, and some more if there is a newer version. `sure` replaces the GET that finds nothing by a LIST
        of the log, which shows whether an object is lost (rule W7), and the two GETs of the manifest by a LIST.
        Raises: UnavailableError, CorruptionError; the part read before the error is kept and shown.
        """
        if self._is_torn:
            self._recover()
        seen = self._shown_seq
        try:
            # Rule R3: the manifest is read after the log. A missing object is the log's end unless it was collected by then.
            while self._read_on(sure=sure) or (look and self._look(sure=sure)) or self._is_ahead:
                pass
        finally:
            self._publish()
        return self._shown_seq > seen

    def _read_on(self, *, sure: bool) -> bool:
        """Read the log up to its first gap. Return True if a newer manifest has the rows behind the gap in tables."""
        drops = self._drops
        try:
            goes_on = self._read_listed() if sure else self._read_up_to_a_gap()
        except CorruptionError:
            if self._look():  # The rows of the damaged object are in tables by now.
                return True
            raise
        if not goes_on:
            self._drops_read = drops
        return goes_on

    @property
    def _is_ahead(self) -> bool:
        """Whether the manifest may have dropped partitions because of batches in the log that are not read yet (rule R5)."""
        return self._drops != self._drops_read

    def _read_up_to_a_gap(self) -> bool:
        for _ in range(SINGLE_READS_MAX):
            entries = read_wal_object(self._store, self._next, self._manifest.database)
            if entries is None:
                return False
            if self._take(entries):
                return True
            self._publish()
        return self._read_listed()

    def _read_listed(self) -> bool:
        taken = set(list_wal(self._store))
        while True:
            if self._read_taken(taken):
                return True
            if is_lost(self._store, self._next, taken, self._manifest.database, self._marks):
                if self._look():  # It was collected.
                    return True
                raise lost(self._next)
            if not was_durable(self._next, self._marks):
                return False
            taken.add(self._next)  # A later object was listed, so this one was created after the listing.

    def _read_taken(self, taken: set[int]) -> bool:
        end = self._next
        while end in taken:
            end += 1
        width = 1 if self._store.store.is_near else PREFETCH
        for start in range(self._next, end, width):
            for entries in self._read_together(range(start, min(start + width, end))):
                if entries is None:
                    if self._look():
                        return True
                    raise CorruptionError("was listed, is gone, and is in no table", object_name=wal_name(self._next))
                if self._take(entries):
                    return True
            self._publish()
        return False

    def _read_together(self, numbers: Sequence[int]) -> list[LogEntries | None]:
        database = self._manifest.database
        return self._runtime.map(
            lambda number: read_wal_object(self._store, number, database, is_known=True), numbers, width=len(numbers)
        )

    def _take(self, entries: LogEntries) -> bool:
        """Add the next log object. Return True if its rows are already in tables and the position has moved beyond it."""
        # Rule W3: an object of an older epoch is a late write of a fenced writer.
        counts = entries.epoch >= self._epoch
        # If the manifest does not cover the missing batches, the log itself lacks them; so does the next open's replay.
        if counts and not self._follows(entries.frames) and self._look() and self._next != entries.number:
            return True
        with self._changing():
            self._next = entries.number + 1
            if counts:
                self._epoch = entries.epoch
                self._log.append(entries)
                self._added.append(entries)
                self._has_new_rows = self._has_new_rows or not all(frame.family for frame in entries.frames)
                self._seq = max(self._seq, apply_frames(self._table, entries.frames, after_seq=self._seq))
        return False

    def _follows(self, frames: Iterable[Frame]) -> bool:
        """Rule R4: whether no batch is missing between the batches seen and `frames`. If one is
        missing, all missing batches are in tables: a fenced writer's late object took a number that the collector freed."""
        first = next((frame.seq for frame in frames if frame.last_seq > self._seq), 0)
        return first <= self._seq + 1

    # -- the manifest -------------------------------------------------------------------------------------------------

    def _look(self, *, sure: bool = True) -> bool:
        """Adopt the newest manifest. Return True if it covers batches not seen yet, or moved the position in the log."""
        manifest = self._manifests.refresh() if sure else self._manifests.poll()
        if manifest.number == self._manifest.number:
            return False
        if manifest.wal_url != self._manifest.wal_url:
            raise InvalidError(
                f"the database's log was moved from {self._manifest.wal_url!r} to {manifest.wal_url!r}: open the reader "
                f"again with that wal_url"
            )
        position, seq = self._next, self._seq
        with self._changing():
            known = self._manifest
            if (manifest.replay_after, manifest.last_seq) != (known.replay_after, known.last_seq):
                self._rebase(manifest)
            self._drops += may_have_dropped(known, manifest)
            self._manifest = manifest
            if manifest.last_seq > seq:
                self._missed_rows = self._has_new_rows = True
        self._publish()
        return self._next != position or manifest.last_seq > seq

    def _rebase(self, manifest: Manifest) -> None:
        """The front of the log is in tables now: start a new memtable behind it. Views of the old memtable stay whole."""
        self._log = [entries for entries in self._log if entries.number > manifest.replay_after]
        self._next = max(self._next, manifest.replay_after + 1)
        self._epoch = max(self._epoch, manifest.wal_epoch_floor)  # Rule W4.
        self._table = self._new_table()
        self._seq = manifest.last_seq  # Without log objects, reads see the tables only.
        for entries in self._log:
            self._seq = max(self._seq, apply_frames(self._table, entries.frames, after_seq=self._seq))

    # -- what is shown ------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Mark a change that an interrupt can leave half done: the next call then starts over."""
        self._is_torn = True
        yield
        self._is_torn = False

    def _recover(self) -> None:
        self._start_over(self._manifests.refresh())
        self._missed_rows = self._has_new_rows = True
        self._is_torn = False
        self._drops_read = self._drops
        self._read_listed()

    def _publish(self) -> None:
        (view, bounds), version, rows_version = self.state
        is_same = view.manifest is self._manifest and view.memtables[0] is self._table and bounds.seq == self._seq
        if self._is_torn or self._is_ahead or is_same or self._seq < bounds.seq:
            return  # After starting over, nothing is shown until all rows shown before are read again.
        self.state = State(self._current(), version + 1, rows_version + self._has_new_rows)
        self._has_new_rows = False

    @property
    def _shown_seq(self) -> int:
        return self.state.seen[1].seq

    def _current(self) -> tuple[View, Bounds]:
        # The memtable grows with the next poll; the bounds keep this view unchanged.
        positions = {family: series.next_position for family, series in self._table.series.items()}
        return View((self._table,), self._manifest), Bounds(self._seq, positions)

    def take_news(self) -> News | None:
        """What became visible since the last call; None if nothing did."""
        added, missed, seq = self._added, self._missed_rows, self._shown_seq
        self._added, self._missed_rows = [], False
        if seq == self._told_seq:
            return None
        self._told_seq = seq
        return News(None if missed else names_by_family(frame for each in added for frame in each.frames))


def names_by_family(frames: Iterable[Frame]) -> dict[bytes, set[bytes]]:
    """The series that got rows, by family. Cost: one C-level pass per frame."""
    found: dict[bytes, set[bytes]] = {}
    for frame in frames:
        if frame.family:
            found.setdefault(frame.family, set()).update(frame.keys)
    return found
