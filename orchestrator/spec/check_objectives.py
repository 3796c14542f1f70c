"""Objectives, bounds and metrics of a sweep file: names that exist, and definitions that they need."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from orchestrator.messages import closest
from orchestrator.spec.typed import Problem, TypedFile, placed
from selmix.confusion import logit_gradient, smooth_confusion
from selmix.metrics import METRICS
from selmix.objectives import OBJECTIVES, ObjectiveContext, bind_objective, metric_of_objective
from selmix.user_code import is_reference, load_function

# Size of the matrices that a user's objective is tried on where the data cannot be read yet.
_CLASSES_WHERE_UNKNOWN = 10
_DRAWS = 4


def objective_problems(typed: TypedFile) -> Iterable[Problem]:
    """Every objective must exist, once, with the definitions that it needs."""
    seen: set[str] = set()
    for index, name in typed.objectives.items():
        path = ("objectives", index)
        if is_reference(name):
            yield from ((path, text) for text in own_objective_problems(typed, name))
        # A metric that cannot be maximised is a known name all the same.
        elif name in METRICS and name not in OBJECTIVES:
            yield path, f"{name} is a metric that no objective stands for; {closest(name, OBJECTIVES)}"
        elif name not in OBJECTIVES:
            yield path, f"unknown objective {name!r}; {closest(name, OBJECTIVES)}"
        elif name in seen:
            yield path, f"must appear once, got {name} again"
        else:
            yield from ((path, text) for text in missing_definition(typed, metric_of_objective(name)))
        seen.add(name)


def missing_definition(typed: TypedFile, metric: str) -> Iterable[str]:
    """The definition that a metric needs and the file lacks."""
    needs = METRICS[metric].needs
    if needs is not None and typed.metrics is not None and not getattr(typed.metrics, needs):
        yield f"{metric} needs metrics.{needs}, it is not given"


def own_objective_problems(typed: TypedFile, reference: str) -> Iterable[str]:
    """Reasons why ``module:function`` cannot be an objective: it must be a finite scalar with a finite gradient.

    It is tried with the definitions of the file, on smoothed confusion matrices of the kind that a run meets: random
    ones, a perfect one, and one with a class of zero recall.
    """
    if typed.selection is not None and typed.selection.metric is None:
        yield f"{reference} needs selection.metric, the metric that its rounds and trials are judged by"
    try:
        load_function(reference)
    except ValueError as error:
        yield f"{reference}: {error}"
        return
    # A function may fail by definitions that are wrong, which is reported in their own place.
    if typed.metrics is None:
        return
    definitions = typed.metrics.definitions
    defined = len(definitions.recall_weights or definitions.cost_matrix or ())
    classes = typed.num_classes or defined or _CLASSES_WHERE_UNKNOWN
    if definitions.problems(classes):
        return
    # One seed: a file that is valid once is valid always.
    generator = torch.Generator().manual_seed(0)
    counts = [torch.randint(0, 20, (classes, classes), generator=generator).double() for _ in range(_DRAWS)]
    counts = [20.0 * torch.eye(classes).double(), *(matrix + 1.0 for matrix in counts)]
    # Recall 0 of the last class: a logarithm or a quotient of recalls has no finite gradient there.
    missed = 20.0 * torch.eye(classes).double()
    missed[-1] = missed[-1].roll(1)
    # A long tail, so that the classes have a head and a tail.
    context = ObjectiveContext(train_counts=torch.arange(classes, 0, -1), definitions=definitions)
    for matrix in [*counts, missed]:
        try:
            logit_gradient(bind_objective(reference, context), smooth_confusion(matrix))
        except Exception as error:  # whatever the user's function raises
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            yield f"{reference} fails on a {classes} x {classes} confusion matrix: {reason}"
            return


def definition_problems(typed: TypedFile) -> Iterable[Problem]:
    """Definitions of metrics must fit the number of classes."""
    if typed.metrics is not None and typed.num_classes is not None:
        keys = list(type(typed.metrics).model_fields)
        for line in typed.metrics.definitions.problems(typed.num_classes):
            yield placed(("metrics",), line, keys)


def constraint_problems(typed: TypedFile) -> Iterable[Problem]:
    """A bound is one number on a metric that can be bounded there."""
    for index, constraint in typed.constraints.items():
        path, key, bounds = ("constraints", index), constraint.metric, constraint.bounds
        if key not in METRICS:
            yield path, f"unknown metric {key!r}; {metric_hint(key)}"
        if len(bounds) != 1:
            yield path, "must have one of at_least and at_most"
        # A cost has the unit of its matrix; every other metric is a fraction.
        elif key != "cost" and not 0 <= bounds[0] <= 1:
            yield path, f"the bound on {key}, a fraction, must lie in [0, 1], got {bounds[0]:g}"
        if key not in METRICS:
            continue
        yield from ((path, text) for text in missing_definition(typed, key))
        if METRICS[key].of_predictions is not None and "method" in constraint.where:
            yield (
                path,
                f"{key} is no metric of a confusion matrix and cannot bind inside the method; write "
                "in: [search] to have it decide feasibility",
            )


def selection_problems(typed: TypedFile) -> Iterable[Problem]:
    """Rounds and trials are ranked by a metric of the select split."""
    metric = None if typed.selection is None else typed.selection.metric
    if metric is None:
        return
    path = ("selection", "metric")
    if metric in METRICS:
        yield from ((path, text) for text in missing_definition(typed, metric))
    else:
        yield path, f"must be a metric of the select split, got {metric!r}; {metric_hint(metric)}"


def metric_hint(metric: str) -> str:
    """Advice for a name that is no metric."""
    # test_min_recall, test/min_recall and the like ask for the test split, on which nothing may be selected.
    bare = metric.removeprefix("test").lstrip("/_. -")
    if metric.startswith("test") and bare in METRICS:
        return f"the test split is opened by `selmix pin` only; write {bare}, which is taken on select"
    return closest(metric, METRICS)
