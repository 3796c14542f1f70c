"""Objectives, bounds and metrics of a sweep file: names that exist, and definitions that they need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from orchestrator.messages import closest
from orchestrator.spec.sections import ConstraintSection, SelectionSection
from orchestrator.spec.typed import Problem, TypedFile, placed
from selmix.confusion import logit_gradient, smooth_rows
from selmix.definitions import RATES_OF_A_CLASS
from selmix.metric_keys import AGREEMENTS, ends_of, is_fraction
from selmix.metrics import METRICS, MetricContext
from selmix.objectives import OBJECTIVES, ObjectiveContext, bind_objective, metric_of_objective
from selmix.own_metrics import OwnFunction, own_function
from selmix.statistics.own import range_of
from selmix.statistics.verdict import COVERAGES, metric_range
from selmix.user_code import is_reference, load_function

# Size of the matrices that a user's objective is tried on where the data cannot be read yet.
_CLASSES_WHERE_UNKNOWN = 10
_DRAWS = 4
_ROUNDING = 1e-9  # of 1 / K in binary


def objective_problems(typed: TypedFile) -> Iterable[Problem]:
    """Every objective must exist, once, with the definitions that it needs."""
    seen: set[str] = set()
    for index, name in typed.objectives.items():
        path = ("objectives", index)
        if name in seen:
            yield path, f"must appear once, got {name} again"
        elif is_reference(name):
            yield from ((path, text) for text in own_objective_problems(typed, name))
        # A metric that cannot be maximised is a known name all the same.
        elif name in METRICS and name not in OBJECTIVES:
            yield path, f"{name} is a metric that no objective stands for; {closest(name, OBJECTIVES)}"
        elif name not in OBJECTIVES:
            yield path, f"unknown objective {name!r}; {closest(name, OBJECTIVES)}"
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
    ones, a perfect one, and one with a class of zero recall. Where no other metric is named it is judged by itself, and
    must be a metric too.
    """
    try:
        load_function(reference)
    except ValueError as error:
        yield f"{reference}: {error}"
        return
    classes = _tried_classes(typed)
    # A function may fail by definitions that are wrong, which is reported in their own place.
    if typed.metrics is None or classes is None:
        return
    # One seed: a file that is valid once is valid always.
    generator = torch.Generator().manual_seed(0)
    counts = [torch.randint(0, 20, (classes, classes), generator=generator).double() for _ in range(_DRAWS)]
    counts = [20.0 * torch.eye(classes).double(), *(matrix + 1.0 for matrix in counts)]
    # Recall 0 of the last class: a logarithm or a quotient of recalls has no finite gradient there.
    missed = 20.0 * torch.eye(classes).double()
    missed[-1] = missed[-1].roll(1)
    # A long tail, so that the classes have a head and a tail.
    context = ObjectiveContext(
        train_counts=torch.arange(classes, 0, -1), definitions=typed.metrics.definitions
    )
    for matrix in [*counts, missed]:
        try:
            logit_gradient(bind_objective(reference, context), smooth_rows(matrix))
        except Exception as error:  # whatever the user's function raises
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            advice = ""
            if _is_of_numpy(typed, reference, classes):
                advice = (
                    "; an objective needs a gradient, so it is written with torch operations; a function of numpy can "
                    "be selection.metric"
                )
            yield f"{reference} fails on a {classes} x {classes} confusion matrix: {reason}{advice}"
            return
    if typed.selection is not None and typed.selection.metric is None:
        yield from _judging_problems(typed, reference)


def own_metric_problems(typed: TypedFile, reference: str) -> Iterable[str]:
    """Reasons why ``module:function`` cannot be a metric: it must be a finite number of any counts, on any scale.

    It is tried with the definitions of the file, on a perfect matrix, one of equal cells, a random one, and such in
    which classes are never predicted.
    """
    if not reference.isascii():
        yield f"{reference}: must be named in ASCII letters: it is a key of records and of MLflow"
        return
    try:
        function = own_function(reference)
    except ValueError as error:
        yield f"{reference}: {error}"
        return
    classes = _tried_classes(typed)
    if classes is not None:
        yield from _problems_as_metric(typed, function, classes)


def _problems_as_metric(typed: TypedFile, function: OwnFunction, classes: int) -> Iterable[str]:
    try:
        yield from function.problems(classes, _metric_context(typed, classes))
    except ValueError as error:
        yield str(error)


