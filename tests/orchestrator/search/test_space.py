from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.search.space import default_point, distributions, grid, settings, trials_per_objective
from orchestrator.search.study import ObjectiveStudy
from orchestrator.spec.schema import SweepSpec
from tests.orchestrator.spec.test_schema import MINIMAL, spec_of


def searched(parameters: str, **search: object) -> SweepSpec:
    section = ", ".join(f"{key}: {value}" for key, value in search.items())
    return spec_of(f"{MINIMAL}parameters: {{{parameters}}}\nsearch: {{{section}}}\n")


def test_forms_of_a_wandb_file_as_distributions() -> None:
    spec = searched(
        "lr: {min: 0.01, max: 0.1}, weight_decay: {distribution: log_uniform_values, min: 0.001, max: 0.1}, "
        "steps: {min: 10, max: 20}, batch_size: {distribution: q_uniform, min: 8, max: 64, q: 8}, "
        "momentum: {distribution: q_uniform, min: 0, max: 0.9, q: 0.3}, policy: {values: [softmax, uniform]}, "
        "refresh_every: {distribution: log_uniform_values, min: 2, max: 64}, lr_schedule: {value: cosine}"
    )
    assert distributions(spec) == {
        "lr": FloatDistribution(0.01, 0.1),
        "weight_decay": FloatDistribution(0.001, 0.1, log=True),
        "steps": IntDistribution(10, 20),
        "batch_size": IntDistribution(8, 64, step=8),
        "momentum": FloatDistribution(0.0, 0.9, step=0.3),
        "policy": CategoricalDistribution(("softmax", "uniform")),
        "refresh_every": IntDistribution(2, 64, log=True),
    }


def test_a_default_outside_its_range_moves_to_the_nearest_value() -> None:
    spec = searched(
        "lr: {min: 0.05, max: 0.1}, refresh_every: {values: [5, 30]}, steps: {min: 10, max: 100}, "
        "policy: {values: [uniform, balanced]}, coefficient_min: {values: [0.6, 1.0]}, temperature: {min: 2, max: 3}"
    )
    assert default_point(spec) == {
        "lr": 0.05, "refresh_every": 30, "steps": 100, "policy": "uniform", "coefficient_min": 0.6, "temperature": 2.0,
    }  # fmt: skip


def test_settings_are_the_point_and_what_the_file_fixes() -> None:
    spec = searched("lr: {min: 0.01, max: 0.1}, steps: {value: 7}")
    config = settings(spec, {"lr": 0.02})
    assert (config.lr, config.steps, config.effective_pairs) == (0.02, 7, 0.6)
    named = searched("temperature: {min: 0.001, max: 10}")
    assert settings(named, default_point(named)).temperature == 0.03
    assert settings(named, default_point(named)).effective_pairs is None


def test_steps_on_a_logarithmic_scale_stay_in_the_range() -> None:
    spec = searched("lr: {distribution: q_log_uniform_values, min: 0.05, max: 0.92, q: 0.1}")
    for value, rounded in ((0.05, 0.1), (0.07, 0.1), (0.34, 0.3), (0.92, 0.9)):
        assert settings(spec, {"lr": value}).lr == pytest.approx(rounded)


def test_a_grid_begins_with_the_defaults() -> None:
    spec = searched(
        "lr: {values: [0.01, 0.03]}, policy: {values: [uniform, softmax]}", method="grid", num_trials=9
    )
    points = grid(spec)
    assert points is not None
    assert points[0] == {"lr": 0.03, "policy": "softmax"}
    assert len(points) == len({tuple(sorted(p.items())) for p in points}) == trials_per_objective(spec) == 4


def study_of(path: Path, seed: int = 0, objective: str = "min_recall") -> ObjectiveStudy:
    spec = searched("lr: {min: 0.01, max: 0.1}, refresh_every: {values: [5, 10, 20, 50]}")
    return ObjectiveStudy(path, objective, "tpe", seed, distributions(spec), default_point(spec))


def play(path: Path, count: int, reopen: bool, seed: int = 0) -> list[dict[str, object]]:
    points = []
    study = study_of(path, seed)
    for k in range(count):
        if reopen:
            study = study_of(path, seed)
        number, point = study.ask()
        assert number == k
        study.tell(number, -abs(float(point["lr"]) - 0.05))
        points.append(point)
    return points


def test_a_study_that_is_opened_again_proposes_the_same_points(tmp_path: Path) -> None:
    whole = play(tmp_path / "a", 14, reopen=False)
    assert play(tmp_path / "b", 14, reopen=True) == whole
    assert whole[0] == {"lr": 0.03, "refresh_every": 20}
    assert len({str(point) for point in whole}) > 10
    assert play(tmp_path / "c", 14, reopen=False, seed=1)[1:] != whole[1:]


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_any_write_it_proposes_the_same_points(torn: bool, tmp_path: Path) -> None:
    """Every beginning of the journal, by lines or in the midst of one, is resumed from as if nothing had happened."""
    whole = play(tmp_path / "whole", 3, reopen=False)
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    for count in range(1, len(lines)):
        path = tmp_path / str(count)
        path.write_text("".join(lines[:count]) + (lines[count][: len(lines[count]) // 2] if torn else ""))
        study = study_of(path)
        points = []
        for number in range(3):
            known = study.trials()
            point = known[number].params if number < len(known) else study.ask()[1]
            study.tell(number, -abs(float(point["lr"]) - 0.05))
            points.append(point)
        assert points == whole, count


def test_a_score_that_is_not_finite_is_a_failure_and_counts_once(tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    for score in (float("nan"), float("inf"), None, 0.5):
        number, _ = study.ask()
        study.tell(number, score)
        study.tell(number, 0.9)  # a resume tells again
    assert [trial.state.name for trial in study.trials()] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert study.trials()[3].value == 0.5


def test_studies_of_objectives_share_a_journal(tmp_path: Path) -> None:
    first, second = study_of(tmp_path / "j"), study_of(tmp_path / "j", objective="h_mean")
    first.ask()
    assert (len(first.trials()), len(second.trials())) == (1, 0)
