"""``compare``: one study for each value of a parameter, and the paired differences between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.compare import ArmComparison
from orchestrator.results.rows import ComparisonRow, ComparisonTable, Outcome
from orchestrator.spec.checks import load_spec
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


class FixedJudge:
    """A judge to whom all arms are tied; it keeps what it was asked."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> Figure:
        gap = (ours[0].score or 0.0) - (theirs[0].score or 0.0)
        return Figure(gap, gap - 0.1, gap + 0.1)

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, Outcome]:
        self.questions.append([*others, "against", reference[0].trial_id])
        return dict.fromkeys(others, "tied")


def comparison(finished: dict[str, list[float]]) -> tuple[ComparisonTable, FixedJudge]:
    """The comparison of arms whose finalists have these scores, trial by trial."""
    arms = {f"policy={value}": {"policy": value} for value in ("softmax", "uniform", "balanced")}
    trials, finals = {}, {}
    for value, scores in finished.items():
        for number, score in enumerate(scores):
            name = f"min_recall/policy={value}/trial-{number:03d}"
            trials[name] = TrialRecord(name, "min_recall", "trial", number, seed=0, arm=f"policy={value}")
            finals[name] = [TrialRecord(
                f"{name}/seed-1", "min_recall", "replicate", number, seed=1, state="FINISHED", score=score,
                select={"min_recall": Figure(score, score - 0.1, score + 0.1)},
            )]  # fmt: skip
    judge = FixedJudge()
    return ArmComparison(judge, arms, trials, finals).table("policy"), judge


def test_the_best_and_the_defaults_of_each_arm() -> None:
    table, judge = comparison({"softmax": [0.5, 0.6], "uniform": [0.7, 0.4], "balanced": []})
    softmax, uniform, balanced = table.rows
    assert softmax.tuned is not None
    assert softmax.defaults is not None
    assert (softmax.tuned.trial_id[-3:], softmax.defaults.trial_id[-3:]) == ("001", "000")
    assert softmax.tuned.difference is softmax.tuned.outcome is None
    assert uniform.tuned is not None
    assert uniform.defaults is not None
    assert uniform.tuned.difference is not None
    assert uniform.tuned.difference.value == pytest.approx(0.1)
    assert uniform.defaults.difference is not None
    assert uniform.defaults.difference.value == pytest.approx(0.2)
    assert uniform.tuned.outcome == "tied"
    assert balanced == ComparisonRow("balanced", None, None)
    assert [question[:2] for question in judge.questions] == [["policy=uniform", "against"]] * 2


def test_a_reference_without_finalists_leaves_no_difference() -> None:
    table, judge = comparison({"uniform": [0.7], "balanced": [0.6]})
    assert table.rows[0].tuned is None
    assert table.rows[1].tuned is not None
    assert table.rows[1].tuned.difference is table.rows[1].tuned.outcome is None
    assert judge.questions == []


def test_an_arm_is_represented_by_scores_of_zero_and_below_too() -> None:
    table, judge = comparison({"softmax": [-0.1, 0.0], "uniform": [0.0, 0.0], "balanced": [-0.2]})
    tuned = {row.value: row.tuned for row in table.rows}
    assert {value: each and (each.trial_id[-3:], each.score) for value, each in tuned.items()} == {
        "softmax": ("001", 0.0), "uniform": ("000", 0.0), "balanced": ("000", -0.2),
    }  # fmt: skip
    assert tuned["uniform"] is not None
    assert tuned["uniform"].difference == Figure(0.0, -0.1, 0.1)
    # One question for all arms, which Holm's correction needs: once for the tuned, once for the defaults.
    assert [question[:3] for question in judge.questions] == [
        ["policy=uniform", "policy=balanced", "against"]
    ] * 2


def test_values_are_in_the_order_of_the_file_and_the_first_is_the_reference() -> None:
    table, _ = comparison({"balanced": [0.9], "uniform": [0.5], "softmax": [0.1]})
    assert (table.parameter, table.reference) == ("policy", "softmax")
    assert [row.value for row in table.rows] == ["softmax", "uniform", "balanced"]


def test_an_arm_whose_defaults_did_not_finish_is_still_tuned() -> None:
    trials = {
        name: TrialRecord(name, "o", "trial", number, 0, arm="p=1")
        for number, name in enumerate(("zero", "one", "two"))
    }
    finals = {
        name: [
            TrialRecord(f"{name}/{seed}", "o", "replicate", 0, 1, score=score)
            for seed, score in enumerate(scores)
        ]
        for name, scores in (("zero", []), ("one", [0.9, 0.1]), ("two", [0.6, 0.6]))
    }
    (row,) = ArmComparison(FixedJudge(), {"p=1": {"p": 1}}, trials, finals).table("p").rows
    assert row.defaults is None
    assert row.tuned is not None
    assert (row.tuned.trial_id, row.tuned.score) == ("two", 0.6)  # the best mean, not the best seed


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
    assert "minus softmax, pp" in text
    assert re.search(r"ablation +policy: softmax, uniform", text)
    # Whatever row wins, that of SelMix is a trial of one arm, and can be pinned.
    assert re.search(r"^  (winner )?SelMix policy=(softmax|uniform)/trial-00[01] ", text, re.MULTILINE)
    assert compare["rows"][1]["tuned"]["outcome"] in ("better", "tied", "worse")
    assert selmix("launch", file, cwd=tmp_path).code == 0  # finished: nothing runs again
    assert selmix("pin", "arms", "--row", "selmix", "--name", "a", cwd=tmp_path).code == 0
    assert re.search(
        r"^ +policy: (softmax|uniform)$", (tmp_path / "pins" / "a.yaml").read_text(), re.MULTILINE
    )
    assert selmix("reproduce", "a", cwd=tmp_path).code == 0
