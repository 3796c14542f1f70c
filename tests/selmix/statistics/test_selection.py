"""The score that ranks rounds and trials."""

from __future__ import annotations

import pytest
import torch

from selmix.metrics import METRICS, MetricContext
from selmix.statistics.intervals import counts_interval
from selmix.statistics.selection import Constraint, SelectionRule, resample_rows
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
