"""What is logged: when something keeps failing, when it is over, who took over from whom; and never what is stored."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.object_store.contract import ObjectStore, StoreFault
from lsm.object_store.faults import RequestRefused
from lsm.object_store.reliable import ReliableStore
from lsm.observe import events
from lsm.observe.health import TELL_AFTER, BackgroundHealth
from lsm.observe.logging_observer import on_stderr
from lsm.testing.simulated import SimulatedRuntime
from lsm.testing.simulated_bucket import READ_FAULTS, Faults
from lsm.testing.simulation import Simulation
from lsm.testing.stores import Fault, FaultyStore, WrappedStore
from tests.lsm.support import Lists, TwoBytes, tiny
from tests.test_tidy import CODE, imports, tree

CANARY = b"CANARY"


class RefusingStore(WrappedStore):
    """Refuses, or fails, every call of some kinds while it is told to."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.refused: tuple[str, ...] = ()
        self.failing: tuple[str, ...] = ()
        self.prefix = ""
        self.count = 0

    def _around(self, call: str, name: str, request: Callable[[], Any]) -> Any:
        if call in self.refused and name.startswith(self.prefix):
            self.count += 1
            raise RequestRefused(f"{call} {name}: 403 AccessDenied", transient=False)
        if call in self.failing:
            raise StoreFault(f"{call} {name}: 503 Slow Down", transient=True)
        return request()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO)
    return Lines(caplog)


