"""The records of a sweep as dataclasses: one run of a configuration, and the sweep as a whole."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.documents import Document, from_document, to_document
from orchestrator.provenance import Environment

TrialState = Literal["RUNNING", "FINISHED", "PRUNED", "FAILED", "INTERRUPTED", "KILLED"]
Kind = Literal["trial", "replicate", "baseline"]
Settings = dict[str, Any]
"""The flat settings of a trial: name of a field of FinetuneConfig -> value."""

DONE: tuple[TrialState, ...] = ("FINISHED", "FAILED", "PRUNED")
"""States of runs that are never run again."""

BASELINE = "baseline"
"""The middle part of a baseline's id, ``min_recall/baseline/untouched``."""


@dataclass(frozen=True)
class Figure:
    """A number with its interval, as a fraction; of a cost in its own unit."""

    value: float
    low: float
    high: float


Metrics = dict[str, Figure]
"""Metric key -> value with its interval."""


@dataclass
class TrialRecord:
    """One run of a configuration: a trial, a replicate of one on a fresh seed, or a baseline.

    Attributes:
        trial_id: unique in its sweep. objective: that it was run for. kind: which of the three it is.
        number: of the trial in its study. seed: of the run.
        replicate_of: id of the trial whose settings a replicate repeats.
        arm: which value a comparison gives it (``policy=uniform``); empty where nothing is compared.
        reference_arm: True if the other arms are compared with this one.
        config: the flat settings. config_hash: identity of those that act.
        point: searched parameters as the study gave them: the study can be made again from it.
        state, stop_reason, error: how it stands, why it ended, what it died of.
        round, steps, score, feasible, select, weights_digest: of the chosen round, not of the last one.
        cost_s: seconds of work.
        mlflow_run_id: of its run in MLflow.
        started_ms, ended_ms: milliseconds since the epoch.
        checkpoint: where an unfinished trial resumes, relative to the sweep's folder (older records hold absolute
            paths).
        losses: workers and nodes that went away under it. lost_s: seconds since its last checkpoint that each cost.
        alone: True if it ran out of memory once and has been exclusive since: whole devices, nothing beside it.
        labels: labelled splits that a baseline used. reference: True for a baseline of another cost.
        seeds: that a baseline ran on. note: what it tuned.
        rung, correction: what a baseline touches, and what stands on top of it.
    """

    trial_id: str
    objective: str
    kind: Kind
    number: int
    seed: int
    replicate_of: str | None = None
    arm: str = ""
    reference_arm: bool = True
    config: Settings = field(default_factory=dict)
    config_hash: str = ""
    point: Settings = field(default_factory=dict)
    state: TrialState = "RUNNING"
    stop_reason: str | None = None
    error: str | None = None
    round: int | None = None
    steps: int | None = None
    score: float | None = None
    feasible: bool = True
    select: Metrics = field(default_factory=dict)
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
    note: dict[str, float | str] = field(default_factory=dict)
    rung: Literal["scores", "head", "finetune", "retrain"] | None = None
    correction: str | None = None

    @property
    def study(self) -> str:
        """Name of the study that it belongs to: its objective, with its arm."""
        return f"{self.objective}/{self.arm}" if self.arm else self.objective

    @property
    def is_default(self) -> bool:
        """True if it ran the settings that an unsearched run would have."""
        return self.number == 0 and self.reference_arm

    @property
    def is_done(self) -> bool:
        """True if it is never run again."""
        return self.state in DONE

    @property
    def name(self) -> str:
        """The last part of the id: ``trial-007``, ``seed-1``, or a baseline's name."""
        return self.trial_id.rsplit("/", 1)[-1]

    @property
    def display_name(self) -> str:
        """``trial-007``, ``trial-007-seed-1`` or ``baseline-NAME``: what MLflow calls its run."""
        if self.kind == "baseline":
            return f"baseline-{self.name}"
        if self.kind == "replicate":
            return "-".join(self.trial_id.split("/")[1:])
        return self.name


def trial_record(
    objective: str, number: int, seed: int, config: Settings, acting: Settings, arm: str = ""
) -> TrialRecord:
    """The record of a new trial of the search.

    Args:
        objective: that it runs for.
        number: in its study.
        seed: of the run.
        config: the flat settings.
        acting: those of them that act, which are its identity.
        arm: of a comparison; empty where nothing is compared.
    """
    record = TrialRecord(
        trial_id="", objective=objective, kind="trial", number=number, seed=seed, arm=arm, config=config,
        config_hash=config_hash(objective, acting),
    )  # fmt: skip
    record.trial_id = f"{record.study}/trial-{number:03d}"
    return record


