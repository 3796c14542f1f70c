"""Registered model of a pin: what MLflow's pyfunc and PyTorch load, with its signature, example and numbers on test."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.credentials import masked
from orchestrator.documents import Document, from_document, to_document
from orchestrator.errors import PreflightError, SelmixError, UsageError
from orchestrator.files import check_file_writable
from orchestrator.pins.lock_file import (
    ADVICE,
    PinnedVerdict,
    Registered,
    broken_sections,
    found_pin,
    read_pin,
    sealed,
    typed_pin,
    weights_beside,
    write_pin,
)
from orchestrator.records.store import Store
from orchestrator.records.types import Figure
from orchestrator.results.rows import corrected_for, rests_on, said
from orchestrator.table import difference, estimate, unit_of
from orchestrator.tracking.address import check_tracking, present_address, recorded_address, tracking_of

if TYPE_CHECKING:
    from orchestrator.tracking.model_folder import Kind, ModelFolder
    from selmix.pinned import PinnedInputs

KEPT = ("name", "objective", "trial_id", "seed", "round", "config", "protocol", "digests")
"""Keys of a pin that the settings of its registered model have."""

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pandas", "pyarrow", "pyyaml", "safetensors")
"""Distributions that loading a model needs, beside this one."""


def register(
    address: str, runs: Path, document: Document, run_id: str, alias: str, weights: Path
) -> Registered:
    """Register the model of a pin in MLflow, under the name of the pin as alias.

    Args:
        address: tracking address of MLflow.
        runs: the runs folder.
        document: the pin.
        run_id: MLflow run of the trial.
        alias: of the version.
        weights: file of the weights.
    Raises:
        PreflightError: MLflow does not take it.
    """
    from orchestrator.tracking.client import register_model

    model = document["sweep"]["name"]
    with tempfile.TemporaryDirectory(prefix="selmix-pin-") as scratch:
        folder = Path(scratch) / "model"
        write_folder(folder, document, weights)
        version = register_model(
            address, run_id, model, alias, folder, version_tags(document), version_text(document, alias)
        )
    return Registered(recorded_address(address, runs), run_id, model, version, alias)


def write_folder(folder: Path, document: Document, weights: Path) -> None:
    """Write the folder of a pin's model, as MLflow loads it.

    Args:
        folder: to make.
        document: the pin.
        weights: file of the weights.
    Raises:
        ValueError: the weights are not those of the pin.
    """
    from orchestrator.tracking.model_folder import write_model_folder

    with tempfile.TemporaryDirectory(prefix="selmix-model-") as scratch:
        settings = Path(scratch) / "settings.json"
        settings.write_text(json.dumps({key: document[key] for key in KEPT}, indent=1), encoding="utf-8")
        write_model_folder(folder, _content(document, weights, settings, Path(scratch) / "model.pt2"))


def _content(document: Document, weights: Path, settings: Path, program: Path) -> ModelFolder:
    import torch

    from orchestrator.tracking.model_folder import ModelFolder
    from selmix.pinned import pinned_of
    from selmix.serving.export import description, write_pt2
    from selmix.serving.program import PinnedProgram
    from selmix.serving.served import SETTINGS, WEIGHTS
    from selmix.serving.writer import output_columns

    pinned = pinned_of(document, weights, document["name"])
    written: Path | None = program
    try:
        write_pt2(PinnedProgram(pinned).eval(), pinned, program, description(pinned, "pt2", document))
    # A network of the user's own need not be traceable: pyfunc, which builds it by its name, does without.
    except ValueError:
        written = None
    inputs, example = _inputs(pinned)
    predicted, *probabilities = output_columns(pinned.class_names)
    outputs: dict[str, Kind] = {predicted: "text", **dict.fromkeys(probabilities, "number")}
    name = str(document["protocol"]["model"]["name"])
    packages = (*PACKAGES, "timm") if name.startswith("timm/") else PACKAGES
    return ModelFolder(
        {WEIGHTS: weights, SETTINGS: settings}, written, inputs, outputs, example, packages,
        str(torch.__version__),
        {"selmix.pin": document["name"], "selmix.weights_digest": document["digests"]["weights"]},
    )  # fmt: skip


def _inputs(pinned: PinnedInputs) -> tuple[dict[str, Kind], dict[str, list[Any]]]:
    """Columns that the registered model takes, and two rows of them."""
    inputs: dict[str, Kind] = {}
    example: dict[str, list[Any]] = {}
    columns = pinned.columns
    if pinned.steps is not None:
        name = "image" if columns is None else columns if isinstance(columns, str) else columns[0]
        inputs[name], example[name] = "image", [_gray_image(pinned.steps.size)] * 2
    elif columns is None or isinstance(columns, str):
        name = columns or "features"
        width = 1
        for side in pinned.input_shape:
            width *= side
        inputs[name], example[name] = "vector", [[0.0] * width, [1.0] * width]
    else:
        inputs |= dict.fromkeys(columns, "number")
        example |= {name: [0.0, 1.0] for name in columns}
    if pinned.correction is not None and pinned.correction.group_offset is not None:
        group, names = pinned.group or "group", pinned.group_names
        inputs[group] = "text" if names else "whole"
        example[group] = [names[0], names[-1]] if names else [0, pinned.correction.num_groups - 1]
    return inputs, example


def _gray_image(size: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (size, size), (128, 128, 128)).save(stream, "PNG")
    return stream.getvalue()


def version_tags(document: Document) -> dict[str, str]:
    """Tags of a registered version: what it is, and every metric on test as ``test.METRIC``."""
    tags = {
        "selmix.weights_digest": document["digests"]["weights"],
        "selmix.pin": document["name"],
        "selmix.objective": document["objective"],
    }
    return tags | {f"test.{key}": f"{figure['value']:.6g}" for key, figure in document["test"].items()}


def version_text(document: Document, alias: str) -> str:
    """Description of a registered version, Markdown."""
    metric = str(document["protocol"]["selection"].get("metric", document["objective"]))
    unit = unit_of(metric)
    lines = []
    found: Mapping[str, Any] | None = document["test"].get(metric)
    if found is not None:
        figure = Figure(found["value"], found["low"], found["high"])
        lines.append(f"**{metric} on test {estimate(figure, unit)}{unit.value}** (95 % interval).")
    verdict = document["verdict"]["test"]
    if verdict is not None:
        pinned = from_document(PinnedVerdict, verdict)
        named, gap = rests_on(pinned)
        shown = f"{difference(gap, unit)}{unit.difference}{corrected_for(pinned, gap)}"
        lines.append(f"On test {said(pinned.outcome)} {named}, {shown}.")
    opening = document.get("test_opening")
    if opening is not None and opening.get("note"):
        lines.append(f"{opening['note'].capitalize()}.")
    sweep = document["sweep"]["name"]
    lines.append(
        f"\nPinned from {document['trial_id']} of the sweep {sweep} as `{document['name']}`. "
        f'Load it with `mlflow.pyfunc.load_model("models:/{sweep}@{alias}")`, where selmix is installed.'
    )
    return "\n".join(lines)


def register_later(store: Store, pins: Path, sweep: str, name: str) -> Path:
    """Register the model of a pin that stands, where MLflow did not take it; opens no test split.

    Args:
        store: the runs folder, whose address of MLflow is asked.
        pins: folder of the pins.
        sweep: name of the sweep that it was pinned from.
        name: of the pin, or its file.
    Returns:
        Path of the pin, which names the version now.
    Raises:
        NotFound: there is no such pin.
        UsageError: it is one of another sweep, or is registered.
        PreflightError: it was edited, or MLflow does not take its model.
    """
    path = found_pin(pins, name)
    document = read_pin(path.parent, path.stem)
    pin = typed_pin(path, document)
    if pin.sweep.name != sweep:
        raise UsageError(f"{path}: must be a pin of the sweep {sweep}, got one of {pin.sweep.name}")
    if pin.mlflow.version:
        raise UsageError(
            f"{path}: its model is registered already, as version {pin.mlflow.version} of {pin.mlflow.model}; leave "
            "--register out"
        )
    if broken := broken_sections(document):
        raise PreflightError(
            f"{path}: must be as it was written, got edits in {', '.join(broken)}; pin it again"
        )
    address = tracking_of(store)
    # The run that the version belongs to lies there.
    began_with = present_address(pin.mlflow.tracking_uri, store.root)
    if began_with != masked(address):
        raise PreflightError(
            f"{path}: must be registered in the MLflow store of its sweep, {began_with}, got {masked(address)}; set "
            "MLFLOW_TRACKING_URI, or --runs, to it"
        )
    check_tracking(address)
    check_file_writable(path, ADVICE)
    try:
        registered = register(
            address, store.root, document, pin.mlflow.run_id, pin.mlflow.alias, weights_beside(path)
        )
    except SelmixError:
        raise
    # A boundary: MLflow and its databases raise what they like.
    except Exception as error:
        raise PreflightError(
            f"{path}: its model must be registered in MLflow at {masked(address)}, got: {error}"
        ) from error
    document["mlflow"] = to_document(registered)
    write_pin(path, sealed(document))
    return path


def not_registered(error: Exception, address: str, command: str) -> str:
    """Words for a registration that failed.

    Args:
        error: of the registration.
        address: tracking address of MLflow.
        command: that registers the model later.
    """
    where = "" if isinstance(error, PreflightError) else f"MLflow at {masked(address)}: "
    return (
        f"the pin is complete, but its model is not registered in MLflow: {where}{error}; to register it once MLflow "
        f"takes it: {command}"
    )
