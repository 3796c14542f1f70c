"""What a sweep's data hold, and everything that is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

SCHEMA_VERSION = 1
_SHOWN = 12
PARTS = ("train", "feedback", "select", "test")


def data_document(spec: SweepSpec) -> dict[str, Any]:
    """Counts per class and split, digests, and problems; every image file is decoded.

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
            problems.append(f"{part}: no sample of {', '.join(empty[:_SHOWN])}")
        if isinstance(split.inputs, Images) and split.inputs.files:
            problems += [f"{part}: {line}" for line in unreadable(split.inputs.files, split.inputs.size)]
    return {
        "schema_version": SCHEMA_VERSION, "data": spec.data["name"], "class_names": list(data.class_names),
        "input_shape": list(data.input_shape), "counts": counts, "digests": dict(data.digests), "problems": problems,
        "unlabelled": 0 if data.unlabelled is None else len(data.unlabelled),
    }  # fmt: skip


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


def data_text(document: dict[str, Any]) -> str:
    """The document as a table."""
    counts, names = document["counts"], document["class_names"]
    width = max([len(name) for name in names[:_SHOWN]] + [5])
    shape = " x ".join(str(size) for size in document["input_shape"])
    lines = [f"{document['data']}: {len(names)} classes, samples of {shape}", ""]
    lines.append(f"  {'class':<{width}}" + "".join(f"{part:>10}" for part in PARTS))
    for k, name in enumerate(names[:_SHOWN]):
        lines.append(f"  {name:<{width}}" + "".join(f"{counts[part][k]:>10}" for part in PARTS))
    if len(names) > _SHOWN:
        lines.append(f"  ... and {len(names) - _SHOWN} more classes (--json has them all)")
    lines.append(f"  {'all':<{width}}" + "".join(f"{sum(counts[part]):>10}" for part in PARTS))
    if document["unlabelled"]:
        lines.append(f"  and {document['unlabelled']} samples without labels")
    lines += ["", *(f"  {part:<9} {document['digests'][part]}" for part in PARTS)]
    return "\n".join(lines)


def fail_on_problems(document: dict[str, Any]) -> None:
    """Raises:
    PreflightError: something is wrong with the data; all of it is said.
    """
    if document["problems"]:
        raise PreflightError("data: " + "\n  ".join(document["problems"]))
