"""``selmix validate``: report a valid sweep file and its warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.build.selection import preprocess_keys, warnings_of
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import sentence


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
    """Document of a valid sweep file."""
    return ValidateDocument(
        sweep=spec.name, file=str(file), objectives=list(spec.objectives), warnings=warnings_of(spec),
        preprocess=preprocess_keys(spec),
    )  # fmt: skip


def validation_text(document: ValidateDocument, width: int | None) -> str:
    """Text of a valid sweep file: one line."""
    return sentence(f"{document.file}: valid ({', '.join(document.objectives)})", width)
