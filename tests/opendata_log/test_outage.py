"""The store goes away and comes back: calls say so, nothing accepted is lost, nothing refused appears."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from opendata_log import AppendStorageError, Config, LogDb, LogDbBuilder, Record, StorageError
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


def test_an_outage_before_the_first_append_it_hands_the_batch_back(fs: ShakyFileSystem) -> None:
    batch = [Record(b"k", b"v")]
    with open_log(fs) as log:
        fs.is_down = True
        for append in (lambda: log.try_append(batch), lambda: log.append_timeout(batch, 0.1)):
            with pytest.raises(AppendStorageError) as refused:
                append()
            assert (refused.value.records, refused.value.retryable) == (batch, True)

        fs.is_down = False
        log.flush()

        assert log.count(b"k") == 0
        assert log.try_append(batch).start_sequence == 0
        assert log.count(b"k") == 1


def test_closing_in_an_outage_it_says_what_it_could_not_do_and_loses_nothing_durable(fs: ShakyFileSystem) -> None:
    log = open_log(fs)
    log.try_append([(b"k", b"1")])
    log.flush()
    log.try_append([(b"k", b"2")])
    fs.is_down = True

    with pytest.raises(StorageError, match="the store is down"):
        log.close()
    log.close()

    fs.is_down = False
    with open_log(fs) as again:
        assert values(again, b"k") == [b"1"]
        assert again.try_append([(b"k", b"3")]).start_sequence >= 2
