"""Partner samples of the pairs from unlabelled data, under pseudo-labels of the current model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.data.splits import Split
from selmix.model import ClassifierView, predict
from selmix.parallel.world import ALONE, World
from selmix.sampler import PairSampler


class UnlabelledPool:
    """Unlabelled samples, filed under the class that the model predicts for them with enough confidence.

    Deviates from the released code, which files them under their true labels; ``second: oracle`` does that here.

    Args:
        samples: the samples; their labels are read under ``oracle`` only.
        config: ``second``, ``pseudo_threshold`` and ``pseudo_every`` are read.
    Raises:
        ValueError: ``oracle`` for samples whose true labels are not known.
    """

    def __init__(self, samples: Split, config: FinetuneConfig) -> None:
        if config.second == "oracle" and (samples.labels < 0).any():
            raise ValueError(
                "second: oracle needs the true labels of the unlabelled samples, these have none"
            )
        self.samples, self._config = samples, config
        # Label of each sample, -1 if it is not filed; None before the first labelling.
        self._labels: Tensor | None = None
        # Indices of the filed samples.
        self._places = torch.empty(0, dtype=torch.int64)

    def due(self, round_number: int) -> bool:
        """True if the samples must be filed again before this round, counted from 1."""
        if self._labels is None:
            return True
        # True labels do not change from round to round.
        return self._config.second == "pseudo" and (round_number - 1) % self._config.pseudo_every == 0

    def file(self, view: ClassifierView, world: World = ALONE) -> None:
        """File every sample under its current label; each rank of the world labels its part of them."""
        if self._config.second == "oracle":
            self._set(self.samples.labels)
            return
        _, logits = predict(view, world.part_of_inputs(self.samples.inputs))
        confidence, labels = torch.softmax(logits.float(), dim=1).max(dim=1)
        labels = torch.where(confidence >= self._config.pseudo_threshold, labels, -1)
        self._set(world.gathered(labels, len(self.samples)))

    @property
    def used(self) -> int:
        """Number of samples that are filed."""
        return len(self._places)

    def sampler(self, first: Tensor, num_classes: int) -> PairSampler:
        """Build a sampler of pairs of a labelled sample, with classes ``first``, and a filed one."""
        # In the order of `_places`, because `batch` looks up there the indices that the sampler draws.
        labels = self._filed()
        return PairSampler(first, num_classes, labels[labels >= 0])

    def batch(self, index: Tensor) -> Tensor:
        """Read the inputs of the filed samples at ``index``, which counts filed samples only."""
        return self.samples.batch(self._places[index.to(self._places.device)])

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the labels, between two labellings the only thing that cannot be recomputed."""
        return {"labels": self._labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`."""
        labels = state["labels"]
        if labels is not None:
            self._set(labels.to(self.samples.labels.device))

    def _set(self, labels: Tensor) -> None:
        self._labels = labels
        self._places = torch.nonzero(labels >= 0).flatten()

    def _filed(self) -> Tensor:
        if self._labels is None:
            raise RuntimeError("no sample is filed yet; call file() before sampler()")
        return self._labels
