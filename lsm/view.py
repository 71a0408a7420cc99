"""Both walks meet here: what a read may see. A view is replaced, never changed, so a read needs no lock.

While a view is referenced, the garbage collector of this process keeps its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakSet

from lsm.manifest.model import Manifest
from lsm.rows.memtable import Memtable
from lsm.runtime import Runtime


class View:
    """Memtables, newest first (the first is active), and the manifest with the tables below them."""

    __slots__ = ("__weakref__", "_series_ends", "manifest", "memtables")

    def __init__(self, memtables: tuple[Memtable, ...], manifest: Manifest) -> None:
        self.memtables = memtables
        self.manifest = manifest
        self._series_ends: dict[bytes, int] | None = None

    def series_end(self, family: bytes) -> int:
        """Return the family's end in tables: rows with this number or a greater one are in memory, or do not exist."""
        ends = self._series_ends
        if ends is None:
            ends = self._series_ends = self.manifest.series_ends()
        return ends.get(family, 0)


class Bounds:
    """How much of a view a read sees: batches up to `seq`, and in each series family the numbers below its bound."""

    __slots__ = ("_positions", "seq")

    def __init__(self, seq: int, positions: Mapping[bytes, int]) -> None:
        self.seq = seq
        self._positions = positions

    def position(self, family: bytes) -> int:
        """Return the bound of a family: 0 if the family was empty when the bounds were taken."""
        return self._positions.get(family, 0)


class LiveViews:
    """The current view, and the older views that are still in use."""

    def __init__(self, runtime: Runtime, view: View) -> None:
        self.lock = runtime.lock()
        self._held: WeakSet[View] = WeakSet((view,))
        self.current = view

    def replace(self, *, memtables: tuple[Memtable, ...] | None = None, manifest: Manifest | None = None) -> None:
        with self.lock:
            old = self.current
            if manifest is not None and manifest.number < old.manifest.number:
                manifest = None  # Two commits were published in reverse order; the newer stays.
            view = View(
                old.memtables if memtables is None else memtables, old.manifest if manifest is None else manifest
            )
            self._held.add(view)
            self.current = view

    def publish_flush(self, flushed: Memtable, manifest: Manifest) -> None:
        """Replace a flushed memtable by the manifest with its tables, in one step."""
        with self.lock:
            old = self.current
            newest = manifest if manifest.number > old.manifest.number else old.manifest
            view = View(tuple(table for table in old.memtables if table is not flushed), newest)
            self._held.add(view)
            self.current = view

    def push(self, active: Memtable) -> None:
        """Add a new active memtable before the others."""
        with self.lock:
            view = View((active, *self.current.memtables), self.current.manifest)
            self._held.add(view)
            self.current = view

    def held_tables(self) -> set[int]:
        """Return the numbers of all tables that a reader of this process may still open."""
        with self.lock:
            views = list(self._held)
        numbers: set[int] = set()
        for manifest in {view.manifest.number: view.manifest for view in views}.values():
            numbers |= manifest.table_ids()
        return numbers


class OpenSnapshots:
    """A multiset of the sequence numbers of open snapshots. Flush and compaction keep the versions that snapshots see.
    Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._lock = runtime.lock()
        self._counts: dict[int, int] = {}

    def open(self, seq: int) -> None:
        with self._lock:
            self._counts[seq] = self._counts.get(seq, 0) + 1

    def release(self, seq: int) -> None:
        with self._lock:
            self._counts[seq] -= 1
            if not self._counts[seq]:
                del self._counts[seq]

    def held(self) -> tuple[int, ...]:
        """Return the sequence numbers, ascending."""
        with self._lock:
            return tuple(sorted(self._counts))
