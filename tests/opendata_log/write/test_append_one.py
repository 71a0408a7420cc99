"""`append` of one record, blocking and asyncio, and the ways to name a log when it is opened."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lsm.object_store import MemoryStore
from lsm.object_store.contract import StoreFault
from opendata_log import (
    AppendOutput,
    AppendStorageError,
    AppendTimeoutError,
    Config,
    InvalidInputError,
    LogDb,
    LogDbBuilder,
    LogDbReader,
    ReaderConfig,
    ShutdownError,
    StorageConfig,
    aio,
)
from tests.doubles import CountingStore, GatedStore, WrappedStore
from tests.opendata_log.support import tiny, values

Append = Callable[..., AppendOutput]


class DownStore(WrappedStore):
    """Refuses creates for a while."""

    is_down = False

    def put_if_absent(self, *arguments: Any, **options: Any) -> None:
        if self.is_down:
            raise StoreFault("503 SlowDown", transient=True)
        super().put_if_absent(*arguments, **options)


def opened(store: Any, **engine: Any) -> LogDb:
    return LogDbBuilder(Config(storage="memory://", engine=tiny(**engine))).with_object_store(store).build()


@pytest.fixture(params=["blocking", "asyncio"])
def append(request: pytest.FixtureRequest) -> Iterator[Append]:
    """`append(log, …)` by either face."""
    if request.param == "blocking":
        yield LogDb.append
        return
    with asyncio.Runner() as runner:
        yield lambda log, *arguments, **options: runner.run(aio.LogDb.wrap(log).append(*arguments, **options))


def test_it_appends_one_record(append: Append) -> None:
    with opened(MemoryStore()) as log:
        assert append(log, b"k", b"one") == AppendOutput(0)
        assert append(log, "k", "two") == AppendOutput(1)
        assert values(log, b"k") == [b"one", b"two"]
        assert log.durable_sequence == 0


def test_durable_it_returns_when_the_record_is_stored(append: Append) -> None:
    store = CountingStore(MemoryStore())
    with opened(store) as log:
        append(log, b"k", b"one")
        before = store.counts["put_if_absent"]

        assert append(log, b"k", b"two", durable=True) == AppendOutput(1)

        assert log.durable_sequence == 2
        assert store.counts["put_if_absent"] - before == 1


@pytest.mark.parametrize(("key", "value"), [(b"", b"v"), (7, b"v"), (b"k", None), (b"k" * 70_000, b"v")])
def test_bad_input_is_refused_and_nothing_written(append: Append, key: Any, value: Any) -> None:
    with opened(MemoryStore()) as log:
        with pytest.raises(InvalidInputError):
            append(log, key, value)
        with pytest.raises(InvalidInputError, match="timeout"):
            append(log, b"k", b"v", timeout=-1)
        assert list(log.list_keys()) == []


def test_a_full_queue_is_waited_for_and_the_record_handed_back(append: Append) -> None:
    store = GatedStore(MemoryStore())
    log = opened(store, max_unflushed_bytes=8192)
    store.shut()
    while log._db.has_space:
        log.try_append([(b"k", bytes(1000))])
    with pytest.raises(AppendTimeoutError) as late:
        append(log, b"k", b"late", timeout=0.01)
    store.open()

    assert late.value.records == [(b"k", b"late")]
    assert append(log, *late.value.records[0], durable=True) == AppendOutput(log.count(b"k") - 1)
    log.close()


def test_a_record_that_is_not_durable_in_time_was_accepted(append: Append) -> None:
    store = GatedStore(MemoryStore())
    log = opened(store)
    store.shut()
    with pytest.raises(AppendTimeoutError, match="do not append it again") as late:
        append(log, b"k", b"v", durable=True, timeout=0.01)
    store.open()
    log.flush()

    assert late.value.records is None
    assert values(log, b"k") == [b"v"]
    log.close()


def test_a_store_that_fails_under_it_is_told_and_a_flush_makes_up_for_it(append: Append) -> None:
    store = DownStore(MemoryStore())
    log = opened(store, op_timeout=0.2)
    store.is_down = True
    with pytest.raises(AppendStorageError, match="503") as failed:
        append(log, b"k", b"v", durable=True, timeout=5.0)
    store.is_down = False
    log.flush()

    assert failed.value.records is None
    assert (failed.value.outcome_unknown, failed.value.retryable) == (True, False)
    assert values(log, b"k") == [b"v"]
    log.close()


def test_a_closed_log_refuses(append: Append) -> None:
    log = opened(MemoryStore())
    log.close()
    with pytest.raises(ShutdownError):
        append(log, b"k", b"v")


# -- the ways to name a log -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, Path, lambda place: StorageConfig(url=place), lambda place: f"file://{place}"])
def test_a_log_is_opened_by_what_names_it(tmp_path: Path, form: Callable[[str], Any]) -> None:
    place = form(str(tmp_path / "log"))
    with LogDb.open(place, engine=tiny()) as log:
        log.append(b"k", b"v", durable=True)
    with LogDbBuilder(place).build() as log, LogDbReader.open(place, refresh_interval=9.0) as reader:
        assert (log.count(b"k"), reader.count(b"k")) == (1, 1)

    async def by_tasks() -> tuple[int, int]:
        async with await aio.LogDb.open(place) as log, await aio.LogDbReader.open(place) as reader:
            return await log.count(b"k"), await reader.count(b"k")

    assert asyncio.run(by_tasks()) == (1, 1)


@pytest.mark.parametrize(
    "opening", [LogDb.open, LogDbReader.open, LogDbBuilder, aio.LogDbBuilder, aio.LogDbReader.open]
)
def test_what_names_no_log_is_refused(opening: Callable[..., Any]) -> None:
    def attempt(*arguments: Any, **options: Any) -> None:
        found = opening(*arguments, **options)
        if inspect.isawaitable(found):
            asyncio.run(_await(found))

    with pytest.raises(InvalidInputError, match="a URL or a path, got int"):
        attempt(7)
    with pytest.raises(InvalidInputError, match="given twice"):
        attempt("memory://a", storage="memory://b")
    other = ReaderConfig() if opening in (LogDb.open, LogDbBuilder, aio.LogDbBuilder) else Config()
    with pytest.raises(InvalidInputError, match=r"got (Reader)?Config"):
        attempt(other)


async def _await(found: Any) -> None:
    await found
