"""A row of a sweep as a model that is ready to be used, as that of a pin is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.build.data import load_data
from orchestrator.build.selection import data_config
from orchestrator.documents import Document
from orchestrator.errors import PreflightError
from orchestrator.pins.targets import Target, weights_of
from orchestrator.records.folder import RunFolder
from orchestrator.spec.schema import spec_from_resolved
from selmix.data import preprocess_of
from selmix.data.images import steps_of
from selmix.pinned import as_module, pinned_of

if TYPE_CHECKING:
    from torch import nn


def model_of(folder: RunFolder, target: Target) -> nn.Module:
    """Load the model of a row; errors are those of :meth:`orchestrator.api.opened.OpenedSweep.load`.

    Args:
        folder: of the sweep.
        target: its row, with the file that ships.
    """
    state, spec = folder.load_state(), spec_from_resolved(folder.load_spec())
    if state.data is None:
        raise PreflightError(f"{folder.shown}: must have been launched, its record has no data yet")
    source: Any = data_config(spec)
    try:
        shape, steps = source.input_shape, preprocess_of(source)
        columns = getattr(source, "input_columns", None)
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {error}") from error
    # Of a table headers say it all; of a data set whose pixels lie in memory its samples say what they are.
    if steps is None and columns is None:
        steps = steps_of(load_data(spec).select.inputs)
    # What the protocol of a pin says of its model.
    protocol: Document = {
        "data": spec.resolved()["data"], "class_names": state.data.class_names, "input_shape": list(shape),
        "model": spec.resolved()["model"], "preprocess": None if steps is None else steps.as_keys(),
        "columns": columns, "group_names": state.data.group_names or None,
    }  # fmt: skip
    weights = weights_of(folder, target)
    digest = target.record.weights_digest if target.row is None else target.row.checkpoint_digest
    document = {"protocol": protocol, "digests": {"weights": digest}}
    try:
        return as_module(pinned_of(document, weights, folder.shown))
    except ValueError as error:
        raise PreflightError(str(error)) from error