def replicate_record(trial: TrialRecord, index: int, seed: int) -> TrialRecord:
    """The record of a run of a trial's settings on a fresh seed.

    Args:
        trial: whose settings are run again.
        index: of the replicate, from 1.
        seed: of the run.
    """
    return TrialRecord(
        trial_id=f"{trial.trial_id}/seed-{index}", objective=trial.objective, kind="replicate",
        number=trial.number, seed=seed, replicate_of=trial.trial_id, arm=trial.arm,
        reference_arm=trial.reference_arm, config=trial.config, config_hash=trial.config_hash,
    )  # fmt: skip


def baseline_id(objective: str, name: str) -> str:
    """Id of a baseline's record."""
    return f"{objective}/{BASELINE}/{name}"


def config_hash(objective: str, acting: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits over the objective and the settings that act under it."""
    text = json.dumps({"objective": objective, **acting}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def new_sweep_id() -> str:
    """Sixteen random hexadecimal digits; made once, at the first launch."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class DataFacts:
    """Knowledge of a sweep's data that reading its results needs, so that reading loads no data.

    Attributes:
        class_names: in the order of the classes. train_counts: training samples of each.
        digests: split -> digest of its content.
        num_select: samples of select. group_names: of the group attribute; empty where there is none.
    """

    class_names: list[str]
    train_counts: list[int]
    digests: dict[str, str]
    num_select: int
    group_names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BaseFacts:
    """Where the base model comes from, and what it is.

    Attributes:
        digest: of its weights. cost_s: seconds that making it took.
        recipe, seed, init: of the pre-training. checkpoint: the file that was given instead.
    """

    digest: str
    cost_s: float
    recipe: str | None = None
    seed: int | None = None
    init: str | None = None
    checkpoint: str | None = None

    @property
    def source(self) -> str:
        """A few words for people."""
        return self.checkpoint or f"pre-trained by {self.recipe}"

    def to_document(self) -> Document:
        """As JSON has it: keys that say nothing are left out."""
        document = {key: value for key, value in to_document(self).items() if value is not None}
        # Recipe or address first, as a reader expects it.
        return {key: value for key, value in document.items() if key not in ("digest", "cost_s")} | {
            key: document[key] for key in ("digest", "cost_s")
        }


@dataclass(frozen=True)
class Opening:
    """One opening of the test split: when, and by which command."""

    time: str
    by: str


@dataclass(frozen=True)
class ClusterFacts:
    """Where the last launch ran and with which code, if not on this machine.

    Attributes:
        address: of the head, without credentials.
        package, package_bytes, submission_id, job_server: see :class:`orchestrator.provenance.Submission`.
    """

    address: str
    package: str | None = None
    package_bytes: int | None = None
    submission_id: str | None = None
    job_server: str | None = None


@dataclass
class SweepState:
    """Content of ``sweep.json``: the sweep as a whole, as its driver last wrote it.

    A driver that was killed leaves ``running`` behind: ask :func:`orchestrator.records.lease.current_state` for what
    holds now.

    Attributes:
        name: a label. sweep_id: random, made at the first launch.
        state, created, ended, problem: how it stands.
        tracking_uri: of MLflow, without credentials. experiment_id, parent_run_id: there.
        file_digest: of the resolved specification.
        exit_code: of the launch that ended it; None while it is unfinished.
        cancelled: True if it never resumes.
        method: number of the method's arithmetic that made it.
        data, base, environment: None before the first run was prepared.
        cluster: None on this machine.
        test_openings: of the test split.
        unsent: writes that did not reach MLflow.
        planned_runs: trials and replicates, as far as they are known.
    """

    name: str
    sweep_id: str
    state: Literal["running", "stopped", "finished", "failed"] = "running"
    created: str = ""
    ended: str | None = None
    tracking_uri: str = ""
    file_digest: str = ""
    experiment_id: str | None = None
    parent_run_id: str | None = None
    exit_code: int | None = None
    cancelled: bool = False
    method: int = 1
    data: DataFacts | None = None
    base: BaseFacts | None = None
    environment: Environment | None = None
    cluster: ClusterFacts | None = None
    test_openings: list[Opening] = field(default_factory=list)
    problem: str | None = None
    unsent: int = 0
    planned_runs: int = 0

    def to_document(self) -> Document:
        """As JSON has it: ``{}`` stands for what is not known yet."""
        document = to_document(self)
        for key in ("data", "base", "environment", "cluster"):
            document[key] = document[key] or {}
        if self.base is not None:
            document["base"] = self.base.to_document()
        return document

    @classmethod
    def from_document(cls, document: Document) -> SweepState:
        """The state that :meth:`to_document` wrote, also by an earlier version.

        Raises:
            ValueError: a key is missing or of another type.
        """
        known = dict(document)
        for key in ("data", "base", "environment", "cluster"):
            known[key] = known.get(key) or None
        return from_document(cls, known)
