"""Tools to test your own code against a misbehaving bucket, or in a whole simulated deployment.

`stores`: stores that wrap another one and inject faults, crash, count or slow down. `simulation`: bucket, threads and clocks
under a seed. `plugin`: pytest fixtures for both.
"""

from lsm.testing.scheduler import Process, ProcessKilled, Scheduler, SimulationStuck
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import ALL_FAULTS, Faults, SimulatedBucket
from lsm.testing.simulation import Simulation, Started
from lsm.testing.stores import (
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
    "ALL_FAULTS",
    "CountingStore",
    "CrashAt",
    "CrashingStore",
    "Fault",
    "Faults",
    "FaultyStore",
    "Process",
    "ProcessKilled",
    "Scheduler",
    "SimulatedBucket",
    "SimulatedCrash",
    "SimulatedRuntime",
    "Simulation",
    "SimulationStuck",
    "SlowStore",
    "Started",
    "WrappedStore",
]
