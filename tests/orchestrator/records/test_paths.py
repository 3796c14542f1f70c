"""Paths below a sweep's folder: one for each file, none outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records.paths import RunPaths
from orchestrator.records.types import baseline_id

PATHS = RunPaths(Path("/runs/s"))


@pytest.mark.parametrize(
    ("trial_id", "folder"),
    [
        ("o/trial-007", "trials/o/trial-007"),
        ("o/policy=uniform/trial-007/seed-1", "trials/o/policy=uniform/trial-007/seed-1"),
        ("o/baseline/untouched", "baselines/o/untouched"),
        ("baseline/trial-000", "trials/baseline/trial-000"),
        ("o/baselines=1/trial-000", "trials/o/baselines=1/trial-000"),
    ],
)
def test_runs_and_baselines_lie_in_folders_of_their_own(trial_id: str, folder: str) -> None:
    assert PATHS.trial_folder(trial_id) == Path("/runs/s") / folder


def test_a_baseline_of_an_objective_called_baseline_is_no_trial() -> None:
    assert PATHS.trial_folder(baseline_id("baseline", "untouched")) == Path(
        "/runs/s/baselines/baseline/untouched"
    )


def test_replicates_of_a_baseline_have_a_file_each_and_index_0_is_one_of_them() -> None:
    names = [PATHS.weights_path("o/baseline/b", index).name for index in (None, 0, 12)]
    assert names == ["weights.safetensors", "weights-0.safetensors", "weights-12.safetensors"]
    names = [PATHS.predictions_path("o/baseline/b", index).name for index in (None, 0, 12)]
    assert names == ["predictions.npz", "predictions-0.npz", "predictions-12.npz"]


def test_no_two_files_share_a_path() -> None:
    own = [
        PATHS.state_path, PATHS.spec_path, PATHS.file_path, PATHS.stop_path, PATHS.log_path, PATHS.journal_path,
        PATHS.choices_path, PATHS.results_path, PATHS.base_weights, PATHS.base_head("a"), PATHS.base_head("b"),
        PATHS.staged_data, PATHS.ray_path,
    ]  # fmt: skip
    for run in ("a/trial-000", "a/trial-000/seed-1", "a/baseline/x", "b/baseline/x"):
        own += [
            PATHS.record_path(run), PATHS.trial_log_path(run), PATHS.rounds_path(run), PATHS.rounds_table_path(run),
            PATHS.weights_path(run), PATHS.weights_path(run, 0), PATHS.predictions_path(run),
            PATHS.predictions_path(run, 0),
        ]  # fmt: skip
    assert len(set(own)) == len(own)
    assert all(path.is_relative_to(PATHS.path) for path in own)
