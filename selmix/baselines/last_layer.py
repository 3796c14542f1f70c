"""Classifier trained again on frozen features, class-balanced: deterministic, to the bit.

Class-balanced last-layer retraining on train + feedback is the first thing a careful colleague tries (deep feature
reweighting, Kirichenko et al. 2023; classifier re-training, Kang et al. 2020). Its head is also the start
``balanced_head`` of the method.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.data.splits import Split, SweepData, join
from selmix.groups import strata_of
from selmix.metrics import MetricContext, Predictions
from selmix.model import ClassifierView, predict
from selmix.models import ModelConfig
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule, score
from selmix.weights import State, load_checkpoint_into

WEIGHT_DECAYS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_ITERATIONS = 500


def balanced_logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    weight_decay: float,
    strata: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with every class (or every stratum) weighing the same.

    Minimises mean over classes of the class's mean cross-entropy + weight_decay / 2 ||W||^2 over standardised
    features by L-BFGS in float64; the standardisation is folded back.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        num_classes: K.
        weight_decay: of W.
        strata: stratum of each sample, shape (n,), where strata weigh the same; None where classes do.
    Returns:
        W, shape (K, d), and b, shape (K,), float64.
    """
    x = features.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, unbiased=False)
    # A constant feature has no spread but rounding, by which it must not be divided.
    scale = torch.where(scale > 1e-8 * scale.max(), scale, 1.0)
    z = (x - mean) / scale
    cells = labels if strata is None else strata
    # Strata without samples are not counted among those that share the weight.
    counts = torch.bincount(cells).double()
    sample_weights = 1.0 / (counts[cells] * (counts > 0).sum())
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, device=x.device, requires_grad=True)
    # The loss is convex: full batch with line search needs no learning rate and draws nothing.
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(z @ weight.T + bias, labels, reduction="none")
        loss = (sample_weights * losses).sum() + 0.5 * weight_decay * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    folded = weight.detach() / scale
    return folded, bias.detach() - folded @ mean


def tuned_head(
    view: ClassifierView,
    split: Split,
    data: SweepData,
    selection: SelectionRule,
    by_group: bool = False,
) -> tuple[dict[str, Tensor], float]:
    """Fit the class-balanced head on ``split`` with the weight decay that scores highest on select.

    Args:
        view: of the base model, whose features are used.
        split: samples to fit on.
        data: select, training counts and groups.
        selection: rule of the score.
        by_group: every (class, group) cell weighs the same instead of every class.
    Returns:
        ``weight`` (K, d) and ``bias`` (K,), float32 on the CPU, and the weight decay. Of equal scores the larger
        decay is kept.
    """
    features, _ = predict(view, split.inputs)
    strata = None
    if by_group and split.groups is not None:
        strata = strata_of(split.labels, split.groups, data.num_groups)
    rate = _select_scorer(view, data, selection)
    best: tuple[float, float, dict[str, Tensor]] | None = None
    for decay in sorted(WEIGHT_DECAYS, reverse=True):
        head = _as_head(
            *balanced_logistic_regression(features, split.labels, data.num_classes, decay, strata)
        )
        value = rate(head)
        if best is None or value > best[0]:
            best = (value, decay, head)
    # For the type checker: the loop has run.
    if best is None:
        raise AssertionError("WEIGHT_DECAYS is not empty")
    return best[2], best[1]


def start_head(config: ModelConfig, state: State, data: SweepData, selection: SelectionRule) -> State:
    """The head of ``start: balanced_head``: class-balanced on train + feedback, its decay tuned on select.

    Args:
        config: configuration of the network.
        state: weights of the base model.
        data: splits.
        selection: rule that tunes the weight decay.
    Returns:
        ``weight`` (K, d) and ``bias`` (K,), float32 on the CPU.
    """
    model = config.build(data.input_shape, data.num_classes)
    load_checkpoint_into(model, state)
    return tuned_head(config.view(model), join(data.train, data.feedback), data, selection)[0]


def start_base(config: ModelConfig, state: State, data: SweepData, selection: SelectionRule) -> Base:
    """A base model with the head that runs start from.

    Args:
        config: configuration of the network.
        state: weights of the base model.
        data: splits.
        selection: rule that tunes the head's weight decay.
    """
    return Base(config, state, start_head(config, state, data, selection))


def _select_scorer(
    view: ClassifierView, data: SweepData, selection: SelectionRule
) -> Callable[[dict[str, Tensor]], float]:
    features = predict(view, data.select.inputs)[0].cpu()
    context = MetricContext(data.train_counts.cpu(), selection.definitions, data.num_groups)

    def rate(head: dict[str, Tensor]) -> float:
        logits = features @ head["weight"].T + head["bias"]
        predictions = Predictions.from_logits(data.select.labels, logits, data.select.groups)
        return score(selection, predictions, context)

    return rate


def _as_head(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"weight": weight.float().cpu(), "bias": bias.float().cpu()}
