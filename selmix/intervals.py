"""Intervals of single metrics. The only import of scipy, inside its functions.

A worst-class recall is a minimum of noisy numbers: a percentile bootstrap of it covers almost nothing in bad cases,
and normal intervals collapse where a recall is 1. So limits are exact or Wilson's per class, and combined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.confusion import recalls
from selmix.metrics import (
    METRICS,
    MetricContext,
    Predictions,
    RecallsMetric,
    calibration_error,
    evaluate_predictions,
)

_DRAWS = 1000
_PRIOR_COUNTS = 0.5  # spread over a row: keeps a row without errors from standing still


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, low <= value <= high."""

    value: float
    low: float
    high: float


def all_intervals(
    predictions: Predictions, context: MetricContext, level: float = 0.95
) -> dict[str, Estimate]:
    """Every metric that the data allow, with its interval."""
    return {
        key: metric_interval(key, predictions, context, level)
        for key in evaluate_predictions(predictions, context)
    }


def metric_interval(
    key: str, predictions: Predictions, context: MetricContext, level: float = 0.95
) -> Estimate:
    """One metric of a model's predictions, with its interval.

    Raises:
        ValueError: an unknown metric, or a level outside (0, 1).
    """
    if key == "calibration_error":
        return _calibration_interval(predictions, _checked(level))
    return counts_interval(key, predictions.counts(len(context.train_counts)), context, level)


def counts_interval(key: str, counts: Tensor, context: MetricContext, level: float = 0.95) -> Estimate:
    """A metric of counts with its interval.

    - ``min_recall``: exact. Lower limit: the smallest of the classes' one-sided Clopper-Pearson limits at alpha / 2,
      since the class that attains the true minimum is below its own with probability alpha / 2 at most. Upper:
      the smallest of the Sidak-corrected upper limits.
    - weighted means of the recalls: Clopper-Pearson on the mean with its effective number of samples,
      1 / sum_k (w_k^2 / n_k). With equal n the number of hits is a sum of Bernoulli variables of unequal p, which
      spreads less than the binomial of the same mean (Hoeffding 1956), so the limits are conservative.
    - other metrics of the recalls: MOVER (Zou and Donner 2008), class by class: the distances that the metric
      moves when one recall goes to its Wilson limit, squared and added.
    - metrics of the whole matrix: quantiles over Dirichlet draws of the rows, half a count spread over each.

    Args:
        counts: shape (K, K).
    Raises:
        ValueError: an unknown metric, or a level outside (0, 1).
    """
    alpha = 1.0 - _checked(level)
    if key not in METRICS:
        raise ValueError(f"unknown metric {key!r}; there are {', '.join(METRICS)}")
    metric, counts = METRICS[key], counts.double().cpu()
    value = float(metric.of(counts, context))
    if key == "min_recall":
        return Estimate(value, *min_recall_limits(counts, alpha))
    if metric.of_recalls is not None and metric.linear:
        return _mean_interval(metric.of_recalls, counts, context, alpha)
    if metric.of_recalls is not None:
        return Estimate(value, *_recalls_limits(metric.of_recalls, counts, context, alpha, value))
    return _row_interval(lambda rows: metric.of(rows, context), counts, alpha, value)


def min_recall_limits(counts: Tensor, alpha: float) -> tuple[float, float]:
    """Exact limits of the smallest recall at joint level 1 - alpha; see :func:`counts_interval`."""
    hits, rows = counts.diagonal(), counts.sum(dim=1)
    low, _ = clopper_pearson(hits, rows, alpha / 2.0)
    sidak = 1.0 - (1.0 - alpha / 2.0) ** (1.0 / len(rows))
    _, high = clopper_pearson(hits, rows, sidak)
    return float(low.min()), float(high.min())


def clopper_pearson(hits: Tensor, trials: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Exact one-sided limits of proportions, each missed with probability ``alpha`` at most.

    Args:
        hits, trials: shape (K,).
    Returns:
        Lower and upper limits, each of shape (K,), float64.
    """
    from scipy.stats import beta

    x, n = hits.double().numpy(), trials.double().numpy()
    low = torch.from_numpy(beta.ppf(alpha, x, n - x + 1.0))
    high = torch.from_numpy(beta.ppf(1.0 - alpha, x + 1.0, n - x))
    return torch.where(hits > 0, low, 0.0), torch.where(hits < trials, high, 1.0)


def wilson(hits: Tensor, trials: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Wilson's score limits of proportions at level 1 - alpha, each of shape (K,), float64."""
    from scipy.stats import norm

    z = float(norm.ppf(1.0 - alpha / 2.0))
    n = trials.double()
    p = hits.double() / n
    centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n)
    half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt()
    return torch.minimum(p, (centre - half).clamp_min(0.0)), torch.maximum(p, (centre + half).clamp_max(1.0))


