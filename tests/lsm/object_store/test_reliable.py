"""ReliableStore: what lost replies, foreign bytes and deadlines turn into, and what each costs in requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lsm.errors import CorruptionError, InvalidError, TableMissingError, UnavailableError
from lsm.object_store import (
    MemoryStore,
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    ReliableStore,
    RequestRefused,
    StoreFault,
    Traffic,
    probe_conditional_create,
)
from lsm.runtime import Runtime
from lsm.testing.simulation import Simulation
from lsm.testing.stores import GATEWAY_PAGE
from tests.doubles import Fault, FaultyStore, WrappedStore


class FastRuntime(Runtime):
    """Sleeping moves the clock and takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def jitter(self) -> float:
        return 0.5


@pytest.fixture
def runtime() -> Iterator[FastRuntime]:
    made = FastRuntime()
    yield made
    made.close()


def reliable(store: ObjectStore, runtime: Runtime, *, op_timeout: float = 60.0) -> ReliableStore:
    return ReliableStore(store, runtime, op_timeout=op_timeout, request_timeout=15.0)


@pytest.mark.parametrize(
    ("script", "puts"),
    [
        ([], 1),
        ([Fault.NOT_SENT], 2),
        ([Fault.REPLY_LOST], 2),
        ([Fault.DELIVERED_TWICE], 1),
        ([Fault.NOT_SENT, Fault.REPLY_LOST, Fault.NOT_SENT], 4),
        ([Fault.REPLY_LOST, Fault.REPLY_LOST], 2),
    ],
)
def test_a_create_whose_reply_was_lost_is_a_success(runtime: FastRuntime, script: list[Fault], puts: int) -> None:
    memory = MemoryStore()
    store = reliable(FaultyStore(memory, script, only=["put_if_absent"]), runtime)

    store.put_new("wal/1", [b"our", b"s"])

    assert memory.get("wal/1", timeout=1.0) == b"ours"
    assert store.requests()["put", ""] == puts


@pytest.mark.parametrize("script", [[], [Fault.NOT_SENT], [Fault.DELIVERED_TWICE], [Fault.REPLY_LOST]])
def test_foreign_bytes_are_a_lost_race(runtime: FastRuntime, script: list[Fault]) -> None:
    memory = MemoryStore()
    memory.put_if_absent("wal/1", [b"theirs"], timeout=1.0)
    store = reliable(FaultyStore(memory, script), runtime)

    with pytest.raises(ObjectExists):
        store.put_new("wal/1", [b"ours"])

    assert memory.get("wal/1", timeout=1.0) == b"theirs"


def test_a_failed_read_back_is_repeated_before_anything_is_believed(runtime: FastRuntime) -> None:
    memory = MemoryStore()
    faulty = FaultyStore(memory, [Fault.DELIVERED_TWICE, Fault.NOT_SENT, Fault.NONE, Fault.REPLY_LOST])

    reliable(faulty, runtime).put_new("wal/1", [b"ours"])

    assert memory.get("wal/1", timeout=1.0) == b"ours"


def test_a_create_that_never_gets_an_answer_ends_unknown_at_the_deadline(runtime: FastRuntime) -> None:
    faulty = FaultyStore(MemoryStore(), seed=1, probability=1.0, faults=[Fault.NOT_SENT])
    store = reliable(faulty, runtime, op_timeout=10.0)

    with pytest.raises(UnavailableError, match=r"write wal/1 .* within 10 s") as caught:
        store.put_new("wal/1", [b"ours"])

    assert caught.value.outcome_unknown
    assert 4.0 < runtime.now <= 10.0


def test_an_object_reported_as_taken_and_unreadable_ends_unknown(runtime: FastRuntime) -> None:
    memory = MemoryStore()
    memory.put_if_absent("wal/1", [b"theirs"], timeout=1.0)
    faulty = FaultyStore(memory, seed=1, probability=1.0, faults=[Fault.NOT_SENT], only=["get"])

    with pytest.raises(UnavailableError) as caught:
        reliable(faulty, runtime).put_new("wal/1", [b"ours"])

    assert caught.value.outcome_unknown


