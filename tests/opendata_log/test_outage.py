"""The store goes away and comes back: calls say so, nothing accepted is lost, nothing refused appears."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import lsm
from opendata_log import (
    AppendStorageError,
    ClosedError,
    Config,
    FencedError,
    InternalError,
    LogDb,
    LogDbBuilder,
    Record,
    ShutdownError,
    StorageError,
)
from tests.opendata_log.support import tiny, values


class ShakyFileSystem(MemoryFileSystem):
    """fsspec's memory, with a switch. Its objects are its own."""

    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012 -- as fsspec has it
    is_down = False

    def pipe_file(self, *arguments: Any, **options: Any) -> Any:
        self._refuse()
        return super().pipe_file(*arguments, **options)

    def cat_file(self, *arguments: Any, **options: Any) -> Any:
        self._refuse()
        return super().cat_file(*arguments, **options)

    def _refuse(self) -> None:
        if self.is_down:
            raise ConnectionError("the store is down")


@pytest.fixture
def fs() -> Iterator[ShakyFileSystem]:
    fs = ShakyFileSystem()
    yield fs
    fs.store.clear()


def open_log(fs: ShakyFileSystem) -> LogDb:
    return LogDbBuilder(Config(storage="memory://shaky", engine=tiny(op_timeout=0.2))).with_object_store(fs).build()


def test_an_outage_it_is_told_and_over_everything_accepted_is_there(fs: ShakyFileSystem) -> None:
    batch = [Record(b"k", b"refused")]
    with open_log(fs) as log:
        log.try_append([(b"k", b"before")])
        log.flush()
        fs.is_down = True
        log.try_append([(b"k", b"accepted")])
        with pytest.raises(StorageError, match="the store is down") as failed:
            log.flush()
        with pytest.raises(AppendStorageError, match="the store is down") as refused:
            log.try_append(batch)
        assert failed.value.retryable
        assert (refused.value.records, refused.value.retryable) == (batch, True)
        assert log.durable_sequence == 1
        assert values(log, b"k") == [b"before", b"accepted"]
        with pytest.raises(StorageError):
            log.seal_segment()

        fs.is_down = False
        log.flush()

        assert log.durable_sequence == 2
        assert log.try_append([(b"k", b"after")]).start_sequence == 2
        assert len(log.list_segments()) == 1
    with open_log(fs) as log:
        assert values(log, b"k") == [b"before", b"accepted", b"after"]


def test_an_outage_before_the_first_append_it_is_accepted_and_what_follows_the_failure_is_handed_back(
    fs: ShakyFileSystem,
) -> None:
    batch = [Record(b"k", b"v")]
    with open_log(fs) as log:
        fs.is_down = True
        assert log.try_append([(b"k", b"first")]).start_sequence == 0
        with pytest.raises(StorageError):
            log.flush()
        for append in (lambda: log.try_append(batch), lambda: log.append_timeout(batch, 0.1)):
            with pytest.raises(AppendStorageError) as refused:
                append()
            assert (refused.value.records, refused.value.retryable) == (batch, True)

        fs.is_down = False
        log.flush()

        assert log.try_append(batch).start_sequence == 1
        assert values(log, b"k") == [b"first", b"v"]


def outage_then_close(fs: ShakyFileSystem) -> LogDb:
    """A log with one durable record and one that is not, whose `close` has failed."""
    log = open_log(fs)
    log.try_append([(b"k", b"1")])
    log.flush()
    log.try_append([(b"k", b"2")])
    fs.is_down = True
    with pytest.raises(StorageError, match="the store is down") as failed:
        log.close()
    assert failed.value.retryable
    assert "sequences from 1 to 1 are not known to be durable" in str(failed.value)
    return log


def test_closing_in_an_outage_the_next_close_tries_again(fs: ShakyFileSystem) -> None:
    log = outage_then_close(fs)

    with pytest.raises(StorageError, match="the store is down") as failed:
        log.close()
    assert failed.value.retryable
    with pytest.raises(ClosedError):
        log.flush()
    with pytest.raises(ShutdownError):
        log.try_append([(b"k", b"3")])
    fs.is_down = False
    log.close()
    log.close()

    with open_log(fs) as again:
        assert values(again, b"k") == [b"1", b"2"]
        assert again.try_append([(b"k", b"3")]).start_sequence == 2


def test_a_log_that_could_not_be_closed_keeps_what_is_durable_and_is_fenced(fs: ShakyFileSystem) -> None:
    log = outage_then_close(fs)

    fs.is_down = False
    with open_log(fs) as again:
        assert values(again, b"k") in ([b"1"], [b"1", b"2"])  # A background thread may have written it.
        assert again.try_append([(b"k", b"3")]).start_sequence >= 2
    with suppress(FencedError):
        log.close()
    log.close()


def test_a_block_that_ends_in_an_outage_by_an_exception_it_can_be_closed_again(fs: ShakyFileSystem) -> None:
    with pytest.raises(StorageError, match="closing failed"), open_log(fs) as log:
        log.try_append([(b"k", b"1")])
        fs.is_down = True
        raise KeyError("the caller's own")

    fs.is_down = False
    log.close()
    with open_log(fs) as again:
        assert values(again, b"k") == [b"1"]


@pytest.mark.parametrize("failures", [1, 3])
def test_closing_after_an_outage_it_writes_everything_and_leaves_no_gap(fs: ShakyFileSystem, failures: int) -> None:
    log = open_log(fs)
    log.try_append([(b"k", b"1")])
    log.flush()
    fs.is_down = True
    log.try_append([(b"k", b"2")])
    for _ in range(failures):
        with pytest.raises(StorageError):
            log.flush()
    fs.is_down = False

    log.close()

    with open_log(fs) as again:
        assert values(again, b"k") == [b"1", b"2"]
        assert again.try_append([(b"k", b"3")]).start_sequence == 2


def test_after_an_outage_appends_go_on_by_themselves_although_nobody_flushes(fs: ShakyFileSystem) -> None:
    with open_log(fs) as log:
        fs.is_down = True
        log.try_append([(b"k", b"1")])
        with pytest.raises(StorageError):
            log.flush()
        fs.is_down = False

        assert log.subscribe_durable().wait(0, timeout=30) == 1

        assert log.try_append([(b"k", b"2")]).start_sequence == 1


def test_a_close_that_cannot_succeed_any_more_tells_what_may_be_lost(fs: ShakyFileSystem) -> None:
    log = open_log(fs)
    log.try_append([(b"k", b"1")])
    log.flush()
    log.try_append([(b"k", b"2"), (b"k", b"3")])
    log._db.fail(lsm.InternalError("a bug"))

    with pytest.raises(
        InternalError, match="sequences from 1 to 2 are not known to be durable: they may be lost"
    ) as lost:
        log.close()
    log.close()

    assert not lost.value.retryable
    with open_log(fs) as again:
        assert values(again, b"k") == [b"1"]
