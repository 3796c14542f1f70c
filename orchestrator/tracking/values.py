"""Values in the form that MLflow takes: checked when they are handed over rather than when they are sent."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from orchestrator.documents import Document, to_document
from orchestrator.provenance import git_state
from orchestrator.records.types import Metrics
from orchestrator.tracking.view import SCORE

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec

MAX_SCALARS = 60
"""Metrics of a round: each key is a chart in MLflow, and a row per round in its store."""

# Characters of a value, and the names, that MLflow accepts; it refuses the whole batch otherwise.
MAX_PARAM = 6000
MAX_TAG = 8000
CUT = " ... (cut)"
KEY = re.compile(r"[\w\-. :/]{1,250}", re.ASCII)


def checked_key(key: str) -> str:
    """``key``, checked as the name of a metric, param or tag in MLflow.

    Raises:
        ValueError: MLflow does not accept it. Nothing is renamed: two keys with one name would mix their values.
    """
    # MLflow takes a key as a path and refuses one like a//b or ../b, which could be another file.
    unclean = posixpath.normpath(key) != key or key.startswith((".", "/"))
    if not KEY.fullmatch(key) or unclean:
        raise ValueError(
            f"MLflow key: must be letters, digits and `_-. :/`, at most 250, as a clean path, got {key!r}"
        )
    return key


def metrics_to_keep(values: Mapping[str, float | None], limit: int | None = None) -> dict[str, float]:
    """Metrics that MLflow can store.

    Args:
        values: metric -> number. NaN is kept: MLflow draws it as a gap. Infinities are left out, because MLflow returns
            them as 1.8e308, which ruins every axis; None stands for no number and is left out too.
        limit: allowed number of keys, or None for any.
    Raises:
        ValueError: a key is not allowed, or there are more than ``limit``.
    """
    if limit is not None and len(values) > limit:
        raise ValueError(
            f"metrics of a round: must be at most {limit}, got {len(values)}; put arrays into the table"
        )
    kept = {checked_key(key): float(value) for key, value in values.items() if value is not None}
    return {key: value for key, value in kept.items() if not math.isinf(value)}


@dataclass(frozen=True)
class Best:
    """What a run is ranked by: its score, and its metrics at the chosen round.

    Attributes:
        select: metrics on select, with their intervals; empty of a run that did not finish.
        metric: that ranks it; None where it is not known.
        score: that ranks it; None of a run that did not finish.
    """

    select: Metrics = field(default_factory=dict)
    metric: str | None = None
    score: float | None = None

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """As metrics ``best/score`` and ``best/select/METRIC``, the ranking one with ``/low`` and ``/high``.

        The limits of all others would be charts of one dot each, two for every metric; :meth:`to_document` has them.

        Args:
            prefix: before every key.
        """
        named: dict[str, float | None] = {f"{prefix}{SCORE}": self.score}
        for metric, estimate in self.select.items():
            key = f"{prefix}best/select/{metric}"
            named[key] = estimate.value
            if metric == self.metric:
                named |= {f"{key}/low": estimate.low, f"{key}/high": estimate.high}
        return metrics_to_keep(named)

    def to_document(self) -> Document:
        """Score and all metrics with their intervals, as the artifact ``best.json`` has them."""
        limits = {key: to_document(each) for key, each in self.select.items()}
        return {"score": self.score, "metric": self.metric, "select": limits}


def frozen_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Params as text that is the same at every resume: JSON, except that strings stay as they are.

    MLflow refuses to change a param, so that another text on a resume would fail.

    Raises:
        ValueError: a key is not allowed.
    """
    texts = {checked_key(key): _text(value) for key, value in params.items()}
    return {key: _cut(text, MAX_PARAM) for key, text in texts.items()}


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as text, cut at MLflow's 8,000 characters and marked as such; those that are None are left out.

    Raises:
        ValueError: a key is not allowed.
    """
    texts = {checked_key(key): _text(value) for key, value in tags.items() if value is not None}
    return {key: _cut(text, MAX_TAG) for key, text in texts.items()}


def tag_filter(tags: Mapping[str, str]) -> str:
    """MLflow search expression for runs that carry all of these tags.

    Raises:
        ValueError: a value has a quote; MLflow would find nothing for it, and a second run would be created.
    """
    for key, value in tags.items():
        if re.search(r"['\"`\\]", value):
            raise ValueError(
                f"MLflow tag {key}: must be without quotes to be found by a search, got {value!r}"
            )
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def trial_tags(digests: Mapping[str, str]) -> dict[str, str]:
    """Tags of every run below the parent."""
    return {"selmix.data_digest": digests["train"]}


def parent_tags(spec: SweepSpec, digests: Mapping[str, str]) -> dict[str, str]:
    """Tags of the sweep's parent run."""
    git = git_state()
    # The digest of the test split too: it is known without opening the split.
    tags = {f"selmix.digest.{split}": digest for split, digest in digests.items()}
    tags |= {"selmix.data_digest": digests["train"], "selmix.objectives": ", ".join(spec.objectives)}
    if git.commit is not None:
        tags |= {"mlflow.source.git.commit": git.commit, "selmix.git_dirty": str(git.dirty).lower()}
    return tags


def sweep_params(spec: SweepSpec) -> dict[str, Any]:
    """Params that are the same for all runs of the sweep: ``data.*``, ``model.*``, ``pretrain.*``, ``selection.*``."""
    document = spec.resolved()
    return {
        f"{section}.{key}": _without_place(value)
        for section in ("data", "model", "pretrain", "selection")
        for key, value in document[section].items()
        if value is not None
    }


def _without_place(value: Any) -> Any:
    """A value as others may read it: of an absolute path the name alone, the place is that of this machine."""
    # The name and not a path relative to the working folder: a param must be the same at every resume.
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
