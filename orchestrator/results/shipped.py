"""The file of a row that ships: one model of those that its procedure made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord

if TYPE_CHECKING:
    from orchestrator.results.predictions import StoredPredictions
    from selmix.metrics import MetricContext, Predictions
    from selmix.statistics.selection import SelectionRule


@dataclass(frozen=True)
class Shipped:
    """The model of a row that ships.

    Attributes:
        record: its record.
        file: its number among the models of that record.
        score: its score on select.
        predictions: on select.
    """

    record: TrialRecord
    file: int
    score: float
    predictions: Predictions


def shipped_file(
    records: Sequence[TrialRecord],
    predictions: StoredPredictions,
    rule: SelectionRule,
    context: MetricContext,
) -> Shipped:
    """Choose the model of a row that ships by its rank on select, the first of equal ones.

    A file that meets the bounds of the search goes before one that breaks them, whatever their scores: a row is
    feasible by its mean, of which a single seed may lie on the wrong side. Where none meets them the nearest ships.

    Args:
        records: of the row's models.
        predictions: on select.
        rule: metric, statistic and bounds.
        context: of the metrics.
    """
    from selmix.statistics.selection import rank

    files = [
        (rank(rule, made, context), record, index, made)
        for record in records
        for index, made in enumerate(predictions.of(record.trial_id))
    ]
    (_, score), record, index, made = max(files, key=lambda file: file[0])
    return Shipped(record, index, score, made)


def replicate_weights(folder: RunFolder, replicates: Sequence[TrialRecord]) -> list[Path]:
    """Paths of the weights of replicates, in their order."""
    return [folder.weights_path(record.trial_id) for record in replicates]
