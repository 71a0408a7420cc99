"""Run the tests on each Python that is supported and found here: `python -m tests.pythons [pytest options]`.

Each interpreter gets an environment of its own under .pythons/, which is kept for the next run. Interpreters are looked for on
PATH and in ~/.pyenv/versions. The exit status is 1 if the tests failed on any of them, or none was found.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".pythons"
PYENV = Path.home() / ".pyenv" / "versions"
VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.14t")
"""3.14t is the free-threaded build."""
_ASK = """
import sys, sysconfig
threads = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(f"{sys.version_info[0]}.{sys.version_info[1]}{threads}")
"""


def found(version: str) -> str | None:
    """The path of an interpreter of this version. Newer patch releases come first."""
    name = f"python{version}"
    releases = sorted(PYENV.glob(f"{version.rstrip('t')}*"), key=_release, reverse=True)
    places = [shutil.which(name), *(release / "bin" / name for release in releases)]
    for place in places:
        if place is not None and Path(place).exists() and _version(str(place)) == version:
            return str(place)
    return None


def _release(path: Path) -> list[int]:
    return [int(part) for part in path.name.rstrip("t").split(".") if part.isdigit()]


def _version(python: str) -> str:
    """Empty if it does not run, as pyenv's stand-ins for versions that are not selected."""
    done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def environment(version: str, python: str) -> str:
    """The interpreter of the environment for `version`, with this checkout and the development tools installed."""
    place = ENVIRONMENTS / version
    inside = str(place / "bin" / "python")
    if not Path(inside).exists():
        subprocess.run([python, "-m", "venv", str(place)], check=True)
    for what in (["--upgrade", "pip>=25.1"], ["--editable", str(ROOT), "--group", f"{ROOT}/pyproject.toml:dev"]):
        subprocess.run([inside, "-m", "pip", "install", "-qq", *what], check=True)
    return inside


def main(options: list[str]) -> int:
    outcomes: dict[str, str] = {}
    for version in VERSIONS:
        python = found(version)
        if python is None:
            outcomes[version] = "not found"
            continue
        print(f"Python {version}: {python}", flush=True)
        try:
            inside = environment(version, python)
        except subprocess.CalledProcessError as error:
            outcomes[version] = f"no environment: {error}"
            continue
        done = subprocess.run([inside, "-m", "pytest", "-q", *options], cwd=ROOT, check=False)
        outcomes[version] = "passed" if done.returncode == 0 else f"failed (exit status {done.returncode})"
    for version, outcome in outcomes.items():
        print(f"Python {version:6} {outcome}")
    tried = [outcome for outcome in outcomes.values() if outcome != "not found"]
    return 0 if tried and all(outcome == "passed" for outcome in tried) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
