"""The house rules, executed: import order, the two seams, sizes, names, versions.

The order of the modules and the two walks are read from docs/architecture.md, so prose and code cannot part.
"""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import lsm
import opendata_log

pytestmark = pytest.mark.lint

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")

FILE_LINES_MAX = 600
"""Longer files are reported, not refused: a file that has to be squeezed below a limit reads worse than a long one."""
FUNCTION_LINES_MAX = 60
METHODS_MAX = 25
ATTRIBUTES_MAX = 20
STILL_LARGE: set[str] = set()
"""Classes above these numbers that have yet to be split. This set only shrinks."""

BANNED_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|core|base|managers?|misc)(_|$)")
CLOCKS_CHANCE_THREADS = {"threading", "_thread", "time", "random", "uuid", "secrets", "asyncio", "multiprocessing"}
SEAMS = {
    "lsm/runtime.py",
    "lsm/concurrency/locks.py",
    "lsm/concurrency/threads.py",
    "lsm/workers/channel.py",
    "lsm/workers/pool.py",
    "lsm/workers/process.py",
    "lsm/object_store/memory.py",
    "lsm/object_store/local.py",
    "lsm/object_store/fsspec_store.py",
    "lsm/object_store/io_loop.py",
    "lsm/testing/stores.py",
    "lsm/testing/scheduler.py",
}
"""The runtime itself and its threads, the owner of worker processes and what runs in them, the stores, whose backends have
threads of their own, and what stands in for them in tests."""
ASYNC_FACE = "opendata_log/aio/"
"""The only modules that know of event loops."""
ONLY_BUILT_BY_SEAMS = {"ThreadPoolExecutor", "ProcessPoolExecutor", "ThreadPool"}
IMPURE = CLOCKS_CHANCE_THREADS | {"subprocess", "socket", "fsspec", "s3fs", "tempfile", "shutil"}


