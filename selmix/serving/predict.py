"""Predictions of a pinned model for rows of any number, in the memory of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selmix.corrections import predict
from selmix.pinned import PinnedInputs
from selmix.serving.rows import BadRow, RowBatch, RowSource
from selmix.serving.writer import PredictionWriter

MAX_NAMED = 100
"""Bad rows that are kept by name; the others are counted."""


@dataclass(frozen=True)
class PredictedBatch:
    """Predictions of some rows.

    Attributes:
        rows: the rows.
        labels: predicted class of each good row, shape (m,), int64.
        probabilities: of each good row, shape (m, K).
    """

    rows: RowBatch
    labels: Tensor
    probabilities: Tensor

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places of the predicted classes of all rows, -1 in bad ones, and the probabilities, shape (n, K)."""
        good = np.asarray(self.rows.good, dtype=np.int64)
        places = np.full(self.rows.size, -1, np.int64)
        wide = np.zeros((self.rows.size, self.probabilities.shape[1]), np.float32)
        places[good], wide[good] = self.labels.numpy(), self.probabilities.float().numpy()
        return places, wide


@dataclass(frozen=True)
class Predicted:
    """What became of the rows.

    Attributes:
        rows: number of them.
        bad: those that could not be predicted, the first MAX_NAMED.
        bad_rows: number of these in all.
    """

    rows: int
    bad: list[BadRow]
    bad_rows: int


def predictions(pinned: PinnedInputs, rows: RowSource) -> Iterator[PredictedBatch]:
    """Predict rows batch by batch.

    Args:
        pinned: the model.
        rows: to predict.
    Raises:
        ValueError: the rows cannot be read.
    """
    device = next(pinned.model.parameters()).device
    for batch in rows.batches():
        if not batch.good:
            classes = len(pinned.class_names)
            yield PredictedBatch(batch, torch.empty(0, dtype=torch.int64), torch.empty(0, classes))
            continue
        labels, probabilities = predict(
            pinned.model, pinned.correction, batch.inputs.to(device), batch.groups
        )
        yield PredictedBatch(batch, labels.cpu(), probabilities.cpu())


def write_predictions(
    pinned: PinnedInputs, rows: RowSource, path: Path, as_csv: bool,
    progress: Callable[[int], None] = lambda rows: None,
) -> Predicted:  # fmt: skip
    """Predict rows and write the predictions, with the columns that are kept before them.

    A row that cannot be predicted is written without a prediction, so that the rows stay those of the input.

    Args:
        pinned: the model.
        rows: to predict.
        path: file to write.
        as_csv: True for CSV, else Parquet.
        progress: called with the number of rows so far, after every batch.
    Raises:
        ValueError: the rows cannot be read, or columns have the same name.
    """
    total, bad_rows = 0, 0
    bad: list[BadRow] = []
    with PredictionWriter(path, as_csv, rows.kept_schema, pinned.class_names) as writer:
        for batch in predictions(pinned, rows):
            writer.write(batch.rows.kept, *batch.arrays())
            total += batch.rows.size
            bad_rows += len(batch.rows.bad)
            bad += batch.rows.bad[: MAX_NAMED - len(bad)]
            progress(total)
    return Predicted(total, bad, bad_rows)
