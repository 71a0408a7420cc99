"""Reading ahead: how much is asked for when, what is under way meanwhile, and what becomes of what nobody wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

import lsm
from lsm.object_store import MemoryStore, ObjectStore
from lsm.object_store.contract import StoreFault
from lsm.object_store.reliable import ReliableStore
from lsm.runtime import Runtime
from lsm.sst.block import SeriesBlock
from lsm.sst.builder import TableBuilder, TableFormat, TableInfo
from lsm.sst.cache import Caches
from lsm.sst.read_ahead import FAR_BYTES, Span, read_blocks
from lsm.sst.table import TableReader
from tests.doubles import WrappedStore
from tests.lsm.support import engine_threads

T = TypeVar("T")
DATABASE = b"d" * 16
VALUE = b"x" * 1000
MIB = 1 << 20


class Requests(WrappedStore):
    """Keeps the ranges that were asked for. `is_near`: as told."""

    def __init__(self, store: ObjectStore, *, is_near: bool) -> None:
        super().__init__(store)
        self.is_near = is_near
        self.ranges: list[tuple[str, int, int]] = []

    def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
        self.ranges.append((name, start, end))
        return self.store.get_range(name, start, end, timeout=timeout)


class Handed(Runtime):
    """Requests handed over run when the test says so, or when they are waited for."""

    def __init__(self, *, at_once: bool = True) -> None:
        super().__init__()
        self.at_once = at_once
        self.handed: list[Future[Any]] = []

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        future: Future[T] = Future()
        self.handed.append(future)
        if self.at_once:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        return future

    def map(self, function: Callable[..., T], *columns: Sequence[Any], width: int = 16) -> list[T]:
        return [function(*row) for row in zip(*columns, strict=True)]


def table_of(store: ObjectStore, number: int, rows: int, first: int = 0) -> TableInfo:
    """A table of one series in blocks of 10 rows, 10,000 bytes and some: the rows are wide."""
    builder = TableBuilder(DATABASE, number, TableFormat(block_bytes=5_001, compression=None))
    builder.add_series(b"f", [b"a"], [rows], range(first, first + rows), [VALUE] * rows)
    info, parts = builder.finish()
    store.put_if_absent(info.name, parts, timeout=1.0)
    return info


def reading(store: ObjectStore, runtime: Runtime, *, cached: int = 0) -> TableReader:
    reliable = ReliableStore(store, runtime, op_timeout=0.2, request_timeout=0.2)
    return TableReader(reliable, DATABASE, runtime, caches=Caches(block_bytes=cached, runtime=runtime))


def spans(reader: TableReader, infos: list[TableInfo]) -> list[Span]:
    return [Span(info, index, 0, len(index)) for info, (_, index) in reader.metas(infos)]


class Setup:
    """Tables over a watched store, their indexes read already."""

    def __init__(self, rows: list[int], *, is_near: bool, runtime: Runtime | None = None, cached: int = 0) -> None:
        self.store = Requests(MemoryStore(), is_near=is_near)
        self.runtime = runtime or Handed()
        self.reader = reading(self.store, self.runtime, cached=cached)
        first, infos = 0, []
        for number, count in enumerate(rows, 1):
            infos.append(table_of(self.store, number, count, first))
            first += count
        self.spans = spans(self.reader, infos)
        self.store.ranges.clear()

    def read(self, ahead_bytes: int = MIB, *, keep: bool = False) -> Any:
        return read_blocks(self.reader, iter(self.spans), keep=keep, ahead_bytes=ahead_bytes)

    def asked(self) -> list[int]:
        """How many blocks each request was for."""
        return [(end - start) // 10_000 for _, start, end in self.store.ranges]


def numbers_of(blocks: Any) -> list[int]:
    found: list[int] = []
    for _, block in blocks:
        assert isinstance(block, SeriesBlock)
        found += block.positions
    return found


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("ahead_bytes", [0, 25_000, MIB])
@pytest.mark.parametrize("rows", [[10], [1000], [10, 10, 10], [300, 5, 700, 10]])
def test_reads_every_block_once_and_in_order(rows: list[int], ahead_bytes: int, is_near: bool) -> None:
    setup = Setup(rows, is_near=is_near)

    assert numbers_of(setup.read(ahead_bytes)) == list(range(sum(rows)))

    covered = [(name, start, end) for name, start, end in setup.store.ranges]
    assert covered == sorted(set(covered))
    assert sum(setup.asked()) == sum(-(-count // 10) for count in rows if count >= 10)


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("ahead_bytes", [0, 25_000, MIB])
@pytest.mark.parametrize("rows", [[10], [1000], [300, 5, 700, 10]])
def test_reads_every_block_once_from_the_end(rows: list[int], ahead_bytes: int, is_near: bool) -> None:
    setup = Setup(rows, is_near=is_near)
    backward = read_blocks(setup.reader, setup.spans[::-1], descending=True, ahead_bytes=ahead_bytes)

    chunks = [block.positions for _, block in backward if isinstance(block, SeriesBlock)]

    assert [number for chunk in chunks for number in chunk[::-1]] == list(range(sum(rows)))[::-1]
    assert len(setup.store.ranges) == len(set(setup.store.ranges))
    assert sum(setup.asked()) == sum(-(-count // 10) for count in rows if count >= 10)


def test_stretches_double_up_to_what_was_told() -> None:
    setup = Setup([1000], is_near=True)

    numbers_of(setup.read(200_000))

    assert setup.asked() == [1, 2, 4, 8, 15, 19, 19, 19, 13]  # A block is a little more than 10,000 bytes.


def test_the_next_table_goes_on_with_the_pace_reached() -> None:
    setup = Setup([150, 150], is_near=True)

    numbers_of(setup.read(MIB))

    assert setup.asked() == [1, 2, 4, 8, 15]


def test_a_far_store_gets_long_requests_at_once() -> None:
    setup = Setup([1000], is_near=False)

    numbers_of(setup.read(MIB))

    assert setup.asked()[0] == 1
    assert setup.asked()[1] == FAR_BYTES // 10_000
    assert len(setup.asked()) <= 5


def test_near_stores_see_no_other_thread() -> None:
    before = set(engine_threads())
    setup = Setup([1000, 1000], is_near=True, runtime=Runtime())

    assert len(numbers_of(setup.read())) == 2000

    assert set(engine_threads()) <= before


def test_a_short_read_of_a_far_store_costs_one_request() -> None:
    runtime = Handed()
    setup = Setup([1000, 1000], is_near=False, runtime=runtime)

    blocks = setup.read()
    next(blocks)
    blocks.close()

    assert setup.asked() == [1]
    assert runtime.handed == []


def test_with_nothing_to_ask_ahead_each_block_is_read_when_its_turn_comes() -> None:
    runtime = Handed()
    setup = Setup([50], is_near=False, runtime=runtime)

    for at, _ in enumerate(setup.read(0), 1):
        assert setup.asked() == [1] * at

    assert runtime.handed == []


def test_the_next_stretch_is_under_way_while_one_is_consumed() -> None:
    setup = Setup([2000], is_near=False, runtime=(runtime := Handed(at_once=True)))
    blocks = setup.read(300_000)
    seen = 0
    for _ in blocks:
        seen += 1
        ahead = sum(setup.asked()) - seen
        if 1 < seen < 140:  # From the second block on, until the end is near.
            assert ahead >= 25
        assert ahead <= 2 * 29  # What is left of this stretch, and one more.

    assert seen == 200
    assert all(future.done() for future in runtime.handed)


def test_blocks_that_lie_apart_are_under_way_together() -> None:
    gate = threading.Barrier(8, timeout=20)

    class Together(Requests):
        def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
            if self.is_armed and name != self.first:
                gate.wait()
            return super().get_range(name, start, end, timeout=timeout)

        is_armed = False
        first = ""

    store = Together(MemoryStore(), is_near=False)
    runtime = Runtime()
    reader = reading(store, runtime)
    infos = [table_of(store, number, 10, 10 * number) for number in range(1, 10)]
    found = spans(reader, infos)
    store.first, store.is_armed = infos[0].name, True

    assert numbers_of(read_blocks(reader, found)) == list(range(10, 100))  # Breaks where eight never come together.
    runtime.close()


def test_metas_of_a_far_store_are_asked_for_together() -> None:
    gate = threading.Barrier(9, timeout=20)

    class Together(Requests):
        def get_range(self, name: str, start: int, end: int, *, timeout: float) -> bytes:
            gate.wait()
            return super().get_range(name, start, end, timeout=timeout)

    store = Together(MemoryStore(), is_near=False)
    runtime = Runtime()
    reader = reading(store, runtime)
    infos = [table_of(store, number, 10, 10 * number) for number in range(1, 10)]

    assert len(spans(reader, infos)) == 9
    assert len(spans(reader, infos)) == 9  # Cached: the barrier is not met again.
    assert len(store.ranges) == 9
    runtime.close()


def test_cached_blocks_are_not_asked_for_and_keep_the_order() -> None:
    setup = Setup([300], is_near=False, cached=10 * MIB)
    span = setup.spans[0]
    for at in (0, 3, 4, 29):
        setup.reader.block(span.table, at)
    setup.store.ranges.clear()

    assert numbers_of(setup.read()) == list(range(300))
    assert numbers_of(setup.read(keep=True)) == list(range(300))
    before = len(setup.store.ranges)
    assert numbers_of(setup.read()) == list(range(300))
    assert len(setup.store.ranges) == before


def test_closing_gives_up_what_is_under_way() -> None:
    runtime = Handed(at_once=False)
    setup = Setup([2000, 2000], is_near=False, runtime=runtime)
    blocks = setup.read(300_000)
    next(blocks)
    reader = threading.Thread(target=lambda: next(blocks))
    reader.start()
    while not runtime.handed:
        reader.join(0.01)
    runtime.handed[0].set_result(setup.reader.stored(setup.spans[0].table, setup.spans[0].index, 1, 26, keep=False))
    reader.join(20)

    blocks.close()

    assert len(runtime.handed) >= 2
    assert all(future.cancelled() for future in runtime.handed[1:])


def failing(setup: Setup, after: int) -> None:
    """Requests behind the first `after` fail for good."""

    def refuse(name: str, start: int, end: int, *, timeout: float) -> bytes:
        setup.store.ranges.append((name, start, end))
        if len(setup.store.ranges) > after:
            raise StoreFault("injected", transient=False)
        return setup.store.store.get_range(name, start, end, timeout=timeout)

    setup.store.get_range = refuse  # type: ignore[method-assign]


def test_an_error_ahead_is_raised_where_it_is_reached() -> None:
    setup = Setup([2000], is_near=False)
    failing(setup, 2)
    seen = 0

    with pytest.raises(lsm.UnavailableError, match="injected"):
        for _ in setup.read(300_000):
            seen += 1

    assert seen == 1 + setup.asked()[1]


def test_an_error_ahead_that_nobody_reaches_is_nobodys() -> None:
    setup = Setup([2000], is_near=False)
    failing(setup, 2)

    blocks = setup.read(300_000)
    for _ in range(5):
        next(blocks)
    blocks.close()

    assert len(setup.store.ranges) == 3


def test_an_error_in_finding_the_next_table_waits_for_its_turn() -> None:
    setup = Setup([50, 50], is_near=False)

    def found() -> Any:
        yield setup.spans[0]
        raise StoreFault("no index", transient=False)

    seen = 0
    with pytest.raises(StoreFault, match="no index"):
        for _ in read_blocks(setup.reader, found()):
            seen += 1

    assert seen == 5


def test_no_thread_is_left_when_the_runtime_closes() -> None:
    before = set(engine_threads())
    runtime = Runtime()
    setup = Setup([2000, 2000], is_near=False, runtime=runtime)
    blocks = setup.read()
    for _ in range(3):
        next(blocks)
    started = set(engine_threads()) - before
    assert started

    blocks.close()
    runtime.close()

    for thread in started:
        thread.join(20)
        assert not thread.is_alive()


# -- what is kept -----------------------------------------------------------------------------------------------------


def kept(value: bytes, *, is_near: bool, compression: str | None) -> tuple[int, list[bytes]]:
    """How many blocks of a table are cached after a scan of it, and the values it gave."""
    store, runtime = Requests(MemoryStore(), is_near=is_near), Handed()
    builder = TableBuilder(DATABASE, 1, TableFormat(block_bytes=5_001, compression=compression))
    values = [value + b"%04d" % number for number in range(200)]
    builder.add_series(b"f", [b"a"], [200], range(200), values)
    info, parts = builder.finish()
    store.put_if_absent(info.name, parts, timeout=1.0)
    reader = reading(store, runtime, cached=10 * MIB)
    span = spans(reader, [info])[0]
    found: list[bytes] = []
    for _, block in read_blocks(reader, iter([span]), descending=False, keep=True, ahead_bytes=100_000):
        assert isinstance(block, SeriesBlock)
        found += block.values(0, len(block))
    assert all(type(each) is bytes for each in found)
    assert found == values
    return sum(reader.peek(info, at) is not None for at in range(len(span.index))), found


@pytest.mark.parametrize("value", [VALUE, bytes(2000)])
def test_wide_rows_of_a_near_store_are_not_copied_into_the_cache(value: bytes) -> None:
    # The first block is read by itself, as by a poll; the others are a scan's.
    assert kept(value, is_near=True, compression=None)[0] == 1


@pytest.mark.parametrize(
    ("value", "is_near", "compression"), [(VALUE, False, None), (VALUE, True, "zstd"), (b"x" * 50, True, None)]
)
def test_what_takes_long_to_read_or_decode_again_is_cached(
    value: bytes, is_near: bool, compression: str | None
) -> None:
    assert kept(value, is_near=is_near, compression=compression)[0] > 2
