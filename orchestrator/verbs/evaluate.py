"""``selmix evaluate TABLE``: a metric from labels and class scores alone, without a model or a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import PreflightError, UsageError
from orchestrator.messages import closest
from orchestrator.table import difference, estimate

SCHEMA_VERSION = 1
WEAKEST = 5


def evaluate_table(
    path: Path, objective: str, train_counts: list[int] | None, cvar_fraction: float
) -> dict[str, Any]:
    """The assessment of a table as a document.

    Raises:
        UsageError: an objective or definition that does not fit.
        PreflightError: a table that cannot be read or used.
    """
    import torch

    from selmix.baselines.score_table import assess
    from selmix.data.tables import read_scores
    from selmix.definitions import Definitions
    from selmix.metrics import METRICS, MetricContext
    from selmix.objectives import metric_of_objective

    try:
        metric = metric_of_objective(objective)
    except ValueError as error:
        raise UsageError(f"--objective: unknown {objective!r}; {closest(objective, METRICS)}") from error
    if METRICS[metric].needs is not None:
        raise UsageError(f"--objective: {metric} needs numbers of its own, which only a sweep file can give")
    if METRICS[metric].by_train_counts and train_counts is None:
        raise UsageError(f"--objective: {metric} follows the training counts; give --train-counts N,N,...")
    try:
        table = read_scores(path)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    classes = len(table.class_names)
    definitions = Definitions(cvar_fraction)
    problems = definitions.problems(classes)
    if train_counts is not None and len(train_counts) != classes:
        problems.append(f"--train-counts: must be {classes} numbers, one a class, got {len(train_counts)}")
    if problems:
        raise UsageError("\n".join(problems).replace("cvar_fraction", "--cvar-fraction"))
    if METRICS[metric].of_cells is not None and table.groups is None:
        raise UsageError(f"--objective: {metric} needs groups; give {path} a column group")
    context = MetricContext(
        torch.tensor(train_counts or [1] * classes), definitions, num_groups=len(table.group_names)
    )
    try:
        found = assess(table.labels, table.scores, metric, context, table.class_names, table.groups)
    except ValueError as error:
        raise PreflightError(f"{path}: {error}") from error
    return {
        "schema_version": SCHEMA_VERSION, "table": str(path), "rows": len(table.labels), "num_classes": classes,
        "groups": list(table.group_names), "is_resolved": found.is_resolved, **dataclasses.asdict(found),
    }  # fmt: skip


def evaluation_text(document: Mapping[str, Any]) -> str:
    """The assessment on one screen; its first line is the answer."""
    metric, value = document["metric"], document["value"]
    smallest = min(row["samples"] for row in document["classes"])
    lines = [
        f"{metric} {estimate(value).strip()} %, on {document['rows']} samples of {document['num_classes']} classes"
        + (f" in {len(document['groups'])} groups" if document["groups"] else "")
    ]
    width = 100 * document["half_width"]
    if document["is_resolved"]:
        lines.append(f"resolved    yes: known to {width:.1f} points to a side")
    else:
        needed = document["samples_needed"]
        more = f"about {needed} samples a class would give 5" if needed else "more samples are needed for 5"
        lines.append(
            f"resolved    no: known to {width:.1f} points to a side with {smallest} samples in the smallest class; "
            f"{more}"
        )
    weakest = [
        f"{row['name']} {estimate(row['recall']).strip()} (n {row['samples']})"
        for row in document["classes"][:WEAKEST]
    ]
    lines.append(f"weakest     recall of {'; '.join(weakest)}")
    correction = document["correction"]
    if correction is None:
        lines.append("post hoc    not tried: too many classes for a search, or no metric of predictions")
    else:
        lines.append(
            "post hoc    biases on the scores, fitted and judged on different samples: "
            f"{100 * correction['value']:.1f}, {difference(correction['difference'])} points: {correction['outcome']}"
        )
    return "\n".join(lines)
