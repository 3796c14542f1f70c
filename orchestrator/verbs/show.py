"""``selmix show``: result of a sweep as a document, from records alone, without Ray, MLflow or torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.documents import SCHEMA_VERSION, Document, to_document
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.leases.lease import current_state
from orchestrator.records.openings import openings_of
from orchestrator.records.types import Metrics, Settings, SweepState, TrialRecord, TrialState
from orchestrator.results.pages import links_of
from orchestrator.results.rows import ObjectiveResult, Row, base_labels, baseline_row, load_results, row_of
from orchestrator.tracking.address import present_address
from selmix.rungs import RUNGS, Rung, up_to

ENDED = ("FINISHED", "PRUNED", "FAILED", "KILLED")


@dataclass(frozen=True)
class TrialRow:
    """A trial or replicate in the document; see :class:`orchestrator.records.types.TrialRecord` for its fields."""

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
    """Number of runs by state, trials and replicates together.

    Attributes:
        finished: finished or pruned runs.
        failed: failed runs.
        running: running runs.
        total: all runs, those that are planned included.
        eta_s: estimated seconds for the rest; None while there is nothing to estimate from, 0 when all have ended.
    """

    finished: int
    failed: int
    running: int
    total: int
    eta_s: float | None


@dataclass(frozen=True)
class SeenTest:
    """One opening of a test split: its time, the sweep whose test split it was, and the command that opened it."""

    time: str
    sweep: str
    by: str


@dataclass(frozen=True, kw_only=True)
class ShowDocument:
    """Result of a sweep, or its progress.

    Attributes:
        schema_version: version of the document.
        sweep: name of the sweep.
        sweep_id: random id, made at its first launch.
        state: ``running``, ``stopped``, ``finished`` or ``failed``.
        problem: reason why it did not finish, or has no winner; None without one.
        cluster: cluster of the last launch; {} where it ran on this machine.
        created: time of the first launch.
        ended: time of its end; None while it is unfinished.
        spec: resolved sweep file.
        data: knowledge of its data; {} before they were read.
        base: its base model; {} before that was made.
        tracking_uri: address of MLflow, without credentials.
        progress: runs by state.
        test_openings: openings of the test split.
        objectives: objective -> result.
        trials: trials and replicates.
        rows: trials, replicates and baselines as rows of one table.
        method: version of the method's arithmetic that its runs used.
        cancelled: True if it never resumes.
        test_seen: openings of the same test split by any sweep of the runs folder, as far as they are known.
        test_problem: reason why these cannot be read; None without one.
        links: objective -> link to its runs in MLflow; without a server `selmix ui` must serve them.
        until: rung that the last launch ended with; None where it climbed all rungs of the file.
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
    cancelled: bool
    test_seen: list[SeenTest] = field(default_factory=list)
    test_problem: str | None = None
    links: dict[str, str] = field(default_factory=dict)
    until: Rung | None = None

    @property
    def climbed(self) -> list[Rung]:
        """Rungs that the sweep climbs, from the cheapest on; without ``finetune`` there are no trials."""
        return up_to(self.spec.get("rungs", RUNGS), self.until)

    @property
    def left(self) -> list[Rung]:
        """Rungs of the file that the last launch left out."""
        return [rung for rung in self.spec.get("rungs", RUNGS) if rung not in self.climbed]


def show_document(folder: RunFolder) -> ShowDocument:
    """Read the result of a sweep, or its progress.

    Raises:
        PreflightError: a record is damaged.
    """
    state = folder.load_state()
    records, baselines = folder.load_trials(), folder.load_baselines()
    now = current_state(folder, state.state)
    spec, results = folder.load_spec(), load_results(folder)
    # Before the sweep is finished there is no result, but its baselines may be there already.
    decided = {} if results is None else results.objectives
    written, labels = state.to_document(), base_labels(state.base)
    seen, problem = _seen(folder, state)
    tracking = present_address(state.tracking_uri, folder.store.root)
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
        tracking_uri=tracking,
        progress=run_counts(state, records, now),
        test_openings=[to_document(opening) for opening in state.test_openings],
        objectives={
            name: decided.get(name) or _undecided(baselines, name) for name in spec.get("objectives", [])
        },
        trials=[trial_row(record, now) for record in records],
        rows=[row_of(record, labels) for record in (*records, *baselines)],
        method=state.method,
        cancelled=state.cancelled,
        test_seen=seen,
        test_problem=problem,
        links=links_of(state, tracking, spec.get("objectives", [])),
        until=state.until,
    )


def _seen(folder: RunFolder, state: SweepState) -> tuple[list[SeenTest], str | None]:
    # The result of a sweep can be read whatever has become of the record of test.
    try:
        return [SeenTest(each.time, each.sweep, each.by) for each in openings_of(folder, state)], None
    except PreflightError as error:
        return [], str(error)


def _undecided(baselines: list[TrialRecord], objective: str) -> ObjectiveResult:
    rows = {b.name: baseline_row(b) for b in baselines if b.objective == objective}
    return ObjectiveResult(baselines=rows)


def trial_row(record: TrialRecord, sweep_state: str) -> TrialRow:
    """Convert the record of a trial or replicate."""
    # A killed driver leaves RUNNING behind: without a driver such a run is INTERRUPTED.
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
    """Count runs by state and estimate the seconds that the rest will take.

    Args:
        state: record of the sweep.
        records: records of its trials and replicates.
        now: current state of the sweep, see :func:`orchestrator.records.leases.lease.current_state`.
    """
    ended = [r for r in records if r.state in ENDED]
    # planned_runs grows with the phases of a sweep: it may lag behind the records for a moment.
    total = max(state.planned_runs, len(records))
    left = total - len(ended)
    eta: float | None = None
    if left == 0 and total > 0:
        eta = 0.0
    elif now == "running" and ended:
        # Wall-clock time per ended run: it includes that several run at once.
        first = min(r.started_ms for r in ended if r.started_ms is not None)
        eta = (time.time() - first / 1000.0) / len(ended) * left
    return RunCounts(
        sum(r.state in ("FINISHED", "PRUNED") for r in records),
        sum(r.state == "FAILED" for r in records),
        # Records that a killed driver left RUNNING do not count.
        sum(r.state == "RUNNING" for r in records) if now == "running" else 0,
        total,
        eta,
    )
