"""Ranking of rounds, trials and rows: one metric, a statistic of it, and constraints that decide feasibility."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from selmix.definitions import RATES_OF_A_CLASS, ClassRate, Definitions
from selmix.groups import class_counts
from selmix.metric_keys import is_own
from selmix.metrics import Metric, MetricContext, Predictions, class_metric, metric_named
from selmix.statistics.bounds import TOLERANCE, missed_by
from selmix.statistics.intervals import counts_interval
from selmix.statistics.resampling import dirichlet_rows, resample_rows

__all__ = [
    "RESAMPLES", "STATISTICS", "Constraint", "Rank", "SelectionRule", "counted_bounds", "dirichlet_rows", "rank",
    "resample_rows", "score", "score_of_counts", "violations",
]  # fmt: skip

STATISTICS = ("bagged", "lower_bound", "value")
"""Statistics of a metric that can rank: its bootstrap mean, the lower end of its interval, its plain value."""

RESAMPLES = 1000
_NUMBERS_AT_ONCE = 2**24  # bounds the memory of resamples: 128 MiB of float64 at a time


@dataclass(frozen=True)
class Constraint:
    """Floor or ceiling on a metric; exactly one of the two is set.

    Attributes:
        metric: a key of METRICS, or ``module:function``; ``recall`` or ``precision`` of one class.
        at_least: floor; None where the bound is a ceiling.
        at_most: ceiling; None where the bound is a floor.
        where: ``method`` (through multipliers), ``search`` (feasibility), or both.
        label: class of a recall or precision, in [0, K); None for a metric of all classes.
        class_name: name of that class; empty for none.
    Raises:
        ValueError: not exactly one bound, a place that is neither ``method`` nor ``search``, or a class with a metric
            of all classes.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    where: tuple[str, ...] = ("method", "search")
    label: int | None = None
    class_name: str = ""

    def __post_init__(self) -> None:
        if (self.label is None) == (self.metric in RATES_OF_A_CLASS):
            raise ValueError(
                f"{self.metric}: label, a class, goes with {' and '.join(RATES_OF_A_CLASS)}, got {self.label}"
            )
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(
                f"{self.metric}: exactly one of at_least and at_most must be set, got both or none"
            )
        if not self.where or not set(self.where) <= {"method", "search"}:
            raise ValueError(f"{self.metric}: `in` must name method, search or both, got {list(self.where)}")

    @property
    def class_rate(self) -> ClassRate | None:
        """Recall or precision of one class that the bound is on; None for a metric of all classes."""
        return None if self.label is None else ClassRate(self.metric, self.label, self.class_name)

    @property
    def key(self) -> str:
        """Key of the metric among the values of a round: ``min_recall``, ``recall/dog``."""
        rate = self.class_rate
        return self.metric if rate is None else rate.key

    @property
    def definition(self) -> Metric:
        """The metric that the bound is on."""
        rate = self.class_rate
        return metric_named(self.metric) if rate is None else class_metric(rate)

    @property
    def bound(self) -> float:
        """Value of ``at_least`` or ``at_most``, whichever is set."""
        if self.at_least is not None:
            return self.at_least
        return self.at_most if self.at_most is not None else float("nan")

    def violation(self, values: Mapping[str, float]) -> float:
        """Amount by which the metric misses the bound, 0.0 where it holds up to the rounding of floats."""
        return missed_by(values[self.key], self.at_least, self.at_most)

    def violations(self, values: Tensor) -> Tensor:
        """:meth:`violation` of each of these values of the metric, any shape; 0.0 where the metric is not defined."""
        missed = self.bound - values if self.at_least is not None else values - self.bound
        # NaN exceeds nothing.
        return torch.where(missed > TOLERANCE, missed, 0.0)


@dataclass(frozen=True)
class SelectionRule:
    """Rule that ranks rounds and trials on the select split.

    Attributes:
        metric: a key of METRICS, or ``module:function`` of the user's own.
        statistic: of STATISTICS.
        constraints: those that hold in the search decide feasibility.
        seed: of the bootstrap resamples; the same for all trials, so that equal predictions score equally.
        definitions: of the metrics with parameters; the recalls and precisions of single classes that have a bound, and
            the functions of the user's own that are named here, are added to them.
    Raises:
        ValueError: an unknown statistic.
    """

    metric: str
    statistic: str = "bagged"
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    definitions: Definitions = field(default_factory=Definitions)

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {self.statistic!r}")
        bounded = [bound.class_rate for bound in self.constraints if bound.class_rate is not None]
        # Each once, in the order of the bounds. The dataclass is frozen: a plain assignment would raise.
        rates = tuple(dict.fromkeys((*self.definitions.class_rates, *bounded)))
        named = (self.metric, *(bound.metric for bound in self.constraints))
        own = (*self.definitions.own_metrics, *(name for name in named if is_own(name)))
        known = replace(self.definitions, class_rates=rates, own_metrics=tuple(dict.fromkeys(own)))
        object.__setattr__(self, "definitions", known)

    def violation(self, values: Mapping[str, float]) -> float:
        """Sum of the violations of the constraints that hold in the search."""
        return sum((c.violation(values) for c in self.constraints if "search" in c.where), 0.0)


