"""A metric computed over and over from predictions of the same samples, from as few numbers as it needs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from selmix.confusion import precisions, recalls
from selmix.groups import class_counts, strata_of
from selmix.metric_functions import OF_MARGINS
from selmix.metrics import METRICS, MetricContext, compute_metric

Key = tuple[float, float]
"""Metric, higher is better, and mean recall, which decides its ties."""


class Tally:
    """Metric of predictions of labelled samples, from hits, from hits and columns, or from the whole matrix.

    Args:
        labels: shape (n,).
        num_classes: K.
        metric: a key of METRICS, none of predictions.
        context: of the metric.
        groups: shape (n,), for data with a group attribute.
    Attributes:
        metric: its definition.
        labels: on the CPU.
        rows: stratum of each sample: its cell for a metric of groups, else its class; shape (n,).
        num_rows: S.
        row_counts: samples of each stratum, shape (S,), float64.
    """

    def __init__(
        self, labels: Tensor, num_classes: int, metric: str, context: MetricContext, groups: Tensor | None
    ) -> None:
        self.metric, self.labels, self.num_classes = METRICS[metric], labels.cpu(), num_classes
        # Only metrics of groups count cells; for the others, and without the samples' groups, the rows are classes.
        if self.metric.of_cells is not None and groups is not None and context.num_groups:
            self.rows = strata_of(self.labels, groups.cpu(), context.num_groups)
        else:
            self.rows, context = self.labels, dataclasses.replace(context, num_groups=0)
        self.context = context
        self.num_rows = num_classes * max(1, context.num_groups)
        self.row_counts = torch.bincount(self.rows, minlength=self.num_rows).double()

    @property
    def width(self) -> int:
        """Numbers that the metric is computed from."""
        if self.metric.of_recalls is not None:
            return self.num_classes
        if self.metric.key in OF_MARGINS:
            return 2 * self.num_classes
        return self.num_rows * self.num_classes

    def places(self, predicted: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Numbers that samples add 1 to under their predictions.

        Args:
            predicted: class of each sample, shape (n,).
            chosen: indices of the samples, shape (m,); None for all.
        Returns:
            Places among the ``width`` numbers, shape (p, m), and a mask of those that a sample does add to.
        """
        labels, rows = self.labels, self.rows
        if chosen is not None:
            labels, rows, predicted = labels[chosen], rows[chosen], predicted[chosen]
        hit = (predicted == labels).unsqueeze(0)
        if self.metric.of_recalls is not None:
            return labels.unsqueeze(0), hit
        if self.metric.key in OF_MARGINS:
            places = torch.stack([labels, self.num_classes + predicted])
            return places, torch.cat([hit, torch.ones_like(hit)])
        return (rows * self.num_classes + predicted).unsqueeze(0), torch.ones_like(hit)

    def values(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Metric, higher is better, and mean recall of the numbers of ``places``, shape (c, width); each (c,)."""
        key, context, rows = self.metric.key, self.context, self.row_counts
        if self.metric.of_recalls is not None:
            hits = numbers
            values = self.metric.of_recalls(hits / rows, rows / rows.sum(), context)
        elif key in OF_MARGINS:
            hits, columns = numbers[:, : self.num_classes], numbers[:, self.num_classes :]
            values = OF_MARGINS[key](hits, rows, columns, context)
        else:
            counts = numbers.view(-1, self.num_rows, self.num_classes)
            values = compute_metric(key, counts, context)
            by_class = class_counts(counts, context.num_groups) if context.num_groups else counts
            hits = by_class.diagonal(dim1=-2, dim2=-1)
        class_rows = rows.view(self.num_classes, -1).sum(dim=1)
        # Rounded, because sums in another order differ in the last digit, which must not decide ties.
        rounded = torch.round(
            torch.stack([self.metric.sign * values, (hits / class_rows).mean(dim=-1)]), decimals=12
        )
        return rounded[0], rounded[1]

    def key(self, predicted: Tensor, weights: Tensor | None = None) -> Key:
        """Metric and mean recall of predictions.

        Args:
            predicted: class of each sample, shape (n,).
            weights: of the samples, shape (n,), of sum n_s in each stratum; None for 1 each.
        """
        places, counted = self.places(predicted)
        amounts = None if weights is None else weights.double().expand_as(places)[counted]
        numbers = torch.bincount(places[counted], amounts, minlength=self.width).double()
        value, tie = self.values(numbers.unsqueeze(0))
        return float(value), float(tie)

    def counts(self, predicted: Tensor) -> Tensor:
        """Samples of each stratum by predicted class, shape (S, K), float64."""
        size = self.num_rows * self.num_classes
        cells = torch.bincount(self.rows * self.num_classes + predicted, minlength=size)
        return cells.view(self.num_rows, self.num_classes).double()

    def shortfall(self, predicted: Tensor) -> Tensor:
        """What each class lacks of the rate that the metric wants to be equal, shape (K,); its bias is to rise by it.

        The rate is the class's recall; its mean over head or tail; its least recall in a group; its precision, which
        a larger bias lowers; or its share of the predictions.

        Args:
            predicted: class of each sample, shape (n,).
        """
        counts, key, groups = self.counts(predicted), self.metric.key, self.context.num_groups
        if groups:
            labels = torch.arange(self.num_rows) // groups
            # A cell without samples is no class's least.
            rates = recalls(counts, labels).nan_to_num(nan=1.0).view(self.num_classes, groups).amin(dim=1)
            return rates.mean() - rates
        if key == "min_precision":
            # A class that is never predicted has precision 0 by definition, and must be predicted to have more.
            rates = torch.where(counts.sum(dim=0) > 0, precisions(counts), 1.0)
            return rates - rates.mean()
        if key in ("min_coverage", "min_head_tail_coverage"):
            rates = counts.sum(dim=0) / counts.sum() * self.num_classes
        else:
            rates = recalls(counts)
        if key in ("min_head_tail_recall", "min_head_tail_coverage"):
            tail = self.context.tail
            rates = torch.where(tail, rates[tail].mean(), rates[~tail].mean())
        return rates.mean() - rates
