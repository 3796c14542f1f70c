"""Result of a sweep as typed values: everything that readers, pins and MLflow take from it.

Read and written without torch: ``selmix show`` must answer in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from orchestrator.documents import SCHEMA_VERSION, Document, from_document
from orchestrator.errors import PreflightError
from orchestrator.files import read_json
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import (
    BASELINE,
    BaseFacts,
    CrossFittedScore,
    Figure,
    Metrics,
    Settings,
    TrialRecord,
    TrialState,
    baseline_id,
)
from orchestrator.table import Unit, difference, short
from selmix.metric_keys import class_rate_key
from selmix.rungs import Rung
from selmix.statistics.bounds import missed_by

Outcome = Literal["better", "tied", "worse"]
VerdictOutcome = Literal["better", "tied", "worse", "undecided"]
ChosenBy = Literal["cross_fitted", "select"]
"""Score that decides within a rung: over feedback + select, each fold judged by a fit on the others; on select."""

_SAID = {
    "better": "better than", "tied": "tied with", "worse": "worse than", "undecided": "cannot be told from",
}  # fmt: skip


def said(outcome: VerdictOutcome) -> str:
    """Words that stand between a row and its opponent."""
    return _SAID[outcome]


class Judged(Protocol):
    """The part of a verdict, of a result or of a pin, that says what it rests on."""

    @property
    def outcome(self) -> VerdictOutcome:
        """Outcome of all comparisons together."""

    @property
    def against(self) -> str:
        """Opponent that was chosen on select."""

    @property
    def difference(self) -> Figure:
        """Difference from that one."""

    @property
    def differences(self) -> dict[str, Figure]:
        """Differences by opponent; empty in verdicts of earlier versions."""

    @property
    def not_told_apart(self) -> list[str]:
        """Opponents that the row is neither better nor worse than."""

    @property
    def worse_than(self) -> list[str]:
        """Opponents that are better."""


def rests_on(verdict: Judged) -> tuple[str, Figure]:
    """Opponent that an outcome rests on, and the difference from it.

    It is the one that was chosen on select, unless that one is beaten where another is not, or is better.
    """
    of = {"worse": verdict.worse_than, "undecided": verdict.not_told_apart}.get(verdict.outcome, [])
    named = verdict.against if verdict.against in of or not of else of[0]
    return named, verdict.differences.get(named, verdict.difference)


def corrected_for(verdict: Judged, gap: Figure) -> str:
    """Words beside an interval without 0 that a verdict, corrected for its comparisons, does not tell apart; or empty.

    Args:
        verdict: with the outcome.
        gap: difference that is shown beside it.
    """
    # Corrected over the rows that may be better, and over pins that are declared together; intervals are plain.
    told = gap.low > 0.0 or gap.high < 0.0
    return (
        " (not after correction for several comparisons)" if verdict.outcome == "undecided" and told else ""
    )


SELMIX = "selmix"
"""Approach of trials and replicates; that of a baseline is its name."""


def approach_name(approach: str) -> str:
    """Name of an approach on a screen."""
    return "SelMix" if approach == SELMIX else approach


def name_of_row(row: str) -> str:
    """Name on a screen of a row by its id: of a baseline, or SelMix with its trial."""
    name = short(row)
    return name.removeprefix(f"{BASELINE}/") if name.startswith(f"{BASELINE}/") else f"SelMix {name}"


@dataclass(frozen=True)
class Row:
    """One model, or one procedure over several seeds, in the table of a sweep.

    Attributes:
        id: id of its record.
        objective: objective that it was made for.
        rung: part of the model that it trains, from the cheapest: logits, head, whole network, all from scratch.
        approach: ``selmix``, or the name of a baseline.
        labels: labelled splits that it has used, those of the base model included.
        cost_s: seconds of work.
        correction: correction of the logits on top of the model; None without one.
        seeds: seeds that it ran on; empty where nothing is random.
        feasible: True if it meets the constraints of the search.
        state: state of its record.
        score: value that ranks it; None while it is unfinished.
        cross_fitted: score over feedback + select, out of fold, which chooses within the rungs ``scores`` and ``head``;
            None of rows that train more than a head.
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
    cross_fitted: CrossFittedScore | None = None


@dataclass(frozen=True)
class BaselineRow:
    """A baseline in a result; see :class:`orchestrator.records.types.TrialRecord` for its fields."""

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
    cross_fitted: CrossFittedScore | None = None

    @property
    def cost_per_run_s(self) -> float:
        """Seconds per run."""
        # A baseline without seeds runs once.
        return self.cost_s / max(1, len(self.seeds))


