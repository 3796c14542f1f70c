"""A metric computed over and over from predictions of the same samples, from as few numbers as it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from selmix.confusion import precisions, recalls
from selmix.groups import class_counts, strata_of
from selmix.metric_functions import OF_MARGINS
from selmix.metrics import Metric, MetricContext, metric_named
from selmix.statistics.selection import Constraint, counted_bounds

_NUMBERS_AT_ONCE = 2**21
"""Numbers of many tallies in memory at once, 16 MB."""


class Key(NamedTuple):
    """Rank of predictions: more is better, compared number by number in this order.

    Attributes:
        met: minus the sum of the violations of the bounds, 0.0 where all hold or there are none: whatever violates them
            more is below whatever violates them less, whatever the metric.
        value: metric, higher is better.
        mean_recall: decides ties of the metric.
    """

    met: float
    value: float
    mean_recall: float


class _Numbers(IntEnum):
    """Numbers that a metric is computed from, each beside those before it."""

    HITS = 0
    COLUMNS = 1
    MATRIX = 2


class Tally:
    """Metric and bounds of predictions of labelled samples, from hits, hits and columns, or the whole matrix.

    Args:
        labels: shape (n,).
        num_classes: K.
        metric: a key of METRICS, none of predictions.
        context: of the metric.
        groups: shape (n,), for data with a group attribute.
        bounds: constraints; those of the search that counts determine come before the metric.
    Attributes:
        metric: its definition.
        bounds: those that count.
        labels: on the CPU.
        rows: stratum of each sample: its cell where the metric or a bound is of groups, else its class; shape (n,).
        num_rows: S.
        row_counts: samples of each stratum, shape (S,), float64.
    """

    def __init__(
        self, labels: Tensor, num_classes: int, metric: str, context: MetricContext, groups: Tensor | None,
        bounds: Sequence[Constraint] = (),
    ) -> None:  # fmt: skip
        self.metric, self.labels, self.num_classes = metric_named(metric), labels.cpu(), num_classes
        self.bounds = counted_bounds(bounds)
        of_cells = any(
            each.of_cells is not None for each in (self.metric, *(b.definition for b in self.bounds))
        )
        # Only metrics of groups count cells; for the others, and without the samples' groups, the rows are classes.
        if of_cells and groups is not None and context.num_groups:
            self.rows = strata_of(self.labels, groups.cpu(), context.num_groups)
        else:
            self.rows, context = self.labels, dataclasses.replace(context, num_groups=0)
        self.context = context
        self.num_rows = num_classes * max(1, context.num_groups)
        self.row_counts = torch.bincount(self.rows, minlength=self.num_rows).double()
        self._numbers = max(
            _needs(self.metric), *(_needs(b.definition, b) for b in self.bounds), _Numbers.HITS
        )

    @property
    def width(self) -> int:
        """Numbers that the metric and the bounds are computed from."""
        if self._numbers is _Numbers.MATRIX:
            return self.num_rows * self.num_classes
        return (1 + self._numbers) * self.num_classes

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
        if self._numbers is _Numbers.HITS:
            return labels.unsqueeze(0), hit
        if self._numbers is _Numbers.COLUMNS:
            places = torch.stack([labels, self.num_classes + predicted])
            return places, torch.cat([hit, torch.ones_like(hit)])
        return (rows * self.num_classes + predicted).unsqueeze(0), torch.ones_like(hit)

    def keys(self, numbers: Tensor) -> Tensor:
        """Numbers of a :class:`Key`, shape (3, c), of the numbers of ``places``, shape (c, width)."""
        margins = self._margins(numbers)
        value = self.metric.sign * self._value(self.metric, margins)
        missed = torch.zeros_like(value)
        for bound in self.bounds:
            missed += bound.violations(self._value(bound.definition, margins, bound))
        means = (margins.hits / margins.rows).mean(dim=-1)
        # Rounded, because sums in another order differ in the last digit, which must not decide ties.
        return torch.round(torch.stack([-missed, value, means]), decimals=12)

    def _margins(self, numbers: Tensor) -> _Margins:
        rows = self.row_counts.view(self.num_classes, -1).sum(dim=1)
        if self._numbers is _Numbers.HITS:
            return _Margins(rows, numbers)
        if self._numbers is _Numbers.COLUMNS:
            return _Margins(rows, numbers[:, : self.num_classes], numbers[:, self.num_classes :])
        counts = numbers.view(-1, self.num_rows, self.num_classes)
        by_class = class_counts(counts, self.context.num_groups) if self.context.num_groups else counts
        return _Margins(rows, by_class.diagonal(dim1=-2, dim2=-1), by_class.sum(dim=-2), by_class, counts)

    def _value(self, metric: Metric, margins: _Margins, bound: Constraint | None = None) -> Tensor:
        """A metric, shape (c,)."""
        hits, rows, columns = margins.hits, margins.rows, margins.columns
        if bound is not None and bound.label is not None:
            # As in class_metric: of no samples, and of no predictions, 0.
            trials = rows if columns is None or bound.metric == "recall" else columns
            return hits[:, bound.label] / trials[..., bound.label].clamp_min(1.0)
        if metric.of_recalls is not None:
            return metric.of_recalls(hits / rows, rows / rows.sum(), self.context)
        if metric.key in OF_MARGINS and columns is not None:
            return OF_MARGINS[metric.key](hits, rows, columns, self.context)
        if margins.by_class is None or margins.counts is None:
            raise AssertionError(f"{metric.key} needs the whole matrix")
        return metric.of(margins.counts if metric.of_cells is not None else margins.by_class, self.context)

    def key(self, predicted: Tensor, weights: Tensor | None = None) -> Key:
        """Bounds, metric and mean recall of predictions.

        Args:
            predicted: class of each sample, shape (n,).
            weights: of the samples, shape (n,), of sum n_s in each stratum; None for 1 each.
        """
        places, counted = self.places(predicted)
        amounts = None if weights is None else weights.double().expand_as(places)[counted]
        numbers = torch.bincount(places[counted], amounts, minlength=self.width).double()
        return Key(*self.keys(numbers.unsqueeze(0)).flatten().tolist())

    def values(self, predicted: Tensor, weights: Tensor) -> Tensor:
        """Metric of predictions under many weights of the samples, higher is better, shape (r,), float64.

        Args:
            predicted: class of each sample, shape (n,).
            weights: of the samples, whole numbers of sum n_s in each stratum, shape (r, n), float64.
        """
        places, counted = self.places(predicted)
        cells, found = places[counted], []
        size = max(1, _NUMBERS_AT_ONCE // max(self.width, places.numel()))
        for some in torch.split(weights, size):
            amounts = some.unsqueeze(1).expand(-1, *places.shape)[:, counted]
            numbers = torch.zeros(len(some), self.width, dtype=torch.float64)
            found.append(self.keys(numbers.index_add_(1, cells, amounts))[1])
        return torch.cat(found)

    def counts(self, predicted: Tensor) -> Tensor:
        """Samples of each stratum by predicted class, shape (S, K), float64."""
        size = self.num_rows * self.num_classes
        cells = torch.bincount(self.rows * self.num_classes + predicted, minlength=size)
        return cells.view(self.num_rows, self.num_classes).double()

    def shortfall(self, predicted: Tensor) -> Tensor:
        """Amount that each class lacks of the rate that the metric wants to be equal, shape (K,); its bias is to rise.

        The rate is the class's recall; its mean over head or tail; its least recall in a group; its precision, which
        a larger bias lowers; or its share of the predictions.

        Args:
            predicted: class of each sample, shape (n,).
        """
        counts, key, groups = self.counts(predicted), self.metric.key, self.context.num_groups
        # By cell for the sake of a bound alone.
        if groups and self.metric.of_cells is None:
            counts = class_counts(counts, groups)
        elif groups:
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


@dataclasses.dataclass(frozen=True)
class _Margins:
    """Counts of predictions, c of them; what is not counted is None.

    Attributes:
        rows: samples of each class, shape (K,).
        hits: shape (c, K).
        columns: predictions of each class, shape (c, K).
        by_class: confusion counts, shape (c, K, K).
        counts: by stratum, shape (c, S, K).
    """

    rows: Tensor
    hits: Tensor
    columns: Tensor | None = None
    by_class: Tensor | None = None
    counts: Tensor | None = None


def _needs(metric: Metric, bound: Constraint | None = None) -> _Numbers:
    """Numbers of a metric, or of a bound on it, which may be of one class."""
    if bound is not None and bound.label is not None:
        return _Numbers.HITS if bound.metric == "recall" else _Numbers.COLUMNS
    if metric.of_recalls is not None:
        return _Numbers.HITS
    return _Numbers.COLUMNS if metric.key in OF_MARGINS else _Numbers.MATRIX
