"""The best linear head of a world of Gaussians for an objective: what any fine-tuner can at most reach there.

It maximises over W, b

    psi_beta(S),   S_kl = mean over the samples x of class k of softmax((W x + b) / t)_l

on a very large balanced sample of the world, by Adam while the temperature t falls, so that soft rates become hard
ones. A minimum becomes min_beta(r) = -1/beta log mean_k exp(-beta r_k), with beta growing; a floor of every class's
coverage a penalty on what is missing, of a slope steep enough that missing it never pays. The problem is not convex:
several starts are refined on a small sample and the best of them on the large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.confusion import confusion_counts
from selmix.data.gaussians import GaussiansConfig
from selmix.data.splits import Split
from selmix.definitions import DEFAULT_CVAR_FRACTION, cvar_of_recalls
from selmix.metrics import MetricContext, compute_metric
from selmix.multipliers import MultiplierSettings
from selmix.objectives import metric_of_objective

FIT, FRESH = 20_000, 50_000  # samples a class that the head is fitted on, and that it is judged on
_COARSE = 2_000
_STARTS = 6
_FINALISTS = 2
_COARSE_STEPS, _FINE_STEPS = 300, 250
_TINY = 1e-6

# Raising one class's coverage by c changes the mean recall by less than K c, so a slope of 10 outweighs it for K < 10.
_PENALTY = 10.0


def _smooth_minimum(values: Tensor, beta: float) -> Tensor:
    return (math.log(len(values)) - torch.logsumexp(-beta * values, dim=0)) / beta


def _macro_f1(rates: Tensor, beta: float) -> Tensor:
    return (2.0 * rates.diagonal() / (1.0 + rates.sum(dim=0))).mean()


def _min_precision(rates: Tensor, beta: float) -> Tensor:
    return _smooth_minimum(rates.diagonal() / rates.sum(dim=0).clamp_min(_TINY), beta)


def _missing_coverage(rates: Tensor) -> Tensor:
    """What the classes' coverages lack of the floor, added up."""
    floor = MultiplierSettings().coverage_level / len(rates)
    return (floor - rates.mean(dim=0)).clamp_min(0.0).sum()


SmoothObjective = Callable[[Tensor, float], Tensor]
OF_RECALLS: dict[str, SmoothObjective] = {
    "mean_recall": lambda recalls, beta: recalls.mean(),
    "g_mean": lambda recalls, beta: recalls.clamp_min(_TINY).log().mean().exp(),
    "h_mean": lambda recalls, beta: recalls.clamp_min(_TINY).reciprocal().mean().reciprocal(),
    "min_recall": _smooth_minimum,
    "cvar_recall": lambda recalls, beta: cvar_of_recalls(recalls, DEFAULT_CVAR_FRACTION),
    "q_mean": lambda recalls, beta: 1.0 - ((1.0 - recalls).square().mean() + _TINY**2).sqrt(),
}
OF_RATES: dict[str, SmoothObjective] = {
    "macro_f1": _macro_f1,
    "min_precision": _min_precision,
    "mean_recall_min_coverage": lambda rates, beta: (
        rates.diagonal().mean() - _PENALTY * _missing_coverage(rates)
    ),
}
"""Of the row-normalised confusion matrix of a balanced sample, shape (K, K)."""
SMOOTH_OBJECTIVES = (*OF_RECALLS, *OF_RATES)


@dataclass(frozen=True)
class Optimum:
    """The best head found and what it reaches on a fresh sample.

    Attributes:
        head: ``weight`` (K, d) and ``bias`` (K,), float32.
        value: the objective's metric. recalls: of the classes, on samples the fit has not seen.
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
    counts = hard_counts(fresh, classes, weight, bias)
    value = compute_metric(metric_of_objective(objective), counts, MetricContext(counts.sum(dim=1)))
    recalls = counts.diagonal() / counts.sum(dim=1)
    return Optimum({"weight": weight, "bias": bias}, float(value), tuple(recalls.tolist()))


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


def hard_counts(samples: Split, num_classes: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Confusion counts by the largest logit, shape (K, K), float64."""
    predicted = (samples.whole() @ weight.T + bias).argmax(dim=1)
    return confusion_counts(samples.labels, predicted, num_classes, num_classes).double()


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

    def soft_rates(self, theta: Tensor, temperature: float) -> Tensor:
        shares = torch.softmax(self.inputs @ theta.T / temperature, dim=1)
        sums = torch.zeros(self.classes, self.classes).index_add(0, self.labels, shares)
        return sums / self.sizes.unsqueeze(1)

    def smooth(self, objective: str, theta: Tensor, temperature: float, beta: float) -> Tensor:
        """The objective of the soft rates."""
        if objective in OF_RECALLS:
            return OF_RECALLS[objective](self.soft_recalls(theta, temperature), beta)
        return OF_RATES[objective](self.soft_rates(theta, temperature), beta)

    def value(self, objective: str, theta: Tensor) -> float:
        """The objective's metric of the hard predictions, less what a missed floor costs."""
        samples = Split(self.inputs[:, :-1], self.labels)
        counts = hard_counts(samples, self.classes, theta[:, :-1], theta[:, -1])
        value = compute_metric(metric_of_objective(objective), counts, MetricContext(counts.sum(dim=1)))
        if objective.endswith("_min_coverage"):
            value = value - _PENALTY * _missing_coverage(counts / counts.sum(dim=1, keepdim=True))
        return float(value)


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
        loss = -sample.smooth(objective, theta, temperature, 20.0 / temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            theta *= math.sqrt(theta.numel()) / theta.norm()
    found: Tensor = theta.detach()
    return found
