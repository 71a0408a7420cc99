"""Some hundred deployments, each run twice. To repeat one: `python -m tests.simulation --first SEED --seeds 1`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lsm.testing.simulated_bucket import ALL_FAULTS
from tests.simulation.__main__ import ALL_KINDS, WORLDS, check_seed
from tests.simulation.__main__ import main as run
from tests.simulation.swarm import swarm
from tests.simulation.world import run_world

SEEDS, SEEDS_LONG = 200, 320
CHUNK = 20
STEPS = 5_000


@contextmanager
def on_one_core() -> Iterator[None]:
    """Passing the baton from core to core costs ten times as much."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=[pytest.mark.slow] if first >= SEEDS else []) for first in range(0, SEEDS_LONG, CHUNK)],
)
def test_deployments_keep_every_promise_and_repeat_bit_for_bit(first: int) -> None:
    with on_one_core():
        rows = [check_seed(seed, STEPS) for seed in range(first, first + CHUNK)]

    assert [(row["seed"], row["anomalies"]) for row in rows if row["anomalies"]] == []
    assert min(row["steps"] for row in rows) >= 2 * STEPS
    assert sum(row["notes"].get("opened", 0) for row in rows) > CHUNK


@pytest.mark.parametrize("world", WORLDS)
def test_every_kind_of_fault_fires_and_nothing_breaks(world: str) -> None:
    fired: Counter[str] = Counter()
    with on_one_core():
        for seed in range(8):
            chosen = swarm(seed)
            faults = {**chosen.faults, "probability": 0.3, "kinds": ALL_FAULTS, "slow_probability": 0.05}
            faults.update(burst_probability=0.01, crash_probability=0.02)
            outcome = run_world(lambda: WORLDS[world](replace(chosen, writers=3, faults=faults), STEPS))
            assert outcome.anomalies == [], seed
            fired += outcome.faults

    assert set(fired) == ALL_KINDS


def test_another_process_with_another_order_of_hashes_repeats_a_seed() -> None:
    command = "from tests.simulation.__main__ import run_seed; print([run_seed(s, 2000).trace for s in (3, 5)])"
    told = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


def test_a_long_run_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.jsonl"
    options = ["--steps", "300", "--once", "--jobs", "2", "--state", str(state)]

    assert run(["--seeds", "3", *options]) == 0
    first = state.read_text("utf-8")
    assert run(["--seeds", "5", *options]) == 0

    assert state.read_text("utf-8").startswith(first)
    assert len(state.read_text("utf-8").splitlines()) == 5
    assert "seeds 5, of them failed 0" in capsys.readouterr().out
