"""Loader of a pinned model for MLflow's pyfunc: a folder of weights and settings, no pickled object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selmix.data.arrays import MemoryTable
from selmix.pinned import PinnedInputs, pinned_of
from selmix.serving.predict import predictions
from selmix.serving.rows import table_rows
from selmix.serving.writer import output_columns, prediction_columns

WEIGHTS, SETTINGS = "weights.safetensors", "settings.json"
"""Files of the folder."""


@dataclass(frozen=True)
class ServedModel:
    """Pinned model behind MLflow.

    Attributes:
        pinned: the model.
    """

    pinned: PinnedInputs

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Predict the rows of a data frame.

        Args:
            model_input: columns as the model's signature has them.
            params: there are none.
        Returns:
            A data frame with the predicted class by name, and the probability of each class.
        Raises:
            ValueError: a column is missing, or a row cannot be predicted; with its number.
        """
        import pyarrow as pa

        if params:
            raise ValueError(f"this model takes no parameters, got {', '.join(params)}")
        table = pa.Table.from_pandas(model_input, preserve_index=False)
        parts = []
        for batch in predictions(self.pinned, table_rows(MemoryTable(table, "input"), self.pinned)):
            # Nobody reads a log beside an answer: a row without a prediction must not pass for one.
            if batch.rows.bad:
                raise ValueError(batch.rows.bad[0].problem)
            columns = prediction_columns(*batch.arrays(), self.pinned.class_names)
            parts.append(pa.RecordBatch.from_arrays(columns, names=output_columns(self.pinned.class_names)))
        if not parts:
            raise ValueError("input: must have rows, got none")
        return pa.Table.from_batches(parts).to_pandas()


def _load_pyfunc(path: str) -> ServedModel:
    """Load the model of a folder; MLflow calls it by this name.

    Raises:
        ValueError: files are missing, or the weights have another digest than the settings'.
    """
    folder = Path(path)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return ServedModel(pinned_of(settings, folder / WEIGHTS, str(folder / SETTINGS)))