def block(name: str) -> list[str]:
    """The lines of a fenced block of docs/architecture.md."""
    found = re.search(rf"^```{name}\n(.*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/architecture.md has no block ```{name}"
    return found.group(1).splitlines()


def stated_order() -> list[str]:
    """The modules of the block `order`, as paths: `sst/block  bloom` is sst/block.py, then sst/bloom.py."""
    package, order = "", []
    for line in block("order"):
        if not line.startswith(" "):
            package = line.strip()
            continue
        folder = ""
        for word in re.split(r" {3,}", line.strip())[0].split():
            folder, _, stem = word.rpartition("/") if "/" in word else (folder, "", word)
            order.append(_path(package, folder, stem))
    return order


def _path(package: str, folder: str, stem: str) -> str:
    inside = f"{package}/{folder}/{stem}.py" if folder else f"{package}/{stem}.py"
    # A name after a foldered one is in the same folder, unless the package itself has it.
    return inside if (ROOT / inside).exists() else f"{package}/{stem}.py"


def walk(name: str) -> list[str]:
    return [f"{line.split()[0]}.py" for line in block(name)]


@cache
def sources(package: str) -> tuple[str, ...]:
    return tuple(sorted(str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")))


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"))


ENGINE, LOG = sources("lsm"), tuple(path for path in sources("opendata_log") if "/bench/" not in path)
BENCH = tuple(path for path in sources("opendata_log") if "/bench/" in path)
CODE = (*ENGINE, *LOG, *BENCH)
MODULES = [path for path in (*ENGINE, *LOG) if not path.endswith("__init__.py")]
"""The modules that the order names. Packages' `__init__` only re-export; the benchmark is a program on top."""


def imports(path: str) -> Iterator[tuple[str, str | None, int]]:
    """(module, imported name or None, line) of every import, TYPE_CHECKING ones and those in functions included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            yield from ((node.module or "", alias.name, node.lineno) for alias in node.names)


def file_of(module: str, name: str | None) -> str | None:
    """The file an import of ours names: `from lsm.read import lookup` is lsm/read/lookup.py."""
    stem = module.replace(".", "/")
    for candidate in (f"{stem}/{name}.py", f"{stem}.py", f"{stem}/__init__.py"):
        if (ROOT / candidate).exists():
            return candidate
    return None


@cache
def imported_files(path: str) -> frozenset[str]:
    ours = {
        file_of(module, name) for module, name, _ in imports(path) if module.split(".")[0] in ("lsm", "opendata_log")
    }
    return frozenset(found for found in ours if found is not None)


# -- order ------------------------------------------------------------------------------------------------------------


def test_the_stated_order_names_every_module_once() -> None:
    order = stated_order()

    assert len(order) == len(set(order)), sorted(path for path in order if order.count(path) > 1)
    assert set(order) == set(MODULES), f"docs/architecture.md, block `order`: {sorted(set(order) ^ set(MODULES))}"


@pytest.mark.parametrize("path", MODULES)
def test_imports_point_up_the_order(path: str) -> None:
    order = {module: place for place, module in enumerate(stated_order())}

    for found in imported_files(path):
        if found.endswith("__init__.py"):
            assert path.startswith("opendata_log/"), f"{path} imports the package {found}; import the module"
            assert found == "lsm/__init__.py", f"{path} imports {found}"
        else:
            assert order[found] < order[path], f"{path} imports {found}, which stands below it in docs/architecture.md"


ROOM_FILES_MAX = {"lsm": 16, "opendata_log": 8}
"""Files at the root of a package: what one opens, and the ground floor."""


@pytest.mark.parametrize("package", ROOM_FILES_MAX)
def test_rooms_have_one_order_and_the_root_is_no_drawer(package: str) -> None:
    def room(path: str) -> str:
        return "/".join(path.split("/")[:2])

    mine = [path for path in MODULES if path.startswith(f"{package}/")]
    graph: dict[str, set[str]] = {}
    for path in mine:
        into = {room(found) for found in imported_files(path) if found in mine}
        graph.setdefault(room(path), set()).update(into - {room(path)})

    graphlib.TopologicalSorter(graph).prepare()  # Raises CycleError, which names the rooms.
    at_root = [path for path in sources(package) if path.count("/") == 1]
    assert len(at_root) <= ROOM_FILES_MAX[package], at_root


@pytest.mark.parametrize("path", CODE)
def test_our_own_modules_are_imported_at_module_level(path: str) -> None:
    inside = {
        node.lineno
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }

    late = [(module, line) for module, _, line in imports(path) if line in inside]
    assert not [entry for entry in late if entry[0].split(".")[0] in ("lsm", "opendata_log")], f"{path}: {late}"


def test_writes_and_reads_do_not_know_each_other() -> None:
    for path in ENGINE:
        for one, other in (("lsm/write/", "lsm/read/"), ("lsm/read/", "lsm/write/")):
            if path.startswith(one):
                strays = [found for found in imported_files(path) if found.startswith(other)]
                assert not strays, f"{path} imports {strays}"


@pytest.mark.parametrize("path", [*LOG, *BENCH])
def test_the_log_uses_only_what_the_engine_exports(path: str) -> None:
    for module, name, line in imports(path):
        if module.split(".")[0] == "lsm":
            assert module == "lsm", f"{path}:{line}: {module} is the engine's own; use `lsm.{name}`"
            assert name is None or name in lsm.__all__, f"{path}:{line}: lsm.{name} is not in lsm.__all__"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lsm":
            assert node.attr in lsm.__all__, f"{path}:{node.lineno}: lsm.{node.attr} is not in lsm.__all__"


@pytest.mark.parametrize("path", BENCH)
def test_the_benchmark_uses_the_log_as_its_users_do(path: str) -> None:
    for module, name, line in imports(path):
        if module == "opendata_log":
            assert name in opendata_log.__all__, f"{path}:{line}: {name}"
        elif module.split(".")[0] == "opendata_log":
            assert module.startswith("opendata_log.bench."), f"{path}:{line}: {module}"


@pytest.mark.parametrize("path", CODE)
def test_no_module_imports_what_another_keeps_to_itself(path: str) -> None:
    for module, name, line in imports(path):
        if module.split(".")[0] in ("lsm", "opendata_log"):
            assert name is None or not name.startswith("_"), f"{path}:{line}: {module}.{name}"


FOREIGN_PRIVATES = {
    "os._exit",
    "sys._getframe",
    "_strip_protocol",
    "_get_kwargs_from_urls",
    "_call_s3",
}
"""Documented in spite of their names, or the only door there is: of the standard library; of fsspec and s3fs."""


def _defined(path: str) -> set[str]:
    """The names that the module's functions, classes, fields and slots have."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Assign) and any(ast.unparse(target) == "__slots__" for target in node.targets):
            found.update(ast.literal_eval(node.value))
    return found


def _is_own(owner: ast.expr) -> bool:
    if isinstance(owner, ast.Call):
        owner = owner.func
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")


def _privates_of_others(path: str) -> Iterator[str]:
    own = _defined(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr) and not _is_own(node.value):
            spelled = ast.unparse(node)
            if node.attr not in own and not {node.attr, spelled} & FOREIGN_PRIVATES:
                yield f"{path}: {spelled}"


def test_no_module_touches_what_another_keeps_to_itself() -> None:
    found = sorted({access for path in CODE for access in _privates_of_others(path)})

    assert not found, f"give it a public name: {found}"


def test_only_missing_stubs_silence_the_type_checker() -> None:
    strays = [
        f"{path}: {line.strip()}"
        for path in CODE
        for line in (ROOT / path).read_text("utf-8").splitlines()
        if re.search(r"#\s*type:\s*ignore", line) and not re.search(r"#[^#]*\bstubs\b", line)
    ]

    assert not strays, f"solve by typing, or name the missing stubs in a comment on the line: {strays}"


# -- walks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["write-walk", "read-walk"])
def test_every_station_of_a_walk_is_linked_to_one_before_it(name: str) -> None:
    stations = walk(name)

    for place, station in enumerate(stations):
        assert (ROOT / station).exists(), f"{station} of the {name} is no file"
        if place:
            assert any(_linked(station, earlier) for earlier in stations[:place]), f"{station} hangs in the air"


def _linked(one: str, other: str) -> bool:
    if {one.split("/")[0], other.split("/")[0]} == {"lsm", "opendata_log"}:
        log, engine = sorted((one, other), reverse=True)
        # What the log uses of the engine it takes from the package, whose handle is db.py.
        return engine == "lsm/db.py" and "lsm/__init__.py" in imported_files(log)
    return other in imported_files(one) or one in imported_files(other)


@pytest.mark.parametrize("path", MODULES)
def test_neighbours_that_a_docstring_names_exist(path: str) -> None:
    words = ast.get_docstring(tree(path)) or ""
    assert words, f"{path} has no docstring"

    for first in re.findall(r"^(?:Write walk|Read walk|Both walks)[^:]*:", words, re.MULTILINE):
        for neighbour in re.findall(r"`([a-z0-9_/]+)`", first):
            places = [
                f"{root}{neighbour}{end}" for root in ("lsm/", "opendata_log/", "") for end in (".py", "/__init__.py")
            ]
            assert any((ROOT / place).exists() for place in places), (
                f"{path}: its neighbour `{neighbour}` does not exist"
            )


# -- seams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in (*ENGINE, *LOG) if path not in SEAMS])
def test_time_chance_and_threads_come_in_by_one_door(path: str) -> None:
    for module, name, line in imports(path):
        if module == "asyncio" and path.startswith(ASYNC_FACE):
            continue
        assert module.split(".")[0] not in CLOCKS_CHANCE_THREADS, f"{path}:{line}: {module}; ask the Runtime instead"
        assert name not in ONLY_BUILT_BY_SEAMS, f"{path}:{line}: {name}; use Runtime.executor instead"
        assert not (module == "os" and name == "urandom"), f"{path}:{line}: use Runtime.random_bytes instead"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            spelled = f"{node.value.id}.{node.attr}"
            assert spelled not in ("os.urandom", "datetime.now", "datetime.utcnow"), f"{path}:{node.lineno}: {spelled}"


@pytest.mark.parametrize("path", MODULES)
def test_modules_that_call_themselves_pure_are(path: str) -> None:
    head = (ast.get_docstring(tree(path)) or "").split("\n\n")[0]
    if not head.endswith("Pure."):
        return

    for module, _, line in imports(path):
        assert module.split(".")[0] not in IMPURE, f"{path}:{line}: {module}"
    # Names, and what a listing is made of, are values.
    values = {"lsm/object_store/names.py", "lsm/object_store/contract.py"}
    reached = {found for found in imported_files(path) if "/object_store/" in found} - values
    assert not reached, f"{path} is pure and imports {reached}"


# -- locks ------------------------------------------------------------------------------------------------------------


def calls_without_a_lock(node: ast.AST, *, is_held: bool = False) -> Iterator[tuple[str, int]]:
    """Calls of methods whose name ends in `_locked`, outside of `with ..lock` and `with .._cv` and of such methods."""
    if isinstance(node, ast.FunctionDef):
        is_held = node.name.endswith("_locked")
    elif isinstance(node, ast.With):
        names = [item.context_expr.attr for item in node.items if isinstance(item.context_expr, ast.Attribute)]
        is_held = is_held or any(name.endswith(("lock", "_cv")) for name in names)
    elif isinstance(node, ast.Lambda):
        is_held = True  # A callback: where it is passed tells under which lock it is called.
    called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    if called.endswith("_locked") and not is_held:
        yield called, getattr(node, "lineno", 0)
    for child in ast.iter_child_nodes(node):
        yield from calls_without_a_lock(child, is_held=is_held)


@pytest.mark.parametrize("path", CODE)
def test_methods_that_need_a_lock_are_called_under_one(path: str) -> None:
    strays = list(calls_without_a_lock(tree(path)))
    assert not strays, f"{path}: {strays}"


# -- names and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CODE)
def test_names_say_what_a_file_is_about(path: str) -> None:
    for part in Path(path).with_suffix("").parts:
        assert not BANNED_NAMES.search(part), f"{path}: {part!r} is a role, not a subject"


@pytest.mark.filterwarnings("default::UserWarning")
def test_long_files_are_reported() -> None:
    others = [path for package in ("tests", "benchmarks") for path in sources(package)]
    lengths = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in (*CODE, *others)}

    too_long = {path: count for path, count in lengths.items() if count > FILE_LINES_MAX}
    if too_long:
        warnings.warn(f"above {FILE_LINES_MAX} lines, look whether they have two subjects: {too_long}", stacklevel=1)


def test_a_class_has_one_job_or_says_why_it_is_large() -> None:
    large = {
        f"{path} {node.name}": size
        for path in CODE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and not re.search(r"(^|\s)Large: ", ast.get_docstring(node) or "")
        and ((size := _size(node))[0] > METHODS_MAX or size[1] > ATTRIBUTES_MAX)
    }

    unexplained = {name: size for name, size in large.items() if name not in STILL_LARGE}
    assert not unexplained, f"(methods, attributes): split them, or say why in a sentence `Large: ...`: {unexplained}"
    assert large.keys() >= STILL_LARGE, f"small enough now, take them out of STILL_LARGE: {STILL_LARGE - large.keys()}"


def _size(node: ast.ClassDef) -> tuple[int, int]:
    """How many methods a class has, and how many attributes: fields, and names that its methods store on `self`."""
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    stored = {
        each.attr
        for method in methods
        for each in ast.walk(method)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and ast.unparse(each.value) == "self"
    }
    return len(methods), len(fields | stored)


@pytest.mark.parametrize("path", CODE)
def test_functions_fit_on_a_page(path: str) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("package", [lsm, opendata_log], ids=["lsm", "opendata_log"])
def test_exported_names_exist(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]

    assert [name for name in names if not hasattr(package, name)] == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", [path for path in (*ENGINE, *LOG) if path.endswith("__init__.py")])
def test_packages_only_re_export(path: str) -> None:
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            pytest.fail(f"{path}:{node.lineno}: {node.name} belongs in a module")


# -- versions ---------------------------------------------------------------------------------------------------------


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    top = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)

    assert top, "CHANGELOG.md has no version"
    assert project["version"] == lsm.__version__ == opendata_log.__version__ == top.group(1)
