"""The parameters of a sweep file: names of the method, one form each, and values that the method takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Set
from typing import Any

from orchestrator.messages import as_yaml, closest, is_number
from orchestrator.spec.sections import ParameterSection
from orchestrator.spec.typed import Problem, TypedFile
from orchestrator.spec.yaml_file import KeyPath
from selmix.config import EXCLUSIVE, WHOLE_NUMBERS, FinetuneConfig

TWO_ENDED = ("uniform", "log_uniform_values", "int_uniform", "q_uniform", "q_log_uniform_values")
NAMES = [field.name for field in dataclasses.fields(FinetuneConfig)]


def parameter_problems(typed: TypedFile) -> Iterable[Problem]:
    """Names, forms, ranges and layers."""
    raw = typed.file.values.get("parameters")
    for name, given in raw.items() if isinstance(raw, dict) else ():
        path: KeyPath = ("parameters", name)
        parameter = typed.parameters.get(name)
        if name not in NAMES:
            yield path, f"unknown parameter; {closest(name, NAMES)}"
        elif not isinstance(given, dict):
            yield (
                path,
                f"must be {{value: ...}}, {{values: [...]}} or {{min: ..., max: ...}}, got {as_yaml(given)}",
            )
        # Ends and values are looked at only where the form says which of them count.
        elif isinstance(parameter, ParameterSection):
            problems = [*_form(path, parameter, typed.file.refused)] or [*_range(typed, name, parameter)]
            yield from problems
    for one, other in EXCLUSIVE:
        if {one, other} <= {*typed.parameters, *typed.compare}:
            section = "parameters" if one in typed.parameters else "compare"
            yield (section, one), f"must not stand beside {other}, they set the same thing; leave one out"


def compare_problems(typed: TypedFile) -> Iterable[Problem]:
    """``compare`` names one parameter with two or more different values, that nothing else sets."""
    if not typed.compare:
        return
    if len(typed.compare) > 1:
        yield ("compare",), f"must name one parameter, got {', '.join(typed.compare)}; use a sweep for each"
        return
    ((name, values),) = typed.compare.items()
    path: KeyPath = ("compare", name)
    if name not in NAMES:
        yield path, f"unknown parameter; {closest(name, NAMES)}"
    elif name in typed.parameters:
        yield path, "must not stand in parameters too: every value gets a study of its own"
    elif not isinstance(values, tuple) or len(values) < 2 or any(values.count(v) > 1 for v in values):
        shown = as_yaml(list(values) if isinstance(values, tuple) else values)
        yield path, f"must be a list of two or more different values, got {shown}"
    else:
        for (*_, index), text in _values_problems(typed, name, path, enumerate(values)):
            yield (*path, index), text


def _form(path: KeyPath, parameter: ParameterSection, refused: Set[KeyPath]) -> Iterable[Problem]:
    """A parameter is fixed, a list or a range, and only one of them."""
    # The keys that the file has: a value of null is a value, too.
    given, kind = parameter.model_fields_set, parameter.distribution
    forms: list[str] = [form for form in ("value", "values") if form in given]
    forms += ["min and max"] if given & {"min", "max"} else []
    if len(forms) != 1:
        yield path, f"must have one of value, values, min and max, got {' with '.join(forms) or 'none'}"
        return
    form = forms[0]
    wanted = {"categorical": "values", "constant": "value"} | dict.fromkeys(TWO_ENDED, "min and max")
    if kind is not None and form != wanted[kind]:
        yield path, f"distribution {kind} needs {wanted[kind]}, got {form}"
    elif "q" in given and not str(kind).startswith("q_"):
        yield (*path, "q"), "goes with q_uniform and q_log_uniform_values only"
    elif form == "values":
        values = parameter.values or ()
        if not values:
            yield (*path, "values"), "must be a list of at least one value, got []"
        elif any(values.count(value) > 1 for value in values):
            yield (*path, "values"), f"must be different values, got {list(values)}"
    elif form == "min and max":
        yield from _ends(path, parameter, refused)


def _ends(path: KeyPath, parameter: ParameterSection, refused: Set[KeyPath]) -> Iterable[Problem]:
    low, high, q = parameter.min, parameter.max, parameter.q
    if low is None or high is None:
        missing = "min" if low is None else "max"
        # One that was refused has its problem.
        if (*path, missing) not in refused:
            yield path, f"must have both min and max, {missing} is missing"
        return
    kind = parameter.distribution or "uniform"
    if low >= high:
        yield (*path, "min"), f"must be below max, got min {low:g} and max {high:g}"
    elif "log" in kind and low <= 0:
        yield (*path, "min"), f"must be > 0 on a logarithmic scale, got {low:g}"
    elif kind.startswith("q_") and not (q is not None and 0 < q <= high - low):
        yield path, f"{kind} needs q, a step > 0 and at most max - min, got {as_yaml(q)}"


def _range(typed: TypedFile, name: str, parameter: ParameterSection) -> Iterable[Problem]:
    """Every value that the parameter can take is one that the method takes: its ends, or all of a list."""
    path: KeyPath = ("parameters", name)
    # The file's own values: a section has turned whole ends into floats, which counted settings refuse.
    given = typed.file.values["parameters"][name]
    single = [(key, given[key]) for key in ("value", "min", "max") if key in given]
    problems = [*_values_problems(typed, name, path, single)]
    listed = enumerate(given.get("values") or ())
    problems += [
        ((*path, "values", i), text) for (*_, i), text in _values_problems(typed, name, path, listed)
    ]
    # A setting whose default is a name has no range; of a number that may be left out the default is None.
    if not problems and parameter.min is not None and not is_number(getattr(FinetuneConfig(), name) or 0):
        problems.append((path, "has no range; give values"))
    if not problems and parameter.distribution == "int_uniform" and name not in WHOLE_NUMBERS:
        ends = (parameter.min, parameter.max)
        if any(end is not None and end != int(end) for end in ends):
            problems.append((path, "int_uniform needs whole numbers"))
    if not problems and name in WHOLE_NUMBERS and parameter.q is not None and not parameter.q.is_integer():
        problems.append(((*path, "q"), f"must be a whole number, as {name} is one, got {parameter.q:g}"))
    yield from problems


def _values_problems(
    typed: TypedFile, name: str, path: KeyPath, values: Iterable[tuple[str | int, Any]]
) -> Iterable[Problem]:
    """Problems of single values of a parameter, each at ``path`` with its place."""
    for place, value in values:
        where = (*path, place)
        if isinstance(value, dict | list | tuple):
            yield where, f"must be a number or a text, got {as_yaml(value)}"
            continue
        # The method's own check, beside its other defaults: there is no second set of limits to keep in step.
        try:
            FinetuneConfig(**_beside(name, value))
        except ValueError as error:
            yield where, str(error).removeprefix(f"{name}: ")
            continue
        # Settings alone know no network: its layers are compared here.
        if name == "mixup_layer" and isinstance(typed.network, list) and value not in typed.network:
            # The hint may be the list of layers itself, which stands in the message once.
            hint, there = closest(value, typed.network), f"there are {', '.join(typed.network)}"
            yield where, f"the model has no layer {value!r}; {hint}{'' if hint == there else f' {there}'}"


def _beside(name: str, value: Any) -> dict[str, Any]:
    """The value with a batch that it divides; :func:`batch_problems` checks the batches that it will meet."""
    whole = name == "accumulate" and isinstance(value, int) and value > 0
    return {name: value} | ({"batch_size": value} if whole else {})


def batch_problems(typed: TypedFile) -> Iterable[Problem]:
    """``accumulate`` times the workers must divide every batch size that the file can meet them with."""
    sizes, parts = (counts_of(typed, name) for name in ("batch_size", "accumulate"))
    workers = 1 if typed.resources is None else typed.resources.workers
    wrong = [(size, part) for size in sizes for part in parts if size % (part * workers)]
    if not wrong:
        return
    # One pair as an example: two ranges have thousands.
    size, part = wrong[0]
    advice = "give multiples as values, or a step q and a min that it divides"
    if workers > 1:
        yield (
            ("resources", "workers"),
            f"workers x accumulate must divide every batch_size, got {workers} x {part} and {size}; {advice}",
        )
        return
    # The defaults divide each other on one worker, so the file sets one of the two.
    places = [
        (section, name)
        for name in ("accumulate", "batch_size")
        for section, given in (("parameters", typed.parameters), ("compare", typed.compare))
        if name in given
    ]
    yield places[0], f"accumulate must divide every batch_size, got {part} and {size}; {advice}"


def counts_of(typed: TypedFile, name: str) -> list[int]:
    """All values that a counted parameter can take; none where its form is wrong, which is reported elsewhere."""
    if name in typed.compare:
        values: Any = typed.compare[name]
    elif name not in typed.parameters:
        return [getattr(FinetuneConfig(), name)]
    else:
        parameter = typed.parameters[name]
        if not isinstance(parameter, ParameterSection):
            return []
        if parameter.min is not None and parameter.max is not None:
            low, high, kind = int(parameter.min), int(parameter.max), str(parameter.distribution)
            step = int(parameter.q or 1) if kind.startswith("q_") else 1
            if low <= 0 or step <= 0:
                return []
            # On a logarithmic scale the steps are the multiples of q, otherwise they begin at the low end.
            first = math.ceil(low / step) * step if kind == "q_log_uniform_values" else low
            values = range(first, high + 1, step)
        else:
            values = parameter.values if parameter.values is not None else (parameter.value,)
    return [v for v in values if isinstance(v, int) and v > 0] if isinstance(values, tuple | range) else []
