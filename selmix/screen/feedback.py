"""Estimates of many rows on the feedback split: averaged confusions, multipliers, gradients and gains.

The formulas are those of the single fine-tuner, mapped over the rows; a function of the user's own is called for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.confusion import class_confusion, coverage, logit_gradient, own_classes, shrunk_rows
from selmix.constraints import scaled_slacks, with_constraints
from selmix.gain import gain_matrix
from selmix.metric_keys import is_own
from selmix.metrics import head_and_tail
from selmix.multipliers import (
    BOUND_START,
    bound_weights,
    exponentiated_gradient,
    missed_floors,
    moved_bound,
)
from selmix.objectives import (
    AnyObjective,
    ObjectiveContext,
    bind_objective,
    coverage_floor,
    known_objective,
)
from selmix.statistics.selection import Constraint

# As in gain.py: below this the products come near float64's subnormal numbers.
_MIN_NORMALISER = 1e-250


@dataclasses.dataclass(frozen=True)
class Held:
    """Multipliers of p rows in one round, held constant.

    Attributes:
        multipliers: of a worst-case objective or of CVaR, shape (p, S) (of precisions (p, K)); None for other ones.
        coverage: of a published coverage objective, shape (p, K); None for other ones.
        bounds: of each bound, shape (p, G).
    """

    multipliers: Tensor | None
    coverage: Tensor | None
    bounds: tuple[Tensor, ...]

    def context(self, context: ObjectiveContext, row: int) -> ObjectiveContext:
        """The context with the multipliers of one row."""
        return dataclasses.replace(
            context,
            multipliers=None if self.multipliers is None else self.multipliers[row],
            coverage_multipliers=None if self.coverage is None else self.coverage[row],
            bound_multipliers=tuple(each[row] for each in self.bounds),
        )


class Memories:
    """Averaged confusion and multipliers of P rows, carried from round to round: many FeedbackMemory.

    Args:
        objective: of all rows.
        context: its context, without multipliers.
        constraints: bounds inside the method.
        configs: settings of the rows.
        num_classes: K.
        device: of the estimates.
    """

    def __init__(
        self, objective: AnyObjective, context: ObjectiveContext, constraints: Sequence[Constraint],
        configs: Sequence[FinetuneConfig], num_classes: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.objective, self.context, self.constraints = objective, context, tuple(constraints)
        self._num_strata = num_classes * max(1, context.num_groups)
        self._num_classes, self._device = num_classes, device
        self._configs = list(configs)
        # What a function of the user's own does with a stack of matrices is not known.
        self._mapped = known_objective(objective) is not None and not any(
            is_own(constraint.metric) for constraint in self.constraints
        )
        size = (len(configs), self._num_strata, num_classes)
        self._counts = torch.zeros(size, dtype=torch.float64, device=device)
        self._seen = torch.zeros(len(configs), dtype=torch.bool, device=device)
        self._worst_case: Tensor | None = None
        self._bounds = [[BOUND_START] * len(self.constraints) for _ in configs]

    def _vector(self, name: str, rows: Sequence[int]) -> Tensor:
        """A setting of some rows, shape (p, 1), float64."""
        values = [getattr(self._configs[row], name) for row in rows]
        return torch.tensor(values, dtype=torch.float64, device=self._device).unsqueeze(1)

    def update(self, rows: Sequence[int], counts: Tensor) -> tuple[Tensor, Held]:
        """Add the counts of a round.

        Args:
            rows: places of the rows, p of them.
            counts: shape (p, S, K).
        Returns:
            The averaged, smoothed C of each, shape (p, S, K), float64, and their multipliers.
        """
        index = torch.tensor(rows, device=self._device)
        weight = self._vector("confusion_average", rows).unsqueeze(2)
        fresh = counts.double()
        seen = self._seen[index].view(-1, 1, 1)
        averaged = torch.where(seen, weight * self._counts[index] + (1.0 - weight) * fresh, fresh)
        self._counts[index] = averaged
        smoothed, measured = self._smoothed(rows, averaged)
        held = Held(
            self._multipliers(rows, index, measured),
            self._coverage(rows, measured),
            self._bound(rows, measured),
        )
        self._seen[index] = True
        return smoothed, held

    def _smoothed(self, rows: Sequence[int], counts: Tensor) -> tuple[Tensor, Tensor]:
        """C for the gradient, and C for the multipliers, both of shape (p, S, K)."""
        by_row = [self._configs[row].row_smoothing is not None for row in rows]
        sums = counts.sum(dim=2, keepdim=True)
        measured = counts / counts.sum(dim=(1, 2), keepdim=True)
        smoothed = torch.empty_like(counts)
        if places := [place for place, chosen in enumerate(by_row) if chosen]:
            amounts = self._vector("row_smoothing", [rows[place] for place in places]).squeeze(1)
            is_own = own_classes(counts[0], self.context.labels)
            smoothed[places] = torch.vmap(shrunk_rows, in_dims=(0, 0, 0, None))(
                counts[places], sums[places], amounts, is_own
            )
        if places := [place for place, chosen in enumerate(by_row) if not chosen]:
            amounts = self._vector("confusion_smoothing", [rows[place] for place in places]).unsqueeze(2)
            added = counts[places] + amounts
            prior = sums[places] / sums[places].sum(dim=1, keepdim=True)
            smoothed[places] = added / added.sum(dim=2, keepdim=True) * prior
            # The way of earlier versions: the multipliers come from the smoothed C.
            measured[places] = smoothed[places]
        return smoothed, measured

    def _multipliers(self, rows: Sequence[int], index: Tensor, confusion: Tensor) -> Tensor | None:
        context, known = self.context, known_objective(self.objective)
        if known is None or (known.worst_of is None and known.weights is None):
            return None
        scope = context
        if context.num_groups and not known.of_groups:
            confusion = class_confusion(confusion, context.labels)
            scope = dataclasses.replace(context, labels=None)
        if known.weights is not None:
            return known.weights(confusion, scope)
        if known.worst_of is None:
            raise AssertionError("an objective has worst_of or weights here, got neither")
        values, groups = known.worst_of(confusion, scope)
        least = values if groups is None else values @ groups.T
        if self._worst_case is None:
            self._worst_case = least.new_zeros(len(self._configs), least.shape[1])
        # Rows in their first round have nothing to remember: their decay is 0.
        decay = self._vector("multiplier_decay", rows) * self._seen[index].unsqueeze(1)
        lr = self._vector("multiplier_lr", rows)
        multipliers = exponentiated_gradient(least, lr, decay, self._worst_case[index])
        self._worst_case[index] = multipliers
        return multipliers if groups is None else multipliers @ groups

    def _coverage(self, rows: Sequence[int], confusion: Tensor) -> Tensor | None:
        known = known_objective(self.objective)
        if known is None or known.coverage is None:
            return None
        covered, floor = coverage(confusion), coverage_floor(confusion, self.context)
        temperature, maximum = (
            self._vector(name, rows) for name in ("constraint_temperature", "constraint_max")
        )
        if known.coverage != "min_head_tail_coverage":
            return missed_floors(covered, floor, temperature, maximum)
        groups = head_and_tail(confusion, self.context.for_metrics(self._num_classes))
        return missed_floors(covered @ groups.T, floor, temperature, maximum) @ groups

    def _bound(self, rows: Sequence[int], confusion: Tensor) -> tuple[Tensor, ...]:
        found = []
        for number, constraint in enumerate(self.constraints):
            slacks = self._slacks(constraint, confusion)
            weights = bound_weights(slacks)
            # Read as numbers once per round: every row moves its own multiplier.
            means = (weights * slacks).sum(dim=1).tolist()
            for row, mean in zip(rows, means, strict=True):
                self._bounds[row][number] = moved_bound(self._bounds[row][number], mean)
            values = weights.new_tensor([self._bounds[row][number] for row in rows])
            found.append(values.unsqueeze(1) * weights)
        return tuple(found)

    def _slacks(self, constraint: Constraint, confusion: Tensor) -> Tensor:
        def of_one(matrix: Tensor) -> Tensor:
            return scaled_slacks(constraint, matrix, self.context)

        if is_own(constraint.metric):
            return torch.stack([of_one(matrix) for matrix in confusion])
        return torch.vmap(of_one)(confusion)

    def gradients(self, smoothed: Tensor, held: Held) -> tuple[Tensor, list[str | None]]:
        """D of each row, shape (p, S, K), float64, and for each what is wrong with its objective, or None.

        Args:
            smoothed: C of each row, shape (p, S, K).
            held: their multipliers.
        """
        if not self._mapped:
            return self._gradients_one_by_one(smoothed, held)
        given = [each for each in (held.multipliers, held.coverage, *held.bounds) if each is not None]

        def psi(matrix: Tensor, *given: Tensor) -> Tensor:
            left = list(given)
            context = dataclasses.replace(
                self.context,
                multipliers=None if held.multipliers is None else left.pop(0),
                coverage_multipliers=None if held.coverage is None else left.pop(0),
                bound_multipliers=tuple(left),
            )
            return self._bound_objective(context)(matrix).reshape(())

        # Mapped forwards, differentiated as a sum: torch.func's own gradient imports a second of modules.
        stack = smoothed.detach().requires_grad_(True)
        with torch.enable_grad():
            values = torch.vmap(psi)(stack, *given)
            (slopes,) = torch.autograd.grad(values.sum(), stack)
        values = values.detach()
        good = (torch.isfinite(values) & torch.isfinite(slopes).all(dim=(1, 2))).tolist()
        problems = [None if fine else "the objective must be finite with a finite gradient" for fine in good]
        prior = smoothed.sum(dim=2, keepdim=True)
        # As in logit_gradient: the softmax's Jacobian takes from each row its mean gradient.
        mean = (slopes * smoothed).sum(dim=2, keepdim=True) / prior
        return smoothed * (slopes - mean), problems

    def _gradients_one_by_one(self, smoothed: Tensor, held: Held) -> tuple[Tensor, list[str | None]]:
        gradients = torch.zeros_like(smoothed)
        problems: list[str | None] = []
        for place, matrix in enumerate(smoothed):
            try:
                objective = self._bound_objective(held.context(self.context, place))
                gradients[place] = logit_gradient(objective, matrix)
                problems.append(None)
            # One row's confusion may be where the user's function fails: the other rows continue.
            except (ValueError, ArithmeticError) as error:
                problems.append(str(error))
        return gradients, problems

    def _bound_objective(self, context: ObjectiveContext) -> Callable[[Tensor], Tensor]:
        return with_constraints(bind_objective(self.objective, context), self.constraints, context)


def gain_matrices(
    prototypes: Tensor, weight: Tensor, bias: Tensor, gradients: Tensor, configs: Sequence[FinetuneConfig],
    labels: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Gains of many heads: :func:`selmix.gain.gain_matrix` of each.

    Args:
        prototypes: z, shape (S, d), float64.
        weight: W of each head, shape (p, K, d).
        bias: b, shape (p, K).
        gradients: D, shape (p, S, K), float64.
        configs: settings of each head; the mixing coefficient, the formula and the bias's part are read.
        labels: class of each stratum, shape (S,); None if strata are classes.
    Returns:
        G, shape (p, S, S), float64.
    """
    strata, (rows, classes, _) = len(prototypes), weight.shape
    lam = gradients.new_tensor([config.mixup_coefficient for config in configs]).view(-1, 1, 1)
    with_bias = gradients.new_tensor([float(config.gain_with_bias) for config in configs]).view(-1, 1, 1)
    logits = (weight.double().flatten(0, 1) @ prototypes.T).view(rows, classes, strata).transpose(1, 2)
    first = lam * logits
    second = (1.0 - lam) * logits + bias.double().unsqueeze(1)
    e = (first - first.amax(dim=2, keepdim=True)).exp_()
    f = (second - second.amax(dim=2, keepdim=True)).exp_()
    del logits, first, second
    # Z Z^T + 1 adds the column sums of D.
    a = (prototypes @ prototypes.T) @ gradients + with_bias * gradients.sum(dim=1, keepdim=True)
    index = torch.arange(strata, device=a.device) if labels is None else labels.to(a.device).long()
    normaliser = e @ f.transpose(1, 2)
    expected = (lam * e * a) @ f.transpose(1, 2)
    expected.baddbmm_((1.0 - lam) * e, (f * a).transpose(1, 2))
    underflown = (normaliser < _MIN_NORMALISER).flatten(1).any(dim=1)
    gain = expected.div_(normaliser).neg_()
    a_label = a[:, :, index]
    own = a_label.diagonal(dim1=1, dim2=2).unsqueeze(2)
    # The published code's label term reads the prototype of i alone, not the mixed one.
    released = gradients.new_tensor([float(c.gain_formula == "released_code") for c in configs]).view(
        -1, 1, 1
    )
    gain += torch.where(released > 0, own, lam * own + (1.0 - lam) * a_label.transpose(1, 2))
    # Logits hundreds apart are for the single one, which looks at the pairs one by one.
    for row in torch.nonzero(underflown).flatten().tolist():
        config = configs[row]
        gain[row] = gain_matrix(
            prototypes, weight[row], bias[row], gradients[row], config.mixup_coefficient, labels,
            formula=config.gain_formula, with_bias=config.gain_with_bias,
        )  # fmt: skip
    return gain
