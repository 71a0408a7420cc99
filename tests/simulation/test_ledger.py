"""The ledger must be able to fail: one history for each class of anomaly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.ledger import Call, Consumer, Handle, Ledger


class History:
    """A ledger, and short ways to write calls into it."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.ledger = Ledger(1000, lambda: self.now_ms)

    def opens(self, name: str, *, is_writer: bool = True) -> Handle:
        handle = self.ledger.opening(name, is_writer=is_writer)
        self.ledger.opened(handle)
        return handle

    def appends(self, handle: Handle, start: int, count: int = 1, *, is_flushed: bool = False) -> Call:
        call = self.ledger.append(handle, [b"k"] * count)
        self.ledger.accepted(call, start)
        if is_flushed:
            self.ledger.flushed(handle, self.ledger.tick())
        return call

    def shows(self, handle: Handle, *calls: Call, shows_durable: bool = False) -> None:
        entries = [(call.start + at, value) for call in calls for at, (_, value) in enumerate(call.records)]
        self.ledger.scan(handle, b"k", entries, invoked=self.ledger.tick(), shows_durable=shows_durable)

    def finds(self, handle: Handle, *calls: Call) -> None:
        entries = [(call.start + at, value) for call in calls for at, (_, value) in enumerate(call.records)]
        self.ledger.state(handle, {b"k": entries}, is_recovery=True)


def lost(it: History) -> None:
    old = it.opens("a")
    it.appends(old, 0, is_flushed=True)
    it.finds(it.opens("b"))


def lost_own(it: History) -> None:
    writer = it.opens("a")
    it.appends(writer, 0)
    it.shows(writer)


def lost_after_shown(it: History) -> None:
    writer, reader = it.opens("a"), it.opens("r", is_writer=False)
    it.shows(reader, it.appends(writer, 0), shows_durable=True)
    it.shows(it.opens("r2", is_writer=False), shows_durable=True)


def duplicate(it: History) -> None:
    writer = it.opens("a")
    call = it.appends(writer, 0)
    value = call.records[0][1]
    it.ledger.entries(writer, b"k", [(0, value), (1, value)])


def phantom(it: History) -> None:
    it.ledger.entries(it.opens("a"), b"k", [(0, b"never written")])


def phantom_refused(it: History) -> None:
    writer = it.opens("a")
    call = it.ledger.append(writer, [b"k"])
    it.ledger.refused(call, is_certain=True)
    it.ledger.entries(writer, b"k", [(0, call.records[0][1])])


def hole(it: History) -> None:
    old = it.opens("a")
    it.appends(old, 0)
    second = it.appends(old, 1)
    it.finds(it.opens("b"), second)


def resurrected(it: History) -> None:
    old = it.opens("a")
    call = it.appends(old, 0)
    it.finds(it.opens("b"))
    it.finds(it.opens("c"), call)


def torn_batch(it: History) -> None:
    old = it.opens("a")
    call = it.appends(old, 0, count=3)
    new = it.opens("b")
    it.ledger.state(new, {b"k": [(0, call.records[0][1])]}, is_recovery=True)


def torn_apart(it: History) -> None:
    writer = it.opens("a")
    call = it.ledger.append(writer, [b"k", b"k"])
    it.ledger.entries(writer, b"k", [(5, call.records[0][1])])
    it.ledger.accepted(call, 7)


def sequence_reuse(it: History) -> None:
    it.appends(it.opens("a"), 0)
    it.appends(it.opens("b"), 0)


def reorder(it: History) -> None:
    writer = it.opens("a")
    later, earlier = it.appends(writer, 5), it.appends(writer, 3)
    it.finds(it.opens("b"), earlier, later)


def reorder_in_a_scan(it: History) -> None:
    writer = it.opens("a")
    one, two = it.appends(writer, 0), it.appends(writer, 1)
    it.ledger.entries(writer, b"k", [(1, two.records[0][1]), (0, one.records[0][1])])


def false_fence(it: History) -> None:
    older = it.opens("a")
    it.ledger.ended(older)
    it.ledger.fenced(it.opens("b"))


def zombie_ack(it: History) -> None:
    old = it.opens("a")
    it.opens("b")
    it.appends(old, 0, is_flushed=True)


