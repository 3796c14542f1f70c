"""The result of a sweep as typed values: everything that readers, pins and MLflow take from it.

Read and written without torch: ``selmix show`` must answer in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.documents import SCHEMA_VERSION, from_document
from orchestrator.errors import PreflightError
from orchestrator.files import read_json
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BaseFacts, Figure, Metrics, Settings, TrialRecord, TrialState

Outcome = Literal["better", "tied", "worse"]
Rung = Literal["scores", "head", "finetune", "retrain"]
SELMIX = "selmix"
"""The approach of trials and replicates; that of a baseline is its name."""


@dataclass(frozen=True)
class Row:
    """One model, or one procedure over seeds, in the table of a sweep.

    Attributes:
        id: of its record. objective: that it was made for.
        rung: what it touches, from the free to the dear.
        approach: ``selmix``, or the name of a baseline.
        labels: labelled splits used so far, the base model's too.
        cost_s: seconds of work.
        correction: of the logits that stands on top; None: there is none.
        seeds: that it ran on; empty where nothing is random.
        feasible: True if it meets the constraints of the search.
        state: of its record. score: what ranks it; None while it is unfinished.
    """

    id: str
    objective: str
    rung: Rung
    approach: str
    labels: list[str]
    cost_s: float
    correction: str | None
    seeds: list[int]
    feasible: bool
    state: TrialState
    score: float | None


@dataclass(frozen=True)
class BaselineRow:
    """A baseline as the readers show it; see :class:`orchestrator.records.types.TrialRecord` for its fields."""

    select: Metrics
    labels: list[str]
    cost_s: float
    reference: bool
    score: float | None
    state: TrialState
    error: str | None
    seeds: list[int]
    note: dict[str, float | str]
    mlflow_run_id: str | None

    @property
    def cost_per_run_s(self) -> float:
        """Seconds of one of its runs."""
        return self.cost_s / max(1, len(self.seeds))


@dataclass(frozen=True)
class ReplicateMeans:
    """Means over the replicates of a configuration on fresh seeds."""

    seeds: list[int]
    score: float
    select: Metrics


@dataclass(frozen=True)
class Winner:
    """The winner of an objective: configuration, seed, round and checkpoint, all four.

    Attributes:
        trial_id, seed, round, steps, checkpoint_digest: the original trial's, never those of a later run.
        config: the flat settings. is_default: True if they are those of an unsearched run.
        score, select, cost_s: of the original trial.
        labels: labelled splits that were used.
        replicates: means over fresh seeds.
        row, rung, approach: its row in the table.
        deviations: settings that deviate from the method, for comparison only: name -> what it stands for.
    """

    trial_id: str
    seed: int
    round: int | None
    steps: int | None
    checkpoint_digest: str | None
    config: Settings
    is_default: bool
    score: float | None
    select: Metrics
    cost_s: float
    labels: list[str]
    replicates: ReplicateMeans
    row: str | None = None
    rung: Rung = "finetune"
    approach: str = SELMIX
    deviations: dict[str, str] | None = None


@dataclass(frozen=True)
class FinalistRow:
    """A configuration that was run again on fresh seeds: means over these, and on how many it was feasible."""

    trial_id: str
    score: float
    select: Metrics
    cost_s: float
    feasible_seeds: int


@dataclass(frozen=True)
class SearchGain:
    """Paired difference of a searched finalist from the defaults, with its interval."""

    trial_id: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """The winner against the best baseline that may oppose it.

    Attributes:
        outcome: of the paired comparison. against: name of the baseline.
        difference: winner minus baseline, higher is better.
        split: on which it was taken. optimistic: True if both sides were chosen on these samples.
        against_is_cheaper: True if a run of the baseline costs clearly less.
    """

    outcome: Outcome
    against: str
    difference: Figure
    split: str = "select"
    optimistic: bool = True
    against_is_cheaper: bool = False


@dataclass(frozen=True)
class ArmResult:
    """One value of a comparison, by one of its finalists.

    Attributes:
        trial_id: of the finalist. score, select: means over its fresh seeds.
        difference: from the reference value's; None for the reference itself.
        outcome: of that, corrected for the number of values; None likewise.
    """

    trial_id: str
    score: float
    select: Metrics
    difference: Figure | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """One value of the compared parameter: at equal search, and with the defaults otherwise."""

    value: object
    tuned: ArmResult | None
    defaults: ArmResult | None


@dataclass(frozen=True)
class ComparisonTable:
    """The values of one parameter against each other; ``reference`` is the first of them."""

    parameter: str
    reference: object
    rows: list[ComparisonRow]


@dataclass(frozen=True)
class Choice:
    """The winner of an objective as it was decided: once, before the baselines were fitted.

    Attributes:
        leader: of the finalists. tied: those not told apart from it, itself first. winner: one of these.
    """

    leader: str
    tied: list[str]
    winner: str


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Content of ``choices.json``: objective -> its choice, None where nothing can win."""

    schema_version: int = SCHEMA_VERSION
    objectives: dict[str, Choice | None]


