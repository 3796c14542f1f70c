"""Objectives: psi(C) to maximise, each an entry of one table, the nine published ones and more.

An objective names its metric: psi is the metric's own formula or, if the metric is a minimum, the Lagrangian of that
minimum. All take the joint confusion matrix C, shape (S, K), and an :class:`ObjectiveContext`; fields that the context
leaves out take the published values. A user's own callable, of C alone or of C and the context, works wherever a name
does (:func:`bind_objective`); one with a true attribute ``lower_is_better`` is minimised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selmix.confusion import class_confusion, coverage, precisions, recalls
from selmix.definitions import Definitions, cvar_weights
from selmix.groups import class_counts
from selmix.metric_functions import tail_classes
from selmix.metrics import METRICS, Metric, MetricContext, head_and_tail
from selmix.multipliers import MultiplierSettings, constraint_multipliers, worst_case_multipliers
from selmix.user_code import is_less_better, is_reference, load_function, of_matrix_alone

__all__ = [
    "OBJECTIVES", "PUBLISHED", "AnyObjective", "Objective", "ObjectiveContext", "bind_objective",
    "coverage_multipliers", "is_of_groups", "known_objective", "metric_of_objective", "tail_classes",
    "without_coverage",
]  # fmt: skip


@dataclass(frozen=True)
class ObjectiveContext:
    """Inputs that an objective may need in addition to C.

    Attributes:
        labels: class of each stratum, shape (S,); None if strata are classes.
        train_counts: training samples of each class, shape (K,); orders classes into head and tail.
        tail: mask of the tail classes, shape (K,), bool; None for the last classes by training count.
        multipliers: m of the worst-case objectives and of CVaR, one per stratum (a group's multiplier divided by its
            size; for min_precision one per class), detached; None to compute them from C.
        coverage_multipliers: mu of the coverage terms, one per class (likewise divided), detached; None to compute
            them from C.
        bound_multipliers: of each bound inside the method one per value that it is on, detached; None to compute them
            from C (:func:`selmix.constraints.with_constraints`).
        floor: coverage that each class (or each group, in the mean) must reach; None for coverage_level / K.
        num_groups: A, if the strata are (class, group) cells; 0 if they are classes.
        settings: settings of the multipliers.
        definitions: parameters of the objectives that have some.
    """

    labels: Tensor | None = None
    train_counts: Tensor | None = None
    tail: Tensor | None = None
    multipliers: Tensor | None = None
    coverage_multipliers: Tensor | None = None
    bound_multipliers: tuple[Tensor, ...] | None = None
    floor: float | None = None
    num_groups: int = 0
    settings: MultiplierSettings = field(default_factory=MultiplierSettings)
    definitions: Definitions = field(default_factory=Definitions)

    def for_metrics(self, num_classes: int) -> MetricContext:
        """Context of a metric with the same contents; classes without training counts count as ordered."""
        counts = self.train_counts if self.train_counts is not None else torch.ones(num_classes)
        return MetricContext(counts, self.definitions, self.num_groups, self.labels, self.tail)


Parts = tuple[Tensor, Tensor | None]
"""Values, shape (..., n), and groups of them, shape (G, n), whose rows hold 1 / |g|; None if each value is a group."""


@dataclass(frozen=True)
class Objective:
    """One objective: a new objective needs its metric and an entry of :data:`OBJECTIVES`.

    Attributes:
        metric: key of METRICS that the objective is judged by; psi is that metric's formula, negated if less is
            better.
        worst_of: C (..., S, K) and context -> the values that the metric is the minimum of. psi is then
            sum_i m_i value_i with m on the simplex and held constant: the Lagrangian of the minimum. None if the
            formula itself is differentiated.
        coverage: key of the coverage metric that psi is subject to; None if psi is unconstrained.
        weights: C (..., S, K) and context -> weights of the strata's recalls, if psi is their mean with weights that C
            decides (CVaR: its worst set). A run takes them from unsmoothed counts and holds them constant; None for any
            other.
    """

    metric: str
    worst_of: Callable[[Tensor, ObjectiveContext], Parts] | None = None
    coverage: str | None = None
    weights: Callable[[Tensor, ObjectiveContext], Tensor] | None = None

    @property
    def definition(self) -> Metric:
        """Entry of METRICS that ``metric`` names."""
        return METRICS[self.metric]

    @property
    def of_groups(self) -> bool:
        """True if the objective is one of (class, group) cells."""
        return self.definition.of_cells is not None

    def __call__(self, confusion: Tensor, context: ObjectiveContext | None = None) -> Tensor:
        """Compute psi of C, a scalar to maximise.

        Args:
            confusion: C, shape (S, K).
            context: further inputs; None for the published values.
        Raises:
            ValueError: the context lacks a definition or the groups that the objective needs.
        """
        context = context or ObjectiveContext()
        if self.coverage is None:
            return self._free(confusion, context)
        # (psi + sum_j mu_j (cov_j - floor)) / (1 + max_j mu_j) over classes j, mu held constant.
        covered = coverage(confusion)
        multipliers = context.coverage_multipliers
        if multipliers is None:
            multipliers = coverage_multipliers(confusion, context, self.coverage == "min_head_tail_coverage")
        multipliers = multipliers.to(covered)
        penalty = (multipliers * (covered - coverage_floor(confusion, context))).sum()
        return (self._free(confusion, context) + penalty) / (1.0 + multipliers.max())

    def _free(self, confusion: Tensor, context: ObjectiveContext) -> Tensor:
        if self.worst_of is not None:
            values, groups = self.worst_of(confusion, context)
            multipliers = context.multipliers
            # A run carries them over its rounds and passes them; otherwise they follow from this C alone.
            if multipliers is None:
                least = values if groups is None else groups @ values
                multipliers = worst_case_multipliers(least, context.settings)
                multipliers = multipliers if groups is None else multipliers @ groups
            return (multipliers.to(values) * values).sum()
        if self.weights is not None and context.multipliers is not None:
            values, _ = stratum_recalls(confusion, context)
            return (context.multipliers.to(values) * values).sum()
        metric = self.definition
        if metric.needs is not None and getattr(context.definitions, metric.needs) is None:
            raise ValueError(f"{self.metric} needs {metric.needs}; none are given")
        if self.of_groups and not context.num_groups:
            raise ValueError(f"{self.metric} needs data with a group attribute")
        # psi is maximised, so a metric to be minimised changes its sign.
        value = metric.of_matrix(confusion, context.for_metrics(confusion.shape[1]))
        return -value if metric.minimise else value


def stratum_recalls(confusion: Tensor, context: ObjectiveContext) -> Parts:
    """Recall of each stratum: of each class, or of each (class, group) cell."""
    return recalls(confusion, context.labels), None


def head_tail_recalls(confusion: Tensor, context: ObjectiveContext) -> Parts:
    """Recall of each stratum, and head and tail as groups of strata: a stratum is in the group of its class."""
    groups = head_and_tail(confusion, context.for_metrics(confusion.shape[-1]))
    if context.labels is not None:
        # The rows are averages over classes: as averages over strata they need other weights.
        members = (groups > 0).to(groups)[:, context.labels.to(groups.device)]
        groups = members / members.sum(dim=1, keepdim=True)
    return recalls(confusion, context.labels), groups


def worst_share(confusion: Tensor, context: ObjectiveContext) -> Tensor:
    """Weights of the strata in the CVaR of their recalls, shape (..., S)."""
    return cvar_weights(recalls(confusion, context.labels), context.definitions.cvar_fraction)


def class_precisions(confusion: Tensor, context: ObjectiveContext) -> Parts:
    """Precision of each class."""
    return precisions(class_confusion(confusion, context.labels)), None


def coverage_floor(confusion: Tensor, context: ObjectiveContext) -> float:
    """Coverage that each class must reach: the context's floor, or alpha / K."""
    if context.floor is not None:
        return context.floor
    return context.settings.coverage_level / confusion.shape[-1]


