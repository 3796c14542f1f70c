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
    standing = [number for number, each in enumerate(held_out) if each is not None]
    if not standing:
        return None
    folds, chosen, parts = int(fold_of.max()) + 1, [], []
    for fold in range(folds):
        others = fold_of != fold

        def on_others(number: int, others: Tensor = others) -> tuple[float, float]:
            found = held_out[number]
            assert found is not None
            return rank(selection, found.take(others), context)

        # The first of equals, so that the result depends on the numbers alone.
        best = max(standing, key=lambda number: (on_others(number), -number))
        chosen.append(best)
        found = held_out[best]
        assert found is not None
        parts.append(found.take(~others))
    order = torch.argsort(torch.cat([torch.nonzero(fold_of == fold).flatten() for fold in range(folds)]))
    return concatenated(parts).take(order), chosen
