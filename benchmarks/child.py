"""One measurement in one process: `run` starts it from the conductor, `main` is what it executes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.measurements import STEPS
from benchmarks.stores import load
from benchmarks.tasks import Figures, Task
from benchmarks.workloads import Workload

_ROOT = Path(__file__).resolve().parent.parent


class MeasurementFailed(Exception):
    """A measured process failed or took too long; the message ends with the last lines it printed."""


def run(task: Task, *, timeout: float = 300.0) -> Figures:
    """Execute the task in a fresh interpreter and return its figures.

    Raises: MeasurementFailed.
    """
    with tempfile.TemporaryDirectory(prefix="opendata-bench-child-") as box:
        result, log = Path(box, "result.json"), Path(box, "output")
        command = [sys.executable, "-m", "benchmarks.child", json.dumps(asdict(task)), str(result)]
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            status: int | None = None
            try:
                status = child.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end_session(child)
        if task.step == "crash" and status == -signal.SIGKILL:
            return {}
        if status != 0:
            ending = "took too long" if status is None else f"ended with status {status}"
            lines = log.read_text(errors="replace").strip().splitlines()
            raise MeasurementFailed(f"{task.step} on {task.store} {ending}: " + " | ".join(lines[-3:]))
        figures: Figures = json.loads(result.read_text())
        return figures


def _end_session(child: subprocess.Popen[bytes]) -> None:
    """Stop processes that the child may have left running: all are in the session that the child leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main(arguments: list[str]) -> int:
    """Execute the task described in the first argument, write its figures to the file named by the second."""
    description, result = arguments
    fields = json.loads(description)
    task = Task(**{**fields, "workload": Workload(**fields["workload"])})
    load(task.store)  # Importing an engine is not part of any figure.
    Path(result).write_text(json.dumps(STEPS[task.step](task)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
