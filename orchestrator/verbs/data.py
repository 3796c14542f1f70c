"""``selmix data``: counts, digests and problems of a sweep's data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError
from orchestrator.messages import counted, preprocess_words
from orchestrator.table import Column, sentence, table

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

MAX_CLASSES_SHOWN = 12
"""Classes that the text lists; the document has them all."""

MAX_PROBLEMS_SHOWN = 6
"""Problems that an error lists; of more the first three and their number."""

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
        notes: what was done to read the data and to divide them, one line each.
        warnings: what is doubtful, one line each.
        preprocess: keys of the preprocessing of images, with their values; None where no image is decoded.
        preprocess_digest: digest of what is done to a sample before a model sees it.
    """

    schema_version: int = SCHEMA_VERSION
    data: str
    class_names: list[str]
    input_shape: list[int]
    counts: dict[str, list[int]]
    digests: dict[str, str]
    problems: list[str]
    unlabelled: int
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    preprocess: dict[str, Any] | None = None
    preprocess_digest: str | None = None


def data_document(spec: SweepSpec) -> DataDocument:
    """Count the samples of each split and check them; every image is decoded, and contents are compared.

    The test split is counted and checked, never evaluated on.

    Raises:
        PreflightError: the data cannot be read at all.
    """
    from orchestrator.build.data import lacking_advice
    from orchestrator.build.leaks import ADVICE, find_leaks, sample_namer
    from orchestrator.build.selection import data_config
    from selmix.data import doubts_of, notes_of, preprocess_of, refuses_duplicates
    from selmix.data.content import preprocess_digest
    from selmix.data.image_kinds import kinds_of
    from selmix.data.images import Images
    from selmix.data.near_duplicates import grids_of, near_leaks
    from selmix.data.wording import listed

    source = data_config(spec)
    try:
        data, test = source.load(), source.load_test()
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    splits = {"train": data.train, "feedback": data.feedback, "select": data.select, "test": test}
    problems: list[str] = []
    counts = {}
    images: dict[str, Images] = {}
    grids = {}
    for name, split in splits.items():
        counts[name] = split.counts(data.num_classes).tolist()
        # Recall is undefined for a class without samples, in whichever split it is missing.
        empty = [label for label, count in zip(data.class_names, counts[name], strict=True) if count == 0]
        if empty:
            advice = ""
            if getattr(source, "has_own_splits", False) and not any(counts[name]):
                advice = f"; {lacking_advice(source, name, is_empty=True)}"
            problems.append(f"{name}: no sample of {listed(empty, 'classes', MAX_CLASSES_SHOWN)}{advice}")
        # Images are decoded batch by batch in training: a broken one would fail a trial in the middle.
        if isinstance(split.inputs, Images) and not split.inputs.is_decoded:
            images[name] = split.inputs
            grids[name], lines = grids_of(split.inputs)
            problems += [f"{name}: {line}" for line in lines]
    try:
        leaks = find_leaks(source, data, test)
        alike = near_leaks(images, grids, sample_namer(source, data, test))
        notes, warnings = (
            [*notes_of(source), *kinds_of(images)],
            [*doubts_of(source), *leaks.elsewhere, *alike],
        )
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    if refuses_duplicates(source):
        problems += [f"{line}: {ADVICE}" for line in leaks.in_test]
    else:
        warnings += leaks.in_test
    return DataDocument(
        data=spec.data["name"],
        class_names=list(data.class_names),
        input_shape=list(data.input_shape),
        counts=counts,
        digests=dict(data.digests),
        problems=problems,
        unlabelled=0 if data.unlabelled is None else len(data.unlabelled),
        notes=notes,
        warnings=warnings,
        preprocess=None if (steps := preprocess_of(source)) is None else steps.as_keys(),
        preprocess_digest=preprocess_digest(test.inputs),
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
    """Table of the counts per class and split, with the digests and what was found below."""
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
    if document.preprocess is not None:
        lines += ["", sentence(f"preprocess: {preprocess_words(document.preprocess)}", width)]
    if document.notes:
        lines += ["", *(sentence(f"note: {note}", width) for note in document.notes)]
    if document.warnings:
        lines += ["", *(sentence(f"warning: {line}", width) for line in document.warnings)]
    lines += ["", _found(document)]
    return "\n".join(lines)


def _found(document: DataDocument) -> str:
    """Last line of the text: what was found."""
    problems, warnings = len(document.problems), len(document.warnings)
    # On a terminal the problems follow: they are an error, and go to stderr.
    if problems:
        return f"{counted(problems, 'problem')}:"
    return f"no problems, {counted(warnings, 'warning')}" if warnings else "nothing wrong"


def fail_on_problems(document: DataDocument) -> None:
    """Raise an error if the data have problems.

    Raises:
        PreflightError: lists them, of many the first ones with their number.
    """
    problems = document.problems
    if len(problems) > MAX_PROBLEMS_SHOWN:
        more = f"and {len(problems) - 3} more (--json lists all {len(problems)})"
        problems = [*problems[:3], more]
    if problems:
        raise PreflightError("data: " + "\n  ".join(problems))