def counted_bounds(constraints: Iterable[Constraint]) -> tuple[Constraint, ...]:
    """Those of the search that confusion counts determine: all but a bound on a metric of the confidences."""
    return tuple(c for c in constraints if "search" in c.where and c.definition.of_predictions is None)


def violations(constraints: Sequence[Constraint], counts: Tensor, context: MetricContext) -> Tensor:
    """Sum of the violations of the search's constraints by confusion counts, one by one.

    Bounds that counts do not determine are left out (:func:`counted_bounds`). A metric that is not defined, such as one
    of a class without samples, violates nothing.

    Args:
        constraints: of any place; those of the search count.
        counts: shape (..., K, K), or of (class, group) cells (..., K A, K), which bounds on metrics of groups need.
        context: of the metrics.
    Returns:
        Shape (...), float64.
    Raises:
        ValueError: a bound on a metric of groups, but counts by class.
    """
    classes, groups = counts.shape[-1], context.num_groups
    of_cells = groups > 0 and counts.shape[-2] == classes * groups
    by_class = class_counts(counts, groups) if of_cells else counts
    total = torch.zeros(counts.shape[:-2], dtype=torch.float64, device=counts.device)
    for bound in counted_bounds(constraints):
        metric = bound.definition
        if metric.of_cells is not None and not of_cells:
            raise ValueError(
                f"a bound on {bound.key} needs counts of (class, group) cells, got {tuple(counts.shape[-2:])} by class"
            )
        values = metric.of(counts if metric.of_cells is not None else by_class, context)
        total += bound.violations(values)
    return total


Rank = tuple[float, float]
"""Minus the violation of the search's constraints, then the score: of two models the one with the larger is better."""


def rank(rule: SelectionRule, predictions: Predictions, context: MetricContext) -> Rank:
    """Rank that chooses between models: what violates the constraints of the search least comes first, then the score.

    Args:
        rule: metric, statistic and constraints.
        predictions: of one model on select.
        context: of the metrics, with the definitions of the rule.
    Raises:
        ValueError: the data do not allow a metric.
    """
    bounds = [bound for bound in rule.constraints if "search" in bound.where]
    values = {bound.key: predictions.value(bound.definition, context) for bound in bounds}
    return -rule.violation(values), score(rule, predictions, context)


def score(rule: SelectionRule, predictions: Predictions, context: MetricContext) -> float:
    """Score that ranks rounds, trials and rows: higher is better, also for metrics to be minimised.

    Args:
        rule: metric and statistic.
        predictions: of one model on select.
        context: of the metric.
    Raises:
        ValueError: the data do not allow the metric.
    """
    counts = predictions.counts_for(rule.metric, context)
    return score_of_counts(rule.metric, counts, context, rule.statistic, seed=rule.seed)


def score_of_counts(
    key: str,
    counts: Tensor,
    context: MetricContext,
    statistic: str = "bagged",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """:func:`score` of confusion counts.

    ``bagged`` is the bootstrap mean: the mean of the metric over resamples of the rows of ``counts``. Of two models
    with the same minimum it prefers the one with fewer classes near it, where the plain value ties. Equal counts and
    seed score equally.

    Args:
        key: of METRICS.
        counts: shape (K, K), of a metric of groups (K A, K).
        context: of the metric.
        statistic: ``bagged``, ``lower_bound`` or ``value``.
        resamples: number of bootstrap resamples.
        seed: of the resamples.
    Raises:
        ValueError: an unknown metric or statistic.
    """
    metric = metric_named(key)
    sign = metric.sign
    if statistic == "value":
        return sign * float(metric.of(counts, context))
    # The pessimistic end: where less is better that is the upper one.
    if statistic == "lower_bound":
        interval = counts_interval(key, counts, context)
        return -interval.high if metric.minimise else interval.low
    if statistic != "bagged":
        raise ValueError(f"statistic must be bagged, lower_bound or value, got {statistic!r}")
    # On the CPU: the generator lies there, and a GPU would draw other numbers.
    generator = torch.Generator().manual_seed(seed)
    return sign * _bootstrap_mean(key, counts.double().cpu(), context, resamples, generator)


def _bootstrap_mean(
    key: str, counts: Tensor, context: MetricContext, resamples: int, generator: torch.Generator
) -> float:
    metric = metric_named(key)
    rows = counts.sum(dim=1)
    # Recalls need the hits of each row only: one binomial draw in place of a row of the matrix.
    if metric.of_recalls is not None:
        p = (counts.diagonal() / rows).expand(resamples, -1)
        hits = torch.binomial(rows.expand(resamples, -1), p, generator=generator)
        return float(metric.of_recalls(hits / rows, rows / rows.sum(), context).mean())
    # A resample is a whole matrix here, so they are drawn some at a time.
    at_once = max(1, _NUMBERS_AT_ONCE // counts.numel())
    total, left = 0.0, resamples
    while left > 0:
        size = min(at_once, left)
        total += float(metric.of(resample_rows(counts, size, generator), context).sum())
        left -= size
    return total / resamples
