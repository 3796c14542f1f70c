"""``selmix data``: counts, digests and problems of a sweep's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError
from orchestrator.messages import counted
from orchestrator.table import Column, sentence, table

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

MAX_CLASSES_SHOWN = 12
"""Classes that the text lists; the document has them all."""

SPLITS = ("train", "feedback", "select", "test")


@dataclass(frozen=True, kw_only=True)
class DataDocument:
    """Counts per class and split, digests, and problems.

    Attributes:
        schema_version: version of the document.
        data: name of the data set.
        class_names: names of the classes, in their order.
        input_shape: shape of a sample.
        counts: split -> samples per class.
        digests: split -> digest of its content.
        problems: one line each.
        unlabelled: number of samples without labels.
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
    """Count the samples of each split and check them; every image file is decoded.

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
    for name, split in splits.items():
        counts[name] = split.counts(data.num_classes).tolist()
        # Recall is undefined for a class without samples, in whichever split it is missing.
        empty = [label for label, count in zip(data.class_names, counts[name], strict=True) if count == 0]
        if empty:
            problems.append(f"{name}: no sample of {', '.join(empty[:MAX_CLASSES_SHOWN])}")
        # Images on disk are decoded batch by batch in training: a broken one would fail a trial in the middle.
        if isinstance(split.inputs, Images):
            problems += [f"{name}: {line}" for line in unreadable(split.inputs)]
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
    """Extract the official archive of a sweep's data where the files are not there yet.

    Nothing is downloaded or installed: where a package of the system has the files, they are only looked for.

    Returns:
        The archive that was extracted; None where there was nothing to do.
    Raises:
        PreflightError: there is no archive or package, or it is damaged; the message names the one to get.
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
    """Table of the counts per class and split, with the digests below."""
    counts, names = document.counts, document.class_names
    shape = " x ".join(str(size) for size in document.input_shape)
    shown = names[:MAX_CLASSES_SHOWN]
    rows = [(name, *(str(counts[split][k]) for split in SPLITS)) for k, name in enumerate(shown)]
    if len(names) > len(shown):
        more = f"... and {len(names) - len(shown)} more classes (--json has them all)"
        rows.append((more, *("",) * len(SPLITS)))
    rows.append(("all", *(str(sum(counts[split])) for split in SPLITS)))
    lines = [
        sentence(f"{document.data}: {len(names)} classes, samples of {shape}", width),
        "",
        table((Column("class"), *(Column(split, right=True) for split in SPLITS)), rows, width),
    ]
    if document.unlabelled:
        lines.append(sentence(f"and {document.unlabelled} samples without labels", width))
    digests = [(split, document.digests[split].removeprefix("sha256:")) for split in SPLITS]
    lines += ["", table((Column("split"), Column("sha256 of its content")), digests, width)]
    count = len(document.problems)
    # On a terminal the problems follow: they are an error, and go to stderr.
    lines += ["", "no problems" if not count else f"{counted(count, 'problem')}:"]
    return "\n".join(lines)


def fail_on_problems(document: DataDocument) -> None:
    """Raise an error if the data have problems.

    Raises:
        PreflightError: lists all of them.
    """
    if document.problems:
        raise PreflightError("data: " + "\n  ".join(document.problems))
