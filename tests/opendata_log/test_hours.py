"""What a handle holds on to after hours: objects are counted, memory is not measured."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import lsm
from lsm.object_store import MemoryStore
from opendata_log import Config, Error, LogDb, LogDbBuilder, ReadVisibility
from opendata_log.model.config import ReaderConfig
from opendata_log.reader import LogDbReader
from tests.opendata_log.support import tiny

SLACK = 40
"""Objects more or less between two counts: a batch under way, a table, a cached block."""


def growth(act: Callable[[], Any], rounds: int) -> dict[str, int]:
    """Objects that `rounds` more rounds of `act` leave behind, where more do than once as many did before."""

    def count() -> Counter[str]:
        gc.collect()
        return Counter(type(each).__qualname__ for each in gc.get_objects())

    for _ in range(rounds):
        act()
    before = count()
    for _ in range(rounds):
        act()
    return {name: found - before[name] for name, found in count().items() if found - before[name] > SLACK}


def pair(store: MemoryStore, **engine: Any) -> tuple[LogDb, LogDbReader]:
    log = LogDbBuilder(Config(storage="memory://", engine=tiny(**engine))).with_object_store(store).build()
    log.try_append([(b"k", b"0")])
    log.flush()
    return log, LogDbReader(ReaderConfig(storage="memory://", refresh_interval=1e6), object_store=store)


def test_an_idle_writer_and_a_reader_that_polls_keep_nothing() -> None:
    log, reader = pair(MemoryStore())
    watch = log.subscribe_durable()

    def idle() -> None:
        reader.refresh()
        reader._db._poll(look=False)
        log.flush()
        log.collect_garbage(min_age=0)
        log.create_checkpoint(lifetime=0.000001)
        with pytest.raises(TimeoutError):
            watch.wait(1 << 40, timeout=0)
        for each in (log, reader):
            list(each.follow(b"k", 1, timeout=0.0))
            assert each.count(b"k") == 1
            each.status()

    assert growth(idle, 150) == {}
    reader.close()
    log.close()


@pytest.mark.parametrize("visibility", ReadVisibility)
def test_what_is_appended_flushed_compacted_and_polled_is_let_go_of(visibility: ReadVisibility) -> None:
    log, reader = pair(MemoryStore(), l0_sst_size_bytes=1 << 20, max_sst_size=1 << 20)

    def go_on() -> None:
        for _ in range(10):
            log.try_append([(b"k", b"x" * 50), (b"other", b"")])
        log.flush()
        reader.refresh()
        assert log.durable_sequence == reader.source.view()[1]
        log._db.compact()
        log.collect_garbage(min_age=0)
        reader.refresh()

    assert growth(go_on, 20) == {}
    reader.close()
    log.close()


def test_calls_of_a_handle_that_can_do_nothing_any_more_leave_nothing_behind() -> None:
    """An error that is raised again and again must not hold the frames of all who got it."""
    log, reader = pair(MemoryStore())
    log._db.fail(lsm.InternalError("the disk is on fire"))
    reader._db._failed(lsm.CorruptionError("the log is torn"))
    db = lsm.Db.open("memory://")
    db.close()
    calls: list[Callable[[], Any]] = [
        lambda: log.try_append([(b"k", b"x")]),
        log.flush,
        log.seal_segment,
        lambda: list(log.scan(b"k")),
        log._db.wait_space,
        lambda: log._db.put(b"\x00", b""),
        lambda: reader.count(b"k"),
        lambda: list(reader.scan(b"k")),
        lambda: db.get(b"k"),
        db.flush,
    ]

    def call() -> None:
        for each in calls:
            with pytest.raises((Error, lsm.Error)):
                each()

    assert growth(call, 100) == {}
    reader.close()
    with pytest.raises(Error):
        log.close()
