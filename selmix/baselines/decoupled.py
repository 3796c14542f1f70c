"""Classifiers adjusted on a frozen backbone: tau-normalisation, learnable weight scaling, label-aware smoothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.baselines.head_losses import equal_shares
from selmix.baselines.head_path import FittedHead

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
    scales = torch.ones(logits.shape[1], dtype=torch.float64, device=logits.device, requires_grad=True)
    values, weights = logits.double(), equal_shares(labels)

    def loss() -> Tensor:
        return (weights * F.cross_entropy(values * scales, labels, reduction="none")).sum()

    _minimise(loss, [scales])
    return scales.detach()


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
    targets = label_aware_targets(labels, train_counts.to(labels.device))
    weights = equal_shares(labels)
    scales = torch.ones(len(base), 1, dtype=x.dtype, device=x.device, requires_grad=True)
    change = torch.zeros_like(base, requires_grad=True)
    bias = torch.zeros(len(base), dtype=x.dtype, device=x.device, requires_grad=True)
    for decay in sorted(decays, reverse=True):
        # The default binds this turn's decay. Only the correction decays: a large decay leaves the scaled classifier,
        # not zeros.
        def loss(decay: float = decay) -> Tensor:
            logits = x @ (scales * base + change).T + bias
            return (weights * F.cross_entropy(logits, targets, reduction="none")).sum() + (
                0.5 * decay * change.square().sum()
            )

        _minimise(loss, [scales, change, bias])
        yield FittedHead(decay, (scales * base + change).detach(), bias.detach().clone())


def _minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    # Full batch with line search: deterministic, and no learning rate has to be tuned.
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_ITERATIONS, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
