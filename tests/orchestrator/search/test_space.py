"""The space of a sweep file, and points of it as settings; studies over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.search.space import (
    default_point,
    distributions,
    grid,
    most_steps,
    settings,
    trials_per_objective,
)
from orchestrator.search.study import ObjectiveStudy
from orchestrator.spec.schema import SweepSpec
from selmix.config import FinetuneConfig
from tests.orchestrator.spec.test_schema import MINIMAL, spec_of


def searched(parameters: str, **search: object) -> SweepSpec:
    section = ", ".join(f"{key}: {value}" for key, value in search.items())
    return spec_of(f"{MINIMAL}parameters: {{{parameters}}}\nsearch: {{{section}}}\n")


@pytest.mark.parametrize(
    ("lines", "most"),
    [
        ("", FinetuneConfig().steps),
        ("parameters: {steps: {value: 60}}", 60),
        ("parameters: {steps: {values: [20, 90, 60]}}", 90),
        ("parameters: {steps: {min: 20, max: 70}}", 70),
        ("compare: {steps: [20, 50]}", 50),
    ],
)
def test_the_most_steps_of_a_trial(lines: str, most: int) -> None:
    assert most_steps(spec_of(f"{MINIMAL}{lines}\n")) == most


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


def test_a_grid_without_the_defaults_begins_with_the_nearest_to_them() -> None:
    spec = searched("lr: {values: [0.5, 0.04, 0.9]}", method="grid", num_trials=2)
    assert grid(spec) == [{"lr": 0.04}, {"lr": 0.5}, {"lr": 0.9}]
    assert trials_per_objective(spec) == 2
    assert trials_per_objective(searched("lr: {values: [0.5]}", method="grid", num_trials=9)) == 1


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_other_methods_have_no_grid(method: str) -> None:
    spec = searched("lr: {values: [0.01, 0.03]}", method=method, num_trials=9)
    assert grid(spec) is None
    assert trials_per_objective(spec) == 9


def test_nothing_searched_is_the_defaults() -> None:
    spec = searched("steps: {value: 7}", num_trials=1)
    assert distributions(spec) == default_point(spec) == {}
    assert settings(spec, {}).flat() == FinetuneConfig(steps=7).flat()


def test_an_arm_sets_its_parameter_and_a_setting_that_is_off_starts_at_the_low_end() -> None:
    spec = searched(
        "steps: {value: 7}, patience_rounds: {min: 2, max: 9}, gain_plateau: {min: 0.1, max: 0.9}"
    )
    assert default_point(spec) == {"patience_rounds": 2, "gain_plateau": 0.1}
    config = settings(spec, {"patience_rounds": 3}, {"policy": "uniform"})
    assert (config.policy, config.steps, config.patience_rounds, config.gain_plateau) == (
        "uniform",
        7,
        3,
        None,
    )


few = hypothesis_settings(max_examples=30, deadline=None, derandomize=True)
thousandths = st.integers(1, 400)


@few
@given(
    thousandths,
    thousandths,
    st.integers(1, 20),
    st.sampled_from(["uniform", "log_uniform_values", "q_uniform"]),
)
def test_the_default_of_a_range_is_its_nearest_value(start: int, q: int, count: int, kind: str) -> None:
    low, high = start / 1000, (start + count * q) / 1000
    step = f", q: {q / 1000}" if kind == "q_uniform" else ""
    spec = searched(f"lr: {{distribution: {kind}, min: {low}, max: {high}{step}}}")
    value = default_point(spec)["lr"]
    allowed = (
        [low + k * q / 1000 for k in range(count + 1)] if step else [low, high, min(max(0.03, low), high)]
    )
    # Sums of thousandths are exact to some 1e-16.
    assert min(abs(value - each) for each in allowed) < 1e-12
    assert abs(value - 0.03) == pytest.approx(min(abs(each - 0.03) for each in allowed), abs=1e-12)
    assert distributions(spec)["lr"].to_internal_repr(value) == value  # Optuna refuses other values


@few
@example(low=1, q=10, more=8, share=1.0)  # 19 rounds to 20, above the range
@example(low=11, q=10, more=9, share=0.0)  # 11 rounds to 10, below it
@given(st.integers(1, 999), st.integers(1, 99), st.integers(0, 999), st.floats(0, 1))
def test_steps_on_a_logarithmic_scale_are_multiples_in_the_range(
    low: int, q: int, more: int, share: float
) -> None:
    high = low + q + more
    spec = searched(f"lr: {{distribution: q_log_uniform_values, min: {low}.0, max: {high}.0, q: {q}.0}}")
    value = low * (high / low) ** share
    rounded = settings(spec, {"lr": value}).lr
    assert rounded % q == 0
    assert low <= rounded <= high
    assert abs(rounded - value) < q
    assert settings(spec, {"lr": rounded}).lr == rounded


def test_steps_on_a_logarithmic_scale_of_a_counted_setting_are_whole() -> None:
    spec = searched("batch_size: {distribution: q_log_uniform_values, min: 8, max: 64, q: 8}")
    assert settings(spec, {"batch_size": 13}).batch_size == 16


@pytest.mark.parametrize("q", [1, 2, 2.0, 10])
def test_a_step_of_a_counted_setting_that_passes_the_check_is_a_whole_one(q: float) -> None:
    spec = searched(f"steps: {{distribution: q_uniform, min: 10, max: 20, q: {q}}}")
    assert distributions(spec)["steps"] == IntDistribution(10, 20, step=int(q))


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
