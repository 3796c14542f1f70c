"""The objectives: short functions psi(C) to maximise, the nine published ones and more.

Each takes the joint confusion matrix C, shape (S, K), and an :class:`ObjectiveContext`; what is not given in the
context takes the published value. A user's own callable, of C alone or of C and the context, works wherever a
name does (:func:`bind_objective`).
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selmix.confusion import class_confusion, coverage, precisions, recalls
from selmix.definitions import DEFAULT_HEAD_FRACTION, Definitions, cvar_of_recalls
from selmix.groups import GROUP_METRICS, GROUP_RATES, class_counts
from selmix.multipliers import MultiplierSettings, constraint_multipliers, worst_case_multipliers
from selmix.user_code import is_reference, load_function


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective may know beside C.

    Attributes:
        labels: class of each stratum, shape (S,); None where strata are classes.
        train_counts: training samples of each class, shape (K,); orders classes into head and tail.
        tail: mask of the tail classes, shape (K,), bool; None: the last classes by training count.
        multipliers: m of the worst-case objectives, one per stratum (a group's multiplier divided by its size; for
            min_precision one per class), detached; None: computed from C.
        coverage_multipliers: mu of the coverage terms, one per class (likewise divided), detached; None: computed
            from C.
        floor: what each class's (or group's mean) coverage must reach; None: coverage_level / K.
        num_groups: A, where the strata are (class, group) cells; 0: they are classes.
        settings: of the multipliers. definitions: what objectives with parameters take.
    """

    labels: Tensor | None = None
    train_counts: Tensor | None = None
    tail: Tensor | None = None
    multipliers: Tensor | None = None
    coverage_multipliers: Tensor | None = None
    floor: float | None = None
    num_groups: int = 0
    settings: MultiplierSettings = field(default_factory=MultiplierSettings)
    definitions: Definitions = field(default_factory=Definitions)


Objective = Callable[..., Tensor]
_PUBLISHED = ObjectiveContext()


def tail_classes(
    num_classes: int, train_counts: Tensor | None = None, head_fraction: float = DEFAULT_HEAD_FRACTION
) -> Tensor:
    """Mask of the tail: all but the first ceil(head_fraction K) classes by training count, at least one class.

    Args:
        train_counts: shape (K,); None: the classes stand in order already.
    Returns:
        Shape (K,), bool.
    """
    # Less a hair: 0.55 * 100 is 55.00000000000001 in binary, and 55 as it is written.
    head = min(math.ceil(head_fraction * num_classes - 1e-9), num_classes - 1)
    order = torch.arange(num_classes)
    if train_counts is not None:
        order = torch.argsort(train_counts.cpu(), descending=True, stable=True)
    tail = torch.zeros(num_classes, dtype=torch.bool)
    tail[order[head:]] = True
    return tail


def head_tail_groups(confusion: Tensor, context: ObjectiveContext) -> Tensor:
    """Rows: head and tail, entries 1 / |g| on the group's classes, shape (2, K); an empty group is left out."""
    num_classes = confusion.shape[1]
    tail = context.tail
    if tail is None:
        tail = tail_classes(num_classes, context.train_counts, context.definitions.head_fraction)
    members = torch.stack([~tail, tail]).to(confusion)
    sizes = members.sum(dim=1, keepdim=True)
    return (members / sizes)[sizes.squeeze(1) > 0]


