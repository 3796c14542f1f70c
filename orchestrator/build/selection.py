"""Selection rules of a specification, its data set, and warnings of settings that will disappoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.spec.check_objectives import class_label
from orchestrator.spec.preprocess import earlier_keys
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.sections import ConstraintSection
from selmix.data import DataConfig, build_data_config, official_files, preprocess_of
from selmix.objectives import ObjectiveContext, known_objective, metric_of_objective, without_coverage
from selmix.statistics.selection import Constraint, SelectionRule

COARSEST_STEP = 0.1
"""Largest step of a recall that can still rank."""


def data_config(spec: SweepSpec) -> DataConfig:
    """The data set of a sweep with its sizes.

    A stored specification of an earlier version lacks the keys of preprocessing and listing, and means what that
    version did; one that was read from a file by this version has them.
    """
    return build_data_config(**earlier_keys(spec.data))


def preprocess_keys(spec: SweepSpec) -> dict[str, Any] | None:
    """Keys of the preprocessing of a sweep's images, with their values.

    None where no image is decoded, or the data cannot be read yet that say whether they are images.
    """
    try:
        steps = preprocess_of(data_config(spec))
    except (OSError, ValueError):
        return None
    return None if steps is None else steps.as_keys()


def selection_rules(spec: SweepSpec, class_names: Sequence[str]) -> dict[str, SelectionRule]:
    """Selection rule of each objective by name."""
    return {objective: selection_rule(spec, objective, class_names) for objective in spec.objectives}


def selection_rule(spec: SweepSpec, objective: str, class_names: Sequence[str]) -> SelectionRule:
    """Selection rule that ranks rounds and trials of an objective, with the constraints that hold for it.

    An objective ``X_min_coverage`` brings its constraint with it; inside the method its own coverage term acts.

    Args:
        spec: of the sweep.
        objective: one of its objectives.
        class_names: names of the K classes, in the order of their labels.
    Raises:
        ValueError: a bound on a class that the data do not have.
    """
    constraints = [_constraint(section, class_names) for section in spec.constraints]
    known = known_objective(objective)
    # A bound of the file's own on that coverage counts instead.
    if (
        known is not None
        and known.coverage is not None
        and known.coverage not in {c.metric for c in constraints}
    ):
        # The floor that the objective itself has inside the method, alpha / K.
        level = ObjectiveContext().settings.coverage_level
        constraints.append(Constraint(known.coverage, at_least=level / len(class_names), where=("search",)))
    return SelectionRule(
        ranking_metric(spec, objective),
        spec.selection.statistic, tuple(constraints), seed=spec.search.seed,
        definitions=spec.metrics.definitions,
    )  # fmt: skip


def ranking_metric(spec: SweepSpec, objective: str) -> str:
    """Metric that ranks rounds and trials of an objective: the one of the file, else the objective's own."""
    return spec.selection.metric or metric_of_objective(objective)


def _constraint(section: ConstraintSection, class_names: Sequence[str]) -> Constraint:
    label, name = None, ""
    if section.of_class is not None:
        label = class_label(section.of_class, class_names)
        name = class_names[label]
    return Constraint(
        section.metric, section.at_least, section.at_most, tuple(sorted(section.where)), label, name
    )


def acting_objective(spec: SweepSpec, objective: str) -> str:
    """Name of an objective without its coverage term where a bound of the file takes the term's place in the method."""
    return str(without_coverage(objective, {c.metric for c in spec.constraints if "method" in c.where}))


def warnings_of(spec: SweepSpec) -> list[str]:
    """Warnings of settings that are allowed but will disappoint."""
    config: Any = data_config(spec)
    warnings = []
    # Sizes of some data sets are read from their files, which need not be there to validate.
    try:
        warnings += _coarse_splits(config)
    except (OSError, ValueError) as error:
        warnings.append(f"data: not checked yet, a launch will stop here: {error}")
    official = official_files(config)
    if official is not None and not official.is_ready:
        warnings.append(f"data: not checked yet, a launch will stop here: {official.advice}")
    if spec.search.num_trials == 1 and spec.searched:
        warnings.append("search.num_trials: 1 runs the defaults only; nothing is searched")
    if spec.searched and not spec.searches and spec.screen is None:
        warnings.append(
            f"parameters: {', '.join(spec.searched)} is not searched: rungs has no finetune, and there is no screen"
        )
    if spec.early_stopping is not None and "finetune" not in spec.rungs:
        warnings.append("early_stopping: stops trials, and rungs has no finetune, which runs them")
    return warnings


def _coarse_splits(config: Any) -> list[str]:
    """Warnings of splits too small to see differences on."""
    warnings: list[str] = []
    # Read in any case: also of files that assign the splits a missing one is worth a warning.
    class_names, _ = config.class_names, config.input_shape
    # A file assigns the samples to the splits; the sizes of the configuration are not used.
    if getattr(config, "has_own_splits", getattr(config, "split", None) is not None):
        return warnings
    select, feedback = _held(config, "select"), _held(config, "feedback")
    step = 1.0 / select
    if step > COARSEST_STEP:
        warnings.append(
            f"data.select: {select} samples per class: a recall moves in steps of {100 * step:.0f} percentage "
            "points, too coarse to rank by"
        )
    # A launch refuses 0 by itself.
    if 0 < feedback < 1.0 / COARSEST_STEP:
        warnings.append(
            f"data.feedback: {feedback} samples per class: a recall moves in steps of "
            f"{100 / feedback:.0f} percentage points, the gain will follow noise"
        )
    fewer = [name for name, count in zip(class_names, config.train_sizes, strict=True) if count < feedback]
    if fewer:
        shown = ", ".join(fewer[:10]) + (f" and {len(fewer) - 10} more" if len(fewer) > 10 else "")
        warnings.append(
            f"data.feedback: classes {shown} have more feedback ({feedback}) than training samples: "
            "their feedback is worth more as training data (draw_from: train+feedback)"
        )
    return warnings


def _held(config: Any, part: str) -> int:
    """Samples of a held-out split per class, of the class with the fewest where they differ."""
    if hasattr(config, "sizes_of"):
        return int(min(config.sizes_of(part)))
    size: int = getattr(config, part)
    return size
