"""The models hold with all rules, and fail if any one rule is missing: every rule is needed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.models import log_model, manifest_model, test_collection_model
from tests.models.log_model import LogModel
from tests.models.manifest_model import ManifestModel

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("writes", "numbers", "window", "states"),
    [
        ((1, 1), 5, 1, 500),
        ((3, 1), 5, 2, 3_000),
        ((4, 1), 7, 2, 9_000),
        pytest.param((1, 1, 1), 6, 1, 20_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param((4, 0, 1), 7, 2, 100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_the_log_loses_nothing_and_brings_nothing_back(
    writes: tuple[int, ...], numbers: int, window: int, states: int
) -> None:
    found = LogModel(log_model.Rules(), writes, numbers=numbers, window=window).run()

    assert found.steps is None, found
    assert found.states > states


BROKEN_LOGS = {
    "acknowledges_in_order": ((3, 1), 6, 2, "acknowledged and lost"),
    "fences_first_gap": ((4, 1), 7, 2, "back after"),
    "leaves_out_older_epochs": ((4, 1), 7, 2, "back after"),
    "keeps_floor": ((4, 1), 7, 2, "back after"),
    "is_serial_after_fence": ((4, 2), 8, 2, "cannot go on"),
    "keeps_fences": ((1, 1), 5, 1, "acknowledged and lost"),
    "keeps_left_out": ((4, 0, 1), 7, 2, "acknowledged and lost"),
    "checks_owner_before_fence": ((1, 1, 3), 7, 2, "cannot go on"),
}
LONG = {"keeps_left_out"}


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=[pytest.mark.slow, pytest.mark.timeout(900)] if rule in LONG else [])
        for rule in BROKEN_LOGS
    ],
)
def test_the_log_breaks_without(rule: str) -> None:
    writes, numbers, window, violation = BROKEN_LOGS[rule]
    found = LogModel(log_model.Rules(**{rule: False}), writes, numbers=numbers, window=window).run()

    assert found.violation is not None
    assert violation in found.violation


@pytest.mark.parametrize("has_other_compactors", [False, True])
def test_the_manifest_keeps_what_was_committed_and_names_what_exists(has_other_compactors: bool) -> None:
    found = ManifestModel(manifest_model.Rules(), (2, 1), versions=7, has_other_compactors=has_other_compactors).run()

    assert found.steps is None, found
    assert found.states > 500


BROKEN_MANIFESTS = {
    "creates_only_if_absent": (False, "not in the newest version"),
    "checks_epoch_before_every_edit": (False, "a fenced writer published"),
    "needs_the_predecessor": (False, "not in the newest version"),
    "keeps_outputs_of_unknown_commits": (False, "names deleted tables"),
    "commits_horizon_first": (True, "names deleted tables"),
    "refuses_tables_below_the_horizon": (True, "names deleted tables"),
}


@pytest.mark.parametrize("rule", BROKEN_MANIFESTS)
def test_the_manifest_breaks_without(rule: str) -> None:
    others, violation = BROKEN_MANIFESTS[rule]
    found = ManifestModel(manifest_model.Rules(**{rule: False}), (2, 1), versions=7, has_other_compactors=others).run()

    assert found.violation is not None
    assert violation in found.violation


def test_every_rule_of_a_model_can_be_broken_but_the_one_that_others_cover() -> None:
    # Without the second look of O5 an overtaken opener replays a log that goes on growing; it cannot write behind W2.
    assert {field.name for field in fields(log_model.Rules)} == {*BROKEN_LOGS, "checks_owner_after_fence"}
    assert {field.name for field in fields(manifest_model.Rules)} == set(BROKEN_MANIFESTS)


def test_the_models_and_the_protocol_name_the_same_rules() -> None:
    stated = set(re.findall(r"^- \*\*([A-Z]\d)\. ", PROTOCOL, re.MULTILINE))
    modelled = {*log_model.RULES, *manifest_model.RULES}
    collection = re.findall(r"([A-Z]\d)", str(test_collection_model.__doc__).partition(")")[0])
    assert {"G1", "G7", "K1"} <= set(collection) <= stated

    assert modelled <= stated
    # W7 and M1 are about damage and about values, and the order of deletions (G5) is part of every step of both models.
    assert {rule for rule in stated if rule[0] in "MW"} - modelled == {"M1", "W7"}
    sources = "".join(Path(str(model.__file__)).read_text("utf-8") for model in (log_model, manifest_model))
    assert {rule for rule in modelled if f"# {rule}" not in sources and rule != "M4"} <= {"M4"}