class RefusingStore(WrappedStore):
    """Answers every request with one fault."""

    def __init__(self, fault: StoreFault) -> None:
        super().__init__(MemoryStore())
        self._fault = fault

    def _around(self, call: str, name: str, request: object) -> None:  # type: ignore[override]
        raise self._fault


def test_a_permanent_fault_is_reported_at_once(runtime: FastRuntime) -> None:
    store = reliable(RefusingStore(StoreFault("the disk is broken", transient=False)), runtime)

    with pytest.raises(UnavailableError, match="the disk is broken") as caught:
        store.put_new("wal/1", [b"x"])
    for read in (lambda: store.get("wal/1"), lambda: store.head("wal/1"), lambda: store.list("wal/")):
        with pytest.raises(UnavailableError, match="the disk is broken"):
            read()
    with pytest.raises(UnavailableError, match="the disk is broken"):
        store.delete("wal/1")

    assert caught.value.outcome_unknown
    assert runtime.pauses == []
    assert set(store.requests().values()) == {1}


@pytest.mark.parametrize("transient", [False, True])
def test_a_refused_create_is_known_not_to_have_happened(runtime: FastRuntime, transient: bool) -> None:
    store = reliable(RefusingStore(RequestRefused("no space", transient=transient)), runtime)

    with pytest.raises(UnavailableError, match="no space") as caught:
        store.put_new("wal/1", [b"x"])

    assert not caught.value.outcome_unknown


def test_a_refusal_does_not_undo_the_doubt_of_an_earlier_attempt(runtime: FastRuntime) -> None:
    memory = MemoryStore()

    class FlakyThenRefusing(WrappedStore):
        attempts = 0

        def put_if_absent(self, name: str, parts: object, *, timeout: float) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise StoreFault("timed out", transient=True)
            raise RequestRefused("the token expired meanwhile", transient=False)

    with pytest.raises(UnavailableError, match="expired") as caught:
        reliable(FlakyThenRefusing(memory), runtime).put_new("wal/1", [b"x"])

    assert caught.value.outcome_unknown


def test_reads_are_repeated_and_missing_objects_pass_through(runtime: FastRuntime) -> None:
    memory = MemoryStore()
    memory.put_if_absent("sst/1", [b"0123456789"], timeout=1.0)
    two = [Fault.NOT_SENT, Fault.REPLY_LOST]
    store = reliable(FaultyStore(memory, two * 5), runtime)

    assert store.get("sst/1") == b"0123456789"
    assert store.get_range("sst/1", 2, 4) == b"23"
    assert store.head("sst/1").size == 10
    assert [info.name for info in store.list("sst/")] == ["sst/1"]
    store.delete("sst/1")
    for read in (store.get, store.head):
        with pytest.raises(ObjectMissing):
            read("sst/1")


def test_ranges_come_back_in_the_order_asked_for(runtime: FastRuntime) -> None:
    memory = MemoryStore()
    memory.put_if_absent("sst/1", [bytes(range(200))], timeout=1.0)
    store = reliable(FaultyStore(memory, seed=3), runtime)
    spans = [(i * 5 % 190, i * 5 % 190 + 7) for i in range(40)]

    assert store.get_ranges("sst/1", spans) == [bytes(range(200))[start:end] for start, end in spans]
    assert store.get_ranges("sst/1", []) == []


def test_pauses_grow_and_stay_bounded(runtime: FastRuntime) -> None:
    faulty = FaultyStore(MemoryStore(), [Fault.NOT_SENT] * 9)

    reliable(faulty, runtime).list("")

    assert runtime.pauses == sorted(runtime.pauses)
    assert runtime.pauses[0] < 0.05
    assert runtime.pauses[-1] == 5.0 * 0.75


def test_a_request_gets_what_is_left_of_the_operation(runtime: FastRuntime) -> None:
    limits: list[float] = []

    class Recording(WrappedStore):
        def get(self, name: str, *, timeout: float) -> bytes:
            limits.append(timeout)
            runtime.now += timeout
            raise StoreFault("timed out", transient=True)

    with pytest.raises(UnavailableError):
        reliable(Recording(MemoryStore()), runtime, op_timeout=20.0).get("x")

    assert limits[0] == 15.0
    assert 4.0 < limits[1] < 5.0
    assert len(limits) == 2