def linear_weights(metric: RecallsMetric, counts: Tensor, context: MetricContext) -> tuple[Tensor, float]:
    """A linear metric as offset + weights . recalls: the weights, shape (K,), and the offset."""
    rows = counts.sum(dim=1)
    points = torch.cat(
        [torch.eye(len(rows), dtype=torch.float64), torch.zeros(1, len(rows), dtype=torch.float64)]
    )
    values = metric(points, rows / rows.sum(), context)
    return values[:-1] - values[-1], float(values[-1])


def _mean_interval(metric: RecallsMetric, counts: Tensor, context: MetricContext, alpha: float) -> Estimate:
    weights, offset = linear_weights(metric, counts, context)
    total = weights.sum()
    shares, rows = weights / total, counts.sum(dim=1)
    mean = (shares * recalls(counts)).sum()
    samples = 1.0 / (shares.square() / rows).sum()
    limits = clopper_pearson((mean * samples).view(1), samples.view(1), alpha / 2.0)
    ends = [float(offset + total * end) for end in (limits[0], mean, limits[1])]
    low, value, high = sorted(ends)
    return Estimate(value, low, high)


def student_quantile(freedom: int, alpha: float) -> float:
    """Two-sided quantile of Student's t at level 1 - alpha."""
    from scipy.stats import t

    return float(t.ppf(1.0 - alpha / 2.0, freedom))


def excursions(
    metric: RecallsMetric, counts: Tensor, context: MetricContext, alpha: float
) -> tuple[Tensor, Tensor]:
    """How far the metric moves down and up when one recall goes to a Wilson limit, each shape (K,), >= 0."""
    rows = counts.sum(dim=1)
    low, high = wilson(counts.diagonal(), rows, alpha)
    values, prior = recalls(counts), rows / rows.sum()
    moved = torch.stack([_each_replaced(values, low), _each_replaced(values, high)])
    change = metric(moved, prior, context) - metric(values, prior, context)
    return (-change).amax(dim=0).clamp_min(0.0), change.amax(dim=0).clamp_min(0.0)


def _each_replaced(values: Tensor, limits: Tensor) -> Tensor:
    """Row k is ``values`` with entry k replaced by its limit, shape (K, K)."""
    replaced = values.expand(len(values), -1).clone()
    replaced.diagonal().copy_(limits)
    return replaced


def _recalls_limits(
    metric: RecallsMetric, counts: Tensor, context: MetricContext, alpha: float, value: float
) -> tuple[float, float]:
    down, up = excursions(metric, counts, context, alpha)
    return max(0.0, value - float(down.norm())), min(1.0, value + float(up.norm()))


def dirichlet_rows(counts: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Rows of shares drawn around ``counts``, scaled back to the row sums, shape (draws, K, K)."""
    concentration = counts + _PRIOR_COUNTS / counts.shape[1]
    gamma = torch._standard_gamma(concentration.expand(draws, -1, -1), generator=generator)
    return gamma / gamma.sum(dim=-1, keepdim=True) * counts.sum(dim=1, keepdim=True)


def _row_interval(metric: Callable[[Tensor], Tensor], counts: Tensor, alpha: float, value: float) -> Estimate:
    generator = torch.Generator().manual_seed(0)  # fixed: an interval is a figure, not an experiment
    at_once = max(1, 2**23 // counts.numel())
    draws = torch.cat([
        metric(dirichlet_rows(counts, min(at_once, _DRAWS - start), generator)) for start in range(0, _DRAWS, at_once)
    ])  # fmt: skip
    return _percentile(draws, alpha, value)


def _calibration_interval(predictions: Predictions, level: float) -> Estimate:
    value = calibration_error(predictions.correct, predictions.confidence)
    generator = torch.Generator().manual_seed(0)
    size = len(predictions.labels)
    draws = []
    for _ in range(200):
        index = torch.randint(size, (size,), generator=generator)
        draws.append(calibration_error(predictions.correct[index], predictions.confidence[index]))
    return _percentile(torch.tensor(draws), 1.0 - level, value)


def _percentile(draws: Tensor, alpha: float, value: float) -> Estimate:
    limits = torch.quantile(
        draws.double(), torch.tensor([alpha / 2.0, 1.0 - alpha / 2.0], dtype=torch.float64)
    )
    return Estimate(value, min(value, float(limits[0])), max(value, float(limits[1])))


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    return level
