"""kill -9 in the middle of work: what was durable is there, byte for byte, and what is there is a prefix."""

from __future__ import annotations

import random
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from opendata_log import LogDb
from tests.crashes.child import batches, config_of
from tests.crashes.ledger import Child, Ledger
from tests.servers.s3 import Ministack, Seaweed

BLOCK_MAX = 1 << 20


def round_of_death(spec: dict[str, Any], ledger: Ledger, chance: random.Random) -> None:
    """A child writes, is killed at a random moment; the log is opened here and compared."""
    child = Child(spec)
    child.listen_for("opened")
    for _ in range(chance.randrange(12)):
        child.listen()
    time.sleep(chance.random() * 0.05)
    child.kill()
    with LogDb.open(config_of(spec)) as log:
        ledger.check(log, child)


def test_kill_nine_loses_nothing_durable_on_local_files_it_keeps_a_prefix(tmp_path: Path) -> None:
    chance, ledger = random.Random(20), Ledger()

    for seed in range(20):
        round_of_death({"url": str(tmp_path), "seed": seed}, ledger, chance)

    assert len(ledger.rows) > 1000


def test_a_process_killed_while_it_opens_harms_nothing_it_is_opened_again(tmp_path: Path) -> None:
    chance, ledger = random.Random(7), Ledger()
    spec = {"url": str(tmp_path), "seed": 1000}
    round_of_death(spec, ledger, chance)

    for seed in range(6):
        child = Child({"url": str(tmp_path), "seed": seed, "waits": True})
        child.listen_for("ready")
        child.tell("go")
        time.sleep(chance.random() * 0.03)
        child.kill()
        with LogDb.open(config_of(spec)) as log:
            ledger.check(log, child)


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


@pytest.mark.s3
def test_kill_nine_on_ministack_it_keeps_a_prefix(ministack: Ministack) -> None:
    chance, ledger = random.Random(5), Ledger()
    place = {"url": ministack.url("kill"), "storage_options": ministack.storage_options}

    for seed in range(3):
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
