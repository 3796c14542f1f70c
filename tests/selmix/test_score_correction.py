"""Corrections of scores as files: written, read, applied to scores of every kind, and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selmix
from selmix.score_correction import ScoreCorrection, binary_threshold, decide, load_score_correction
from selmix.score_kinds import KINDS, ScoreKind, log_odds, on_log_scale
from tests.selmix.test_score_kinds import as_kind, logits

NAMES = ("ant", "bee", "cow")
BIASES = ScoreCorrection(
    "biases", NAMES, "probabilities", "min_recall", (0.5, -1.0, 0.0), rows=50, digest="d"
)
CUT = ScoreCorrection("threshold", ("no", "yes"), "probabilities", "f_beta", threshold=0.3)


@pytest.mark.parametrize("correction", [BIASES, CUT])
def test_what_is_written_is_read_again(correction: ScoreCorrection, tmp_path: Path) -> None:
    correction.save(tmp_path / "c.json")
    assert load_score_correction(tmp_path / "c.json") == correction
    assert selmix.load_score_correction(str(tmp_path / "c.json")) == correction
    held = json.loads((tmp_path / "c.json").read_text())
    assert held["apply"] == correction.apply
    assert held.get("positive") == (None if correction is BIASES else "yes")


@pytest.mark.parametrize("kind", KINDS)
def test_biases_decide_alike_on_scores_of_every_kind(kind: ScoreKind) -> None:
    values = logits(200)
    correction = ScoreCorrection("biases", NAMES, kind, "min_recall", BIASES.biases)
    expected = (torch.softmax(values, dim=1) * torch.tensor(BIASES.biases).exp()).argmax(dim=1)
    found = correction.predict(as_kind(values, kind).numpy())
    assert torch.equal(found, expected)
    assert not torch.equal(found, values.argmax(dim=1))


def test_a_threshold_is_exceeded() -> None:
    scores = np.array([0.1, 0.3, 0.31, 1.0])
    assert CUT.predict(scores).tolist() == [0, 0, 1, 1]
    assert CUT.predict(scores[:, None]).tolist() == [0, 0, 1, 1]
    # The same decisions as offsets on the scale of logarithms, at the threshold too.
    on_scale = on_log_scale(torch.from_numpy(scores[:, None]), "probabilities")
    assert decide(on_scale, CUT.offsets()).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_two_biases_are_a_threshold(kind: ScoreKind) -> None:
    offsets = torch.tensor([0.4, -0.8], dtype=torch.float64)
    threshold = binary_threshold(offsets, kind)
    odds = log_odds(torch.tensor([threshold], dtype=torch.float64), kind)
    assert float(odds) == pytest.approx(1.2)


def test_classes_in_another_order() -> None:
    turned = BIASES.for_classes(("cow", "ant", "bee"))
    assert turned.biases == (0.0, 0.5, -1.0)
    assert BIASES.for_classes(NAMES) is BIASES
    for correction, names in ((BIASES, ("ant", "bee", "dog")), (CUT, ("yes", "no"))):
        with pytest.raises(ValueError, match="must be a correction of the classes"):
            correction.for_classes(names)


@pytest.mark.parametrize(
    ("correction", "scores", "message"),
    [
        (BIASES, np.full((4, 2), 0.5), r"scores must have shape \(n, 3\), got \(4, 2\)"),
        (BIASES, np.full(4, 0.5), r"scores must have shape \(n, 3\), got \(4,\)"),
        (BIASES, np.full((4, 3), 0.5), "row 1: probabilities must lie within"),
        (CUT, np.array([0.5, 3.0]), "row 2: probabilities must lie within"),
    ],
)
def test_scores_that_do_not_fit(correction: ScoreCorrection, scores: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correction.predict(scores)
    assert correction.predict(np.empty((0, 3 if correction is BIASES else 1))).tolist() == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "matrix"}, "kind must be biases or threshold, got 'matrix'"),
        ({"scores": "odds"}, "scores must be one of logits, log-probabilities, probabilities, got 'odds'"),
        ({"biases": [0.0, 1.0]}, "biases must be finite numbers, one per class of 3"),
        ({"biases": [0.0, 1.0, math.inf]}, "biases must be finite numbers"),
        ({"kind": "threshold"}, "a threshold must be a finite number for two classes, got None for 3"),
        ({"schema_version": 2}, "schema_version must be 1, got 2"),
        ({"class_names": None}, "must be a correction that selmix evaluate --save wrote"),
    ],
)
def test_files_that_are_no_correction(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    BIASES.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=message) as caught:
        load_score_correction(path)
    assert str(caught.value).startswith(f"{path}: must be a correction")
    for text, reason in (
        ("{}", "it has no 'schema_version'"),
        ("no", "must be a correction"),
        ("[1]", "must be"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            load_score_correction(path)
    with pytest.raises(ValueError, match="must be a correction: No such file"):
        load_score_correction(tmp_path / "none.json")
