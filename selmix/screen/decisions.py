"""Decisions of many linear heads on the samples of a split, and their confusion counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers of the logits that are held at once: few enough for a CPU's cache, elsewhere a bound of the memory.
_NUMBERS_AT_ONCE = 2**20
_NUMBERS_OF_AN_ACCELERATOR = 2**27


@dataclass(frozen=True)
class Decisions:
    """Predicted classes of n samples by p heads.

    Attributes:
        predicted: shape (p, n), int64.
        finite: True where all logits of a head are finite, shape (p,); the classes of other heads mean nothing.
        confidence: probability of the predicted class, shape (p, n), float32; None where it was not asked for.
    """

    predicted: Tensor
    finite: Tensor
    confidence: Tensor | None = None

    def take(self, places: Sequence[int]) -> Decisions:
        """Those of some heads."""
        index = torch.tensor(places, dtype=torch.int64, device=self.predicted.device)
        confidence = None if self.confidence is None else self.confidence[index]
        return Decisions(self.predicted[index], self.finite[index], confidence)


def decide(features: Tensor, weight: Tensor, bias: Tensor, with_confidence: bool = False) -> Decisions:
    """Predict the class of every sample by every head.

    Args:
        features: shape (n, d), float32.
        weight: W of each head, shape (p, K, d).
        bias: b of each head, shape (p, K).
        with_confidence: compute the probability of the predicted class too.
    """
    (rows, classes, _), samples = weight.shape, len(features)
    predicted = torch.empty(rows, samples, dtype=torch.int64, device=features.device)
    finite = torch.empty(rows, dtype=torch.bool, device=features.device)
    confidence = torch.empty(rows, samples, device=features.device) if with_confidence else None
    numbers = _NUMBERS_AT_ONCE if features.device.type == "cpu" else _NUMBERS_OF_AN_ACCELERATOR
    # Some heads on all samples, or one head on some of them where even its logits are many.
    heads = max(1, numbers // (classes * samples))
    part = max(1, numbers // classes)
    bounded = bool(_bounded(features, weight, bias).all())
    for begin in range(0, rows, heads):
        held = slice(begin, begin + heads)
        w, b = weight[held], bias[held].unsqueeze(2)
        good = torch.ones(len(w), dtype=torch.bool, device=features.device)
        for start in range(0, samples, part):
            some = slice(start, start + part)
            logits = (w.flatten(0, 1) @ features[some].T).view(len(w), classes, -1).add_(b)
            highest, chosen = logits.max(dim=1)
            predicted[held, some] = chosen
            if not bounded:
                good &= torch.isfinite(logits).flatten(1).all(dim=1)
            if confidence is not None:
                confidence[held, some] = 1.0 / (logits - highest.unsqueeze(1)).exp_().sum(dim=1)
        finite[held] = good
    return Decisions(predicted, finite, confidence)


def _bounded(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """True for heads whose logits must be finite by the size of their numbers, shape (p,); NaN is not bounded."""
    largest = features.abs().sum(dim=1).amax() * weight.abs().amax(dim=(1, 2)) + bias.abs().amax(dim=1)
    return largest < 1e37


def confusions(strata: Tensor, predicted: Tensor, num_strata: int, num_classes: int) -> Tensor:
    """Count the samples of each stratum by predicted class, for many heads.

    Args:
        strata: true strata, shape (n,).
        predicted: shape (p, n).
        num_strata: S.
        num_classes: K.
    Returns:
        Shape (p, S, K), int64.
    """
    rows, size = len(predicted), num_strata * num_classes
    offsets = torch.arange(rows, device=predicted.device).unsqueeze(1) * size
    cells = offsets + strata * num_classes + predicted
    return torch.bincount(cells.flatten(), minlength=rows * size).view(rows, num_strata, num_classes)
