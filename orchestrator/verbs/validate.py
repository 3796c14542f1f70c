"""``selmix validate``: a sweep file that holds, with what is doubtful about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.build.selection import warnings_of
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import sentence


@dataclass(frozen=True, kw_only=True)
class ValidateDocument:
    """A valid sweep file.

    Attributes:
        valid: True: of an invalid one there is no document.
        sweep: its name. file: its path. objectives: that it names.
        warnings: one line each.
    """

    schema_version: int = SCHEMA_VERSION
    valid: bool = True
    sweep: str
    file: str
    objectives: list[str]
    warnings: list[str] = field(default_factory=list)


def validate_document(spec: SweepSpec, file: Path) -> ValidateDocument:
    """A valid sweep file as a document."""
    return ValidateDocument(
        sweep=spec.name, file=str(file), objectives=list(spec.objectives), warnings=warnings_of(spec)
    )


def validation_text(document: ValidateDocument, width: int | None) -> str:
    """The answer in a line."""
    return sentence(f"{document.file}: valid ({', '.join(document.objectives)})", width)