def _judging_problems(typed: TypedFile, reference: str) -> Iterable[str]:
    """Reasons why rows cannot be judged by ``module:function``: it is a metric, and has a margin within its range."""
    problems = list(own_metric_problems(typed, reference))
    yield from problems
    if typed.selection is None or problems:
        return
    margin, classes = typed.selection.margin, _tried_classes(typed)
    if margin is not None and classes is not None:
        counts = torch.full((classes, classes), 3.0, dtype=torch.float64)
        low, high = range_of(own_function(reference), counts, _metric_context(typed, classes))
        if 0 < high - low <= margin:
            yield (
                f"{reference} needs a selection.margin below its range, it moves from {low:g} to {high:g} between "
                f"useless and perfect predictions, got {margin:g}"
            )
    elif margin is None:
        yield (
            f"{reference} needs selection.margin, the difference of it that does not matter: the range of a function "
            "of your own is not known"
        )


def _tried_classes(typed: TypedFile) -> int | None:
    """Size of the matrices that a user's function is tried on; None where the file's definitions are wrong."""
    if typed.metrics is None:
        return None
    definitions = typed.metrics.definitions
    defined = len(definitions.recall_weights or definitions.cost_matrix or ())
    classes = typed.num_classes or defined or _CLASSES_WHERE_UNKNOWN
    return None if definitions.problems(classes) else classes


def _metric_context(typed: TypedFile, classes: int) -> MetricContext:
    if typed.metrics is None:
        raise AssertionError("functions are tried with the definitions of the file")
    return MetricContext(torch.arange(classes, 0, -1), typed.metrics.definitions)


def _is_of_numpy(typed: TypedFile, reference: str, classes: int) -> bool:
    """True if a function is one of numpy arrays alone."""
    try:
        return own_function(reference).takes_numpy(classes, _metric_context(typed, classes))
    except ValueError:
        return False


def definition_problems(typed: TypedFile) -> Iterable[Problem]:
    """Definitions of metrics must fit the number of classes."""
    if typed.metrics is not None and typed.num_classes is not None:
        keys = list(type(typed.metrics).model_fields)
        for line in typed.metrics.definitions.problems(typed.num_classes):
            yield placed(("metrics",), line, keys)


def constraint_problems(typed: TypedFile) -> Iterable[Problem]:
    """A bound is one number on a metric that can be bounded there, and some model can meet it."""
    for index, constraint in typed.constraints.items():
        texts = [*_bound_problems(typed, constraint), *_class_problems(typed, constraint)]
        yield from ((("constraints", index), text) for text in texts)


def _bound_problems(typed: TypedFile, constraint: ConstraintSection) -> Iterable[str]:
    key, bounds = constraint.metric, constraint.bounds
    if key not in METRICS and key not in RATES_OF_A_CLASS and not is_reference(key):
        yield f"unknown metric {key!r}; {metric_hint(key, (*METRICS, *RATES_OF_A_CLASS))}"
    if len(bounds) != 1:
        yield "must have one of at_least and at_most"
    elif is_fraction(key) and not 0 <= bounds[0] <= 1:
        got = f"{bounds[0]:g}" if bounds[0] < 0 else f"{100 * bounds[0]:g} %"
        yield f"the bound on {key}, a fraction, must lie in [0, 1], or above 1 up to 100 in percent, got {got}"
    elif not ends_of(key)[0] <= bounds[0] <= ends_of(key)[1]:
        least, most = ends_of(key)
        yield f"the bound on {key} must lie in [{least:g}, {most:g}], got {bounds[0]:g}"
    else:
        yield from _out_of_reach(typed, constraint)
    if is_reference(key):
        yield from _own_bound_problems(typed, constraint)
    if not constraint.where:
        yield "in must name method, search or both, got neither; leave the bound out to have none"
    if key not in METRICS:
        return
    yield from missing_definition(typed, key)
    if METRICS[key].by_scores:
        yield scores_not_kept(key)
    elif METRICS[key].of_predictions is not None and "method" in constraint.where:
        yield (
            f"{key} is no metric of a confusion matrix and cannot bind inside the method; write in: [search] to have "
            "it decide feasibility"
        )


def _own_bound_problems(typed: TypedFile, constraint: ConstraintSection) -> Iterable[str]:
    """A bound on a user's function is on a metric, and inside the method on one that has a gradient."""
    key, problems = constraint.metric, list(own_metric_problems(typed, constraint.metric))
    yield from problems
    classes = _tried_classes(typed)
    if problems or classes is None or "method" not in constraint.where:
        return
    if not own_function(key).has_own_gradient(classes, _metric_context(typed, classes)):
        yield (
            f"{key} has no gradient by torch and cannot bind inside the method; write in: [search] to have it decide "
            "feasibility"
        )


