"""Values in the form MLflow takes them: checked where they are handed over rather than when they are sent."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.provenance import git_state
from orchestrator.records.types import Metrics

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

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


def metrics_to_keep(values: Mapping[str, float | None], limit: int | None = None) -> dict[str, float]:
    """Metrics that MLflow can keep.

    Args:
        values: key -> number. NaN is kept: it is drawn as a gap. Infinities are left out, because MLflow gives them
            back as 1.8e308, which ruins every axis; None stands for no number and is left out too.
        limit: how many keys are allowed.
    Raises:
        ValueError: a key is not allowed, or there are more than ``limit``.
    """
    if limit is not None and len(values) > limit:
        raise ValueError(
            f"metrics of a round: must be at most {limit}, got {len(values)}; put arrays into the table"
        )
    kept = {checked_key(key): float(value) for key, value in values.items() if value is not None}
    return {key: value for key, value in kept.items() if not math.isinf(value)}


def estimates(best: Metrics, prefix: str = "") -> dict[str, float]:
    """``best/select/METRIC`` with ``/low`` and ``/high``."""
    named: dict[str, float | None] = {}
    for metric, figure in best.items():
        key = f"{prefix}best/select/{metric}"
        named |= {key: figure.value, f"{key}/low": figure.low, f"{key}/high": figure.high}
    return metrics_to_keep(named)


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


def trial_tags(digests: Mapping[str, str]) -> dict[str, str]:
    """Tags of every run below the parent. The test split's digest is known without opening it."""
    return {"selmix.data_digest": digests["train"]}


def parent_tags(spec: SweepSpec, digests: Mapping[str, str]) -> dict[str, str]:
    """Tags of the sweep's own run."""
    git = git_state()
    tags = {f"selmix.digest.{split}": digest for split, digest in digests.items()}
    tags |= {"selmix.data_digest": digests["train"], "selmix.objectives": ", ".join(spec.objectives)}
    if git.commit is not None:
        tags |= {"mlflow.source.git.commit": git.commit, "selmix.git_dirty": str(git.dirty).lower()}
    return tags


def sweep_params(spec: SweepSpec) -> dict[str, Any]:
    """``data.*``, ``model.*``, ``pretrain.*``, ``selection.*``: the same for all runs of the sweep."""
    document = spec.resolved()
    return {
        f"{section}.{key}": value
        for section in ("data", "model", "pretrain", "selection")
        for key, value in document[section].items()
        if value is not None
    }
