"""Fidelity of the gain: its correlation with the change that a real step on each pair makes.

The gain is a first-order estimate at class prototypes. Here the classifier takes a real step on mixed samples of a
pair, and the objective of the soft confusion (mean softmax by stratum) is computed before and after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.data.splits import Split
from selmix.model import ClassifierView, predict

MAX_PAIRS = 200
# Samples per stratum, and mixed samples per step.
SAMPLES = 32


@dataclass(frozen=True)
class Fidelity:
    """Predicted and real change of the objective, by pair.

    Attributes:
        spearman: rank correlation over the pairs; NaN if either side is constant.
        pearson: linear correlation over the pairs; NaN if either side is constant.
        pairs: the pairs (i, j), shape (p, 2).
        predicted: gain of each pair, shape (p,).
        actual: change of the objective by a step on each pair, shape (p,).
    """

    spearman: float
    pearson: float
    pairs: Tensor
    predicted: Tensor
    actual: Tensor


def gain_fidelity(
    view: ClassifierView,
    pool: Split,
    strata: Tensor,
    feedback: Split,
    feedback_strata: Tensor,
    objective: Callable[[Tensor], Tensor],
    gain: Tensor,
    labels: Tensor,
    coefficient: float,
    step: float,
    drawable: Tensor,
    generator: torch.Generator,
) -> Fidelity:
    """Correlate the gain with the real change, over all pairs or 200 of them drawn at random.

    Args:
        view: the model; it is not changed.
        pool: samples to step on.
        strata: stratum of each of them, shape (n,).
        feedback: samples that the change is measured on.
        feedback_strata: stratum of each of them.
        objective: psi, of the joint confusion (S, K).
        gain: G, shape (S, S).
        labels: class of each stratum, shape (S,).
        coefficient: lam of the mixture.
        step: size of the SGD step.
        drawable: pairs that can be drawn, shape (S, S), bool.
        generator: source of the drawn pairs and samples, on the CPU.
    """
    pairs = torch.nonzero(drawable.cpu())
    if len(pairs) > MAX_PAIRS:
        pairs = pairs[torch.randperm(len(pairs), generator=generator)[:MAX_PAIRS]]
    # The backbone stays as it is in these steps, so that features are computed once for all of them.
    features = _features_of(view, pool, strata, torch.unique(pairs).tolist(), generator)
    feedback_features, _ = predict(view, feedback.inputs)
    weight, bias = view.head.weight.detach(), view.head.bias.detach()
    before = objective(_soft_confusion(feedback_features @ weight.T + bias, feedback_strata, len(gain)))
    changes = []
    for i, j in pairs.tolist():
        mixed = _mixed(features[i], features[j], coefficient, generator)
        # One SGD step on the cross-entropy, written out: its gradient in the logits is softmax minus label.
        residual = torch.softmax(mixed @ weight.T + bias, dim=1)
        residual[:, labels[i]] -= 1.0
        stepped = weight - step * residual.T @ mixed / len(mixed)
        after = objective(_soft_confusion(feedback_features @ stepped.T + bias, feedback_strata, len(gain)))
        changes.append(float(after - before))
    actual = torch.tensor(changes, dtype=torch.float64)
    predicted = gain.cpu()[pairs[:, 0], pairs[:, 1]].double()
    return Fidelity(*_correlations(predicted, actual), pairs, predicted, actual)


def policy_entropy(policy: Tensor) -> float:
    """Entropy H(P) in nats."""
    # 0 log 0 counts as 0.
    positive = policy[policy > 0]
    return float(-(positive * positive.log()).sum())


def prototype_drift(before: Tensor, after: Tensor) -> float:
    """Mean distance that the prototypes moved, divided by their mean norm before."""
    # Prototypes may all be 0, as features after a ReLU may.
    norm = before.norm(dim=1).mean().clamp_min(1e-12)
    return float((after - before).norm(dim=1).mean() / norm)


def _features_of(
    view: ClassifierView, pool: Split, strata: Tensor, wanted: list[int], generator: torch.Generator
) -> dict[int, Tensor]:
    chosen = {}
    for stratum in wanted:
        members = torch.nonzero(strata == stratum).flatten()
        picked = torch.randperm(len(members), generator=generator)[:SAMPLES]
        chosen[stratum] = predict(view, pool.take(members[picked.to(members.device)]).inputs)[0]
    return chosen


def _mixed(first: Tensor, second: Tensor, coefficient: float, generator: torch.Generator) -> Tensor:
    rows = [
        torch.randint(len(part), (SAMPLES,), generator=generator).to(part.device) for part in (first, second)
    ]
    return coefficient * first[rows[0]] + (1.0 - coefficient) * second[rows[1]]


def _soft_confusion(logits: Tensor, strata: Tensor, num_strata: int) -> Tensor:
    """Soft confusion: mean softmax of each stratum times the stratum's share, shape (S, K), float64."""
    shares = F.softmax(logits.double(), dim=1)
    total = torch.zeros(num_strata, logits.shape[1], dtype=torch.float64, device=logits.device)
    return total.index_add(0, strata, shares) / len(strata)


def _correlations(predicted: Tensor, actual: Tensor) -> tuple[float, float]:
    """Spearman's and Pearson's correlation; NaN if one side does not vary."""
    # Imported on demand: fine-tuning without the diagnosis needs no scipy.
    from scipy.stats import pearsonr, spearmanr

    # scipy would warn of constant values and return NaN too.
    if len(torch.unique(predicted)) < 2 or len(torch.unique(actual)) < 2:
        return float("nan"), float("nan")
    x, y = predicted.numpy(), actual.numpy()
    return float(spearmanr(x, y).statistic), float(pearsonr(x, y).statistic)
