"""Settings for comparison only are told: a tag in MLflow, a line beside the winner."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from orchestrator.results.departures import departure_note, departures
from orchestrator.run.recorder import TrialBook
from orchestrator.tracking.tracker import Tracker, read_run
from selmix.config import FinetuneConfig
from tests.command import selmix

ORACLE, FORMULA = "selmix.oracle", "selmix.gain_formula"


@pytest.mark.parametrize(
    ("change", "tags"),
    [
        ({}, set()),
        ({"gain_formula": "released_code"}, {FORMULA}),
        ({"gain_formula": "released_code", "policy": "loss_weight"}, {FORMULA}),
        ({"gain_formula": "released_code", "policy": "uniform"}, set()),
        ({"gain_formula": "released_code", "policy": "balanced"}, set()),
        ({"second": "oracle"}, {ORACLE}),
        ({"second": "oracle", "coefficient_min": 1.0}, set()),
        ({"second": "oracle", "policy": "loss_weight"}, set()),
        ({"second": "oracle", "gain_formula": "released_code"}, {ORACLE, FORMULA}),
    ],
)
def test_what_departs(change: dict[str, Any], tags: set[str]) -> None:
    config = FinetuneConfig(**change)
    assert set(departures(config.flat())) == tags
    acting = config.acting("min_recall")  # the same as the method sees it
    assert (acting.get("gain_formula") == "released_code") == (FORMULA in tags)
    assert (acting.get("second") == "oracle") == (ORACLE in tags)
    assert bool(departure_note(config.flat())) == bool(tags)


def test_the_tags_of_a_run(tmp_path: Path) -> None:
    book = TrialBook(RunFolder(tmp_path, "s"), cast(Tracker, None), cast(Progress, None), {"k": "v"}, {})
    record = TrialRecord("o/trial-000", "o", "trial", 0, seed=0, config=FinetuneConfig().flat())
    assert not {ORACLE, FORMULA} & book.run_tags(record).keys()
    record.config |= {"gain_formula": "released_code", "second": "oracle"}
    tags = book.run_tags(record)
    assert tags[FORMULA] == "released_code"
    assert tags[ORACLE] == "true labels of the unlabelled samples"


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_by_the_released_code_is_marked(tmp_path: Path) -> None:
    file = tmp_path / "released.yaml"
    file.write_text(
        "version: 1\nname: released\ndata: {name: gaussians}\nmodel: {name: linear_head}\n"
        "objectives: [min_recall]\nsearch: {num_trials: 1}\nselection: {finalists: 1, replicates: 1}\n"
        "parameters: {steps: {value: 20}, gain_formula: {value: released_code}}\n"
    )
    done = selmix("launch", file, cwd=tmp_path)
    assert done.code == 0, done.err
    shown = selmix("show", "released", cwd=tmp_path)
    assert "FOR COMPARISON ONLY: the winner used the gain of the released code" in shown.out
    document = selmix("show", "released", "--json", cwd=tmp_path).document
    trial = document["trials"][0]
    run = read_run(document["tracking_uri"], trial["mlflow_run_id"])
    assert run.data.tags[FORMULA] == "released_code"
