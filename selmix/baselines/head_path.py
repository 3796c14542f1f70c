"""Linear classifiers on frozen features along a path of weight decays: one solver for every head.

The largest decay is fitted first and each next one starts from the solution before it. The solver is L-BFGS in float64
on the device of the features, in coordinates in which the loss curves about alike in every direction: features of a
deep network are far from independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ITERATIONS = 500
_HISTORY = 20  # steps that L-BFGS remembers; each is as large as the head
_NUMBERS_OF_A_BLOCK = 2**16

HeadLoss = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Logits (n, K), float64, which may be overwritten -> the loss, a scalar, and its gradient in the logits, (n, K)."""


@dataclass(frozen=True)
class FittedHead:
    """A linear classifier of the features as they came.

    Attributes:
        decay: weight decay that it was fitted with.
        weight: W, shape (K, d), float64, on the device of the features.
        bias: b, shape (K,), likewise.
    """

    decay: float
    weight: Tensor
    bias: Tensor


def head_path(
    features: Tensor, loss: HeadLoss, num_classes: int, decays: Sequence[float], sample_weights: Tensor
) -> Iterator[FittedHead]:
    """Minimise loss(W z + b) + decay / 2 ||W||^2 over standardised features z, decay by decay, the largest first.

    The standardisation is folded back. Nothing is drawn: equal input gives equal heads.

    Args:
        features: shape (n, d).
        loss: of the logits of all samples.
        num_classes: K.
        decays: weight decays, in any order.
        sample_weights: weights that the samples have in the loss at equal logits, shape (n,), which sum to 1.
    """
    x = features.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, unbiased=False)
    # A constant feature has no spread but rounding, by which it must not be divided.
    scale = torch.where(scale > 1e-8 * scale.max(), scale, 1.0)
    z = (x - mean) / scale
    weight = torch.zeros(num_classes, x.shape[1], dtype=x.dtype, device=x.device)
    bias = torch.zeros(num_classes, dtype=x.dtype, device=x.device)
    for decay in sorted(decays, reverse=True):
        weight, bias = minimised(z, loss, weight, bias, decay, sample_weights.to(x))
        folded = weight / scale
        yield FittedHead(decay, folded, bias - folded @ mean)


def penalised(
    features: Tensor, loss: HeadLoss, weight: Tensor, bias: Tensor, decay: float, free: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Value of loss(W x + b) + decay / 2 ||W||^2 and its gradients in closed form.

    Autograd would keep several matrices of the size of the logits.

    Args:
        features: x, shape (n, d).
        loss: of the logits of all samples.
        weight: W, shape (K, d).
        bias: b, shape (K,).
        decay: weight decay.
        free: a direction of each class's weights that does not decay, of length 1 or 0, shape (K, d); None where all of
            them decay.
    Returns:
        Value, shape (), and gradients in W and b, shapes (K, d) and (K,).
    """
    value, residuals = loss(torch.addmm(bias, features, weight.T))
    decaying = weight if free is None else weight - (weight * free).sum(dim=1, keepdim=True) * free
    by_weight = residuals.T @ features + decay * decaying
    return value + 0.5 * decay * decaying.square().sum(), by_weight, residuals.sum(dim=0)


def minimised(
    z: Tensor,
    loss: HeadLoss,
    weight: Tensor,
    bias: Tensor,
    decay: float,
    sample_weights: Tensor,
    free: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """W and b of least :func:`penalised` loss, from those given on; the mean of b is 0.

    Args:
        z: features, shape (n, d), float64.
        loss: of the logits of all samples.
        weight: W to begin with, shape (K, d).
        bias: b to begin with, shape (K,).
        decay: weight decay.
        sample_weights: see :func:`head_path`.
        free: see :func:`penalised`.
    """
    # The second derivative in the head of class k is about c_k S + decay, with the curvature c_k of its logit and the
    # covariance S of the features, both at the start. Divided by its root, along the axes of S, all directions curve
    # alike. Where the start is certain of a class its curvature may come back: it is taken as a hundredth at least.
    curvature = z @ weight.T
    for part in row_blocks(curvature):
        block = curvature[part]
        block += bias
        block.copy_(torch.softmax(block, dim=1))
        block.mul_(1.0 - block)
    by_class = (sample_weights @ curvature).clamp_min(0.01 / len(bias))
    by_sample = sample_weights * curvature.mean(dim=1)
    # As large as the logits.
    del curvature
    by_sample = 0.9 * by_sample / by_sample.sum() + 0.1 * sample_weights
    centre = by_sample @ z
    spread, axes = torch.linalg.eigh(((z - centre) * by_sample.unsqueeze(1)).T @ (z - centre))
    root = (by_class.unsqueeze(1) * spread.clamp_min(1e-6 * spread.max()) + decay).sqrt()
    bias_root = by_class.sqrt()

    def head(moved: Tensor) -> tuple[Tensor, Tensor]:
        part = (moved[:, :-1] / root) @ axes.T
        return part, moved[:, -1] / bias_root - part @ centre

    start = torch.cat([(weight @ axes) * root, ((bias + weight @ centre) * bias_root).unsqueeze(1)], dim=1)
    moved = start.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [moved],
        max_iter=_ITERATIONS,
        history_size=_HISTORY,
        tolerance_grad=1e-9,
        # A finer one is below what float64 resolves: the line search would go on without gain.
        tolerance_change=1e-11,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        value, by_weight, by_bias = penalised(z, loss, *head(moved), decay, free)
        by_weight = by_weight - by_bias.unsqueeze(1) * centre
        moved.grad = torch.cat([(by_weight @ axes) / root, (by_bias / bias_root).unsqueeze(1)], dim=1)
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    weight, bias = head(moved.detach())
    # A constant on all logits changes nothing, and would depend on the way to the minimum.
    return weight, bias - bias.mean()


def row_blocks(values: Tensor) -> Iterator[slice]:
    """Blocks of rows of a matrix, for work that is done row by row: the bits are those of the whole.

    On a CPU a block fits its cache, elsewhere it bounds the memory of what is computed on the way.
    """
    numbers = _NUMBERS_OF_A_BLOCK if values.device.type == "cpu" else 1024 * _NUMBERS_OF_A_BLOCK
    size = max(1, numbers // max(1, values.shape[1]))
    for start in range(0, len(values), size):
        yield slice(start, start + size)
