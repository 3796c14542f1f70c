"""`selmix show`: runs by state, the time that is left, and the sentence of a verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.documents import from_document
from orchestrator.records.types import Figure, SweepState, TrialRecord
from orchestrator.results.rows import MoreLabels, ObjectiveResult, ReplicateMeans, Verdict, Winner
from orchestrator.verbs.show import RunCounts, ShowDocument, run_counts, trial_row
from orchestrator.verbs.show_text import answer, show_text, stopped_early

METRICS = {"min_recall": Figure(0.8, 0.6, 0.9)}


def records(*states: Any) -> list[TrialRecord]:
    return [
        TrialRecord(f"o/trial-{k:03d}", "o", "trial", k, 0, state=state, started_ms=1_000_000 * (k + 1))
        for k, state in enumerate(states)
    ]


def planned(runs: int) -> SweepState:
    return SweepState("s", "1", planned_runs=runs)


def test_runs_are_counted_by_state_and_those_that_are_planned_too() -> None:
    known = records("FINISHED", "PRUNED", "FAILED", "RUNNING", "INTERRUPTED", "KILLED")
    counts = run_counts(planned(8), known, "stopped")
    assert counts == RunCounts(finished=2, failed=1, running=0, total=8, eta_s=None)
    # What is planned may lag behind the records.
    assert run_counts(planned(3), known, "stopped").total == 6


def test_the_time_left_is_that_of_the_ended_runs_since_the_first_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.verbs.show.time.time", lambda: 1_600.0)
    known = records("FINISHED", "KILLED", "RUNNING")
    counts = run_counts(planned(8), known, "running")
    # Two ended in 600 s since the first began at 1,000 s, and six are left.
    assert (counts.running, counts.eta_s) == (1, pytest.approx(600 / 2 * 6))
    assert run_counts(planned(8), records("RUNNING"), "running").eta_s is None
    assert run_counts(planned(1), records("FINISHED"), "finished").eta_s == 0.0
    assert run_counts(planned(0), [], "running") == RunCounts(0, 0, 0, 0, None)


def test_runs_that_were_stopped_early_are_counted_where_there_are_some() -> None:
    rows = [trial_row(record, "finished") for record in records("FINISHED", "PRUNED", "FAILED", "PRUNED")]
    assert stopped_early(rows) == ", 2 of them stopped early"
    assert stopped_early(rows[:1]) == ""


def test_a_run_without_its_driver_is_interrupted() -> None:
    (record,) = records("RUNNING")
    assert [trial_row(record, state).state for state in ("running", "stopped", "failed")] == [
        "RUNNING", "INTERRUPTED", "INTERRUPTED",
    ]  # fmt: skip
    assert trial_row(records("KILLED")[0], "stopped").state == "KILLED"


def winner(**more: Any) -> Winner:
    means = ReplicateMeans([1], 0.8, METRICS)
    made = Winner(
        "o/trial-007/seed-1", 1, 3, 60, None, {}, False, 0.8, METRICS, 1.0, ["train", "feedback", "select"], means,
        row="o/trial-007", replicate_of="o/trial-007",
    )  # fmt: skip
    return replace(made, **more)


HEAD = {"trial_id": "o/baseline/balanced_head", "row": "o/baseline/balanced_head", "approach": "balanced_head",
        "rung": "head", "replicate_of": None}  # fmt: skip


UNTOUCHED = HEAD | {"approach": "untouched", "rung": "scores"}


def result(verdict: Verdict | None, **more: Any) -> ObjectiveResult:
    return ObjectiveResult(metric="min_recall", winner=winner(**more), verdict=verdict)


def verdict(outcome: Any, **more: Any) -> Verdict:
    """Against three opponents, of which the best was fixed on select."""
    made = Verdict(
        outcome, "untouched", Figure(0.01, -0.02, 0.04), margin=0.02, samples=24, not_told_apart=[],
        differences=dict.fromkeys(("untouched", "balanced_head", "tau_normalisation"), Figure(0.01, -0.02, 0.04)),
    )  # fmt: skip
    return replace(made, **more)


GAP = "+1.0 [-2.0, +4.0] pp on select"
OTHERS = ["balanced_head", "untouched", "tau_normalisation"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            verdict("better"),
            f"BETTER: SelMix trial-007 is better than every opponent; the best of them is untouched: {GAP}",
        ),
        (
            verdict("better", within_margin=True),
            "BETTER: SelMix trial-007 is better than every opponent, by less than the margin; the best of them is "
            f"untouched: {GAP}",
        ),
        (
            verdict("worse", worse_than=["untouched"]),
            "WORSE: untouched is better than the chosen SelMix trial-007: SelMix trial-007 minus untouched is "
            f"{GAP}",
        ),
        (
            verdict("worse", worse_than=["balanced_head", "tau_normalisation"]),
            "WORSE: balanced_head, tau_normalisation are better than the chosen SelMix trial-007: SelMix trial-007 "
            f"minus balanced_head is {GAP}",
        ),
        (
            verdict("tied"),
            "TIED: SelMix trial-007 and its best opponent, untouched, differ by less than the margin of 2.0 pp: "
            f"{GAP}",
        ),
        (
            verdict("tied", against_is_cheaper=True),
            "TIED: SelMix trial-007 and its best opponent, untouched, which is cheaper, differ by less than the margin "
            f"of 2.0 pp: {GAP}",
        ),
        (
            verdict("undecided", not_told_apart=["untouched"]),
            f"CANNOT TELL: SelMix trial-007 is not told apart from untouched: {GAP}",
        ),
        (
            verdict("undecided", not_told_apart=OTHERS, samples_needed=6_433, against_is_cheaper=True),
            f"CANNOT TELL: SelMix trial-007 is not told apart from untouched, which is cheaper, and 2 others: {GAP}; "
            "about 6,430 samples per class would tell, 24 are there",
        ),
        (
            verdict("undecided", not_told_apart=["balanced_head", "tau_normalisation"], samples_needed=48),
            f"CANNOT TELL: SelMix trial-007 is not told apart from balanced_head and 1 other: {GAP}; about 48 samples "
            "per class would tell, 24 are there",
        ),
        (None, "the best row is SelMix trial-007; there is no other of no more labels to compare it with"),
    ],
)  # fmt: skip
def test_the_first_line_is_the_verdict(made: Verdict | None, says: str) -> None:
    assert answer(result(made)) == says


MORE = MoreLabels(["last_layer_post_hoc_both", "selmix"], Figure(-0.013, -0.074, 0.05), True)
HIGHER = "; last_layer_post_hoc_both, of more labels, is higher: -1.3 [-7.4, +5.0] pp"
ONE = {"balanced_head": Figure(0.03, 0.01, 0.05)}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            verdict("better", against="balanced_head", difference=ONE["balanced_head"], differences=ONE),
            "BETTER: untouched is better than the 1 row of as few labels (balanced_head: +3.0 [+1.0, +5.0] pp on "
            "select)",
        ),
        (
            verdict("better", within_margin=True),
            "BETTER: untouched is better than the 3 rows of as few labels, by less than the margin (the best of them "
            f"is untouched: {GAP})",
        ),
        (
            verdict("worse", worse_than=["untouched"]),
            f"WORSE: untouched is better than the chosen untouched: untouched minus untouched is {GAP}",
        ),
        (
            verdict("tied"),
            f"TIED: untouched and its best opponent, untouched, differ by less than the margin of 2.0 pp: {GAP}",
        ),
        (
            verdict("undecided", not_told_apart=["untouched"], samples_needed=48),
            f"CANNOT TELL: untouched is not told apart from untouched: {GAP}; about 48 samples per class would tell, "
            "24 are there",
        ),
        (None, "the best row is untouched; there is no other of no more labels to compare it with"),
    ],
)
def test_the_first_line_names_a_higher_row_of_more_labels(made: Verdict | None, says: str) -> None:
    def first_line(more: MoreLabels) -> str:
        if made is None:
            return answer(replace(result(None, **UNTOUCHED), more_labels=more))
        return answer(result(replace(made, more_labels=more), **UNTOUCHED))

    assert first_line(MORE) == f"{says}{HIGHER}"
    assert (
        first_line(replace(MORE, is_higher=False)) == f"{says}; none of the 2 rows of more labels is higher"
    )
    assert first_line(replace(MORE, rows=["selmix"], is_higher=False)) == (
        f"{says}; the 1 row of more labels, SelMix, is not higher"
    )
    by_score = replace(MORE, difference=Figure(0.0, -0.02, 0.02))
    assert first_line(by_score).endswith(", of more labels, has the higher score: +0.0 [-2.0, +2.0] pp")


def test_a_winner_is_named_by_its_row() -> None:
    assert "SelMix trial-007 (the defaults)" in answer(result(verdict("tied"), is_default=True))
    assert answer(result(verdict("better"), **HEAD)).startswith("BETTER: balanced_head is better than ")
    assert answer(ObjectiveResult()) == "nothing can win"


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ("better", f"BETTER: SelMix trial-007 is better than untouched, by the earlier rule: {GAP}"),
        ("worse", f"WORSE: untouched is better than SelMix trial-007, by the earlier rule: {GAP}"),
        (
            "tied",
            "TIED: no significant difference between SelMix trial-007 and untouched, by the earlier rule: "
            f"{GAP}",
        ),
    ],
)
def test_a_stored_verdict_says_that_it_is_by_the_earlier_rule(outcome: Any, says: str) -> None:
    earlier = Verdict(outcome, "untouched", Figure(0.01, -0.02, 0.04), against_is_cheaper=True)
    assert answer(result(earlier)) == says


def test_what_is_finished_of_a_sweep_without_trials_are_baselines() -> None:
    stored = Path(__file__).parents[2] / "screens" / "documents" / "show_until.json"
    document = from_document(ShowDocument, json.loads(stored.read_text()))
    (judged,) = document.objectives.values()
    open_ones = {"min_recall": ObjectiveResult(baselines=judged.baselines)}
    stopped = replace(document, state="stopped", objectives=open_ones)
    assert show_text(stopped, None).splitlines()[0] == "until is stopped: 14 baselines finished"


def test_the_step_of_a_recall_is_that_of_the_smallest_class_of_select() -> None:
    stored = Path(__file__).parents[2] / "screens" / "documents" / "show_until.json"
    document = from_document(ShowDocument, json.loads(stored.read_text()))

    def held(counts: list[int]) -> str:
        text = show_text(replace(document, data=document.data | {"select_counts": counts}), None)
        (line,) = [line for line in text.splitlines() if line.startswith("data ")]
        return line.split("per class, ")[1]

    assert held([24] * 6) == "24 select samples per class (a recall moves in steps of 4.2 pp)"
    assert (
        held([9, 40, 9, 20, 20, 46])
        == "9 to 46 select samples per class (a recall moves in steps of up to 11.1 pp)"
    )
    # Earlier records have the sum alone.
    assert held([]) == "24 select samples per class (a recall moves in steps of 4.2 pp)"
