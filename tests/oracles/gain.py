"""The gain by loops over all indices, and by its definition as a finite step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gain_by_loops(z: Tensor, w: Tensor, b: Tensor, d: Tensor, lam: float, labels: list[int]) -> Tensor:
    """sum_{q, l} D[q, l] <m_ij, z_q> (1{l = label[i]} - p_ij[l]), spelled out; shape (S, S)."""
    strata, classes = d.shape
    gain = torch.zeros(strata, strata, dtype=torch.float64)
    for i in range(strata):
        for j in range(strata):
            mixed = lam * z[i] + (1 - lam) * z[j]
            p = torch.softmax(w @ mixed + b, dim=0)
            for q in range(strata):
                for k in range(classes):
                    gain[i, j] += d[q, k] * (mixed @ z[q]) * (float(k == labels[i]) - p[k])
    return gain


def gain_by_step(
    objective: Callable[[Tensor], Tensor], confusion: Tensor, z: Tensor, w: Tensor, b: Tensor, lam: float,
    labels: list[int], eta: float,
) -> Tensor:  # fmt: skip
    """delta psi / eta after a step eta on the loss of each pair in W alone, through the logits C~; (S, S)."""
    prior = confusion.sum(dim=1, keepdim=True)
    logits = (confusion / prior).log()
    strata = len(z)
    change = torch.zeros(strata, strata, dtype=torch.float64)
    for i in range(strata):
        for j in range(strata):
            mixed = lam * z[i] + (1 - lam) * z[j]
            residual = -torch.softmax(w @ mixed + b, dim=0)
            residual[labels[i]] += 1.0
            moved = [
                objective(
                    prior * torch.softmax(logits + sign * eta * z @ torch.outer(residual, mixed).T, dim=1)
                )
                for sign in (1.0, -1.0)
            ]
            change[i, j] = (moved[0] - moved[1]) / (2 * eta)
    return change