@dataclass(frozen=True)
class ObjectiveResult:
    """The result of one objective.

    Attributes:
        metric: that it is judged by; None while it is undecided.
        feasible: True if a trial meets the constraints; None while it is undecided.
        winner, verdict: None while they are undecided, or where nothing can win.
        tied, leader, finalists: of the choice.
        search_added: what the search gained over the defaults; None where only one of them was run.
        baselines: by name, in the order of their catalogue.
        front: ids of the winners.
        compare: of ``compare``; None where nothing is compared.
    """

    metric: str | None = None
    feasible: bool | None = None
    winner: Winner | None = None
    tied: list[str] = field(default_factory=list)
    leader: str | None = None
    finalists: list[FinalistRow] = field(default_factory=list)
    search_added: SearchGain | None = None
    verdict: Verdict | None = None
    baselines: dict[str, BaselineRow] = field(default_factory=dict)
    front: list[str] = field(default_factory=list)
    compare: ComparisonTable | None = None


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Content of ``results.json``: objective -> its result."""

    schema_version: int = SCHEMA_VERSION
    objectives: dict[str, ObjectiveResult]

    @property
    def undecided(self) -> list[str]:
        """Objectives without a winner."""
        return [name for name, result in self.objectives.items() if result.winner is None]


def load_results(folder: RunFolder) -> SweepResult | None:
    """The result of a sweep as it was judged; None before that.

    Raises:
        PreflightError: the file is damaged.
    """
    if not folder.results_path.is_file():
        return None
    document = read_json(folder.results_path)
    try:
        result = from_document(SweepResult, document)
    except ValueError as error:
        raise PreflightError(f"{folder.results_path}: must be a whole result: {error}") from error
    return replace(result, objectives={name: _completed(each) for name, each in result.objectives.items()})


def _completed(result: ObjectiveResult) -> ObjectiveResult:
    """A result of an earlier version with the keys that were added since."""
    winner = result.winner
    if winner is None or winner.deviations is not None:
        return result
    deviations: dict[str, str] = {}
    if winner.config.get("second") == "oracle" or winner.config.get("gain_formula") == "released_code":
        from selmix.config import FinetuneConfig  # torch, for the few results that deviate

        deviations = FinetuneConfig(**winner.config).deviations()
    return replace(result, winner=replace(winner, row=winner.row or winner.trial_id, deviations=deviations))


def baseline_row(record: TrialRecord) -> BaselineRow:
    """A baseline's record as the readers show it."""
    return BaselineRow(
        record.select, record.labels, record.cost_s, record.reference, record.score, record.state, record.error,
        record.seeds, record.note, record.mlflow_run_id,
    )  # fmt: skip


def row_of(record: TrialRecord, base_labels: Sequence[str]) -> Row:
    """A record as a row of the table.

    Args:
        record: of a trial, replicate or baseline.
        base_labels: labelled splits that made the base model.
    """
    rung: Rung = "finetune"
    approach, labels, seeds = SELMIX, [*base_labels, "feedback", "select"], [record.seed]
    if record.kind == "baseline":
        approach, labels, seeds = record.name, record.labels, record.seeds
        rung = record.rung or _rung_of(record.name)
    return Row(
        record.trial_id, record.objective, rung, approach, labels, record.cost_s, record.correction, seeds,
        record.feasible, record.state, record.score,
    )  # fmt: skip


def _rung_of(baseline: str) -> Rung:
    """Rung of a baseline whose record an earlier version wrote."""
    from selmix.baselines import BASELINES

    return BASELINES[baseline].rung if baseline in BASELINES else "head"


def base_labels(base: BaseFacts | None) -> list[str]:
    """Labelled splits that made the base model; what made a user's checkpoint is not known."""
    return ["train"] if base is None or base.checkpoint is None else ["checkpoint"]
