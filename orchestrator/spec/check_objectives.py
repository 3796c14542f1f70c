"""An objective of the user's own, tried before anything is launched on it."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.spec.yaml_file import SweepFile

_CLASSES_WHERE_UNKNOWN = 10
_DRAWS = 4


def num_classes(file: SweepFile) -> int | None:
    """K of the data of a file; None where the data are wrong themselves."""
    from selmix.data import DATA, build_data_config

    data = file.values.get("data")
    if not isinstance(data, Mapping) or data.get("name") not in DATA:
        return None
    try:
        return len(build_data_config(**{str(key): value for key, value in data.items()}).class_names)
    except (ValueError, TypeError):
        return None


def own_objective_problems(file: SweepFile, reference: str) -> list[str]:
    """Why ``module:function`` cannot be an objective: it must be a finite scalar with a finite gradient.

    It is tried on smoothed confusion matrices of the kind that a run meets: random ones, a perfect one, and one with
    a class of zero recall.
    """
    import torch

    from selmix.confusion import logit_gradient, smooth_confusion
    from selmix.objectives import ObjectiveContext, bind_objective
    from selmix.user_code import load_function

    problems = []
    if file.section("selection").get("metric") is None:
        problems.append(
            f"{reference} needs selection.metric, the metric that its rounds and trials are judged by"
        )
    try:
        load_function(reference)
    except ValueError as error:
        return [*problems, f"{reference}: {error}"]
    classes = num_classes(file) or _CLASSES_WHERE_UNKNOWN
    generator = torch.Generator().manual_seed(0)
    counts = [torch.randint(0, 20, (classes, classes), generator=generator).double() for _ in range(_DRAWS)]
    counts = [20.0 * torch.eye(classes).double(), *(matrix + 1.0 for matrix in counts)]
    missed = 20.0 * torch.eye(classes).double()
    missed[-1] = missed[-1].roll(1)
    context = ObjectiveContext(train_counts=torch.arange(classes, 0, -1))
    for matrix in [*counts, missed]:
        try:
            logit_gradient(bind_objective(reference, context), smooth_confusion(matrix))
        except Exception as error:  # whatever the user's function raises
            said = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
            return [*problems, f"{reference} fails on a {classes} x {classes} confusion matrix: {said}"]
    return problems