@dataclass(frozen=True)
class ReplicateMeans:
    """Means over the replicates of a configuration.

    Attributes:
        seeds: fresh seeds that they ran on.
        score: mean score.
        select: mean of each metric on select, with its interval.
    """

    seeds: list[int]
    score: float
    select: Metrics


@dataclass(frozen=True)
class Winner:
    """The winner of an objective: row, settings, seed, round and checkpoint.

    Attributes:
        trial_id: record whose checkpoint ships: of SelMix the best of the fresh seeds, else the baseline. In results of
            an earlier version the trial of the search itself. A seed that meets the bounds goes before others.
        seed: seed of that checkpoint.
        round: its chosen round; None where there are no rounds.
        steps: SGD steps at that round.
        checkpoint_digest: digest of its weights.
        config: flat settings of the trial; {} of a baseline without them.
        is_default: True if these are the settings of an unsearched run.
        score: score of that checkpoint, chosen here as the highest of its seeds that meet the bounds of the search.
        select: metrics of that checkpoint on select, with intervals.
        cost_s: seconds of work of one run.
        labels: labelled splits that it has used.
        replicates: means over fresh seeds; of a deterministic row its own values.
        row: id of its row in the table: the trial of the search, or the baseline.
        rung: rung of that row.
        approach: approach of that row.
        deviations: settings that deviate from the method, for comparison only: name -> meaning.
        replicate_of: trial of the search that ``trial_id`` runs again on a fresh seed; None of other records.
        file: number of the checkpoint among those of its record, from 0.
        chosen_by: score that chose it within its rung; None in results of an earlier version.
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
    replicate_of: str | None = None
    file: int = 0
    chosen_by: ChosenBy | None = None


@dataclass(frozen=True)
class FinalistRow:
    """A configuration that was run again on fresh seeds.

    Attributes:
        trial_id: the trial of the search.
        score: mean score over the fresh seeds.
        select: mean of each metric over them, with its interval.
        cost_s: seconds of work of the trial.
        feasible_seeds: number of fresh seeds on which it met the constraints.
    """

    trial_id: str
    score: float
    select: Metrics
    cost_s: float
    feasible_seeds: int


@dataclass(frozen=True)
class SearchGain:
    """Paired difference of a searched finalist from the defaults.

    Attributes:
        trial_id: the finalist.
        value: difference of the metric, higher is better.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    trial_id: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MoreLabels:
    """Rows that used labels which the judged row did not: finished and feasible, but no opponents of it.

    Attributes:
        rows: their names, the best by score on select first.
        difference: judged row minus the first of them, higher is better.
        is_higher: True if that one is higher: by score on select, by value on test.
        differences: of a verdict on test the judged row minus each of them; empty on select, and in pins of earlier
            versions.
    """

    rows: list[str]
    difference: Figure
    is_higher: bool
    differences: dict[str, Figure] = field(default_factory=dict)


def beyond(more: MoreLabels | None, unit: Unit) -> str:
    """Words behind a verdict on rows of more labels: the best of them where it is higher; empty without any.

    Args:
        more: rows of more labels than the judged one.
        unit: of the metric.
    """
    if more is None:
        return ""
    higher = {name: each for name, each in more.differences.items() if each.value < 0.0}
    if higher:
        # The highest on test need not be the one that was the best on select.
        name = min(higher, key=lambda each: higher[each].value)
        gap = f"{difference(higher[name], unit)}{unit.difference}"
        if len(more.rows) == 1:
            return f"; {approach_name(name)}, of more labels, is higher: {gap}"
        rows = f"{len(higher)} of the {len(more.rows)} rows of more labels"
        return f"; {rows} {'is' if len(higher) == 1 else 'are'} higher, {approach_name(name)} most: {gap}"
    if more.is_higher and not more.differences:
        gap = f"{difference(more.difference, unit)}{unit.difference}"
        # By score a row may be higher whose plain value is not.
        how = "is higher" if more.difference.value < 0.0 else "has the higher score"
        return f"; {approach_name(more.rows[0])}, of more labels, {how}: {gap}"
    if len(more.rows) == 1:
        return f"; the 1 row of more labels, {approach_name(more.rows[0])}, is not higher"
    return f"; none of the {len(more.rows)} rows of more labels is higher"


