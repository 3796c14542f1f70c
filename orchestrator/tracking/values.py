"""Values in the form MLflow takes them, checked where they are handed over rather than when they are sent."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping
from typing import Any

MAX_SCALARS = 40
MAX_PARAM = 6000
MAX_TAG = 8000
CUT = " ... (cut)"
KEY = re.compile(r"[\w\-. :/]{1,250}", re.ASCII)


def checked_key(key: str) -> str:
    """``key`` if MLflow takes it as the name of a figure, param or tag.

    Raises:
        ValueError: it does not. Nothing is renamed: two names that became one would mix their figures.
    """
    unclean = posixpath.normpath(key) != key or key.startswith((".", "/"))
    if not KEY.fullmatch(key) or unclean:
        raise ValueError(
            f"MLflow key: must be letters, digits and `_-. :/`, at most 250, as a clean path, got {key!r}"
        )
    return key


def figures(values: Mapping[str, float | None], limit: int | None = None) -> dict[str, float]:
    """Figures that MLflow can keep.

    Args:
        values: key -> figure. NaN is kept: it is drawn as a gap. Infinities are left out, because MLflow
            gives them back as 1.8e308, which ruins every axis; None stands for no figure and is left out too.
        limit: how many keys are allowed.
    Raises:
        ValueError: a key is not allowed, or there are more than ``limit``.
    """
    if limit is not None and len(values) > limit:
        raise ValueError(
            f"figures of a round: must be at most {limit}, got {len(values)}; put arrays into the table"
        )
    kept = {checked_key(key): float(value) for key, value in values.items() if value is not None}
    return {key: value for key, value in kept.items() if not math.isinf(value)}


def estimates(best: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """``best/select/METRIC`` with ``/low`` and ``/high`` from metric -> {"value", "low", "high"}."""
    named = {}
    for metric, estimate in best.items():
        named[f"best/select/{metric}"] = estimate["value"]
        named |= {
            f"best/select/{metric}/{side}": estimate[side] for side in ("low", "high") if side in estimate
        }
    return figures(named)


def frozen_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as text that is the same at every resume: JSON, except that text stays as it is.

    Raises:
        ValueError: a key is not allowed.
    """
    texts = {checked_key(key): _text(value) for key, value in params.items()}
    return {key: _cut(text, MAX_PARAM) for key, text in texts.items()}


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as text, marked where cut at MLflow's 8,000 characters; those that are None are left out.

    Raises:
        ValueError: a key is not allowed.
    """
    texts = {checked_key(key): _text(value) for key, value in tags.items() if value is not None}
    return {key: _cut(text, MAX_TAG) for key, text in texts.items()}


def tag_filter(tags: Mapping[str, str]) -> str:
    """The search for runs that carry all of these tags.

    Raises:
        ValueError: a value has a quote; MLflow finds nothing for it, and a second run would be made.
    """
    for key, value in tags.items():
        if re.search(r"['\"`\\]", value):
            raise ValueError(f"{key}: must be without quotes to be found in MLflow, got {value!r}")
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
