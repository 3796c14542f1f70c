"""Classifiers adjusted on a frozen backbone: tau-normalisation, learnable weight scaling, label-aware smoothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from selmix.baselines.head_losses import equal_shares, weighted_cross_entropy
from selmix.baselines.head_path import FittedHead, HeadLoss, minimised, row_blocks

TAUS = tuple(k / 10 for k in range(21))
SMOOTH_HEAD, SMOOTH_TAIL = 0.3, 0.0  # eps of the largest and of the smallest class
_ITERATIONS = 200


def tau_normalised(weight: Tensor, tau: float) -> Tensor:
    """Class weights w_k / ||w_k||^tau, shape (K, d); no bias goes with them.

    Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020.
    """
    # A class whose weights are all 0 keeps them.
    norms: Tensor = weight.norm(dim=1, keepdim=True)
    return weight / norms.clamp_min(1e-12).pow(tau)


def learned_scales(logits: Tensor, labels: Tensor) -> Tensor:
    """Scales s, shape (K,), that minimise the class-balanced cross-entropy of s_k (w_k z).

    Args:
        logits: w_k z of the frozen classifier without its bias, shape (n, K).
        labels: shape (n,).
    Source: learnable weight scaling, Kang et al., ICLR 2020.
    """
    values, weights = logits.double(), equal_shares(labels)
    loss = weighted_cross_entropy(labels, weights)
    # The second derivative in one scale at the start: divided by its root, all scales curve about alike. A class whose
    # scale changes nothing at the start may come back.
    curvature = torch.zeros(values.shape[1], dtype=values.dtype, device=values.device)
    for part in row_blocks(values):
        shares = torch.softmax(values[part], dim=1)
        curvature += weights[part] @ (shares * (1.0 - shares) * values[part].square())
    root = curvature.clamp_min(1e-2 * curvature.max().clamp_min(1e-12)).sqrt()
    moved = root.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [moved], max_iter=_ITERATIONS, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    @torch.no_grad()
    def closure() -> Tensor:
        value, by_scale = scaled_loss(values, loss, moved / root)
        moved.grad = by_scale / root
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (moved / root).detach()


def scaled_loss(logits: Tensor, loss: HeadLoss, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of s_k (w_k z) and its gradient in the scales s, in closed form.

    Args:
        logits: w_k z, shape (n, K), float64.
        loss: of the logits of all samples.
        scales: s, shape (K,).
    Returns:
        Shapes () and (K,).
    """
    value, residuals = loss(logits * scales)
    return value, torch.linalg.vecdot(residuals, logits, dim=0)


def label_aware_targets(labels: Tensor, train_counts: Tensor) -> Tensor:
    """Targets smoothed more for larger classes, shape (n, K), float64.

    A class with N samples keeps 1 - eps(N) and spreads eps(N) over the others, eps running from 0.3 at the largest to 0
    at the smallest class by a concave sine.
    Source: Zhong et al., "Improving Calibration for Long-Tailed Recognition" (MiSLAS), CVPR 2021.
    """
    counts = train_counts.double()
    # Classes of equal size have no span: all are then smoothed as the smallest.
    span = (counts.max() - counts.min()).clamp_min(1.0)
    place = (counts - counts.min()) / span
    eps = SMOOTH_TAIL + (SMOOTH_HEAD - SMOOTH_TAIL) * torch.sin(place * torch.pi / 2.0)
    classes = len(counts)
    # A copy, because an expanded tensor shares one number per row and cannot be written to by column.
    spread = (eps / (classes - 1))[labels].unsqueeze(1).expand(-1, classes).clone()
    return spread.scatter_(1, labels.unsqueeze(1), (1.0 - eps)[labels].unsqueeze(1))


def smoothed_head(
    features: Tensor, labels: Tensor, weight: Tensor, train_counts: Tensor, weight_decay: float
) -> tuple[Tensor, Tensor]:
    """Stage two of MiSLAS on frozen features: scales and a correction of the classifier, on label-aware targets.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        weight: of the frozen classifier, shape (K, d).
        train_counts: training samples of each class, shape (K,).
        weight_decay: of the correction.
    Returns:
        W, shape (K, d), and b, shape (K,), float64.
    Source: Zhong et al., CVPR 2021; here by L-BFGS to its optimum, with class-balanced weights in place of
        class-balanced sampling.
    """
    (head,) = smoothed_heads(features, labels, weight, train_counts, (weight_decay,))
    return head.weight, head.bias


def smoothed_heads(
    features: Tensor, labels: Tensor, weight: Tensor, train_counts: Tensor, decays: Sequence[float]
) -> Iterator[FittedHead]:
    """:func:`smoothed_head` with several weight decays, the largest first, each from the one before.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        weight: of the frozen classifier, shape (K, d).
        train_counts: training samples of each class, shape (K,).
        decays: weight decays of the correction, in any order.
    """
    x, base = features.double(), weight.double()
    shares = equal_shares(labels)
    loss = weighted_cross_entropy(label_aware_targets(labels, train_counts.to(labels.device)), shares)
    # Scales and correction are one matrix: at the minimum the correction has no part along the given weights, which the
    # scales reach for nothing. So only the rest decays, and a large decay leaves the scaled classifier, not zeros.
    free = base / base.norm(dim=1, keepdim=True).clamp_min(1e-12)
    fitted, bias = base, torch.zeros_like(base[:, 0])
    for decay in sorted(decays, reverse=True):
        fitted, bias = minimised(x, loss, fitted, bias, decay, shares, free)
        yield FittedHead(decay, fitted, bias)
