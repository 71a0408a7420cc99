"""The log contract every adapter meets, and what the key-value peers share to meet it.

A peer that is a key-value store keeps a record under `key + sequence` (8 bytes, big-endian): the plain way to
lay a log over an ordered map, and what its users write.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Batch = Sequence[tuple[bytes, bytes]]
Entries = Sequence[Any]  # each unpacks to (key, sequence, value)

SEQUENCE = struct.Struct(">Q")
SEQUENCE_BYTES = SEQUENCE.size


class Store(Protocol):
    """A log of keyed records with one global sequence from 0. `append` and `flush` may be called by any thread."""

    def append(self, batch: Batch) -> object:
        """Append atomically; visible to `scan` on return, durable after the next `flush`."""

    def flush(self) -> object:
        """Return when every earlier append is durable (as durable as the engine's own call makes it)."""

    def scan(self, key: bytes, start: int = 0, limit: int | None = None) -> Entries:
        """Entries of one key with sequence >= `start`, in order, at most `limit`, materialised."""

    def settle(self) -> None:
        """Return when no background work is left; a no-op where the engine cannot tell, `close` then counts."""

    def close(self) -> None:
        """Flush, stop every thread and process, release the directory."""


class SequenceFile:
    """The next sequence, kept beside a peer's files from a clean close to the next open.

    A real user would store it with every batch; sparing the peers that record is in their favour.
    """

    def __init__(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        self._file = os.path.join(path, "next-sequence")

    def load(self) -> int:
        try:
            with open(self._file, encoding="ascii") as file:
                return int(file.read())
        except FileNotFoundError:
            return 0

    def save(self, sequence: int) -> None:
        with open(self._file, "w", encoding="ascii") as file:
            file.write(str(sequence))


class GroupSync:
    """One sync for all threads that wait: who finds their records already covered returns at once."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._lock = threading.Lock()
        self._synced = 0

    def cover(self, written: Callable[[], int]) -> None:
        """Return when everything written before the call is synced."""
        target = written()
        with self._lock:
            if self._synced >= target:
                return
            reached = written()
            self._sync()
            self._synced = reached
