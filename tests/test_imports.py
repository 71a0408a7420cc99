"""What an import brings along: a program on files pays for nothing that only object stores or event loops or commands need."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lsm
import opendata_log

ROOT = Path(__file__).resolve().parent.parent

FOREIGN = (
    "aiobotocore",
    "aiohttp",
    "argparse",
    "asyncio",
    "botocore",
    "concurrent.futures.process",
    "crc32c",
    "email",
    "fsspec",
    "hashlib",
    "http",
    "importlib.metadata",
    "multiprocessing",
    "s3fs",
    "sqlite3",
    "ssl",
    "tempfile",
    "tomllib",
    "urllib.request",
    "yaml",
    "zipfile",
)
"""What no program on files needs, with everything below it."""
OWN = (
    "lsm.admin",
    "lsm.audit",
    "lsm.cli",
    "lsm.testing",
    "opendata_log.aio",
    "opendata_log.bench",
    "opendata_log.fsck",
)
"""What one handle needs nothing of."""
ENGINE = ("lsm.compaction", "lsm.db", "lsm.opening", "lsm.read", "lsm.rows", "lsm.wal", "lsm.write")
"""What only a handle needs."""

APPEND = """
from opendata_log import Config, LogDb
import sys
before = set(sys.modules)
with LogDb.open(Config(storage={url!r})) as log:
    log.append(b"key", b"value")
    log.flush()
    assert [entry.value for entry in log.scan(b"key")] == [b"value"]
late = sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("lsm", "opendata_log"))
assert not late, late
"""


def loaded(program: str) -> set[str]:
    """The modules of a fresh process at the end of `program`, in which nothing of the environment is imported by itself."""
    code = f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    start = f"import sys; sys.path[:0] = {[str(ROOT), *(path for path in sys.path if 'site-packages' in path)]!r}\n"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", start + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def below(modules: set[str], *names: str) -> list[str]:
    return sorted(module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in names))


@pytest.mark.parametrize("package", ["lsm", "opendata_log"])
def test_an_import_of_a_package_brings_values_and_errors(package: str) -> None:
    modules = loaded(f"import {package}")

    assert below(modules, *FOREIGN, *OWN, *ENGINE) == []


def test_an_import_of_the_log_brings_the_engine_and_nothing_for_object_stores() -> None:
    modules = loaded("from opendata_log import LogDb")

    assert below(modules, *FOREIGN, *OWN, "lsm.db_reader", "opendata_log.reader") == []
    assert below(modules, "lsm.db")


@pytest.mark.parametrize("place", ["file", "memory"])
def test_opening_and_appending_imports_nothing_more(place: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/log" if place == "file" else "memory://"

    modules = loaded(APPEND.format(url=url))

    assert below(modules, *FOREIGN, *OWN) == []


def test_a_worker_process_starts_without_what_handles_need() -> None:
    modules = loaded("from lsm.workers.process import main")

    assert below(modules, *FOREIGN, *OWN, *(name for name in ENGINE if name != "lsm.compaction")) == []


@pytest.mark.parametrize("package", [lsm, opendata_log], ids=["lsm", "opendata_log"])
def test_names_that_come_later_are_those_that_type_checkers_see(package: ModuleType) -> None:
    assert package.__file__ is not None
    seen = {}
    for node in ast.parse(Path(package.__file__).read_text("utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                for alias in line.names:
                    seen[alias.asname or alias.name] = (line.module, alias.name)

    later = {}
    for name, place in package._LATER.items():
        module, _, there = place.partition(":")
        later[name] = (module, there or name)
    assert later == seen
    assert set(later) <= set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


@pytest.mark.parametrize("package", ["lsm", "opendata_log"])
def test_everything_can_be_imported_by_a_star(package: str) -> None:
    names = json.loads(
        subprocess.run(
            [sys.executable, "-c", f"from {package} import *\nimport json\nprint(json.dumps(sorted(globals())))"],
            capture_output=True,
            check=True,
            cwd=ROOT,
            timeout=60,
        ).stdout
    )

    assert set({"lsm": lsm, "opendata_log": opendata_log}[package].__all__) <= set(names)
