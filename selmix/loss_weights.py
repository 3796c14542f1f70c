"""The gain as a weight on the loss, without mixing: uniform samples whose losses are weighted by their stratum.

An ablation of mixing: the gain targets the same strata, with the same expected gradient as drawing them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def stratum_weights(policy: Tensor, counts: Tensor) -> Tensor:
    """Weights w[i] = P(i) / (share of stratum i in the pool); their mean over the samples of the pool is 1.

    Args:
        policy: P, shape (S, S), of which only the row sums P(i) matter.
        counts: samples of each stratum in the pool, shape (S,).
    Returns:
        Shape (S,), float64; 0 for a stratum without samples.
    Raises:
        ValueError: P gives weight to a stratum without samples.
    """
    target = policy.sum(dim=1)
    if bool((target > 0)[counts == 0].any()):
        raise ValueError("policy gives weight to a stratum without samples; mask it with `drawable`")
    # An empty stratum has P(i) = 0, as checked above: divided by 1, its weight is 0 and not NaN.
    return target * counts.sum() / counts.clamp_min(1)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over the samples of weight times cross-entropy.

    Over the whole pool this is sum_i P(i) (mean loss of stratum i): the loss of targeted sampling without mixing.

    Args:
        logits: shape (n, K).
        labels: class of each sample, shape (n,).
        weights: weight of each sample, shape (n,).
    Returns:
        A scalar, in the dtype of ``logits``.
    """
    # Divided by n, not by the sum of the weights: the mean over the batch is then unbiased for that over the pool.
    return (weights.to(logits.dtype) * F.cross_entropy(logits, labels, reduction="none")).mean()


def uniform_samples(total: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw indices uniformly, with replacement.

    Args:
        total: number of samples; the indices are below it.
        batch_size: how many to draw.
        generator: source of the draws.
    Returns:
        Shape (batch_size,), int64, on the generator's device.
    """
    return torch.randint(total, (batch_size,), generator=generator, device=generator.device)
