"""What the simulated bucket does to requests: refusals, gateways on the way, faults in pairs, errors that a caller handles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from lsm.object_store.contract import ObjectExists, ObjectMissing, StoreFault
from lsm.object_store.faults import RequestRefused
from lsm.testing.scheduler import Scheduler
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import FALSE_IN_A_ROW_MAX, Faults, SimulatedBucket
from lsm.testing.simulation import Simulation
from lsm.testing.stores import GATEWAY_PAGE, Fault, FaultyStore


def with_fault(fault: Fault, act: Callable[[ObjectStore], Any], *, is_near: bool = False) -> Any:
    """What `act` brings on a bucket that holds "a", where every request is hit."""

    def life() -> None:
        try:
            found.append(act(bucket.client(process, is_near=is_near)))
        except Exception as error:
            found.append(error)

    scheduler = Scheduler(1)
    bucket = SimulatedBucket(scheduler, Faults(probability=1.0, kinds=(fault,)))
    bucket.put("a", b"1")
    process = scheduler.process("p")
    found: list[Any] = []
    scheduler.spawn("life", life, process).join()
    scheduler.shut_down()
    return found[0]


CALLS: dict[str, Callable[[ObjectStore], Any]] = {
    "put": lambda store: store.put_if_absent("b", [b"2"], timeout=1),
    "get": lambda store: store.get("a", timeout=1),
    "get_range": lambda store: store.get_range("a", 0, 1, timeout=1),
    "head": lambda store: store.head("a", timeout=1),
    "list": lambda store: store.list("", timeout=1),
    "delete": lambda store: store.delete("a", timeout=1),
}


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.MOVED])
@pytest.mark.parametrize("call", CALLS)
def test_a_request_that_is_refused_or_redirected_is_not_repeated(fault: Fault, call: str) -> None:
    for found in (with_fault(fault, CALLS[call]), of_faulty_store(fault, CALLS[call])):
        assert isinstance(found, RequestRefused), found
        assert not found.transient


@pytest.mark.parametrize("call", CALLS)
def test_a_false_404_is_believed_of_reads_alone(call: str) -> None:
    found = with_fault(Fault.MISSING, CALLS[call])

    if call in ("get", "get_range", "head"):
        assert isinstance(found, ObjectMissing)
        assert isinstance(of_faulty_store(Fault.MISSING, CALLS[call]), ObjectMissing)
    elif call == "delete":
        assert found is None, "adapters take it for deleted; the next collection lists it again"
    else:
        assert isinstance(found, StoreFault)
        assert found.transient


@pytest.mark.parametrize("call", CALLS)
def test_a_gateways_page_passes_for_an_object_and_for_nothing_else(call: str) -> None:
    for found in (with_fault(Fault.GARBAGE, CALLS[call]), of_faulty_store(Fault.GARBAGE, CALLS[call])):
        if call in ("get", "get_range"):
            assert found == GATEWAY_PAGE
        else:
            assert isinstance(found, StoreFault)
            assert found.transient


def of_faulty_store(fault: Fault, act: Callable[[ObjectStore], Any]) -> Any:
    inner = MemoryStore()
    inner.put_if_absent("a", [b"1"], timeout=1)
    try:
        return act(FaultyStore(inner, [fault]))
    except Exception as error:
        return error


def test_a_store_that_is_near_has_nothing_on_the_way_that_could_answer_for_it() -> None:
    assert isinstance(with_fault(Fault.MISSING, CALLS["get"], is_near=True), StoreFault)


def test_a_true_answer_follows_two_false_ones() -> None:
    def answers(store: ObjectStore) -> list[bool]:
        found, faults = [], store.bucket.faults  # type: ignore[attr-defined]
        for _ in range(3 * (FALSE_IN_A_ROW_MAX + 1)):
            try:
                store.get("a", timeout=1)
            except ObjectMissing:
                found.append(False)
            except StoreFault:
                faults.probability = 0.0
                found.append(store.get("a", timeout=1) == b"1")
                faults.probability = 1.0
        return found

    assert with_fault(Fault.MISSING, answers) == 3 * [*(FALSE_IN_A_ROW_MAX * [False]), True]


def test_faults_come_in_pairs() -> None:
    with Simulation(1, Faults(probability=0.05, pair_probability=1.0, kinds=(Fault.BUSY,), latency=0.0)) as simulation:
        hit = simulation.run(lambda runtime, store: [is_hit(store) for _ in range(2000)])

    runs = "".join("x" if each else "." for each in hit).replace(".", " ").split()
    assert sum(map(len, runs)) == 2 * simulation.bucket.injected["pair"] + (len(runs[-1]) % 2)
    assert simulation.bucket.injected["pair"] > 50


def is_hit(store: ObjectStore) -> bool:
    try:
        store.list("", timeout=1)
    except StoreFault:
        return True
    return False


def test_an_error_the_caller_is_handling_says_nothing_of_a_request() -> None:
    def life(runtime: SimulatedRuntime, store: ObjectStore) -> list[StoreFault | ObjectMissing | ObjectExists]:
        found: list[Any] = []
        for handled in (FileNotFoundError(2, "x"), FileExistsError(17, "x"), PermissionError(13, "x")):
            try:
                raise handled
            except OSError:
                for call in CALLS.values():
                    try:
                        call(store)
                    except (StoreFault, ObjectMissing, ObjectExists) as error:
                        found.append(error)
        return found

    for fault in (Fault.NOT_SENT, Fault.BUSY, Fault.HANG):
        with Simulation(1, Faults(probability=1.0, kinds=(fault,))) as simulation:
            found = simulation.run(life)
        assert [(type(error), error.transient) for error in found] == 18 * [(StoreFault, True)]  # type: ignore[union-attr]


def test_the_engine_takes_refusals_for_errors_that_are_told_and_goes_on_when_they_are_over() -> None:
    def life(runtime: SimulatedRuntime, store: ObjectStore) -> None:
        faults = simulation.bucket.faults
        db = lsm.Db.open("memory://", lsm.Settings(op_timeout=5.0), object_store=store, runtime=runtime)
        faults.probability, faults.kinds = 1.0, (Fault.REFUSED, Fault.MOVED)
        db.put(b"k", b"v")
        with pytest.raises(lsm.UnavailableError, match=r"403|301"):
            db.flush()
        faults.probability = 0.0
        db.flush()
        assert db.durable_seq == db.last_seq
        db.close()

    with Simulation(3) as simulation:
        simulation.run(life)
