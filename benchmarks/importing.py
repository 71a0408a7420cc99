"""How long imports take beside `import fsspec`: `python -m benchmarks.importing`. CPU time of fresh processes, medians.

The bytecode of all modules is cached before the first measurement, as pip leaves an installed package. Processes take turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile

ROUNDS = 15
STATEMENTS = ("import fsspec", "import opendata_log", "from opendata_log import LogDb", "from opendata_log import aio")
"""The first one is what the others are compared with."""


def seconds(statement: str, cache: str) -> float:
    """CPU seconds of a fresh process that runs the statement."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = os.posix_spawn(
        sys.executable, [sys.executable, "-c", statement], {**environment, "PYTHONPYCACHEPREFIX": cache}
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{statement} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        times = [[seconds(statement, cache) for statement in STATEMENTS] for _ in range(ROUNDS + 1)][1:]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    for statement, median in zip(STATEMENTS, medians, strict=True):
        print(f"{statement:32} {1000 * median:6.1f} ms   {median / medians[0]:.2f}")


if __name__ == "__main__":
    main()