def test_requests_and_bytes_are_counted_by_kind_and_cause(runtime: FastRuntime) -> None:
    store = reliable(FaultyStore(MemoryStore(), [Fault.REPLY_LOST]), runtime)
    wal, sst = store.with_cause("wal"), store.with_cause("sst")

    wal.put_new("wal/1", [b"12345"])
    sst.get("wal/1")
    sst.get_range("wal/1", 0, 2)
    sst.get_ranges("wal/1", [(0, 1), (3, 9)])

    assert store.traffic() == {
        ("put", "wal"): Traffic(requests=2, retries=1, bytes_out=10),
        ("get", "wal"): Traffic(requests=1, retries=1, bytes_in=5),
        ("get", "sst"): Traffic(requests=1, bytes_in=5),
        ("get_range", "sst"): Traffic(requests=3, bytes_in=5),
    }
    assert wal.requests() == store.requests()


def test_counts_are_exact_under_threads(runtime: FastRuntime) -> None:
    store = reliable(MemoryStore(), runtime)

    def work(who: int) -> None:
        view = store.with_cause(f"cause {who % 2}")
        for turn in range(200):
            view.put_new(f"{who}/{turn}", [b"x"])

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.requests() == {("put", "cause 0"): 400, ("put", "cause 1"): 400}


@pytest.mark.parametrize("seed", range(20))
def test_racing_writers_under_faults_share_the_names_out(seed: int) -> None:
    memory = MemoryStore()
    runtime = FastRuntime()
    won: dict[str, int] = {}
    lost = 0
    for turn in range(40):
        for who in (1, 2):
            store = reliable(FaultyStore(memory, seed=seed * 1000 + turn * 2 + who, probability=0.5), runtime)
            try:
                store.put_new(f"log/{turn}", [bytes([who]) * 8])
            except ObjectExists:
                lost += 1
                continue
            assert f"log/{turn}" not in won
            won[f"log/{turn}"] = who

    assert len(won) == lost == 40
    for name, who in won.items():
        assert memory.get(name, timeout=1.0) == bytes([who]) * 8


class OverwritingStore(WrappedStore):
    """A server that ignores the condition, like nanio, s3rver or rclone serve s3."""

    def put_if_absent(self, name: str, parts: object, *, timeout: float) -> None:
        self.store.delete(name, timeout=timeout)
        self.store.put_if_absent(name, parts, timeout=timeout)  # type: ignore[arg-type]


class LyingStore(WrappedStore):
    """Reports the conflict after having overwritten."""

    def put_if_absent(self, name: str, parts: object, *, timeout: float) -> None:
        taken = bool(self.store.list(name, timeout=timeout))
        self.store.delete(name, timeout=timeout)
        self.store.put_if_absent(name, [b"something else"] if taken else parts, timeout=timeout)  # type: ignore
        if taken:
            raise ObjectExists(name)


@pytest.mark.parametrize(
    ("kind", "reason"), [(OverwritingStore, "ignores conditional"), (LyingStore, "lost the bytes")]
)
def test_the_probe_finds_stores_that_do_not_keep_the_first(
    runtime: FastRuntime, kind: type[WrappedStore], reason: str
) -> None:
    memory = MemoryStore()

    with pytest.raises(InvalidError, match=reason):
        probe_conditional_create(reliable(kind(memory), runtime))


def test_the_probe_survives_faults(runtime: FastRuntime) -> None:
    for seed in range(30):
        store = reliable(FaultyStore(MemoryStore(), seed=seed, probability=0.5), runtime)
        for _ in range(3):
            probe_conditional_create(store)


@pytest.mark.parametrize("lies", [1, 2, 3])
def test_the_probe_accuses_nobody_of_answers_that_a_network_made_up(runtime: FastRuntime, lies: int) -> None:
    class Network(WrappedStore):
        left = 0

        def put_if_absent(self, name: str, parts: object, *, timeout: float) -> None:
            self.left -= 1
            if self.left < 0:
                self.store.put_if_absent(name, parts, timeout=timeout)  # type: ignore[arg-type]

    network = Network(MemoryStore())
    probe_conditional_create(reliable(network, runtime))
    network.left = lies

    probe_conditional_create(reliable(network, runtime))


