"""Intervals of single metrics: a value with the limits that the table of constructions gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from selmix.metrics import MetricContext, Predictions, evaluate_predictions, metric_named
from selmix.statistics.constructions import CONSTRUCTIONS, construction_of
from selmix.statistics.proportions import Bounds, clopper_pearson


@dataclass(frozen=True)
class Estimate:
    """Value with its interval, low <= value <= high.

    Attributes:
        value: of the sample.
        low: lower confidence bound.
        high: upper confidence bound.
    """

    value: float
    low: float
    high: float


def all_intervals(
    predictions: Predictions, context: MetricContext, level: float = 0.95
) -> dict[str, Estimate]:
    """Every metric that the data allow and that has an interval, with it.

    Args:
        predictions: of one model.
        context: of the metrics.
        level: of each interval, in (0, 1).
    Returns:
        Metric -> estimate, in the order of METRICS.
    Raises:
        ValueError: a class has no sample, or the level is outside (0, 1).
    """
    return {
        key: metric_interval(key, predictions, context, level)
        for key in evaluate_predictions(predictions, context)
        if key not in CONSTRUCTIONS or CONSTRUCTIONS[key].has_interval
    }


def metric_interval(
    key: str, predictions: Predictions, context: MetricContext, level: float = 0.95
) -> Estimate:
    """One metric of a model's predictions, with its interval.

    Args:
        key: of METRICS, of a class rate of the context's definitions, or ``module:function``.
        predictions: of one model.
        context: of the metric.
        level: of the interval, in (0, 1).
    Raises:
        ValueError: an unknown metric, one without an interval or that the data do not allow, or a level outside (0, 1).
    """
    metric = metric_named(key, context.definitions)
    construction = CONSTRUCTIONS.get(key)
    if construction is not None and not construction.has_interval:
        raise ValueError(f"{key} has no interval: {construction.why}")
    if construction is not None and construction.of_predictions is not None:
        value = predictions.value(metric, context)
        return _around(value, construction.of_predictions(predictions, 1.0 - _checked(level)))
    return counts_interval(key, predictions.counts_for(key, context), context, level)


def counts_interval(key: str, counts: Tensor, context: MetricContext, level: float = 0.95) -> Estimate:
    """One metric of counts, with the interval that :data:`selmix.statistics.constructions.CONSTRUCTIONS` names.

    A proportion, such as the recall of one class, has Clopper-Pearson's; [0, 1] for a precision without predictions.

    Args:
        key: of METRICS, none of predictions, of a class rate of the context's definitions, or ``module:function``.
        counts: shape (K, K), of a metric of groups (K A, K).
        context: of the metric.
        level: of the interval, in (0, 1).
    Raises:
        ValueError: an unknown metric, one that counts do not give, or a level outside (0, 1).
    """
    alpha = 1.0 - _checked(level)
    metric, counts = metric_named(key, context.definitions), counts.double().cpu()
    value = float(metric.of(counts, context))
    if metric.proportion is not None:
        hits, trials = (each.reshape(1) for each in metric.proportion(counts))
        low, high = clopper_pearson(hits, trials, alpha / 2.0)
        return _around(value, (float(low), float(high)))
    bounds = construction_of(key).of_counts
    if bounds is None:
        raise ValueError(f"{key} is no metric of counts")
    return _around(value, bounds(counts, context, alpha))


def _around(value: float, bounds: Bounds) -> Estimate:
    # A biased estimate may lie outside its limits, which an interval must contain.
    return Estimate(value, min(value, bounds[0]), max(value, bounds[1]))


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"interval: level must lie in (0, 1), got {level}")
    return level
