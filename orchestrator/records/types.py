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
from selmix.rungs import Rung

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
    """Value of a metric with its confidence interval, as fractions; of a cost in its own unit.

    Attributes:
        value: of the metric.
        low: lower confidence bound.
        high: upper confidence bound.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CrossFittedScore:
    """Selection score of a baseline over feedback and select, each fold judged by a fit on the others.

    Attributes:
        score: that chooses between baselines which train a head at most, and claims nothing; None where there is none.
        folds: number of folds.
        samples: that were judged.
        reason: why there is no score; empty where there is one.
        violation: amount by which the same predictions miss the bounds of the search, 0.0 where they hold; None where
            there is no score, and in records by an earlier version.
    """

    score: float | None
    folds: int
    samples: int
    reason: str = ""
    violation: float | None = None


Metrics = dict[str, Figure]
"""Metric key -> value with its interval."""


@dataclass
class TrialRecord:
    """One run of a configuration: a trial, a replicate of one on a fresh seed, or a baseline.

    Attributes:
        trial_id: unique in its sweep.
        objective: that it was run for.
        kind: trial, replicate or baseline.
        number: of the trial in its study.
        seed: of the run.
        replicate_of: id of the trial whose settings a replicate repeats.
        arm: value that a comparison gives it (``policy=uniform``); empty where nothing is compared.
        reference_arm: True if the other arms are compared with this one.
        config: the flat settings.
        config_hash: identity of those settings that act.
        point: searched parameters as the study gave them: the study can be made again from it.
        state: see :data:`TrialState`.
        stop_reason: reason of its end.
        error: of a run that failed.
        round: the chosen one, with the best selection score; not the last one.
        steps: SGD steps up to the chosen round.
        score: selection score of the chosen round.
        feasible: True if the chosen round meets the constraints.
        select: metrics of the chosen round on the select split.
        cost_s: seconds of work.
        mlflow_run_id: of its run in MLflow.
        started_ms: milliseconds since the epoch.
        ended_ms: milliseconds since the epoch.
        checkpoint: that an unfinished trial resumes from, relative to the sweep's folder (older records hold absolute
            paths).
        losses: workers and nodes that were lost under it.
        lost_s: seconds of work after its last checkpoint that these losses cost.
        alone: True if it ran out of memory once and has been exclusive since: whole devices, nothing beside it.
        weights_digest: of the weights of the chosen round.
        labels: labelled splits that a baseline used.
        reference: True for a baseline of another cost.
        seeds: that a baseline ran on.
        note: settings that a baseline tuned.
        rung: part of the model that a baseline touches.
        correction: post-hoc correction on top of a baseline.
        cross_fitted: score out of fold of a baseline that trains a head at most.
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
    rung: Rung | None = None
    correction: str | None = None
    cross_fitted: CrossFittedScore | None = None

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
        """``trial-007``, ``policy=uniform-trial-007-seed-1`` or ``baseline-NAME``: the name of its run in MLflow."""
        if self.kind == "baseline":
            return f"baseline-{self.name}"
        # Of a run without an objective, such as a pre-training, the whole id.
        return "-".join(self.trial_id.split("/")[1:]) or self.trial_id


