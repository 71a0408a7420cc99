"""Two processes open one log: one owns it, the other gets an error, and no acknowledged record is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opendata_log import AppendError, FencedError, LogDb, StorageConfig
from tests.crashes.child import config_of
from tests.crashes.ledger import Child, rows_of
from tests.crashes.rounds import check_acknowledged, stop_and_go
from tests.servers.s3 import Ministack

ROUNDS, ROUNDS_LONG = 6, 50
ROUNDS_S3, ROUNDS_S3_LONG = 2, 10


def race(place: dict[str, Any], round_number: int) -> None:
    """Two processes open and write at once. Afterwards one of them is the owner, or was until it had finished."""
    children = [
        Child({**place, "seed": 100 * round_number + at, "batches": 40, "flushes": 0.2, "waits": True}) for at in (1, 2)
    ]
    for child in children:
        child.listen_for("ready")
    for child in children:
        child.tell("go")
    for child in children:
        child.end()

    with LogDb.open(config_of({**place, "seed": 0})) as log:
        rows = {sequence: (key, value) for sequence, key, value in rows_of(log)}
    ends = [child.last for child in children]
    assert ["done"] in ends, f"somebody has to own it: {ends}"
    for child in children:
        assert child.last[0] in ("done", "fenced"), child.last
        if child.last[0] == "fenced":
            assert "FencedError" in child.last
            assert child.last[1] != "append" or "AppendError" in child.last
        check_acknowledged(child, rows)


def test_processes_that_race_to_open_local_files_one_owns_it(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        race({"url": str(tmp_path / str(number // 3))}, number)


@pytest.mark.slow
def test_fifty_races_one_owns_it(tmp_path: Path) -> None:
    for number in range(ROUNDS_LONG):
        race({"url": str(tmp_path / str(number // 10))}, number)


@pytest.mark.s3
def test_processes_that_race_to_open_ministack_one_owns_it(ministack: Ministack) -> None:
    for number in range(ROUNDS_S3):
        race({"url": ministack.url("race"), "storage_options": ministack.storage_options}, number)


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_races_on_ministack_one_owns_it(ministack: Ministack) -> None:
    for number in range(ROUNDS_S3_LONG):
        race({"url": ministack.url("races"), "storage_options": ministack.storage_options}, number)


def test_a_frozen_writer_wakes_up_fenced_on_local_files_it_loses_nothing(tmp_path: Path) -> None:
    stop_and_go({"url": str(tmp_path)})


@pytest.mark.s3
def test_a_frozen_writer_wakes_up_fenced_on_ministack_it_loses_nothing(ministack: Ministack) -> None:
    stop_and_go({"url": ministack.url("frozen"), "storage_options": ministack.storage_options})


def test_an_append_after_the_takeover_it_raises_what_is_both_append_and_fenced_error(tmp_path: Path) -> None:
    first = LogDb.open(storage=str(tmp_path))
    first.try_append([(b"k", b"1")])
    first.flush()

    with LogDb.open(storage=str(tmp_path)) as second:
        second.try_append([(b"k", b"2")])
        first.try_append([(b"k", b"3")])
        with pytest.raises(FencedError):
            first.flush()
        with pytest.raises(AppendError) as refused:
            first.try_append([(b"k", b"4")])

    assert isinstance(refused.value, FencedError)
    assert refused.value.records is None
    assert not refused.value.retryable
    with pytest.raises(FencedError):
        first.close()


def test_closing_a_fenced_writer_with_records_at_risk_it_says_so(tmp_path: Path) -> None:
    first = LogDb.open(storage=StorageConfig(url=str(tmp_path)), engine={"flush_interval": None})
    first.try_append([(b"k", b"1")])
    LogDb.open(storage=str(tmp_path)).close()

    with pytest.raises(FencedError, match="sequences from 0 to 0"):
        first.close()

    first.close()


def test_closing_a_fenced_writer_that_lost_nothing_it_is_quiet(tmp_path: Path) -> None:
    first = LogDb.open(storage=str(tmp_path))
    first.try_append([(b"k", b"1")])
    first.flush()
    LogDb.open(storage=str(tmp_path)).close()

    first.close()

    with LogDb.open(storage=str(tmp_path)) as log:
        assert log.count(b"k") == 1
