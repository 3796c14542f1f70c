"""Score of the choice that a screen makes: in each fold the configuration is chosen by the other folds.

The best of hundreds of cross-fitted scores is too high by the luck of the best. Here no sample judges a configuration
that it helped to choose. The runs of one fold were trained on the other ones, so the choice within these is not wholly
free of the fold that judges it; what is left is the spread of a training sample that differs by one fold, and not the
maximum over hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selmix.baselines.task import concatenated
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.selection import SelectionRule, rank


def choice_out_of_fold(
    held_out: Sequence[Predictions | None], fold_of: Tensor, selection: SelectionRule, context: MetricContext
) -> tuple[Predictions, list[int]] | None:
    """Join the predictions of the configuration that each fold's others choose.

    Args:
        held_out: predictions of each configuration on the same n samples, each by a run without the sample's fold;
            None of one that has none.
        fold_of: fold of each sample, shape (n,), in [0, F).
        selection: rule that ranks the configurations.
        context: of its metric.
    Returns:
        Predictions on all samples, and the configuration that was chosen for each fold; None where no configuration
        has predictions.
    """
    standing = {number: each for number, each in enumerate(held_out) if each is not None}
    if not standing:
        return None
    chosen, parts, places = [], [], []
    for fold in range(int(fold_of.max()) + 1):
        judging = fold_of == fold
        ranks = {number: rank(selection, each.take(~judging), context) for number, each in standing.items()}
        # The first of equals, so that the result depends on the numbers alone.
        best = max(ranks, key=lambda number: (ranks[number], -number))
        chosen.append(best)
        parts.append(standing[best].take(judging))
        places.append(torch.nonzero(judging).flatten())
    return concatenated(parts).take(torch.argsort(torch.cat(places))), chosen