def coverage_multipliers(confusion: Tensor, context: ObjectiveContext, by_group: bool) -> Tensor:
    """Multipliers mu_j = m_g / |g| of each class j, from its coverage or its group's mean coverage; detached.

    Args:
        confusion: C, shape (S, K).
        context: floor, head and tail, and settings are read.
        by_group: True for the mean coverages of head and tail, False for that of each class.
    Returns:
        Shape (K,).
    """
    covered = coverage(confusion.detach())
    floor = coverage_floor(confusion, context)
    if not by_group:
        return constraint_multipliers(covered, floor, context.settings)
    groups = head_and_tail(confusion, context.for_metrics(confusion.shape[1]))
    return constraint_multipliers(groups @ covered, floor, context.settings) @ groups


# The nine published ones come first: PUBLISHED is a slice of this table.
OBJECTIVES: dict[str, Objective] = {
    "mean_recall": Objective("mean_recall"),
    "min_recall": Objective("min_recall", stratum_recalls),
    "min_head_tail_recall": Objective("min_head_tail_recall", head_tail_recalls),
    "g_mean": Objective("g_mean"),
    "h_mean": Objective("h_mean"),
    "mean_recall_min_coverage": Objective("mean_recall", coverage="min_coverage"),
    "h_mean_min_coverage": Objective("h_mean", coverage="min_coverage"),
    "mean_recall_min_head_tail_coverage": Objective("mean_recall", coverage="min_head_tail_coverage"),
    "h_mean_min_head_tail_coverage": Objective("h_mean", coverage="min_head_tail_coverage"),
    "q_mean": Objective("q_mean"),
    "cvar_recall": Objective("cvar_recall", weights=worst_share),
    "weighted_recall": Objective("weighted_recall"),
    "cost": Objective("cost"),
    "macro_f1": Objective("macro_f1"),
    "f_beta": Objective("f_beta"),
    "mcc": Objective("mcc"),
    "cohen_kappa": Objective("cohen_kappa"),
    "min_precision": Objective("min_precision", class_precisions),
    "worst_group_recall": Objective("worst_group_recall", stratum_recalls),
    # Differentiated by their subgradients, at the groups that are furthest apart.
    "equal_opportunity_gap": Objective("equal_opportunity_gap"),
    "equalized_odds_gap": Objective("equalized_odds_gap"),
    "one_vs_rest_odds_gap": Objective("one_vs_rest_odds_gap"),
    "demographic_parity_gap": Objective("demographic_parity_gap"),
}
PUBLISHED = tuple(OBJECTIVES)[:9]
"""Objectives of the paper, for which there are golden files."""

