"""One table: which limits each metric has, of a single model and of a pair on the same samples, and why.

No construction serves all: a minimum is biased and not smooth, a mean over the matrix is smooth and skewed, and
a difference of few discordant samples has no variance. Each entry was checked by simulation
(``benchmarks/size_study.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from selmix.groups import GROUP_RATES
from selmix.metric_keys import is_own
from selmix.metrics import METRICS, MetricContext, Predictions, calibration_bins_of_equal_width
from selmix.statistics.calibration import calibration_bounds, calibration_difference, equal_width_bounds
from selmix.statistics.curved_means import CURVES, curved_bounds, curved_difference
from selmix.statistics.cvar import cvar_bounds, cvar_difference
from selmix.statistics.gaps import group_gap_difference, recall_gap_difference
from selmix.statistics.matrix import (
    agreement_bounds,
    agreement_influence,
    coverage_bounds,
    coverage_difference,
    macro_f_bounds,
    macro_f_influence,
    min_precision_bounds,
    min_precision_difference,
)
from selmix.statistics.means import (
    Influence,
    cost_bounds,
    cost_influence,
    influence_bounds,
    linear_bounds,
    linear_influence,
)
from selmix.statistics.own import own_bounds, own_influence
from selmix.statistics.paired_minima import least_mean_difference
from selmix.statistics.proportions import Bounds
from selmix.statistics.scores import auroc_bounds, auroc_influence, brier_bounds, brier_influence
from selmix.statistics.worst_case import (
    group_gap_bounds,
    min_head_tail_recall_bounds,
    min_recall_bounds,
    recall_gap_bounds,
    worst_group_recall_bounds,
)

OfCounts = Callable[[Tensor, MetricContext, float], Bounds]
"""Counts (K, K) or of cells (K A, K), context, alpha -> limits."""

OfPair = Callable[[Predictions, Predictions, MetricContext, float], Bounds]
"""Two models on the same samples, context, alpha -> limits of the difference of the metric, not oriented."""


@dataclass(frozen=True)
class Construction:
    """Limits of one metric.

    Exactly one of ``of_counts`` and ``of_predictions`` is set, and of ``pair`` and ``influence``; none of the four
    where no limits are known.

    Attributes:
        single: how the limits of one model are made, in words.
        paired: how those of a difference are made, in words.
        why: reason for these and no others.
        of_counts: limits of one model from its counts.
        of_predictions: limits of one model from its predictions, for a metric that counts do not determine.
        pair: limits of a difference.
        influence: influence of the samples on a difference that is a sum over them, to first order; replicates are then
            analysed crossed with samples.
    """

    single: str
    paired: str
    why: str
    of_counts: OfCounts | None = None
    of_predictions: Callable[[Predictions, float], Bounds] | None = None
    pair: OfPair | None = None
    influence: Callable[[Predictions, Predictions, MetricContext], Influence] | None = None

    @property
    def has_interval(self) -> bool:
        """True if limits of the metric are known."""
        return self.of_counts is not None or self.of_predictions is not None

    def difference(
        self, a: Predictions, b: Predictions, value: float, context: MetricContext, alpha: float
    ) -> Bounds:
        """Limits of the difference a - b of the metric at level 1 - alpha.

        Args:
            a: one model.
            b: the other, on the same samples.
            value: of the difference.
            context: of the metric.
            alpha: 1 - the joint level of both limits.
        Raises:
            ValueError: a metric without an interval.
        """
        if self.influence is not None:
            return influence_bounds(a.labels, value, self.influence(a, b, context), alpha)
        if self.pair is None:
            raise ValueError(f"no interval of a difference is known: {self.why}")
        return self.pair(a, b, context, alpha)


def _minimum_of_recalls(
    strata: Callable[[Predictions, MetricContext], tuple[Tensor, Tensor]],
) -> OfPair:
    def difference(a: Predictions, b: Predictions, context: MetricContext, alpha: float) -> Bounds:
        """Limits of the difference of the least mean recalls of parts."""
        of_samples, parts = strata(a, context)
        return least_mean_difference(of_samples, parts, a.correct, b.correct, alpha)

    return difference


NO_INTERVAL = "no interval"

_PAIRED_MINIMUM = (
    "the lowest over the parts of the better of a paired limit and one against the least of theirs"
)

CONSTRUCTIONS: dict[str, Construction] = {
    **{
        key: Construction(
            "Clopper-Pearson with the effective number of samples; beside MOVER where samples weigh unequally",
            "normal, stratified by class, with two pseudo-samples, one each way",
            "a sum over samples; the pseudo-samples keep few discordant ones from deciding",
            of_counts=partial(linear_bounds, key), influence=partial(linear_influence, key),
        )
        for key, metric in METRICS.items() if metric.linear
    },
    "cost": Construction(
        "Clopper-Pearson with the effective number of samples, on the scale of the costs",
        "normal, stratified by class, with two pseudo-samples, one each way",
        "a sum over samples",
        of_counts=partial(cost_bounds, "cost"), influence=partial(cost_influence, "cost"),
    ),
    "min_recall": Construction(
        "exact: the least lower limit, the least of the upper ones together", _PAIRED_MINIMUM,
        "a minimum is biased and not smooth: resampling covers nothing where classes are alike",
        of_counts=min_recall_bounds,
        pair=_minimum_of_recalls(lambda p, context: (p.labels, torch.arange(len(context.train_counts)))),
    ),
    "worst_group_recall": Construction(
        "exact: the least lower limit, the least of the upper ones together", _PAIRED_MINIMUM,
        "as min_recall, over (class, group) cells",
        of_counts=worst_group_recall_bounds,
        pair=_minimum_of_recalls(
            lambda p, context: (
                p.strata(context.num_groups), torch.arange(len(context.train_counts) * context.num_groups)
            )
        ),
    ),
    "min_head_tail_recall": Construction(
        "that of a minimum, with the limits of a mean for head and for tail", _PAIRED_MINIMUM,
        "a minimum of two means",
        of_counts=min_head_tail_recall_bounds,
        pair=_minimum_of_recalls(lambda p, context: (p.labels, context.tail.long().cpu())),
    ),
    **{
        key: Construction(
            "where it is a mean: the wider of MOVER and the linear approximation, mapped back",
            "difference of the means likewise, mapped back with its sign; MOVER of the single ones at a recall of 0",
            "moving one recall at a time collapses where two are 0",
            of_counts=partial(curved_bounds, key), pair=partial(curved_difference, key),
        )
        for key in CURVES
    },
    "cvar_recall": Construction(
        "lower: that of the worst set of classes; upper: all recalls at their upper limits together",
        "the lowest over all sets of classes of the better of a paired limit and one against theirs; or MOVER",
        "a minimum over sets of classes",
        of_counts=cvar_bounds, pair=cvar_difference,
    ),
    "recall_gap": Construction(
        "exact limits of all classes together", "the lowest paired limit over all pairs of classes, or MOVER",
        "a maximum over pairs of classes",
        of_counts=recall_gap_bounds, pair=recall_gap_difference,
    ),
    **{
        key: Construction(
            "exact limits of all rates together", "the lowest paired limit over all pairs of groups, or MOVER",
            "a maximum over pairs of groups",
            of_counts=group_gap_bounds(rates), pair=partial(group_gap_difference, key),
        )
        for key, rates in GROUP_RATES.items()
    },
    **{
        key: Construction(
            "Clopper-Pearson with the effective number of samples by the delta method, its bias taken out; none where "
            "the bias exceeds the standard error",
            "normal on influence values, with two pseudo-samples, one each way",
            "smooth in the matrix, and skewed near 1",
            of_counts=partial(macro_f_bounds, key), influence=partial(macro_f_influence, key),
        )
        for key in ("macro_f1", "f_beta")
    },
    **{
        key: Construction(
            "Clopper-Pearson of (value + c) / (1 + c), c = 1 / (K - 1), with the effective number of samples by the "
            "delta method",
            "normal on influence values, with two pseudo-samples, one each way",
            "smooth in the matrix, with a bias of the order of one sample",
            of_counts=partial(agreement_bounds, key), influence=partial(agreement_influence, key),
        )
        for key in ("mcc", "cohen_kappa")
    },
    "min_precision": Construction(
        "Clopper-Pearson by column: the least lower limit, the least upper one after Bonferroni", _PAIRED_MINIMUM,
        "a minimum; the denominators are random, but known once drawn",
        of_counts=min_precision_bounds, pair=min_precision_difference,
    ),
    **{
        key: Construction(
            "score limits of each coverage: the least lower one, the least of the upper ones together",
            _PAIRED_MINIMUM, "a minimum of sums over rows",
            of_counts=partial(coverage_bounds, key), pair=partial(coverage_difference, key),
        )
        for key in ("min_coverage", "min_head_tail_coverage")
    },
    "calibration_error": Construction(
        "the error less what noise adds to it at most, and z standard errors",
        "the same of both sides, unpaired", "resampling counts the bias of a binned error twice",
        of_predictions=calibration_bounds,
        pair=lambda a, b, context, alpha: calibration_difference(a, b, alpha),
    ),
    "calibration_error_equal_width": Construction(
        "the error less what noise adds to it at most, and z standard errors; none of fewer than 45 samples",
        "the same of both sides, unpaired", "resampling counts the bias of a binned error twice",
        of_predictions=equal_width_bounds,
        pair=lambda a, b, context, alpha: calibration_difference(a, b, alpha, calibration_bins_of_equal_width),
    ),
    "log_loss": Construction(
        NO_INTERVAL, NO_INTERVAL,
        "its largest terms are rare and have no bound: normal limits missed it in up to 33 % of draws",
    ),
    "brier_score": Construction(
        "Clopper-Pearson with the effective number of samples, on the scale of the errors",
        "normal, stratified by class, with two pseudo-samples, one each way",
        "a sum over samples of bounded errors",
        of_predictions=brier_bounds, influence=brier_influence,
    ),
    "auroc": Construction(
        "Clopper-Pearson with the effective number of samples by DeLong's placements",
        "normal on placements, with two pseudo-samples, one each way",
        "a mean over pairs of samples, and skewed near 1",
        of_predictions=auroc_bounds, influence=auroc_influence,
    ),
    "average_precision": Construction(
        NO_INTERVAL, NO_INTERVAL, "of few positive samples it is biased by an amount that is not known",
    ),
}  # fmt: skip
"""Key of METRICS -> its limits."""


def construction_of(key: str) -> Construction:
    """Limits of a metric: its entry of :data:`CONSTRUCTIONS`, or those of a function of the user's own.

    Args:
        key: of METRICS, or ``module:function``.
    Raises:
        KeyError: there is no such metric, or it is a proportion with exact limits.
    """
    if not is_own(key):
        return CONSTRUCTIONS[key]
    return Construction(
        "Agresti and Coull's by the delta method with Student's t, its bias taken out; none where the function is not "
        "smooth or its bias exceeds the standard error",
        "normal on influence values, with two pseudo-samples, one each way; none where the function is not smooth",
        "a function of the matrix of which nothing else is known",
        of_counts=partial(own_bounds, key), influence=partial(own_influence, key),
    )  # fmt: skip
