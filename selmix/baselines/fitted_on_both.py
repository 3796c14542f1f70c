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
from selmix.baselines.last_layer import balanced_heads
from selmix.baselines.post_hoc import bias_search
from selmix.baselines.task import BaselineTask, HeldOut, Models, with_bias, with_head
from selmix.data.splits import Split, join
from selmix.metrics import Predictions
from selmix.statistics.selection import Rank, rank


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

    Weight decay and biases of a model are fitted on predictions of heads that never saw the samples: for the model that
    ships, heads without one fold; for the one that judges a fold, heads without that fold and one more.

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
    pool = join(flat.data.feedback, flat.data.select)
    labels, groups = _labels(parts)

    def heads_without(*left_out: int) -> list[FittedHead]:
        kept = ~torch.isin(place, torch.tensor(left_out, dtype=place.dtype))
        split = join(flat.data.train, pool.take(kept))
        return list(balanced_heads(split.whole(), split.labels, task.data.num_classes, decays))

    pairs = {frozenset({i, j}): heads_without(i, j) for i in range(folds) for j in range(i + 1, folds)} | {
        frozenset({i}): heads_without(i) for i in range(folds)
    }

    def tuned(judging: frozenset[int]) -> tuple[int, Tensor]:
        """Place of the best decay, and biases, from the folds that do not judge."""
        rest = ~torch.isin(place, torch.tensor(sorted(judging), dtype=place.dtype))
        tried: list[tuple[Rank, Tensor]] = []
        for index in range(len(decays)):
            logits = torch.zeros(len(place), task.data.num_classes)
            for fold in set(range(folds)) - judging:
                held = place == fold
                logits[held] = _logits(pairs[judging | {fold}][index], pool.take(held))
            predictions = Predictions.from_logits(labels[rest], logits[rest], _at(groups, rest))
            tried.append((rank(task.selection, predictions, task.context), logits))
        # The first of equal ranks: the largest decay.
        best = max(range(len(tried)), key=lambda index: (tried[index][0], -index))
        return best, _biases(task, tried[best][1][rest], labels[rest], _at(groups, rest))

    predictions = []
    for fold in range(folds):
        index, added = tuned(frozenset({fold}))
        logits = _logits(pairs[frozenset({fold})][index], pool) + added
        predictions.append(_split(fold_of, fold, labels, logits, groups))
    index, added = tuned(frozenset())
    head = heads_without()[index]
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
