"""Kills and freezes of writers, and checks of the log afterwards."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

from opendata_log import LogDb
from tests.crashes.child import Pair, batches, config_of
from tests.crashes.ledger import Child, Ledger, rows_of

LAZY = {"flush_interval": 3600.0, "wal_object_bytes": 1 << 20, "l0_sst_size_bytes": 1 << 20}
"""Nothing is sent before a caller waits for it."""


def round_of_death(spec: dict[str, Any], ledger: Ledger, chance: random.Random) -> None:
    """A child writes and is killed at a random moment. Then this process opens the log and compares it."""
    child = Child(spec)
    child.listen_for("opened")
    for _ in range(chance.randrange(12)):
        child.listen()
    time.sleep(chance.random() * 0.05)
    child.kill()
    with LogDb.open(config_of(spec)) as log:
        ledger.check(log, child)


def killed_while_it_opens(spec: dict[str, Any], ledger: Ledger, chance: random.Random) -> None:
    child = Child({**spec, "waits": True})
    child.listen_for("ready")
    child.tell("go")
    time.sleep(chance.random() * 0.03)
    child.kill()
    with LogDb.open(config_of(spec)) as log:
        ledger.check(log, child)


def killed_before_anything_is_durable(place: dict[str, Any], seed: int) -> None:
    """A child gets sequences, and dies before its log object is sent: no writer may get one of them again (rule S1)."""
    child = Child({**place, "seed": seed, "flushes": 0.0, "says_all": True, "engine": LAZY})
    child.listen_for("opened")
    seen = [int(child.listen_for("accepted")[1]) for _ in range(3)]
    child.kill()
    with LogDb.open(config_of(place)) as log:
        given = log.try_append([(b"mine", b"after")]).start_sequence
    assert given > max(seen), f"{given} was given again: another process had been told {seen}"


def check_acknowledged(child: Child, rows: dict[int, Pair]) -> None:
    """Assert that the log holds every record acknowledged to the child as durable, under its sequence."""
    if child.first is None:
        return
    at = child.first
    for batch in batches(child.spec["seed"]):
        for pair in batch:
            if at >= child.durable:
                return
            assert rows[at] == pair, f"{at} of {child.spec['seed']}, durable up to {child.durable}"
            at += 1


def stop_and_go(place: dict[str, Any]) -> None:
    """A writer freezes in the middle of its work, another takes over, and the first continues."""
    child = Child({**place, "seed": 1, "flushes": 0.2})
    for _ in range(6):
        child.listen()
    child.signal(signal.SIGSTOP)
    try:
        with LogDb.open(config_of({**place, "seed": 0})) as log:
            mine = log.try_append([(b"mine", b"%d" % number) for number in range(500)]).start_sequence
            log.flush()
            assert log.durable_sequence == mine + 500
            child.signal(signal.SIGCONT)
            child.end()
            second = log.try_append([(b"mine", b"after")]).start_sequence
            log.flush()
            found = {sequence: (key, value) for sequence, key, value in rows_of(log)}
    finally:
        child.process.kill()
        child.process.wait()

    assert child.last[0] == "fenced"
    assert "FencedError" in child.last
    check_acknowledged(child, found)
    assert [found[mine + number] for number in range(500)] == [(b"mine", b"%d" % number) for number in range(500)]
    assert found[second] == (b"mine", b"after")
    with LogDb.open(config_of({**place, "seed": 0})) as log:
        assert {sequence: (key, value) for sequence, key, value in rows_of(log)} == found
