"""The numbers of new tables: unique without asking anybody, and known to the collector while they are on their way."""

from __future__ import annotations

from lsm.manifest.model import Manifest
from lsm.object_store.names import COUNTER_BITS
from lsm.runtime import Runtime


class TableNumbers:
    """Numbers `epoch << 40 | counter`. An epoch belongs to one process for ever, so no two tables share a number, and
    newer epochs have greater ones. Thread-safe."""

    def __init__(self, runtime: Runtime, epoch: int) -> None:
        self._lock = runtime.lock()
        self._epoch = epoch
        self._next = epoch << COUNTER_BITS | 1
        self._taken: set[int] = set()

    def take(self, count: int) -> int:
        """The first of `count` consecutive numbers, all held back from the collector until `release`."""
        with self._lock:
            first = self._next
            self._next += count
            self._taken.add(first)
            return first

    def settle(self, manifest: Manifest, *, committing: int | None = None) -> Manifest:
        """The manifest, about to be committed, saying how far this process is settled: a collector elsewhere goes by it."""
        return manifest.with_settled(self._epoch, self.horizon(committing=committing))

    def release(self, first: int) -> None:
        """Tables with these numbers are in the manifest by now, or never will be."""
        with self._lock:
            self._taken.discard(first)

    def horizon(self, *, committing: int | None = None) -> int:
        """No table at or below this number is on its way any more, once the tables that begin at `committing` are in the
        manifest."""
        with self._lock:
            return min(self._taken - {committing}, default=self._next) - 1
