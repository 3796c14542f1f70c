"""The two records of a sweep as dataclasses: one run of a configuration, and the sweep as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

TrialState = Literal["RUNNING", "FINISHED", "PRUNED", "FAILED", "INTERRUPTED", "KILLED"]
Kind = Literal["trial", "replicate", "baseline"]
Figures = dict[str, dict[str, float]]
"""Metric -> {"value", "low", "high"}, as fractions."""

BASELINE = "baseline"
"""The middle part of a baseline's id, ``min_recall/baseline/untouched``."""


@dataclass
class TrialRecord:
    """One run of a configuration: a trial, a replicate of one on a fresh seed, or a baseline.

    ``arm`` says which value a comparison gives it (``policy=uniform``; empty where nothing is compared), and
    ``reference_arm`` whether the other arms are compared with that one. ``round``, ``steps``, ``score``, ``select``
    and ``weights_digest`` are those of the chosen round, not of the last one. ``checkpoint`` is where an unfinished
    trial goes on from, relative to the sweep's folder (older records hold absolute paths). ``point`` is what the study
    was asked for: the study can be made again from it. ``losses`` counts the workers and nodes that went away under
    it, ``lost_s`` the seconds since its last checkpoint that each of them cost; ``alone`` says that it ran out of
    memory once and was given whole devices since.
    """

    trial_id: str
    objective: str
    kind: Kind
    number: int
    seed: int
    replicate_of: str | None = None
    arm: str = ""
    reference_arm: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    point: dict[str, Any] = field(default_factory=dict)
    state: TrialState = "RUNNING"
    stop_reason: str | None = None
    error: str | None = None
    round: int | None = None
    steps: int | None = None
    score: float | None = None
    feasible: bool = True
    select: Figures = field(default_factory=dict)
    cost_s: float = 0.0
    mlflow_run_id: str | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    checkpoint: str | None = None
    losses: int = 0
    lost_s: float = 0.0
    alone: bool = False
    weights_digest: str | None = None
    labels: list[str] = field(default_factory=list)
    reference: bool = False
    seeds: list[int] = field(default_factory=list)
    note: dict[str, Any] = field(default_factory=dict)

    @property
    def study(self) -> str:
        """Name of the study that it belongs to: its objective, with its arm."""
        return f"{self.objective}/{self.arm}" if self.arm else self.objective

    @property
    def is_default(self) -> bool:
        """Whether it ran the settings that an unsearched run would have."""
        return self.number == 0 and self.reference_arm

    @property
    def name(self) -> str:
        """The last part of the id: ``trial-007``, ``seed-1``, or a baseline's name."""
        return self.trial_id.rsplit("/", 1)[-1]


@dataclass
class SweepState:
    """What ``sweep.json`` says of the sweep as a whole; ``state`` is what its driver last wrote.

    A driver that was killed leaves ``running`` behind: ask :func:`orchestrator.records.lease.current_state` for what
    holds now. ``data`` is ``{"class_names", "train_counts", "digests", "num_select"}``, kept so that reading
    results loads no data. ``planned_runs`` counts trials and replicates as far as they are known, ``unsent`` what did
    not reach MLflow. ``cluster`` says where the last launch ran and with which package of code; {} is this machine.
    A ``cancelled`` sweep never goes on. ``test_openings`` has one entry ``{"time", "by"}`` per opening of the
    test split.
    """

    name: str
    sweep_id: str
    state: Literal["running", "stopped", "finished", "failed"] = "running"
    created: str = ""
    ended: str | None = None
    tracking_uri: str = ""
    file_digest: str = ""
    spec_digest: str = ""
    experiment_id: str | None = None
    parent_run_id: str | None = None
    exit_code: int | None = None
    cancelled: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    cluster: dict[str, Any] = field(default_factory=dict)
    test_openings: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None
    unsent: int = 0
    planned_runs: int = 0