def _out_of_reach(typed: TypedFile, constraint: ConstraintSection) -> Iterable[str]:
    """Reason why no model could meet a bound; nothing where one could, or where that cannot be known yet."""
    key, floor, ceiling = constraint.metric, constraint.at_least, constraint.at_most
    classes = typed.num_classes
    # The coverages sum to 1, so the least of K, or of two group means, is 1 / K at most.
    if classes is not None and key in COVERAGES and floor is not None and floor > 1 / classes + _ROUNDING:
        yield (
            f"can never hold: the coverages of {classes} classes sum to 1, so {key} is at most {1 / classes:g}, got "
            f"at_least {floor:g}"
        )
    costs = None if typed.metrics is None else typed.metrics.cost_matrix
    if key == "cost" and costs:
        low, high = min(min(row) for row in costs), max(max(row) for row in costs)
        if (ceiling is not None and ceiling < low) or (floor is not None and floor > high):
            bound = f"at_most {ceiling:g}" if ceiling is not None else f"at_least {floor:g}"
            yield f"can never hold: metrics.cost_matrix has costs from {low:g} to {high:g}, got {bound}"
    for other in typed.constraints.values():
        if len(other.bounds) == 1 and (text := _contradiction(constraint, other, typed.class_names)):
            yield text


NEVER_ABOVE: dict[str, tuple[str, ...]] = {
    "worst_group_recall": ("min_recall",),
    "min_recall": (
        "recall", "min_head_tail_recall", "cvar_recall", "h_mean", "q_mean", "weighted_recall", "accuracy",
        "many_shot_recall", "medium_shot_recall", "few_shot_recall",
    ),
    "min_head_tail_recall": ("mean_recall",),
    "cvar_recall": ("mean_recall",),
    "q_mean": ("mean_recall",),
    "h_mean": ("g_mean",),
    "g_mean": ("mean_recall",),
    "min_precision": ("precision",),
    "min_coverage": ("min_head_tail_coverage",),
}  # fmt: skip
"""Metric -> metrics that it never exceeds, whatever the counts: a minimum its members and their means, and so on."""


@dataclass(frozen=True)
class _Side:
    """A bound as one on a metric that is to be maximised: balanced_error at most x is mean_recall at least 1 - x."""

    metric: str
    of_class: str | int | None
    floor: float | None
    ceiling: float | None

    @classmethod
    def of(cls, constraint: ConstraintSection, class_names: Sequence[str] | None) -> _Side:
        metric, floor, ceiling = constraint.metric, constraint.at_least, constraint.at_most
        if metric == "balanced_error":
            metric = "mean_recall"
            floor, ceiling = (None if bound is None else 1.0 - bound for bound in (ceiling, floor))
        of_class = constraint.of_class
        # By name and by number it is the same class; one that does not exist is a problem of its own.
        if of_class is not None and class_names is not None:
            with contextlib.suppress(ValueError):
                of_class = class_names[class_label(of_class, class_names)]
        return cls(metric, of_class, floor, ceiling)


def _contradiction(
    floor: ConstraintSection, ceiling: ConstraintSection, class_names: Sequence[str] | None
) -> str:
    """Reason why the first bound, as a floor, can never hold beside the second, as a ceiling; empty where it can.

    Args:
        floor: one bound.
        ceiling: another one, or the same.
        class_names: in the order of the labels; None where they are not known.
    """
    low, high = _Side.of(floor, class_names), _Side.of(ceiling, class_names)
    if low.floor is None or high.ceiling is None or high.ceiling >= low.floor - _ROUNDING:
        return ""
    same = (low.metric, low.of_class) == (high.metric, high.of_class)
    if not same and high.metric not in _never_exceeded(low.metric):
        return ""
    head = f"can never hold: {_shown(floor)} beside {_shown(ceiling)} on"
    if same and floor.metric == ceiling.metric:
        return f"{head} the same metric"
    of_class = "" if high.of_class is None else f" of {high.of_class}"
    mirrored = "" if ceiling.metric == high.metric else f", which is 1 - {high.metric}"
    if same:
        return f"{head} {ceiling.metric}{of_class}, which is 1 - {floor.metric}"
    never = f"{', and that' if mirrored else ', which'} {low.metric} never exceeds"
    return f"{head} {ceiling.metric}{of_class}{mirrored}{never}"


