"""What a sweep file asks of its data: keys and sizes that they have, groups and unlabelled samples where needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from orchestrator.messages import closest, is_number, shown
from orchestrator.spec.yaml_file import KeyPath, SweepFile


def group_problems(file: SweepFile) -> list[str]:
    """Metrics of groups need data that have them."""
    from selmix.data import DATA, build_data_config
    from selmix.metrics import METRICS

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
        if name in METRICS and METRICS[str(name)].of_cells is not None
    ]


def second_problems(file: SweepFile) -> list[str]:
    """Second samples from unlabelled data need some."""
    if has_unlabelled(file):
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
            where = file.where((section, "second"))
            problems.append(f"{where}: needs unlabelled samples: {unlabelled_hint(file)}")
    return problems


_UNLABELLED = {
    "digits": "unlabelled",
    "gaussians": "unlabelled",
    "cifar": "unlabelled_largest",
    "stl10": "unlabelled",
}


def has_unlabelled(file: SweepFile) -> bool:
    data = file.section("data")
    return bool(data.get(_UNLABELLED.get(str(data.get("name")), "")))


def unlabelled_hint(file: SweepFile) -> str:
    name = str(file.section("data").get("name"))
    if name in _UNLABELLED:
        return f"give data.{_UNLABELLED[name]}"
    return f"{name} has none; use {', '.join(_UNLABELLED)}"


def data_problems(file: SweepFile) -> list[str]:
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
        return [placed(file, ("data",), line, fields) for line in str(error).splitlines()]
    return []


_KINDS = {"int": "a whole number", "float": "a number", "str": "a text"}


def _fits(value: object, kind: str) -> bool:
    """Whether a plain value is of the type that a field of a data set has."""
    if value is None:
        return kind.endswith("| None")
    if kind.startswith("str"):
        return isinstance(value, str)
    return is_number(value, whole=kind == "int")


def placed(file: SweepFile, parent: KeyPath, line: str, keys: Iterable[str]) -> str:
    """A problem ``key: ...`` at the line of its key, any other at that of its section."""
    key, colon, rest = line.partition(": ")
    if colon and key in keys:
        return f"{file.where((*parent, key))}: {rest}"
    return f"{file.where(parent)}: {line}"
