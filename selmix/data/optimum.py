"""The best linear head of a world of Gaussians for an objective: what any fine-tuner can at most reach there.

With psi a function of the recalls, it maximises over W, b

    psi_beta(r_1, ..., r_K),   r_k = mean over the samples x of class k of softmax((W x + b) / t)_k

on a very large balanced sample of the world, by Adam while the temperature t falls, so that soft recalls become hard
ones. The minimum becomes min_beta(r) = -1/beta log mean_k exp(-beta r_k), with beta growing. The problem is not
convex: several starts are refined on a small sample and the best of them on the large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.data.gaussians import GaussiansConfig
from selmix.data.splits import Split

FIT, FRESH = 20_000, 50_000  # samples a class that the head is fitted on, and that it is judged on
_COARSE = 2_000
_STARTS = 6
_FINALISTS = 2
_COARSE_STEPS, _FINE_STEPS = 300, 250
_TINY = 1e-6

SmoothObjective = Callable[[Tensor, float], Tensor]
SMOOTH_OBJECTIVES: dict[str, SmoothObjective] = {
    "mean_recall": lambda recalls, beta: recalls.mean(),
    "g_mean": lambda recalls, beta: recalls.clamp_min(_TINY).log().mean().exp(),
    "h_mean": lambda recalls, beta: recalls.clamp_min(_TINY).reciprocal().mean().reciprocal(),
    "min_recall": lambda recalls, beta: (
        (math.log(len(recalls)) - torch.logsumexp(-beta * recalls, dim=0)) / beta
    ),
}
_HARD = math.inf


@dataclass(frozen=True)
class Optimum:
    """The best head found and what it reaches on a fresh sample.

    Attributes:
        head: ``weight`` (K, d) and ``bias`` (K,), float32.
        value: the objective of ``recalls``. recalls: of the classes, on samples the fit has not seen.
    """

    head: Mapping[str, Tensor]
    value: float
    recalls: tuple[float, ...]


def optimum(
    config: GaussiansConfig, objective: str, fit_samples: int = FIT, fresh_samples: int = FRESH
) -> Optimum:
    """The best linear head over the raw features of a world, deterministic.

    Args:
        objective: of SMOOTH_OBJECTIVES.
        fit_samples, fresh_samples: a class, drawn from the world's own stream ``optimum``.
    Raises:
        ValueError: an objective that this cannot optimise; the message lists those it can.
    """
    classes = config.classes
    sample = config.sample("optimum", [fit_samples + fresh_samples] * classes)
    inputs = sample.whole().view(classes, -1, config.dim)
    fit, fresh = (
        Split(part.reshape(-1, config.dim), torch.arange(classes).repeat_interleave(part.shape[1]))
        for part in (inputs[:, :fit_samples], inputs[:, fit_samples:])
    )
    weight, bias = best_linear_head(fit, classes, objective)
    recalls = hard_recalls(fresh, classes, weight, bias)
    value = float(_hard_value(objective, recalls))
    return Optimum({"weight": weight, "bias": bias}, value, tuple(recalls.tolist()))


def best_linear_head(samples: Split, num_classes: int, objective: str) -> tuple[Tensor, Tensor]:
    """W, shape (K, d), and b, shape (K,), float32, with the highest objective on a large sample.

    Args:
        samples: of every class, many enough that a linear head cannot overfit them.
        objective: of SMOOTH_OBJECTIVES.
    Raises:
        ValueError: an objective that this cannot optimise.
    """
    if objective not in SMOOTH_OBJECTIVES:
        raise ValueError(f"no optimum for {objective!r}; there are {', '.join(SMOOTH_OBJECTIVES)}")
    inputs = samples.whole()
    mean, scale = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(_TINY)
    groups = [(inputs[samples.labels == k] - mean) / scale for k in range(num_classes)]
    coarse = _Sample([group[:_COARSE] for group in groups])
    found = []
    for start in _starts(coarse):
        fitted = _ascend(coarse, objective, start, _COARSE_STEPS, 1.0, 0.1)
        found.append((coarse.value(objective, fitted), fitted))
    found.sort(key=lambda pair: -pair[0])
    whole = _Sample(groups)
    refined = [_ascend(whole, objective, theta, _FINE_STEPS, 0.1, 0.01) for _, theta in found[:_FINALISTS]]
    theta = max(refined, key=lambda candidate: whole.value(objective, candidate))
    weight = theta[:, :-1] / scale
    return weight, theta[:, -1] - weight @ mean


def hard_recalls(samples: Split, num_classes: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Recall of each class by the largest logit, shape (K,), float64."""
    right = (samples.whole() @ weight.T + bias).argmax(dim=1) == samples.labels
    hits = torch.bincount(samples.labels[right], minlength=num_classes)
    return hits.double() / torch.bincount(samples.labels, minlength=num_classes)


def _hard_value(objective: str, recalls: Tensor) -> Tensor:
    return recalls.min() if objective == "min_recall" else SMOOTH_OBJECTIVES[objective](recalls, _HARD)


class _Sample:
    """Standardised inputs with a column of ones, and the classes they belong to."""

    def __init__(self, groups: list[Tensor]) -> None:
        rows = torch.cat(groups)
        self.classes = len(groups)
        self.inputs = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        sizes = torch.tensor([len(group) for group in groups])
        self.labels = torch.repeat_interleave(torch.arange(len(groups)), sizes)
        self.sizes = sizes.to(self.inputs)

    def soft_recalls(self, theta: Tensor, temperature: float) -> Tensor:
        log_right = -F.cross_entropy(self.inputs @ theta.T / temperature, self.labels, reduction="none")
        sums = torch.zeros(self.classes).index_add(0, self.labels, log_right.exp())
        return sums / self.sizes

    def value(self, objective: str, theta: Tensor) -> float:
        """The objective of the hard recalls."""
        samples = Split(self.inputs[:, :-1], self.labels)
        recalls = hard_recalls(samples, self.classes, theta[:, :-1], theta[:, -1])
        return float(_hard_value(objective, recalls))


def _starts(sample: _Sample) -> list[Tensor]:
    """Class-balanced logistic regression, then the same with the classes weighted at random; (K, d + 1) each."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.ones(sample.classes)]
    weights += [torch.randn(sample.classes, generator=generator).exp() for _ in range(_STARTS - 1)]
    return [_logistic_regression(sample, each / each.sum()) for each in weights]


def _logistic_regression(sample: _Sample, class_weights: Tensor) -> Tensor:
    theta = torch.zeros(sample.classes, sample.inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=30, line_search_fn="strong_wolfe")
    weights = class_weights / sample.sizes

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(sample.inputs @ theta.T, sample.labels, reduction="none")
        loss: Tensor = (weights[sample.labels] * losses).sum() + 1e-3 * theta.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return theta.detach()


def _ascend(sample: _Sample, objective: str, start: Tensor, steps: int, hot: float, cold: float) -> Tensor:
    """Adam on the smooth objective from ``start``; the temperature falls from ``hot`` to ``cold``."""
    # The logits' scale and the temperature are one quantity: the scale is fixed so that only t sets the softness.
    theta = (start / start.norm() * math.sqrt(start.numel())).requires_grad_(True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for step in range(steps):
        share = step / steps
        temperature = hot * (cold / hot) ** share
        optimizer.param_groups[0]["lr"] = 0.05 * math.sqrt(temperature)
        loss = -SMOOTH_OBJECTIVES[objective](sample.soft_recalls(theta, temperature), 20.0 / temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            theta *= math.sqrt(theta.numel()) / theta.norm()
    found: Tensor = theta.detach()
    return found
