"""Rows that may win or oppose: which of them vote on which, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.records.types import CrossFittedScore, TrialRecord, baseline_id
from orchestrator.results.candidates import (
    Candidate,
    baseline_candidates,
    in_order,
    of_more_labels,
    opponents_of,
)
from selmix.baselines import BASELINES


def baseline(name: str, score: float | None, **more: Any) -> TrialRecord:
    made = {"state": "FINISHED", "score": score, "cost_s": 1.0, "labels": ["train"]} | more
    return TrialRecord(baseline_id("o", name), "o", "baseline", 0, 0, **made)


def candidate(name: str, score: float = 0.5, labels: str = "train feedback select", **more: Any) -> Candidate:
    rung: Any = BASELINES[name].rung if name in BASELINES else "finetune"
    made = Candidate(f"o/{name}", name, rung, 0, 0, tuple(labels.split()), score, 1.0, [])
    return replace(made, **more)


def opposing(row: Candidate, *others: Candidate) -> list[str]:
    return [each.name for each in opponents_of(row, [row, *others])]


SELMIX_ROW = candidate("selmix")


def test_opponents_have_no_more_labels_and_the_best_comes_first() -> None:
    others = [
        candidate("untouched", 0.2, "train"), candidate("balanced_head", 0.7, "train select"),
        candidate("last_layer_post_hoc", 0.6), candidate("tau_normalisation", 0.9, "train feedback select unlabelled"),
    ]  # fmt: skip
    assert opposing(SELMIX_ROW, *others) == ["balanced_head", "last_layer_post_hoc", "untouched"]
    # Where a baseline is judged, rows that have seen more do not vote, SelMix among them.
    assert opposing(others[1], SELMIX_ROW, others[0], others[2]) == ["untouched"]
    assert opposing(others[0], SELMIX_ROW, others[1]) == []
    # A checkpoint's labels are not known: only its own descendants compare.
    assert opposing(candidate("selmix", labels="checkpoint feedback select"), others[0]) == []


def test_rows_of_more_labels_are_those_that_used_a_split_which_the_row_did_not() -> None:
    row, *others = (
        candidate("post_hoc_logit_adjustment", 0.6, "train select"), candidate("untouched", 0.9, "train"),
        candidate("balanced_head", 0.5, "train select"), candidate("post_hoc_bias_search", 0.4, "train feedback"),
        candidate("last_layer_post_hoc_both", 0.7, "train feedback select"), SELMIX_ROW,
        candidate("mislas_stage_two", 0.7, "train feedback select", steps=5),
    )  # fmt: skip
    assert [each.name for each in of_more_labels(row, [row, *others])] == [
        "last_layer_post_hoc_both", "mislas_stage_two", "selmix", "post_hoc_bias_search",
    ]  # fmt: skip
    assert of_more_labels(SELMIX_ROW, [row, *others]) == []
    assert not set(opposing(row, *others)) & {each.name for each in of_more_labels(row, [row, *others])}


def test_at_equal_scores_the_cheaper_opponent_is_the_stronger_one() -> None:
    others = [
        candidate("mislas_stage_two", number=1003), candidate("balanced_head", number=1001),
        candidate("post_hoc_bias_search", number=1002),
    ]  # fmt: skip
    assert opposing(SELMIX_ROW, *others) == ["post_hoc_bias_search", "balanced_head", "mislas_stage_two"]


def test_rows_that_contain_selmix_or_differ_by_the_policy_alone_do_not_vote() -> None:
    uniform, corrected, head = (
        candidate(n, 0.9) for n in ("uniform_mixup", "selmix_post_hoc", "balanced_head")
    )
    assert opposing(SELMIX_ROW, uniform, corrected, head) == ["balanced_head"]
    # The other way round: uniform pairs differ from SelMix in the policy alone, too; what contains SelMix does not
    # make SelMix contain it.
    assert opposing(uniform, SELMIX_ROW, head) == ["balanced_head"]
    assert opposing(corrected, SELMIX_ROW, uniform) == ["uniform_mixup", "selmix"]
    assert opposing(head, SELMIX_ROW, uniform, corrected) == ["uniform_mixup", "selmix_post_hoc", "selmix"]


def test_a_baseline_of_another_version_of_the_catalogue_opposes() -> None:
    assert opposing(SELMIX_ROW, candidate("of_another_version")) == ["of_another_version"]


def test_baselines_are_in_the_order_of_the_catalogue_and_unknown_ones_last() -> None:
    catalogue = list(BASELINES)
    records = [baseline(name, 0.0) for name in ("zzz", *reversed(catalogue), "aaa")]
    assert [b.name for b in in_order(records)] == [*catalogue, "zzz", "aaa"]


def test_a_baseline_that_may_win_is_finished_feasible_and_no_reference() -> None:
    fitted = CrossFittedScore(0.8, 5, 40, violation=0.0)
    records = [
        baseline("uniform_mixup", 0.4, rung="finetune", seeds=[1, 2], cost_s=6.0),
        baseline("balanced_head", 0.5, rung="head", cross_fitted=fitted),
        baseline("untouched", 0.0, rung="scores", feasible=False),
        baseline("plug_in", None, state="FAILED"),
        baseline("retrained_logit_adjusted", 0.9, rung="retrain", reference=True),
    ]
    found = baseline_candidates(records, 400)
    assert [(each.name, each.rung, each.steps, each.cost_s) for each in found] == [
        ("balanced_head", "head", 0, 1.0), ("uniform_mixup", "finetune", 400, 3.0),
    ]  # fmt: skip
    assert [each.cross_fitted for each in found] == [fitted, None]
    # A record of before rungs has that of the catalogue.
    assert baseline_candidates([baseline("post_hoc_bias_search", 0.1)], 400)[0].rung == "scores"
