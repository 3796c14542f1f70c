"""The winner in words: the file that ships, and why a row of a higher score on select did not win."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.records.types import CrossFittedScore, Figure, baseline_id
from orchestrator.results.rows import (
    BaselineRow,
    Bound,
    FinalistRow,
    ObjectiveResult,
    RankedRow,
    RungChoice,
    SweepResult,
    Verdict,
    Winner,
    ranked_rows,
)
from orchestrator.results.winner_text import (
    further_step,
    next_steps,
    reasons,
    recommended_row,
    result_text,
    shipped_file,
)
from tests.orchestrator.verbs.test_show import METRICS, winner

SELMIX_ROW = "o/trial-007"


def row(score: float, fitted: float | None = None, violation: float = 0.0) -> BaselineRow:
    found = None if fitted is None else CrossFittedScore(fitted, 5, 80, violation=violation)
    return BaselineRow(METRICS, [], 1.0, False, score, "FINISHED", None, [], {}, None, found)


def head(name: str, score: float) -> Winner:
    """A winner of one model."""
    made = baseline_id("o", name)
    means = replace(winner().replicates, seeds=[], score=score)
    return winner(
        trial_id=made, row=made, approach=name, rung="head", replicate_of=None, replicates=means,
        chosen_by="cross_fitted",
    )  # fmt: skip


def choice(rung: Any, rows: list[str], best: str, leader: str, reason: str = "", **more: Any) -> RungChoice:
    """Within a rung, of baselines by their names, or of SelMix."""

    def row_id(name: str) -> str:
        return name if name == SELMIX_ROW else baseline_id("o", name)

    by: Any = more.get("by", "select" if reason or rung == "finetune" else "cross_fitted")
    return RungChoice(rung, by, [row_id(name) for name in rows], row_id(best), row_id(leader), reason)


def why(won: Winner, *choices: RungChoice, selmix: float = 0.1, **rows: BaselineRow) -> list[str]:
    finals = [FinalistRow(SELMIX_ROW, selmix, METRICS, 1.0, 3)]
    return reasons(
        ObjectiveResult("min_recall", winner=won, baselines=rows, rungs=list(choices), finalists=finals), won
    )


def test_a_winner_of_the_highest_score_needs_no_reason() -> None:
    won = head("a", 0.9)
    assert why(won, choice("head", ["a"], "a", "a"), a=row(0.9, 0.8), b=row(0.8, 0.7)) == []
    # A result of an earlier version says nothing, whatever its scores.
    assert why(won, a=row(0.9), b=row(0.95)) == []


def test_a_row_of_the_same_rung_was_passed_over_by_the_cross_fitted_score() -> None:
    rows = {"a": row(0.80, 0.85), "b": row(0.90, 0.70)}
    assert why(head("a", 0.80), choice("head", ["a"], "a", "b"), **rows) == [
        "chosen by its cross-fitted score over feedback + select (85.0 against 70.0 of b)"
    ]


def test_a_dearer_row_may_be_ahead_by_less_than_the_margin() -> None:
    rows = {"a": row(0.80, 0.84), "b": row(0.90, 0.85)}
    assert why(head("a", 0.80), choice("head", ["a", "b"], "b", "b"), **rows) == [
        "chosen by its cross-fitted score over feedback + select (84.0 against 85.0 of b, which is dearer and ahead by "
        "less than the margin)"
    ]


def test_a_row_that_breaks_a_bound_out_of_fold_says_so() -> None:
    rows = {"a": row(0.80, 0.70), "b": row(0.90, 0.85, violation=0.01)}
    assert why(head("a", 0.80), choice("head", ["a"], "a", "b"), **rows) == [
        "chosen by its cross-fitted score over feedback + select (70.0 against 85.0 of b, which breaks a bound there)"
    ]


def test_a_refused_score_is_the_reason_of_a_choice_on_select() -> None:
    fallback = choice("head", ["a"], "a", "a", reason="b: too few samples")
    assert why(head("a", 0.90), fallback, a=row(0.90), b=row(0.80)) == [
        "chosen on select: b: too few samples"
    ]
    # Of another rung it is no reason for this winner.
    assert why(winner(), fallback, choice("finetune", [SELMIX_ROW], SELMIX_ROW, SELMIX_ROW), a=row(0.3)) == []


def test_rows_of_other_rungs_are_ahead_by_less_than_the_margin() -> None:
    heads, tuned = choice("head", ["a"], "a", "a"), choice("finetune", [SELMIX_ROW], SELMIX_ROW, SELMIX_ROW)
    # Of SelMix the mean over fresh seeds counts.
    assert why(head("a", 0.80), heads, tuned, selmix=0.81, a=row(0.80, 0.8)) == [
        "SelMix trial-007 is ahead on select by less than the margin, and dearer"
    ]
    assert why(head("a", 0.80), heads, tuned, selmix=0.80, a=row(0.80, 0.8)) == []
    # In its own rung, too, where select decides.
    tuned = choice("finetune", [SELMIX_ROW, "uniform_mixup"], "uniform_mixup", "uniform_mixup")
    assert why(winner(), tuned, selmix=0.8, uniform_mixup=row(0.81)) == [
        "uniform_mixup is ahead on select by less than the margin, and dearer"
    ]


def test_a_row_of_another_rung_that_was_passed_over_there_is_explained() -> None:
    heads = choice("head", ["a"], "a", "b")
    tuned = choice("finetune", [SELMIX_ROW], SELMIX_ROW, SELMIX_ROW)
    assert why(winner(), heads, tuned, selmix=0.8, a=row(0.60, 0.85), b=row(0.90, 0.70)) == [
        "the best of the rung head is a, by its cross-fitted score over feedback + select (85.0 against 70.0 of b)"
    ]


FLOOR = Bound("min_coverage", 0.05, None)


@pytest.mark.parametrize(
    ("coverage", "chosen_by", "bounds", "says"),
    [
        (0.06, "select", [FLOOR], "highest of 3 fresh seeds within the bounds, chosen here"),
        (
            0.04,
            "select",
            [FLOOR],
            "nearest to the bounds of 3 fresh seeds, though it breaks min_coverage >= 0.05, chosen ",
        ),
        (0.04, None, [FLOOR], "highest of 3 fresh seeds, chosen here"),  # an earlier version
        (0.04, "select", [], "highest of 3 fresh seeds, chosen here"),
    ],
)
def test_the_shipped_file_is_the_best_within_the_bounds(
    coverage: float, chosen_by: Any, bounds: list[Bound], says: str
) -> None:
    select = METRICS | {"min_coverage": Figure(coverage, 0.0, 1.0)}
    means = replace(winner().replicates, seeds=[1, 2, 3])
    made = winner(select=select, replicates=means, chosen_by=chosen_by)
    assert says in shipped_file(made, "min_recall", bounds)
    uniform = replace(made, approach="uniform_mixup")
    assert says.replace(" fresh seeds", "") in shipped_file(uniform, "min_recall", bounds)
    assert shipped_file(head("a", 0.8), "min_recall", bounds) == "a, one model"


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ({"outcome": "worse", "worse_than": ["selmix", "b"]}, ("selmix", "SelMix instead, which is better")),
        ({"outcome": "tied", "against_is_cheaper": True}, ("a", "a instead, which is cheaper")),
        (
            {"outcome": "undecided", "against_is_cheaper": True, "not_told_apart": ["a", "b"]},
            ("a", "a instead, which is cheaper"),
        ),
        # The sentence speaks of another one then, and says nothing of its cost.
        ({"outcome": "undecided", "against_is_cheaper": True, "not_told_apart": ["b"]}, (None, "")),
        ({"outcome": "undecided", "not_told_apart": ["a"]}, (None, "")),
        ({"outcome": "better", "against_is_cheaper": True}, (None, "")),
        ({"outcome": "worse", "margin": None}, (None, "")),  # by the earlier rule, of one baseline
    ],
)
def test_the_verdict_speaks_for_the_winner_or_for_another_row(
    verdict: dict[str, Any], expected: tuple[str | None, str]
) -> None:
    judged: Any = Verdict(**{"against": "a", "difference": Figure(0.0, -0.1, 0.1), "margin": 0.02} | verdict)
    assert recommended_row(ObjectiveResult("min_recall", verdict=judged)) == expected


def test_without_an_opponent_it_speaks_for_the_winner() -> None:
    assert recommended_row(ObjectiveResult("min_recall")) == (None, "")


def test_the_table_has_the_winner_first_then_scores_and_what_failed_last() -> None:
    failed = replace(row(0.9), state="FAILED")
    baselines = {"a": row(0.25), "b": failed, "c": row(0.0), "d": row(0.75), "e": row(0.5)}
    result = ObjectiveResult(
        winner=head("e", 0.5), baselines=baselines, finalists=[FinalistRow(SELMIX_ROW, 0.5, METRICS, 1.0, 3)]
    )
    assert ranked_rows("o", result) == [
        RankedRow("e", baseline_id("o", "e"), 0.5), RankedRow("d", baseline_id("o", "d"), 0.75),
        RankedRow("selmix", SELMIX_ROW, 0.5), RankedRow("a", baseline_id("o", "a"), 0.25),
        RankedRow("c", baseline_id("o", "c"), 0.0), RankedRow("b", baseline_id("o", "b"), None),
    ]  # fmt: skip
    own = winner()
    first, *others = ranked_rows("o", replace(result, winner=own))
    assert first == RankedRow("selmix", own.row or own.trial_id, own.replicates.score)
    assert [each.approach for each in others] == ["d", "e", "a", "c", "b"]
    assert ranked_rows("o", ObjectiveResult(baselines=baselines)) == []


def test_a_launch_ends_with_verdicts_then_commands_that_work_as_they_stand() -> None:
    one = SweepResult(objectives={"o": ObjectiveResult(winner=head("a", 0.5))})
    lines = result_text("s", one, " --runs 'a b'", {"o": "http://here/#/1"}, False, None).splitlines()
    assert lines == [
        "o: the best row is a; there is no other of no more labels to compare it with",
        "",
        "next           selmix pin s --runs 'a b' --name NAME: evaluate the winner and its opponents on test, keep the "
        "model",
        "               selmix ui --runs 'a b': every run and round in MLflow; the runs of this table are then at",
        "               http://here/#/1",
        "               selmix show s --runs 'a b': the table of all rows, and how sure it is",
    ]
    two = SweepResult(objectives={**one.objectives, "p": ObjectiveResult(), "q": one.objectives["o"]})
    links = {name: f"https://host/#/{name}" for name in two.objectives}
    text = result_text("s", two, "", links, True, None)
    assert "selmix pin s --objective o --objective q --name NAME" in text
    assert [line.strip() for line in text.splitlines() if "https" in line] == [
        "o: https://host/#/o", "p: https://host/#/p", "q: https://host/#/q",
    ]  # fmt: skip
    # Nothing won: there is no verdict and nothing to pin, but the runs can be looked at.
    none = result_text("s", SweepResult(objectives={"p": ObjectiveResult()}), "", {}, False, None)
    assert none.splitlines()[0] == "next           selmix ui: every run and round in MLflow"
    # Rungs that the launch left out come before the pages.
    steps = result_text(
        "s", one, "", {}, False, None, further_step("selmix launch s.yaml", ["finetune", "retrain"])
    )
    assert steps.splitlines()[3].strip() == "selmix launch s.yaml: go on with finetune and retrain"
    assert further_step("selmix launch s.yaml", []) == ""
    assert further_step("x", ["head"]) == "x: go on with head"
    assert further_step("x", ["head", "finetune", "retrain"]) == "x: go on with head, finetune and retrain"
    # Without views all objectives have one link.
    same = next_steps("s", ["o", "q"], 2, "", dict.fromkeys("oq", "https://host/#/1"), True, None)
    assert same.splitlines()[-1].strip() == "https://host/#/1"
