"""The test stores of `lsm.testing`, under the names the tests of this repository use."""

from __future__ import annotations

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
    "SimulatedCrash",
    "SlowStore",
    "WrappedStore",
]
