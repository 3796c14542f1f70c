"""What a sweep file must mean, beyond its form: names that exist, values in their ranges, parts that fit.

Works on the plain values of a file, whatever else is wrong with it, so that one pass lists every problem.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.sweepfile import KeyPath, SweepFile

CONSTRAINED_IN_METHOD = ("min_coverage", "min_head_tail_coverage")
TWO_ENDED = ("uniform", "log_uniform_values", "int_uniform", "q_uniform", "q_log_uniform_values")


def cross_check(file: SweepFile) -> list[str]:
    """Problems of meaning, each ``FILE:LINE: key: what must hold, what was got``."""
    return [
        *_objectives(file),
        *_data(file),
        *_model(file),
        *_pretrain(file),
        *_parameters(file),
        *_constraints(file),
        *_selection(file),
        *_search(file),
        *_resources(file),
    ]


def closest(got: object, valid: Iterable[str]) -> str:
    """``; did you mean X?``, or what there is."""
    names = list(valid)
    near = difflib.get_close_matches(str(got), names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"


def shown(value: Any) -> str:
    """A plain value as a sweep file would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing" if value is None else repr(value)


def _section(file: SweepFile, *path: str) -> Mapping[str, Any]:
    value: Any = file.values
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _objectives(file: SweepFile) -> list[str]:
    from selmix.metrics import METRICS
    from selmix.objectives import OBJECTIVES

    names = file.values.get("objectives")
    problems = []
    seen: set[str] = set()
    for index, name in enumerate(names if isinstance(names, list) else []):
        where = file.where(("objectives", index))
        if not isinstance(name, str):
            continue
        if name in METRICS and name not in OBJECTIVES:
            problems.append(f"{where}: {name} is a metric; as an objective it is not supported yet")
        elif name not in OBJECTIVES:
            problems.append(f"{where}: unknown objective {name!r}; {closest(name, OBJECTIVES)}")
        elif name in seen:
            problems.append(f"{where}: must appear once, got {name} again")
        seen.add(name)
    return problems


def _data(file: SweepFile) -> list[str]:
    from selmix.data import DATA, build_data_config

    keys = dict(_section(file, "data"))
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
        elif not _is_number(value, whole=fields[key] == "int"):
            kind = "a whole number" if fields[key] == "int" else "a number"
            problems.append(f"{where}: must be {kind}, got {shown(value)}")
    if problems:
        return problems
    try:
        build_data_config(name, **keys)
    except ValueError as error:
        return [_placed(file, ("data",), line, fields) for line in str(error).splitlines()]
    return []


def _placed(file: SweepFile, parent: KeyPath, line: str, keys: Iterable[str]) -> str:
    """A problem ``key: ...`` at the line of its key, any other at that of its section."""
    key, colon, rest = line.partition(": ")
    if colon and key in keys:
        return f"{file.where((*parent, key))}: {rest}"
    return f"{file.where(parent)}: {line}"


def _model(file: SweepFile) -> list[str]:
    from selmix.models import MODELS

    name = _section(file, "model").get("name", "small_cnn")
    where = file.where(("model", "name"))
    if isinstance(name, str) and name not in MODELS:
        return [f"{where}: unknown model {name!r}; {closest(name, MODELS)}"]
    try:
        mixable_layers(file.values)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []


def mixable_layers(values: Mapping[str, Any]) -> list[str] | None:
    """Where the model of a file can mix; None where file, data or model are too wrong to build it.

    Raises:
        ValueError: the model cannot take these data.
    """
    import torch

    from selmix.data import DATA, build_data_config
    from selmix.model import ClassifierView
    from selmix.models import MODELS, build_model

    data, model = values.get("data"), values.get("model", {"name": "small_cnn"})
    if not isinstance(data, Mapping) or not isinstance(model, Mapping):
        return None
    name = model.get("name", "small_cnn")
    if data.get("name") not in DATA or name not in MODELS:
        return None
    try:
        config = build_data_config(**{str(key): value for key, value in data.items()})
    except (ValueError, TypeError):
        return None
    network = build_model(name, config.input_shape, len(config.class_names), torch.Generator())
    return ClassifierView(network).layers()