class Doubtful(WrappedStore):
    """Answers the first reads of an object wrongly, as a gateway in between does."""

    is_near = False

    def __init__(self, store: ObjectStore, lies: list[bytes | None]) -> None:
        super().__init__(store)
        self.is_near = False
        self.lies = lies

    def get(self, name: str, *, timeout: float) -> bytes:
        if not self.lies:
            return super().get(name, timeout=timeout)
        lie = self.lies.pop(0)
        if lie is None:
            raise ObjectMissing(f"read {name}: no such object")
        return lie


def decoded(data: bytes) -> bytes:
    if data != b"sound":
        raise CorruptionError("does not decode", object_name="x")
    return data


@pytest.mark.parametrize("lies", [[], [None], [b"page"], [None, b"page"], [b"page", b"page"], [None, None]])
def test_an_object_that_must_be_there_is_believed_missing_or_damaged_at_the_third_look(
    runtime: FastRuntime, lies: list[bytes | None]
) -> None:
    inner = MemoryStore()
    inner.put_if_absent("x", [b"sound"], timeout=1.0)
    store = reliable(Doubtful(inner, list(lies)), runtime)

    assert store.insist(lambda: decoded(store.get("x")), is_known=True) == b"sound"
    assert len(runtime.pauses) == len(lies)


def test_an_object_that_may_be_missing_is_believed_missing_at_once(runtime: FastRuntime) -> None:
    store = reliable(Doubtful(MemoryStore(), []), runtime)

    with pytest.raises(ObjectMissing):
        store.insist(lambda: store.get("x"))
    assert not runtime.pauses


def test_damage_that_stays_is_damage_and_a_near_store_is_not_doubted(runtime: FastRuntime) -> None:
    inner = MemoryStore()
    inner.put_if_absent("x", [b"rotten"], timeout=1.0)
    for store, pauses in ((reliable(inner, runtime), 0), (reliable(Doubtful(inner, []), runtime), 2)):
        with pytest.raises(CorruptionError):
            store.insist(lambda: decoded(store.get("x")), is_known=True)
        assert len(runtime.pauses) == pauses


@pytest.mark.parametrize("gone", [ObjectMissing, TableMissingError])
def test_pages_between_the_answers_that_an_object_is_gone_make_it_no_damage(
    runtime: FastRuntime, gone: type[Exception]
) -> None:
    store = reliable(Doubtful(MemoryStore(), []), runtime)
    page, missing = CorruptionError("a page of 53 bytes"), gone("x is not there")
    answers = iter([page, page, missing, page, page, missing, page, missing])

    def read() -> bytes:
        raise next(answers)

    with pytest.raises(gone):
        store.insist(read, is_known=True)
    assert next(answers, None) is None


@pytest.mark.parametrize("lies", [[b"page"], [None, b"page"], [b"page", None], [b"page", b"page"]])
def test_a_page_instead_of_the_read_back_is_no_lost_race(runtime: FastRuntime, lies: list[bytes | None]) -> None:
    inner = MemoryStore()
    inner.put_if_absent("x", [b"ours"], timeout=1.0)

    reliable(Doubtful(inner, list(lies)), runtime).put_new("x", [b"ours"])


def test_what_is_gone_in_truth_is_gone_although_a_gateway_answers_for_it_at_last() -> None:
    def life(runtime: Any, store: Any) -> None:
        faulty = FaultyStore(store, [Fault.NONE, Fault.NONE, Fault.GARBAGE])
        reliable = ReliableStore(faulty, runtime, op_timeout=5.0, request_timeout=1.0)

        def read() -> bytes:
            data = reliable.get("manifest/1")
            if data == GATEWAY_PAGE:
                raise CorruptionError("not ours", object_name="manifest/1")
            return data

        with pytest.raises(ObjectMissing):
            reliable.insist(read, is_known=True)
        faulty.script([Fault.GARBAGE] * 3)
        with pytest.raises(CorruptionError):
            reliable.insist(read, is_known=True)
        store.put_if_absent("manifest/1", [b"x"], timeout=1)
        faulty.script([Fault.GARBAGE, Fault.MISSING, Fault.GARBAGE, Fault.MISSING])
        assert reliable.insist(read, is_known=True) == b"x"

    with Simulation(1) as simulation:
        simulation.run(life)
