"""Cross-fitted scores of baselines that change logits or a head: every sample is judged by a fit that never saw it.

They stand for the average of models that are fitted on a part of the labels, not for the model that ships: they choose
between such baselines, and claim nothing. One that is fitted on feedback and select is on equal terms here: every fit,
its own too, sees the labels of all folds but the judging one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from selmix.baselines.catalogue import Baseline
from selmix.baselines.folds import FOLDS, content_folds
from selmix.baselines.frozen import frozen
from selmix.baselines.task import BaselineResult, BaselineTask, HeldOut
from selmix.model import head_state
from selmix.statistics.selection import rank

MAX_SIZE = 2**31
"""Samples x classes x features of a head above which none is cross-fitted.

At this size one evaluation of its loss takes 0.2 s of one core. A path of seven weight decays takes about 300 of them,
and a cross-fit five paths: five minutes for such a row, more for one with folds of its own, and half an hour at 1,000
classes of 50 samples and 256 features.
"""


@dataclass(frozen=True)
class CrossFitted:
    """Score of a baseline over feedback and select, each fold judged by a fit on the others.

    Attributes:
        score: selection score; None where there is none.
        folds: F.
        samples: that were judged.
        reason: why there is no score; empty where there is one.
        violation: amount by which the same predictions miss the bounds of the search, 0.0 where they hold; None where
            there is no score.
    """

    score: float | None
    folds: int
    samples: int
    reason: str = ""
    violation: float | None = None


def cross_fitted(
    baseline: Baseline, task: BaselineTask, result: BaselineResult | None = None, folds: int = FOLDS
) -> CrossFitted | None:
    """Cross-fit a baseline over feedback and select.

    All of it, with whatever it tunes, is fitted anew without each fold: the rest of feedback stays feedback, the rest
    of select stays select.

    Args:
        baseline: of the catalogue.
        task: its task.
        result: of the baseline on the task: where it was judged out of fold those predictions are taken.
        folds: F.
    Returns:
        None for a baseline that trains more than a head. No score, but the reason, where a class has fewer than 2 F
        samples, where the base model was trained on a judging split, where a head would have to be fitted and is larger
        than MAX_SIZE, or where a fit on fewer samples fails.
    """
    if baseline.rung not in ("scores", "head"):
        return None
    samples = len(task.data.feedback) + len(task.data.select)
    seen = [name for name in ("feedback", "select") if name in task.base_labels]
    if seen:
        return CrossFitted(None, folds, samples, f"the base model was trained on {', '.join(seen)}")
    held_out = None if result is None else result.held_out
    # Corrections of the logits take seconds where heads take minutes.
    if held_out is None and baseline.rung == "head" and (reason := _too_large(task)):
        return CrossFitted(None, folds, samples, reason)
    try:
        judged = fit_out_of_fold(baseline, task, folds) if held_out is None else held_out
    # A fit on fewer samples may fail where the whole one does not: that is no failure of the baseline.
    except (ValueError, ArithmeticError) as error:
        return CrossFitted(None, folds, samples, str(error))
    missed, score = rank(task.selection, judged.joined(), task.context)
    return CrossFitted(score, judged.folds, samples, violation=-missed)


def fit_out_of_fold(baseline: Baseline, task: BaselineTask, folds: int = FOLDS) -> HeldOut:
    """Predictions on feedback and select, each fold by a fit on the others.

    Args:
        baseline: of one model, of the rungs ``scores`` and ``head``.
        task: its task.
        folds: F.
    Raises:
        ValueError: a class with fewer than 2 F samples, or whatever the baseline raises.
    """
    fold_of = content_folds((task.data.feedback, task.data.select), folds)
    flat, predictions = frozen(task), []
    for fold in range(folds):
        held = [each == fold for each in fold_of]
        data = replace(
            flat.data, feedback=flat.data.feedback.take(~held[0]), select=flat.data.select.take(~held[1])
        )
        rest = replace(flat, data=data)
        (state,) = baseline.fit(rest).states
        predictions.append([
            rest.predictions(state, split.take(mask))
            for split, mask in zip((flat.data.feedback, flat.data.select), held, strict=True)
        ])  # fmt: skip
    return HeldOut.of_folds(fold_of, predictions)


def _too_large(task: BaselineTask) -> str:
    """State why a head is not cross-fitted for its size; empty where it is."""
    samples = len(task.data.train) + len(task.data.feedback)
    classes, features = head_state(task.view(task.base.state))["weight"].shape
    if samples * classes * features <= MAX_SIZE:
        return ""
    return (
        f"heads of {samples:,} samples x {classes:,} classes x {features:,} features are not cross-fitted: more than "
        f"{MAX_SIZE:,} numbers would take many minutes for every such row"
    )
