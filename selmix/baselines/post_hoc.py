"""Corrections of the logits after training, which cost next to nothing and are hard to beat."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from selmix.groups import class_counts, strata_of
from selmix.metrics import METRICS, MetricContext, compute_metric

SWEEPS = 4  # rounds over all classes, at most
CANDIDATES = 256  # biases of one class that are tried at once, at most
TAUS = tuple(k / 10 for k in range(31))


def logit_adjustment(train_counts: Tensor, tau: float) -> Tensor:
    """Biases -tau log(prior), to be added to the logits; shape (K,).

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """
    # A class without training samples counts as one sample: its logarithm must be finite.
    counts = train_counts.double().clamp_min(1.0)
    return (-tau * (counts / counts.sum()).log()).float()


def bias_search(
    logits: Tensor, labels: Tensor, metric: str, context: MetricContext, groups: Tensor | None = None
) -> Tensor:
    """Search per-class biases that are best for a metric on these samples, one coordinate at a time.

    The bias of a class moves along the points at which a sample flips to or from the class; the exact best along that
    line is taken, ties by mean recall and then by the smaller change.

    Args:
        logits: shape (n, K).
        labels: shape (n,).
        metric: a key of METRICS.
        context: of the metric.
        groups: shape (n,), for data with a group attribute.
    Returns:
        Shape (K,), float32; zeros where nothing is better than no correction.
    """
    logits, rows = logits.double().cpu(), labels.cpu()
    # Without the samples' groups the rows are classes, whatever the context has.
    if groups is not None and context.num_groups:
        rows = strata_of(rows, groups.cpu(), context.num_groups)
    else:
        context = dataclasses.replace(context, num_groups=0)
    classes = logits.shape[1]
    bias = torch.zeros(classes, dtype=torch.float64)
    best = _value(logits, rows, metric, context)
    for _ in range(SWEEPS):
        before = best
        for k in range(classes):
            bias[k], best = _line_search(logits, rows, bias, k, metric, context, best)
        # No single bias helps any more: further rounds would change nothing.
        if best == before:
            break
    return bias.float()


def _line_search(
    logits: Tensor,
    rows: Tensor,
    bias: Tensor,
    k: int,
    metric: str,
    context: MetricContext,
    best: tuple[float, float],
) -> tuple[Tensor, tuple[float, float]]:
    classes = logits.shape[1]
    shifted = logits + bias
    # Best class and logit of each sample among the others: only the bias of class k moves.
    shifted[:, k] = -torch.inf
    rival, runner_up = shifted.max(dim=1)
    flips = rival - logits[:, k]  # sample i is predicted as class k where its bias exceeds flips[i]
    candidates = _between(flips)
    flipped = candidates.unsqueeze(1) > flips.unsqueeze(0)
    predicted = torch.where(flipped, k, runner_up.unsqueeze(0))
    # Counts of all candidates at once, each a matrix of (row, prediction) entries.
    entries = rows.unsqueeze(0) * classes + predicted
    height = classes * max(1, context.num_groups)
    counts = torch.zeros(len(candidates), height * classes, dtype=torch.float64)
    counts.scatter_add_(1, entries, torch.ones_like(entries, dtype=torch.float64))
    values, ties = _values(metric, counts.view(-1, height, classes), context)
    order = sorted(
        range(len(candidates)),
        key=lambda c: (float(values[c]), float(ties[c]), -abs(float(candidates[c] - bias[k]))),
    )
    top = order[-1]
    # A bias stays where the best candidate only ties: biases that would change nothing remain 0.
    reached = (float(values[top]), float(ties[top]))
    return (candidates[top], reached) if reached > best else (bias[k], best)


def _between(flips: Tensor) -> Tensor:
    """Points between consecutive flips and beyond the ends, at most CANDIDATES of them."""
    ordered = torch.unique(flips)
    points = torch.cat([ordered[:1] - 1.0, (ordered[1:] + ordered[:-1]) / 2.0, ordered[-1:] + 1.0])
    if len(points) > CANDIDATES:
        points = points[torch.linspace(0, len(points) - 1, CANDIDATES).round().long()]
    return points


def _value(logits: Tensor, rows: Tensor, metric: str, context: MetricContext) -> tuple[float, float]:
    classes, height = logits.shape[1], logits.shape[1] * max(1, context.num_groups)
    entries = rows * classes + logits.argmax(dim=1)
    counts = torch.bincount(entries, minlength=height * classes).view(height, classes)
    value, tie = _values(metric, counts, context)
    return float(value), float(tie)


def _values(metric: str, counts: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
    """Metric of counts, shape (...), negated where less is better, and their mean recall, which decides ties."""
    by_class = class_counts(counts, context.num_groups) if context.num_groups else counts
    of_groups = METRICS[metric].of_cells is not None
    values = compute_metric(metric, counts if of_groups else by_class, context)
    mean_recall = compute_metric("mean_recall", by_class, context)
    return (-values if METRICS[metric].minimise else values), mean_recall
