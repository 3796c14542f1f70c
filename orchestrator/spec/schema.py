"""What a sweep file may say, checked as a whole: every problem at once, with its line and the closest name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, StrictStr, ValidationError

from orchestrator.errors import SpecError
from orchestrator.messages import closest, shown
from orchestrator.spec.checks import cross_check
from orchestrator.spec.overrides import apply_overrides
from orchestrator.spec.sections import (
    ConstraintSection,
    MetricsSection,
    ModelSection,
    Name,
    ParameterSection,
    PretrainSection,
    ResourceSection,
    SearchSection,
    Section,
    SelectionSection,
)
from orchestrator.spec.yaml_file import KeyPath, SweepFile, read_sweep_file

LATER: dict[KeyPath, tuple[str, ...]] = {
    (): ("budget", "early_stopping", "screen", "deterministic"),
    ("selection",): ("metrics",),
    ("parameters", "*"): ("when",),
}


class SweepSpec(Section):
    """A checked sweep file."""

    version: Literal[1]
    name: Name
    data: dict[str, Any]
    model: ModelSection = ModelSection()
    pretrain: PretrainSection = PretrainSection()
    objectives: tuple[StrictStr, ...] = Field(min_length=1)
    constraints: tuple[ConstraintSection, ...] = ()
    metrics: MetricsSection = MetricsSection()
    parameters: dict[str, ParameterSection] = Field(default_factory=dict)
    compare: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    search: SearchSection = SearchSection()
    selection: SelectionSection = SelectionSection()
    resources: ResourceSection = ResourceSection()

    def resolved(self) -> dict[str, Any]:
        """The whole specification as plain values, defaults written out."""
        document: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        for name, parameter in self.parameters.items():
            document["parameters"][name] = parameter.model_dump(mode="json", exclude_unset=True)
        return document

    def digest(self) -> str:
        """``sha256:...`` of :meth:`resolved`."""
        text = json.dumps(self.resolved(), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def fixed(self) -> dict[str, Any]:
        """The fixed parameters by name."""
        return {name: p.value for name, p in self.parameters.items() if p.is_fixed}

    @property
    def searched(self) -> dict[str, ParameterSection]:
        """The searched parameters by name."""
        return {name: p for name, p in self.parameters.items() if not p.is_fixed}

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The studies of an objective: label -> the value that it gives the compared parameter.

        A single one, without label and value, where nothing is compared.
        """
        return {
            f"{name}={value}": {name: value} for name, values in self.compare.items() for value in values
        } or {"": {}}

    @property
    def recipe(self) -> str | None:
        """The pre-training recipe; None where a checkpoint is given."""
        if self.pretrain.checkpoint is not None:
            return None
        return self.pretrain.recipe or "erm"


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read, override and check a sweep file.

    Raises:
        SpecError: with every problem at once, one a line: ``FILE:LINE: key: what must hold, what was got``.
        UsageError: an override that is no KEY=VALUE.
    """
    file = read_sweep_file(path)
    apply_overrides(file, overrides)
    return check_spec(file)


def check_spec(file: SweepFile) -> SweepSpec:
    """The specification of a parsed file; raises as :func:`load_spec`."""
    problems = [*file.problems, *cross_check(file)]
    try:
        spec = SweepSpec.model_validate(_as_tuples(file.values))
    except ValidationError as error:
        problems += [_said(file, dict(problem)) for problem in error.errors()]
        raise SpecError(_in_order(problems)) from error
    if problems:
        raise SpecError(_in_order(problems))
    return spec


def spec_from_resolved(document: dict[str, Any]) -> SweepSpec:
    """The specification that :meth:`SweepSpec.resolved` was stored from."""
    return SweepSpec.model_validate(_as_tuples(document))


def _in_order(problems: list[str]) -> list[str]:
    """By line, and one for each key: what follows from the first is noise."""
    first: dict[tuple[str, ...], str] = {}
    for problem in problems:
        first.setdefault(tuple(problem.split(": ", 2)[:2]), problem)
    return sorted(first.values(), key=_line)


def _line(problem: str) -> int:
    found = re.match(r".*?:(\d+): ", problem)
    return int(found[1]) if found else 10**9


def _as_tuples(value: Any) -> Any:
    """Lists become tuples: the frozen models take nothing else."""
    if isinstance(value, dict):
        return {key: _as_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_as_tuples(inner) for inner in value)
    return value


def _said(file: SweepFile, problem: dict[str, Any]) -> str:
    """One of pydantic's problems in our words."""
    path = _plain_path(problem["loc"], file.values)
    where, kind, got = file.where(path), problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return f"{where}: {_unknown_key(path)}"
    if kind == "missing":
        return f"{where}: must be given"
    if kind == "literal_error":
        expected = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"{where}: must be one of {expected}, got {shown(got)}"
    if kind == "string_pattern_mismatch":
        return f"{where}: must be letters, digits, '.', '_' or '-', the first a letter or digit, got {got!r}"
    if kind in _TYPES:
        return f"{where}: must be {_TYPES[kind]}, got {shown(got)}"
    message = problem["msg"].replace("Input should", "must").replace("Tuple should", "must")
    return f"{where}: {message[0].lower()}{message[1:]}, got {shown(got)}"


_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "a number or a text",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
}


def _plain_path(location: tuple[Any, ...], values: Any) -> KeyPath:
    """Pydantic's location without the names of union members, which are no keys of the file."""
    path: list[str | int] = []
    for part in location:
        inside_list = isinstance(values, list | tuple)
        if isinstance(part, int) and inside_list:
            path.append(part)
            values = values[part] if part < len(values) else None
        elif isinstance(part, str) and isinstance(values, dict):
            path.append(part)
            values = values.get(part)
    return tuple(path)


def _unknown_key(path: KeyPath) -> str:
    parent, key = path[:-1], str(path[-1])
    pattern = ("parameters", "*") if parent[:1] == ("parameters",) and len(parent) == 2 else parent
    if key in LATER.get(pattern, ()):
        return "not supported yet"
    valid = _keys_of(parent)
    return f"unknown key; {closest(key, valid)}"


def _keys_of(parent: KeyPath) -> list[str]:
    sections: dict[KeyPath, type[BaseModel]] = {
        (): SweepSpec, ("model",): ModelSection, ("pretrain",): PretrainSection, ("search",): SearchSection,
        ("selection",): SelectionSection, ("resources",): ResourceSection, ("metrics",): MetricsSection,
    }  # fmt: skip
    section = sections.get(parent)
    if section is None:
        section = ConstraintSection if parent[:1] == ("constraints",) else ParameterSection
    return [field.alias or name for name, field in section.model_fields.items()]
