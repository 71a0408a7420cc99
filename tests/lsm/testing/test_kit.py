"""What the kit offers to tests of other projects: a bucket that misbehaves, simulated deployments, fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import lsm
from lsm.object_store import ObjectStore
from lsm.object_store.contract import ObjectExists, StoreFault
from lsm.testing import (
    CountingStore,
    Fault,
    Faults,
    FaultyStore,
    ProcessKilled,
    SimulatedRuntime,
    Simulation,
    SlowStore,
)
from opendata_log import LogDbBuilder, LogDbReader
from opendata_log.model.config import ReaderConfig
from tests.lsm.support import tiny


def put(store: ObjectStore, body: bytes = b"x") -> str:
    try:
        store.put_if_absent("a", [body], timeout=1.0)
    except (StoreFault, ObjectExists) as error:
        return type(error).__name__
    return "ok"


@pytest.mark.parametrize(
    ("fault", "answer", "is_there", "is_there_later"),
    [
        (Fault.NOT_SENT, "StoreFault", False, False),
        (Fault.BUSY, "StoreFault", False, False),
        (Fault.CONFLICT, "StoreFault", False, False),
        (Fault.HANG, "StoreFault", False, False),
        (Fault.REPLY_LOST, "StoreFault", True, True),
        (Fault.DELIVERED_TWICE, "ObjectExists", True, True),
        (Fault.LATE, "StoreFault", False, True),
        (Fault.LATE_COPY, "ok", True, True),
    ],
)
def test_each_fault_does_what_it_says(fault: Fault, answer: str, is_there: bool, is_there_later: bool) -> None:
    with Simulation(1, Faults(probability=1.0, kinds=(fault,))) as simulation:
        assert simulation.run(lambda runtime, store: put(store)) == answer
        assert ("a" in simulation.bucket.objects) == is_there
        simulation.sleep(60.0)
        assert ("a" in simulation.bucket.objects) == is_there_later
        assert simulation.bucket.injected[fault.value] == 1


def test_a_late_copy_never_replaces_what_is_there_and_brings_back_what_was_deleted() -> None:
    def write_and_delete(runtime: SimulatedRuntime, store: ObjectStore) -> None:
        put(store)
        simulation.bucket.faults.probability = 0.0
        store.delete("a", timeout=1.0)

    with Simulation(1, Faults(probability=1.0, kinds=(Fault.LATE_COPY,))) as simulation:
        simulation.run(write_and_delete)
        simulation.sleep(60.0)
        assert simulation.bucket.objects == {"a": b"x"}
        assert simulation.bucket.late_writes == 0


def test_a_bucket_that_ignores_conditions_is_refused() -> None:
    def life(runtime: SimulatedRuntime, store: ObjectStore) -> None:
        lsm.Db.open("memory://", tiny(), object_store=store, runtime=runtime)

    with (
        Simulation(2, Faults(ignores_conditions=True)) as simulation,
        pytest.raises(lsm.InvalidError, match="condition"),
    ):
        simulation.run(life)


@pytest.mark.simulation_seed(11)
def test_a_log_outlives_the_process_that_wrote_it(simulation: Simulation) -> None:
    accepted: list[bytes] = []

    def write(runtime: SimulatedRuntime, store: ObjectStore) -> None:
        log = LogDbBuilder(storage="memory://", engine=tiny()).with_object_store(store).with_runtime(runtime).build()
        for at in range(10_000):
            log.try_append([(b"k", b"%d" % at)])
            log.flush()
            accepted.append(b"%d" % at)

    def read(runtime: SimulatedRuntime, store: ObjectStore) -> list[bytes]:
        config = ReaderConfig(storage="memory://", engine=tiny())
        with LogDbReader(config, object_store=store, runtime=runtime) as log:
            return [entry.value for entry in log.scan(b"k")]

    simulation.bucket.faults.latency = 0.05
    writer = simulation.start(write)
    simulation.sleep(10.0)
    writer.kill()

    assert writer.is_dead
    with pytest.raises(ProcessKilled):
        writer.join()
    found = simulation.run(read)
    assert 10 < len(accepted) < 1_000
    assert found[: len(accepted)] == accepted
    assert len(found) <= len(accepted) + 1


def test_a_wait_for_tables_does_not_turn_round(simulation: Simulation) -> None:
    # Without a log, only a flush makes a batch durable: those who wait for it have nothing to do but sleep.
    def life(runtime: SimulatedRuntime, store: ObjectStore) -> None:
        with lsm.Db.open("memory://", tiny(wal_enabled=False), object_store=store, runtime=runtime) as db:
            simulation.bucket.faults.latency = 1.0
            db.put(b"k", b"v", await_durable=True)

    simulation.run(life)
    assert simulation.scheduler.steps < 5_000


def test_the_fixtures_hand_out_stores(
    misbehaving_store: Callable[..., FaultyStore],
    counting_store: CountingStore,
    slow_store: Callable[[float], SlowStore],
) -> None:
    store = misbehaving_store(Fault.REPLY_LOST, Fault.BUSY)
    with lsm.Db.open("memory://", tiny(), object_store=store) as db:
        db.put(b"k", b"v", await_durable=True)
    assert store.injected[Fault.REPLY_LOST] == store.injected[Fault.BUSY] == 1

    with lsm.Db.open("memory://", tiny(), object_store=counting_store) as db:
        db.put(b"k", b"v", await_durable=True)
    assert counting_store.counts["put_if_absent"] > 2

    with lsm.Db.open("memory://", tiny(), object_store=slow_store(0.001)) as db:
        assert db.get(b"k") is None


def test_a_store_without_virtual_time_refuses_faults_that_need_it(
    misbehaving_store: Callable[..., FaultyStore],
) -> None:
    with pytest.raises(ValueError, match="virtual time"):
        misbehaving_store(Fault.LATE)
