"""Plug-in classifier: calibrated probabilities, and decisions by the gradient of the metric at its optimum.

For a metric psi(C) of the confusion matrix the best classifier predicts argmax_j sum_i eta_i(x) G_ij, with eta the
class probabilities and G the gradient of psi at the optimal C: exactly so for concave psi and for ratios of linear
functions. For recalls G is a weight per class, for coverages and F1 scores weights and offsets, for a cost the matrix.

Source: Narasimhan et al., "Consistent Multiclass Algorithms for Complex Metrics and Constraints", JMLR 25, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selmix.baselines.tally import Tally
from selmix.corrections import Correction
from selmix.groups import class_counts, stratum_labels
from selmix.metrics import METRICS, Metric, MetricContext, metric_named
from selmix.own_metrics import OwnFunction
from selmix.statistics.selection import (
    Constraint,
    SelectionRule,
    counted_bounds,
    dirichlet_rows,
    violations,
)

ITERATIONS = (1, 3, 10, 30, 100)
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
FOLDS = 5
RESAMPLES = 200  # of the samples, for the bagged metric of the guard
_WEIGHTS_AT_ONCE = 2**20  # numbers of the resamples in memory at once, 8 MB
DRAWS = 32  # confusion matrices around the present one that a gradient is averaged over
DRAWS_OF_HITS = 128  # the same where the diagonal is enough, of which a draw takes next to nothing
_NUMBERS_AT_ONCE = 2**22  # bounds the memory of draws and probabilities
_CALLS_AT_ONCE = 500  # of a function of the user's own that is differentiated by differences
_NUMBERS_OF_A_PART = 2**16
_CALIBRATION_STEPS = 100
SETTLED = 20  # iterations in a row without another decision, after which a fit ends
WITHOUT_HITS = frozenset({
    "recall_gap", "min_coverage", "min_head_tail_coverage", "equal_opportunity_gap", "equalized_odds_gap",
    "one_vs_rest_odds_gap", "demographic_parity_gap",
})  # fmt: skip
TIES = 1.0  # of the mean recall, added to metrics that decisions without regard to the sample may optimise


@dataclass(frozen=True)
class PlugIn:
    """A fitted plug-in classifier.

    Attributes:
        correction: of the logits that it was fitted on.
        step: share of the way from no correction to the fitted one, of STEPS.
        iterations: of the fit, of ITERATIONS.
    """

    correction: Correction
    step: float
    iterations: int


def plug_in_classifier(
    logits: Tensor, labels: Tensor, rule: SelectionRule, context: MetricContext, groups: Tensor | None = None
) -> PlugIn:
    """Fit a plug-in classifier, as far as held-out samples say that it helps.

    Steps from no correction to the fitted one, and the number of iterations, are compared by the bagged metric of
    out-of-fold predictions (five folds); constraints of the search come first. Of those within one standard error of
    the best, paired, the smallest step is kept, with its best number of iterations. It is fitted again on all samples.

    Args:
        logits: of samples that the model has not seen, shape (n, K).
        labels: shape (n,).
        rule: metric, and constraints of the search.
        context: of the metric.
        groups: shape (n,), for data with a group attribute; the decisions do not depend on them.
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    groups = None if groups is None else groups.cpu()
    classes = logits.shape[1]
    neutral = Correction.none(classes).double()
    choices = [(0.0, ITERATIONS[0]), *((step, i) for step in STEPS[1:] for i in ITERATIONS)]
    predicted = torch.empty(len(choices), len(labels), dtype=torch.int64)
    for held in stratified_folds(labels, FOLDS):
        rest = None if groups is None else groups[~held]
        fits = dict(zip(ITERATIONS, _path(logits[~held], labels[~held], rule, context, rest), strict=True))
        for place, (step, iterations) in enumerate(choices):
            between = neutral.towards(fits[iterations], step)
            predicted[place, held] = _decided(
                between.probabilities(logits[held]), between.matrix, between.offset
            )
    bagged, near = _out_of_fold(predicted, labels, classes, rule, context, groups)
    step = min(choice[0] for choice, held in zip(choices, near.tolist(), strict=True) if held)
    places = [place for place, choice in enumerate(choices) if choice[0] == step and bool(near[place])]
    iterations = choices[max(places, key=lambda place: float(bagged[place]))][1]
    path = dict(zip(ITERATIONS, _path(logits, labels, rule, context, groups), strict=True))
    fitted = neutral.towards(path[iterations], step)
    # Folds whose classifiers each favour another class look like a good one together: this one must be better itself.
    both = torch.stack([logits.argmax(dim=1), fitted.predict(logits)[0]])
    tally = Tally(labels, classes, rule.metric, context, groups, rule.constraints)
    if not tally.key(both[1]) > tally.key(both[0]):
        return PlugIn(neutral, 0.0, 0)
    return PlugIn(fitted, step, iterations)


