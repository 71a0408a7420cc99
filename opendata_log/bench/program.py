"""The benchmark as a program: it reads options, runs the phases, prints a table and optionally writes JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from opendata_log import Error, StorageConfig
from opendata_log.bench.machine import machine_facts
from opendata_log.bench.measure import Measure
from opendata_log.bench.options import Options, parse
from opendata_log.bench.phases import Run
from opendata_log.bench.place import open_place
from opendata_log.bench.progress import open_progress
from opendata_log.bench.table import Style, render
from opendata_log.bench.workload import VerificationError

_PROGRAM = "python -m opendata_log.bench"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status. `arguments` None: those of the process.

    0: measured and verified. 1: the log or its storage failed. 2: bad options. 130: interrupted.
    """
    options = parse(arguments)
    try:
        return _bench(options)
    except VerificationError as error:
        return _refused(f"not verified: {error}", 1)
    except (Error, OSError, ImportError, ValueError) as error:
        return _refused(str(error) or type(error).__name__, 1)
    except KeyboardInterrupt:
        return _refused("interrupted", 130)


def _refused(reason: str, status: int) -> int:
    print(f"{_PROGRAM}: error: {' '.join(reason.split())}", file=sys.stderr)
    return status


def _bench(options: Options) -> int:
    facts = machine_facts()
    start = time.monotonic()
    with open_place(options) as storage:
        measures, records = _measured(storage, options)
        elapsed = time.monotonic() - start
    style = Style.of()
    print("\n".join(_report(measures, records, storage, facts, options, elapsed, style)))
    if options.json is not None:
        _write_json(options, storage, facts, measures, elapsed)
    return 0


def _measured(storage: StorageConfig, options: Options) -> tuple[list[Measure], int]:
    with open_progress() as progress:
        run = Run(storage, options, progress)
        try:
            return list(run.phases()), run.records
        finally:
            run.close()


def _report(
    measures: Sequence[Measure],
    records: int,
    storage: StorageConfig,
    facts: dict[str, object],
    options: Options,
    elapsed: float,
    style: Style,
) -> list[str]:
    version = facts["versions"]
    product = version.get("opendata-log") if isinstance(version, dict) else None
    read = [measure for measure in measures if measure.verified and measure.bytes]
    lines = [
        "",
        style.paint(f"OpenData Log {product or '(source tree)'}", "1"),
        f"{facts['implementation']} {facts['python']} · {facts['cores']} cores · {storage.url}",
        f"{records:,} records of {options.value_size:,} B over {options.keys:,} keys, {options.batch:,} a batch",
        "",
    ]
    closing = [
        f"Read back {len(read)} times, every key: count, order and content verified.",
        *_requests(measures),
        f"{elapsed:.1f} s in all." + (f" The log stays at {storage.url}" if options.keep else ""),
    ]
    return [*map(style.plain, lines), render(measures, style), *map(style.plain, closing)]


def _requests(measures: Sequence[Measure]) -> list[str]:
    """A line with the run's store requests by kind; no line where the log counted none."""
    total: dict[str, int] = {}
    for measure in measures:
        for kind, made in measure.requests.items():
            total[kind] = total.get(kind, 0) + made
    return (
        ["Store requests: " + ", ".join(f"{made:,} {kind}" for kind, made in sorted(total.items())) + "."]
        if total
        else []
    )


def _write_json(
    options: Options, storage: StorageConfig, facts: dict[str, object], measures: Sequence[Measure], elapsed: float
) -> None:
    assert options.json is not None
    result = {
        "format": 1,
        "machine": facts,
        "storage": storage.url,
        "options": {
            "records": options.records,
            "keys": options.keys,
            "value_size": options.value_size,
            "batch": options.batch,
            "seconds": options.seconds,
        },
        "seconds": elapsed,
        "verified": all(measure.verified for measure in measures if measure.name.startswith("scan")),
        "phases": [measure.as_dict() for measure in measures],
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
