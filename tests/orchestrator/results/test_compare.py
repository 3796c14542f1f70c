"""``compare``: one study for each value of a parameter, and the paired differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.records.types import TrialRecord
from orchestrator.results.compare import Comparison, comparison_caption, comparison_rows
from orchestrator.spec.schema import SweepSpec, load_spec
from tests.command import selmix

TEXT = """\
version: 1
name: arms
data: {name: gaussians, feedback: 30, select: 30, test: 50, largest_class: 100}
model: {name: linear_head}
objectives: [min_recall]
parameters: {lr: {min: 0.01, max: 0.1}, steps: {value: 40}}
compare: {policy: [softmax, uniform]}
search: {num_trials: 2}
selection: {replicates: 2, finalists: 1}
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "arms.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (
            "{policy: [softmax, uniform], steps: [1, 2]}",
            "compare: must name one parameter, got policy, steps",
        ),
        ("{polcy: [softmax, uniform]}", "compare.polcy: unknown parameter; did you mean policy?"),
        ("{lr: [0.1, 0.2]}", "compare.lr: must not stand in parameters too"),
        ("{policy: [softmax]}", "compare.policy: must be a list of two or more different values"),
        ("{policy: [softmax, softmax]}", "two or more different values"),
        ("{policy: [softmax, hard]}", "compare.policy.1: must be one of softmax, greedy"),
        ("{mixup_layer: [features, stage9]}", "compare.mixup_layer.1: the model has no layer 'stage9'"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, compare: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(written(tmp_path, TEXT.replace("{policy: [softmax, uniform]}", compare)))
    assert message in str(caught.value)
    assert ":7: " in str(caught.value)


def test_arms_of_a_file(tmp_path: Path) -> None:
    assert load_spec(written(tmp_path)).arms == {
        "policy=softmax": {"policy": "softmax"}, "policy=uniform": {"policy": "uniform"},
    }  # fmt: skip
    assert load_spec(written(tmp_path, TEXT.replace("compare: {policy: [softmax, uniform]}\n", ""))).arms == {
        "": {}
    }


def test_a_comparison_as_a_table() -> None:
    told = {"trial_id": "min_recall/policy=uniform/trial-003", "score": 0.5, "difference": None,
            "select": {"min_recall": {"value": 0.5, "low": 0.4, "high": 0.6}}}  # fmt: skip
    rows = comparison_rows(
        {"parameter": "policy", "reference": "softmax", "rows": [
            {"value": "softmax", "tuned": None, "defaults": told},
            {"value": "uniform", "tuned": told | {"outcome": "tied",
                                           "difference": {"value": -0.1, "low": -0.2, "high": 0.0}},
             "defaults": None}]},
        "min_recall",
    )  # fmt: skip
    assert rows[1][1:4] == ("no finished finalist", "", "")
    assert rows[2][1:4] == (" 50.0  [40.0, 60.0]", "-10.0 [-20.0, +0.0] tied", "policy=uniform/trial-003")
    assert {len(row) for row in rows} == {6}


class FixedJudge:
    """A judge of three arms that says what it was asked."""

    def __init__(self, spec: SweepSpec, trials: dict[str, TrialRecord]) -> None:
        self.spec, self.trials = spec, trials
        self.asked: list[list[str]] = []

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> dict[str, float]:
        gap = (ours[0].score or 0.0) - (theirs[0].score or 0.0)
        return {"value": gap, "low": gap - 0.1, "high": gap + 0.1}

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, str]:
        self.asked.append([*others, "against", reference[0].trial_id])
        return dict.fromkeys(others, "tied")


def arms_of(folder: Path, finished: dict[str, list[float]]) -> tuple[dict[str, Any], FixedJudge]:
    """The comparison of sweeps whose arms have finalists of these scores, trial by trial."""
    spec = load_spec(written(folder, TEXT.replace("[softmax, uniform]", "[softmax, uniform, balanced]")))
    trials, finals = {}, {}
    for value, scores in finished.items():
        for number, score in enumerate(scores):
            name = f"min_recall/policy={value}/trial-{number:03d}"
            trials[name] = TrialRecord(name, "min_recall", "trial", number, seed=0, arm=f"policy={value}")
            estimate = {"value": score, "low": score, "high": score}
            finals[name] = [TrialRecord(
                f"{name}/seed-1", "min_recall", "replicate", number, seed=1, state="FINISHED", score=score,
                select={"min_recall": estimate},
            )]  # fmt: skip
    judge = FixedJudge(spec, trials)
    document = Comparison(judge, finals).document()
    assert document is not None
    return document, judge