@dataclass(frozen=True)
class Verdict:
    """A row against its opponents: finished, feasible rows of other approaches with no more labels than its own.

    Attributes:
        outcome: ``worse`` if an opponent is better (Holm over them), ``better`` if it is better than every one,
            ``tied`` if no difference exceeds the margin, else ``undecided``.
        against: the best opponent by score on select.
        difference: row minus ``against``, higher is better.
        split: split that both were evaluated on.
        optimistic: True if both sides were chosen on these samples.
        against_is_cheaper: True if ``against`` comes before it by rung, or takes fewer steps a run.
        margin: difference that does not matter; None in a verdict by the earlier rule, against one opponent and without
            a margin.
        within_margin: True if it is better, by less than the margin.
        differences: opponent -> row minus opponent, each with its interval.
        not_told_apart: opponents that it is neither better nor worse than.
        worse_than: opponents that are better.
        samples: samples of the smallest class that it rests on; None in a verdict by the earlier rule.
        samples_needed: samples per class with which the difference from ``against`` would tell, at this value, or where
            that one is told apart from the first of ``not_told_apart``; None where no number would, or none is needed.
        samples_to_tie: samples per class with which two models without an observed difference would be tied, where
            that is out of reach; None where it is not.
        row: id of the row that is judged; None: the winner's.
        more_labels: rows of more labels, which are no opponents; None where there are none, and in results of an
            earlier version.
    """

    outcome: VerdictOutcome
    against: str
    difference: Figure
    split: str = "select"
    optimistic: bool = True
    against_is_cheaper: bool = False
    margin: float | None = None
    within_margin: bool = False
    differences: dict[str, Figure] = field(default_factory=dict)
    not_told_apart: list[str] = field(default_factory=list)
    worse_than: list[str] = field(default_factory=list)
    samples: int | None = None
    samples_needed: int | None = None
    samples_to_tie: int | None = None
    row: str | None = None
    more_labels: MoreLabels | None = None


@dataclass(frozen=True)
class ArmResult:
    """One value of a comparison, represented by one of its finalists.

    Attributes:
        trial_id: the finalist.
        score: mean score over its fresh seeds.
        select: mean of each metric over them, with its interval.
        difference: paired difference from the reference value; None for the reference itself.
        outcome: outcome of that comparison, corrected for the number of values; None for the reference itself.
    """

    trial_id: str
    score: float
    select: Metrics
    difference: Figure | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """One value of the compared parameter.

    Attributes:
        value: the value.
        tuned: its best finalist, at equal search effort; None where none finished.
        defaults: its trial with the defaults otherwise; None where it did not finish.
    """

    value: object
    tuned: ArmResult | None
    defaults: ArmResult | None


@dataclass(frozen=True)
class ComparisonTable:
    """The values of one parameter against each other.

    Attributes:
        parameter: name of the parameter.
        reference: the first value, which the others are compared with.
        rows: one per value.
    """

    parameter: str
    reference: object
    rows: list[ComparisonRow]


@dataclass(frozen=True)
class Choice:
    """The winner of an objective as it was decided: once, before the baselines were fitted.

    Attributes:
        leader: finalist of the highest mean score.
        tied: the leader, then the finalists whose paired interval against it contains 0.
        winner: one of the tied.
    """

    leader: str
    tied: list[str]
    winner: str


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Content of ``choices.json``: the choice of each objective, None where nothing can win."""

    schema_version: int = SCHEMA_VERSION
    objectives: dict[str, Choice | None]


@dataclass(frozen=True)
class RungChoice:
    """Choice within a rung; with other rungs it is compared on select.

    Attributes:
        rung: the rung.
        chosen_by: score by which its rows are compared with each other.
        rows: ids of the rows that lie within the margin of the best by that score, the cheapest first: of these one may
            win.
        best: id of the best row by that score, which is compared with other rungs.
        leader: id of the row of the highest score on select.
        reason: why the cross-fitted score did not choose; empty where it did, and in rungs that have none.
    """

    rung: Rung
    chosen_by: ChosenBy
    rows: list[str]
    best: str
    leader: str
    reason: str = ""


@dataclass(frozen=True)
class ScreenSummary:
    """A screen in a result; ``screen/OBJECTIVE.parquet`` has its configurations.

    Attributes:
        num_configs: configurations that were screened.
        promoted: their ids, the best first.
        choice: score of the choice over feedback and select, out of fold.
        cost_s: seconds of work.
        trials: promoted id -> the trial of the search that began with it, for those that finished.
        rank_correlation: Spearman's, of the screened scores and those of these trials on the whole network; None of
            fewer than three.
        improved: configurations with a round better than their start; None in results of an earlier version.
    """

    num_configs: int
    promoted: list[str]
    choice: CrossFittedScore
    cost_s: float
    trials: dict[str, str] = field(default_factory=dict)
    rank_correlation: float | None = None
    improved: int | None = None


@dataclass(frozen=True)
class RungStep:
    """Gain of a rung over the rungs below it.

    Attributes:
        rung: the rung.
        best: id of its best row, by the score that compares its rows with each other.
        approach: approach of that row.
        score: its score on select.
        spent_s: seconds of work of everything that the rung ran.
        over: id of the row that would win without this rung and those above it; None at the lowest rung.
        added: best row minus that one on select, paired, higher is better; None at the lowest rung. Optimistic, as both
            were chosen on these samples.
        wins: id of the row that wins with the rungs so far.
        room: distance of that row's value from the best value that the metric can take; None where it has no end.
        cross_fitted: score of the best row over feedback + select, where that one chose it; else None.
    """

    rung: Rung
    best: str
    approach: str
    score: float
    spent_s: float
    over: str | None
    added: Figure | None
    wins: str
    room: float | None
    cross_fitted: float | None = None


@dataclass(frozen=True)
class Bound:
    """A bound that decides who may win; one of the two numbers is set.

    Attributes:
        metric: its key among the metrics of a row.
        at_least: floor.
        at_most: ceiling.
        class_name: of a bound on one class whose name is no part of the key; else empty.
    """

    metric: str
    at_least: float | None
    at_most: float | None
    class_name: str = ""

    @classmethod
    def of(cls, key: str, at_least: float | None, at_most: float | None, name: str) -> Bound:
        """Bound with the name of its class where the key has the class's number only; ``name`` is empty without one."""
        return cls(key, at_least, at_most, "" if key.endswith(f"/{name}") else name)

    @property
    def name(self) -> str:
        """Metric, with the name of its class."""
        return f"{self.metric} ({self.class_name})" if self.class_name else self.metric

    def is_broken(self, value: float) -> bool:
        """True if a value of the metric lies on the wrong side, by more than the rounding of floats."""
        return missed_by(value, self.at_least, self.at_most) > 0.0

    @property
    def shown(self) -> str:
        """The bound as a formula."""
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{self.name} {sign} {bound:g}"


