"""A sweep file made of the plain values of Python: a dictionary with the keys of a sweep file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from orchestrator.errors import SpecError
from orchestrator.spec.yaml_file import KeyPath, SweepFile, parse_scalar, parse_sweep_text

_PLAIN = (str, bool, int, float, type(None))


def file_of_values(values: Mapping[str, Any], name: str) -> SweepFile:
    """A sweep file of these values, which stand on no lines.

    Args:
        values: keys of a sweep file; tuples, numpy's numbers and paths may stand for lists, numbers and texts.
        name: of the file, for messages.
    Raises:
        SpecError: it is no mapping, or a value is none that a sweep file can hold; every problem at once.
    """
    problems: list[str] = []
    plain = _plain(values, (), name, problems)
    if not isinstance(plain, dict):
        problems = [f"{name}: must be a mapping of keys (version, name, data, objectives, ...)"]
    if problems:
        raise SpecError(problems)
    # Through the text: what is kept beside the result means the same.
    file = parse_sweep_text(text_of(plain), name)
    line = re.compile(rf"{re.escape(name)}:\d+: ")
    problems = [line.sub(f"{name}: ", each, count=1) for each in file.problems]
    return SweepFile(name, file.values, problems=problems, refused=file.refused)


def text_of(values: Mapping[str, Any]) -> str:
    """Plain values as the text of a sweep file, which reads as the same values."""
    text: str = yaml.dump(
        dict(values), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    return text


def _plain(value: Any, path: KeyPath, name: str, problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, (*path, str(key)), name, problems) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, (*path, place), name, problems) for place, inner in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    # numpy's scalars, of which some are floats of Python too; an array with one number is none.
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    dotted = ".".join(map(str, path))
    problems.append(
        f"{name}: {dotted}: must be a number, a text, a list or a mapping, got {type(value).__name__}"
    )
    return None


class _Dumper(yaml.SafeDumper):
    """Dumper of texts that a sweep file reads as texts: PyYAML quotes by another version of YAML."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        is_same = parse_scalar(value) == value
    except ValueError:
        is_same = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_same else '"')


_Dumper.add_representer(str, _text)
