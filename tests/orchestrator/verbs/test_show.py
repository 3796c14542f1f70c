"""`selmix show`: runs by state, the time that is left, and the sentence of a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.records.types import Figure, SweepState, TrialRecord
from orchestrator.results.rows import ObjectiveResult, ReplicateMeans, Verdict, Winner
from orchestrator.verbs.show import RunCounts, run_counts, trial_row
from orchestrator.verbs.show_text import answer

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


def test_a_run_without_its_driver_is_interrupted() -> None:
    (record,) = records("RUNNING")
    assert [trial_row(record, state).state for state in ("running", "stopped", "failed")] == [
        "RUNNING", "INTERRUPTED", "INTERRUPTED",
    ]  # fmt: skip
    assert trial_row(records("KILLED")[0], "stopped").state == "KILLED"


def result(verdict: Verdict | None, default: bool = False) -> ObjectiveResult:
    means = ReplicateMeans([1], 0.8, METRICS)
    winner = Winner("o/trial-007", 0, 3, 60, None, {}, default, 0.8, METRICS, 1.0, [], means)
    return ObjectiveResult(metric="min_recall", winner=winner, verdict=verdict)


@pytest.mark.parametrize(
    ("outcome", "cheaper", "says"),
    [
        (
            "better",
            True,
            "BETTER: the winner trial-007 is better than the best baseline, untouched: +1.0 [-2.0, +4.0] pp",
        ),
        (
            "worse",
            True,
            "WORSE: the best baseline, untouched, is better than the winner trial-007: +1.0 [-2.0, +4.0] pp",
        ),
        (
            "tied",
            False,
            "TIED: no significant difference between the winner trial-007 and the best baseline, untouched: ",
        ),
        ("tied", True, "TIED: no significant difference .* untouched, and the baseline is cheaper: "),
    ],
)
def test_the_first_line_is_the_verdict(outcome: Any, cheaper: bool, says: str) -> None:
    verdict = Verdict(outcome, "untouched", Figure(0.01, -0.02, 0.04), against_is_cheaper=cheaper)
    sentence = answer(result(verdict))
    start, _, end = says.partition(" .* ")
    assert sentence.startswith(start)
    assert end in sentence
    assert sentence.endswith("on select")


def test_without_a_verdict_it_says_why() -> None:
    assert answer(ObjectiveResult()) == "nothing can win"
    assert answer(result(None, default=True)).startswith(
        "winner trial-007 (the defaults); no baseline could be fitted"
    )
