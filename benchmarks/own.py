"""Functions of a user's own, as the size study judges models by them."""

from __future__ import annotations

from torch import Tensor


def fbeta(confusion: Tensor, beta: float = 2.0) -> Tensor:
    """Mean over the classes of F_beta, which weighs recall ``beta`` times as much as precision."""
    hits = confusion.diagonal()
    recall, precision = hits / confusion.sum(1), hits / confusion.sum(0).clamp_min(1e-12)
    return ((1 + beta**2) * precision * recall / (beta**2 * precision + recall).clamp_min(1e-12)).mean()


def mcc(confusion: Tensor) -> Tensor:
    """Matthews' correlation coefficient of K classes (Gorodkin 2004)."""
    shares = confusion / confusion.sum()
    true, predicted = shares.sum(1), shares.sum(0)
    spread = (1 - predicted.square().sum()) * (1 - true.square().sum())
    return (shares.diagonal().sum() - (true * predicted).sum()) / spread.clamp_min(1e-12).sqrt()
