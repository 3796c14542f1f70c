"""A sweep file as plain values, with the line of every key, and every problem of its form at once.

Scalars are read as YAML 1.2 has them: ``1e-3`` is a number, ``yes`` and ``off`` are texts. Overrides of the command
line (``search.num_trials=8 parameters.lr.max=0.05 name=NEW``) set plain values before these are checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.documents import Document
from orchestrator.errors import SpecError, UsageError

KeyPath = tuple[str | int, ...]
# YAML 1.2's core schema; PyYAML resolves by 1.1, where 1e-3 is a text and `no` a boolean.
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ENDLESS = "must have an end, an alias stands within what it names"
_CONSTANTS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass
class SweepFile:
    """A parsed file.

    Attributes:
        name: as messages show it.
        values: plain dicts, lists and scalars.
        lines: key path -> line, from 1; empty where the values are no file's.
        problems: of the form, one line each.
        overridden: key path -> the override that set it.
        refused: key paths of values that are no values of a sweep file, each with a problem, and None in ``values``.
    """

    name: str
    values: Document
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    overridden: dict[KeyPath, str] = field(default_factory=dict)
    refused: set[KeyPath] = field(default_factory=set)

    def where(self, path: KeyPath) -> str:
        """``FILE:LINE: a.b``, with the line of the key or, where it is missing, of the section that should hold it."""
        # An override may have set a whole section, whose keys then have no line.
        known = path
        while known:
            if known in self.overridden:
                return f"override {self.overridden[known]}: {'.'.join(str(part) for part in path)}"
            known = known[:-1]
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        dotted = ".".join(str(part) for part in path)
        # Values that Python gave stand on no line.
        if not self.lines:
            return f"{self.name}: {dotted}" if dotted else self.name
        return f"{self.name}:{self.lines.get(known, 1)}: {dotted}" if dotted else f"{self.name}:1"


def read_sweep_file(path: Path) -> SweepFile:
    """Parse a sweep file.

    Raises:
        SpecError: there is no such file, or it is no YAML mapping at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError([f"{path}: must be a readable sweep file: {reason}"]) from error
    return parse_sweep_text(text, str(path))


def parse_sweep_text(text: str, name: str) -> SweepFile:
    """Parse the text of a sweep file; ``name`` stands for it in messages.

    Raises:
        SpecError: it is no YAML mapping at all.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise SpecError([f"{name}:{line}: must be YAML: {error.problem or error.context}"]) from error
    except yaml.YAMLError as error:
        raise SpecError([f"{name}:1: must be YAML: {str(error).splitlines()[0]}"]) from error
    if not isinstance(root, yaml.MappingNode):
        raise SpecError([f"{name}:1: must be a mapping of keys (version, name, data, objectives, ...)"])
    # An anchor inside what it names is legal YAML and has no end.
    if (endless := _within_itself(root, ())) is not None:
        raise SpecError([f"{name}:{endless}: {_ENDLESS}"])
    file = SweepFile(name, {})
    file.values = _mapping(root, (), file)
    return file


def parse_scalar(text: str) -> Any:
    """A scalar or a flow list as a sweep file has it, for overrides on the command line.

    Raises:
        ValueError: it is no YAML value, a number that is not finite, or an alias within what it names.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"must be a YAML value, got {text!r}") from error
    if node is None:
        return None
    if _within_itself(node, ()) is not None:
        raise ValueError(_ENDLESS)
    file = SweepFile("", {})
    value = _value(node, (), file)
    if file.problems:
        # Without FILE:LINE: an override has neither.
        raise ValueError(file.problems[0].split(": ", 1)[-1])
    return value


def _within_itself(node: yaml.Node, around: tuple[yaml.Node, ...]) -> int | None:
    """Line of a node that contains itself; None where there is none."""
    if any(node is each for each in around):
        return int(node.start_mark.line) + 1
    if isinstance(node, yaml.MappingNode):
        children = [each for pair in node.value for each in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    found = (_within_itself(child, (*around, node)) for child in children)
    return next((line for line in found if line is not None), None)


def _value(node: yaml.Node, path: KeyPath, file: SweepFile) -> Any:
    file.lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, file)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, index), file) for index, child in enumerate(node.value)]
    return _scalar(node, path, file)


def _mapping(node: yaml.MappingNode, path: KeyPath, file: SweepFile) -> Document:
    values: Document = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            file.problems.append(f"{file.name}:{line}: a key must be a plain text")
            continue
        key = str(key_node.value)
        # PyYAML reads both, and the second would replace the first in silence.
        if key in values:
            first = file.lines[(*path, key)]
            dotted = ".".join(str(part) for part in (*path, key))
            file.problems.append(
                f"{file.name}:{line}: {dotted}: must appear once, stands on line {first} already"
            )
            continue
        values[key] = _value(value_node, (*path, key), file)
        # Of the key itself: its value may begin on a later line.
        file.lines[(*path, key)] = line
    return values


def _scalar(node: yaml.Node, path: KeyPath, file: SweepFile) -> Any:
    text = str(node.value)
    if getattr(node, "style", None) is not None:  # quoted or a block: a text, whatever it looks like
        return text
    if not node.tag.startswith("tag:yaml.org,2002:"):
        file.problems.append(f"{file.where(path)}: tags are not read, got {node.tag}; remove it")
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        # A longer one is beyond every float: a check that converts it would raise OverflowError.
        return int(text) if len(text) < 300 else text
    if _FLOAT.fullmatch(text):
        number = float(text)
        # 1e999 is a number in YAML, and infinite to Python.
        if math.isfinite(number):
            return number
    elif not _NOT_FINITE.fullmatch(text):
        return text
    file.problems.append(f"{file.where(path)}: must be a finite number, got {text[:40]}")
    file.refused.add(path)
    return None


def apply_overrides(file: SweepFile, overrides: Sequence[str]) -> None:
    """Set keys of the file's plain values, which are checked afterwards as the file is.

    Args:
        file: is changed in place.
        overrides: ``KEY=VALUE`` each.
    Raises:
        UsageError: an override is not KEY=VALUE, or goes through something that is no mapping.
    """
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not _OVERRIDE.fullmatch(key):
            raise UsageError(f"an override must be KEY=VALUE, such as search.num_trials=8, got {override!r}")
        try:
            value = parse_scalar(text)
        except ValueError as error:
            raise UsageError(f"{override}: {error}") from error
        _set(file.values, key.split("."), value, override)
        file.overridden[tuple(key.split("."))] = override


def _set(values: Document, path: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(path[:-1]):
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{override}: {'.'.join(path[: depth + 1])} is no mapping, got {inner!r}")
        values = inner
    values[path[-1]] = value
