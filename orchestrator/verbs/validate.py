"""``selmix validate``: report a valid sweep file and its warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.build.carried import carried_notes
from orchestrator.build.checkpoint import header_notes
from orchestrator.build.selection import data_config, preprocess_keys, warnings_of
from orchestrator.cluster.doctor import missing_here, raise_all
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import sentence
from selmix.data import official_files


@dataclass(frozen=True, kw_only=True)
class ValidateDocument:
    """A valid sweep file.

    Attributes:
        schema_version: version of the document.
        valid: always True; for an invalid file there is no document.
        sweep: name of the sweep.
        file: path of the file.
        objectives: objectives of the sweep.
        warnings: one line each.
        preprocess: keys of the preprocessing of images, with their values; None where no image is decoded, or it is not
            known here.
    """

    schema_version: int = SCHEMA_VERSION
    valid: bool = True
    sweep: str
    file: str
    objectives: list[str]
    warnings: list[str] = field(default_factory=list)
    preprocess: dict[str, Any] | None = None


def validate_document(spec: SweepSpec, file: Path) -> ValidateDocument:
    """Document of a valid sweep file, once the files that it names were found and their headers read.

    Args:
        spec: of the sweep.
        file: its path.
    Raises:
        PreflightError: files are missing (all of them at once), or one does not fit.
    """
    notes = check_named_files(spec)
    return ValidateDocument(
        sweep=spec.name,
        file=str(file),
        objectives=list(spec.objectives),
        warnings=[*warnings_of(spec), *notes],
        preprocess=preprocess_keys(spec),
    )


def check_named_files(spec: SweepSpec) -> list[str]:
    """Check the files and folders that a sweep file names: that they are there, and by their headers that they fit.

    Args:
        spec: of the sweep.
    Returns:
        Choices that a launch will make, a line each.
    Raises:
        PreflightError: files are missing or unfit; all of them at once.
    """
    config = data_config(spec)
    official = official_files(config)
    if official is not None and not official.is_ready:
        # The advice names the path, and the command that prepares it.
        absent = [line for line in missing_here(spec) if not line.startswith("data.")]
        raise_all([f"data: {official.advice}", *absent])
    raise_all(missing_here(spec))
    try:
        shape, names = config.input_shape, config.class_names
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {error}") from error
    return [*header_notes(spec, shape, len(names)), *carried_notes(spec, names)]


def validation_text(document: ValidateDocument, width: int | None) -> str:
    """Text of a valid sweep file: one line."""
    return sentence(f"{document.file}: valid ({', '.join(document.objectives)})", width)
