"""The score that ranks rounds and trials: a statistic of one metric over the select split."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.metrics import METRICS, MetricContext
from selmix.statistics.intervals import counts_interval

RESAMPLES = 1000
_CELLS_AT_ONCE = 2**24


def score(
    key: str,
    counts: Tensor,
    context: MetricContext,
    statistic: str = "bagged",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """What ranks rounds and trials: higher is better, also for metrics to be minimised.

    ``bagged`` is the mean of the metric over bootstrap resamples of the rows of ``counts``. Of two models with the
    same minimum it prefers the one with fewer classes near it, where the plain value ties. Equal counts and seed
    score equally.

    Args:
        counts: shape (K, K). statistic: ``bagged``, ``lower_bound`` or ``value``.
    Raises:
        ValueError: an unknown metric or statistic.
    """
    if key not in METRICS:
        raise ValueError(f"unknown metric {key!r}; there are {', '.join(METRICS)}")
    metric = METRICS[key]
    sign = -1.0 if metric.minimise else 1.0
    if statistic == "value":
        return sign * float(metric.of(counts, context))
    if statistic == "lower_bound":
        interval = counts_interval(key, counts, context)
        return -interval.high if metric.minimise else interval.low
    if statistic != "bagged":
        raise ValueError(f"statistic must be bagged, lower_bound or value, got {statistic!r}")
    return sign * _bagged(key, counts.double().cpu(), context, resamples, torch.Generator().manual_seed(seed))


def _bagged(
    key: str, counts: Tensor, context: MetricContext, resamples: int, generator: torch.Generator
) -> float:
    metric = METRICS[key]
    rows = counts.sum(dim=1)
    if metric.of_recalls is not None:
        p = (counts.diagonal() / rows).expand(resamples, -1)
        hits = torch.binomial(rows.expand(resamples, -1), p, generator=generator)
        return float(metric.of_recalls(hits / rows, rows / rows.sum(), context).mean())
    at_once = max(1, _CELLS_AT_ONCE // counts.numel())
    total, left = 0.0, resamples
    while left > 0:
        size = min(at_once, left)
        total += float(metric.of(resample_rows(counts, size, generator), context).sum())
        left -= size
    return total / resamples


def resample_rows(counts: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Multinomial resamples of every row, as a chain of conditional binomials.

    Args:
        counts: shape (K, K), float64.
    Returns:
        Shape (resamples, K, K), float64; row sums are those of ``counts``.
    """
    rest = counts.sum(dim=1).expand(resamples, -1).clone()
    weight = counts.sum(dim=1).clone()
    columns = []
    for column in counts.unbind(dim=1):
        p = (column / weight.clamp_min(1e-300)).clamp(0.0, 1.0)
        drawn = torch.binomial(rest, p.expand(resamples, -1), generator=generator)
        columns.append(drawn)
        rest, weight = rest - drawn, weight - column
    return torch.stack(columns, dim=2)
