"""`inspect` and `tree_summary`: where records are, and that the parts add up to what `count` and `scan` say."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsm
from opendata_log import Config, InvalidInputError, LogDb, LogDbReader, ReadVisibility
from tests.opendata_log.support import tiny

NAMES = itertools.count()
"""For stores that a log is opened in again."""

QUIET = tiny(compaction_enabled=False, l0_sst_size_bytes=1 << 20)


def flushed(log: LogDb, storage: str, engine: lsm.Settings) -> LogDb:
    """The same log with everything in tables, one more level-0 table for what was in memory."""
    log.close()
    return LogDb.open(storage=storage, engine=engine)


def test_records_in_memory_are_the_tail() -> None:
    with LogDb.open(storage="memory://", engine=QUIET) as log:
        log.try_append([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])

        found = log.inspect(b"a")

        assert (found.total, log.count(b"a")) == (2, 2)
        assert [(one.segment_id, one.count, one.tail_scanned) for one in found.segments] == [(1, 2, 2)]
        assert found.reads.l0 == found.reads.sorted_runs == lsm.TierCount()


def test_records_in_level_0_and_in_memory_are_told_apart() -> None:
    with_l0 = LogDb.open(storage="memory://inspect-l0", engine=QUIET)
    with_l0.try_append([(b"a", b"1"), (b"b", b"2")])
    with_l0 = flushed(with_l0, "memory://inspect-l0", QUIET)
    with_l0.try_append([(b"b", b"3")])
    with flushed(with_l0, "memory://inspect-l0", QUIET) as log:
        log.try_append([(b"a", b"4")])

        a, b, none = log.inspect(b"a"), log.inspect(b"b"), log.inspect(b"c")

        assert a.reads.l0 == lsm.TierCount(ssts_total=2, ssts_with_data=1, blocks_with_data=1, records=1)
        assert (a.total, a.segments[0].tail_scanned) == (2, 1)
        assert b.reads.l0 == lsm.TierCount(ssts_total=2, ssts_with_data=2, blocks_with_data=2, records=2)
        assert none.reads.l0 == lsm.TierCount(ssts_total=2)
        assert none.total == 0


def test_records_in_sorted_runs_span_blocks() -> None:
    storage = "memory://inspect-runs"
    with LogDb.open(storage=storage, engine=tiny()) as log:
        for number in range(40):
            log.try_append([(b"a", b"%050d" % number)])
        log.seal_segment()
        log.try_append([(b"z", b"")])
    with LogDb.open(storage=storage, engine=tiny()) as log:
        assert log.wait_idle(30)
        first = log.inspect(b"a").segments[0]
        part = log.inspect(b"a", 10, 12).reads

        assert first.reads.l0.records == 0
        assert (first.count, first.reads.sorted_runs.records, first.reads.sorted_runs.runs) == (40, 40, 1)
        assert first.reads.sorted_runs.blocks_with_data >= 20
        assert first.reads.sorted_runs.ssts_with_data == first.reads.sorted_runs.ssts_total
        assert (part.sorted_runs.records, part.sorted_runs.ssts_with_data) == (2, 1)
        assert 1 <= part.sorted_runs.blocks_with_data <= 2


def test_every_segment_of_the_range_is_named() -> None:
    with LogDb.open(storage="memory://", engine=QUIET) as log:
        for _ in range(3):
            log.try_append([(b"a", b""), (b"b", b"")])
            log.seal_segment()

        assert [one.segment_id for one in log.inspect(b"a").segments] == [1, 2, 3]
        assert [(one.segment_id, one.count) for one in log.inspect(b"a", 1, 4).segments] == [(1, 0), (2, 1)]
        assert log.inspect(b"a", 4, 4).segments == []
        assert log.inspect(b"a", 100).segments == []


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["append", "append", "seal", "reopen"]), max_size=12),
    start=st.integers(0, 30),
    end=st.none() | st.integers(0, 40),
)
def test_the_parts_add_up_to_what_a_scan_yields(steps: list[str], start: int, end: int | None) -> None:
    storage = f"memory://inspect-{next(NAMES)}"
    config = Config(storage=storage, engine=tiny())
    log = LogDb.open(config)
    for step in steps:
        if step == "append":
            log.try_append([(key, b"value") for key in (b"a", b"b", b"a")])
        elif step == "seal":
            log.seal_segment()
        else:
            log.close()
            log = LogDb.open(config)
    with log:
        for key in (b"a", b"b", b"c"):
            found = log.inspect(key, start, end)
            wanted = len(log.scan(key, start, end).fetchall())
            assert found.total == log.count(key, start, end) == wanted
            assert found.total == sum(one.count for one in found.segments)
            assert found.total == (
                found.reads.l0.records + found.reads.sorted_runs.records + sum(s.tail_scanned for s in found.segments)
            )


def test_only_what_is_visible_is_inspected() -> None:
    engine = tiny(flush_interval=None)
    with LogDb.open(storage="memory://", engine=engine, read_visibility=ReadVisibility.REMOTE) as log:
        log.try_append([(b"a", b"1")])
        log.flush()
        log.try_append([(b"a", b"2")])

        assert log.inspect(b"a").total == log.count(b"a") == 1


def test_a_reader_inspects_too(tmp_path: Path) -> None:
    with LogDb.open(storage=str(tmp_path), engine=tiny(flush_interval=0)) as log:
        log.try_append([(b"a", b"1"), (b"a", b"2")])
        log.flush()
        with LogDbReader.open(storage=str(tmp_path)) as reader:
            assert reader.inspect(b"a").segments[0].tail_scanned == 2
            assert reader.tree_summary().writer_epoch == log.tree_summary().writer_epoch


@pytest.mark.parametrize("bounds", [(-1, None), (0, -1), (True, None)])
def test_bad_input_is_refused(bounds: tuple[int, int | None]) -> None:
    with LogDb.open(storage="memory://") as log:
        with pytest.raises(InvalidInputError):
            log.inspect(b"a", *bounds)
        with pytest.raises(InvalidInputError):
            log.inspect(b"")


# -- the tree ---------------------------------------------------------------------------------------------------------


def test_the_tree_of_a_new_log_is_small() -> None:
    with LogDb.open(storage="memory://") as log:
        summary = log.tree_summary()

        assert summary.segments == []
        assert summary.estimated_bytes == 0
        assert summary.manifest_id >= 1
        assert summary.writer_epoch == 1


def test_the_tree_names_every_level() -> None:
    storage = "memory://tree"
    with LogDb.open(storage=storage, engine=QUIET) as log:
        log.try_append([(b"a", b"1")])
    with LogDb.open(storage=storage, engine=QUIET) as log:
        summary = log.tree_summary()
        system, user = summary.segments

        assert (system.segment_id, user.segment_id) == (0, 1)
        assert user.prefix == b"\x03\x01\x00\x00\x00\x01"
        assert (user.l0.num_ssts, user.runs, user.total_ssts, user.is_empty) == (1, [], 1, False)
        assert user.estimated_bytes == user.l0.estimated_bytes > 0
        assert summary.estimated_bytes == system.estimated_bytes + user.estimated_bytes
        assert summary.writer_epoch == 2
        assert summary.last_l0_seq > 0
