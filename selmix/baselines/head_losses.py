"""Losses of linear classifiers on frozen features, each with its gradient in the logits in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.baselines.head_path import HeadLoss, row_blocks

SMOOTHING = 0.98  # delta of label over-smoothing


def weighted_cross_entropy(targets: Tensor, sample_weights: Tensor) -> HeadLoss:
    """Sum over the samples of weight x cross-entropy.

    Args:
        targets: class of each sample, shape (n,), or its probabilities of the classes, shape (n, K).
        sample_weights: shape (n,), float64.
    """
    weights = sample_weights.unsqueeze(1)

    def loss(logits: Tensor) -> tuple[Tensor, Tensor]:
        # In place wherever possible: with many classes the logits are the largest tensor by far.
        if targets.ndim == 1:
            rows = targets.unsqueeze(1)
            true, residuals = _true_and_probabilities(logits, rows, weights)
            return -(sample_weights * true).sum(), residuals.scatter_add_(1, rows, -weights)
        value = torch.zeros((), dtype=logits.dtype, device=logits.device)
        for part in row_blocks(logits):
            block = logits[part]
            block -= block.logsumexp(dim=1, keepdim=True)
            value -= sample_weights[part] @ torch.linalg.vecdot(targets[part], block)
            block.exp_().sub_(targets[part]).mul_(weights[part])
        return value, logits

    return loss


def _true_and_probabilities(logits: Tensor, rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log-probability of the true class, (n,), and the probabilities, (n, K), which overwrite the logits.

    Args:
        logits: shape (n, K).
        rows: true class of each sample, shape (n, 1).
        weights: of the samples, which multiply the probabilities, shape (n, 1); None for 1.
    """
    true = torch.empty(len(logits), dtype=logits.dtype, device=logits.device)
    for part in row_blocks(logits):
        block = logits[part]
        block -= block.logsumexp(dim=1, keepdim=True)
        true[part] = block.gather(1, rows[part]).squeeze(1)
        block.exp_()
        if weights is not None:
            block.mul_(weights[part])
    return true, logits


def equal_shares(strata: Tensor) -> Tensor:
    """Weights of the samples by which every stratum that has samples weighs the same, shape (n,); they sum to 1.

    Args:
        strata: class or (class, group) cell of each sample, shape (n,).
    """
    counts = torch.bincount(strata).double()
    # Strata without samples are not counted among those that share the weight.
    return 1.0 / (counts[strata] * (counts > 0).sum())


def over_smoothed_targets(labels: Tensor, num_classes: int, smoothing: float = SMOOTHING) -> Tensor:
    """Targets of label over-smoothing: 1 - delta + delta / K for the true class, delta / K for each other, (n, K).

    With delta near 1 the true class gets little more than 1 / K, by which the classes' logits become small and alike in
    size.

    Args:
        labels: shape (n,).
        num_classes: K.
        smoothing: delta, in [0, 1).
    Raises:
        ValueError: a smoothing outside [0, 1).
    Source: Sun et al., "Rethinking Classifier Re-Training in Long-Tailed Recognition: Label Over-Smooth Can Balance",
        ICLR 2025; the formula is that of its released code.
    """
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
    targets = torch.full(
        (len(labels), num_classes), smoothing / num_classes, dtype=torch.float64, device=labels.device
    )
    return targets.scatter_add_(1, labels.unsqueeze(1), torch.full_like(targets[:, :1], 1.0 - smoothing))


def geometric_mean_loss(labels: Tensor, num_classes: int) -> HeadLoss:
    """Minus the logarithm of the geometric mean over classes of the mean probability of the true class.

    -(1 / K) sum_k log(mean over the samples of class k of p_k); classes without samples are left out.

    Args:
        labels: shape (n,).
        num_classes: K.
    Source: Du and Wu, "No One Left Behind: Improving the Worst Categories in Long-Tailed Learning" (GML), CVPR 2023.
        There p is the softmax of logits + log(class counts) and the means are those of a batch. Over all samples the
        added constants only move the bias: the head of that loss is this one with bias - log(class counts).
    """
    rows = labels.unsqueeze(1)
    counts = torch.bincount(labels, minlength=num_classes).double()
    present = counts > 0

    def loss(logits: Tensor) -> tuple[Tensor, Tensor]:
        true, residuals = _true_and_probabilities(logits, rows, None)
        # In logarithms: a class whose samples are all far from it would have a mean of 0.
        largest = torch.full_like(counts, -torch.inf).scatter_reduce_(0, labels, true, "amax")
        sums = torch.zeros_like(counts).index_add_(0, labels, (true - largest[labels]).exp())
        means = largest[present] + (sums[present] / counts[present]).log()
        # As of cross-entropy, with weights in proportion to the sample's probability within its class.
        weights = ((true - largest[labels]).exp() / (sums[labels] * present.sum())).unsqueeze(1)
        residuals.mul_(weights).scatter_add_(1, rows, -weights)
        return -means.mean(), residuals

    return loss
