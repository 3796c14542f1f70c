"""The confusion matrix of the method: counts, the joint matrix C, its smoothing, and d psi / d C~.

Rows are true strata, columns predicted classes. Without a group attribute a stratum is a class (S = K); with
one it is a (class, group) cell. C sums to 1, its row sums pi are the held-out prior, and nothing here assumes
that pi is uniform.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def confusion_counts(strata: Tensor, predictions: Tensor, num_strata: int, num_classes: int) -> Tensor:
    """Count the samples of each stratum by predicted class.

    Args:
        strata: true strata, shape (n,), integers in [0, num_strata).
        predictions: predicted classes, shape (n,), integers in [0, num_classes).
    Returns:
        Counts, shape (S, K), int64.
    Raises:
        ValueError: the lengths differ, or an entry is out of its range.
    """
    if strata.shape != predictions.shape or strata.ndim != 1:
        raise ValueError(
            "strata and predictions must be vectors of one length, "
            f"got shapes {tuple(strata.shape)} and {tuple(predictions.shape)}"
        )
    for what, values, limit in (("strata", strata, num_strata), ("predictions", predictions, num_classes)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= limit):
            raise ValueError(
                f"{what} must lie in [0, {limit}), got {int(values.min())} to {int(values.max())}"
            )
    cells = strata.long() * num_classes + predictions.long()
    return torch.bincount(cells, minlength=num_strata * num_classes).view(num_strata, num_classes)


def joint_confusion(counts: Tensor) -> Tensor:
    """C, the share of the held-out samples in each cell.

    Args:
        counts: shape (S, K), >= 0.
    Returns:
        Shape (S, K), float64, sums to 1.
    Raises:
        ValueError: there is no sample at all.
    """
    counts = counts.double()
    total = counts.sum()
    if not float(total) > 0:
        raise ValueError(
            f"a confusion matrix needs at least one sample, got counts that sum to {float(total)}"
        )
    return counts / total


def smooth_confusion(counts: Tensor, amount: float = 0.5) -> Tensor:
    """C with ``amount`` counts added to every cell and each row scaled back to the stratum's prior.

    At hard counts a class with zero recall has C[i, i] = 0, hence a gradient of zero (min recall) or NaN (G- and
    H-mean) through the softmax parametrisation: the very class one cares for would get no gain.

    Args:
        counts: shape (S, K), counts (or averaged counts) >= 0, each row with at least one sample.
        amount: > 0.
    Returns:
        Shape (S, K), float64; row sums are those of ``joint_confusion(counts)``.
    Raises:
        ValueError: ``amount`` is not positive or a row is empty (the message names the rows).
    """
    if not amount > 0:
        raise ValueError(f"smoothing must be > 0 counts a cell, got {amount}")
    rows = counts.double().sum(dim=1, keepdim=True)
    if bool((rows <= 0).any()):
        empty = torch.nonzero(rows.squeeze(1) <= 0).flatten().tolist()
        raise ValueError(f"every stratum needs a held-out sample, got none for {empty}")
    smoothed = counts.double() + amount
    prior = rows / rows.sum()
    return smoothed / smoothed.sum(dim=1, keepdim=True) * prior


def recalls(confusion: Tensor, labels: Tensor | None = None) -> Tensor:
    """Recall of each stratum, C[i, label[i]] / pi_i.

    Args:
        confusion: joint matrix or counts, shape (..., S, K).
        labels: class of each stratum, shape (S,); None where strata are classes.
    Returns:
        Shape (..., S); NaN for a stratum without samples.
    """
    if labels is None:
        hits = confusion.diagonal(dim1=-2, dim2=-1)
    else:
        index = labels.to(confusion.device).view(-1, 1).expand(*confusion.shape[:-2], -1, 1)
        hits = confusion.gather(-1, index).squeeze(-1)
    return hits / confusion.sum(dim=-1)


def class_confusion(confusion: Tensor, labels: Tensor | None = None) -> Tensor:
    """C with the strata of each class added up.

    Args:
        confusion: shape (S, K). labels: class of each stratum, shape (S,); None where strata are classes.
    Returns:
        Shape (K, K).
    """
    if labels is None:
        return confusion
    total = confusion.new_zeros(confusion.shape[1], confusion.shape[1])
    return total.index_add(0, labels.to(confusion.device), confusion)


def precisions(confusion: Tensor) -> Tensor:
    """C_kk over the column sum, shape (K,); 0 for a class that is never predicted."""
    columns = confusion.sum(dim=-2)
    return confusion.diagonal(dim1=-2, dim2=-1) / torch.where(columns > 0, columns, 1.0)


def coverage(confusion: Tensor) -> Tensor:
    """Share of the samples that are predicted as each class: the column sums of C, shape (..., K)."""
    return confusion.sum(dim=-2)


def logit_gradient(objective: Callable[[Tensor], Tensor], confusion: Tensor) -> Tensor:
    """D = d psi / d C~ at unconstrained logits C~ with C[i, l] = pi_i softmax(C~[i])_l.

    With g = d psi / d C (by autograd), ``D[i, l] = C[i, l] (g[i, l] - sum_j g[i, j] C[i, j] / pi_i)``. Any
    held-out prior pi is right. Nothing is smoothed here: the caller hands over the smoothed C.

    Args:
        objective: function of a joint confusion matrix, (S, K) tensor -> scalar to maximise.
        confusion: C, shape (S, K), sums to 1.
    Returns:
        D, shape (S, K), float64, detached; each row sums to 0.
    Raises:
        ValueError: the objective is no finite scalar that depends on C, or has a gradient that is not finite.
    Source: SelMix (arXiv:2403.18301). Departs from the released code, whose hand-derived gradients hold for a
        uniform prior only.
    """
    matrix = confusion.detach().double().requires_grad_(True)
    with torch.enable_grad():
        value = objective(matrix)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(
                f"an objective must return a scalar tensor that depends on the matrix, got {value!r}"
            )
        (gradient,) = torch.autograd.grad(value.reshape(()), matrix)
    if not bool(torch.isfinite(value)) or not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            f"the objective must be finite with a finite gradient, got value {float(value.detach())}; smooth the "
            "matrix first, or mend the objective where a recall is 0 or 1"
        )
    matrix = matrix.detach()
    prior = matrix.sum(dim=1, keepdim=True)
    mean = (gradient * matrix).sum(dim=1, keepdim=True) / prior
    return matrix * (gradient - mean)
