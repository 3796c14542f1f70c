"""Why nothing can win: the nearest and each bound; what is proposed is valid in a sweep file."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import Figure, SweepState, TrialRecord, replicate_record
from orchestrator.results.infeasible import why_nothing_wins
from orchestrator.results.judge import Judge
from orchestrator.spec.schema import SweepSpec
from tests.orchestrator.results.test_judge import sweep
from tests.orchestrator.spec.test_schema import MINIMAL, spec_of

TWO_CLASSES = MINIMAL.replace("digits", "gaussians, classes: 2") + "model: {name: linear_head}\n"
BOUNDS = [
    {"metric": "min_coverage", "at_least": 0.4},
    {"metric": "balanced_error", "at_most": 0.2, "in": ["search"]},
    {"metric": "accuracy", "at_least": 0.99, "in": ["method"]},
]


def spec(*overrides: str, bounds: Any = BOUNDS) -> SweepSpec:
    text = TWO_CLASSES + yaml.safe_dump(
        {"constraints": bounds, "parameters": {"lr": {"values": [0.01, 0.03]}}}
    )
    return spec_of(text, "selection.replicates=2", *overrides)


def add(folder: RunFolder, number: int, *coverages: float, error: float = 0.1, **more: Any) -> None:
    """A trial whose first coverage is its own, the others those of its replicates."""
    made = TrialRecord(f"min_recall/trial-{number:03d}", "min_recall", "trial", number, 0, state="FINISHED")
    records = [made, *(replicate_record(made, k, k) for k in range(1, len(coverages)))]
    for record, coverage in zip(records, coverages, strict=True):
        record.state, record.feasible = "FINISHED", coverage >= 0.4
        values = {
            "min_coverage": coverage,
            "balanced_error": error,
            "accuracy": 0.5,
            "calibration_error": 0.5,
        }
        record.select = {key: Figure(value, value, value) for key, value in values.items()}
        for key, value in more.items():
            setattr(record, key, value)
        folder.save_trial(record)


def why(folder: RunFolder, *overrides: str, **more: Any) -> str:
    return why_nothing_wins(Judge(folder, spec(*overrides, **more), "min_recall"))


def test_the_nearest_is_the_trial_that_misses_least_in_all(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, 0.2)
    add(folder, 1, 0.34567, error=0.21)
    add(folder, 2, 0.39, error=0.5)
    assert why(folder) == (
        "no feasible trial for min_recall: the nearest, trial-001, came to min_coverage 0.346 (bound >= 0.4, missed by "
        "0.0543), balanced_error 0.21 (bound <= 0.2, missed by 0.01); under a new name (name=NEW) loosen the bound to "
        "{metric: min_coverage, at_least: 0.345}, {metric: balanced_error, at_most: 0.21, in: [search]} or raise "
        "search.num_trials above 16; a bound steers the fits too, so that it may take more than that"
    )


def add_row(folder: RunFolder, name: str, coverage: float, **more: Any) -> None:
    """A baseline that breaks a bound."""
    values = {"min_coverage": coverage, "balanced_error": 0.1, "accuracy": 0.5}
    record = TrialRecord(f"min_recall/baseline/{name}", "min_recall", "baseline", 0, 0, state="FINISHED")
    record.select, record.feasible = {key: Figure(v, v, v) for key, v in values.items()}, False
    for key, value in more.items():
        setattr(record, key, value)
    folder.save_trial(record)


def test_without_the_rung_of_the_search_the_nearest_row_is_named(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add_row(folder, "untouched", 0.1)
    add_row(folder, "balanced_head", 0.35)
    text = why(folder)
    assert text.startswith(
        "no feasible row for min_recall among 2: the nearest, balanced_head, came to min_coverage 0.35 (bound >= 0.4, "
        "missed by 0.05)"
    )
    assert "search.num_trials" not in text


def test_rows_beside_the_trials_are_counted_and_may_be_the_nearest(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, 0.2)
    row = partial(add_row, folder)
    row("untouched", 0.1)
    assert why(folder).startswith(
        "no feasible trial for min_recall, and none of 1 other row: the nearest, trial-000, came to min_coverage 0.2 "
    )
    row("balanced_head", 0.35)
    # One that failed, or that cannot win, is no row that was near.
    row("plug_in", 0.39, state="FAILED")
    row("retrained_logit_adjusted", 0.39, reference=True)
    assert why(folder).startswith(
        "no feasible trial for min_recall, and none of 2 other rows: the nearest, balanced_head, came to min_coverage "
        "0.35 (bound >= 0.4, missed by 0.05)"
    )


def test_means_over_fresh_seeds_count_where_there_are_some(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    # Feasible on the seed of the search, and not on others.
    add(folder, 0, 0.5, 0.3, 0.45)
    add(folder, 1, 0.5, 0.1, 0.1)
    assert (
        "the nearest, trial-000 (mean over 2 fresh seeds), came to min_coverage 0.375 (bound >= 0.4"
        in why(folder)
    )
    assert "balanced_error 0.1 (bound <= 0.2, met)" in why(folder)
    assert "balanced_error, at_most" not in why(folder)


@pytest.mark.parametrize("coverage", [0.0, 0.1234567, 0.39999])
def test_what_is_proposed_is_valid_and_met_by_the_nearest(tmp_path: Path, coverage: float) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, coverage, error=0.99999)
    # The calibration error is refused inside the method.
    asked = [*BOUNDS[:2], {"metric": "calibration_error", "at_most": 0.01, "in": ["search"]}]
    proposed = re.findall(r"\{metric[^}]*\}", why(folder, bounds=asked))
    assert len(proposed) == 3
    judge = Judge(folder, spec(bounds=[yaml.safe_load(text) for text in proposed]), "min_recall")
    values = {"min_coverage": coverage, "balanced_error": 0.99999, "calibration_error": 0.5}
    assert judge.rule.violation(values) == 0.0


@pytest.mark.parametrize(
    ("name", "written"),
    [("b", "b"), ("no", '"no"'), ("7", '"7"'), ("a, b", '"a, b"'), ("größe", '"gr\\u00f6\\u00dfe"')],
)
def test_a_bound_on_a_class_names_it(tmp_path: Path, name: str, written: str) -> None:
    folder = sweep(tmp_path)
    state = folder.load_state()
    assert state.data is not None
    folder.save_state(replace(state, data=replace(state.data, class_names=["a", name])))
    asked = {"metric": "recall", "class": 1, "at_least": 0.5, "in": ["search"]}
    add(folder, 0, 0.5)
    record = folder.load_trial("min_recall/trial-000")
    key = "recall/class 1" if name in ("a, b", "größe") else f"recall/{name}"
    record.select, record.feasible = {key: Figure(0.4375, 0.2, 0.6)}, False
    folder.save_trial(record)
    text = why(folder, bounds=[asked])
    assert f"came to {key} 0.438 (bound >= 0.5, missed by 0.0625)" in text
    proposed = f"{{metric: recall, class: {written}, at_least: 0.437, in: [search]}}"
    assert f"loosen the bound to {proposed}" in text
    # Read again it is the class's own name, whatever YAML makes of it unquoted.
    assert yaml.safe_load(proposed)["class"] == name


def test_no_more_trials_of_a_grid_or_without_a_search(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, 0.2)
    assert "search.num_trials" in why(folder)
    assert "search.num_trials" not in why(folder, "search.method=grid")
    assert "search.num_trials" not in why(folder, "parameters={lr: {value: 0.03}}")


def test_the_bound_of_an_objective_is_named_as_a_constraint(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, 0.2)
    for record in folder.load_trials():
        record.objective = "mean_recall_min_coverage"
        folder.save_trial(record)
    made = spec_of(MINIMAL, "objectives=[mean_recall_min_coverage]")
    text = why_nothing_wins(Judge(folder, made, "mean_recall_min_coverage"))
    assert "min_coverage 0.2 (bound >= 0.475, missed by 0.275)" in text  # .95 / 2
    assert "loosen the bound to {metric: min_coverage, at_least: 0.2, in: [search]}" in text


def test_failures_are_no_bounds(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    assert why(folder) == "no feasible trial for min_recall: no trial finished"
    add(folder, 0, 0.5, 0.5, 0.5)
    for record in folder.load_trials()[1:]:
        record.state, record.error = "FAILED", "ValueError: x"
        folder.save_trial(record)
    assert (
        why(folder)
        == "no feasible trial for min_recall: no finalist finished on its fresh seeds: ValueError: x"
    )
    trial = folder.load_trial("min_recall/trial-000")
    trial.state, trial.error = "FAILED", "OSError: y"
    folder.save_trial(trial)
    assert why(folder) == "no feasible trial for min_recall: no trial finished: OSError: y"
    assert isinstance(folder.load_state(), SweepState)