def vector_scaling(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and bias per class that calibrate logits: the maximum a posteriori under N(1, 1) and N(0, 1).

    The samples weigh as they come, so the probabilities are those of their own prior, whatever prior the model was
    trained for.

    Args:
        logits: of samples that the model has not seen, shape (n, K), float64.
        labels: shape (n,).
    Returns:
        Each of shape (K,), float64.
    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    count, classes = logits.shape
    scale = torch.ones(classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scale, bias], max_iter=_CALIBRATION_STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )
    size = max(1, _NUMBERS_AT_ONCE // classes)

    # The gradient is written out, and added up over parts of the samples: autograd would hold several copies of all.
    @torch.no_grad()
    def closure() -> Tensor:
        loss = 0.5 * ((scale - 1.0).square().sum() + bias.square().sum()) / count
        by_scale, by_bias = (scale - 1.0) / count, bias / count
        for start in range(0, count, size):
            part, truth = logits[start : start + size], labels[start : start + size].unsqueeze(1)
            logs = torch.log_softmax(part * scale + bias, dim=1)
            loss = loss - logs.gather(1, truth).sum() / count
            error = logs.exp_()
            error.scatter_add_(1, truth, torch.full_like(truth, -1.0, dtype=torch.float64))
            by_scale = by_scale + (error * part).sum(dim=0) / count
            by_bias = by_bias + error.sum(dim=0) / count
        scale.grad, bias.grad = by_scale, by_bias
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return scale.detach(), bias.detach()


def decision_matrix(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix and offsets whose decisions are those of a gradient of a metric by C.

    What only depends on the row changes no decision, and what only depends on the column is an offset: both are taken
    from the entries off the diagonal. The rest is scaled to a mean diagonal of 1, which that of accuracy has.

    Args:
        gradient: G, shape (K, K).
    Returns:
        M, shape (K, K), and o, shape (K,), with argmax_j (eta M)_j + o_j = argmax_j (eta G)_j for every eta of sum 1.
    """
    classes = len(gradient)
    others = ~torch.eye(classes, dtype=torch.bool)
    rows, columns = torch.zeros(classes, 1).to(gradient), torch.zeros(1, classes).to(gradient)
    # Least squares by turns; converges at the rate 1 / (K - 1)^2, and at once for two classes. From a diagonal matrix
    # nothing is to be taken.
    for _ in range(40 if bool(gradient[others].any()) else 0):
        rows = ((gradient - columns) * others).sum(dim=1, keepdim=True) / (classes - 1)
        columns = ((gradient - rows) * others).sum(dim=0, keepdim=True) / (classes - 1)
    matrix = gradient - rows - columns
    size = _size(matrix.diagonal(), matrix.abs().mean())
    offset = columns.flatten() - columns.mean()
    return matrix / size, offset / size


def _size(diagonal: Tensor, magnitude: Tensor) -> Tensor:
    """Divisor of a decision matrix."""
    mean = diagonal.mean()
    # A gradient that does not reward hits on average is scaled by its size alone.
    return mean if float(mean) > 1e-12 else magnitude.clamp_min(1e-12)


def stratified_folds(labels: Tensor, folds: int) -> Iterator[Tensor]:
    """Masks of folds, shape (n,) each: the samples of each class go to the folds in turn."""
    position = torch.zeros_like(labels)
    for k in torch.unique(labels):
        members = labels == k
        position[members] = torch.arange(int(members.sum()), device=labels.device)
    for fold in range(folds):
        yield position % folds == fold


def _path(
    logits: Tensor, labels: Tensor, rule: SelectionRule, context: MetricContext, groups: Tensor | None
) -> list[Correction]:
    """Corrections after each number of ITERATIONS.

    The gradient at the confusion of the present decisions is averaged into the one that makes the next: Frank-Wolfe on
    the dual, the weights of a minimum among it. Every iterate is one classifier; the primal one would end in a mixture.
    """
    scale, bias = vector_scaling(logits, labels)
    eta = torch.softmax(logits * scale + bias, dim=1)
    gradient = _BaggedGradient(labels, eta.shape[1], rule, context, groups)
    average = _AveragedWeights(gradient) if gradient.is_diagonal else _AveragedMatrix(gradient)
    predicted, settled = eta.argmax(dim=1), 0
    fits: list[Correction] = []
    for iteration in range(1, ITERATIONS[-1] + 1):
        matrix, offset = average.decisions(predicted, 2.0 / (iteration + 1.0))
        before, predicted = predicted, _decided(eta, matrix, offset)
        settled = settled + 1 if torch.equal(before, predicted) else 0
        if iteration in ITERATIONS or settled == SETTLED:
            fits.append(Correction(scale, bias, torch.diag(matrix) if matrix.ndim == 1 else matrix, offset))
        if settled == SETTLED:
            break
    # Where the decisions have settled, further iterations would leave them.
    return fits + fits[-1:] * (len(ITERATIONS) - len(fits))


def _decided(eta: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Decisions argmax_j (eta M)_j + o_j, shape (n,).

    Args:
        eta: class probabilities, shape (n, K).
        matrix: M, shape (K, K), or its diagonal, shape (K,), where it has nothing else.
        offset: o, shape (K,).
    """
    # Weights alone are the usual case, and need no product of matrices.
    if matrix.ndim == 2:
        diagonal = matrix.diagonal()
        if float((matrix - torch.diag(diagonal)).abs().max()) >= 1e-9:
            return (eta @ matrix + offset).argmax(dim=1)
        matrix = diagonal
    # In parts that fit a cache; numpy's search along a row is twice as fast as torch's at a thousand classes.
    size = max(1, _NUMBERS_OF_A_PART // eta.shape[1])
    parts = (eta[start : start + size] * matrix + offset for start in range(0, len(eta), size))
    return torch.cat([torch.from_numpy(part.numpy().argmax(axis=1)) for part in parts])


class _AveragedMatrix:
    """Matrix and offsets that decide, from the gradient averaged over the iterations, of any metric."""

    def __init__(self, gradient: _BaggedGradient) -> None:
        self.gradient, self.counts = gradient, torch.zeros(0)
        self.mean = torch.zeros(1)

    def decisions(self, predicted: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """M, shape (K, K), and o, shape (K,), after one more iteration.

        Args:
            predicted: by the decisions as they are, shape (n,).
            rate: weight of this iteration in the averages; 1.0 in the first one.
        """
        present = self.gradient.counts(predicted)
        self.counts = present if rate == 1.0 else torch.lerp(self.counts, present, rate)
        here = self.gradient.of_metric(self.counts)
        self.mean = here if rate == 1.0 else torch.lerp(self.mean, here, rate)
        # Not averaged: the mean of the iterations' decisions may meet a bound that none of them meets.
        return decision_matrix(self.mean + self.gradient.of_bounds(present))


class _AveragedWeights:
    """As :class:`_AveragedMatrix`, of a metric of recalls without bounds: vectors of K numbers instead of matrices."""

    def __init__(self, gradient: _BaggedGradient) -> None:
        self.gradient, self.hits = gradient, torch.zeros(0)
        self.mean = torch.zeros(1)

    def decisions(self, predicted: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Diagonal of M, shape (K,), and o, shape (K,), which are 0; arguments as there."""
        present = self.gradient.hits(predicted)
        self.hits = present if rate == 1.0 else torch.lerp(self.hits, present, rate)
        here = self.gradient.of_hits(self.hits)
        self.mean = here if rate == 1.0 else torch.lerp(self.mean, here, rate)
        return self.mean / _size(self.mean, self.mean.abs().mean() / len(self.mean)), torch.zeros_like(
            self.mean
        )


class _BaggedGradient:
    """Gradient by C of the metric's mean over draws around C, and of the constraints' Lagrangian; by class (K, K).

    The mean is smooth where a minimum or a gap has corners, and it is what selection ranks by.
    """

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        rule: SelectionRule,
        context: MetricContext,
        groups: Tensor | None,
    ) -> None:
        bounds = counted_bounds(rule.constraints)
        # Counted by cell where anything is of cells: a metric of classes is computed from their sums.
        self.tally = Tally(labels, num_classes, rule.metric, context, groups, bounds)
        self.groups = self.tally.context.num_groups
        self.metric, self.context = metric_named(rule.metric), context
        self.multipliers = {bound: torch.zeros(1, dtype=torch.float64) for bound in bounds}
        self.calls = 0
        # Without a gradient of its own a function is called once for every cell.
        own = self.metric.of_counts
        slow = isinstance(own, OwnFunction) and not own.has_own_gradient(num_classes, context)
        self.draws = max(1, min(DRAWS, _CALLS_AT_ONCE // num_classes**2)) if slow else DRAWS
        self.generator = torch.Generator().manual_seed(0)

    def counts(self, predicted: Tensor) -> Tensor:
        """Samples by predicted class, shape (S, K), with one more a row, as it would be at the mean recall."""
        counts = self.tally.counts(predicted)
        classes = torch.arange(counts.shape[1])
        truth = torch.arange(len(counts)) // max(1, self.groups)
        hit = float((predicted == self.tally.labels).double().mean())
        # Without it a class that is never predicted has a precision, and a weight, of any size.
        return counts + torch.where(truth.unsqueeze(1) == classes, hit, (1.0 - hit) / (len(classes) - 1))

    @property
    def is_diagonal(self) -> bool:
        """True if nothing but the recalls of the classes counts: the gradient is then of the hits alone."""
        return self.metric.of_recalls is not None and not self.multipliers and not self.groups

    def hits(self, predicted: Tensor) -> Tensor:
        """Diagonal of :meth:`counts`, shape (K,)."""
        labels, classes = self.tally.labels, self.tally.num_classes
        hit = predicted == labels
        return torch.bincount(labels[hit], minlength=classes).double() + hit.double().mean()

    def of_hits(self, hits: Tensor) -> Tensor:
        """Diagonal of :meth:`of_metric`, less what only depends on the row, at hits (K,), of a metric of recalls.

        In a row that is drawn from a Dirichlet distribution the share of one cell has a beta distribution: two draws a
        row in place of K.
        """
        if self.metric.of_recalls is None:
            raise AssertionError(f"{self.metric.key} is no metric of recalls")
        # The one more of `counts`, and the half count that dirichlet_rows spreads.
        rows, spread = self.tally.row_counts + 1.0, 0.5 / len(hits)
        concentration = torch.stack([hits + spread, rows - hits + spread * (len(hits) - 1)])
        gamma = torch._standard_gamma(concentration.expand(DRAWS_OF_HITS, -1, -1), generator=self.generator)
        drawn = (gamma[:, 0] / gamma.sum(dim=1)).requires_grad_(True)
        with torch.enable_grad():
            key, prior = self.metric.key, (rows / rows.sum()).expand_as(drawn)
            values = self.metric.sign * self.metric.of_recalls(drawn, prior, self.context) / self._unit(key)
            values = values + TIES * drawn.mean(dim=1) if key in WITHOUT_HITS else values
            (gradient,) = torch.autograd.grad(values.sum(), drawn)
        return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mean(dim=0) / rows

    def of_metric(self, counts: Tensor) -> Tensor:
        """Gradient of the bagged metric at counts (S, K), by class (K, K)."""
        draws = max(1, min(self.draws, _NUMBERS_AT_ONCE // counts.numel()))
        drawn = dirichlet_rows(counts, draws, self.generator).requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._psi(drawn).sum(), drawn)
        return self._by_class(gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mean(dim=0))

    def of_bounds(self, counts: Tensor) -> Tensor:
        """Gradient of the bounds' Lagrangian at the counts (S, K) of the present decisions, by class (K, K).

        Multipliers move first, one for each value that must meet a bound: up by what it lacks, and down to 0.
        """
        self.calls += 1
        total = torch.zeros_like(counts)
        for bound, multipliers in self.multipliers.items():
            held = counts.clone().requires_grad_(True)
            with torch.enable_grad():
                slack = self._slacks(bound, held)
                lacks = -slack.detach().nan_to_num(nan=0.0) / self._unit(bound.metric)
                moved = (multipliers + lacks / math.sqrt(self.calls)).clamp_min(0.0)
                (gradient,) = torch.autograd.grad((moved * slack).nan_to_num(nan=0.0).sum(), held)
            self.multipliers[bound] = moved
            total = total + gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return self._by_class(total)

    def _by_class(self, gradient: Tensor) -> Tensor:
        if not self.groups:
            return gradient
        # The group is not known to the decision: each class's cells weigh by their share of its samples.
        cells = self.tally.row_counts.view(-1, self.groups)
        shares = (cells / cells.sum(dim=1, keepdim=True)).reshape(-1, 1)
        return (gradient * shares).view(-1, self.groups, gradient.shape[1]).sum(dim=1)

    def _psi(self, counts: Tensor) -> Tensor:
        """Metric, higher is better; one that no hit raises has the mean recall added, for its ties."""
        key = self.metric.key
        values = self.metric.sign * self._value(self.metric, counts) / self._unit(key)
        return values + TIES * self._value(METRICS["mean_recall"], counts) if key in WITHOUT_HITS else values

    def _value(self, metric: Metric, counts: Tensor) -> Tensor:
        by_class = self.groups and metric.of_cells is None
        return metric.of_matrix(class_counts(counts, self.groups) if by_class else counts, self.context)

    def _slacks(self, bound: Constraint, counts: Tensor) -> Tensor:
        """Distances to a bound: of each value whose least the metric is, where it has a floor; shape (G,)."""
        metric = bound.definition
        if bound.at_least is None or metric.least_of is None:
            values = self._value(metric, counts).reshape(1)
        elif metric.of_cells is not None:
            labels = stratum_labels(self.tally.num_classes, self.groups)
            values = metric.least_of(counts, replace(self.context, labels=labels))
        else:
            by_class = class_counts(counts, self.groups) if self.groups else counts
            values = metric.least_of(by_class, self.context)
        return values - bound.bound if bound.at_least is not None else bound.bound - values

    def _unit(self, key: str) -> float:
        """Reach of a metric: 1 / K for coverages, the range of a cost, else 1."""
        if key in ("min_coverage", "min_head_tail_coverage"):
            return 1.0 / self.tally.num_classes
        costs = self.context.definitions.cost_matrix
        if key == "cost" and costs is not None:
            return max(1e-12, max(max(row) for row in costs) - min(min(row) for row in costs))
        return 1.0


def _out_of_fold(
    predicted: Tensor,
    labels: Tensor,
    num_classes: int,
    rule: SelectionRule,
    context: MetricContext,
    groups: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Bagged metric of each of m out-of-fold predictions (m, n), and a mask of those that are as good as the best.

    What violates the constraints more than another is -inf, and not as good.
    """
    tally = Tally(labels, num_classes, rule.metric, context, groups)
    bounded = Tally(labels, num_classes, rule.metric, context, groups, rule.constraints)
    # One by one: with many classes their counts together would be large.
    missed = torch.stack([violations(rule.constraints, bounded.counts(each), context) for each in predicted])
    feasible = missed <= missed.min() + 1e-12
    generator = torch.Generator().manual_seed(0)
    values = torch.empty(RESAMPLES, len(predicted), dtype=torch.float64)
    size = max(1, _WEIGHTS_AT_ONCE // len(labels))
    for start in range(0, RESAMPLES, size):
        drawn = range(start, min(start + size, RESAMPLES))
        weights = torch.stack([_resampled(tally.rows, generator) for _ in drawn]).double()
        for place, choice in enumerate(predicted):
            values[start : drawn.stop, place] = tally.values(choice, weights)
    values = values.nan_to_num(nan=-torch.inf)
    bagged = torch.where(feasible, values.mean(dim=0), -torch.inf)
    behind = values[:, [int(bagged.argmax())]] - values
    near = feasible & (behind.mean(dim=0) <= behind.std(dim=0))
    return bagged, near


def _resampled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Times that each sample is drawn in a resample of the same size of every stratum, shape (n,)."""
    order = torch.argsort(rows, stable=True)
    counts = torch.bincount(rows)
    starts = counts.cumsum(0) - counts
    sizes = counts[rows]
    within = (torch.rand(len(rows), generator=generator, dtype=torch.float64) * sizes).long()
    drawn = order[starts[rows] + torch.minimum(within, sizes - 1)]
    return torch.bincount(drawn, minlength=len(rows))
