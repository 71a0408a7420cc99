"""The planted bugs still fit the code. `python -m tests.planted` hunts them; that takes minutes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.planted.__main__ import ROOT, hunt, layer_of, patches


@pytest.mark.lint
@pytest.mark.parametrize("patch", patches(), ids=lambda patch: patch.stem)
def test_fits_the_code_and_names_a_layer(patch: Path) -> None:
    subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, check=True)
    assert layer_of(patch) == "simulation" or (ROOT / layer_of(patch)).exists()


def test_the_simulation_notices_a_replay_position_that_is_off_by_one() -> None:
    patch = next(patch for patch in patches() if patch.stem == "replay_position_off_by_one")
    assert hunt(patch, 10).by.startswith("simulation: after")