def bounds_of_constraints(constraints: Sequence[Document], class_names: Sequence[str]) -> list[Bound]:
    """Bounds of the search as a resolved sweep file has them, by the keys of their metrics.

    Args:
        constraints: entries of its section.
        class_names: in the order of the labels.
    """
    return [bound_of(each, class_names) for each in constraints if "search" in each["in"]]


def bound_of(constraint: Document, class_names: Sequence[str]) -> Bound:
    """One entry of the section ``constraints``, by the key of its metric."""
    # A sweep of before bounds on single classes has no key for them.
    of_class, key, name = constraint.get("class"), constraint["metric"], ""
    if of_class is not None:
        name = class_names[of_class] if isinstance(of_class, int) else of_class
        key = class_rate_key(key, list(class_names).index(name), name)
    return Bound.of(key, constraint["at_least"], constraint["at_most"], name)


@dataclass(frozen=True)
class ObjectiveResult:
    """Result of one objective.

    Attributes:
        metric: metric that decides it; None while it is undecided.
        feasible: True if a trial meets the constraints; None while it is undecided.
        winner: None while it is undecided, or where nothing can win.
        tied: the leader, then the finalists that are tied with it.
        leader: finalist of the highest mean score.
        finalists: configurations that were run again on fresh seeds.
        search_added: gain of the search over the defaults; None where only one of the two was run.
        verdict: None while it is undecided, or where there is nothing to compare.
        baselines: name -> baseline, in the order of their catalogue.
        front: ids of the winners.
        compare: the ablation that the sweep file requests under ``compare``; None without one.
        selmix: the best SelMix row against every other row of no more labels; None while it is undecided, or where no
            such row can stand.
        bounds: bounds that decide who may win.
        rungs: choice within each rung that has a row which may win; empty while it is undecided, and in results of an
            earlier version.
        more_labels: rows of more labels than a winner that has no opponent; of one with a verdict they stand there.
        climb: what each rung added, from the cheapest on; empty likewise.
        screen: of heads; None without one.
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
    selmix: Verdict | None = None
    bounds: list[Bound] = field(default_factory=list)
    rungs: list[RungChoice] = field(default_factory=list)
    more_labels: MoreLabels | None = None
    climb: list[RungStep] = field(default_factory=list)
    screen: ScreenSummary | None = None


@dataclass(frozen=True)
class RankedRow:
    """A row of the table of a result.

    Attributes:
        approach: of the row.
        id: of its record; of SelMix that of the trial of the search.
        score: that ranks it, of SelMix the mean over its fresh seeds; None of a baseline that failed.
    """

    approach: str
    id: str
    score: float | None


def ranked_rows(objective: str, result: ObjectiveResult) -> list[RankedRow]:
    """Rows of the table of a result in its order: the winner, then the others by score; empty without a winner.

    Args:
        objective: that it is the result of.
        result: of the objective.
    """
    winner = result.winner
    if winner is None:
        return []
    rows = []
    if winner.approach == SELMIX:
        rows.append(RankedRow(SELMIX, winner.row or winner.trial_id, winner.replicates.score))
    elif (final := selmix_row(result)) is not None:
        rows.append(RankedRow(SELMIX, final.trial_id, final.score))
    for name, row in result.baselines.items():
        score = row.score if row.state == "FINISHED" else None
        rows.append(RankedRow(name, baseline_id(objective, name), score))

    def place(row: RankedRow) -> tuple[bool, float]:
        # A score of 0 is one like any other; without one a row goes last.
        return row.approach != winner.approach, float("inf") if row.score is None else -row.score

    return sorted(rows, key=place)


def selmix_row(result: ObjectiveResult) -> FinalistRow | None:
    """SelMix in the table of a result that another approach won; None without a finalist."""
    chosen = None if result.selmix is None else result.selmix.row
    # Without a verdict of its own, because nothing may oppose it, its best finalist stands for it.
    return next((each for each in result.finalists if each.trial_id == chosen), None) or max(
        result.finalists, key=lambda each: each.score, default=None
    )


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Content of ``results.json``: the result of each objective."""

    schema_version: int = SCHEMA_VERSION
    objectives: dict[str, ObjectiveResult]

    @property
    def undecided(self) -> list[str]:
        """Objectives without a winner."""
        return [name for name, result in self.objectives.items() if result.winner is None]


