"""Classifier trained again on frozen features, class-balanced: deterministic, to the bit.

Class-balanced last-layer retraining on train + feedback is the first thing a careful colleague tries (deep feature
reweighting, Kirichenko et al. 2023; classifier re-training, Kang et al. 2020). Its head is also the start
``balanced_head`` of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from selmix.baselines.head_losses import equal_shares, weighted_cross_entropy
from selmix.baselines.head_path import FittedHead, head_path
from selmix.baselines.shared_fits import SHARED_FITS
from selmix.data.feature_cache import FeatureCache
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


def shared_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    decays: Sequence[float],
    strata: Tensor | None = None,
) -> list[FittedHead]:
    """:func:`balanced_heads`, fitted once in a process for all who need the same ones; arguments as there."""
    tensors = [features, labels] if strata is None else [features, labels, strata]
    return SHARED_FITS.path(
        lambda: balanced_heads(features, labels, num_classes, decays, strata), tensors, (num_classes, *decays)
    )


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
    (best,) = tuned_heads(view, split, data, (selection,), by_group)
    return best


def tuned_heads(
    view: ClassifierView,
    split: Split,
    data: SweepData,
    selections: Sequence[SelectionRule],
    by_group: bool = False,
) -> list[tuple[dict[str, Tensor], float]]:
    """:func:`tuned_head` under several rules, which choose among the same heads: these are fitted once.

    Args:
        view: of the base model, whose features are used.
        split: samples to fit on.
        data: select, training counts and groups.
        selections: rules of the score.
        by_group: every (class, group) cell weighs the same instead of every class.
    Returns:
        What :func:`tuned_head` returns, rule by rule.
    """
    features, _ = predict(view, split.inputs)
    strata = None
    if by_group and split.groups is not None:
        strata = strata_of(split.labels, split.groups, data.num_groups)
    rank_of = _select_ranker(view, data)
    best: list[tuple[Rank, dict[str, Tensor], float]] = []
    for fitted in shared_heads(features, split.labels, data.num_classes, WEIGHT_DECAYS, strata):
        head = _as_head(fitted.weight, fitted.bias)
        reached = [(rank, head, fitted.decay) for rank in rank_of(head, selections)]
        # Of equal ranks the earlier head stays, that of the larger decay.
        pairs = zip(best, reached, strict=True)
        best = [new if new[0] > old[0] else old for old, new in pairs] if best else reached
    return [(head, decay) for _, head, decay in best]


def start_heads(
    config: ModelConfig, state: State, data: SweepData, selections: Mapping[str, SelectionRule],
    cache: FeatureCache | None = None,
) -> dict[str, State]:  # fmt: skip
    """Heads of ``start: balanced_head``: class-balanced on train + feedback, their decays tuned on select.

    Args:
        config: configuration of the network.
        state: weights of the base model.
        data: splits, on the device that the heads are fitted on.
        selections: objective -> rule that tunes the weight decay.
        cache: of the features of this network with these weights.
    Returns:
        Objective -> ``weight`` (K, d) and ``bias`` (K,), float32 on the CPU.
    """
    model = config.build(data.input_shape, data.num_classes)
    load_checkpoint_into(model, state)
    view = config.view(model.to(data.train.inputs.device))
    view.cache = cache
    tuned = tuned_heads(view, join(data.train, data.feedback), data, list(selections.values()))
    return {objective: head for objective, (head, _) in zip(selections, tuned, strict=True)}


def start_base(config: ModelConfig, state: State, data: SweepData, selection: SelectionRule) -> Base:
    """A base model with the head that runs start from.

    Args:
        config: configuration of the network.
        state: weights of the base model.
        data: splits.
        selection: rule that tunes the head's weight decay.
    """
    (head,) = start_heads(config, state, data, {"": selection}).values()
    return Base(config, state, head)


def _select_ranker(
    view: ClassifierView, data: SweepData
) -> Callable[[dict[str, Tensor], Sequence[SelectionRule]], list[Rank]]:
    """Function that ranks a head on select, rule by rule."""
    # On the CPU, where logits are scored; the samples may lie on another device.
    features, labels = predict(view, data.select.inputs)[0].cpu(), data.select.labels.cpu()
    groups = None if data.select.groups is None else data.select.groups.cpu()

    def ranks(head: dict[str, Tensor], selections: Sequence[SelectionRule]) -> list[Rank]:
        logits = features @ head["weight"].T + head["bias"]
        predictions = Predictions.from_logits(labels, logits, groups)
        return [
            rank(rule, predictions, MetricContext(data.train_counts.cpu(), rule.definitions, data.num_groups))
            for rule in selections
        ]

    return ranks


def _as_head(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {"weight": weight.float().cpu(), "bias": bias.float().cpu()}
