"""The doubles themselves: a fault that does something else than it says would make every test above them lie."""

from __future__ import annotations

import pytest

from lsm.object_store import MemoryStore, ObjectExists, StoreFault
from tests.doubles import CountingStore, CrashAt, CrashingStore, Fault, FaultyStore, SimulatedCrash, SlowStore


def scenario(store: CrashingStore) -> None:
    for turn in range(3):
        store.put_if_absent(f"wal/{turn}", [b"x"], timeout=1.0)


@pytest.mark.parametrize(
    ("how", "applied"), [(CrashAt.BEFORE, 1), (CrashAt.REPLY_LOST, 2), (CrashAt.AFTER, 2)], ids=lambda value: str(value)
)
def test_a_crash_at_the_second_call(how: CrashAt, applied: int) -> None:
    memory = MemoryStore()
    store = CrashingStore(memory, at=2, how=how)

    with pytest.raises(SimulatedCrash):
        scenario(store)

    assert len(memory.list("", timeout=1.0)) == applied
    assert store.calls == 2
    for _ in range(2):
        with pytest.raises(SimulatedCrash):
            store.get("wal/0", timeout=1.0)


def test_without_a_number_it_counts_the_calls() -> None:
    store = CrashingStore(MemoryStore())

    scenario(store)

    assert store.calls == 3
    assert store.log[0] == ("put_if_absent", "wal/0")
    store.kill()
    with pytest.raises(SimulatedCrash):
        store.list("", timeout=1.0)


def test_faults_of_a_script_do_what_they_say() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory, [Fault.NOT_SENT, Fault.REPLY_LOST, Fault.DELIVERED_TWICE, Fault.REFUSED])

    with pytest.raises(StoreFault, match="not sent"):
        store.put_if_absent("1", [b"x"], timeout=1.0)
    assert memory.list("", timeout=1.0) == []
    with pytest.raises(StoreFault, match="reply lost"):
        store.put_if_absent("2", [b"x"], timeout=1.0)
    with pytest.raises(ObjectExists):
        store.put_if_absent("3", [b"x"], timeout=1.0)
    with pytest.raises(StoreFault) as caught:
        store.put_if_absent("4", [b"x"], timeout=1.0)
    assert not caught.value.transient
    store.put_if_absent("5", [b"x"], timeout=1.0)

    assert [info.name for info in memory.list("", timeout=1.0)] == ["2", "3", "5"]


def test_seeded_faults_repeat() -> None:
    def faults(seed: int) -> list[bool]:
        store = FaultyStore(MemoryStore(), seed=seed)
        outcome = []
        for _ in range(50):
            try:
                store.list("", timeout=1.0)
                outcome.append(True)
            except StoreFault:
                outcome.append(False)
        return outcome

    assert faults(1) == faults(1)
    assert faults(1) != faults(2)
    assert 0 < sum(faults(1)) < 50


def test_counting_and_slow_stores_pass_calls_on() -> None:
    counting = CountingStore(MemoryStore())
    slow = SlowStore(counting, {"get": 0.001})

    slow.put_if_absent("1", [b"x"], timeout=1.0)
    assert slow.get("1", timeout=1.0) == b"x"

    assert counting.counts == {"put_if_absent": 1, "get": 1}
    assert counting.calls == 2
    counting.reset()
    assert counting.calls == 0
