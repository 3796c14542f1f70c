"""Corrections of a model's predictions that are no state dict: kept as ``correction.*`` tensors beside its weights.

The network's ``forward`` gives its logits as they were trained; labels and probabilities come from the correction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from selmix.metrics import Predictions
from selmix.weights import State

PREFIX = "correction."
"""Beginning of the names of a correction's tensors in a state dict."""


@dataclass(frozen=True)
class Correction:
    """Decision rule on top of logits: p = softmax(scale * logits + bias), label argmax_j (p matrix)_j + offset_j.

    Attributes:
        scale: of each class's logit, shape (K,): vector scaling, which calibrates the probabilities.
        bias: of each class's scaled logit, shape (K,).
        matrix: worth of predicting class j where the truth is i, shape (K, K).
        offset: worth of predicting each class whatever the truth, shape (K,).
        group_offset: of each group's samples in addition, shape (A, K); None where groups are treated alike.
    Raises:
        ValueError: a tensor of another shape, or a number that is not finite.
    Source: vector scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; decisions: Narasimhan et
        al., "Consistent Multiclass Algorithms for Complex Metrics and Constraints", JMLR 25, 2024.
    """

    scale: Tensor
    bias: Tensor
    matrix: Tensor
    offset: Tensor
    group_offset: Tensor | None = None

    def __post_init__(self) -> None:
        classes = self.scale.numel()
        shapes = {"scale": (classes,), "bias": (classes,), "matrix": (classes, classes), "offset": (classes,)}
        if self.group_offset is not None:
            shapes["group_offset"] = (self.num_groups, classes)
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{PREFIX}{name}: must be finite numbers of shape {shape}, got shape {tuple(tensor.shape)}"
                )

    @classmethod
    def none(cls, num_classes: int) -> Correction:
        """Correction that changes nothing: the label is the argmax of the logits."""
        zeros = torch.zeros(num_classes)
        return cls(torch.ones(num_classes), zeros, torch.eye(num_classes), zeros)

    @property
    def num_groups(self) -> int:
        """A, where groups have offsets of their own; else 0."""
        return 0 if self.group_offset is None else len(self.group_offset)

    def double(self) -> Correction:
        """The same in float64."""
        group = None if self.group_offset is None else self.group_offset.double()
        return Correction(
            self.scale.double(), self.bias.double(), self.matrix.double(), self.offset.double(), group
        )

    def towards(self, other: Correction, step: float) -> Correction:
        """Interpolate linearly: this correction at step 0, the other one at step 1."""
        parts = {
            field.name: torch.lerp(getattr(self, field.name), getattr(other, field.name), step)
            for field in fields(self)
            if field.name != "group_offset"
        }
        return replace(self, **parts)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities of logits (n, K), shape (n, K)."""
        return torch.softmax(logits * self.scale.to(logits) + self.bias.to(logits), dim=1)

    def apply(self, logits: Tensor, groups: Tensor | None = None) -> Tensor:
        """Decision scores of logits; their argmax is the corrected label.

        Args:
            logits: of the network, shape (n, K).
            groups: of the samples, shape (n,); read where groups have offsets of their own.
        Returns:
            Shape (n, K).
        Raises:
            ValueError: the correction is by group, and no groups are given or one is unknown.
        """
        scores = self.probabilities(logits) @ self.matrix.to(logits) + self.offset.to(logits)
        if self.group_offset is None:
            return scores
        if groups is None:
            raise ValueError("this model's correction is by group: give the group of every sample")
        if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < self.num_groups:
            raise ValueError(
                f"groups must lie in [0, {self.num_groups}), got {int(groups.min())} to {int(groups.max())}"
            )
        return scores + self.group_offset.to(logits)[groups.to(logits.device)]

    def predict(self, logits: Tensor, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Corrected labels, shape (n,), and calibrated probabilities, shape (n, K); arguments as of :meth:`apply`."""
        return self.apply(logits, groups).argmax(dim=1), self.probabilities(logits)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names beside a model's weights."""
        named = {f"{PREFIX}{field.name}": getattr(self, field.name) for field in fields(self)}
        return {name: tensor.float().cpu() for name, tensor in named.items() if tensor is not None}


def with_correction(state: State, correction: Correction) -> dict[str, Tensor]:
    """State dict with a correction beside the weights, in place of one that it has."""
    return {**split_correction(state)[0], **correction.tensors()}


def split_correction(state: State) -> tuple[dict[str, Tensor], Correction | None]:
    """Weights of the network alone, and the correction beside them; None where there is none.

    Raises:
        ValueError: tensors of a correction that are not those of a whole one.
    """
    weights = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
    parts = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    if not parts:
        return weights, None
    known = {field.name for field in fields(Correction)}
    if not parts.keys() <= known or not parts.keys() >= known - {"group_offset"}:
        raise ValueError(
            f"a correction beside weights must have {', '.join(sorted(known))} (group_offset where it is by group), "
            f"got {', '.join(sorted(parts))}"
        )
    return weights, Correction(**parts)


def predictions_of(state: State, labels: Tensor, logits: Tensor, groups: Tensor | None = None) -> Predictions:
    """Predictions of a model, on the CPU, with its correction where it has one.

    Args:
        state: weights of the model, and its correction.
        labels: true class of each sample, shape (n,).
        logits: of the network, shape (n, K).
        groups: group of each sample, shape (n,); None if the data have none.
    """
    correction = split_correction(state)[1]
    if correction is None:
        return Predictions.from_logits(labels, logits, groups)
    predicted, probabilities = correction.predict(logits.float(), groups)
    confidence = probabilities.gather(1, predicted.unsqueeze(1)).squeeze(1)
    return Predictions(
        labels.cpu(), predicted.cpu(), confidence.cpu(), None if groups is None else groups.cpu()
    )


def predict(
    model: nn.Module, correction: Correction | None, x: Tensor, group: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Labels and probabilities of a batch, without gradients.

    Args:
        model: the network.
        correction: of its predictions; None for the argmax of its logits.
        x: inputs, shape (n, ...).
        group: group of each sample, shape (n,); read by a correction by group.
    Returns:
        Labels, shape (n,), and probabilities, shape (n, K).
    """
    with torch.no_grad():
        logits = model(x)
        used = Correction.none(logits.shape[1]) if correction is None else correction
        return used.predict(logits, group)
