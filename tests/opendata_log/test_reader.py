"""A reader beside a writer: what is durable, in order, without gaps, whatever is compacted and collected meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opendata_log import (
    ClosedError,
    InvalidInputError,
    LogDb,
    LogDbReader,
    LogRead,
    ReaderConfig,
    ScanOptions,
    SnapshotExpired,
)
from tests.opendata_log.support import tiny


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogDb]:
    with LogDb.open(storage=str(tmp_path), engine=tiny()) as log:
        yield log


@pytest.fixture
def reader(tmp_path: Path, writer: LogDb) -> Iterator[LogDbReader]:
    with LogDbReader.open(storage=str(tmp_path), refresh_interval=1000.0) as opened:
        yield opened


def everything(log: Any) -> Any:
    keys = [found.key for found in log.list_keys()]
    return (
        keys,
        [list(log.scan(key)) for key in keys],
        [log.count(key) for key in keys],
        [(one.id, one.start_seq, one.start_time_ms) for one in log.list_segments()],
    )


def test_an_empty_log_it_reads_as_empty(reader: LogDbReader) -> None:
    found = reader.scan(b"k", 3)

    assert isinstance(reader, LogRead)
    assert everything(reader) == ([], [], [], [])
    assert found.fetchall() == []
    assert found.next_sequence == 3


def test_what_is_durable_it_sees_after_a_refresh(writer: LogDb, reader: LogDbReader) -> None:
    writer.try_append([(b"k", b"1"), (b"j", b"2")])
    reader.refresh()
    assert reader.count(b"k") == 0

    writer.flush()
    assert reader.count(b"k") == 0
    reader.refresh()

    assert everything(reader) == everything(writer)
    found = reader.scan(b"k")
    assert [entry.value for entry in found] == [b"1"]
    assert 1 <= found.next_sequence <= 2


def test_segments_tables_and_reopens_it_follows_them(tmp_path: Path, reader: LogDbReader, writer: LogDb) -> None:
    for turn in range(12):
        writer.try_append([(b"k%d" % (turn % 3), b"v" * 200)] * 5)
        if turn % 4 == 3:
            writer.seal_segment()
        writer.flush()
        reader.refresh()
        assert everything(reader) == everything(writer)
    writer.wait_idle(30)
    writer.collect_garbage(min_age=0)
    reader.refresh()
    assert everything(reader) == everything(writer)
    writer.close()
    with LogDb.open(storage=str(tmp_path), engine=tiny()) as again:
        again.try_append([(b"new", b"v")])
        again.flush()
        reader.refresh()
        assert everything(reader) == everything(again)


def test_it_discovers_new_data_by_itself(tmp_path: Path, writer: LogDb) -> None:
    with LogDbReader.open(ReaderConfig(storage=str(tmp_path), refresh_interval=0.01)) as reader:
        writer.try_append([(b"k", b"v")])
        writer.flush()

        ticks = threading.Event()
        for _ in range(3000):
            if reader.count(b"k"):
                break
            ticks.wait(0.01)

        assert reader.count(b"k") == 1


def test_resuming_beside_a_busy_writer_it_omits_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    engine = tiny(flush_interval=0.001, gc_interval=0.01)
    total = 4000
    with LogDb.open(storage=str(tmp_path), engine=engine, segmentation={"seal_byte_limit": 3000}) as log:
        log.flush()

        def write() -> None:
            for turn in range(0, total, 10):
                log.append_timeout([(b"key", b"%d" % (turn + at)) for at in range(10)], 30)
            log.flush()

        thread = threading.Thread(target=write)
        thread.start()
        seen: list[tuple[int, bytes]] = []
        with LogDbReader.open(storage=str(tmp_path), refresh_interval=1000.0) as reader:
            at = 0
            while len(seen) < total:
                is_over = not thread.is_alive()
                reader.refresh()
                found = reader.scan(b"key", at, options=ScanOptions(limit=300))
                try:
                    part = [(entry.sequence, entry.value) for entry in found]
                except SnapshotExpired:
                    continue
                assert part or not is_over, f"{len(seen)} seen and no more to come"
                seen += part
                assert found.next_sequence >= at
                at = found.next_sequence
        thread.join()

    assert seen == [(number, b"%d" % number) for number in range(total)]


def test_a_closed_reader_every_call_says_so(tmp_path: Path, writer: LogDb) -> None:
    reader = LogDbReader.open(storage=str(tmp_path))
    reader.close()
    reader.close()

    for call in (
        lambda: reader.scan(b"k"),
        lambda: reader.count(b"k"),
        lambda: reader.list_keys(),
        lambda: reader.list_segments(),
        lambda: reader.refresh(),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_a_reader_it_writes_nothing(tmp_path: Path) -> None:
    with LogDb.open(storage=str(tmp_path)) as log:
        log.try_append([(b"k", b"v")])
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())

    with LogDbReader.open(storage=str(tmp_path)) as reader:
        assert reader.count(b"k") == 1

    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("arguments", [(b"",), (b"k", -1), (b"k", 0, -1), (5,)])
def test_bad_arguments_it_refuses_them_like_a_log(reader: LogDbReader, arguments: Any) -> None:
    with pytest.raises(InvalidInputError):
        reader.scan(*arguments)
    with pytest.raises(InvalidInputError):
        reader.count(*arguments)


@pytest.mark.parametrize("options", [{"refresh_interval": 0}, {"refresh_intervall": 1}, {"storage": 5}])
def test_bad_configurations_it_refuses_them(options: Any) -> None:
    with pytest.raises(InvalidInputError):
        LogDbReader.open(**options)