def _pretrain(file: SweepFile) -> list[str]:
    from selmix.pretrain import RECIPES

    section = _section(file, "pretrain")
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


def _parameters(file: SweepFile) -> list[str]:
    from selmix.config import FinetuneConfig

    section = _section(file, "parameters")
    valid = [field.name for field in dataclasses.fields(FinetuneConfig)]
    problems = []
    for name, parameter in section.items():
        path: KeyPath = ("parameters", name)
        if name not in valid:
            problems.append(f"{file.where(path)}: unknown parameter; {closest(name, valid)}")
        elif not isinstance(parameter, Mapping):
            problems.append(
                f"{file.where(path)}: must be {{value: ...}}, {{values: [...]}} or {{min: ..., max: ...}}, "
                f"got {shown(parameter)}"
            )
        else:
            problems += _form(file, path, parameter) or _range(file, name, parameter)
    if {"temperature", "effective_pairs"} <= section.keys():
        where = file.where(("parameters", "temperature"))
        problems.append(f"{where}: must not stand beside effective_pairs, they set the same thing; leave one out")
    return problems


def _form(file: SweepFile, path: KeyPath, parameter: Mapping[str, Any]) -> list[str]:
    """Whether a parameter is fixed, a list or a range, and only one of them."""
    where, kind = file.where(path), parameter.get("distribution")
    if kind == "log_uniform":
        return [
            f"{file.where((*path, 'distribution'))}: log_uniform takes exponents in a W&B file; write "
            "log_uniform_values, whose min and max are the values themselves"
        ]
    given = [form for form in ("value", "values") if form in parameter]
    given += ["min and max"] if "min" in parameter or "max" in parameter else []
    if len(given) != 1:
        return [f"{where}: must have one of value, values, min and max, got {' with '.join(given) or 'none'}"]
    form = given[0]
    wanted = {"categorical": "values", "constant": "value"} | dict.fromkeys(TWO_ENDED, "min and max")
    if kind in wanted and form != wanted[kind]:
        return [f"{where}: distribution {kind} needs {wanted[kind]}, got {form}"]
    if "q" in parameter and not str(kind).startswith("q_"):
        return [f"{file.where((*path, 'q'))}: goes with q_uniform and q_log_uniform_values only"]
    if form == "values":
        values = parameter["values"]
        if not isinstance(values, list) or not values:
            return [f"{file.where((*path, 'values'))}: must be a list of at least one value, got {shown(values)}"]
        if any(values.count(value) > 1 for value in values):
            return [f"{file.where((*path, 'values'))}: must be different values, got {values}"]
    return _ends(file, path, parameter) if form == "min and max" else []


def _ends(file: SweepFile, path: KeyPath, parameter: Mapping[str, Any]) -> list[str]:
    missing = [end for end in ("min", "max") if end not in parameter]
    if missing:
        return [f"{file.where(path)}: must have both min and max, {missing[0]} is missing"]
    low, high = parameter["min"], parameter["max"]
    if not _is_number(low) or not _is_number(high):
        return []  # said as a wrong type
    if low >= high:
        return [f"{file.where((*path, 'min'))}: must be below max, got min {low} and max {high}"]
    kind = str(parameter.get("distribution", "uniform"))
    if "log" in kind and low <= 0:
        return [f"{file.where((*path, 'min'))}: must be > 0 on a logarithmic scale, got {low}"]
    q = parameter.get("q")
    if kind.startswith("q_") and not (_is_number(q) and 0 < q <= high - low):
        return [f"{file.where(path)}: {kind} needs q, a step > 0 and at most max - min, got {shown(q)}"]
    return []


