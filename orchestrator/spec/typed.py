"""The sections of a sweep file as typed values, each validated by itself: one that is wrong hides no other.

The checks of meaning (``check_*``) work on sections of the right type; the others are reported here, in the file's
words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from orchestrator.messages import as_yaml, closest
from orchestrator.spec.preprocess import left_to_model
from orchestrator.spec.schema import SweepSpec, as_tuples
from orchestrator.spec.sections import (
    ConstraintSection,
    EarlyStoppingSection,
    MetricsSection,
    ModelSection,
    ParameterSection,
    PretrainSection,
    ResourceSection,
    ScreenSection,
    SearchSection,
    SelectionSection,
)
from orchestrator.spec.yaml_file import KeyPath, SweepFile
from selmix.data import DATA, FIELD_OF_KEY, DataConfig, as_fields, build_data_config
from selmix.rungs import RUNGS, Rung

Problem = tuple[KeyPath, str]
"""A place in the file, and a message: what must hold, what was got, what to do."""

LATER: dict[KeyPath, tuple[str, ...]] = {
    (): ("budget", "deterministic"),
    ("selection",): ("metrics",),
    ("parameters", "*"): ("when",),
}
"""Keys of later versions, by the section that they will stand in."""

_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "a number or a text",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
}
_ADVICE = {
    (
        "distribution",
        "log_uniform",
    ): "log_uniform takes exponents in a W&B file; write log_uniform_values, whose min "
    "and max are the values themselves",
}
"""Values that another tool's files have: (key, value) -> advice."""

_KEY_OF_FIELD = {value: key for key, value in FIELD_OF_KEY.items()}
_CHECKED = ConfigDict(extra="forbid", strict=True)
_NAME_PATTERN = "letters, digits, '.', '_' or '-', the first a letter or digit"


