"""`python -m benchmarks [SCENARIO ...]`: run the comparison, print the table, keep the JSON."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report, rounds
from benchmarks.scenarios import BY_NAME, SCENARIOS
from benchmarks.stores import NAMES, PEERS, missing
from benchmarks.workloads import VALUE_KINDS
from opendata_log.bench.machine import machine_facts

_LATEST = Path(__file__).resolve().parent / "results" / "latest.json"


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 measured, 1 a measurement failed, 2 bad options, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in options.scenarios:  # argparse's own `choices` beside nargs="*" would refuse an empty list.
        if name not in BY_NAME:
            parser.error(f"unknown scenario {name!r}; choose from {', '.join(BY_NAME)}")
    plan = _plan(options)
    if not plan.stores:
        print("benchmarks: none of the stores can run here", file=sys.stderr)
        return 1
    start = time.monotonic()
    try:
        outcomes = rounds.conduct(plan, lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    document = report.document(outcomes, _machine(), time.monotonic() - start)
    whole = not options.scenarios and options.records is None
    path = options.json or (_LATEST if whole else _LATEST.with_name(f"{'-'.join(options.scenarios) or 'sized'}.json"))
    report.write(document, path)
    facts = document["machine"]
    print(f"CPython {facts['python']}, {facts['cores']} cores, {facts['platform']}; {plan.rounds} rounds")
    print(report.table(report.lines(outcomes), colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    print(f"{document['seconds']:.0f} s; all figures in {path}")
    failed = sum(len(outcome.failures) for outcome in outcomes)
    if failed:
        print(f"{failed} measurements failed; reasons above and in the JSON")
    return 1 if failed else 0


def _plan(options: argparse.Namespace) -> rounds.Plan:
    wanted = ["ours", *options.peers] if options.peers is not None else list(NAMES)
    stores = []
    for name in wanted:
        reason = missing(name)
        if reason is None:
            stores.append(name)
        else:
            print(f"benchmarks: leaving out {name}: {reason}", file=sys.stderr)
    return rounds.Plan(
        scenarios=[BY_NAME[name] for name in options.scenarios] or SCENARIOS,
        stores=stores,
        forced=options.peers is not None,
        rounds=options.rounds,
        records=options.records,
        kind=options.values,
        directory=options.dir,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="OpenData Log beside SlateDB, RocksDB, LMDB and SQLite, from Python, on this machine.",
        epilog="Scenarios: " + ", ".join(BY_NAME) + ". Stores: " + ", ".join(NAMES) + ".",
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="run only these (default: all)")
    parser.add_argument("--rounds", type=_positive, default=3, help="rounds to take the median of (default 3)")
    parser.add_argument("--records", type=_positive, metavar="N", help="records, instead of each scenario's default")
    parser.add_argument("--peers", type=_peers, metavar="A,B", help="compare with exactly these ('' for none)")
    parser.add_argument("--values", choices=VALUE_KINDS, help="kind of values (default random)")
    parser.add_argument("--dir", metavar="PATH", help="where the stores put their files (default: the temp directory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (default benchmarks/results/)")
    return parser


def _positive(text: str) -> int:
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"unknown store {name!r}; choose from {', '.join(PEERS)}")
    return names


def _machine() -> dict[str, Any]:
    facts = machine_facts(("slatedb", "rocksdict", "lmdb", "zstandard", "fsspec"))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=_LATEST.parent, capture_output=True, text=True, check=False
    )
    facts["commit"] = commit.stdout.strip() or None
    return facts


if __name__ == "__main__":
    sys.exit(main())
