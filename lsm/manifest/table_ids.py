"""Assigns the numbers of new tables. They are unique without coordination, and the collector spares unpublished ones."""

from __future__ import annotations

from lsm.manifest.model import Manifest
from lsm.object_store.names import COUNTER_BITS
from lsm.runtime import Runtime


class TableIds:
    """Assigns numbers `epoch << 40 | counter`. An epoch belongs to one process for ever, so no two tables share a number.
    Newer epochs have greater numbers. Thread-safe."""

    def __init__(self, runtime: Runtime, epoch: int) -> None:
        self._lock = runtime.lock()
        self._epoch = epoch
        self._next = epoch << COUNTER_BITS | 1
        self._taken: set[int] = set()

    def take(self, count: int) -> int:
        """Reserve `count` consecutive numbers and return the first. The collector spares them until `release`."""
        with self._lock:
            first = self._next
            self._next += count
            self._taken.add(first)
            return first

    def settle(self, manifest: Manifest, *, committing: int | None = None) -> Manifest:
        """Return `manifest` with this process's settled number, for a commit. Collectors in other processes use it."""
        return manifest.with_settled(self._epoch, self.horizon(committing=committing))

    def release(self, first: int) -> None:
        """End the reservation that starts at `first`. Requires: its tables are in the manifest, or never will be."""
        with self._lock:
            self._taken.discard(first)

    def horizon(self, *, committing: int | None = None) -> int:
        """Return the number up to which no table is reserved any more. The reservation that starts at `committing` counts as
        ended: its tables are in the manifest about to be committed."""
        with self._lock:
            return min(self._taken - {committing}, default=self._next) - 1
