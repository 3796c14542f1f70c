"""``selmix show``: the result of a sweep as a document, from records alone, without Ray, MLflow or torch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from orchestrator.documents import SCHEMA_VERSION, Document, to_document
from orchestrator.records.folder import RunFolder
from orchestrator.records.lease import current_state
from orchestrator.records.types import Metrics, Settings, SweepState, TrialRecord, TrialState
from orchestrator.results.rows import ObjectiveResult, Row, base_labels, baseline_row, load_results, row_of

ENDED = ("FINISHED", "PRUNED", "FAILED", "KILLED")


@dataclass(frozen=True)
class TrialRow:
    """A trial or replicate as the readers show it; see :class:`orchestrator.records.types.TrialRecord`."""

    trial_id: str
    objective: str
    arm: str
    kind: Literal["trial", "replicate", "baseline"]
    state: TrialState
    seed: int
    replicate_of: str | None
    round: int | None
    steps: int | None
    score: float | None
    feasible: bool
    config: Settings
    config_hash: str
    select: Metrics
    cost_s: float
    mlflow_run_id: str | None
    weights_digest: str | None
    stop_reason: str | None
    error: str | None
    losses: int
    lost_s: float
    alone: bool


@dataclass(frozen=True)
class RunCounts:
    """Runs by state, trials and replicates together.

    Attributes:
        finished, failed, running, total: of them.
        eta_s: seconds that the rest may take; None while nothing tells, 0 when all is done.
    """

    finished: int
    failed: int
    running: int
    total: int
    eta_s: float | None


@dataclass(frozen=True, kw_only=True)
class ShowDocument:
    """The result of a sweep, or how far it is.

    Attributes:
        sweep, sweep_id, state, problem, created, ended, tracking_uri: of the sweep.
        cluster, data, base, test_openings: see :class:`orchestrator.records.types.SweepState`; {} where unknown.
        spec: the resolved sweep file.
        progress: runs by state.
        objectives: result by name. trials: trials and replicates.
        rows: everything in the table, baselines too.
        method: number of the arithmetic that made it.
    """

    schema_version: int = SCHEMA_VERSION
    sweep: str
    sweep_id: str
    state: str
    problem: str | None
    cluster: Document
    created: str
    ended: str | None
    spec: Document
    data: Document
    base: Document
    tracking_uri: str
    progress: RunCounts
    test_openings: list[Document]
    objectives: dict[str, ObjectiveResult]
    trials: list[TrialRow]
    rows: list[Row]
    method: int


def show_document(folder: RunFolder) -> ShowDocument:
    """The result of a sweep, or how far it is.

    Raises:
        PreflightError: a damaged record.
    """
    state = folder.load_state()
    records, baselines = folder.load_trials(), folder.load_baselines()
    now = current_state(folder, state.state)
    spec, results = folder.load_spec(), load_results(folder)
    decided = {} if results is None else results.objectives
    written, labels = state.to_document(), base_labels(state.base)
    return ShowDocument(
        sweep=folder.name,
        sweep_id=state.sweep_id,
        state=now,
        problem=state.problem,
        cluster=written["cluster"],
        created=state.created,
        ended=state.ended,
        spec=spec,
        data=written["data"],
        base=written["base"],
        tracking_uri=state.tracking_uri,
        progress=run_counts(state, records, now),
        test_openings=[to_document(opening) for opening in state.test_openings],
        objectives={
            name: decided.get(name) or _undecided(baselines, name) for name in spec.get("objectives", [])
        },
        trials=[trial_row(record, now) for record in records],
        rows=[row_of(record, labels) for record in (*records, *baselines)],
        method=state.method,
    )


def _undecided(baselines: list[TrialRecord], objective: str) -> ObjectiveResult:
    rows = {b.name: baseline_row(b) for b in baselines if b.objective == objective}
    return ObjectiveResult(baselines=rows)


def trial_row(record: TrialRecord, sweep_state: str) -> TrialRow:
    """A trial or replicate as the readers show it; what a killed driver left RUNNING is INTERRUPTED."""
    state = record.state
    if state == "RUNNING" and sweep_state != "running":
        state = "INTERRUPTED"
    return TrialRow(
        record.trial_id, record.objective, record.arm, record.kind, state, record.seed, record.replicate_of,
        record.round, record.steps, record.score, record.feasible, record.config, record.config_hash, record.select,
        record.cost_s, record.mlflow_run_id, record.weights_digest, record.stop_reason, record.error, record.losses,
        record.lost_s, record.alone,
    )  # fmt: skip


def run_counts(state: SweepState, records: list[TrialRecord], now: str) -> RunCounts:
    """Runs by state, and seconds that the rest may take.

    Args:
        state: of the sweep.
        records: of its trials and replicates.
        now: its state as it is now.
    """
    ended = [r for r in records if r.state in ENDED]
    total = max(state.planned_runs, len(records))
    left = total - len(ended)
    eta: float | None = None
    if left == 0 and total > 0:
        eta = 0.0
    elif now == "running" and ended:
        first = min(r.started_ms for r in ended if r.started_ms is not None)
        eta = (time.time() - first / 1000.0) / len(ended) * left
    return RunCounts(
        sum(r.state in ("FINISHED", "PRUNED") for r in records),
        sum(r.state == "FAILED" for r in records),
        sum(r.state == "RUNNING" for r in records) if now == "running" else 0,
        total,
        eta,
    )
