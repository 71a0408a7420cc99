"""Test your own code against a bucket that misbehaves, or against a whole simulated deployment.

Stores that wrap another one (`stores`), a bucket, threads and clocks under a seed (`simulation`), and the fixtures of
pytest that hand them out (`plugin`).
"""

from lsm.testing.bucket import ALL_FAULTS, Faults, SimulatedBucket
from lsm.testing.scheduler import Process, ProcessKilled, Scheduler, SimulationStuck
from lsm.testing.simulated import SimulatedRuntime
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
