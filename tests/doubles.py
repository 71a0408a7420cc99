"""The test stores of `lsm.testing`, under the names the tests of this repository use, and one that can be held up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from lsm.object_store import names
from lsm.object_store.contract import ObjectStore
from lsm.testing.stores import (
    CALLS,
    CountingStore,
    CrashAt,
    CrashingStore,
    Fault,
    FaultyStore,
    SimulatedCrash,
    SlowStore,
    WrappedStore,
)

__all__ = [
    "CALLS",
    "CountingStore",
    "CrashAt",
    "CrashingStore",
    "Fault",
    "FaultyStore",
    "GatedStore",
    "SimulatedCrash",
    "SlowStore",
    "WrappedStore",
    "number_of",
]

T = TypeVar("T")


def number_of(name: str) -> int | None:
    """The number in the name of an object of a database, whatever its kind."""
    kinds = (names.manifest_number, names.wal_number, names.table_number, names.marker_number, names.pinned_number)
    return next((number for kind in kinds if (number := kind(name)) is not None), None)


class GatedStore(WrappedStore):
    """Remembers the thread of every request, and holds requests up while the gate is shut."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.threads: set[int] = set()
        self.held = threading.Semaphore(0)
        """Released once for every request that comes to a shut gate."""
        self._gate = threading.Event()
        self._gate.set()

    def shut(self) -> None:
        self._gate.clear()

    def open(self) -> None:
        self._gate.set()

    def _around(self, call: str, name: str, request: Callable[[], T]) -> T:
        self.threads.add(threading.get_ident())
        if not self._gate.is_set():
            self.held.release()
            assert self._gate.wait(60), f"nobody opened the gate for {call} {name}"
        return request()
