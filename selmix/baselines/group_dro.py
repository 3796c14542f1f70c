"""Distributionally robust training of the classifier over (class, group) cells, on frozen features.

Source: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 500
LR = 0.05
GROUP_LR = 0.05


def group_dro_head(
    features: Tensor, labels: Tensor, strata: Tensor, num_classes: int, weight_decay: float
) -> tuple[Tensor, Tensor]:
    """Fit W and b to the worst cell's mean loss: exponentiated weights over the cells, full-batch Adam, deterministic.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        strata: (class, group) cell of each sample, shape (n,).
        num_classes: K.
        weight_decay: of W.
    Returns:
        W, shape (K, d), and b, shape (K,), float64, of the features as they came.
    """
    x = features.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, unbiased=False)
    # A constant feature has no spread but rounding, by which it must not be divided.
    scale = torch.where(scale > 1e-8 * scale.max(), scale, 1.0)
    z = (x - mean) / scale
    # Numbered without gaps: a cell without samples has no mean loss.
    _, cells = torch.unique(strata, return_inverse=True)
    sizes = torch.bincount(cells).double()
    weight = torch.zeros(num_classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
    shares = torch.full_like(sizes, 1.0 / len(sizes))
    optimizer = torch.optim.Adam([weight, bias], lr=LR)
    for _ in range(STEPS):
        losses = F.cross_entropy(z @ weight.T + bias, labels, reduction="none")
        by_cell = torch.zeros_like(sizes).index_add(0, cells, losses) / sizes
        # Exponentiated gradient: the shares grow with the losses. Detached: the head sees them as constants.
        shares = torch.softmax(shares.log() + GROUP_LR * by_cell.detach(), dim=0)
        loss = (shares * by_cell).sum() + 0.5 * weight_decay * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # The standardisation is folded back into W and b.
    folded = weight.detach() / scale
    return folded, bias.detach() - folded @ mean
