"""Overrides on the command line: ``search.num_trials=8 parameters.lr.max=0.05 name=NEW``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.spec.yaml_file import SweepFile, parse_scalar

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


def apply_overrides(file: SweepFile, overrides: Sequence[str]) -> None:
    """Set keys of the file's plain values before they are checked; what they say is checked as the file is.

    Raises:
        UsageError: an override is not KEY=VALUE, or goes through something that is no mapping.
    """
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not _KEY.fullmatch(key):
            raise UsageError(f"an override must be KEY=VALUE, such as search.num_trials=8, got {override!r}")
        try:
            value = parse_scalar(text)
        except ValueError as error:
            raise UsageError(f"{override}: {error}") from error
        _set(file.values, key.split("."), value, override)
        file.overridden[tuple(key.split("."))] = override


def _set(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(path[:-1]):
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{override}: {'.'.join(path[: depth + 1])} is no mapping, got {inner!r}")
        values = inner
    values[path[-1]] = value
