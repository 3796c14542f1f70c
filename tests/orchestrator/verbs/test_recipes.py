"""Every shipped sweep file is valid, says what it asks, and can be copied for each of its objectives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import NotFound, UsageError
from orchestrator.spec.checks import load_spec
from orchestrator.verbs.recipes import OBJECTIVE_OF, copy_recipe, recipes, recipes_document
from tests.command import here

RECIPES = recipes()
COPIES = [(name, objective) for name, each in RECIPES.items() for objective in each.objectives or [None]]


@pytest.mark.parametrize(("name", "objective"), COPIES)
def test_a_copy_is_valid_and_explains_itself(name: str, objective: str | None, tmp_path: Path) -> None:
    path = copy_recipe(name, tmp_path, objective)
    stem = name if objective is None else f"{name}_{objective}"
    assert path == tmp_path / f"{stem}.yaml"
    spec = load_spec(path)
    assert spec.name == stem
    if objective is not None:
        assert spec.objectives[0] == OBJECTIVE_OF.get(objective, objective)
    text = path.read_text()
    head = text.partition("version:")[0]
    assert "the objective" not in head
    assert "# Question: " in head
    assert head.count("# Aim: ") == text.count("# Aim: ") <= 1
    if "arXiv" in text:
        aim = " ".join(re.split(r"\n# [A-Z]", head.partition("# Aim: ")[2])[0].replace("#", " ").split())
        assert "Not reproduced here" in aim
        assert bool(re.search(r"[0-9] (%|percentage points)", aim)) != aim.startswith("no figure")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_valid_sweep_file_itself(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(RECIPES[name].text)
    assert load_spec(path).name == name


def parameters(name: str, objective: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(copy_recipe(name, folder, objective).read_text())["parameters"]
    return found


def test_values_of_an_objective(tmp_path: Path) -> None:
    """As the released configurations have them."""
    slow = [
        objective
        for objective in RECIPES["cifar10_semi"].objectives
        if parameters("cifar10_semi", objective, tmp_path)["refresh_every"] == {"value": 100}
    ]
    assert slow == ["mean_recall", "g_mean", "h_mean"]
    covered = parameters("cifar10_semi_inverse", "mean_recall_min_coverage", tmp_path)
    assert covered["constraint_max"] == {"value": 1000.0}
    assert covered["lr"]["min"] == 0.0001
    plain = parameters("cifar10_semi_inverse", "min_recall", tmp_path)
    assert "constraint_max" not in plain
    assert plain["lr"]["min"] == 0.0003
    assert plain["momentum"] == {"value": 0.0}
    texts = {
        objective: copy_recipe("cifar10_semi_inverse", tmp_path / "again", objective).read_text()
        for objective in ("min_recall", "g_mean")
    }
    assert "# Released: temperature 0.05" in texts["min_recall"]
    assert "# Released: temperature 0.1 " in texts["g_mean"]
    assert "by analogy" in copy_recipe("cifar100_semi", tmp_path, "g_mean").read_text()
    assert "by analogy" not in copy_recipe("cifar100_semi", tmp_path, "head_tail").read_text()


def test_an_objective_by_its_own_name_and_none(tmp_path: Path) -> None:
    path = copy_recipe("imagenet_lt", tmp_path, "h_mean_min_head_tail_coverage")
    assert path.name == "imagenet_lt_h_mean_head_tail_coverage.yaml"
    first = copy_recipe("imagenet_lt", tmp_path)
    assert first.name == "imagenet_lt_head_tail.yaml"
    assert load_spec(first).objectives == ("min_head_tail_recall", "mean_recall")
    with pytest.raises(UsageError, match="imagenet_lt has no 'min_recal'; "):
        copy_recipe("imagenet_lt", tmp_path, "min_recal")
    with pytest.raises(UsageError, match="smoke stands as it is"):
        copy_recipe("smoke", tmp_path, "min_recall")


EARLIER = [
    "cifar10_lt_min_recall", "cifar10_semi_uniform_g_mean", "cifar10_semi_inverse_mean_recall_min_coverage",
    "cifar100_semi_h_mean_head_tail_coverage", "inaturalist18_head_tail", "features_worst_group",
]  # fmt: skip


@pytest.mark.parametrize("name", EARLIER)
def test_names_of_before_are_accepted(name: str, tmp_path: Path) -> None:
    path = copy_recipe(name, tmp_path)
    assert path.stem == load_spec(path).name == name
    with pytest.raises(NotFound):
        copy_recipe(f"{name}x", tmp_path)


def test_listed(tmp_path: Path) -> None:
    rows = recipes_document().recipes
    assert [row.recipe for row in rows][:4] == [
        "digits_min_recall", "digits_objectives", "fashion_min_recall", "smoke",
    ]  # fmt: skip
    assert {row.recipe for row in rows} == set(RECIPES)
    assert all(row.question.endswith("?") for row in rows), rows
    assert next(row for row in rows if row.recipe == "stl10_lt").objectives[0] == "min_recall"
    listed = here("ls", "--recipes", cwd=tmp_path)
    assert listed.code == 0
    assert all(name in listed.out for name in RECIPES)


def test_on_the_command_line(tmp_path: Path) -> None:
    assert here("cp", "cifar10_lt", "--objective", "g_mean", cwd=tmp_path).out == "cifar10_lt_g_mean.yaml\n"
    again = here("cp", "cifar10_lt", "--objective", "g_mean", cwd=tmp_path)
    assert again.code == 2
    assert "exists" in again.err
    missing = here("cp", "cifar11", cwd=tmp_path)
    assert missing.code == 8
    assert "selmix ls --recipes" in missing.err
    # The file is valid; that the archives of its data are not there yet is the only thing to say of it.
    checked = here("validate", "cifar10_lt_g_mean.yaml", cwd=tmp_path)
    assert checked.code == 4
    assert checked.err.startswith("selmix: data: ")
    assert "get its official archive" in checked.err
