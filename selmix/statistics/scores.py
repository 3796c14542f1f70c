"""Limits of metrics of the scores themselves: the Brier score, and the areas under the curves.

The log loss has none. Its largest terms are rare and as large as a model is sure: over 24 samples a class the normal
approximation missed the mean of a good model in 24 % of draws, and that of a model that is too sure in 33 %; with
Hall's correction for skewness in 9 % and 20 %.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.metrics import (
    MetricContext,
    Predictions,
    auroc,
    log_probabilities_of,
    placed_parts,
    ranked_classes,
    sorted_values,
    squared_errors,
)
from selmix.statistics.means import Influence, stratified_variance
from selmix.statistics.proportions import Bounds, clopper_pearson


def brier_bounds(predictions: Predictions, alpha: float) -> Bounds:
    """Limits of the Brier score: those of a mean of numbers between 0 and the largest error.

    Clopper-Pearson with as many samples as have its variance within the classes. More than there are only with a
    pseudo-sample of the largest error: small errors of a few samples do not show the large one that comes.

    Args:
        predictions: of a model, with the probabilities of all classes.
        alpha: 1 - the joint level of both limits.
    """
    errors, most = squared_errors(predictions), _most_error(predictions)
    total = len(errors)
    scaled = errors / most
    variance = stratified_variance(predictions.labels, scaled / total)
    value = float(scaled.mean())
    centre = _inside(value, float(total))
    spread = centre * (1.0 - centre)
    known = float(total) if variance <= 0 else min(float(total), spread / variance)
    low, high = _limits(value, max(known, spread / (variance + 1.0 / total**2)), float(total), alpha)
    return most * low, most * high


def brier_influence(a: Predictions, b: Predictions, context: MetricContext) -> Influence:
    """Influence of the samples on the difference of two models' Brier scores."""
    total = len(a.labels)
    return Influence((squared_errors(a) - squared_errors(b)) / total, _most_error(a) / total)


def _most_error(predictions: Predictions) -> float:
    """The error of a sample whose label has probability 0 and another class 1."""
    return 1.0 if log_probabilities_of(predictions).shape[1] == 2 else 2.0


def auroc_bounds(predictions: Predictions, alpha: float) -> Bounds:
    """Limits of the mean area under the curves: Clopper-Pearson with as many samples as have its variance.

    The variance is that of the samples' placements among those of the other kind, summed over the curves. Never more
    samples than a mean over classes has, were all alike: separated samples show no variance.

    Args:
        predictions: of a model, with the probabilities of all classes.
        alpha: 1 - the joint level of both limits.
    Source: placements: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver
        operating characteristic curves", Biometrics 1988.
    """
    rows = torch.bincount(predictions.labels).double()
    variance = stratified_variance(predictions.labels, auroc_influences(predictions))
    most, value = float(len(rows) ** 2 / (1.0 / rows).sum()), auroc(predictions)
    centre = _inside(value, float(rows.sum()))
    samples = min(most, centre * (1.0 - centre) / variance) if variance > 0 else most
    return _limits(value, samples, float(rows.sum()), alpha)


def auroc_influences(predictions: Predictions) -> Tensor:
    """Change of the mean area under the curves with one more such sample, up to a constant of the class; shape (n,).

    Of a sample of class k the share of the others that it is rightly placed against, divided by the samples of its
    kind, in the mean over the curves.
    """
    scores, labels = log_probabilities_of(predictions), predictions.labels
    curves = ranked_classes(scores.shape[1])
    total = torch.zeros(len(labels), dtype=torch.float64)
    for k in curves:
        positive = labels == k
        ours, others = float(positive.sum()), float((~positive).sum())
        for side, is_positive in ((positive, True), (~positive, False)):
            for members, below, equal in placed_parts(scores[:, k], side, sorted_values(scores[:, k], ~side)):
                # A sample of another class is rightly placed below those of class k.
                right = below + 0.5 * equal if is_positive else ours - below - 0.5 * equal
                total[members] += right / (ours * others * len(curves))
    return total


def auroc_influence(a: Predictions, b: Predictions, context: MetricContext) -> Influence:
    """Influence of the samples on the difference of two models' mean areas under the curves."""
    rows = torch.bincount(a.labels).double()
    curves = ranked_classes(len(rows))
    # Rightly placed against all others on every curve, a sample contributes one part in those of its kind on each.
    others = 1.0 / (rows.sum() - rows)
    most = torch.stack([torch.where(torch.arange(len(rows)) == k, 1.0 / rows[k], others[k]) for k in curves])
    return Influence(auroc_influences(a) - auroc_influences(b), float(most.mean(dim=0).max()))


def _inside(value: float, total: float) -> float:
    """A fraction of ``total`` samples, a quarter of one from either end at least."""
    return min(max(value, 0.25 / total), 1.0 - 0.25 / total)


def _limits(value: float, samples: float, total: float, alpha: float) -> Bounds:
    """Clopper-Pearson's limits of a fraction of ``total`` samples that varies as one of ``samples`` does."""
    n = torch.tensor([samples], dtype=torch.float64)
    low, high = clopper_pearson(n * _inside(value, total), n, alpha / 2.0)
    return min(value, float(low)), max(value, float(high))
