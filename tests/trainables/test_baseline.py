"""Baselines as workers fit them: in parts side by side, joined in order, with the files of every model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selmix.baselines import BASELINES, BaselineTask
from selmix.baselines.task import Models
from selmix.metrics import MetricContext, evaluate_predictions
from selmix.statistics.comparison import mean_over_replicates
from selmix.statistics.selection import Constraint
from selmix.weights import load_weights, save_weights, state_digest
from tests.trainables.world import CONFIG, shared
from trainables.baseline import BaselineJob, fit_baseline, joint_digest, write_baseline


def by_seed(task: BaselineTask) -> Models:
    """One model per seed: the winner's of that seed, its biases moved by the seed."""
    states = [
        {**state, "head.bias": state["head.bias"] + seed}
        for seed, state in zip(task.seeds, task.winner_states, strict=True)
    ]
    return Models(tuple(states), {"moved": ", ".join(map(str, task.seeds))})


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(BASELINES["untouched"], fit=by_seed, by_seed=True, uses=("feedback",), correction="bias")
    monkeypatch.setitem(BASELINES, "by_seed", entry)


def job(folder: Path, name: str = "by_seed", seeds: tuple[int, ...] = (1, 2)) -> BaselineJob:
    """A baseline whose winner has weights of its own for every seed."""
    base, files = shared().bases["min_recall"].state, []
    for seed in seeds:
        files.append(str(folder / f"winner-{seed}.safetensors"))
        save_weights(Path(files[-1]), {**base, "head.weight": base["head.weight"] * seed})
    return BaselineJob(name, "min_recall", CONFIG, files, list(seeds), str(folder / "out"))


def test_a_baseline_by_seed_falls_into_one_part_per_seed_and_no_other_does(tmp_path: Path) -> None:
    whole = job(tmp_path)
    parts = whole.parts()
    assert [(part.seeds, part.winner_weights) for part in parts] == [
        ([seed], [weights]) for seed, weights in zip(whole.seeds, whole.winner_weights, strict=True)
    ]
    assert {replace(part, seeds=[], winner_weights=[]).folder for part in parts} == {whole.folder}
    single = job(tmp_path, seeds=(7,))
    assert single.parts() == [single]
    untouched = job(tmp_path, "untouched")
    assert untouched.parts() == [untouched]
    with pytest.raises(ValueError, match="zip"):
        replace(whole, seeds=[1]).parts()


def test_parts_that_are_joined_report_what_the_whole_does(tmp_path: Path) -> None:
    world, whole = shared(), job(tmp_path)
    fits = [fit_baseline(world, part, 0) for part in whole.parts()]
    fits[0] = replace(fits[0], started_ms=fits[1].started_ms + 5)  # parts begin in any order
    for path in whole.winner_weights:
        Path(path).unlink()  # they are needed to fit only
    report = write_baseline(world, whole, *fits)
    assert (report.seeds, report.labels, report.rung, report.correction) == (
        [1, 2],
        ["train", "feedback"],
        "scores",
        "bias",
    )
    assert report.started_ms == fits[1].started_ms
    assert report.cost_s == sum(fit.result.cost_s for fit in fits)
    assert report.note == {"moved": "1, 2"}
    home = Path(whole.folder)
    assert sorted(path.name for path in home.iterdir()) == [
        "predictions-0.npz", "predictions-1.npz", "weights-0.safetensors", "weights-1.safetensors",
    ]  # fmt: skip
    stored = [load_weights(home / f"weights-{k}.safetensors") for k in (0, 1)]
    base = world.bases["min_recall"].state
    for seed, state in zip((1, 2), stored, strict=True):
        assert torch.equal(state["head.weight"], base["head.weight"] * seed)
        assert torch.equal(state["head.bias"], base["head.bias"] + seed)
    assert report.weights_digest == joint_digest([state_digest(state) for state in stored])
    alone = [
        write_baseline(world, replace(part, folder=str(tmp_path / f"alone-{k}")), fit)
        for k, (part, fit) in enumerate(zip(whole.parts(), fits, strict=True))
    ]
    assert report.score == pytest.approx(sum(each.score for each in alone) / 2)
    for key, estimate in report.select.items():
        assert estimate == mean_over_replicates(key, [each.select[key] for each in alone]), key


def test_a_baseline_by_seed_with_one_replicate_has_one_seed_and_a_plain_digest(tmp_path: Path) -> None:
    world, single = shared(), job(tmp_path, seeds=(7,))
    report = write_baseline(world, single, fit_baseline(world, single, 0))
    stored = load_weights(Path(single.folder) / "weights-0.safetensors")
    assert (report.seeds, report.note, report.weights_digest) == ([7], {"moved": "7"}, state_digest(stored))


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_a_baseline_without_randomness_has_no_seeds_and_meets_a_constraint_or_not(
    tmp_path: Path, floor: float
) -> None:
    world = shared(Constraint("min_recall", at_least=floor))
    whole = job(tmp_path, "untouched")
    report = write_baseline(world, whole, fit_baseline(world, whole, 0))
    assert (report.seeds, report.cost_s, report.labels) == ([], 0.0, ["train"])
    assert report.feasible == (floor == 0.0)
    base: Any = world.bases["min_recall"].state
    assert report.weights_digest == state_digest(base)


def test_the_digest_over_several_models_depends_on_their_order() -> None:
    assert joint_digest(["sha256:a"]) == "sha256:a"
    both = joint_digest(["sha256:a", "sha256:b"])
    assert both.startswith("sha256:")
    assert (
        len(
            {both, joint_digest(["sha256:b", "sha256:a"]), joint_digest(["sha256:a", "sha256:b", "sha256:c"])}
        )
        == 3
    )


def test_a_baseline_that_is_fitted_on_select_is_judged_out_of_fold(tmp_path: Path) -> None:
    world, whole = shared(), job(tmp_path, "post_hoc_bias_search_both")
    fitted = fit_baseline(world, whole, 0)
    report = write_baseline(world, whole, fitted)
    held_out = fitted.result.held_out
    assert held_out is not None
    assert fitted.cross_fitted == report.cross_fitted
    assert report.cross_fitted is not None
    assert report.cross_fitted.score is not None
    stored = np.load(Path(whole.folder) / "predictions-0.npz")
    assert stored["predicted"].tolist() == held_out.select.predicted.tolist()
    expected = evaluate_predictions(held_out.select, _context(world))
    assert {key: estimate.value for key, estimate in report.select.items()} == pytest.approx(expected)
    # What ships is the fit on all of it.
    assert state_digest(fitted.result.states[0]) == report.weights_digest


def test_only_baselines_of_a_head_are_cross_fitted(tmp_path: Path) -> None:
    world = shared()
    assert fit_baseline(world, job(tmp_path, "untouched"), 0).cross_fitted is not None
    assert fit_baseline(world, job(tmp_path, "finetune_balanced"), 0).cross_fitted is None


def _context(world: Any) -> MetricContext:
    return MetricContext(world.data.train_counts)