AnyObjective = str | Callable[..., Tensor]
"""Name of :data:`OBJECTIVES`, ``module:function``, or a callable of C (and the context)."""


def known_objective(objective: AnyObjective) -> Objective | None:
    """Look up an objective by its name; None for a function of the user's own."""
    if isinstance(objective, Objective):
        return objective
    return OBJECTIVES.get(objective) if isinstance(objective, str) else None


def without_coverage(objective: AnyObjective, bounded: Collection[str]) -> AnyObjective:
    """The objective without its own coverage term where a bound is on the same coverage: that one counts instead.

    Args:
        objective: a name of :data:`OBJECTIVES` or a function of the user's own.
        bounded: keys of the metrics that have a bound inside the method.
    """
    known = known_objective(objective)
    return known.metric if known is not None and known.coverage in bounded else objective


def is_of_groups(objective: AnyObjective) -> bool:
    """True if an objective is one of (class, group) cells."""
    known = known_objective(objective)
    return known is not None and known.of_groups


def metric_of_objective(objective: str) -> str:
    """Key of the metric that an objective is judged by: its plain value, without multipliers.

    Args:
        objective: name of an objective, or of a metric, which is judged by itself, as is a function of the user's own.
    Raises:
        ValueError: no metric belongs to that name; the message lists all metrics.
    """
    if is_reference(objective):
        return objective
    if objective in OBJECTIVES:
        return OBJECTIVES[objective].metric
    if objective not in METRICS:
        raise ValueError(f"no metric goes with the objective {objective!r}; there are {', '.join(METRICS)}")
    return objective


def bind_objective(objective: AnyObjective, context: ObjectiveContext) -> Callable[[Tensor], Tensor]:
    """Bind an objective to its context; the result is a function of C alone.

    Args:
        objective: a name, ``module:function``, or a callable of C, or of C and the context.
        context: the context to bind.
    Raises:
        ValueError: no objective has that name; the message lists all names.
    """
    chosen: Callable[..., Tensor]
    if not isinstance(objective, str):
        chosen = objective
    elif is_reference(objective):
        chosen = load_function(objective)
    elif objective in OBJECTIVES:
        chosen = OBJECTIVES[objective]
    else:
        raise ValueError(f"unknown objective {objective!r}; there are {', '.join(OBJECTIVES)}")
    if context.num_groups and not is_of_groups(chosen):
        # The strata are cells, for the sake of a constraint; the objective is one of classes, so groups are added up.
        plain = dataclasses.replace(context, labels=None, num_groups=0)
        inner, groups = bind_objective(chosen, plain), context.num_groups
        return lambda confusion: inner(class_counts(confusion, groups))
    if isinstance(chosen, Objective):
        return lambda confusion: chosen(confusion, context)
    bound = of_matrix_alone(chosen, context)
    # psi is maximised.
    return (lambda confusion: -bound(confusion)) if is_less_better(chosen) else bound
