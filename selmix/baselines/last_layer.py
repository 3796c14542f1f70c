"""Classifier trained again on frozen features, class-balanced: deterministic, to the bit.

Class-balanced last-layer retraining on train + feedback is the first thing a careful colleague tries (deep feature
reweighting, Kirichenko et al. 2023; classifier re-training, Kang et al. 2020). Its head is also the start
``balanced_head`` of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from selmix.baselines.head_losses import equal_shares, weighted_cross_entropy
from selmix.baselines.head_path import FittedHead, head_path
from selmix.data.splits import Split, SweepData, join
from selmix.groups import strata_of
from selmix.metrics import MetricContext, Predictions
from selmix.model import ClassifierView, predict
from selmix.models import ModelConfig
from selmix.run.start_model import Base
from selmix.statistics.selection import Rank, SelectionRule, rank
from selmix.weights import State, load_checkpoint_into

WEIGHT_DECAYS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


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
    (head,) = balanced_heads(features, labels, num_classes, (weight_decay,), strata)
    return head.weight, head.bias


def balanced_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    decays: Sequence[float],
    strata: Tensor | None = None,
) -> Iterator[FittedHead]:
    """:func:`balanced_logistic_regression` with several weight decays, the largest first, each from the one before.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        num_classes: K.
        decays: weight decays, in any order.
        strata: stratum of each sample, shape (n,), where strata weigh the same; None where classes do.
    """
    shares = equal_shares(labels if strata is None else strata)
    return head_path(features, weighted_cross_entropy(labels, shares), num_classes, decays, shares)


def tuned_head(
    view: ClassifierView,
    split: Split,
    data: SweepData,
    selection: SelectionRule,
    by_group: bool = False,
) -> tuple[dict[str, Tensor], float]:
    """Fit the class-balanced head on ``split`` with the weight decay that ranks highest on select.

    Args:
        view: of the base model, whose features are used.
        split: samples to fit on.
        data: select, training counts and groups.
        selection: rule of the score, whose constraints come first.
        by_group: every (class, group) cell weighs the same instead of every class.
    Returns:
        ``weight`` (K, d) and ``bias`` (K,), float32 on the CPU, and the weight decay. Of equal ranks the larger
        decay is kept.
    """
    features, _ = predict(view, split.inputs)
    strata = None
    if by_group and split.groups is not None:
        strata = strata_of(split.labels, split.groups, data.num_groups)
    rank_of = _select_ranker(view, data, selection)
    best: tuple[Rank, float, dict[str, Tensor]] | None = None
    for fitted in balanced_heads(features, split.labels, data.num_classes, WEIGHT_DECAYS, strata):
        head = _as_head(fitted.weight, fitted.bias)
        reached = rank_of(head)
        if best is None or reached > best[0]:
            best = (reached, fitted.decay, head)
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


def _select_ranker(
    view: ClassifierView, data: SweepData, selection: SelectionRule
) -> Callable[[dict[str, Tensor]], Rank]:
    features = predict(view, data.select.inputs)[0].cpu()
    context = MetricContext(data.train_counts.cpu(), selection.definitions, data.num_groups)

    def rank_of(head: dict[str, Tensor]) -> Rank:
        logits = features @ head["weight"].T + head["bias"]
        predictions = Predictions.from_logits(data.select.labels, logits, data.select.groups)
        return rank(selection, predictions, context)

    return rank_of


def _as_head(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"weight": weight.float().cpu(), "bias": bias.float().cpu()}
