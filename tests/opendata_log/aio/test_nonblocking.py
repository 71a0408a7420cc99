"""The seam of reads: whatever is read without waiting is answered as the log answers it, or refused before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lsm
from opendata_log import InvalidInputError, LogDb, LogDbReader
from opendata_log.aio.nonblocking import MomentSource, NonBlockingSource, PiecewiseSource
from opendata_log.model.errors import WouldBlock
from opendata_log.read.reads import Reads

Read = Callable[[Reads], Any]
ANSWERED: dict[str, Read] = {
    "scan": lambda reads: reads.scan(b"k").fetchall(),
    "reverse": lambda reads: reads.scan(b"k", reverse=True).fetchall(),
    "last": lambda reads: reads.scan(b"k", last=2).fetchall(),
    "count": lambda reads: reads.count(b"k", 1),
    "segments": lambda reads: reads.list_segments(),
    "sequence_at": lambda reads: reads.sequence_at(0),
    "tree": lambda reads: reads.tree_summary(),
}
REFUSED: dict[str, Read] = {
    "inspect": lambda reads: reads.inspect(b"k"),
    "keys": lambda reads: reads.list_keys().fetchall(),
    "follow_all": lambda reads: reads.follow_all([b"k"]),
    "drop_cached": lambda reads: reads.drop_cached(),
}
IN_TABLES = ("scan", "reverse", "last", "count")


@pytest.fixture
def log() -> Any:
    with LogDb.open("memory://") as log:
        log.try_append([(key, b"%d" % at) for at in range(4) for key in (b"k", b"l")])
        yield log


@pytest.mark.parametrize("name", ANSWERED)
def test_what_memory_has_is_answered(log: LogDb, name: str) -> None:
    assert ANSWERED[name](Reads(NonBlockingSource(log.source))) == ANSWERED[name](log)


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_take_long_is_refused(log: LogDb, name: str) -> None:
    with pytest.raises(WouldBlock):
        REFUSED[name](Reads(NonBlockingSource(log.source)))


@pytest.mark.parametrize("name", IN_TABLES)
def test_what_is_in_tables_is_refused_and_read_in_pieces(log: LogDb, name: str) -> None:
    log._db.flush(lsm.FlushType.MEMTABLE)

    with pytest.raises(WouldBlock):
        ANSWERED[name](Reads(NonBlockingSource(log.source)))
    assert ANSWERED[name](Reads(PiecewiseSource(log.source))) == ANSWERED[name](log)


@pytest.mark.parametrize("name", [*ANSWERED, "inspect", "keys", "drop_cached"])
def test_pieces_answer_all_that_the_log_does(log: LogDb, name: str) -> None:
    read = {**ANSWERED, **REFUSED}[name]

    assert read(Reads(PiecewiseSource(log.source))) == read(log)


def test_a_moment_is_the_first_view_of_it(log: LogDb) -> None:
    moment = MomentSource(NonBlockingSource(log.source))
    before = log.scan(b"k").fetchall()

    assert moment.seen is None
    assert Reads(moment).scan(b"k").fetchall() == before
    log.try_append([(b"k", b"later")])
    assert Reads(moment).scan(b"k").fetchall() == before
    assert Reads(MomentSource(log.source, moment.seen)).scan(b"k").fetchall() == before


def test_a_reader_that_has_to_load_its_segments_refuses_before_it_does(tmp_path: Any) -> None:
    with LogDb.open(tmp_path) as log:
        log.append(b"k", b"v", durable=True)
        with LogDbReader.open(tmp_path, refresh_interval=3600) as reader:
            nowait = Reads(NonBlockingSource(reader.source))
            with pytest.raises(InvalidInputError):
                nowait.scan(b"")
            with pytest.raises(WouldBlock):
                nowait.scan(b"k")
            with pytest.raises(WouldBlock):
                nowait.sequence_at(0)
            assert reader.count(b"k") == 1
            assert nowait.count(b"k") == 1
            with pytest.raises(WouldBlock):
                nowait.sequence_at(0)
