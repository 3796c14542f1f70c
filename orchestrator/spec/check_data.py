"""Checks that the data of a sweep file have the groups and the unlabelled samples that its other sections read."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.spec.typed import Problem, TypedFile
from orchestrator.spec.yaml_file import KeyPath
from selmix.data import DATA, has_groups, unlabelled_key
from selmix.metrics import METRICS


def group_problems(typed: TypedFile) -> Iterable[Problem]:
    """Metrics of groups need data that have them."""
    if typed.data is None:
        return
    try:
        if has_groups(typed.data):
            return
    except (ValueError, OSError):
        return  # a warning of its own (build.selection): the file need not be there to validate
    named: list[tuple[KeyPath, str | None]] = [
        (("selection", "metric"), None if typed.selection is None else typed.selection.metric),
        *((("objectives", index), name) for index, name in typed.objectives.items()),
        *((("constraints", index), constraint.metric) for index, constraint in typed.constraints.items()),
    ]
    for path, name in named:
        if name in METRICS and METRICS[name].of_cells is not None:
            yield path, f"{name} needs data with a group attribute, {typed.data.name} as configured has none"


def partner_problems(typed: TypedFile) -> Iterable[Problem]:
    """Partner samples from unlabelled data need some.

    ``second`` is the key of the partner samples; ``pseudo`` and ``oracle`` take them from the unlabelled ones.
    """
    advice = unlabelled_advice(typed)
    if advice is None:
        return
    parameter = typed.parameters.get("second")
    values = () if parameter is None else (parameter.value, *(parameter.values or ()))
    for section, given in (("parameters", values), ("compare", typed.compare.get("second", ()))):
        # A compared value that is no list has a check of its own.
        if isinstance(given, tuple) and any(value in ("pseudo", "oracle") for value in given):
            yield (section, "second"), f"needs unlabelled samples: {advice}"


def unlabelled_advice(typed: TypedFile) -> str | None:
    """Advice on the way to unlabelled samples: a key of the data set, or data sets that have one.

    None where the data have some as configured, or are wrong: what they would have is then not known.
    """
    if typed.data is None:
        return None
    key = unlabelled_key(typed.data.name)
    if key is None:
        return f"{typed.data.name} has none; use {', '.join(each for each in DATA if unlabelled_key(each))}"
    return None if getattr(typed.data, key) else f"give data.{key}"
