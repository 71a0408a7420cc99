"""Which sequence numbers open snapshots still read at: flush and compaction keep the versions they see."""

from __future__ import annotations

from lsm.runtime import Runtime


class OpenSnapshots:
    """A multiset of sequence numbers. Thread-safe."""

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
        """The numbers, ascending."""
        with self._lock:
            return tuple(sorted(self._counts))
