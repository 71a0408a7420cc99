"""kill -9 in the middle of work: the log holds the durable records, byte for byte, and a prefix of the stream."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from opendata_log import LogDb
from tests.crashes import long_run
from tests.crashes.child import batches, config_of
from tests.crashes.ledger import Child, Ledger
from tests.crashes.rounds import killed_before_anything_is_durable, killed_while_it_opens, round_of_death
from tests.servers.s3 import Ministack, Seaweed

BLOCK_MAX = 1 << 20


def lots(every_run: int, long_run: int) -> list[Any]:
    """Numbers of lots of kills: these few in every run, the others in the long run."""
    return [pytest.param(lot, marks=[pytest.mark.slow] if lot >= every_run else []) for lot in range(long_run)]


@pytest.mark.parametrize("lot", lots(3, 6))
def test_kill_nine_loses_nothing_durable_on_local_files_it_keeps_a_prefix(tmp_path: Path, lot: int) -> None:
    chance, ledger = random.Random(20 + lot), Ledger()

    for seed in range(10 * lot, 10 * lot + 10):
        round_of_death({"url": str(tmp_path), "seed": seed}, ledger, chance)

    assert len(ledger.rows) > 1000


def test_a_process_killed_while_it_opens_harms_nothing_it_is_opened_again(tmp_path: Path) -> None:
    chance, ledger = random.Random(7), Ledger()
    round_of_death({"url": str(tmp_path), "seed": 1000}, ledger, chance)

    for seed in range(6):
        killed_while_it_opens({"url": str(tmp_path), "seed": seed}, ledger, chance)


def test_a_long_run_goes_on_where_it_stopped_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_run, "LOT", 2)
    state = tmp_path / "state.jsonl"
    options = ["--s3-kills", "0", "--state", str(state)]

    assert long_run.main(["--kills", "2", *options]) == 0
    first = state.read_text("utf-8")
    state.write_text(first + '{"store": "files", "lo', "utf-8")
    assert long_run.main(["--kills", "3", *options]) == 0

    assert state.read_text("utf-8").startswith(first)
    assert "files: 3 kills, 2 writers stopped and overtaken" in capsys.readouterr().out


def test_sequences_across_kills_leave_gaps_of_at_most_a_block_it_never_gives_one_twice(tmp_path: Path) -> None:
    firsts: list[int] = []
    ends: list[int] = []

    for seed in range(3):
        child = Child({"url": str(tmp_path), "seed": seed, "flushes": 1.0})
        for _ in range(8):
            child.listen()
        child.kill()
        assert child.first is not None
        firsts.append(child.first)
        ends.append(child.durable)

    assert firsts[0] == 0
    for end, following in zip(ends, firsts[1:], strict=False):
        assert end <= following <= end + BLOCK_MAX


def test_a_sequence_that_somebody_was_told_is_never_given_again_though_nothing_was_durable(tmp_path: Path) -> None:
    killed_before_anything_is_durable({"url": str(tmp_path)}, 1)


@pytest.mark.s3
@pytest.mark.parametrize("lot", lots(2, 4))
def test_kill_nine_on_ministack_it_keeps_a_prefix(ministack: Ministack, lot: int) -> None:
    chance, ledger = random.Random(5 + lot), Ledger()
    place = {"url": ministack.url(f"kill-{lot}"), "storage_options": ministack.storage_options}

    for seed in range(5 * lot, 5 * lot + 5):
        round_of_death({**place, "seed": seed}, ledger, chance)

    assert ledger.rows


@pytest.mark.s3
def test_kill_nine_of_writers_and_of_the_server_on_seaweed_it_keeps_a_prefix(seaweed: Seaweed) -> None:
    chance, ledger = random.Random(6), Ledger()
    place = {"url": seaweed.url("kill"), "storage_options": seaweed.storage_options}

    for seed in range(5):
        round_of_death({**place, "seed": seed}, ledger, chance)
        if seed == 2:
            seaweed.restart()

    assert ledger.rows


@pytest.mark.s3
def test_a_server_killed_under_a_writer_comes_back_it_goes_on(seaweed: Seaweed) -> None:
    ledger = Ledger()
    spec = {"url": seaweed.url("outage"), "storage_options": seaweed.storage_options, "seed": 1, "batches": 200}

    child = Child(spec)
    child.listen_for("durable")
    child.listen_for("durable")
    seaweed.restart()
    child.end()

    assert child.last == ["done"]
    with LogDb.open(config_of(spec)) as log:
        ledger.check(log, child)
    assert len(ledger.rows) == sum(map(len, islice(batches(1), 200)))