class Lines:
    """What was logged so far."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def of(self, event: events.Event) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.msg == event.text]

    @property
    def all(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records]


def simulated(life: Callable[[Simulation, SimulatedRuntime, ObjectStore], None]) -> None:
    with Simulation(1, Faults(latency=0.001)) as simulation:
        simulation.run(lambda runtime, store: life(simulation, runtime, store))


# -- the vocabulary ---------------------------------------------------------------------------------------------------


def told() -> list[tuple[str, str, set[str]]]:
    """(where, event, facts) of every call of `tell` that names its event."""
    found = []
    for path in CODE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("events.tell", "tell") and node.args:
                name = ast.unparse(node.args[0]).removeprefix("events.")
                if isinstance(getattr(events, name, None), events.Event):
                    found.append((f"{path}:{node.lineno}", name, {keyword.arg or "" for keyword in node.keywords}))
    return found


def test_each_line_gets_the_facts_its_words_name() -> None:
    for where, name, facts in told():
        wanted = set(re.findall(r"%\((\w+)\)", getattr(events, name).text))
        assert facts == wanted, f"{where}: {name} names {wanted}, and is told {facts}"


def test_every_event_is_told_somewhere() -> None:
    code = "".join(ast.unparse(tree(path)) for path in CODE if path != "lsm/observe/events.py")
    names = {name for name, value in vars(events).items() if isinstance(value, events.Event)}

    assert len(names) == len(events.EVENTS) == len({each.name for each in events.EVENTS})
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()
    assert len(told()) > 15


def test_only_one_module_logs_and_says_nothing_by_itself() -> None:
    for path in CODE:
        assert path == "lsm/observe/logging_observer.py" or "logging" not in {
            module for module, _, _ in imports(path)
        }, path
    assert {each.logger.split(".")[0] for each in events.EVENTS} == {"lsm", "opendata_log"}
    assert {each.level for each in events.EVENTS} == {logging.DEBUG, logging.INFO, logging.WARNING}
    for root in ("lsm", "opendata_log"):
        assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger(root).handlers)


class Counts:
    """An observer that counts one event."""

    def __init__(self, wanted: events.Event) -> None:
        self.wanted = wanted
        self.found: list[dict[str, object]] = []

    def wants(self, event: events.Event) -> bool:
        return event is self.wanted

    def on_event(self, event: events.Event, facts: Mapping[str, object]) -> None:
        assert event is self.wanted
        self.found.append(dict(facts))


def test_every_observer_gets_what_it_wants_and_none_disturbs_another(lines: Lines) -> None:
    class Broken(Counts):
        def on_event(self, event: events.Event, facts: Mapping[str, object]) -> None:
            raise ValueError("disk full")

    broken, counts = Broken(events.FAILED), Counts(events.FAILED)
    events.observe(broken)
    events.observe(counts)
    try:
        events.tell(events.FAILED, url="https://me:hunter2@host/b", reason="lost")
        events.tell(events.CLOSED, url="x", last=1)
    finally:
        events.stop_observing(broken)
        events.stop_observing(counts)
    events.tell(events.FAILED, url="y", reason="later")

    assert counts.found == [{"url": "https://***@host/b", "reason": "lost"}]
    assert len(lines.of(events.FAILED)) == 2
    events.stop_observing(counts)  # Not there: nothing happens.


def test_an_event_is_heard_where_an_observer_wants_it() -> None:
    counts = Counts(events.REQUEST)
    assert not events.REQUEST.is_heard
    events.observe(counts)
    try:
        assert events.REQUEST.is_heard
    finally:
        events.stop_observing(counts)


def test_a_handler_that_raises_harms_nothing(lines: Lines) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError("no space left on device")

    broken = Broken()
    logging.getLogger("lsm").addHandler(broken)
    try:
        with lsm.Db.open("memory://", tiny(), object_store=MemoryStore()) as db:
            db.put(b"k", b"v")
    finally:
        logging.getLogger("lsm").removeHandler(broken)


@pytest.mark.parametrize(
    "secret",
    [
        "https://me:hunter2@host/bucket",
        "GET https://host/bucket/wal/1?X-Amz-Signature=hunter2&x=1",
        "GET https://host/c/b?sv=2021&sig=hunter2",
        "refused: token=hunter2; again",
        "could not use password=hunter2",
    ],
)
def test_a_line_holds_no_credential_and_is_one_line(secret: str, lines: Lines) -> None:
    events.tell(events.FAILED, url=secret, reason=f"first\n{secret}\nlast" + "x" * 5000)

    (line,) = lines.of(events.FAILED)
    assert "hunter2" not in line
    assert "\n" not in line
    assert len(line) < 3 * events.TEXT_MAX


def test_the_text_of_an_unknown_error_is_not_repeated() -> None:
    def failing() -> None:
        raise KeyError(CANARY)

    with pytest.raises(KeyError) as caught:
        failing()
    failure = lsm.InternalError(f"a thread failed: {caught.value!r}")
    failure.__cause__ = caught.value

    for error in (caught.value, failure, lsm.InvalidError(f"key {CANARY!r}"), lsm.CorruptionError(f"name {CANARY!r}")):
        assert CANARY.decode() not in events.reason(error)
    assert "KeyError at " in events.reason(failure)
    assert "test_events.py" in events.reason(failure)
    assert events.reason(OSError(28, "No space left on device", "/tmp/x")) == "OSError: No space left on device"
    assert events.reason(lsm.CorruptionError("is bad", object_name="sst/1.sst")) == "sst/1.sst at byte 0: is bad"


# -- an outage --------------------------------------------------------------------------------------------------------


def test_an_outage_of_half_a_minute_is_told_soon_then_seldom_and_when_it_is_over(lines: Lines) -> None:
    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        db = lsm.Db.open("memory://", tiny(flush_interval=0.1, op_timeout=60.0), object_store=store, runtime=runtime)
        db.put(b"k", b"1", await_durable=True)
        assert db.status().failing_for is None
        assert db.status().last_failure is None

        simulation.bucket.outages["process"] = runtime.monotonic() + 24.0
        simulation.bucket.faults.burst_probability = 1e-12
        db.put(b"k", b"2")
        runtime.sleep(8.0)
        status = db.status()
        assert status.failing_for is not None
        assert 6.0 < status.failing_for <= 8.0
        assert "simulated: busy" in (status.last_failure or "")
        (first,) = lines.of(events.STORE_FAILING)
        assert re.search(r"\(put\) have failed for [1-4]\.\d s", first), first
        assert "wal/" in first

        runtime.sleep(40.0)
        assert db.durable_seq == db.last_seq
        assert db.status().failing_for is None
        assert "simulated: busy" in (db.status().last_failure or "")
        db.close()

    simulated(life)

    assert 2 <= len(lines.of(events.STORE_FAILING)) <= 4
    (over,) = lines.of(events.STORE_RECOVERED)
    seconds = float(re.search(r"recovered after ([\d.]+) s", over).group(1))  # type: ignore[union-attr]
    assert 20.0 < seconds < 32.0


def test_faults_that_a_second_request_makes_good_are_not_worth_a_line(lines: Lines) -> None:
    store = FaultyStore(MemoryStore(), seed=3, probability=0.3)
    with lsm.Db.open("memory://", tiny(), object_store=store) as db:
        for _ in range(30):
            db.put(b"k", b"v", await_durable=True)

    assert store.injected[Fault.NOT_SENT] > 3
    assert lines.of(events.STORE_FAILING) == lines.of(events.STORE_RECOVERED) == []


def test_requests_of_one_kind_that_fail_are_told_although_others_succeed(lines: Lines) -> None:
    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        shaky = RefusingStore(store)
        made = ReliableStore(shaky, runtime, op_timeout=20.0, request_timeout=1.0)
        shaky.failing = ("put_if_absent",)
        writing = runtime.submit(made.put_new, "wal/1", [b"x"])
        for _ in range(100):
            made.list("wal/")
            runtime.sleep(0.1)
        assert (made.health.failing_for() or 0) > 8
        assert isinstance(writing.exception(), lsm.UnavailableError)
        assert (made.health.failing_for() or 0) > 12, "given up, and failing still"
        shaky.failing = ()
        made.put_new("wal/1", [b"x"])
        assert made.health.failing_for() is None

    simulated(life)

    assert len(lines.of(events.STORE_FAILING)) >= 1
    assert len(lines.of(events.STORE_RECOVERED)) == 1


def test_an_operation_that_was_interrupted_does_not_fail_for_ever() -> None:
    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        shaky = RefusingStore(store)
        made = ReliableStore(shaky, runtime, op_timeout=5.0, request_timeout=1.0)
        health = made.health
        health.failed(
            1, "get", "read x", "503", began=runtime.monotonic(), deadline=runtime.monotonic() + 5.0,
            is_last=False, is_refused=False,
        )  # fmt: skip
        runtime.sleep(6.0)
        assert health.failing_for() is None

    simulated(life)


def test_a_request_that_takes_long_is_told_once_in_a_while(lines: Lines) -> None:
    class Sluggish(WrappedStore):
        def __init__(self, store: ObjectStore, runtime: SimulatedRuntime) -> None:
            super().__init__(store)
            self.runtime = runtime

        def _around(self, call: str, name: str, request: Callable[[], Any]) -> Any:
            self.runtime.sleep(6.0)
            return request()

    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        made = ReliableStore(Sluggish(store, runtime), runtime, op_timeout=60.0, request_timeout=30.0)
        for _ in range(4):
            made.list("wal/")

    simulated(life)

    first, second = lines.of(events.SLOW_REQUEST)
    assert "took 6.0 s; 0 more" in first
    assert "1 more" in second


def test_requests_are_told_at_debug_only(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    made = ReliableStore(MemoryStore(), lsm.Runtime(), op_timeout=1.0, request_timeout=1.0).with_cause("wal")
    made.put_new("wal/1", [b"x"])
    assert lines.all == []

    caplog.set_level(logging.DEBUG)
    made.get("wal/1")
    (line,) = lines.of(events.REQUEST)
    assert "get for wal (read wal/1)" in line


# -- background work ----------------------------------------------------------------------------------------------------


def test_a_collector_whose_deletes_are_refused_is_told_and_goes_on(lines: Lines) -> None:
    store = RefusingStore(MemoryStore())
    with lsm.Db.open("memory://", tiny(gc_interval=0.002), object_store=store) as db:
        store.refused = ("delete",)
        for _ in range(100):
            db.put(b"k", bytes(100))
            db.flush(lsm.FlushType.MEMTABLE)
            if db.status().background.get("collection") and store.count > 3:
                break
        found = db.status().background["collection"]
        assert found.failures >= 1
        assert found.failing_for is not None
        assert "403 AccessDenied" in found.last_failure
        assert "403 AccessDenied" in (db.status().last_failure or "")
        assert len(lines.of(events.JOB_FAILING)) == 1
        assert "collection" in lines.of(events.JOB_FAILING)[0]
        assert len(lines.of(events.REQUEST_REFUSED)) == 1

        with pytest.raises(lsm.UnavailableError, match="403 AccessDenied"):
            db.collect_garbage()
        store.refused = ()
        while db.status().background["collection"].failing_for is not None:
            db.flush(lsm.FlushType.MEMTABLE)
        assert db.status().background["collection"].failures >= found.failures


def test_whoever_waits_for_compactions_that_fail_again_and_again_is_told() -> None:
    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        shaky = RefusingStore(store)
        settings = tiny(op_timeout=0.5, l0_max_ssts=20)
        db = lsm.Db.open("memory://", settings, object_store=shaky, runtime=runtime)
        db.wait_idle()
        for at in range(2):
            db.put(b"k", bytes(100))
            if at:
                shaky.refused, shaky.prefix = ("get_range",), "sst/"
            db.flush(lsm.FlushType.MEMTABLE)
        with pytest.raises(lsm.UnavailableError, match="403"):
            db.wait_idle()
        assert db.wait_idle(1.0) is False
        assert db.status().background["compaction"].failing_for is not None
        shaky.refused = ()
        assert db.wait_idle(60.0)
        runtime.sleep(1.0)
        assert db.status().background["compaction"].failing_for is None
        db.close()

    simulated(life)


def test_a_reader_that_cannot_look_for_news_is_told(lines: Lines) -> None:
    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        lsm.Db.open("memory://", tiny(), object_store=store, runtime=runtime).close()
        shaky = RefusingStore(store)
        reader = lsm.DbReader.open(
            "memory://", tiny(op_timeout=1.0), object_store=shaky, runtime=SimulatedRuntime(simulation.scheduler),
            refresh_interval=0.5,
        )  # fmt: skip
        shaky.failing = ("get", "get_range", "list")
        runtime.sleep(30.0)
        status = reader.status()
        assert (status.failing_for or 0) > 20
        assert "503" in (status.last_failure or "")
        shaky.failing = ()
        runtime.sleep(5.0)
        assert reader.status().failing_for is None
        reader.close()

    simulated(life)

    assert 2 <= len([line for line in lines.of(events.JOB_FAILING) if "refresh" in line]) <= 4
    assert len([line for line in lines.of(events.JOB_RECOVERED) if "refresh" in line]) == 1


def test_lines_of_one_job_come_after_pauses_that_double(lines: Lines) -> None:
    def life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore) -> None:
        health = BackgroundHealth(runtime, "memory://")
        for _ in range(3600):
            health.failed("flush", lsm.UnavailableError("503"))
            runtime.sleep(1.0)
        health.succeeded("flush")
        health.succeeded("flush")

    simulated(life)

    assert 8 <= len(lines.of(events.JOB_FAILING)) <= 16
    (over,) = lines.of(events.JOB_RECOVERED)
    assert "3600 failures" in over
    assert TELL_AFTER <= 1.0


def test_a_program_that_runs_for_long_says_on_stderr_what_happens_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr():
        events.tell(events.CLOSED, url="memory://", last=7)
    events.tell(events.CLOSED, url="memory://", last=8)

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("INFO lsm.db: memory://: closed; everything up to batch 7 is durable")


# -- owners -------------------------------------------------------------------------------------------------------------


def test_take_overs_and_ends_are_told(lines: Lines) -> None:
    store = MemoryStore()
    first = lsm.Db.open("memory://", tiny(), object_store=store)
    first.put(b"k", b"1", await_durable=True)
    second = lsm.Db.open("memory://", tiny(), object_store=store)
    with pytest.raises(lsm.FencedError):
        first.put(b"k", b"2", await_durable=True)
    first.close()
    second.close()

    (created,) = lines.of(events.CREATED)
    (opened,) = lines.of(events.OPENED)
    (fenced,) = lines.of(events.FENCED)
    (early,) = lines.of(events.CLOSED_EARLY)
    (closed,) = lines.of(events.CLOSED)
    assert "epoch 1" in created
    assert "opened as epoch 2, taken over from epoch 1; replayed 2 log objects" in opened
    assert "a newer writer (epoch 2) took over from this one (epoch 1)" in fenced
    assert "batches 2 to 2 are not known to be durable" in early
    assert "everything up to batch 1 is durable" in closed


def test_damage_is_told_with_object_and_offset_once(lines: Lines) -> None:
    store = MemoryStore()
    with lsm.Db.open("memory://", tiny(compaction_enabled=False), object_store=store) as db:
        db.put(b"k", CANARY * 5)
        db.flush(lsm.FlushType.MEMTABLE)
    (name,) = [info.name for info in store.list("sst/", timeout=1)]
    body = bytearray(store.get(name, timeout=1))
    body[4] ^= 1
    store.delete(name, timeout=1)
    store.put_if_absent(name, [bytes(body)], timeout=1)

    with lsm.Db.open("memory://", tiny(block_cache_bytes=0, compaction_enabled=False), object_store=store) as db:
        for _ in range(3):
            with pytest.raises(lsm.CorruptionError):
                db.get(b"k")
    report = lsm.fsck("memory://", object_store=store)

    assert not report.is_sound
    lines_of_reads = [line for line in lines.of(events.CORRUPTION) if f"{name} at byte 0" in line]
    assert len(lines_of_reads) >= 1
    (found,) = lines.of(events.FSCK_FOUND_DAMAGE)
    assert name in found


# -- content ------------------------------------------------------------------------------------------------------------


class Indiscreet:
    """A scheduler that raises what it has read."""

    def propose(self, manifest: Any, busy: Any) -> Any:
        if manifest.partitions:
            raise ValueError(f"{manifest!r} {CANARY!r}")
        return ()


def rough_life(simulation: Simulation, runtime: SimulatedRuntime, store: ObjectStore, seed: int) -> None:
    """Writes, reads, compacts and collects, while requests fail, tables are damaged, and callbacks and a scheduler raise."""
    rows: dict[str, Any] = {"prefix_extractor": TwoBytes(), "series_layout": Lists(), "object_store": store}
    settings = tiny(op_timeout=3.0, gc_interval=0.2, compression=None, block_cache_bytes=0)
    key, name, value = b"p0" + CANARY, CANARY, CANARY * 20
    handles: list[Any] = []

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except lsm.Error:
            return None

    for _ in range(3):
        scheduler = Indiscreet() if seed % 3 == 0 else None
        db = attempt(lambda: lsm.Db.open("memory://", settings, scheduler=scheduler, runtime=runtime, **rows))
        reader = attempt(
            lambda: lsm.DbReader.open("memory://", settings, refresh_interval=0.5, runtime=runtime, **rows)
        )
        handles += [db, reader]
        if db is None or reader is None:
            continue
        reader.on_news(lambda names: {}[CANARY])
        for at in range(12):
            batch = lsm.WriteBatch().put(key, value)
            batch.append_series(b"p0L", [name], at, [value])
            attempt(lambda batch=batch: db.write(batch))
            attempt(lambda: db.flush(lsm.FlushType.MEMTABLE))
            attempt(lambda: list(reader.scan()))
        simulation.bucket.faults.probability = 0.0
        for each in [each for each in simulation.bucket.objects if each.startswith("sst/") and seed % 3 == 1]:
            body = bytearray(simulation.bucket.objects[each])
            body[5] ^= 64
            simulation.bucket.objects[each] = bytes(body)
        attempt(lambda: list(db.scan()))
        attempt(lambda: list(reader.scan()))
        attempt(lambda: lsm.fsck("memory://", runtime=runtime, **rows))
        simulation.bucket.faults.probability = 0.2
    simulation.bucket.faults.probability = 0.0
    for handle in handles:
        if handle is not None:
            attempt(handle.close)


def test_no_line_holds_a_key_or_a_value_whatever_fails(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wanted = {events.REQUEST, events.FAILED, events.FENCED, events.CORRUPTION, events.FSCK_FOUND_DAMAGE}
    wanted |= {events.JOB_FAILING, events.STORE_FAILING, events.CALLBACK_FAILED}
    for seed in range(60):  # Which lives meet which trouble changes with every lock that the engine takes.
        with Simulation(seed, Faults(probability=0.2, kinds=(*READ_FAULTS, Fault.REPLY_LOST))) as simulation:
            simulation.run(lambda runtime, store: rough_life(simulation, runtime, store, seed))
        if seed >= 5 and all(map(lines.of, wanted)):
            break

    for event in wanted:
        assert lines.of(event), event.name
    for record in caplog.records:
        assert CANARY.decode() not in record.getMessage()
        assert record.exc_info is None