def watermark(it: History) -> None:
    writer = it.opens("a")
    it.ledger.watermark(writer, 5)
    it.ledger.watermark(writer, 4)


def count_mismatch(it: History) -> None:
    it.ledger.counted(b"k", 3, 5, 4)


def skip(it: History) -> None:
    writer, consumer = it.opens("a"), Consumer(it.ledger, b"k")
    value = it.appends(writer, 0).records[0][1]
    consumer.took(writer, 0, [], 7)
    consumer.finish({b"k": [(0, value)]})


def retired_early(it: History) -> None:
    writer = it.opens("a")
    it.appends(writer, 0, is_flushed=True)
    it.now_ms = 999
    it.ledger.floor(it.opens("b"), 1, is_durable=True)


def retired_and_back(it: History) -> None:
    writer, other = it.opens("a"), it.opens("b")
    it.ledger.floor(writer, 5, is_durable=False)
    it.ledger.floor(other, 3, is_durable=False)  # It was not durable, and another handle may still list it.
    assert it.ledger.anomalies == []
    it.ledger.floor(writer, 3, is_durable=False)


def retired_and_back_elsewhere(it: History) -> None:
    it.ledger.floor(it.opens("a"), 5, is_durable=True)
    it.ledger.floor(it.opens("b"), 3, is_durable=False)


def gone_and_not_retired(it: History) -> None:
    writer, it.now_ms = it.opens("a"), 5000
    it.appends(writer, 0, is_flushed=True)
    it.appends(writer, 1, is_flushed=True)
    new = it.opens("b")
    it.ledger.floor(new, 1, is_durable=True)
    it.finds(new)


HISTORIES: dict[str, list[Callable[[History], None]]] = {
    "lost": [lost, lost_own, lost_after_shown, gone_and_not_retired],
    "duplicate": [duplicate],
    "phantom": [phantom, phantom_refused],
    "hole": [hole],
    "resurrected": [resurrected, retired_and_back, retired_and_back_elsewhere],
    "retired early": [retired_early],
    "torn batch": [torn_batch, torn_apart],
    "sequence reuse": [sequence_reuse],
    "reorder": [reorder, reorder_in_a_scan],
    "false fence": [false_fence],
    "zombie ack": [zombie_ack],
    "watermark": [watermark],
    "count mismatch": [count_mismatch],
    "skip": [skip],
}


@pytest.mark.parametrize(
    ("kind", "history"), [(kind, history) for kind, histories in HISTORIES.items() for history in histories]
)
def test_finds(kind: str, history: Callable[[History], None]) -> None:
    it = History()
    history(it)
    assert kind in {found for found, _ in it.ledger.anomalies}


def test_finds_nothing_where_all_is_well() -> None:
    it = History()
    old, reader = it.opens("a"), it.opens("r", is_writer=False)
    kept, lost_with_the_process = it.appends(old, 0, 2, is_flushed=True), it.appends(old, 2)
    it.ledger.watermark(old, 2)
    it.shows(reader, kept, shows_durable=True)
    new = it.opens("b")
    it.ledger.fenced(old)
    it.finds(new, kept)
    it.appends(new, 4096, is_flushed=True)
    consumer = Consumer(it.ledger, b"k")
    consumer.took(reader, 0, [(key, (at, value)) for at, (key, value) in enumerate(kept.records)], 2)
    consumer.finish({b"k": [(at, value) for at, (_, value) in enumerate(kept.records)]})
    it.ledger.counted(b"k", 2, 2, 3)

    assert lost_with_the_process.absent is not None
    assert it.ledger.anomalies == []


def test_retired_records_may_be_missing_when_they_are_old() -> None:
    it = History()
    writer = it.opens("a")
    it.appends(writer, 0, 2, is_flushed=True)
    kept = it.appends(writer, 2, is_flushed=True)
    it.now_ms = 1000
    new = it.opens("b")
    it.ledger.floor(new, 2, is_durable=True)
    it.finds(new, kept)
    it.shows(new, kept)

    assert it.ledger.anomalies == []


@pytest.mark.parametrize("name", ["ledger.py", "batches.py", "openings.py"])
def test_knows_nothing_of_the_product(name: str) -> None:
    source = (Path(__file__).parent / name).read_text("utf-8")
    assert "import lsm" not in source
    assert "from lsm" not in source
    assert "opendata_log" not in source
