"""When a reader polls, decided purely, and the cycle those decisions make, on a clock that only waits move."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from lsm.read.poll_pauses import SURE_LOOKS, is_look_due, next_interval, pause
from tests.doubles import CountingStore
from tests.lsm.support import FAMILIES, Lists, TwoBytes, append, open_db, read_series


@pytest.mark.parametrize(
    ("interval", "refresh_interval", "found_news", "wanted"),
    [
        (1.0, 1.0, True, 0.0625),
        (0.0625, 1.0, True, 0.0625),
        (0.0625, 1.0, False, 0.125),
        (0.5, 1.0, False, 1.0),
        (0.8, 1.0, False, 1.0),
        (1.0, 1.0, False, 1.0),
        (16.0, 16.0, True, 1.0),
        (0.05, 0.05, True, 0.005),
        (0.001, 0.001, True, 0.001),
        (0.001, 0.001, False, 0.001),
        (9.0, 1.0, False, 1.0),
    ],
)
def test_polls_fast_after_news_and_backs_off(
    interval: float, refresh_interval: float, found_news: bool, wanted: float
) -> None:
    assert next_interval(interval, refresh_interval, found_news=found_news) == wanted


@pytest.mark.parametrize(
    ("now", "polled_at", "looked_at", "interval", "refresh_interval", "wanted"),
    [
        (10.0, 10.0, 10.0, 1.0, 1.0, 1.0),
        (10.25, 10.0, 10.0, 1.0, 1.0, 0.75),  # A poll that took long does not delay the next one.
        (10.0, 10.0, 9.5, 1.0, 1.0, 0.5),  # The look at the manifest is due before.
        (10.0, 10.0, 9.5, 0.25, 1.0, 0.25),
        (12.0, 10.0, 10.0, 1.0, 1.0, 0.005),  # Late already, but no busy loop.
        (12.0, 10.0, 10.0, 0.001, 0.001, 0.001),
    ],
)
def test_waits_until_the_next_poll_or_look_is_due(
    now: float, polled_at: float, looked_at: float, interval: float, refresh_interval: float, wanted: float
) -> None:
    waited = pause(now, polled_at=polled_at, looked_at=looked_at, interval=interval, refresh_interval=refresh_interval)

    assert waited == wanted


@pytest.mark.parametrize(
    ("now", "looked_at", "refresh_interval", "wanted"),
    [(10.0, 9.5, 1.0, False), (10.0, 9.0, 1.0, True), (10.0, 9.001, 1.0, True), (10.0, 9.01, 1.0, False)],
)
def test_looks_at_the_manifest_once_an_interval(
    now: float, looked_at: float, refresh_interval: float, wanted: bool
) -> None:
    assert is_look_due(now, looked_at=looked_at, refresh_interval=refresh_interval) is wanted


class VirtualTime(lsm.Runtime):
    """A clock that stands still but for timed waits on a condition; those return at once. Before wait number n `events[n]`
    happens; after `waits_max` of them the waiter sleeps for real."""

    def __init__(self, waits_max: int, events: dict[int, Callable[[], object]]) -> None:
        super().__init__()
        self.now = 0.0
        self.waits: list[float] = []
        self.is_over = threading.Event()
        self._waits_max = waits_max
        self._events = events

    def monotonic(self) -> float:
        return self.now

    def condition(self, lock: Any = None) -> threading.Condition:
        runtime = self

        class Condition(threading.Condition):
            def wait(self, timeout: float | None = None) -> bool:
                if timeout is None or len(runtime.waits) >= runtime._waits_max:
                    runtime.is_over.set()
                    return super().wait()
                runtime._events.get(len(runtime.waits), int)()
                runtime.waits.append(timeout)
                runtime.now += timeout
                return False

        return Condition(lock)


def cycle(
    memory: MemoryStore, waits: int, events: dict[int, Callable[[], object]] | None = None
) -> tuple[VirtualTime, CountingStore]:
    """A reader's background thread over so many waits, at a refresh interval of 1 s."""
    runtime, store = VirtualTime(waits, events or {}), CountingStore(memory)
    reader = lsm.DbReader.open(
        "memory://",
        object_store=store,
        refresh_interval=1.0,
        prefix_extractor=TwoBytes(),
        series_layout=Lists(),
        runtime=runtime,
    )
    with reader:
        assert runtime.is_over.wait(60)
        assert reader.last_failure is None
        assert reader.status().refresh_interval is not None
        for family in FAMILIES:
            for _ in range(50):
                read_series(reader, family, b"s")  # type: ignore[arg-type]
    return runtime, store


def test_an_idle_reader_makes_three_requests_an_interval_however_much_is_read() -> None:
    memory = MemoryStore()
    with open_db(memory) as db:
        for family in FAMILIES:
            append(db, family, [(b"s", b"v")] * 10, 0)
        db.flush()
        idle, alone = cycle(memory, 1)
        runtime, store = cycle(memory, 41)

    assert runtime.waits == [1.0] * 41
    assert runtime.waits[:1] == idle.waits
    sure = 40 // SURE_LOOKS
    looks = {"get": 40 - sure, "get_range": 2 * (40 - sure), "list": 2 * sure}
    assert Counter(store.counts) - Counter(alone.counts) == looks


def test_news_bring_the_next_polls_forward_and_those_ask_for_the_next_log_object_only() -> None:
    memory = MemoryStore()
    with open_db(memory) as db:

        def write() -> None:
            db.put(b"p0k", b"v", await_durable=True)

        runtime, store = cycle(memory, 12, {3: write, 5: write})

    # The last wait but the first few is cut short by the look at the manifest that is due.
    assert runtime.waits == [1, 1, 1, 1, 0.0625, 0.125, 0.0625, 0.125, 0.25, 0.375, 1, 1]
    at = [call for call in store.log if call[1].startswith("manifest") and call[0] == "get_range"]
    assert len(at) == 2 * (4 + 1 + 2)  # at open, at each slow poll, when it is due among the fast ones, and slow again


def test_never_polls_less_often_than_the_refresh_interval() -> None:
    memory = MemoryStore()
    with open_db(memory) as db:
        events = {at: lambda: db.put(b"p0k", b"v", await_durable=True) for at in (0, 1, 4, 9, 10, 11, 20)}
        runtime, _ = cycle(memory, 40, events)

    assert max(runtime.waits) == 1.0
    assert min(runtime.waits) == 0.0625
