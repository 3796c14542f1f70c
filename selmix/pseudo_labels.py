"""Second samples of the pairs from unlabelled data, under pseudo-labels of the current model."""

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
    """Unlabelled samples, filed under the class that the model gives them with enough confidence.

    Departs from the released code, which files them under their true labels; ``second: oracle`` does that here.

    Args:
        samples: their labels are read for ``oracle`` only.
        config: ``second``, ``pseudo_threshold`` and ``pseudo_every`` are read.
    Raises:
        ValueError: ``oracle`` where the true labels are not known.
    """

    def __init__(self, samples: Split, config: FinetuneConfig) -> None:
        if config.second == "oracle" and (samples.labels < 0).any():
            raise ValueError(
                "second: oracle needs the true labels of the unlabelled samples, these have none"
            )
        self.samples, self._config = samples, config
        self._labels: Tensor | None = None  # pseudo-labels, -1 where the model is not sure enough
        self._places = torch.empty(0, dtype=torch.int64)  # of the samples that are filed

    def due(self, round_number: int) -> bool:
        """Whether the samples are to be filed anew before this round, counted from 1."""
        if self._labels is None:
            return True
        return self._config.second == "pseudo" and (round_number - 1) % self._config.pseudo_every == 0

    def file(self, view: ClassifierView, world: World = ALONE) -> None:
        """File every sample under its label of now; each rank of the world looks at its part of them."""
        if self._config.second == "oracle":
            self._set(self.samples.labels)
            return
        _, logits = predict(view, world.part_of_inputs(self.samples.inputs))
        confidence, labels = torch.softmax(logits.float(), dim=1).max(dim=1)
        labels = torch.where(confidence >= self._config.pseudo_threshold, labels, -1)
        self._set(world.gathered(labels, len(self.samples)))

    @property
    def used(self) -> int:
        """Samples that are filed."""
        return len(self._places)

    def sampler(self, first: Tensor, num_classes: int) -> PairSampler:
        """Pairs of a labelled sample and a filed one."""
        labels = self._filed()
        return PairSampler(first, num_classes, labels[labels >= 0])

    def batch(self, index: Tensor) -> Tensor:
        """Inputs of the filed samples at ``index``, as the sampler draws it."""
        return self.samples.batch(self._places[index.to(self._places.device)])

    def state_dict(self) -> dict[str, Any]:
        return {"labels": self._labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        labels = state["labels"]
        if labels is not None:
            self._set(labels.to(self.samples.labels.device))

    def _set(self, labels: Tensor) -> None:
        self._labels = labels
        self._places = torch.nonzero(labels >= 0).flatten()

    def _filed(self) -> Tensor:
        if self._labels is None:
            raise RuntimeError("file must be called first")
        return self._labels
