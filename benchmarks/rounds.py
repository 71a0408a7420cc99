"""Runs scenarios: rounds of all stores in rotating order, one process at a time."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import child
from benchmarks.measurements import Figures, Task
from benchmarks.scenarios import LOADED_BY, Row, Scenario
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Plan:
    """The options of the command line. `stores`: the stores that can run, ours first if it can."""

    scenarios: Sequence[Scenario]
    stores: Sequence[str]
    forced: bool = False
    rounds: int = 3
    records: int | None = None
    kind: str | None = None
    directory: str | None = None

    def stores_of(self, scenario: Scenario) -> list[str]:
        """Our store and the scenario's peers; with `forced`, exactly the stores of the command line."""
        if self.forced:
            return list(self.stores)
        return [name for name in self.stores if name == "ours" or name in scenario.peers]


@dataclass
class Outcome:
    """Figures of one scenario: store to one dict per round (None if it failed), and the failures."""

    scenario: Scenario
    rounds: dict[str, list[Figures | None]]
    workloads: dict[str, Workload]
    failures: list[str] = field(default_factory=list)

    def median(self, store: str, metric: str) -> float | None:
        found = [figures[metric] for figures in self.rounds.get(store, []) if figures and metric in figures]
        return statistics.median(found) if found else None

    def ratios(self, row: Row, peer: str) -> list[float]:
        """Our figure divided by the peer's, or the inverse where less is better, round by round."""
        paired = zip(self.rounds.get("ours", []), self.rounds.get(peer, []))
        pairs = [(ours[row.metric], theirs[row.metric]) for ours, theirs in paired if ours and theirs]
        return [ours / theirs if row.more_is_better else theirs / ours for ours, theirs in pairs if ours and theirs]


def conduct(plan: Plan, tell: Callable[[str], None]) -> list[Outcome]:
    """Run the whole plan. A failed measurement leaves None and a line in `failures`; the other measurements go on."""
    return [_scenario(plan, scenario, tell) for scenario in plan.scenarios]


def _scenario(plan: Plan, scenario: Scenario, tell: Callable[[str], None]) -> Outcome:
    stores = plan.stores_of(scenario)
    workloads = {name: scenario.sized(name, plan.records, plan.kind) for name in stores}
    outcome = Outcome(scenario, {name: [] for name in stores}, workloads)
    box = Path(tempfile.mkdtemp(prefix="opendata-bench-", dir=plan.directory))
    try:
        if scenario.prepare is not None:
            for name in stores:
                _measured(outcome, _task(scenario, scenario.prepare, name, box, workloads), tell, "prepare")
        for number in range(plan.rounds):
            turn = number % len(stores) if stores else 0
            for name in stores[turn:] + stores[:turn]:
                _turn(scenario, outcome, name, box, tell, f"round {number + 1}/{plan.rounds}")
    finally:
        shutil.rmtree(box, ignore_errors=True)
    return outcome


def _turn(scenario: Scenario, outcome: Outcome, name: str, box: Path, tell: Callable[[str], None], title: str) -> None:
    """All steps of one store in one round."""
    figures: Figures | None = {}
    for step in scenario.steps:
        measured = _measured(outcome, _task(scenario, step, name, box, outcome.workloads), tell, title)
        if measured is None or figures is None:
            figures = None
            break
        figures |= measured
    outcome.rounds[name].append(figures)
    if scenario.prepare is None:
        shutil.rmtree(box / name, ignore_errors=True)


def _task(scenario: Scenario, step: str, name: str, box: Path, workloads: dict[str, Workload]) -> Task:
    path = box / name
    path.mkdir(exist_ok=True)
    store = LOADED_BY.get(name, name) if step == scenario.prepare else name
    return Task(step, store, str(path), replace(workloads[name]), dict(scenario.options))


def _measured(outcome: Outcome, task: Task, tell: Callable[[str], None], title: str) -> Figures | None:
    start = time.monotonic()
    try:
        figures = child.run(task)
    except child.MeasurementFailed as error:
        outcome.failures.append(str(error))
        tell(f"{outcome.scenario.name:<12} {title:<11} {task.store:<10} FAILED: {error}")
        return None
    rows = [row for row in outcome.scenario.rows if row.metric in figures]
    shown = f"{figures[rows[0].metric]:>14,.2f} {rows[0].unit}" if rows else ""
    taken = time.monotonic() - start
    tell(f"{outcome.scenario.name:<12} {title:<11} {task.step:<15} {task.store:<10} {taken:5.1f} s {shown}")
    return figures
