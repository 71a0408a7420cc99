"""Plant each bug of this folder in a copy of the tree, and report which layer of the tests catches it, and how soon.

`python -m tests.planted [NAME ...]`. A patch begins with a description of its bug. After "Caught by:" it names the layer that
must find the bug: `simulation`, or a file of tests.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = ("lsm", "opendata_log", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
HUNT = """
import sys
from tests.simulation.__main__ import check_seed
for seed in range(int(sys.argv[1])):
    row = check_seed(seed, 5000, twice=False)
    if row["anomalies"]:
        print(f"CAUGHT after {seed + 1} seeds: {row['anomalies'][0][0]}")
        break
"""


class Verdict(NamedTuple):
    """`by` is empty if no layer caught the bug."""

    name: str
    by: str


def patches() -> list[Path]:
    """Every planted bug."""
    return sorted(HERE.glob("*.patch"))


def layer_of(patch: Path) -> str:
    """The layer that must catch the bug."""
    found = re.search(r"^Caught by: (\S+)$", patch.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{patch.name} has no line 'Caught by: ...'")
    return found[1]


def plant(patch: Path, target: Path) -> None:
    """Make a copy of the tree with the bug in it. Raises: CalledProcessError if the patch no longer applies."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    subprocess.run(["git", "apply", "--unsafe-paths", str(patch)], cwd=target, check=True)


def hunt(patch: Path, seeds: int) -> Verdict:
    """Run the layer that must catch the bug."""
    layer = layer_of(patch)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        plant(patch, target)
        if layer == "simulation":
            command = [sys.executable, "-c", HUNT, str(seeds)]
        else:
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow and not s3", layer]
        run = subprocess.run(
            command,
            cwd=target,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if layer != "simulation":
        return Verdict(patch.stem, layer if run.returncode == 1 else "")
    if run.returncode:
        return Verdict(patch.stem, f"simulation: {run.stderr.strip().splitlines()[-1]}")
    return Verdict(patch.stem, f"simulation: {run.stdout.strip().removeprefix('CAUGHT ')}" if run.stdout else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=2000)
    options = parser.parse_args()
    missed = 0
    for patch in patches():
        if options.names and patch.stem not in options.names:
            continue
        verdict = hunt(patch, options.seeds)
        missed += not verdict.by
        print(f"{verdict.name:48} {verdict.by or 'NOT CAUGHT'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
