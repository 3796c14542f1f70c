"""Input and output of a baseline: a task, and models with the labels that they used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.corrections import predictions_of, split_correction
from selmix.data.splits import Split, SweepData
from selmix.metrics import MetricContext, Predictions
from selmix.model import ClassifierView, predict
from selmix.run.start_model import Base
from selmix.statistics.selection import Rank, SelectionRule, rank, score
from selmix.weights import State, load_checkpoint_into


@dataclass(frozen=True)
class BaselineTask:
    """Input of a baseline: the same splits, base model and seeds as the trials had.

    Attributes:
        data: train, feedback and select.
        base: the base model.
        objective: its name.
        selection: rule of the score.
        seeds: of the replicates; stochastic baselines run once on each.
        winner_config: settings of the winning trial.
        winner_states: weights of its replicates, seed by seed.
    """

    data: SweepData
    base: Base
    objective: str
    selection: SelectionRule
    seeds: tuple[int, ...]
    winner_config: FinetuneConfig
    winner_states: tuple[State, ...]

    @property
    def context(self) -> MetricContext:
        """Context of the metrics, on the CPU, where logits are scored."""
        return MetricContext(self.data.train_counts.cpu(), self.selection.definitions, self.data.num_groups)

    def view(self, state: State) -> ClassifierView:
        """Build a model with these weights, on the device of the data; a correction beside them is left out."""
        data = self.data
        # A new module each time: two views of different weights may be in use at once.
        model = self.base.model.build(data.input_shape, data.num_classes)
        load_checkpoint_into(model, split_correction(state)[0])
        view = self.base.model.view(model.to(data.train.inputs.device))
        # Of the base model alone: other weights are read once.
        view.cache = self.base.cache if state is self.base.state else None
        return view

    def logits(self, state: State, split: Split) -> Tensor:
        """Logits of a split, shape (n, K), on the CPU; a correction beside the weights is left out."""
        return predict(self.view(state), split.inputs)[1].cpu()

    def predictions(self, state: State, split: Split) -> Predictions:
        """Predictions of a split, with the correction beside the weights where there is one."""
        return predictions_of(state, split.labels.cpu(), self.logits(state, split), _on_cpu(split.groups))

    def score_predictions(self, predictions: Predictions) -> float:
        """Selection score of predictions on select."""
        return score(self.selection, predictions, self.context)

    def score_logits(self, logits: Tensor) -> float:
        """Selection score of logits on select, shape (n, K)."""
        predictions = Predictions.from_logits(self.data.select.labels, logits, self.data.select.groups)
        return self.score_predictions(predictions)

    def rank_predictions(self, predictions: Predictions) -> Rank:
        """Rank of predictions on select, which chooses: the constraints of the search come before the score."""
        return rank(self.selection, predictions, self.context)

    def rank_logits(self, logits: Tensor) -> Rank:
        """Rank of logits on select, shape (n, K)."""
        predictions = Predictions.from_logits(self.data.select.labels, logits, self.data.select.groups)
        return self.rank_predictions(predictions)

    @property
    def base_labels(self) -> list[str]:
        """Labelled splits that made the base model."""
        return list(self.base.labels)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of a row that is fitted on the samples which judge it: every fold by a fit on the others.

    Attributes:
        feedback: on feedback.
        select: on select.
        folds: F.
    """

    feedback: Predictions
    select: Predictions
    folds: int

    @classmethod
    def of_folds(cls, fold_of: Sequence[Tensor], predictions: Sequence[Sequence[Predictions]]) -> HeldOut:
        """Put predictions fold by fold into the order of the samples.

        Args:
            fold_of: fold of each sample of feedback and of select, shape (n,) each.
            predictions: on the samples of each fold in their order, for feedback and for select.
        """
        ordered = []
        for place, parts in zip(fold_of, zip(*predictions, strict=True), strict=True):
            # Stable, so that the samples of a fold keep their order.
            order = torch.argsort(place, stable=True)
            ordered.append(concatenated(parts).take(torch.argsort(order)))
        feedback, select = ordered
        return cls(feedback, select, len(predictions))

    def joined(self) -> Predictions:
        """Predictions on feedback, then on select."""
        return concatenated((self.feedback, self.select))


