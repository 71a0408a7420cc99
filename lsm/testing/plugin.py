"""Fixtures for pytest: stores that fail, count or are slow, and simulations.

Load them with `pytest_plugins = ["lsm.testing.plugin"]` in the top `conftest.py`, or with `pytest -p lsm.testing.plugin`.

`misbehaving_store(*faults, seed=None)`   a FaultyStore in memory: these faults first, then (with a seed) random ones
`counting_store`                          a CountingStore in memory
`slow_store(latency)`                     a SlowStore in memory
`simulation`                              a Simulation; its seed is `@pytest.mark.simulation_seed(7)`, or 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lsm.object_store.memory import MemoryStore
from lsm.testing.simulation import Simulation
from lsm.testing.stores import CountingStore, Fault, FaultyStore, SlowStore


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "simulation_seed(seed): the seed of the fixture `simulation`")


@pytest.fixture
def misbehaving_store() -> Callable[..., FaultyStore]:
    def make(*faults: Fault, seed: int | None = None, probability: float = 0.1) -> FaultyStore:
        return FaultyStore(MemoryStore(), faults, seed=seed, probability=probability)

    return make


@pytest.fixture
def counting_store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def slow_store() -> Callable[[float], SlowStore]:
    return lambda latency: SlowStore(MemoryStore(), latency)


@pytest.fixture
def simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    mark = request.node.get_closest_marker("simulation_seed")
    with Simulation(mark.args[0] if mark is not None else 0) as made:
        yield made
