"""Rows fitted on feedback and select, the labels that a fine-tuned winner claims: judged on select out of fold.

Nothing of a judging fold chose, tuned or calibrated what judges it; the model that ships is fitted on all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selmix.baselines.folds import content_folds, most_folds
from selmix.baselines.frozen import frozen
from selmix.baselines.head_path import FittedHead
from selmix.baselines.last_layer import balanced_heads, shared_heads
from selmix.baselines.post_hoc import bias_search
from selmix.baselines.task import BaselineTask, HeldOut, Models, with_bias, with_head
from selmix.data.splits import Split, join
from selmix.metrics import Predictions
from selmix.statistics.selection import rank


def bias_search_on_both(task: BaselineTask) -> Models:
    """Per-class biases on the base model, fitted on feedback and select under the bounds of the search.

    Args:
        task: of the baseline.
    Raises:
        ValueError: a class with fewer than four samples in feedback and select together.
    """
    parts = (task.data.feedback, task.data.select)
    folds = most_folds(parts)
    fold_of = content_folds(parts, folds)
    logits = torch.cat([task.logits(task.base.state, part) for part in parts])
    labels, groups = _labels(parts)
    place, predictions = torch.cat(fold_of), []
    for fold in range(folds):
        held = place == fold
        added = _biases(task, logits[~held], labels[~held], _at(groups, ~held))
        predictions.append(_split(fold_of, fold, labels, logits + added, groups))
    added = _biases(task, logits, labels, groups)
    state = with_bias(task.base.state, task.view(task.base.state), added)
    return Models((state,), {"judged": "out of fold"}, HeldOut.of_folds(fold_of, predictions))


def last_layer_on_both(task: BaselineTask, decays: Sequence[float]) -> Models:
    """Classifier trained again, class-balanced, on train + feedback + select, with biases that are fitted out of fold.

    The weight decay is chosen once for each judging fold, and once for the model that ships: of heads on train alone,
    the one that ranks highest on feedback and select without that fold. Heads without the judging fold and one more,
    on whose logits there the biases are fitted, have this decay and are not tuned again: the judging fold chose
    nothing, and what another fold chose is one of a few decays, of heads that did not see it.

    Args:
        task: of the baseline.
        decays: weight decays that are tried.
    Raises:
        ValueError: a class with fewer than four samples in feedback and select together.
    """
    parts = (task.data.feedback, task.data.select)
    folds = most_folds(parts)
    fold_of = content_folds(parts, folds)
    place, flat = torch.cat(fold_of), frozen(task)
    train, pool = flat.data.train, join(flat.data.feedback, flat.data.select)
    (labels, groups), classes = _labels(parts), task.data.num_classes
    on_train = [
        (head.decay, _logits(head, pool))
        for head in shared_heads(train.whole(), train.labels, classes, decays)
    ]
    fitted: dict[tuple[frozenset[int], float], FittedHead] = {}

    def without(left_out: frozenset[int]) -> Tensor:
        """Mask of the samples in other folds."""
        return ~torch.isin(place, torch.tensor(sorted(left_out), dtype=place.dtype))

    def head_without(left_out: frozenset[int], decay: float) -> FittedHead:
        # Two folds are left out for the sake of either.
        if (left_out, decay) not in fitted:
            split = join(train, pool.take(without(left_out)))
            (fitted[left_out, decay],) = balanced_heads(split.whole(), split.labels, classes, (decay,))
        return fitted[left_out, decay]

    def tuned(judging: frozenset[int]) -> tuple[FittedHead, Tensor]:
        """Head and biases from all samples but those that judge."""
        rest = without(judging)
        ranks = [
            rank(
                task.selection,
                Predictions.from_logits(labels[rest], logits[rest], _at(groups, rest)),
                task.context,
            )
            for _, logits in on_train
        ]
        # The first of equal ranks: the largest decay.
        decay = on_train[max(range(len(ranks)), key=lambda index: (ranks[index], -index))][0]
        logits = torch.zeros(len(place), classes)
        for fold in sorted(set(range(folds)) - judging):
            held = place == fold
            logits[held] = _logits(head_without(judging | {fold}, decay), pool.take(held))
        added = _biases(task, logits[rest], labels[rest], _at(groups, rest))
        return head_without(judging, decay), added

    predictions = []
    for fold in range(folds):
        head, added = tuned(frozenset({fold}))
        predictions.append(_split(fold_of, fold, labels, _logits(head, pool) + added, groups))
    head, added = tuned(frozenset())
    state = with_head(
        task.base.state, task.view(task.base.state), head.weight.float(), head.bias.float().cpu() + added
    )
    note: dict[str, float | str] = {"weight_decay": head.decay, "judged": "out of fold"}
    return Models((state,), note, HeldOut.of_folds(fold_of, predictions))


def _biases(task: BaselineTask, logits: Tensor, labels: Tensor, groups: Tensor | None) -> Tensor:
    rule = task.selection
    return bias_search(logits, labels, rule.metric, task.context, groups, rule.constraints)


def _labels(parts: Sequence[Split]) -> tuple[Tensor, Tensor | None]:
    """Labels and groups of all samples, on the CPU."""
    groups = [part.groups.cpu() for part in parts if part.groups is not None]
    return torch.cat([part.labels.cpu() for part in parts]), torch.cat(groups) if groups else None


def _at(groups: Tensor | None, mask: Tensor) -> Tensor | None:
    return None if groups is None else groups[mask]


def _logits(head: FittedHead, split: Split) -> Tensor:
    """Logits on the CPU, as the model in float32 has them."""
    return (split.whole() @ head.weight.float().T + head.bias.float()).cpu()


def _split(
    fold_of: Sequence[Tensor], fold: int, labels: Tensor, logits: Tensor, groups: Tensor | None
) -> list[Predictions]:
    """Predictions of the samples of one fold, split by split."""
    whole = Predictions.from_logits(labels, logits, groups)
    indices = torch.split(torch.arange(len(labels)), [len(each) for each in fold_of])
    return [whole.take(index[each == fold]) for index, each in zip(indices, fold_of, strict=True)]
