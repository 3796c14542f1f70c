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
            fold had no round to judge; empty where there are no ranks at all.
        reason: why there are no ranks at all; empty where there are.
        predictions: of each configuration on feedback, then on select; likewise.
        fold_of: fold of each of these samples, shape (n,); None where there are no ranks at all.
    """

    ranks: tuple[Rank | None, ...]
    reason: str = ""
    predictions: tuple[Predictions | None, ...] = ()
    fold_of: Tensor | None = None


@dataclass(frozen=True)
class FoldFit:
    """Predictions of configurations on one fold, by runs that did not see it.

    Attributes:
        fold_of: fold of each sample of feedback and of select, one tensor each; empty where nothing can be
            cross-fitted.
        predictions: of each configuration, on the fold's samples of feedback and of select; None where its run had no
            round to judge.
        reason: why nothing can be cross-fitted; empty where it can.
        seconds: of the fit.
    """

    fold_of: tuple[Tensor, ...] = ()
    predictions: tuple[tuple[Predictions, ...] | None, ...] = ()
    reason: str = ""
    seconds: float = 0.0


def folds_of(samples: SweepData, base: Base, folds: int) -> tuple[Tensor, ...]:
    """Fold of each sample of feedback and of select, by the content of the samples themselves.

    Not by their features, which another kind of processor computes with other bits.

    Args:
        samples: splits as they came.
        base: whose labels have no fold.
        folds: F, at least 2.
    Raises:
        ValueError: the base model was trained on a judging split, or a class has too few samples.
    """
    seen = [name for name in ("feedback", "select") if name in base.labels]
    if seen:
        raise ValueError(f"the base model was trained on {', '.join(seen)}")
    return tuple(content_folds((samples.feedback, samples.select), folds))


def fit_fold(
    data: SweepData, base: Base, configs: Sequence[FinetuneConfig], selection: SelectionRule,
    fold_of: tuple[Tensor, ...], fold: int, runs: Runs,
) -> FoldFit:  # fmt: skip
    """Judge configurations on one fold by runs that did not see it.

    The head that runs start from is fitted anew, the runs train and are estimated on the rest of feedback and draw from
    it, and keep the round that is best on the rest of select.

    Args:
        data: splits of features.
        base: of the model ``linear_head``.
        configs: the configurations.
        selection: rule of the score.
        fold_of: fold of each sample of feedback and of select.
        fold: that judges.
        runs: runs all configurations.
    """
    if unknown := sorted({config.start for config in configs} - {"given", "balanced_head"}):
        return FoldFit(reason=f"start: {', '.join(unknown)} has seen the folds")
    fits_head = any(config.start == "balanced_head" for config in configs)
    samples = len(data.train) + len(data.feedback)
    if fits_head and samples * data.num_classes * data.input_shape[0] > MAX_SIZE:
        return FoldFit(
            reason=f"heads of {samples:,} samples x {data.num_classes:,} classes are not cross-fitted"
        )
    held = [each == fold for each in fold_of]
    rest = replace(data, feedback=data.feedback.take(~held[0]), select=data.select.take(~held[1]))
    folds = int(torch.cat(fold_of).max()) + 1
    heads = runs(
        rest, _base_without(rest, base, selection) if fits_head else base, f"fold {fold + 1}/{folds}"
    )
    parts = [split.take(mask) for split, mask in zip((data.feedback, data.select), held, strict=True)]
    return FoldFit(fold_of, tuple(
        None if head is None else tuple(_predictions(head, part) for part in parts) for head in heads
    ))  # fmt: skip


def cross_fit(fits: Sequence[FoldFit], selection: SelectionRule, context: MetricContext) -> CrossFit:
    """Rank configurations by their predictions on all folds together.

    Args:
        fits: of the same configurations, fold by fold.
        selection: rule of the score.
        context: of its metric.
    """
    if reason := next((fit.reason for fit in fits if fit.reason), ""):
        return CrossFit((), reason)
    fold_of = fits[0].fold_of
    judged: list[Predictions | None] = []
    for of_config in zip(*(fit.predictions for fit in fits), strict=True):
        whole = [list(parts) for parts in of_config if parts is not None]
        judged.append(
            HeldOut.of_folds(list(fold_of), whole).joined() if len(whole) == len(of_config) else None
        )
    ranks = tuple(None if each is None else rank(selection, each, context) for each in judged)
    return CrossFit(ranks, "", tuple(judged), torch.cat(fold_of))


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