@dataclass
class TypedFile:
    """Sections of a file as typed values; a section is None, or an entry absent, where it is wrong.

    Attributes:
        file: as it was read.
        problems: of types, and of keys that are unknown or missing.
        data: configuration of the data set.
        model: section.
        pretrain: section.
        metrics: section.
        screen: section.
        search: section.
        early_stopping: section.
        selection: section.
        resources: section.
        rungs: from the cheapest on, in the order of the file.
        objectives: place in the list -> name.
        constraints: place in the list -> constraint.
        parameters: name -> parameter.
        compare: name -> values.
        left_to_model: keys of ``data`` that the file does not give and the model decides, with their values.
    """

    file: SweepFile
    problems: list[Problem] = field(default_factory=list)
    data: DataConfig | None = None
    model: ModelSection | None = None
    pretrain: PretrainSection | None = None
    metrics: MetricsSection | None = None
    screen: ScreenSection | None = None
    search: SearchSection | None = None
    early_stopping: EarlyStoppingSection | None = None
    selection: SelectionSection | None = None
    resources: ResourceSection | None = None
    rungs: tuple[Rung, ...] = RUNGS
    objectives: dict[int, str] = field(default_factory=dict)
    constraints: dict[int, ConstraintSection] = field(default_factory=dict)
    parameters: dict[str, ParameterSection] = field(default_factory=dict)
    compare: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    left_to_model: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def shape(self) -> tuple[tuple[int, ...], int] | None:
        """Shape of a sample and number of classes; None where the data are wrong, or not there yet."""
        if self.data is None:
            return None
        try:
            return self.data.input_shape, len(self.data.class_names)
        except (ValueError, OSError):
            return None  # a warning of its own (build.selection): the file is not there yet, or damaged

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes; None where the data are wrong, or not there yet."""
        return None if self.data is None or self.shape is None else tuple(self.data.class_names)

    @property
    def num_classes(self) -> int | None:
        """K; None where the data are wrong, or not there yet."""
        return None if self.shape is None else self.shape[1]

    @cached_property
    def network(self) -> list[str] | str | None:
        """Layers that the model can mix at, or the reason why it cannot be built; None where its shape is not known.

        The network is built once: one of the field's takes as long as everything else of a validation.
        """
        if self.model is None or self.shape is None:
            return None
        config = self.model.config
        try:
            return config.view(config.build(*self.shape)).layers()
        except ValueError as error:
            return str(error)


def typed_file(file: SweepFile) -> TypedFile:
    """Every section of a file, validated by itself."""
    typed = TypedFile(file)
    values: dict[str, Any] = as_tuples(file.values)
    for key in values:
        if key not in SweepSpec.model_fields:
            typed.problems.append(((key,), _unknown_key((key,))))
    for name, info in SweepSpec.model_fields.items():
        path: KeyPath = (name,)
        if name not in values:
            if info.is_required():
                typed.problems.append((path, "must be given"))
            # The checks read the defaults of a section that the file leaves out.
            elif isinstance(info.default, BaseModel):
                setattr(typed, name, info.default)
            continue
        value = values[name]
        # The keys of `data` are those of one data set, which its name chooses.
        if name == "data":
            typed.data = _data(typed, value)
        elif name in ("parameters", "compare") and isinstance(value, dict):
            _entries(typed, name, value)
        elif name in ("objectives", "constraints") and isinstance(value, tuple) and value:
            _entries(typed, name, dict(enumerate(value)))
        else:
            # pydantic keeps limits such as min_length beside the type of a field.
            annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            section = _validated(typed, path, annotation, value)
            if isinstance(section, BaseModel) or (name == "rungs" and section is not None):
                setattr(typed, name, section)
    return typed


def _entries(typed: TypedFile, name: str, entries: Mapping[Any, Any]) -> None:
    """Validate a list or a mapping entry by entry."""
    kinds: dict[str, Any] = {
        "parameters": ParameterSection, "compare": tuple[Any, ...], "objectives": str, "constraints": ConstraintSection,
    }  # fmt: skip
    kept = getattr(typed, name)
    for key, value in entries.items():
        # Checks of their own report these in words that fit the file better than pydantic's.
        if name == "parameters" and not isinstance(value, dict):
            continue
        entry = value if name == "compare" else _validated(typed, (name, key), kinds[name], value)
        if entry is not None or name == "compare":
            kept[key] = entry


def _validated(typed: TypedFile, path: KeyPath, kind: Any, value: Any) -> Any:
    """The value as ``kind``; None, with its problems noted, where it is not."""
    # A model has a configuration of its own, beside which pydantic takes no other.
    is_model = get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel)
    adapter = TypeAdapter(kind) if is_model else TypeAdapter(kind, config=ConfigDict(strict=True))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        for problem in error.errors():
            place = (*path, *_plain_path(problem["loc"], value))
            typed.problems.append((place, _worded(place, dict(problem))))
        return None


def _data(typed: TypedFile, value: Any) -> DataConfig | None:
    """The configuration of the data set; None, with its problems noted, where it is wrong."""
    if not isinstance(value, dict):
        typed.problems.append((("data",), f"must be a mapping of keys, got {as_yaml(value)}"))
        return None
    keys = {str(key): each for key, each in value.items()}
    if not isinstance(keys.get("name", ""), str):
        typed.problems.append((("data", "name"), f"must be a text, got {as_yaml(keys['name'])}"))
        return None
    if "name" not in keys:
        typed.problems.append((("data",), f"name: must be given; {closest('', DATA)}"))
        return None
    name = keys.pop("name")
    if name not in DATA:
        typed.problems.append((("data", "name"), f"unknown data set {name!r}; {closest(name, DATA)}"))
        return None
    try:
        sections = as_tuples(typed.file.values)
        typed.left_to_model = left_to_model(name, keys, sections.get("model"), sections.get("pretrain"))
    except ValueError as error:
        typed.problems.append((("model", "name"), str(error)))
    given = as_fields(keys | typed.left_to_model)
    try:
        # A copy of the class that refuses unknown keys and converts nothing: the method knows nothing of pydantic.
        checked_dataclass(DATA[name], frozen=True, config=_CHECKED)(**given)
    except ValidationError as error:
        valid = [_KEY_OF_FIELD.get(each.name, each.name) for each in fields(DATA[name])]
        for problem in error.errors():
            typed.problems += _data_problems(dict(problem), valid)
        return None
    # The checked copy is a class of its own: the method gets the one that it knows.
    try:
        return build_data_config(name, **keys, **typed.left_to_model)
    except ValueError as error:  # a path with a variable that is not set
        typed.problems.append(placed(("data",), str(error), list(keys)))
        return None


def _data_problems(problem: dict[str, Any], valid: list[str]) -> list[Problem]:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    key = _KEY_OF_FIELD.get(key, key)
    path: KeyPath = ("data", key)
    kind = problem["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return [(path, f"unknown key; {closest(key, valid)}")]
    if kind == "missing":
        return [(("data",), f"{key}: must be given")]
    if kind == "value_error":  # of the configuration itself, one problem per line
        return [placed(("data",), line, valid) for line in str(problem["ctx"]["error"]).splitlines()]
    return [(path, _worded(path, problem))]


def placed(parent: KeyPath, line: str, keys: list[str]) -> Problem:
    """A problem ``key: ...`` at the place of its key, any other at that of its section.

    Args:
        parent: place of the section.
        line: one problem of it.
        keys: of the section.
    """
    key, colon, rest = line.partition(": ")
    return ((*parent, key), rest) if colon and key in keys else (parent, line)


def _worded(path: KeyPath, problem: dict[str, Any]) -> str:
    """One of pydantic's problems in the words of a sweep file."""
    kind, got = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "must be given"
    if kind == "literal_error" and (advice := _ADVICE.get((str(path[-1]), str(got)))):
        return advice
    if kind == "literal_error":
        expected = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"must be one of {expected}, got {as_yaml(got)}"
    if kind == "string_pattern_mismatch":
        return f"must be {_NAME_PATTERN}, got {got!r}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, got {as_yaml(got)}"
    message = problem["msg"].replace("Input should", "must").replace("Tuple should", "must")
    return f"{message[0].lower()}{message[1:]}, got {as_yaml(got)}"


