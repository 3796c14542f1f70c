"""The score that ranks rounds and trials."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from selmix.metrics import METRICS, MetricContext, Predictions, evaluate_predictions
from selmix.statistics import selection
from selmix.statistics.intervals import all_intervals, counts_interval
from selmix.statistics.proportions import clopper_pearson
from selmix.statistics.selection import (
    Constraint,
    SelectionRule,
    counted_bounds,
    rank,
    resample_rows,
    violations,
)
from selmix.statistics.selection import score_of_counts as score

CONTEXT = MetricContext(train_counts=torch.tensor([50, 20, 5]))
COUNTS = torch.tensor([[20, 3, 1], [2, 19, 3], [4, 5, 15]])


def test_bagged_is_the_mean_over_resampled_samples() -> None:
    generator = torch.Generator().manual_seed(3)
    draws = 4000
    values = torch.zeros(draws)
    rows = [torch.repeat_interleave(torch.arange(3), row) for row in COUNTS]
    for draw in range(draws):
        recalls = [
            (row[torch.randint(24, (24,), generator=generator)] == k).double().mean()
            for k, row in enumerate(rows)
        ]
        values[draw] = torch.stack(recalls).min()
    margin = 4 * float(values.std()) * (1 / draws + 1 / 1000) ** 0.5
    assert score("min_recall", COUNTS, CONTEXT) == pytest.approx(float(values.mean()), abs=margin)


@pytest.mark.parametrize("key", ["macro_f1", "min_precision", "recall_gap", "g_mean"])
def test_bagged_metrics_of_whole_rows(key: str) -> None:
    drawn = resample_rows(COUNTS.double(), 4000, torch.Generator().manual_seed(1))
    sign = -1.0 if METRICS[key].minimise else 1.0
    expected = sign * float(METRICS[key].of(drawn, CONTEXT).mean())
    assert score(key, COUNTS, CONTEXT) == pytest.approx(expected, abs=0.01)


def test_resampled_rows() -> None:
    drawn = resample_rows(COUNTS.double(), 20_000, torch.Generator().manual_seed(0))
    assert (drawn.sum(dim=2) == 24).all()
    assert torch.allclose(drawn.mean(dim=0), COUNTS.double(), atol=0.1)
    # Multinomial variance and covariance of the first row.
    p = COUNTS[0].double() / 24
    expected = 24 * (torch.diag(p) - torch.outer(p, p))
    assert torch.allclose(torch.cov(drawn[:, 0].T), expected, atol=0.1)


def test_of_equal_minima_the_lonely_one_scores_higher() -> None:
    lonely = torch.tensor([[24, 0, 0], [0, 24, 0], [4, 5, 15]])
    crowded = torch.tensor([[15, 9, 0], [0, 15, 9], [4, 5, 15]])
    assert score("min_recall", lonely, CONTEXT, "value") == score("min_recall", crowded, CONTEXT, "value")
    assert score("min_recall", lonely, CONTEXT) > score("min_recall", crowded, CONTEXT) + 0.02


def test_equal_counts_score_equally() -> None:
    state = torch.get_rng_state()
    assert score("min_recall", COUNTS, CONTEXT, seed=4) == score(
        "min_recall", COUNTS.clone(), CONTEXT, seed=4
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_other_statistics() -> None:
    assert score("min_recall", COUNTS, CONTEXT, "value") == 15 / 24
    interval = counts_interval("min_recall", COUNTS, CONTEXT)
    assert score("min_recall", COUNTS, CONTEXT, "lower_bound") == interval.low
    gap = counts_interval("recall_gap", COUNTS, CONTEXT)
    assert score("recall_gap", COUNTS, CONTEXT, "lower_bound") == -gap.high
    with pytest.raises(ValueError, match="statistic must be bagged, lower_bound or value, got 'mean'"):
        score("min_recall", COUNTS, CONTEXT, "mean")
    with pytest.raises(ValueError, match="unknown metric"):
        score("recall", COUNTS, CONTEXT)


def test_constraints() -> None:
    floor = Constraint("min_coverage", at_least=0.09)
    ceiling = Constraint("recall_gap", at_most=0.2, where=("search",))
    assert floor.violation({"min_coverage": 0.08}) == pytest.approx(0.01)
    assert ceiling.violation({"recall_gap": 0.1}) == 0.0
    rule = SelectionRule("min_recall", constraints=(floor, ceiling))
    assert rule.violation({"min_coverage": 0.08, "recall_gap": 0.5}) == pytest.approx(0.31)
    inside = SelectionRule(
        "min_recall", constraints=(Constraint("recall_gap", at_most=0.0, where=("method",)),)
    )
    assert inside.violation({"recall_gap": 0.5}) == 0.0
    with pytest.raises(ValueError, match="exactly one of at_least and at_most"):
        Constraint("min_coverage", at_least=0.1, at_most=0.2)
    with pytest.raises(ValueError, match="must name method, search or both"):
        Constraint("min_coverage", at_least=0.1, where=("nowhere",))
    with pytest.raises(ValueError, match="statistic must be one of"):
        SelectionRule("min_recall", "mean")


@pytest.mark.parametrize("key", ["min_recall", "mean_recall", "g_mean", "recall_gap"])
def test_bagged_is_the_mean_over_all_resamples_of_tiny_rows(key: str) -> None:
    """Two classes of three samples: every number of hits with its binomial probability."""
    counts, context = torch.tensor([[2, 1], [1, 2]]), MetricContext(torch.tensor([3, 3]))
    expected, square = 0.0, 0.0
    for hits in itertools.product(range(4), repeat=2):
        chance = math.prod(math.comb(3, h) * (2 / 3) ** h * (1 / 3) ** (3 - h) for h in hits)
        matrix = torch.tensor([[hits[0], 3 - hits[0]], [3 - hits[1], hits[1]]])
        value = METRICS[key].sign * float(METRICS[key].of(matrix, context))
        expected, square = expected + chance * value, square + chance * value**2
    error = 4 * math.sqrt((square - expected**2) / 20_000) + 1e-12
    assert score(key, counts, context, resamples=20_000) == pytest.approx(expected, abs=error)


def test_resamples_drawn_some_at_a_time_have_the_same_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_NUMBERS_AT_ONCE", 9 * 300)  # 300 of 1000 resamples at once
    parts = score("macro_f1", COUNTS, CONTEXT)
    monkeypatch.undo()
    assert parts == pytest.approx(score("macro_f1", COUNTS, CONTEXT), abs=0.01)


@pytest.mark.parametrize("key", ["min_recall", "recall_gap"])
def test_a_perfect_model_has_the_highest_score_by_every_statistic(key: str) -> None:
    perfect = torch.diag(COUNTS.sum(dim=1))
    for statistic in selection.STATISTICS:
        assert score(key, perfect, CONTEXT, statistic) > score(key, COUNTS, CONTEXT, statistic)
    assert score(key, perfect, CONTEXT) == METRICS[key].sign * float(METRICS[key].of(perfect, CONTEXT))


def test_the_rule_scores_the_counts_of_its_metric() -> None:
    labels = torch.arange(3).repeat(8)
    predictions = Predictions(
        labels, (labels + (torch.arange(24) < 5)) % 3, torch.ones(24), torch.arange(24) % 2
    )
    context = MetricContext(torch.tensor([50, 20, 5]), num_groups=2)
    for key in ("min_recall", "worst_group_recall"):
        rule = SelectionRule(key, statistic="value", seed=3)
        assert selection.score(rule, predictions, context) == score(
            key, predictions.counts_for(key, context), context, "value"
        )
    bagged = SelectionRule("min_recall", seed=3)
    assert selection.score(bagged, predictions, context) == score(
        "min_recall", predictions.counts(3), context, seed=3
    )
    plain = Predictions(labels, predictions.predicted, predictions.confidence)
    with pytest.raises(ValueError, match="worst_group_recall needs data with a group attribute"):
        selection.score(SelectionRule("worst_group_recall"), plain, context)


def test_rows_that_are_certain_or_empty_resample_to_themselves() -> None:
    rows = torch.tensor([[0.0, 7.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(resample_rows(rows, 4, torch.Generator().manual_seed(0)), rows.expand(4, -1, -1))


@pytest.mark.parametrize(
    ("bound", "value", "missed"),
    [
        (Constraint("m", at_least=0.5), 0.5, 0.0), (Constraint("m", at_least=0.5), 0.2, 0.3),
        (Constraint("m", at_most=0.5), 0.5, 0.0), (Constraint("m", at_most=0.5), 0.9, 0.4),
        (Constraint("m", at_least=0.0), -0.1, 0.1), (Constraint("m", at_most=0.0), 0.1, 0.1),
    ],
)  # fmt: skip
def test_a_bound_is_missed_by_its_distance_and_met_at_its_edge(
    bound: Constraint, value: float, missed: float
) -> None:
    assert bound.violation({"m": value}) == pytest.approx(missed)
    assert bound.bound == (bound.at_least if bound.at_least is not None else bound.at_most)
    assert SelectionRule("m", constraints=(bound, bound)).violation({"m": value}) == pytest.approx(2 * missed)


@pytest.mark.parametrize(
    ("bound", "edge", "side"),
    [
        (Constraint("m", at_most=0.35), 0.35000000000000003, 1.0),
        (Constraint("m", at_least=0.3), 1.0 - 0.7, -1.0),
        (Constraint("m", at_least=0.3), 0.29999999999999993, -1.0),
    ],
)
def test_the_last_digits_of_a_float_break_no_bound(bound: Constraint, edge: float, side: float) -> None:
    for value in (edge, edge + side * 1e-10):
        assert bound.violation({"m": value}) == 0.0
        assert bound.violations(torch.tensor([value], dtype=torch.float64)).tolist() == [0.0]
    # A sample more or less moves a value by more than this, whatever the size of the split.
    clear = edge + side * 1e-8
    assert bound.violation({"m": clear}) == pytest.approx(1e-8, rel=1e-3)
    assert float(bound.violations(torch.tensor(clear, dtype=torch.float64))) == pytest.approx(1e-8, rel=1e-3)


def test_places_of_a_bound() -> None:
    assert Constraint("m", at_least=0.1).where == ("method", "search")
    for where in ((), ("method", "nowhere")):
        with pytest.raises(ValueError, match="m: `in` must name method, search or both"):
            Constraint("m", at_least=0.1, where=where)
    with pytest.raises(ValueError, match="exactly one of at_least and at_most must be set"):
        Constraint("m")


def test_a_bound_on_one_class_brings_its_metric_with_it() -> None:
    bounds = (
        Constraint("recall", at_least=0.5, label=1, class_name="dog"),
        Constraint("precision", at_most=0.9, label=0, where=("search",)),
        Constraint("recall", at_most=0.9, label=1, class_name="dog", where=("method",)),
    )
    rule = SelectionRule("mean_recall", constraints=bounds)
    counts = torch.tensor([[6, 2, 0], [3, 1, 0], [0, 0, 5]])
    labels = torch.arange(3).repeat_interleave(counts.sum(dim=1))
    predicted = torch.cat([torch.arange(3).repeat_interleave(row) for row in counts])
    predictions = Predictions(labels, predicted, torch.ones(len(labels)))
    context = MetricContext(torch.tensor([9, 5, 1]), rule.definitions)
    values = evaluate_predictions(predictions, context)
    assert list(values)[-2:] == ["recall/dog", "precision/class 0"]
    assert (values["recall/dog"], values["precision/class 0"]) == (0.25, 6 / 9)
    assert rule.violation(values) == pytest.approx(0.25)
    assert set(evaluate_predictions(predictions, MetricContext(torch.ones(3)))) == set(values) - set(
        list(values)[-2:]
    )
    # The interval of a proportion is the exact one of its hits and trials.
    for key, (hits, trials) in {"recall/dog": (1, 4), "precision/class 0": (6, 9)}.items():
        low, high = clopper_pearson(torch.tensor([hits]), torch.tensor([trials]), 0.025)
        found = all_intervals(predictions, context)[key]
        assert (found.value, found.low, found.high) == pytest.approx((hits / trials, float(low), float(high)))


def test_a_precision_without_predictions_is_zero_and_not_known() -> None:
    rule = SelectionRule("mean_recall", constraints=(Constraint("precision", at_least=0.1, label=1),))
    context = MetricContext(torch.ones(2), rule.definitions)
    found = counts_interval("precision/class 1", torch.tensor([[3, 0], [2, 0]]), context)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 1.0)


def test_a_class_goes_with_the_rates_of_one_class_only() -> None:
    with pytest.raises(ValueError, match="goes with recall and precision, got None"):
        Constraint("recall", at_least=0.5)
    with pytest.raises(ValueError, match="goes with recall and precision, got 1"):
        Constraint("min_recall", at_least=0.5, label=1)
    with pytest.raises(ValueError, match="unknown metric 'recall/dog'; there are mean_recall, "):
        counts_interval("recall/dog", torch.eye(2), MetricContext(torch.ones(2)))


BOUNDS = (
    Constraint("min_recall", at_least=0.7),
    Constraint("balanced_error", at_most=0.1),
    Constraint("recall", at_least=0.9, label=2, class_name="c"),
    Constraint("precision", at_most=0.5, label=0),
    Constraint("worst_group_recall", at_least=0.8),
    Constraint("accuracy", at_least=1.0, where=("method",)),
    Constraint("calibration_error", at_most=0.0, where=("search",)),
)


def predictions_of_groups(seed: int) -> Predictions:
    g = torch.Generator().manual_seed(seed)
    labels, groups = torch.arange(60) % 3, torch.arange(60) // 3 % 2
    wrong = torch.randint(0, 3, (60,), generator=g)
    predicted = torch.where(torch.rand(60, generator=g) < 0.7, labels, wrong)
    return Predictions(labels, predicted, torch.ones(60), groups)


def test_violations_of_counts_are_those_of_the_values_of_each() -> None:
    context = MetricContext(torch.tensor([50, 20, 5]), num_groups=2)
    made = [predictions_of_groups(seed) for seed in range(6)]
    cells = torch.stack([each.counts_for("worst_group_recall", context) for each in made])
    counted = counted_bounds(BOUNDS)
    assert counted == BOUNDS[:5]
    rule = SelectionRule("min_recall", constraints=counted)
    values = [
        evaluate_predictions(each, MetricContext(context.train_counts, rule.definitions, 2)) for each in made
    ]
    expected = [rule.violation(each) for each in values]
    assert violations(BOUNDS, cells, context).tolist() == pytest.approx(expected)
    assert violations(BOUNDS, cells.view(2, 3, 6, 3), context).shape == (2, 3)
    by_class = torch.stack([each.counts(3) for each in made])
    assert (
        violations(BOUNDS[:4], by_class, context).tolist() == violations(BOUNDS[:4], cells, context).tolist()
    )
    assert violations((), by_class, context).tolist() == [0.0] * 6


def test_violations_of_groups_need_cells_and_what_is_not_defined_violates_nothing() -> None:
    context = MetricContext(torch.tensor([50, 20, 5]), num_groups=2)
    with pytest.raises(
        ValueError, match=r"worst_group_recall needs counts of .* cells, got \(3, 3\) by class"
    ):
        violations(BOUNDS, COUNTS, context)
    # Without samples of class 2 the least recall is not defined.
    assert float(violations(BOUNDS[:1], COUNTS * torch.tensor([[1], [1], [0]]), CONTEXT)) == 0.0


def test_a_rank_puts_the_bounds_of_the_search_before_the_score() -> None:
    made = predictions_of_groups(0)
    rule = SelectionRule("min_recall", constraints=BOUNDS)
    context = MetricContext(torch.tensor([50, 20, 5]), rule.definitions, 2)
    # The one of the confidences counts too; the one inside the method does not.
    missed = rule.violation(evaluate_predictions(made, context))
    assert rank(rule, made, context) == (-missed, selection.score(rule, made, context))
    perfect = Predictions(made.labels, made.labels, torch.ones(60), made.groups)
    loose = SelectionRule("recall_gap", constraints=(Constraint("accuracy", at_most=0.9),))
    assert rank(loose, made, context) > rank(loose, perfect, context)
    assert selection.score(loose, made, context) < selection.score(loose, perfect, context)
