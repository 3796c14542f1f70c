"""Cross-fitted scores of screened configurations: every held-out sample is judged by runs without its fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selmix.baselines.cross_fitting import MAX_SIZE
from selmix.baselines.folds import content_folds
from selmix.baselines.last_layer import tuned_head
from selmix.baselines.task import HeldOut
from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData, join
from selmix.metrics import MetricContext, Predictions
from selmix.run.start_model import Base
from selmix.screen.batch import Head, flat_features
from selmix.statistics.selection import Rank, SelectionRule, rank

Runs = Callable[[SweepData, Base, str], Sequence[Head | None]]
"""Data, base and a name for messages -> the head of each configuration's best round; None where there is none."""


@dataclass(frozen=True)
class CrossFit:
    """Ranks of configurations over feedback and select.

    Attributes:
        ranks: minus the violation of the search's bounds, then the score, of each configuration; None where a run of a
            fold had no round to judge.
        reason: why there are no ranks at all; empty where there are.
        predictions: of each configuration on feedback, then on select; likewise.
        fold_of: fold of each of these samples, shape (n,); None where there are no ranks at all.
    """

    ranks: tuple[Rank | None, ...]
    reason: str = ""
    predictions: tuple[Predictions | None, ...] = ()
    fold_of: Tensor | None = None


def cross_fit(
    data: SweepData, base: Base, configs: Sequence[FinetuneConfig], selection: SelectionRule, folds: int, runs: Runs
) -> CrossFit:  # fmt: skip
    """Rank configurations by runs of which none saw the fold that judges it.

    Without each fold in turn the head that runs start from is fitted anew, the runs train and are estimated on the rest
    of feedback and draw from it, and keep the round that is best on the rest of select; their predictions on the fold
    are joined over the folds.

    Args:
        data: splits of features.
        base: of the model ``linear_head``.
        configs: the configurations.
        selection: rule of the score.
        folds: F, at least 2.
        runs: runs all configurations.
    """
    nothing: tuple[Rank | None, ...] = (None,) * len(configs)
    seen = [name for name in ("feedback", "select") if name in base.labels]
    if seen:
        return CrossFit(nothing, f"the base model was trained on {', '.join(seen)}")
    if unknown := sorted({config.start for config in configs} - {"given", "balanced_head"}):
        return CrossFit(nothing, f"start: {', '.join(unknown)} has seen the folds")
    fits_head = any(config.start == "balanced_head" for config in configs)
    samples = len(data.train) + len(data.feedback)
    if fits_head and samples * data.num_classes * data.input_shape[0] > MAX_SIZE:
        return CrossFit(
            nothing, f"heads of {samples:,} samples x {data.num_classes:,} classes are not cross-fitted"
        )
    try:
        fold_of = content_folds((data.feedback, data.select), folds)
    # Too few samples of a class are no failure of the screen.
    except ValueError as error:
        return CrossFit(nothing, str(error))
    predictions: list[list[list[Predictions] | None]] = [[] for _ in configs]
    for fold in range(folds):
        held = [each == fold for each in fold_of]
        rest = replace(data, feedback=data.feedback.take(~held[0]), select=data.select.take(~held[1]))
        heads = runs(
            rest, _base_without(rest, base, selection) if fits_head else base, f"fold {fold + 1}/{folds}"
        )
        parts = [split.take(mask) for split, mask in zip((data.feedback, data.select), held, strict=True)]
        for found, head in zip(predictions, heads, strict=True):
            found.append(None if head is None else [_predictions(head, part) for part in parts])
    context = MetricContext(data.train_counts.cpu(), selection.definitions, data.num_groups)
    judged: list[Predictions | None] = []
    for found in predictions:
        whole = [parts for parts in found if parts is not None]
        judged.append(HeldOut.of_folds(fold_of, whole).joined() if len(whole) == folds else None)
    ranks = tuple(None if each is None else rank(selection, each, context) for each in judged)
    return CrossFit(ranks, "", tuple(judged), torch.cat(list(fold_of)))


def _base_without(data: SweepData, base: Base, selection: SelectionRule) -> Base:
    """The base with a class-balanced head that is fitted, and its weight decay tuned, on these splits alone."""
    model = base.build("given", data.input_shape, data.num_classes).to(data.train.inputs.device)
    head, _ = tuned_head(base.model.view(model), join(data.train, data.feedback), data, selection)
    return replace(base, head=head)


def _predictions(head: Head, split: Split) -> Predictions:
    features = flat_features(split).cpu()
    with torch.no_grad():
        logits = features @ head.weight.T + head.bias
    return Predictions.from_logits(split.labels, logits, split.groups)