def _range(file: SweepFile, name: str, parameter: Mapping[str, Any]) -> list[str]:
    """Every value that the parameter can take is one that the method takes: its ends, or all of a list."""
    from selmix.config import WHOLE_NUMBERS, FinetuneConfig

    candidates = [((key,), parameter[key]) for key in ("value", "min", "max") if key in parameter]
    candidates += [(("values", k), value) for k, value in enumerate(parameter.get("values", []))]
    problems = []
    for place, value in candidates:
        where = file.where(("parameters", name, *place))
        if isinstance(value, Mapping | list):
            problems.append(f"{where}: must be a number or a text, got {shown(value)}")
            continue
        try:
            FinetuneConfig(**{name: value})
        except ValueError as error:
            problems.append(f"{where}: {str(error).removeprefix(f'{name}: ')}")
            continue
        if name == "mixup_layer":
            problems += _layer(file, where, value)
    kind = parameter.get("distribution")
    if not problems and "min" in parameter and name not in WHOLE_NUMBERS and not _is_number(parameter["min"]):
        problems.append(f"{file.where(('parameters', name))}: has no range; give values")
    if not problems and kind == "int_uniform" and any(parameter[e] != int(parameter[e]) for e in ("min", "max")):
        problems.append(f"{file.where(('parameters', name))}: int_uniform needs whole numbers")
    return problems


def _layer(file: SweepFile, where: str, value: str) -> list[str]:
    try:
        layers = mixable_layers(file.values)
    except ValueError:
        return []
    if layers is None or value in layers:
        return []
    return [f"{where}: the model has no layer {value!r}; {closest(value, layers)}"]


def _constraints(file: SweepFile) -> list[str]:
    from selmix.metrics import METRICS

    constraints = file.values.get("constraints")
    problems, acting = [], 0
    for index, constraint in enumerate(constraints if isinstance(constraints, list) else []):
        if not isinstance(constraint, Mapping) or not isinstance(constraint.get("metric"), str):
            continue
        where, metric = file.where(("constraints", index)), constraint["metric"]
        if metric not in METRICS:
            problems.append(f"{where}: unknown metric {metric!r}; {_metric_hint(metric)}")
        if ("at_least" in constraint) == ("at_most" in constraint):
            problems.append(f"{where}: must have one of at_least and at_most")
        inside = "method" in (constraint.get("in") or ("method", "search"))
        acting += inside
        if inside and (metric not in CONSTRAINED_IN_METHOD or "at_least" not in constraint):
            problems.append(
                f"{where}: inside the method only {' and '.join(CONSTRAINED_IN_METHOD)}, at_least, are supported "
                "yet; write in: [search] to have it decide feasibility"
            )
    if acting > 1:
        problems.append(
            f"{file.where(('constraints',))}: one constraint at most acts inside the method yet, got {acting}; "
            "write in: [search] on the others"
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

    metric = _section(file, "selection").get("metric")
    if not isinstance(metric, str) or metric in METRICS:
        return []
    where = file.where(("selection", "metric"))
    return [f"{where}: must be a metric of the select split, got {metric!r}; {_metric_hint(metric)}"]


def _search(file: SweepFile) -> list[str]:
    if _section(file, "search").get("method") != "grid":
        return []
    return [
        f"{file.where(('parameters', name))}: method grid needs a list of values"
        for name, parameter in _section(file, "parameters").items()
        if isinstance(parameter, Mapping) and ("min" in parameter or "max" in parameter)
    ]


def _resources(file: SweepFile) -> list[str]:
    workers = _section(file, "resources").get("workers", 1)
    if _is_number(workers, whole=True) and workers > 1:
        return [f"{file.where(('resources', 'workers'))}: trials on several workers are not supported yet"]
    return []


def _is_number(value: object, whole: bool = False) -> bool:
    return not isinstance(value, bool) and isinstance(value, int if whole else int | float)
