"""Data of a specification, read and checked: every class that a metric counts has samples."""

from __future__ import annotations

from orchestrator.build.selection import data_config
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from selmix.data import DataConfig
from selmix.data.splits import SweepData
from selmix.data.wording import listed
from selmix.metrics import METRICS


def load_data(spec: SweepSpec) -> SweepData:
    """Load train, feedback and select.

    Raises:
        PreflightError: they cannot be read, or a class (or, for metrics of groups, a (class, group) cell) is missing
            from a split.
    """
    source = data_config(spec)
    try:
        data = source.load()
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    # A class without samples has no recall on a split, and nothing to train on.
    for split in ("train", "feedback", "select"):
        missing = data.missing_classes(split)
        if missing:
            raise PreflightError(
                f"data: every class must have a sample in {split}, got none of {listed(missing, 'classes')}; "
                f"{lacking_advice(source, split, len(missing) == data.num_classes)}"
            )
    if uses_groups(spec):
        # C is estimated on feedback and the metrics on select: both need samples of every cell.
        for split in ("feedback", "select"):
            cells = data.missing_cells(split)
            if cells:
                raise PreflightError(
                    f"data: every class of every group must have a sample in {split} for a metric of groups, got none "
                    f"of {listed(cells, 'cells')}; give larger splits, other ones, or no metric of groups"
                )
    return data


def lacking_advice(source: DataConfig, split: str, is_empty: bool) -> str:
    """Advice about classes that a split lacks."""
    if getattr(source, "has_own_splits", False):
        if is_empty and split != "train":
            return f"the table names no {split}: give data.{split}, the samples per class to draw from train"
        return "give them some, or data.rare_classes: drop or pool"
    # Train is a long tail that begins at its largest class; the other splits have a size of their own name.
    return f"raise data.{'largest_class' if split == 'train' else split}"


def uses_groups(spec: SweepSpec) -> bool:
    """True if an objective, a constraint or the ranking is one of groups."""
    named = {*spec.objectives, spec.selection.metric, *(c.metric for c in spec.constraints)}
    return any(name in METRICS and METRICS[name].of_cells is not None for name in named if name is not None)
