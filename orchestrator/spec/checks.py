"""What a sweep file must mean, beyond its form: names that exist, values in their ranges, parts that fit.

Works on the plain values of a file, whatever else is wrong with it, so that one pass lists every problem.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.messages import closest, is_number
from orchestrator.spec.check_data import (
    data_problems,
    group_problems,
    has_unlabelled,
    placed,
    second_problems,
    unlabelled_hint,
)
from orchestrator.spec.check_objectives import num_classes, own_objective_problems
from orchestrator.spec.check_parameters import mixable_layers, parameter_problems
from orchestrator.spec.yaml_file import SweepFile


def cross_check(file: SweepFile) -> list[str]:
    """Problems of meaning, each ``FILE:LINE: key: what must hold, what was got``."""
    return [
        *_objectives(file),
        *_metrics(file),
        *group_problems(file),
        *second_problems(file),
        *data_problems(file),
        *_model(file),
        *_pretrain(file),
        *parameter_problems(file),
        *_constraints(file),
        *_selection(file),
        *_search(file),
        *_resources(file),
        *_bounds(file),
    ]


def _objectives(file: SweepFile) -> list[str]:
    from selmix.metrics import METRICS
    from selmix.objectives import OBJECTIVES
    from selmix.user_code import is_reference

    names = file.values.get("objectives")
    problems = []
    seen: set[str] = set()
    for index, name in enumerate(names if isinstance(names, list) else []):
        where = file.where(("objectives", index))
        if not isinstance(name, str):
            continue
        if is_reference(name):
            problems += [f"{where}: {problem}" for problem in own_objective_problems(file, name)]
        elif name in METRICS and name not in OBJECTIVES:
            problems.append(
                f"{where}: {name} is a metric that no objective stands for; {closest(name, OBJECTIVES)}"
            )
        elif name not in OBJECTIVES:
            problems.append(f"{where}: unknown objective {name!r}; {closest(name, OBJECTIVES)}")
        elif name in seen:
            problems.append(f"{where}: must appear once, got {name} again")
        elif (needs := METRICS[OBJECTIVES[name].metric].needs) and not file.section("metrics").get(needs):
            problems.append(f"{where}: {name} needs metrics.{needs}, it is not given")
        seen.add(name)
    return problems


def _metrics(file: SweepFile) -> list[str]:
    from selmix.definitions import Definitions

    section = file.section("metrics")
    fraction, head = section.get("cvar_fraction", 1.0), section.get("head_fraction", 0.9)
    weights, costs = section.get("recall_weights"), section.get("cost_matrix")
    numeric = is_number(fraction) and is_number(head) and _are_numbers(weights)
    numeric &= costs is None or (isinstance(costs, list) and all(_are_numbers(row) for row in costs))
    classes = num_classes(file)
    if classes is None or not numeric:
        return []  # said as a wrong type
    given = Definitions(
        fraction, weights and tuple(weights), costs and tuple(tuple(row) for row in costs), head
    )
    return [placed(file, ("metrics",), line, section) for line in given.problems(classes)]


def _are_numbers(values: object) -> bool:
    return values is None or (isinstance(values, list) and all(is_number(value) for value in values))


def _model(file: SweepFile) -> list[str]:
    from selmix.models import MODELS

    name = file.section("model").get("name", "small_cnn")
    where = file.where(("model", "name"))
    if isinstance(name, str) and name not in MODELS and "/" not in name and ":" not in name:
        hint = closest(name, [*MODELS, "torchvision/NAME", "timm/NAME", "module:function"])
        return [f"{where}: unknown model {name!r}; {hint}"]
    try:
        mixable_layers(file.values)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []


def _pretrain(file: SweepFile) -> list[str]:
    from selmix.pretrain import RECIPES

    section = file.section("pretrain")
    recipe, checkpoint = section.get("recipe"), section.get("checkpoint")
    problems = []
    if isinstance(recipe, str) and recipe not in RECIPES:
        where = file.where(("pretrain", "recipe"))
        problems.append(f"{where}: unknown recipe {recipe!r}; {closest(recipe, RECIPES)}")
    if str(recipe).startswith("fixmatch") and not has_unlabelled(file):
        where = file.where(("pretrain", "recipe"))
        problems.append(f"{where}: {recipe} needs unlabelled samples: {unlabelled_hint(file)}")
    if recipe is not None and checkpoint is not None:
        where = file.where(("pretrain",))
        problems.append(f"{where}: must name a recipe or a checkpoint, got both; leave one out")
    if isinstance(checkpoint, str) and checkpoint.startswith("models:"):
        where = file.where(("pretrain", "checkpoint"))
        problems.append(f"{where}: registered models are not supported yet; give a safetensors file")
    return problems


def _constraints(file: SweepFile) -> list[str]:
    from selmix.metrics import METRICS

    constraints = file.values.get("constraints")
    problems = []
    for index, constraint in enumerate(constraints if isinstance(constraints, list) else []):
        if not isinstance(constraint, Mapping) or not isinstance(constraint.get("metric"), str):
            continue
        where, metric = file.where(("constraints", index)), constraint["metric"]
        if metric not in METRICS:
            problems.append(f"{where}: unknown metric {metric!r}; {_metric_hint(metric)}")
        bounds = [constraint[key] for key in ("at_least", "at_most") if key in constraint]
        if len(bounds) != 1:
            problems.append(f"{where}: must have one of at_least and at_most")
        elif is_number(bounds[0]) and metric != "cost" and not 0 <= bounds[0] <= 1:
            problems.append(
                f"{where}: the bound on {metric}, a fraction, must lie in [0, 1], got {bounds[0]}"
            )
        if metric in METRICS and (needs := METRICS[metric].needs) and not file.section("metrics").get(needs):
            problems.append(f"{where}: {metric} needs metrics.{needs}, it is not given")
        if (
            metric in METRICS
            and METRICS[metric].of_predictions is not None
            and "method" in (constraint.get("in") or ("method", "search"))
        ):
            problems.append(
                f"{where}: {metric} is no metric of a confusion matrix and cannot bind inside the method; write "
                "in: [search] to have it decide feasibility"
            )
    return problems


def _metric_hint(metric: str) -> str:
    from selmix.metrics import METRICS

    bare = metric.removeprefix("test").lstrip("/_. -")
    if metric.startswith("test") and bare in METRICS:
        return f"the test split is opened by `selmix pin` only; write {bare}, which is taken on select"
    return closest(metric, METRICS)


def _selection(file: SweepFile) -> list[str]:
    from selmix.metrics import METRICS

    metric = file.section("selection").get("metric")
    where = file.where(("selection", "metric"))
    if not isinstance(metric, str):
        return []
    if metric in METRICS and (needs := METRICS[metric].needs) and not file.section("metrics").get(needs):
        return [f"{where}: {metric} needs metrics.{needs}, it is not given"]
    if metric in METRICS:
        return []
    return [f"{where}: must be a metric of the select split, got {metric!r}; {_metric_hint(metric)}"]


def _search(file: SweepFile) -> list[str]:
    if file.section("search").get("method") != "grid":
        return []
    return [
        f"{file.where(('parameters', name))}: method grid needs a list of values"
        for name, parameter in file.section("parameters").items()
        if isinstance(parameter, Mapping) and ("min" in parameter or "max" in parameter)
    ]


def _resources(file: SweepFile) -> list[str]:
    section = file.section("resources")
    workers, gpu = section.get("workers", 1), section.get("gpu", 0)
    if not is_number(workers, whole=True) or workers <= 1:
        return []
    if is_number(gpu) and gpu not in (0, 1):
        where = file.where(("resources", "gpu"))
        return [f"{where}: each of several workers must have 0 or 1 GPU of its own, got {gpu}"]
    return []


def _bounds(file: SweepFile) -> list[str]:
    """One trial fits within what the sweep may take of a cluster."""
    section = file.section("resources")
    workers, problems = section.get("workers", 1), []
    for key, each, default in (("max_cpus", "cpu", 1), ("max_gpus", "gpu", 0)):
        most, asked = section.get(key), section.get(each, default)
        if all(is_number(value) for value in (most, asked, workers)) and most < asked * workers:
            problems.append(
                f"{file.where(('resources', key))}: must hold one trial, {asked * workers:g} ({each} of "
                f"{workers:g} worker(s)), got {most:g}"
            )
    return problems
