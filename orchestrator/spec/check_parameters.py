"""What the parameters of a sweep file must mean: names of the method, one form each, values it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.messages import closest, is_number, shown
from orchestrator.spec.yaml_file import KeyPath, SweepFile

TWO_ENDED = ("uniform", "log_uniform_values", "int_uniform", "q_uniform", "q_log_uniform_values")


def parameter_problems(file: SweepFile) -> list[str]:
    """Problems of ``parameters``: names, forms, ranges, layers."""
    from selmix.config import FinetuneConfig

    section = file.section("parameters")
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
    problems += _compare(file, valid) or _parts_of_a_batch(file)
    given = {*section, *file.section("compare")}
    if {"temperature", "effective_pairs"} <= given and "temperature" in section:
        where = file.where(("parameters", "temperature"))
        problems.append(
            f"{where}: must not stand beside effective_pairs, they set the same thing; leave one out"
        )
    return problems


def _compare(file: SweepFile, valid: list[str]) -> list[str]:
    """Problems of ``compare``: one parameter with two or more different values, that nothing else sets."""
    section = file.section("compare")
    if not section:
        return []
    if len(section) > 1:
        return [
            f"{file.where(('compare',))}: must name one parameter, got {', '.join(section)}; use a sweep for each"
        ]
    ((name, values),) = section.items()
    where = file.where(("compare", name))
    if name not in valid:
        return [f"{where}: unknown parameter; {closest(name, valid)}"]
    if name in file.section("parameters"):
        return [f"{where}: must not stand in parameters too: every value gets a study of its own"]
    if not isinstance(values, list) or len(values) < 2 or any(values.count(value) > 1 for value in values):
        return [f"{where}: must be a list of two or more different values, got {shown(values)}"]
    return [
        problem.replace(f"parameters.{name}.values", f"compare.{name}", 1)
        for problem in _range(file, name, {"values": values}, ("compare", name))
    ]


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
            return [
                f"{file.where((*path, 'values'))}: must be a list of at least one value, got {shown(values)}"
            ]
        if any(values.count(value) > 1 for value in values):
            return [f"{file.where((*path, 'values'))}: must be different values, got {values}"]
    return _ends(file, path, parameter) if form == "min and max" else []


def _ends(file: SweepFile, path: KeyPath, parameter: Mapping[str, Any]) -> list[str]:
    missing = [end for end in ("min", "max") if end not in parameter]
    if missing:
        return [f"{file.where(path)}: must have both min and max, {missing[0]} is missing"]
    low, high = parameter["min"], parameter["max"]
    if not is_number(low) or not is_number(high):
        return []  # said as a wrong type
    if low >= high:
        return [f"{file.where((*path, 'min'))}: must be below max, got min {low} and max {high}"]
    kind = str(parameter.get("distribution", "uniform"))
    if "log" in kind and low <= 0:
        return [f"{file.where((*path, 'min'))}: must be > 0 on a logarithmic scale, got {low}"]
    q: Any = parameter.get("q")
    if kind.startswith("q_") and not (is_number(q) and 0 < q <= high - low):
        return [f"{file.where(path)}: {kind} needs q, a step > 0 and at most max - min, got {shown(q)}"]
    return []


def _beside(name: str, value: Any) -> dict[str, Any]:
    """The value with a batch that it divides: which batches it meets is asked of the file as a whole."""
    whole = name == "accumulate" and isinstance(value, int) and value > 0
    return {name: value} | ({"batch_size": value} if whole else {})


def _parts_of_a_batch(file: SweepFile) -> list[str]:
    """``accumulate`` times the workers must divide every batch size that the file can meet them with."""
    from selmix.config import FinetuneConfig

    sizes, parts = (
        _whole_values(file, name, getattr(FinetuneConfig(), name)) for name in ("batch_size", "accumulate")
    )
    workers = file.section("resources").get("workers", 1)
    workers = workers if isinstance(workers, int) and workers > 0 else 1
    wrong = [(size, part) for size in sizes for part in parts if size % (part * workers)]
    if not wrong:
        return []
    if workers > 1:
        size, part = wrong[0]
        return [
            f"{file.where(('resources', 'workers'))}: workers x accumulate must divide every batch_size, got "
            f"{workers} x {part} and {size}; give multiples as values, or a step q and a min that it divides"
        ]
    place = next(
        (s, n)
        for n in ("accumulate", "batch_size")
        for s in ("parameters", "compare")
        if n in file.section(s)
    )
    size, part = wrong[0]
    return [
        f"{file.where(place)}: accumulate must divide every batch_size, got {part} and {size}; "
        "give multiples as values, or a step q and a min that it divides"
    ]


def _whole_values(file: SweepFile, name: str, default: int) -> list[int]:
    """All values that a counted parameter can take; none where its form is wrong, which is said elsewhere."""
    parameter = file.section("compare").get(name, file.section("parameters").get(name, {"value": default}))
    if isinstance(parameter, list):
        values = parameter
    elif not isinstance(parameter, Mapping):
        values = []
    elif "min" in parameter or "max" in parameter:
        low, high, q = (parameter.get(key, 1) for key in ("min", "max", "q"))
        if not all(isinstance(v, int) and v > 0 for v in (low, high, q)):
            return []
        values = list(range(low, high + 1, q if parameter.get("distribution") == "q_uniform" else 1))
    else:
        values = [parameter["value"]] if "value" in parameter else parameter.get("values", [])
    return [v for v in values if isinstance(v, int) and v > 0] if isinstance(values, list) else []


def _range(
    file: SweepFile, name: str, parameter: Mapping[str, Any], parent: KeyPath | None = None
) -> list[str]:
    """Every value that the parameter can take is one that the method takes: its ends, or all of a list."""
    from selmix.config import WHOLE_NUMBERS, FinetuneConfig

    candidates: list[tuple[KeyPath, Any]] = [
        ((key,), parameter[key]) for key in ("value", "min", "max") if key in parameter
    ]
    candidates += [(("values", k), value) for k, value in enumerate(parameter.get("values", []))]
    problems = []
    for place, value in candidates:
        where = file.where(("parameters", name, *place) if parent is None else (*parent, *place[1:]))
        if isinstance(value, Mapping | list):
            problems.append(f"{where}: must be a number or a text, got {shown(value)}")
            continue
        try:
            FinetuneConfig(**_beside(name, value))
        except ValueError as error:
            problems.append(f"{where}: {str(error).removeprefix(f'{name}: ')}")
            continue
        if name == "mixup_layer":
            problems += _layer(file, where, value)
    kind = parameter.get("distribution")
    if not problems and "min" in parameter and name not in WHOLE_NUMBERS and not is_number(parameter["min"]):
        problems.append(f"{file.where(('parameters', name))}: has no range; give values")
    if (
        not problems
        and kind == "int_uniform"
        and any(parameter[e] != int(parameter[e]) for e in ("min", "max"))
    ):
        problems.append(f"{file.where(('parameters', name))}: int_uniform needs whole numbers")
    return problems


def _layer(file: SweepFile, where: str, value: str) -> list[str]:
    try:
        layers = mixable_layers(file.values)
    except ValueError:
        return []
    if layers is None or value in layers:
        return []
    hint = closest(value, layers)
    there = f"there are {', '.join(layers)}"
    more = "" if hint == there else f" {there}"
    return [f"{where}: the model has no layer {value!r}; {hint}{more}"]


def mixable_layers(values: Mapping[str, Any]) -> list[str] | None:
    """Where the model of a file can mix; None where file, data or model are too wrong to build it.

    Raises:
        ValueError: the model cannot take these data.
    """
    from selmix.data import DATA, build_data_config
    from selmix.models import ModelConfig

    data, model = values.get("data"), values.get("model", {"name": "small_cnn"})
    if not isinstance(data, Mapping) or not isinstance(model, Mapping):
        return None
    name = model.get("name", "small_cnn")
    head = model.get("head")
    if data.get("name") not in DATA or not isinstance(name, str) or not isinstance(head, str | None):
        return None
    try:
        config = build_data_config(**{str(key): value for key, value in data.items()})
        shape, classes = config.input_shape, len(config.class_names)
    except (ValueError, TypeError):
        return None
    chosen = ModelConfig(name, head)
    return chosen.view(chosen.build(shape, classes)).layers()