def test_the_best_and_the_defaults_of_each_arm(tmp_path: Path) -> None:
    document, judge = arms_of(tmp_path, {"softmax": [0.5, 0.6], "uniform": [0.7, 0.4], "balanced": []})
    softmax, uniform, balanced = document["rows"]
    assert (softmax["tuned"]["trial_id"][-3:], softmax["defaults"]["trial_id"][-3:]) == ("001", "000")
    assert softmax["tuned"]["difference"] is softmax["tuned"]["outcome"] is None
    assert uniform["tuned"]["difference"]["value"] == pytest.approx(0.1)
    assert uniform["defaults"]["difference"]["value"] == pytest.approx(0.2)
    assert uniform["tuned"]["outcome"] == "tied"
    assert balanced == {"value": "balanced", "tuned": None, "defaults": None}
    assert [asked[:2] for asked in judge.asked] == [["policy=uniform", "against"]] * 2


def test_a_reference_without_finalists_leaves_no_difference(tmp_path: Path) -> None:
    document, judge = arms_of(tmp_path, {"uniform": [0.7], "balanced": [0.6]})
    assert document["rows"][0]["tuned"] is None
    assert document["rows"][1]["tuned"]["difference"] is document["rows"][1]["tuned"]["outcome"] is None
    assert judge.asked == []


def test_what_stands_above_the_table() -> None:
    rows = [{"value": value} for value in ("softmax", "uniform", "balanced")]
    assert comparison_caption({"rows": rows}, 5).endswith("at 5 %, corrected for 2 comparisons:")
    assert comparison_caption({"rows": rows[:2]}, 5).endswith("at 5 %:")


@pytest.mark.ray
@pytest.mark.long
def test_a_sweep_that_compares(tmp_path: Path) -> None:
    """Equal studies, one winner over all arms, and the differences of the same seeds; pinned and reproduced."""
    file = written(tmp_path)
    plan = selmix("plan", file, "--json", cwd=tmp_path).document
    assert plan["trials"] == 4
    assert selmix("launch", file, cwd=tmp_path).code == 0
    document = selmix("show", "arms", "--json", cwd=tmp_path).document
    trials = [t for t in document["trials"] if t["kind"] == "trial"]
    assert sorted(t["arm"] for t in trials) == ["policy=softmax"] * 2 + ["policy=uniform"] * 2
    assert all(t["arm"] == f"policy={t['config']['policy']}" for t in trials)
    by_arm = {
        arm: [t["config"]["lr"] for t in trials if t["arm"] == arm]
        for arm in ("policy=softmax", "policy=uniform")
    }
    assert by_arm["policy=softmax"][0] == by_arm["policy=uniform"][0]  # trial 0 of each: the defaults
    compare = document["objectives"]["min_recall"]["compare"]
    assert [row["value"] for row in compare["rows"]] == ["softmax", "uniform"]
    assert compare["rows"][0]["defaults"]["difference"] is None
    gap = compare["rows"][1]["defaults"]["difference"]
    values = [row["defaults"]["select"]["min_recall"]["value"] for row in compare["rows"]]
    assert gap["value"] == pytest.approx(values[1] - values[0], abs=1e-9)
    assert gap["low"] <= gap["value"] <= gap["high"]
    text = selmix("show", "arms", cwd=tmp_path).out
    assert "minus softmax, points" in text
    assert "compared  policy: softmax, uniform" in text
    assert f"policy {document['objectives']['min_recall']['winner']['config']['policy']}, lr" in text
    assert compare["rows"][1]["tuned"]["outcome"] in ("better", "tied", "worse")
    assert selmix("launch", file, cwd=tmp_path).code == 0  # finished: nothing runs again
    assert selmix("pin", "arms", "--name", "a", cwd=tmp_path).code == 0
    assert selmix("reproduce", "a", cwd=tmp_path).code == 0