@dataclass(frozen=True)
class BestHead:
    """Best head of the rung ``head``, which runs with ``start: best_head`` begin with.

    Attributes:
        approach: of its row: a key of BASELINES.
        seed: of its model.
        config: settings of its row, where it has some.
        digest: of its ``weight`` and ``bias``.
    """

    approach: str
    seed: int
    config: Settings
    digest: str


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
        arm: value of a comparison; empty where nothing is compared.
    """
    record = TrialRecord(
        trial_id="", objective=objective, kind="trial", number=number, seed=seed, arm=arm, config=config,
        config_hash=config_hash(objective, acting),
    )  # fmt: skip
    # The id contains the name of the study, which the record knows.
    record.trial_id = f"{record.study}/trial-{number:03d}"
    return record


def replicate_record(trial: TrialRecord, index: int, seed: int) -> TrialRecord:
    """The record of a run of a trial's settings on a fresh seed.

    Args:
        trial: its settings are run again.
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
    # Sorted: the order in which settings are given is no part of their identity.
    text = json.dumps({"objective": objective, **acting}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def new_sweep_id() -> str:
    """Sixteen random hexadecimal digits; made once, at the first launch."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class DataFacts:
    """Knowledge of a sweep's data that reading its results needs, so that reading loads no data.

    Attributes:
        class_names: in the order of the labels.
        train_counts: training samples per class.
        digests: split -> digest of its content.
        num_select: samples of select.
        group_names: of the group attribute; empty where there is none.
        select_counts: samples of select per class; empty in records of earlier versions.
    """

    class_names: list[str]
    train_counts: list[int]
    digests: dict[str, str]
    num_select: int
    group_names: list[str] = field(default_factory=list)
    select_counts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class BaseFacts:
    """Origin and identity of the base model.

    Attributes:
        digest: of its weights.
        cost_s: seconds that making it took.
        recipe: of the pre-training.
        seed: of the pre-training.
        init: file of the weights that pre-training began with.
        checkpoint: file that was given instead of pre-training.
        heads_cost_s: seconds that fitting its balanced heads took.
    """

    digest: str
    cost_s: float
    recipe: str | None = None
    seed: int | None = None
    init: str | None = None
    checkpoint: str | None = None
    heads_cost_s: float | None = None

    @property
    def source(self) -> str:
        """Origin in a few words, for people."""
        return self.checkpoint or f"pre-trained by {self.recipe}"

    def to_document(self) -> Document:
        """As JSON has it: keys without a value are left out."""
        document = {key: value for key, value in to_document(self).items() if value is not None}
        # Recipe or address first, as a reader expects it.
        return {key: value for key, value in document.items() if key not in ("digest", "cost_s")} | {
            key: document[key] for key in ("digest", "cost_s")
        }


@dataclass(frozen=True)
class OwnSource:
    """Source of a module of the user's own, as it is kept beside a result.

    Attributes:
        module: dotted name.
        digest: over names and contents of its files.
        file: of the module, relative to the folder of the sweep or of the pins.
        files: all of its files, those of modules of the user's that it imports too, relative to the folder that they
            are imported from.
    """

    module: str
    digest: str
    file: str
    files: list[str]

    @property
    def main(self) -> str:
        """File of the module, relative to the folder that it is imported from."""
        return self.file.partition("/")[2]


@dataclass(frozen=True)
class Opening:
    """One opening of the test split: its time, and the command that opened it."""

    time: str
    by: str


@dataclass(frozen=True)
class ClusterFacts:
    """Cluster and code of the last launch, if it ran elsewhere than on this machine.

    Attributes:
        address: of the head, without credentials.
        package: digest of the code, see :class:`orchestrator.provenance.Submission`.
        package_bytes: size of the code.
        submission_id: of the job; None where it was not submitted as one.
        job_server: that took the job; None likewise.
    """

    address: str
    package: str | None = None
    package_bytes: int | None = None
    submission_id: str | None = None
    job_server: str | None = None


@dataclass
class SweepState:
    """Content of ``sweep.json``: the sweep as a whole, as its driver last wrote it.

    A driver that was killed leaves ``running`` behind: :func:`orchestrator.records.leases.lease.current_state` is the
    state at this moment.

    Attributes:
        name: a label.
        sweep_id: random, made at the first launch.
        state: ``running``, ``stopped``, ``finished`` or ``failed``.
        created: time of the first launch.
        ended: time of its end; None while it is unfinished.
        tracking_uri: of MLflow, without credentials.
        file_digest: of the resolved specification.
        experiment_id: in MLflow.
        parent_run_id: in MLflow.
        exit_code: of the launch that ended it; None while it is unfinished.
        cancelled: True if it never resumes.
        method: number of the method's arithmetic that made it.
        data: None before the first run was prepared.
        base: likewise.
        environment: likewise.
        cluster: None on this machine.
        test_openings: of the test split.
        problem: that stopped it; None where there was none.
        unsent: writes that did not reach MLflow.
        planned_runs: trials and replicates, as far as they are known.
        objective_source: modules of the user's own that hold its functions of C; empty in records of earlier versions.
        until: rung that the last launch ends with; None where it climbs all rungs of its file.
        views: objective -> key of the view of its runs in MLflow, as far as MLflow has taken them; empty in records of
            earlier versions.
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
    objective_source: list[OwnSource] = field(default_factory=list)
    until: Rung | None = None
    views: dict[str, str] = field(default_factory=dict)

    def to_document(self) -> Document:
        """As JSON has it: ``{}`` stands for a value that is not known yet."""
        document = to_document(self)
        for key in ("data", "base", "environment", "cluster"):
            document[key] = document[key] or {}
        # Without the keys that have no value, as the class itself writes them.
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
