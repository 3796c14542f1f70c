"""Predictions on select as they are stored, each file read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord

if TYPE_CHECKING:
    from selmix.metrics import Predictions


class StoredPredictions:
    """Predictions on select of trials, replicates and baselines; what was read is kept.

    Args:
        folder: records of the sweep.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._read: dict[str, list[Predictions]] = {}

    def of(self, trial_id: str) -> list[Predictions]:
        """Predictions of a trial, replicate or baseline, one entry per model; empty where none are stored."""
        if trial_id not in self._read:
            self._read[trial_id] = load_predictions(self._folder, trial_id)
        return self._read[trial_id]

    def over(self, records: Sequence[TrialRecord]) -> list[Predictions]:
        """Predictions of every model of these records, in their order: pairs are formed by position."""
        return [predictions for record in records for predictions in self.of(record.trial_id)]


def load_predictions(folder: RunFolder, trial_id: str) -> list[Predictions]:
    """Load the predictions on select of a trial, replicate or baseline, one entry per model."""
    import torch

    from selmix.metrics import Predictions

    return [
        Predictions(**{key: torch.from_numpy(array) for key, array in arrays.items()})
        for arrays in folder.load_predictions(trial_id)
    ]
