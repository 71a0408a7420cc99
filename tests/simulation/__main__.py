"""Run seeds: `python -m tests.simulation --seeds 1000`. Every seed runs twice, and both runs must be the same.

The long run keeps a file of what it has done, and goes on from there: `make soak`. docs/simulation.md says how to read it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lsm.testing.simulated_bucket import ALL_FAULTS
from tests.simulation.log_world import LogWorld
from tests.simulation.rows_world import RowsWorld
from tests.simulation.swarm import swarm
from tests.simulation.world import Outcome, World, run_world

SEEDS_FOR_ALL_KINDS = 300
ALL_KINDS = {fault.value for fault in ALL_FAULTS} | {
    "pair",
    "slow",
    "outage",
    "crash before",
    "crash, reply lost",
    "crash after",
    "crash, late",
}
WORLDS: dict[str, type[World]] = {"log": LogWorld, "rows": RowsWorld}


def world_of(seed: int) -> str:
    """Two seeds in three are about the log, one about the plain database."""
    return "rows" if seed % 3 == 2 else "log"


def run_seed(seed: int, steps: int, world: str | None = None) -> Outcome:
    """One run of a seed."""
    kind = WORLDS[world or world_of(seed)]
    outcome = run_world(lambda: kind(swarm(seed), steps))
    gc.collect()
    return outcome


def check_seed(seed: int, steps: int, world: str | None = None, *, twice: bool = True) -> dict[str, Any]:
    """A seed's row of the report."""
    began = time.perf_counter()
    first = run_seed(seed, steps, world)
    anomalies = list(first.anomalies)
    total = first.steps
    if twice:
        again = run_seed(seed, steps, world)
        total += again.steps
        if again.trace != first.trace:
            anomalies.append(("not deterministic", f"{first.trace} and {again.trace}"))
    return {
        "seed": seed,
        "world": world or world_of(seed),
        "steps": total,
        "virtual_seconds": round(first.seconds, 1),
        "seconds": round(time.perf_counter() - began, 3),
        "trace": first.trace,
        "anomalies": anomalies,
        "faults": dict(first.faults),
        "notes": dict(first.notes),
    }


def _worker(options: argparse.Namespace) -> None:
    if hasattr(os, "sched_setaffinity"):  # Passing the baton between cores costs ten times as much.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[options.worker % len(cores)]})
    done = {row["seed"] for row in _rows(options.state)}
    for seed in range(options.first + options.worker, options.first + options.seeds, options.jobs):
        if seed not in done:
            row = check_seed(seed, options.steps, options.world, twice=not options.once)
            print(json.dumps(row), flush=True)


def _rows(state: Path | None) -> list[dict[str, Any]]:
    """What a run before this one has done. A last line that was cut off counts for nothing."""
    if state is None or not state.exists():
        return []
    return [json.loads(line) for line in state.read_text("utf-8").split("\n")[:-1]]


class Report:
    """What the rows add up to."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["seed"]] = row

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [row for row in self.rows.values() if row["anomalies"]]

    @property
    def never_fired(self) -> list[str]:
        """Kinds of faults that no seed has met: after this many, something is wrong with the simulation itself."""
        fired = {name for row in self.rows.values() for name in row["faults"]}
        return sorted(ALL_KINDS - fired) if len(self.rows) >= SEEDS_FOR_ALL_KINDS else []

    def text(self) -> str:
        rows = list(self.rows.values())
        faults: Counter[str] = Counter()
        notes: Counter[str] = Counter()
        for row in rows:
            faults.update(row["faults"])
            notes.update(row["notes"])
        seconds = sum(row["seconds"] for row in rows)
        steps = sum(row["steps"] for row in rows)
        lines = [
            f"seeds {len(rows)}, of them failed {len(self.failed)}",
            f"steps {steps:,}, {steps / max(seconds, 1e-9):,.0f} a second and core",
            f"virtual hours {sum(row['virtual_seconds'] for row in rows) / 3600:.1f}",
            "faults " + ", ".join(f"{name} {count:,}" for name, count in sorted(faults.items())),
            "events " + ", ".join(f"{name} {count:,}" for name, count in sorted(notes.items())),
        ]
        if self.never_fired:
            lines.append(f"FAILED: these faults never fired: {self.never_fired}")
        for row in self.failed:
            for kind, detail in row["anomalies"][:3]:
                lines.append(f"FAILED seed {row['seed']} ({row['world']}): {kind}: {detail[:400]}")
        return "\n".join(lines)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5000, help="scheduling points of the first phase")
    parser.add_argument("--world", choices=sorted(WORLDS), help="only this kind (otherwise the seed decides)")
    parser.add_argument("--once", action="store_true", help="do not run each seed a second time")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--state", type=Path, help="keep what is done in this file, and go on from it")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if options.worker is not None:
        _worker(options)
        return 0
    report = Report()
    for row in _rows(options.state):
        report.add(row)
    wanted = range(options.first, options.first + options.seeds)
    given = sys.argv[1:] if arguments is None else arguments
    command = [sys.executable, "-m", "tests.simulation", *given]
    workers = [
        subprocess.Popen([*command, "--worker", str(at)], stdout=subprocess.PIPE, text=True)
        for at in range(options.jobs)
    ]
    _collect(workers, report, options, len(wanted))
    print(report.text())
    return 1 if report.failed or report.never_fired or any(worker.returncode for worker in workers) else 0


def _collect(workers: list[subprocess.Popen[str]], report: Report, options: argparse.Namespace, total: int) -> None:
    """Take in the workers' rows as they come."""
    selector = selectors.DefaultSelector()
    for worker in workers:
        selector.register(worker.stdout, selectors.EVENT_READ)
    told = time.monotonic()
    while selector.get_map():
        for key, _ in selector.select():
            line = key.fileobj.readline()
            if not line:
                selector.unregister(key.fileobj)
                continue
            row = json.loads(line)
            report.add(row)
            if options.state is not None:
                with options.state.open("a", encoding="utf-8") as file:
                    file.write(line)
            for kind, detail in row["anomalies"][:3]:
                print(f"seed {row['seed']} ({row['world']}): {kind}: {detail[:400]}", file=sys.stderr)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{len(report.rows)} of {total} seeds, {len(report.failed)} failed", file=sys.stderr)
    selector.close()
    for worker in workers:
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