def concatenated(parts: Sequence[Predictions]) -> Predictions:
    """Join predictions on several splits into those on all their samples, without the probabilities of all classes."""
    groups = [part.groups for part in parts if part.groups is not None]
    return Predictions(
        torch.cat([part.labels for part in parts]),
        torch.cat([part.predicted for part in parts]),
        torch.cat([part.confidence for part in parts]),
        torch.cat(groups) if groups else None,
    )


@dataclass(frozen=True)
class Models:
    """Models that a baseline's function gives: state dicts of the sweep's own model.

    A correction that the weights cannot hold lies beside them (:mod:`selmix.corrections`).

    Attributes:
        states: one per replicate seed, or a single one where nothing is random.
        note: settings that were tuned, name -> value.
        held_out: predictions out of fold, of a single model that is fitted on select; None for any other.
    """

    states: tuple[State, ...]
    note: dict[str, float | str] = field(default_factory=dict)
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class BaselineResult:
    """Models of a baseline with the labels that they used and their cost.

    Attributes:
        states: one per replicate seed, or a single one where nothing is random.
        labels: labelled splits used so far, the base model's too.
        cost_s: seconds of work, 0.0 where nothing ran.
        reference: True if it has another cost or other information than the trials.
        note: settings that were tuned, name -> value.
        held_out: see :class:`Models`.
    """

    states: tuple[State, ...]
    labels: tuple[str, ...]
    cost_s: float
    reference: bool = False
    note: dict[str, float | str] = field(default_factory=dict)
    held_out: HeldOut | None = None


def joined(results: Sequence[BaselineResult]) -> BaselineResult:
    """Join results of one baseline on one seed each, in their order; costs add up.

    Raises:
        ValueError: there are none.
    """
    if not results:
        raise ValueError("no result to join: a baseline has at least one model")
    # A note keeps its type where there is nothing to join.
    if len(results) == 1:
        return results[0]
    note: dict[str, float | str] = {
        key: ", ".join(str(result.note[key]) for result in results) for key in results[0].note
    }
    return replace(
        results[0], states=tuple(state for result in results for state in result.states),
        cost_s=sum(result.cost_s for result in results), note=note,
    )  # fmt: skip


def _on_cpu(groups: Tensor | None) -> Tensor | None:
    return None if groups is None else groups.cpu()


def with_head(state: State, view: ClassifierView, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """State dict with another classifier.

    Args:
        state: weights of the model.
        view: of the model, for the classifier's name.
        weight: W, shape (K, d).
        bias: b, shape (K,).
    """
    # A model that is its own classifier has an empty name, and no dot before its parameters.
    prefix = f"{view.head_name}." if view.head_name else ""
    return {**state, f"{prefix}weight": weight.cpu(), f"{prefix}bias": bias.cpu()}


def head_of(state: State, base: Base, data: SweepData) -> dict[str, Tensor]:
    """Classifier of a state dict.

    Args:
        state: weights of the sweep's model.
        base: with the model's configuration.
        data: of the sweep.
    Returns:
        ``weight`` (K, d) and ``bias`` (K,).
    """
    name = base.model.view(base.model.build(data.input_shape, data.num_classes)).head_name
    prefix = f"{name}." if name else ""
    return {key: state[f"{prefix}{key}"] for key in ("weight", "bias")}


def with_bias(state: State, view: ClassifierView, added: Tensor) -> dict[str, Tensor]:
    """State dict whose classifier adds a post-hoc correction to its logits.

    Args:
        state: weights of the model.
        view: of the model, for the classifier's name.
        added: biases, shape (K,).
    """
    # Folded into the classifier's bias, so that the corrected model is a plain state dict again.
    prefix = f"{view.head_name}." if view.head_name else ""
    bias = state[f"{prefix}bias"]
    return {**state, f"{prefix}bias": bias + added.to(bias)}
