"""The comparison as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rounds import Outcome
from benchmarks.scenarios import Row


@dataclass(frozen=True)
class Line:
    """One line of the table. `met` is None if no goal is set or our store did not run."""

    scenario: str
    label: str
    unit: str
    peer: str
    ratio: float | None
    low: float | None
    high: float | None
    goal: str
    met: bool | None
    ours: float | None
    theirs: float | None


def lines(outcomes: Sequence[Outcome]) -> list[Line]:
    """Every row against every peer, in the order of the scenarios; without a peer, our own figure once."""
    return [line for outcome in outcomes for row in outcome.scenario.rows for line in _lines(outcome, row)]


def _lines(outcome: Outcome, row: Row) -> Iterator[Line]:
    name, ours = outcome.scenario.name, outcome.median("ours", row.metric)
    peers = [store for store in outcome.rounds if store != "ours"]
    if row.limit is not None or not peers:
        goal = "" if row.limit is None else f"{'≥' if row.more_is_better else '≤'} {row.limit:g}"
        met = (
            None
            if row.limit is None or ours is None
            else (ours >= row.limit) is row.more_is_better or ours == row.limit
        )
        yield Line(name, row.label, row.unit, "", None, None, None, goal, met, ours, None)
    for peer in peers:
        ratios, target = outcome.ratios(row, peer), row.goals.get(peer)
        middle = median(ratios) if ratios else None
        met = None if target is None or middle is None else middle >= target
        low, high = (min(ratios), max(ratios)) if ratios else (None, None)
        goal = "" if target is None else f"≥ {target:g}x"
        theirs = outcome.median(peer, row.metric)
        yield Line(name, row.label, row.unit, peer, middle, low, high, goal, met, ours, theirs)


_WIDTHS = (32, 10, 7, 8, 2, 9, 9, 6, 13)
_TITLES = ("", "against", "ratio", "goal", "", "ours", "peer", "", "spread")


def table(found: Sequence[Line], *, colour: bool) -> str:
    """Lines under a heading; a repeated label is left out. A tick marks a met goal, a cross a missed one."""
    out = [_joined(_TITLES), "─" * (sum(_WIDTHS) + len(_WIDTHS) - 1)]
    previous: tuple[str, str] | None = None
    for line in found:
        group = (line.scenario, line.label)
        if previous is not None and previous[0] != line.scenario:
            out.append("")
        out.append(_coloured(line, _line(line, repeated=group == previous), colour))
        previous = group
    goals = [line.met for line in found if line.met is not None]
    if goals:
        out += ["", f"{sum(goals)} of {len(goals)} goals met"]
    return "\n".join(out)


def _line(line: Line, *, repeated: bool) -> str:
    ratio = "" if line.ratio is None else f"{_short(line.ratio)}x"
    spread = "" if line.low is None or line.high is None else f"{_short(line.low)} .. {_short(line.high)}"
    mark = {None: "", True: "✓", False: "✗"}[line.met]
    ours, theirs = _figure(line.ours), _figure(line.theirs)
    label = "" if repeated else line.label
    return _joined((label, line.peer, ratio, line.goal, mark, ours, theirs, line.unit, spread))


def _joined(cells: Sequence[str]) -> str:
    aligned = [
        cell.ljust(width) if number in (0, 1, 4, 7) else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, _WIDTHS))
    ]
    return " ".join(aligned).rstrip()


def _coloured(line: Line, text: str, colour: bool) -> str:
    if not colour or line.met is None:
        return text
    return f"\x1b[{32 if line.met else 31}m{text}\x1b[0m"


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    if value >= 1e4:
        return f"{value / 1e3:.0f} k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def document(outcomes: Sequence[Outcome], machine: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All measurements, round by round, with the data needed to judge them later."""
    return {
        "format": 1,
        "machine": machine,
        "seconds": round(seconds, 1),
        "lines": [asdict(line) for line in lines(outcomes)],
        "scenarios": [
            {
                "name": outcome.scenario.name,
                "steps": outcome.scenario.steps,
                "options": dict(outcome.scenario.options),
                "workloads": {store: asdict(workload) for store, workload in outcome.workloads.items()},
                "rounds": outcome.rounds,
                "failures": outcome.failures,
            }
            for outcome in outcomes
        ],
    }


def write(document: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
