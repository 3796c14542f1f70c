"""The winner among all rows: by cross-fitted scores within a cheap rung, on select across rungs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.records.types import CrossFittedScore, Figure
from orchestrator.results.candidates import Candidate
from orchestrator.results.rows import RungChoice, RungStep
from orchestrator.results.rungs import choose_across_rungs, climb_text, rank_correlation, step_line
from selmix.rungs import RUNGS, Rung

MARGIN = 0.02


def row(
    name: str,
    rung: Rung,
    number: int,
    score: float,
    fitted: float | None = None,
    violation: float | None = 0.0,
) -> Candidate:
    """A candidate; ``fitted`` is its cross-fitted score."""
    found = None if fitted is None else CrossFittedScore(fitted, 5, 40, violation=violation)
    return Candidate(name, name, rung, 0, number, ("train",), score, 1.0, [], found)


def chosen(
    *rows: Candidate, bounded: bool = False, margin: float = MARGIN
) -> tuple[str, dict[str, RungChoice]]:
    winner, choices = choose_across_rungs(rows, margin, bounded)
    return winner.row, {choice.rung: choice for choice in choices}


def test_within_a_rung_the_cross_fitted_score_chooses_and_not_that_on_select() -> None:
    lucky, sound = row("lucky", "head", 1, 0.90, 0.70), row("sound", "head", 2, 0.80, 0.85)
    winner, choices = chosen(lucky, sound)
    assert winner == "sound"
    assert choices["head"] == RungChoice("head", "cross_fitted", ["sound"], best="sound", leader="lucky")
    # Without the scores select would have chosen.
    without = [replace(each, cross_fitted=None) for each in (lucky, sound)]
    assert chosen(*without)[0] == "lucky"


def test_within_the_margin_of_the_best_cross_fitted_score_the_cheapest_wins() -> None:
    cheap, best = row("cheap", "head", 1, 0.70, 0.84), row("best", "head", 2, 0.90, 0.85)
    winner, choices = chosen(best, cheap)
    assert winner == "cheap"
    assert (choices["head"].rows, choices["head"].best, choices["head"].leader) == (
        ["cheap", "best"],
        "best",
        "best",
    )
    assert chosen(best, cheap, margin=0.005)[0] == "best"


def test_across_rungs_select_decides_whatever_the_cross_fitted_scores() -> None:
    scores, head = row("scores", "scores", 1, 0.80, 0.99), row("head", "head", 2, 0.85, 0.60)
    tuned = row("tuned", "finetune", 3, 0.90)
    assert chosen(scores, head, tuned)[0] == "tuned"
    assert chosen(scores, replace(head, score=0.881), tuned)[0] == "head"
    assert chosen(replace(scores, score=0.881), head, tuned)[0] == "scores"


def test_a_row_that_its_rung_did_not_choose_sets_no_bar_for_others() -> None:
    # On select the lucky head is far ahead of everything.
    lucky, sound = row("lucky", "head", 1, 0.99, 0.70), row("sound", "head", 2, 0.80, 0.85)
    winner, choices = chosen(lucky, sound, row("tuned", "finetune", 3, 0.90))
    assert winner == "tuned"
    assert choices["finetune"] == RungChoice("finetune", "select", ["tuned"], best="tuned", leader="tuned")


def test_a_cheaper_rung_is_not_lost_by_its_cheapest_row() -> None:
    """Of two heads that cross-fitting does not tell apart the dearer one keeps up with fine-tuning, and so wins."""
    cheap, best = row("cheap", "head", 1, 0.85, 0.90), row("best", "head", 2, 0.90, 0.91)
    tuned = row("tuned", "finetune", 3, 0.91)
    assert chosen(cheap, best, tuned)[0] == "best"
    assert chosen(replace(cheap, score=0.895), best, tuned)[0] == "cheap"


def test_rows_that_break_a_bound_out_of_fold_are_not_chosen() -> None:
    breaks, meets = row("breaks", "head", 1, 0.90, 0.95, violation=0.01), row("meets", "head", 2, 0.80, 0.70)
    winner, choices = chosen(breaks, meets, bounded=True)
    assert winner == "meets"
    assert choices["head"] == RungChoice("head", "cross_fitted", ["meets"], best="meets", leader="breaks")
    assert chosen(
        replace(breaks, cross_fitted=CrossFittedScore(0.95, 5, 40, violation=0.0)), meets, bounded=True
    )[0] == ("breaks")


def test_where_no_row_meets_the_bounds_out_of_fold_select_chooses() -> None:
    rows = row("a", "head", 1, 0.90, 0.95, violation=0.02), row("b", "head", 2, 0.80, 0.97, violation=0.01)
    winner, choices = chosen(*rows, bounded=True)
    assert winner == "a"
    assert (choices["head"].chosen_by, choices["head"].reason) == (
        "select",
        "no row of the rung meets the bounds out of fold",
    )


REFUSED = CrossFittedScore(None, 5, 40, "5 folds need at least 10 samples of every class")


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ([None], "a: no score out of fold is on record"),
        ([REFUSED], f"a: {REFUSED.reason}"),
        ([REFUSED] * 3, f"a and 2 others: {REFUSED.reason}"),
        ([None, REFUSED], f"a: no score out of fold is on record; b: {REFUSED.reason}"),
        ([CrossFittedScore(0.9, 5, 40)], "a: its score out of fold knows no bounds"),
    ],
)
def test_one_row_without_a_score_leaves_its_rung_to_select(
    lacking: list[CrossFittedScore | None], reason: str
) -> None:
    """Its rung alone, and it says why."""
    rows = [
        replace(row("abc"[place], "head", place, 0.9), cross_fitted=found)
        for place, found in enumerate(lacking)
    ]
    others = [
        row("z", "head", 9, 0.80, 0.99),
        row("s", "scores", 0, 0.3, 0.3),
        row("t", "scores", 1, 0.2, 0.4),
    ]
    winner, choices = chosen(*rows, *others, bounded=True)
    assert winner == "a"
    assert (choices["head"].chosen_by, choices["head"].reason) == ("select", reason)
    assert (choices["scores"].chosen_by, choices["scores"].best, choices["scores"].reason) == (
        "cross_fitted",
        "t",
        "",
    )


def test_a_score_of_an_earlier_version_chooses_where_there_are_no_bounds() -> None:
    rows = row("a", "head", 1, 0.90, 0.70, violation=None), row("b", "head", 2, 0.80, 0.85, violation=None)
    assert chosen(*rows)[0] == "b"
    assert chosen(*rows, bounded=True)[0] == "a"


def test_fine_tuned_rows_are_never_compared_out_of_fold() -> None:
    rows = row("a", "finetune", 1, 0.90, 0.70), row("b", "finetune", 2, 0.80, 0.85)
    winner, choices = chosen(*rows)
    assert winner == "a"
    assert (choices["finetune"].chosen_by, choices["finetune"].reason) == ("select", "")


# -- by definition ----------------------------------------------------------------------------------------

grid = st.integers(0, 8).map(lambda k: k / 8)
"""Scores and margins that are exact, and often equal."""


@st.composite
def tables(draw: st.DrawFn, fitted: bool) -> list[Candidate]:
    rows = []
    for number in range(draw(st.integers(1, 7))):
        rung: Any = draw(st.sampled_from(RUNGS[:3]))
        found = draw(grid) if fitted and (rung != "finetune") and draw(st.integers(0, 9)) else None
        violation = draw(st.sampled_from([0.0, 0.0, 0.5]))
        rows.append(row(f"row-{number}", rung, number, draw(grid), found, violation))
    return rows


def by_definition(rows: list[Candidate], margin: float, bounded: bool) -> str:
    """The cheapest row that no best row of a rung beats by more than the margin, by the score that compares the two."""

    def folds(rung: Rung) -> bool:
        own = [each.cross_fitted for each in rows if each.rung == rung]
        return (
            rung in ("scores", "head")
            and all(each is not None for each in own)
            and (not bounded or any(each is not None and each.violation == 0 for each in own))
        )

    def value(each: Candidate) -> float:
        if not folds(each.rung):
            return each.score
        assert each.cross_fitted is not None
        assert each.cross_fitted.score is not None
        broken = bounded and each.cross_fitted.violation != 0
        return float("-inf") if broken else each.cross_fitted.score

    # Numbers are in the order of cost within a rung; of equal values the first is the best.
    bests = [max((e for e in rows if e.rung == rung), key=value, default=None) for rung in RUNGS]

    def stands(each: Candidate) -> bool:
        for best in bests:
            if best is None:
                continue
            same = best.rung == each.rung
            gap = value(best) - value(each) if same else best.score - each.score
            if gap > margin:
                return False
        return True

    able = [each for each in rows if stands(each)]
    return min(able, key=lambda each: (RUNGS.index(each.rung), each.number)).row


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tables(fitted=True), st.integers(1, 3), st.booleans(), st.randoms(use_true_random=False))
def test_the_winner_is_that_of_the_definition_in_any_order(
    rows: list[Candidate], margin: int, bounded: bool, random: Any
) -> None:
    expected = by_definition(rows, margin / 8, bounded)
    random.shuffle(rows)
    winner, choices = choose_across_rungs(rows, margin / 8, bounded)
    assert winner.row == expected
    assert winner.row in next(choice.rows for choice in choices if choice.rung == winner.rung)
    assert [choice.rung for choice in choices] == [r for r in RUNGS if any(each.rung == r for each in rows)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(tables(fitted=False), st.integers(1, 3), st.booleans())
def test_without_cross_fitted_scores_it_is_the_cheapest_within_the_margin_of_the_best(
    rows: list[Candidate], margin: int, bounded: bool
) -> None:
    best = max(each.score for each in rows)
    near = [each for each in rows if each.score >= best - margin / 8]
    assert choose_across_rungs(rows, margin / 8, bounded)[0] == min(near, key=lambda each: each.cheapness)


def test_the_line_of_a_rung_says_what_it_added_and_whether_the_next_can_show_anything() -> None:
    lowest = RungStep(
        "scores", "o/baseline/plug_in", "plug_in", 0.5, 1.25, None, None, "o/baseline/plug_in", 0.45
    )
    assert step_line("o", "min_recall", lowest) == (
        "o: rung scores: best plug_in, score 50.0; 1.2 s of work; room above its min_recall on select 45.0 pp"
    )
    head = replace(
        lowest, rung="head", best="o/baseline/balanced_head", approach="balanced_head", over=lowest.best,
        added=Figure(0.04, -0.06, 0.13), wins="o/baseline/balanced_head",
    )  # fmt: skip
    assert step_line("o", "min_recall", head) == (
        "o: rung head: best balanced_head, score 50.0; plug_in below it: +4.0 [-6.0, +13.0] pp on select; "
        "1.2 s of work; room above its min_recall on select 45.0 pp, of which less than about 10.0 "
        "is not told apart on these samples"
    )
    full = replace(head, wins=lowest.best, room=0.08)
    assert step_line("o", "min_recall", full).endswith(
        "; plug_in still wins; 1.2 s of work; room above its min_recall on select 8.0 pp, less than these samples "
        "can tell apart: a dearer rung cannot show that it pays"
    )
    assert step_line("o", "own:gain", replace(lowest, room=None)).endswith("1.2 s of work")
    # A row that did not win before does not win "still".
    for step in (lowest, head):
        cheaper = replace(step, wins="o/baseline/untouched")
        assert "; untouched wins: it is cheaper, and within the margin; 1.2 s" in step_line(
            "o", "min_recall", cheaper
        )


def test_the_climb_is_one_sentence_of_gains_and_costs() -> None:
    lowest = RungStep(
        "scores", "o/baseline/plug_in", "plug_in", 0.5, 2.0, None, None, "o/baseline/plug_in", 0.45
    )
    head = replace(
        lowest, rung="head", best="o/baseline/balanced_head", approach="balanced_head", over=lowest.best, spent_s=5.0,
        added=Figure(0.04, -0.06, 0.13),
    )  # fmt: skip
    top = replace(
        head, rung="finetune", best="o/trial-003", approach="selmix", over=head.best, spent_s=70.0, score=0.6
    )
    assert climb_text("min_recall", [lowest, head, top]) == (
        "scores: plug_in 50.0; head: balanced_head 50.0, +4.0 [-6.0, +13.0] pp over plug_in for 2.5 x the work so far; "
        "finetune: SelMix 60.0, +4.0 [-6.0, +13.0] pp over balanced_head for 10.0 x the work so far (scores on select, "
        "where they were chosen)"
    )
    free = replace(lowest, spent_s=0.0)
    assert "the work" not in climb_text("min_recall", [free, head])


def test_the_rank_correlation_is_scipy_s() -> None:
    spearmanr = pytest.importorskip("scipy.stats").spearmanr
    pairs = [(0.1, 0.4), (0.3, 0.2), (0.3, 0.9), (0.7, 0.8), (0.9, 0.8)]
    assert rank_correlation(pairs) == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert rank_correlation(pairs[:2]) is None
    assert rank_correlation([(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)]) is None
