"""``selmix export``: a pinned model in a format of others, checked against the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.files import check_file_writable, writing
from orchestrator.messages import counted
from orchestrator.pins.lock_file import found_pin
from orchestrator.table import sentence

ADVICE = "choose another --out"


@dataclass(frozen=True, kw_only=True)
class ExportDocument:
    """A model that was exported.

    Attributes:
        schema_version: version of the document.
        pin: path of the pin.
        format: ``onnx``, ``pt2`` or ``safetensors``.
        files: the model, and its description.
        rows: number of samples that both models were compared on; all labels were equal.
        largest_difference: of a probability.
        tolerance: of a probability.
    """

    schema_version: int = SCHEMA_VERSION
    pin: str
    format: str
    files: list[str]
    rows: int
    largest_difference: float
    tolerance: float


def export_pin(pins: Path, name: str, form: str, out: Path | None) -> ExportDocument:
    """Export the model of a pin.

    Args:
        pins: folder of the pins.
        name: name of the pin, or its path.
        form: ``onnx``, ``pt2`` or ``safetensors``.
        out: file to write; None for one of the pin's name in the working folder.
    Raises:
        UsageError: the file would replace the pin's own.
        NotFound: there is no such pin.
        PreflightError: packages are missing, the model cannot be exported or comes out another one, or the file cannot
            be written.
    """
    from selmix.pinned import load_pinned
    from selmix.serving.export import FORMATS, TOLERANCE, check_installed, export_model

    chosen = next(each for each in FORMATS if each == form)
    path = found_pin(pins, name)
    out = Path(f"{path.stem}.{form}") if out is None else out
    if out.exists() and any(
        out.samefile(own) for own in (path, path.with_suffix(".safetensors")) if own.exists()
    ):
        raise UsageError(f"--out: must be another file than the pin's own, got {out}")
    check_file_writable(out, ADVICE)
    check_file_writable(out.with_name(f"{out.name}.json"), ADVICE)
    try:
        check_installed(chosen)
        pinned = load_pinned(path)
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        with writing(out, ADVICE):
            exported = export_model(pinned, out, chosen, {"name": path.stem, **settings})
    except ValueError as error:
        raise PreflightError(str(error)) from error
    return ExportDocument(
        pin=str(path), format=form, files=[str(file) for file in exported.files],
        rows=exported.agreement.rows, largest_difference=exported.agreement.largest_difference, tolerance=TOLERANCE,
    )  # fmt: skip


def export_text(document: ExportDocument, width: int | None) -> str:
    """The files, and how the exported model was checked."""
    checked = (
        f"checked on {counted(document.rows, 'random sample')}: all labels equal, probabilities within "
        f"{document.largest_difference:.1g}"
    )
    return "\n".join([*document.files, sentence(checked, width)])
