"""Data of a specification, read and checked: every class that a metric counts has samples."""

from __future__ import annotations

from orchestrator.build.selection import data_config
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from selmix.data.splits import SweepData
from selmix.metrics import METRICS


def load_data(spec: SweepSpec) -> SweepData:
    """Load train, feedback and select.

    Raises:
        PreflightError: they cannot be read, or a class (or, for metrics of groups, a (class, group) cell) is missing
            from a split.
    """
    try:
        data = data_config(spec).load()
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    # A class without samples has no recall on a split, and nothing to train on.
    for split in ("train", "feedback", "select"):
        missing = data.missing_classes(split)
        if missing:
            # Train is a long tail that begins at its largest class; the other splits have a size of their own name.
            raise PreflightError(
                f"data: every class must have a sample in {split}, got none of {', '.join(missing)}; "
                f"raise data.{'largest_class' if split == 'train' else split}"
            )
    if uses_groups(spec):
        # C is estimated on feedback and the metrics on select: both need samples of every cell.
        for split in ("feedback", "select"):
            cells = data.missing_cells(split)
            if cells:
                raise PreflightError(
                    f"data: every class of every group must have a sample in {split} for a metric of groups, got none "
                    f"of {', '.join(cells[:6])}"
                )
    return data


def uses_groups(spec: SweepSpec) -> bool:
    """True if an objective, a constraint or the ranking is one of groups."""
    named = {*spec.objectives, spec.selection.metric, *(c.metric for c in spec.constraints)}
    return any(name in METRICS and METRICS[name].of_cells is not None for name in named if name is not None)