def _plain_path(location: tuple[Any, ...], values: Any) -> KeyPath:
    """Pydantic's location without the names of union members, which are no keys of the file."""
    path: list[str | int] = []
    # A step that leads nowhere in the file's own values is such a name.
    for part in location:
        if isinstance(part, int) and isinstance(values, list | tuple):
            path.append(part)
            values = values[part] if part < len(values) else None
        elif isinstance(part, str) and isinstance(values, dict):
            path.append(part)
            values = values.get(part)
    return tuple(path)


def _unknown_key(path: KeyPath) -> str:
    parent, key = path[:-1], str(path[-1])
    # LATER has one entry for all parameters.
    pattern = ("parameters", "*") if parent[:1] == ("parameters",) and len(parent) == 2 else parent
    if key in LATER.get(pattern, ()):
        return "not supported yet"
    return f"unknown key; {closest(key, _keys_of(parent))}"


def _keys_of(parent: KeyPath) -> list[str]:
    """Keys that a section may have, as a file writes them."""
    section: type[BaseModel] = SweepSpec
    if parent[:1] in (("constraints",), ("parameters",)):
        section = ConstraintSection if parent[0] == "constraints" else ParameterSection
    elif parent:
        annotation = SweepSpec.model_fields[str(parent[0])].annotation
        # A section that may be left out is a union with None.
        kinds = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
        section = next((each for each in kinds if issubclass(each, BaseModel)), SweepSpec)
    return [info.alias or name for name, info in section.model_fields.items()]
