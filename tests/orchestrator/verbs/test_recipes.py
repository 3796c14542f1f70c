"""Every shipped sweep file is valid, says what it asks, and can be copied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.spec.checks import load_spec
from orchestrator.verbs.recipes import copy_recipe, recipe_files, recipes_document
from tests.command import here

NAMES = sorted(recipe_files())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid(name: str, tmp_path: Path) -> None:
    spec = load_spec(copy_recipe(name, tmp_path))
    assert spec.name == name


def test_what_recipes_say() -> None:
    rows = recipes_document().recipes
    assert [row.recipe for row in rows] == NAMES
    assert all(row.question.endswith("?") for row in rows), rows
    for name, text in recipe_files().items():
        if "arXiv" in text:
            aim = " ".join(
                text.partition("# Aim: ")[2].partition("# Settings: ")[0].replace("#", " ").split()
            )
            assert "Not reproduced here" in aim, name
            assert bool(re.search(r"[0-9] (%|points)", aim)) != bool(
                re.search("no figure (known|of)", aim)
            ), name


def test_on_the_command_line(tmp_path: Path) -> None:
    listed = here("ls", "--recipes", cwd=tmp_path)
    assert listed.code == 0
    assert all(name in listed.out for name in NAMES)
    assert here("cp", "cifar10_lt_min_recall", cwd=tmp_path).out == "cifar10_lt_min_recall.yaml\n"
    again = here("cp", "cifar10_lt_min_recall", cwd=tmp_path)
    assert again.code == 2
    assert "exists" in again.err
    missing = here("cp", "cifar11", cwd=tmp_path)
    assert missing.code == 8
    assert "selmix ls --recipes" in missing.err
    assert here("validate", "cifar10_lt_min_recall.yaml", cwd=tmp_path).code == 0