def load_results(folder: RunFolder) -> SweepResult | None:
    """Load the stored result of a sweep; None before it was decided.

    Raises:
        PreflightError: the file is damaged.
    """
    if not folder.results_path.is_file():
        return None
    document = read_json(folder.results_path)
    try:
        result = from_document(SweepResult, document)
    except ValueError as error:
        raise PreflightError(
            f"{folder.results_path}: must be a result as selmix launch writes it: {error}"
        ) from error
    # Results stay readable across versions: keys are only ever added.
    return replace(result, objectives={name: _completed(each) for name, each in result.objectives.items()})


def _completed(result: ObjectiveResult) -> ObjectiveResult:
    """Add the keys that the result of an earlier version lacks."""
    # None marks a version without the key; a result of this version has {} where nothing deviates.
    winner = result.winner
    if winner is None or winner.deviations is not None:
        return result
    # Only these two settings can deviate: of every other result torch, which takes seconds, is not imported.
    deviations: dict[str, str] = {}
    if winner.config.get("second") == "oracle" or winner.config.get("gain_formula") == "released_code":
        from selmix.config import FinetuneConfig

        deviations = FinetuneConfig(**winner.config).deviations()
    return replace(result, winner=replace(winner, row=winner.row or winner.trial_id, deviations=deviations))


def baseline_row(record: TrialRecord) -> BaselineRow:
    """Convert the record of a baseline."""
    return BaselineRow(
        record.select, record.labels, record.cost_s, record.reference, record.score, record.state, record.error,
        record.seeds, record.note, record.mlflow_run_id, record.cross_fitted,
    )  # fmt: skip


def row_of(record: TrialRecord, base_labels: Sequence[str]) -> Row:
    """Convert a record to a row of the table.

    Args:
        record: trial, replicate or baseline.
        base_labels: labelled splits that the base model was trained on.
    """
    # Trials and replicates read feedback for the gain and select to choose a round, whatever their settings.
    rung: Rung = "finetune"
    approach, labels, seeds = SELMIX, [*base_labels, "feedback", "select"], [record.seed]
    if record.kind == "baseline":
        approach, labels, seeds = record.name, record.labels, record.seeds
        rung = record.rung or rung_of(record.name)
    return Row(
        record.trial_id, record.objective, rung, approach, labels, record.cost_s, record.correction, seeds,
        record.feasible, record.state, record.score, record.cross_fitted,
    )  # fmt: skip


def rung_of(baseline: str) -> Rung:
    """Rung of a baseline whose record, by an earlier version, has none."""
    # Imported late: it brings torch, which records of this version do not need.
    from selmix.baselines import BASELINES

    return BASELINES[baseline].rung if baseline in BASELINES else "head"


def base_labels(base: BaseFacts | None) -> list[str]:
    """Labelled splits that the base model was trained on; for a user's checkpoint they are not known."""
    return ["train"] if base is None or base.checkpoint is None else ["checkpoint"]
