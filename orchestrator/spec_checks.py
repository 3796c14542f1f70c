"""What a sweep file must mean, beyond its form: names that exist, values in their ranges, parts that fit.

Works on the plain values of a file, whatever else is wrong with it, so that one pass lists every problem.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from orchestrator.objective_checks import num_classes, own_objective_problems
from orchestrator.parameter_checks import mixable_layers, parameter_problems
from orchestrator.sweepfile import KeyPath, SweepFile
from orchestrator.wording import closest, is_number, shown

NEEDED_DEFINITIONS = {"weighted_recall": "recall_weights", "cost": "cost_matrix"}


def cross_check(file: SweepFile) -> list[str]:
    """Problems of meaning, each ``FILE:LINE: key: what must hold, what was got``."""
    return [
        *_objectives(file),
        *_metrics(file),
        *_groups(file),
        *_second(file),
        *_data(file),
        *_model(file),
        *_pretrain(file),
        *parameter_problems(file),
        *_constraints(file),
        *_selection(file),
        *_search(file),
        *_resources(file),
    ]


def _groups(file: SweepFile) -> list[str]:
    """Metrics of groups need data that have them."""
    from selmix.data import DATA, build_data_config
    from selmix.groups import GROUP_METRICS

    data = file.values.get("data")
    if not isinstance(data, Mapping) or data.get("name") not in DATA:
        return []
    try:
        config = build_data_config(**{str(key): value for key, value in data.items()})
        if getattr(config, "group_names", ()):
            return []
    except (ValueError, TypeError):
        return []  # said elsewhere, or noted: the file is not there yet
    named: list[tuple[KeyPath, object]] = [(("selection", "metric"), file.section("selection").get("metric"))]
    objectives, constraints = file.values.get("objectives"), file.values.get("constraints")
    named += [
        (("objectives", k), name) for k, name in enumerate(objectives if isinstance(objectives, list) else [])
    ]
    named += [
        (("constraints", k), constraint.get("metric"))
        for k, constraint in enumerate(constraints if isinstance(constraints, list) else [])
        if isinstance(constraint, Mapping)
    ]
    return [
        f"{file.where(path)}: {name} needs data with a group attribute, {data['name']} as asked has none"
        for path, name in named
        if name in GROUP_METRICS
    ]


def _second(file: SweepFile) -> list[str]:
    """Second samples from unlabelled data need some."""
    data = file.section("data")
    keys = {"digits": "unlabelled", "gaussians": "unlabelled", "cifar": "unlabelled_largest"}
    name = str(data.get("name"))
    if data.get(keys.get(name, "")):
        return []
    named = [
        ("parameters", file.section("parameters").get("second")),
        ("compare", file.section("compare").get("second")),
    ]
    problems = []
    for section, given in named:
        values = given if isinstance(given, list) else []
        if isinstance(given, Mapping):
            values = [given.get("value"), *(given.get("values") or [])]
        if any(value in ("pseudo", "oracle") for value in values):
            hint = f"give data.{keys[name]}" if name in keys else f"{name} has none; use {', '.join(keys)}"
            problems.append(f"{file.where((section, 'second'))}: needs unlabelled samples: {hint}")
    return problems


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
        elif name in NEEDED_DEFINITIONS and not file.section("metrics").get(NEEDED_DEFINITIONS[name]):
            problems.append(f"{where}: {name} needs metrics.{NEEDED_DEFINITIONS[name]}, it is not given")
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
    return [_placed(file, ("metrics",), line, section) for line in given.problems(classes)]


def _are_numbers(values: object) -> bool:
    return values is None or (isinstance(values, list) and all(is_number(value) for value in values))


def _data(file: SweepFile) -> list[str]:
    from selmix.data import DATA, build_data_config

    keys = dict(file.section("data"))
    if not isinstance(file.values.get("data"), Mapping):
        return []
    if "name" not in keys:
        return [f"{file.where(('data',))}: name: must be given; {closest('', DATA)}"]
    name = keys.pop("name")
    if name not in DATA:
        return [f"{file.where(('data', 'name'))}: unknown data set {name!r}; {closest(name, DATA)}"]
    fields = {field.name: str(field.type) for field in dataclasses.fields(DATA[name])}
    problems = []
    for key, value in keys.items():
        where = file.where(("data", key))
        if key not in fields:
            problems.append(f"{where}: unknown key; {closest(key, fields)}")
        elif not _fits(value, fields[key]):
            problems.append(f"{where}: must be {_KINDS[fields[key].split(' ')[0]]}, got {shown(value)}")
    problems += [
        f"{file.where(('data',))}: {field.name}: must be given"
        for field in dataclasses.fields(DATA[name])
        if field.default is dataclasses.MISSING and field.name not in keys
    ]
    if problems:
        return problems
    try:
        build_data_config(name, **keys)
    except ValueError as error:
        return [_placed(file, ("data",), line, fields) for line in str(error).splitlines()]
    return []


_KINDS = {"int": "a whole number", "float": "a number", "str": "a text"}


def _fits(value: object, kind: str) -> bool:
    """Whether a plain value is of the type that a field of a data set has."""
    if value is None:
        return kind.endswith("| None")
    if kind.startswith("str"):
        return isinstance(value, str)
    return is_number(value, whole=kind == "int")


def _placed(file: SweepFile, parent: KeyPath, line: str, keys: Iterable[str]) -> str:
    """A problem ``key: ...`` at the line of its key, any other at that of its section."""
    key, colon, rest = line.partition(": ")
    if colon and key in keys:
        return f"{file.where((*parent, key))}: {rest}"
    return f"{file.where(parent)}: {line}"


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
    if recipe is not None and checkpoint is not None:
        where = file.where(("pretrain",))
        problems.append(f"{where}: must name a recipe or a checkpoint, got both; leave one out")
    if isinstance(checkpoint, str) and checkpoint.startswith("models:"):
        where = file.where(("pretrain", "checkpoint"))
        problems.append(f"{where}: registered models are not supported yet; give a safetensors file")
    return problems


def _constraints(file: SweepFile) -> list[str]:
    from selmix.constraints import UNCOUNTED
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
        if metric in NEEDED_DEFINITIONS and not file.section("metrics").get(NEEDED_DEFINITIONS[metric]):
            problems.append(f"{where}: {metric} needs metrics.{NEEDED_DEFINITIONS[metric]}, it is not given")
        if metric in UNCOUNTED and "method" in (constraint.get("in") or ("method", "search")):
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
    if metric in NEEDED_DEFINITIONS and not file.section("metrics").get(NEEDED_DEFINITIONS[metric]):
        return [f"{where}: {metric} needs metrics.{NEEDED_DEFINITIONS[metric]}, it is not given"]
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
    workers = file.section("resources").get("workers", 1)
    if is_number(workers, whole=True) and workers > 1:
        return [f"{file.where(('resources', 'workers'))}: trials on several workers are not supported yet"]
    return []
