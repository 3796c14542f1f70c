"""``selmix data``: what a sweep's data hold, and everything that is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError
from orchestrator.table import Column, paragraph, sentence, table

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

SHOWN = 12
"""Classes that are listed; the document has them all."""

PARTS = ("train", "feedback", "select", "test")


@dataclass(frozen=True, kw_only=True)
class DataDocument:
    """Counts per class and split, digests, and problems.

    Attributes:
        data: name of the data set. class_names, input_shape: of it.
        counts: split -> samples of each class. digests: split -> digest of its content.
        problems: one line each.
        unlabelled: samples without labels.
    """

    schema_version: int = SCHEMA_VERSION
    data: str
    class_names: list[str]
    input_shape: list[int]
    counts: dict[str, list[int]]
    digests: dict[str, str]
    problems: list[str]
    unlabelled: int


def data_document(spec: SweepSpec) -> DataDocument:
    """Everything that can be counted; every image file is decoded.

    The test split is counted and checked, never evaluated on.

    Raises:
        PreflightError: the data cannot be read at all.
    """
    from orchestrator.build.selection import data_config
    from selmix.data.images import Images, unreadable

    source = data_config(spec)
    try:
        data, test = source.load(), source.load_test()
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    splits = {"train": data.train, "feedback": data.feedback, "select": data.select, "test": test}
    problems: list[str] = []
    counts = {}
    for part, split in splits.items():
        counts[part] = split.counts(data.num_classes).tolist()
        empty = [name for name, count in zip(data.class_names, counts[part], strict=True) if count == 0]
        if empty:
            problems.append(f"{part}: no sample of {', '.join(empty[:SHOWN])}")
        if isinstance(split.inputs, Images) and split.inputs.files:
            problems += [f"{part}: {line}" for line in unreadable(split.inputs.files, split.inputs.size)]
    return DataDocument(
        data=spec.data["name"],
        class_names=list(data.class_names),
        input_shape=list(data.input_shape),
        counts=counts,
        digests=dict(data.digests),
        problems=problems,
        unlabelled=0 if data.unlabelled is None else len(data.unlabelled),
    )


def prepare_data(spec: SweepSpec) -> str | None:
    """Extract the official archive of a sweep's data where the files are not there yet; nothing is downloaded.

    Returns:
        The archive that was extracted; None where there was nothing to do.
    Raises:
        PreflightError: there is no archive, or it is damaged; it says what to get.
    """
    from orchestrator.build.selection import data_config
    from selmix.data import official_files

    official = official_files(data_config(spec))
    try:
        archive = official.prepare() if official is not None else None
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {error}") from error
    return None if archive is None else str(archive)


def data_text(document: DataDocument, width: int | None) -> str:
    """The document as a table."""
    counts, names = document.counts, document.class_names
    shape = " x ".join(str(size) for size in document.input_shape)
    rows = [(name, *(str(counts[part][k]) for part in PARTS)) for k, name in enumerate(names[:SHOWN])]
    if len(names) > SHOWN:
        rows.append((f"... and {len(names) - SHOWN} more classes (--json has them all)", *("",) * len(PARTS)))
    rows.append(("all", *(str(sum(counts[part])) for part in PARTS)))
    lines = [
        sentence(f"{document.data}: {len(names)} classes, samples of {shape}", width),
        "",
        table((Column("class"), *(Column(part, right=True) for part in PARTS)), rows, width),
    ]
    if document.unlabelled:
        lines.append(sentence(f"and {document.unlabelled} samples without labels", width))
    lines += ["", *(paragraph(f"  {part}", document.digests[part], width, indent=12) for part in PARTS)]
    return "\n".join(lines)


def fail_on_problems(document: DataDocument) -> None:
    """Refuse data with problems.

    Raises:
        PreflightError: with all of them.
    """
    if document.problems:
        raise PreflightError("data: " + "\n  ".join(document.problems))
