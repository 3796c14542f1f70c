"""The confusion matrix of the method: counts, the joint matrix C, its smoothing, and d psi / d C~.

Rows are true strata, columns predicted classes. Without a group attribute a stratum is a class (S = K); with
one it is a (class, group) cell. C sums to 1, its row sums pi are the held-out prior, and nothing here assumes
that pi is uniform.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ROWS_AT_ONCE = 2**16  # bounds what is worked on beside the samples


def confusion_counts(strata: Tensor, predictions: Tensor, num_strata: int, num_classes: int) -> Tensor:
    """Count the samples of each stratum by predicted class.

    Args:
        strata: true strata, shape (n,), integers in [0, num_strata).
        predictions: predicted classes, shape (n,), integers in [0, num_classes).
        num_strata: S.
        num_classes: K.
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
    for name, values, limit in (("strata", strata, num_strata), ("predictions", predictions, num_classes)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= limit):
            raise ValueError(
                f"{name} must lie in [0, {limit}), got {int(values.min())} to {int(values.max())}"
            )
    # One flat index for each (stratum, class) cell: bincount takes a single dimension, and counts in int64.
    # In parts: the indices of a large table are not held beside it.
    counts = torch.zeros(num_strata * num_classes, dtype=torch.int64, device=strata.device)
    for start in range(0, len(strata), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cells = strata[rows].long() * num_classes + predictions[rows].long()
        counts += torch.bincount(cells, minlength=len(counts))
    return counts.view(num_strata, num_classes)


def joint_confusion(counts: Tensor) -> Tensor:
    """Joint confusion matrix C: the share of the held-out samples in each cell.

    Args:
        counts: shape (S, K), >= 0.
    Returns:
        Shape (S, K), float64, sums to 1.
    Raises:
        ValueError: the counts hold no sample.
    """
    counts = counts.double()
    total = counts.sum()
    # Written as `not >`, so that NaN is refused too.
    if not float(total) > 0:
        raise ValueError(
            f"a confusion matrix needs at least one sample, got counts that sum to {float(total)}"
        )
    return counts / total


# A pooled recall of 0 or 1 would leave a class at zero recall, or one without errors, without a gradient.
_LEAST_RECALL, _MOST_RECALL = 0.02, 0.98


def smooth_rows(counts: Tensor, amount: float = 1.0, labels: Tensor | None = None) -> Tensor:
    """Shrink every row of C towards the rows taken together, by ``amount`` counts a row whatever S and K.

    Row i of rates becomes (counts_i + amount q_i) / (n_i + amount). q_i has the pooled recall, clipped to [0.02, 0.98],
    in the column of the stratum's own class; the rest follows the off-diagonal counts of all rows by column, and is
    uniform where there are none. At hard counts a class with zero recall has a gradient of zero (min recall) or NaN
    (G- and H-mean) through the softmax parametrisation. A mass that is spread over the whole row leaves it
    amount / (K n), so that its gain vanishes with K: with 20 samples a row and eta = 20 a class at a recall of 0.3
    has 1.06 (K = 100) and 10.6 (K = 1,000) times the gain of the one at zero; here it has 0.02 times that gain.

    Args:
        counts: shape (S, K), counts (or averaged counts) >= 0, each row with at least one sample.
        amount: counts to add to each row, > 0.
        labels: class of each stratum, shape (S,); None if strata are classes.
    Returns:
        Shape (S, K), float64; row sums are those of ``joint_confusion(counts)``.
    Raises:
        ValueError: ``amount`` is not positive or a row is empty (the message names the rows).
    """
    if not amount > 0:
        raise ValueError(f"row smoothing must be > 0 counts per row, got {amount}")
    counts, rows = counts.double(), _row_sums(counts)
    return shrunk_rows(counts, rows, amount, own_classes(counts, labels))


def own_classes(counts: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mask of the column of each stratum's own class, shape (S, K), bool.

    Args:
        counts: shape (S, K); its shape and device are read.
        labels: class of each stratum, shape (S,); None if strata are classes.
    """
    own = torch.arange(len(counts)) if labels is None else labels
    return torch.nn.functional.one_hot(own.to(counts.device), counts.shape[1]).bool()


def shrunk_rows(counts: Tensor, rows: Tensor, amount: float | Tensor, is_own: Tensor) -> Tensor:
    """Formula of :func:`smooth_rows`, which can be mapped over many matrices (``torch.vmap``) as it checks nothing.

    Args:
        counts: shape (S, K), float64.
        rows: sums of its rows, all > 0, shape (S, 1).
        amount: counts to add to each row, > 0.
        is_own: mask of :func:`own_classes`, shape (S, K).
    Returns:
        Shape (S, K), float64.
    """
    recall = (counts[is_own].sum() / counts.sum()).clamp(_LEAST_RECALL, _MOST_RECALL)
    # The columns of the errors of all rows; a row's own class is none of its errors.
    errors = counts.masked_fill(is_own, 0.0).sum(dim=0).expand_as(counts).masked_fill(is_own, 0.0)
    errors = torch.where(errors.sum(dim=1, keepdim=True) > 0, errors, (~is_own).double())
    shape = (1.0 - recall) * errors / errors.sum(dim=1, keepdim=True)
    shape = torch.where(is_own, recall, shape)
    return (counts + amount * shape) / (rows + amount) * (rows / rows.sum())


def smooth_confusion(counts: Tensor, amount: float = 0.5) -> Tensor:
    """Add ``amount`` counts to every cell of C and scale each row back to its stratum's prior.

    The row gains K times ``amount``: see :func:`smooth_rows` for a mass that does not grow with K. At hard counts a
    class with zero recall has C[i, i] = 0, hence a gradient of zero (min recall) or NaN (G- and H-mean) through the
    softmax parametrisation: the class that needs gain most would get none.

    Args:
        counts: shape (S, K), counts (or averaged counts) >= 0, each row with at least one sample.
        amount: counts to add to each cell, > 0.
    Returns:
        Shape (S, K), float64; row sums are those of ``joint_confusion(counts)``.
    Raises:
        ValueError: ``amount`` is not positive or a row is empty (the message names the rows).
    """
    if not amount > 0:
        raise ValueError(f"smoothing must be > 0 counts per cell, got {amount}")
    rows = _row_sums(counts)
    smoothed = counts.double() + amount
    prior = rows / rows.sum()
    return smoothed / smoothed.sum(dim=1, keepdim=True) * prior


def _row_sums(counts: Tensor) -> Tensor:
    """Samples of each stratum, shape (S, 1), float64; refuses a stratum without any."""
    rows = counts.double().sum(dim=1, keepdim=True)
    if bool((rows <= 0).any()):
        empty = torch.nonzero(rows.squeeze(1) <= 0).flatten().tolist()
        raise ValueError(f"every stratum needs a held-out sample, got none for {empty}")
    return rows


def recalls(confusion: Tensor, labels: Tensor | None = None) -> Tensor:
    """Recall of each stratum, C[i, label[i]] / pi_i.

    Args:
        confusion: joint matrix or counts, shape (..., S, K).
        labels: class of each stratum, shape (S,); None if strata are classes.
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
    """Sum the rows of C over the strata of each class.

    Args:
        confusion: shape (..., S, K).
        labels: class of each stratum, shape (S,); None if strata are classes.
    Returns:
        Shape (..., K, K).
    """
    if labels is None:
        return confusion
    # Out of place: objectives of classes take their gradient through this sum.
    *stack, _, classes = confusion.shape
    total = confusion.new_zeros(*stack, classes, classes)
    return total.index_add(-2, labels.to(confusion.device), confusion)


def precisions(confusion: Tensor) -> Tensor:
    """Precision of each class, C_kk over its column sum, shape (..., K); 0 for a class that is never predicted."""
    columns = confusion.sum(dim=-2)
    # Not clamp_min(1): the columns of a C that sums to 1 lie below 1 themselves.
    return confusion.diagonal(dim1=-2, dim2=-1) / torch.where(columns > 0, columns, 1.0)


def coverage(confusion: Tensor) -> Tensor:
    """Coverage of each class, the share of the samples that are predicted as it: column sums of C, shape (..., K)."""
    return confusion.sum(dim=-2)


def _is_large(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() != 1


def logit_gradient(objective: Callable[[Tensor], Tensor], confusion: Tensor) -> Tensor:
    """Gradient D = d psi / d C~ at unconstrained logits C~ with C[i, l] = pi_i softmax(C~[i])_l.

    With g = d psi / d C (by autograd), ``D[i, l] = C[i, l] (g[i, l] - sum_j g[i, j] C[i, j] / pi_i)``. It holds for
    any held-out prior pi. Nothing is smoothed here: the caller passes the smoothed C.

    Args:
        objective: function of a joint confusion matrix, (S, K) tensor -> scalar to maximise.
        confusion: C, shape (S, K), sums to 1.
    Returns:
        D, shape (S, K), float64, detached; each row sums to 0.
    Raises:
        ValueError: the objective is no finite scalar that depends on C, or has a gradient that is not finite.
    Source: SelMix (arXiv:2403.18301). Deviates from the released code, whose hand-derived gradients hold for a
        uniform prior only.
    """
    matrix = confusion.detach().double().requires_grad_(True)
    # Gradients on, even if the caller has switched them off.
    with torch.enable_grad():
        value = objective(matrix)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            got = f"a tensor of shape {tuple(value.shape)}" if _is_large(value) else repr(value)
            raise ValueError(
                f"an objective must return a scalar tensor that depends on the matrix, got {got}"
            )
        # A value of shape (1,) is a scalar too; autograd.grad wants one without dimensions or an explicit gradient.
        (gradient,) = torch.autograd.grad(value.reshape(()), matrix)
    if not bool(torch.isfinite(value)) or not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            f"the objective must be finite with a finite gradient, got value {float(value.detach())}; smooth the "
            "matrix first, or mend the objective where a recall is 0 or 1"
        )
    matrix = matrix.detach()
    prior = matrix.sum(dim=1, keepdim=True)
    # The softmax's Jacobian takes from each row its mean gradient: an equal shift of a row's logits changes nothing.
    mean = (gradient * matrix).sum(dim=1, keepdim=True) / prior
    return matrix * (gradient - mean)