def _never_exceeded(metric: str) -> set[str]:
    """All metrics that this one never exceeds."""
    found: set[str] = set()
    todo = [metric]
    while todo:
        new = [upper for upper in NEVER_ABOVE.get(todo.pop(), ()) if upper not in found]
        found |= set(new)
        todo += new
    return found


def _shown(constraint: ConstraintSection) -> str:
    if constraint.at_least is not None:
        return f"at_least {constraint.at_least:g}"
    return f"at_most {constraint.at_most:g}"


def _class_problems(typed: TypedFile, constraint: ConstraintSection) -> Iterable[str]:
    key, given = constraint.metric, constraint.of_class
    if key in RATES_OF_A_CLASS and given is None:
        yield f"{key} is that of one class; give class: NAME, or bound min_{key}, the least of all classes"
    elif key not in RATES_OF_A_CLASS and given is not None:
        yield f"class goes with {' and '.join(RATES_OF_A_CLASS)}; {key} is a metric of all classes"
    elif given is not None and typed.class_names is not None:
        try:
            class_label(given, typed.class_names)
        except ValueError as error:
            yield str(error)


def class_label(given: str | int, class_names: Sequence[str]) -> int:
    """Label of a class that a file names.

    Args:
        given: its name, or, a whole number, its label.
        class_names: in the order of the labels.
    Raises:
        ValueError: there is no such class; the message has the closest name.
    """
    if isinstance(given, int):
        if 0 <= given < len(class_names):
            return given
        quoted = f"; write '{given}' for the class of that name" if str(given) in class_names else ""
        raise ValueError(f"class: must be a name, or a label in [0, {len(class_names)}), got {given}{quoted}")
    if given not in class_names:
        raise ValueError(f"class: unknown class {given!r}; {closest(given, class_names)}")
    return list(class_names).index(given)


def selection_problems(typed: TypedFile) -> Iterable[Problem]:
    """Rounds and trials are ranked by a metric of the select split, up to a margin of its own scale."""
    if typed.selection is None:
        return
    yield from ((("selection", "margin"), text) for text in _margin_problems(typed, typed.selection))
    metric = typed.selection.metric
    if metric is None:
        return
    path = ("selection", "metric")
    if metric in METRICS and METRICS[metric].of_predictions is not None:
        yield (
            path,
            (
                scores_not_kept(metric)
                if METRICS[metric].by_scores
                else f"{metric} is no metric of a confusion matrix and cannot rank; bound it, with in: [search]"
            ),
        )
    elif metric in METRICS:
        yield from ((path, text) for text in missing_definition(typed, metric))
    elif is_reference(metric):
        texts = list(_judging_problems(typed, metric))
        yield from ((path, text) for text in texts)
    else:
        yield path, f"must be a metric of the select split, got {metric!r}; {metric_hint(metric)}"


def scores_not_kept(metric: str) -> str:
    """Reason why a metric of the scores is none of a sweep."""
    return (
        f"{metric} needs the scores of all classes, of which a sweep keeps the label and its confidence only; "
        f"`selmix evaluate TABLE --objective {metric}` computes it from a table"
    )


def _margin_problems(typed: TypedFile, section: SelectionSection) -> Iterable[str]:
    """A margin as wide as all values of the metric would make every row a tie, and the cheapest the winner."""
    if section.margin is None or typed.metrics is None:
        return
    ranked = typed.objectives.values() if section.metric is None else [section.metric]
    for name in ranked:
        # Another name, or a function of the user's own, is a problem of its own place.
        if name not in METRICS and name not in OBJECTIVES:
            continue
        metric = metric_of_objective(name)
        full = metric_range(metric, typed.num_classes, typed.metrics.definitions)
        # Of equal costs, which no model changes, any margin does; without a matrix they have no range.
        if not full or section.margin < full:
            continue
        advice = "0.02 is 2 pp" if is_fraction(metric) else "it has the unit of metrics.cost_matrix"
        if metric in AGREEMENTS:
            advice = "it has the unit of the metric"
        yield (
            f"must lie below the range of the metric, {metric} moves in a range of {full:g}, got {section.margin:g}; "
            f"{advice}"
        )
        return


def metric_hint(metric: str, valid: Iterable[str] = METRICS) -> str:
    """Advice for a name that is no metric.

    Args:
        metric: the name.
        valid: names that are allowed there.
    """
    # test_min_recall, test/min_recall and the like ask for the test split, on which nothing may be selected.
    bare = metric.removeprefix("test").lstrip("/_. -")
    if metric.startswith("test") and bare in METRICS:
        return f"the test split is opened by `selmix pin` only; write {bare}, which is taken on select"
    return closest(metric, valid)
