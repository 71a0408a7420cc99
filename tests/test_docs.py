"""What the documents say, executed: sessions, tables, rules, links, commands, and the docstrings' examples."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest

import lsm
import opendata_log
from tests.test_tidy import CODE, ROOT, tree

pytestmark = pytest.mark.lint

DOCUMENTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
LINES_MAX = {"docs/architecture.md": 280, "docs/protocol.md": 450, "docs/reliability.md": 220}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def table(document: str, head: str) -> list[list[str]]:
    """The cells of the tables whose first column is called `head`, of all of them together."""
    found = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text(document), re.MULTILINE)
    assert found, f"{document} has no table headed {head!r}"
    rows = "".join(found).splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def resolve(dotted: str) -> object | None:
    """What a dotted name of either package stands for; a bare one is looked for in opendata_log, then in lsm."""
    first, *rest = dotted.split(".")
    if first in ("lsm", "opendata_log"):
        found: object | None = importlib.import_module(first)
    else:
        found = getattr(opendata_log, first, None) or getattr(lsm, first, None)
    for name in rest:
        found = getattr(found, name, None)
    return found


# -- sessions ---------------------------------------------------------------------------------------------------------

SESSIONS = [
    pytest.param(found.group(1), found.group(2), id=f"line_{text('README.md')[: found.start()].count(chr(10)) + 1}")
    for found in re.finditer(
        r"^```python\n(.*?)^```\n(?:```output\n(.*?)^```)?", text("README.md"), re.DOTALL | re.MULTILINE
    )
]


@pytest.mark.parametrize(("code", "expected"), SESSIONS)
def test_readme_sessions_print_what_stands_below_them(code: str, expected: str | None) -> None:
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})

    assert printed.getvalue() == (expected or "")


@pytest.mark.parametrize("path", [path for path in CODE if ">>> " in (ROOT / path).read_text("utf-8")])
def test_examples_in_docstrings_run(path: str) -> None:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    failed, _ = doctest.testmod(importlib.import_module(name))

    assert not failed


# -- tables -----------------------------------------------------------------------------------------------------------


def test_the_table_of_errors_is_true() -> None:
    for name, retryable, _ in table("docs/reference/errors.md", "error"):
        error = resolve(names_in(name)[0])
        assert isinstance(error, type), name
        assert issubclass(error, opendata_log.Error), name
        assert error.retryable is (retryable == "yes"), name


@pytest.mark.parametrize("row", table("docs/reference/configuration.md", "setting"), ids=lambda row: row[0])
def test_the_table_of_settings_is_true(row: list[str]) -> None:
    owner, name = names_in(row[0])[0].split(".")
    stated = names_in(row[1])[0]
    count, _, unit = stated.partition(" ")
    wanted = int(count) * UNITS[unit] if unit in UNITS else eval(stated, vars(opendata_log).copy())

    kind = resolve(owner)
    assert isinstance(kind, type)
    assert {field.name: field.default for field in fields(kind)}[name] == wanted


def test_what_the_readme_calls_missing_is_missing() -> None:
    for row in table("README.md", "missing"):
        name = names_in(row[0])[0]
        module, _, _ = name.rpartition(".")
        is_module = module == "opendata_log" and importlib.util.find_spec(name) is not None
        assert resolve(name) is None, f"{name} is there now: describe it in README.md"
        assert not is_module, f"{name} is there now: describe it in README.md"


def test_the_table_of_log_lines_is_true() -> None:
    stated = {(names_in(row[0])[0], row[1], names_in(row[2])[0]) for row in table("docs/operations.md", "line")}

    assert stated == {(each.name, logging.getLevelName(each.level), each.logger) for each in lsm.events.EVENTS}
    assert all(meaning and advice for _, _, _, meaning, advice in table("docs/operations.md", "line"))


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_files_named_exist(document: str) -> None:
    words = text(document)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", words) if "://" not in link]
    files = re.findall(r"`((?:lsm|opendata_log|tests|docs|benchmarks)/[\w/.]+)`", words)

    for link in links:
        assert ((ROOT / document).parent / link).exists(), f"{document} links {link}"
    for file in files:
        places = (ROOT / file, ROOT / f"{file}.py")
        is_made = file.startswith("benchmarks/results")
        assert is_made or any(place.exists() for place in places), f"{document} names {file}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_are_for_everybody(document: str) -> None:
    words = text(document)

    assert len(words.splitlines()) <= LINES_MAX.get(document, 400)
    assert not re.search(r"\bTODO\b|\bFIXME\b|\bTBD\b", words)


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))

    for document in [*DOCUMENTS, ".ci/run"]:
        for target in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text(document), re.MULTILINE):
            assert target in targets, f"{document}: make {target}"


def test_threads_of_the_architecture_are_those_spawned() -> None:
    code = "".join((ROOT / path).read_text("utf-8") for path in CODE)
    spawned = set(re.findall(r"\"((?:lsm|log)-[a-z]+)\"?", code)) - {"lsm-worker", "lsm-build", "lsm-merge"}
    listed = {
        name for row in table("docs/concurrency.md", "thread") for name in re.findall(r"(?:lsm|log)-[a-z]+", row[0])
    }

    assert listed == spawned


# -- rules ------------------------------------------------------------------------------------------------------------

RULE = re.compile(r"[BMWOFCJGRSK][1-9]")


def stated_rules() -> list[str]:
    return re.findall(r"^- \*\*([A-Z]\d)\. ", text("docs/protocol.md"), re.MULTILINE)


def test_rules_are_numbered_without_gaps() -> None:
    rules = stated_rules()

    for letter in {rule[0] for rule in rules}:
        numbers = [int(rule[1:]) for rule in rules if rule[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_rules_that_are_cited_stand_in_the_protocol() -> None:
    rules = set(stated_rules())
    cited: dict[str, str] = {}
    for path in CODE:
        for words in re.findall(r"[Rr]ules? ([A-Z]\d(?:(?:,| to| and) [A-Z]\d)*)", (ROOT / path).read_text("utf-8")):
            cited.update(dict.fromkeys(RULE.findall(words), path))
    for document in DOCUMENTS:
        cited.update(dict.fromkeys(re.findall(r"\b([MWOFCJGRSK]\d)\b", text(document)), document))

    assert {"M4", "W3", "C1", "G2", "S1"} <= set(cited)
    assert not {rule: where for rule, where in cited.items() if rule not in rules}


def test_every_rule_is_named_where_the_code_keeps_it() -> None:
    kept: set[str] = set()
    for path in CODE:
        for words in re.findall(r"[Rr]ules? ([A-Z]\d(?:(?:,| to| and) [A-Z]\d)*)", (ROOT / path).read_text("utf-8")):
            kept.update(RULE.findall(words))
            for letter, first, last in re.findall(r"([A-Z])(\d) to [A-Z](\d)", words):
                kept.update(f"{letter}{number}" for number in range(int(first), int(last) + 1))

    assert set(stated_rules()) <= kept


@pytest.mark.parametrize("path", CODE)
def test_sources_do_not_point_at_notes_nobody_has(path: str) -> None:
    documents = re.findall(r"\b(?:docs|reference|notes)/[\w/]+\.\w+", ast.get_docstring(tree(path)) or "")

    assert [name for name in documents if not (ROOT / name).exists()] == []


def test_documents_exist() -> None:
    assert all(Path(ROOT, document).is_file() for document in DOCUMENTS)