def mean_recall(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """Mean of the recalls of the strata."""
    return recalls(confusion, (context or _PUBLISHED).labels).mean()


def g_mean(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """Geometric mean of the recalls (prod_i recall_i)^(1 / S)."""
    return recalls(confusion, (context or _PUBLISHED).labels).log().mean().exp()


def h_mean(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """Harmonic mean of the recalls S / sum_i (1 / recall_i)."""
    return 1.0 / recalls(confusion, (context or _PUBLISHED).labels).reciprocal().mean()


def min_recall(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """sum_i m_i recall_i, m on the simplex and held constant: the Lagrangian of the minimum of the recalls."""
    context = context or _PUBLISHED
    values = recalls(confusion, context.labels)
    multipliers = context.multipliers
    if multipliers is None:
        multipliers = worst_case_multipliers(values, context.settings)
    return (multipliers.to(values) * values).sum()


def min_head_tail_recall(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """sum_g m_g (mean recall of group g) over head and tail, m on the simplex and held constant."""
    context = context or _PUBLISHED
    values = recalls(confusion, context.labels)
    groups = stratum_groups(confusion, context)
    multipliers = context.multipliers
    if multipliers is None:
        multipliers = worst_case_multipliers(groups @ values, context.settings) @ groups
    return (multipliers.to(values) * values).sum()


def q_mean(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """1 - sqrt(mean_i (1 - recall_i)^2)."""
    misses = 1.0 - recalls(confusion, (context or _PUBLISHED).labels)
    # The norm has the subgradient 0 at 0, where a square root would have none.
    norm: Tensor = torch.linalg.vector_norm(misses)
    return 1.0 - norm / math.sqrt(len(misses))


def cvar_recall(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """Mean of the worst ``cvar_fraction`` of the recalls: less noisy than their minimum."""
    context = context or _PUBLISHED
    return cvar_of_recalls(recalls(confusion, context.labels), context.definitions.cvar_fraction)


def weighted_recall(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """Mean of the recalls with ``recall_weights``, a stratum with the weight of its class.

    Raises:
        ValueError: no weights are given.
    """
    context = context or _PUBLISHED
    if context.definitions.recall_weights is None:
        raise ValueError("weighted_recall needs recall_weights, one a class; got none")
    weights = torch.tensor(context.definitions.recall_weights).to(confusion)
    if context.labels is not None:
        weights = weights[context.labels.to(weights.device)]
    return (weights * recalls(confusion, context.labels)).sum() / weights.sum()


def negative_cost(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """-sum_il C_il cost[label[i], l], the mean cost of a sample under ``cost_matrix``, negated.

    Raises:
        ValueError: no cost matrix is given.
    """
    context = context or _PUBLISHED
    if context.definitions.cost_matrix is None:
        raise ValueError("cost needs a cost_matrix, K rows of K numbers; got none")
    costs = torch.tensor(context.definitions.cost_matrix).to(confusion)
    return -(class_confusion(confusion, context.labels) * costs).sum() / confusion.sum()


def macro_f1(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """Mean over the classes of 2 C_kk / (row sum + column sum)."""
    matrix = class_confusion(confusion, (context or _PUBLISHED).labels)
    return (2.0 * matrix.diagonal() / (matrix.sum(dim=1) + matrix.sum(dim=0))).mean()


def min_precision(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
    """sum_k m_k precision_k, m on the simplex and held constant, as in :func:`min_recall`."""
    context = context or _PUBLISHED
    values = precisions(class_confusion(confusion, context.labels))
    multipliers = context.multipliers
    if multipliers is None:
        multipliers = worst_case_multipliers(values, context.settings)
    return (multipliers.to(values) * values).sum()


def stratum_groups(confusion: Tensor, context: ObjectiveContext) -> Tensor:
    """Head and tail over the strata, shape (<= 2, S): a stratum belongs where its class does."""
    groups = head_tail_groups(confusion, context)
    if context.labels is None:
        return groups
    members = (groups > 0).to(groups)[:, context.labels.to(groups.device)]
    return members / members.sum(dim=1, keepdim=True)


def coverage_floor(confusion: Tensor, context: ObjectiveContext) -> float:
    """What a class's coverage must reach: the context's floor, or alpha / K."""
    if context.floor is not None:
        return context.floor
    return context.settings.coverage_level / confusion.shape[1]


def with_coverage(base: Objective, by_group: bool) -> Objective:
    """``base`` subject to coverage >= floor, per class or for the means of head and tail.

    (psi + sum_j mu_j (cov_j - floor)) / (1 + max_j mu_j) over classes j, with mu_j = m_g / |g| held constant.
    """

    def objective(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
        context = context or _PUBLISHED
        covered = coverage(confusion)
        multipliers = context.coverage_multipliers
        if multipliers is None:
            multipliers = coverage_multipliers(confusion, context, by_group)
        multipliers = multipliers.to(covered)
        penalty = (multipliers * (covered - coverage_floor(confusion, context))).sum()
        return (base(confusion, context) + penalty) / (1.0 + multipliers.max())

    return objective


def coverage_multipliers(confusion: Tensor, context: ObjectiveContext, by_group: bool) -> Tensor:
    """mu_j = m_g / |g| of each class j, shape (K,), from its (group's mean) coverage; detached."""
    covered = coverage(confusion.detach())
    floor = coverage_floor(confusion, context)
    if not by_group:
        return constraint_multipliers(covered, floor, context.settings)
    groups = head_tail_groups(confusion, context)
    return constraint_multipliers(groups @ covered, floor, context.settings) @ groups


def group_gap(of_cells: Callable[[Tensor, int], Tensor]) -> Objective:
    """A gap between groups as an objective: negated, and by its subgradient at the groups that are furthest apart."""

    def objective(confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
        context = context or _PUBLISHED
        if not context.num_groups:
            raise ValueError("a gap between groups needs data with a group attribute")
        return -of_cells(confusion, context.num_groups)

    objective.__doc__ = of_cells.__doc__
    return objective


OBJECTIVES: dict[str, Objective] = {
    "mean_recall": mean_recall,
    "min_recall": min_recall,
    "min_head_tail_recall": min_head_tail_recall,
    "g_mean": g_mean,
    "h_mean": h_mean,
    "mean_recall_min_coverage": with_coverage(mean_recall, by_group=False),
    "h_mean_min_coverage": with_coverage(h_mean, by_group=False),
    "mean_recall_min_head_tail_coverage": with_coverage(mean_recall, by_group=True),
    "h_mean_min_head_tail_coverage": with_coverage(h_mean, by_group=True),
    "q_mean": q_mean,
    "cvar_recall": cvar_recall,
    "weighted_recall": weighted_recall,
    "cost": negative_cost,
    "macro_f1": macro_f1,
    "min_precision": min_precision,
    # Over the strata, which are (class, group) cells where an objective of groups acts.
    "worst_group_recall": min_recall,
    **{key: group_gap(GROUP_METRICS[key]) for key in GROUP_RATES},
}
PUBLISHED = tuple(OBJECTIVES)[:9]
"""The objectives of the paper; the golden files have these."""


def bind_objective(objective: str | Objective, context: ObjectiveContext) -> Callable[[Tensor], Tensor]:
    """A function of C alone from a name, ``module:function``, or a callable (of C, or of C and the context).

    Raises:
        ValueError: no objective has that name; the message lists those there are.
    """
    name = objective if isinstance(objective, str) else ""
    if isinstance(objective, str):
        if is_reference(objective):
            objective = load_function(objective)
        elif objective in OBJECTIVES:
            objective = OBJECTIVES[objective]
        else:
            raise ValueError(f"unknown objective {objective!r}; there are {', '.join(OBJECTIVES)}")
    if context.num_groups and not is_of_groups(name):
        # Over the classes: what their metrics are of.
        plain = dataclasses.replace(context, labels=None, num_groups=0)
        inner, groups = bind_objective(objective, plain), context.num_groups
        return lambda confusion: inner(class_counts(confusion, groups))
    parameters = inspect.signature(objective).parameters
    chosen = objective
    if "context" in parameters or len(parameters) > 1:
        return lambda confusion: chosen(confusion, context)
    return lambda confusion: chosen(confusion)


def is_of_groups(objective: str | Objective) -> bool:
    """Whether an objective is one of (class, group) cells."""
    return isinstance(objective, str) and objective in GROUP_METRICS
