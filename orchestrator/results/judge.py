"""Result of a sweep from its records: finalists, winner, ties, verdict.

Trials are ranked by score and compared by paired intervals over their replicates on fresh seeds, which took no part in
the search: the best of many trials is biased upwards on its own seed. The winner is decided once and stored; every
reader takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.compare import ArmComparison
from orchestrator.results.replicate_means import mean_score, mean_select, score_of
from orchestrator.results.rows import (
    RUNGS,
    SELMIX,
    Bound,
    Choice,
    Choices,
    FinalistRow,
    ObjectiveResult,
    Outcome,
    ReplicateMeans,
    Rung,
    SearchGain,
    SweepResult,
    Verdict,
    Winner,
    base_labels,
    baseline_row,
    rung_of,
)

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec
    from selmix.metrics import MetricContext, Predictions

CHEAPER = 0.8
"""Share of the winner's seconds below which a baseline is called cheaper."""


def finalists(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Trials to run again on fresh seeds: the defaults and the ``count`` best by score, in order of number.

    Failed and infeasible trials are excluded. Of several trials with the same acting settings the first one stands.
    """
    eligible = [t for t in trials if t.kind == "trial" and t.state == "FINISHED" and t.feasible]
    # By number, so that trial 0, the defaults, stands for every trial that repeats it.
    first_of: dict[str, TrialRecord] = {}
    for trial in sorted(eligible, key=lambda t: t.number):
        first_of.setdefault(trial.config_hash, trial)
    # Ties by number: the choice must not depend on the order in which trials ended.
    ranked = sorted(first_of.values(), key=lambda t: (-score_of(t), t.number))
    chosen = ranked[:count] + [t for t in ranked[count:] if t.number == 0]
    return sorted(chosen, key=lambda t: t.number)


def leader_and_winner(
    finals: Mapping[str, Sequence[TrialRecord]],
    trials: Mapping[str, TrialRecord],
    tied_with: Callable[[str, list[str]], list[str]],
    margin: float,
) -> Choice | None:
    """Choose leader and winner of the finalists; None where nothing can win.

    The leader has the highest mean score over fresh seeds. The winner is the cheapest, by training steps and then by
    number, of those whose mean score lies within the margin of the leader's: trial 0, the defaults, wins over a
    searched trial of as many steps that is not clearly ahead, since on few held-out samples a search easily does worse.

    Args:
        finals: id of a finalist -> its finished replicates; a finalist without them cannot win.
        trials: id of a finalist -> its record.
        tied_with: (leader, other finalists) -> those that are not separated from the leader.
        margin: difference of scores that does not matter.
    """
    able = {name: mean_score(replicates) for name, replicates in finals.items() if replicates}
    if not able:
        return None
    # Ties by number, so that the result depends on the records alone.
    leader = min(able, key=lambda name: (-able[name], trials[name].number))
    tied = [leader, *tied_with(leader, [name for name in able if name != leader])]
    near = [name for name in able if able[name] >= able[leader] - margin]
    winner = min(near, key=lambda name: (trials[name].config["steps"], trials[name].number))
    return Choice(leader, tied, winner)


@dataclass(frozen=True)
class Candidate:
    """A row that may win or oppose: the best SelMix row, or a baseline.

    Attributes:
        row: id of its record in the table.
        name: name of the baseline, or ``selmix``; its approach.
        rung: part of the model that it trains.
        steps: training steps of one run.
        number: place among rows of the same rung and steps.
        labels: labelled splits that it has used.
        score: mean score over its models.
        cost_s: seconds of one run.
        records: of its models: the replicates of SelMix, or the baseline alone.
    """

    row: str
    name: str
    rung: Rung
    steps: int
    number: int
    labels: tuple[str, ...]
    score: float
    cost_s: float
    records: Sequence[TrialRecord]

    @property
    def cheapness(self) -> tuple[int, int, int]:
        """Order from cheap to expensive."""
        return RUNGS.index(self.rung), self.steps, self.number

    def opposes(self, row: Candidate) -> bool:
        """True if the verdict on ``row`` counts this candidate as an opponent.

        It is another approach with no more labels. One that contains the row, or differs from it in the pair policy
        alone, is shown and does not vote.
        """
        from selmix.baselines import BASELINES

        if self.name == row.name or not set(self.labels) <= set(row.labels):
            return False
        if row.name == SELMIX:
            baseline = BASELINES.get(self.name)
            return baseline is None or not (baseline.contains_winner or baseline.by_policy_alone)
        # The other way round: SelMix differs from uniform pairs in the policy alone.
        return not (self.name == SELMIX and row.name in BASELINES and BASELINES[row.name].by_policy_alone)


def opponents_of(row: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Opponents of a row, the best by score first; at equal scores the cheaper one is the stronger opponent."""
    able = [each for each in candidates if each.opposes(row)]
    return sorted(able, key=lambda each: (-each.score, *each.cheapness))


def decided(folder: RunFolder, spec: SweepSpec) -> Choices:
    """Winners of a sweep: those that were stored, else decided and stored here."""
    # Stored before the baselines are fitted, which take the winner's settings: a resume must not change its mind.
    choices = folder.load(folder.choices_path, Choices)
    if choices is None:
        choices = Choices(objectives={name: Judge(folder, spec, name).choice() for name in spec.objectives})
        folder.save(folder.choices_path, choices)
    return choices


def judged(folder: RunFolder, spec: SweepSpec) -> SweepResult:
    """Result of a sweep whose runs and baselines are done."""
    choices = decided(folder, spec).objectives
    return SweepResult(
        objectives={name: Judge(folder, spec, name).result(choices[name]) for name in spec.objectives}
    )


@dataclass(frozen=True)
class Shipped:
    """The model of a row that ships.

    Attributes:
        record: its record.
        file: its number among the models of that record.
        score: its score on select, the highest of those of the row.
        predictions: on select.
    """

    record: TrialRecord
    file: int
    score: float
    predictions: Predictions


class Judge:
    """Decides one objective of a sweep from the records and predictions in its folder.

    Args:
        folder: records of the sweep.
        spec: specification of the sweep.
        objective: one of its objectives.
    """

    def __init__(self, folder: RunFolder, spec: SweepSpec, objective: str) -> None:
        import torch

        from orchestrator.build.selection import selection_rule
        from selmix.metrics import MetricContext

        self.folder, self.spec, self.objective = folder, spec, objective
        state = folder.load_state()
        # An error of ours and not of the user: the driver prepares both before the first run.
        if state.data is None or state.base is None:
            raise AssertionError("a sweep is judged after its data and base model were prepared")
        self.base_labels = base_labels(state.base)
        self.rule = selection_rule(spec, objective, state.data.class_names)
        self.context: MetricContext = MetricContext(
            torch.tensor(state.data.train_counts), self.rule.definitions, len(state.data.group_names)
        )
        records = [r for r in folder.load_trials() if r.objective == objective]
        self.trials = {r.trial_id: r for r in records if r.kind == "trial"}
        self.replicates: dict[str, list[TrialRecord]] = {}
        for record in records:
            if record.replicate_of is not None:
                self.replicates.setdefault(record.replicate_of, []).append(record)

    def finals(self) -> dict[str, list[TrialRecord]]:
        """Replicates of each finalist; empty where one of them failed, since it cannot win then."""
        complete = {}
        for trial_id, replicates in self.replicates.items():
            # A mean over fewer seeds would be compared with means over more of them.
            all_there = len(replicates) == self.spec.selection.replicates
            all_finished = all_there and all(r.state == "FINISHED" for r in replicates)
            complete[trial_id] = replicates if all_finished else []
        return complete

    def choice(self) -> Choice | None:
        """Decide the winner; None where nothing can win."""
        from selmix.statistics.comparison import tied_with_leader

        finals = {name: runs for name, runs in self.finals().items() if not runs or self.meets_bounds(runs)}

        def tied_with(leader: str, others: list[str]) -> list[str]:
            ours = self.predictions_over(finals[leader])
            theirs = {name: self.predictions_over(finals[name]) for name in others}
            return tied_with_leader(self.rule.metric, ours, theirs, self.context)

        return leader_and_winner(finals, self.trials, tied_with, self.margin)

    @property
    def margin(self) -> float:
        """Difference of the metric that does not matter."""
        from selmix.statistics.verdict import default_margin

        given = self.spec.selection.margin
        if given is not None:
            return given
        return default_margin(self.rule.metric, len(self.context.train_counts), self.rule.definitions)

    @property
    def bounds(self) -> list[Bound]:
        """Bounds that decide who may win."""
        return [Bound(c.key, c.at_least, c.at_most) for c in self.rule.constraints if "search" in c.where]

    def meets_bounds(self, runs: Sequence[TrialRecord]) -> bool:
        """True if the means over these runs meet the constraints of the search."""
        values = {key: figure.value for key, figure in mean_select(runs).items()}
        return self.rule.violation(values) == 0.0

    def candidates(self, choice: Choice | None) -> list[Candidate]:
        """Rows that may win or oppose, in the order of the table; those that break a bound cannot."""
        rows = []
        if choice is not None:
            trial, runs = self.trials[choice.winner], self.finals()[choice.winner]
            rows.append(Candidate(
                trial.trial_id, SELMIX, "finetune", int(trial.config["steps"]), trial.number,
                (*self.base_labels, "feedback", "select"), mean_score(runs), trial.cost_s, runs,
            ))  # fmt: skip
        for number, record in enumerate(in_order(self.folder.load_baselines(self.objective))):
            if record.state != "FINISHED" or record.reference or not record.feasible:
                continue
            rung = record.rung or rung_of(record.name)
            # One that fine-tunes does so for as many steps as the winner, whose settings it has.
            steps = rows[0].steps if rows and rung == "finetune" else 0
            rows.append(Candidate(
                record.trial_id, record.name, rung, steps, 1000 + number, tuple(record.labels), score_of(record),
                baseline_row(record).cost_per_run_s, [record],
            ))  # fmt: skip
        return rows

    def predictions_over(self, records: Sequence[TrialRecord]) -> list[Predictions]:
        """Predictions on select of every model of these records, in their order: pairs are formed by position."""
        return [p for record in records for p in load_predictions(self.folder, record.trial_id)]

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> Figure:
        """Paired difference ours - theirs on select with its interval, oriented so that higher is better."""
        from selmix.statistics.comparison import paired_difference

        estimate = paired_difference(
            self.rule.metric, self.predictions_over(ours), self.predictions_over(theirs), self.context
        )
        return Figure(**asdict(estimate))

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, Outcome]:
        """Outcome of each of several against the reference, corrected for their number."""
        from selmix.statistics.comparison import outcomes_against

        predictions = {name: self.predictions_over(runs) for name, runs in others.items()}
        return outcomes_against(self.rule.metric, predictions, self.predictions_over(reference), self.context)

    def result(self, choice: Choice | None) -> ObjectiveResult:
        """Result of this objective, for a choice that was made before."""
        baselines = in_order(self.folder.load_baselines(self.objective))
        rows = {b.name: baseline_row(b) for b in baselines}
        feasible = any(t.feasible for t in self.trials.values())
        if choice is None:
            return ObjectiveResult(self.rule.metric, feasible, baselines=rows, bounds=self.bounds)
        finals, candidates = self.finals(), self.candidates(choice)
        leading = max(candidate.score for candidate in candidates)
        # Of the rows that the margin does not tell from the best by score, the cheapest ships.
        best = min(
            (each for each in candidates if each.score >= leading - self.margin),
            key=lambda each: each.cheapness,
        )
        verdict = self.verdict(best, candidates)
        compare = None
        if self.spec.compare:
            (parameter,) = self.spec.compare
            compare = ArmComparison(self, self.spec.arms, self.trials, finals).table(parameter)
        return ObjectiveResult(
            metric=self.rule.metric,
            feasible=feasible,
            winner=self._winner(best, self.trials[choice.winner]),
            tied=choice.tied,
            leader=choice.leader,
            finalists=[self._finalist(name, finals[name]) for name in finals if finals[name]],
            search_added=self._search_gain(choice.winner, finals),
            verdict=verdict,
            baselines=rows,
            front=[best.row],
            compare=compare,
            # SelMix is the first of the candidates.
            selmix=verdict if best is candidates[0] else self.verdict(candidates[0], candidates),
            bounds=self.bounds,
        )

    def shipped(self, candidate: Candidate) -> Shipped:
        """The file of a row that ships: of its models the best by score on select, the first of equal ones."""
        from selmix.statistics.selection import score

        files = [
            (record, index, score(self.rule, predictions, self.context), predictions)
            for record in candidate.records
            for index, predictions in enumerate(load_predictions(self.folder, record.trial_id))
        ]
        record, index, value, predictions = max(files, key=lambda file: file[2])
        return Shipped(record, index, value, predictions)

    def _winner(self, row: Candidate, selmix: TrialRecord) -> Winner:
        from selmix.baselines import BASELINES
        from selmix.config import FinetuneConfig
        from selmix.statistics.intervals import all_intervals
        from selmix.weights import load_weights, state_digest

        ships = self.shipped(row)
        record, is_selmix = ships.record, row.name == SELMIX
        path = self.folder.weights_files(record.trial_id)[ships.file]
        # The settings of fine-tuned rows are those of the best SelMix trial, with uniform pairs or a correction.
        config = dict(selmix.config) if row.rung == "finetune" else {}
        if row.name in BASELINES and BASELINES[row.name].by_policy_alone:
            config["policy"] = "uniform"
        seeds = [run.seed for run in row.records] if is_selmix else record.seeds
        return Winner(
            trial_id=record.trial_id, seed=seeds[ships.file] if not is_selmix and seeds else record.seed,
            round=record.round if is_selmix else None, steps=record.steps if is_selmix else None,
            checkpoint_digest=state_digest(load_weights(path)), config=config,
            is_default=is_selmix and selmix.is_default, score=ships.score,
            select={
                key: Figure(**asdict(each)) for key, each in all_intervals(ships.predictions, self.context).items()
            },
            cost_s=row.cost_s, labels=list(row.labels),
            replicates=ReplicateMeans(seeds, row.score, mean_select(row.records)), row=row.row, rung=row.rung,
            approach=row.name, deviations=FinetuneConfig(**config).deviations() if config else {},
            replicate_of=record.replicate_of, file=ships.file,
        )  # fmt: skip

    def _finalist(self, name: str, replicates: Sequence[TrialRecord]) -> FinalistRow:
        return FinalistRow(
            name, mean_score(replicates), mean_select(replicates), self.trials[name].cost_s,
            sum(r.feasible for r in replicates),
        )  # fmt: skip

    def _search_gain(self, winner: str, finals: Mapping[str, list[TrialRecord]]) -> SearchGain | None:
        """Paired difference of the best searched finalist from the defaults, also where the defaults won."""
        default = next(
            (name for name, trial in self.trials.items() if trial.is_default and finals.get(name)), None
        )
        others = [name for name in finals if finals[name] and name != default]
        if default is None or not others:
            return None
        # Where a searched finalist won it is the one to report, also if another one has a higher mean.
        best = winner if winner != default else max(others, key=lambda name: mean_score(finals[name]))
        gap = self.difference(finals[best], finals[default])
        return SearchGain(best, gap.value, gap.low, gap.high)

    def verdict(self, row: Candidate, candidates: Sequence[Candidate]) -> Verdict | None:
        """Verdict on select on a row against its opponents; None without any.

        Args:
            row: that is judged.
            candidates: all rows that may oppose.
        """
        opponents = opponents_of(row, candidates)
        if not opponents:
            return None
        ours = self.predictions_over(row.records)
        theirs = {each.name: self.predictions_over(each.records) for each in opponents}
        against = opponents[0]
        cheaper = RUNGS.index(against.rung) < RUNGS.index(row.rung) or against.cost_s < CHEAPER * row.cost_s
        return replace(
            self.judged(ours, theirs, against.name), optimistic=True, against_is_cheaper=cheaper, row=row.row
        )

    def judged(
        self,
        ours: Sequence[Predictions],
        theirs: Mapping[str, Sequence[Predictions]],
        against: str,
        split: str = "select",
        level: float = 0.95,
    ) -> Verdict:
        """Verdict on one side against several, on whichever split their predictions are.

        Args:
            ours: predictions of the models of our side.
            theirs: opponent -> predictions of its models.
            against: the opponent that was chosen on select.
            split: name of the split.
            level: of every interval.
        """
        from selmix.statistics.comparison import paired_difference
        from selmix.statistics.intervals import Estimate
        from selmix.statistics.verdict import judge, samples_needed

        def interval(name: str, level: float) -> Estimate:
            return paired_difference(self.rule.metric, ours, theirs[name], self.context, level)

        judgement = judge(interval, tuple(theirs), against, self.margin, level)
        gap, labels = judgement.differences[against], ours[0].labels
        samples = int(labels.bincount(minlength=len(self.context.train_counts)).min())
        needed = None
        if judgement.outcome == "undecided":
            # Of the opponent of select; where that one is told apart, of the best of those that are not.
            apart = judgement.not_told_apart
            doubtful = against if against in apart else apart[0]
            corrected = interval(doubtful, 1.0 - (1.0 - level) / len(theirs))
            needed = samples_needed(judgement.differences[doubtful], samples, self.margin, corrected)
        return Verdict(
            judgement.outcome, against, Figure(**asdict(gap)), split=split, optimistic=False, margin=self.margin,
            within_margin=judgement.within_margin,
            differences={name: Figure(**asdict(each)) for name, each in judgement.differences.items()},
            not_told_apart=list(judgement.not_told_apart), worse_than=list(judgement.worse_than), samples=samples,
            samples_needed=needed,
            samples_to_tie=self._samples_to_tie(samples),
        )  # fmt: skip

    def _samples_to_tie(self, samples: int) -> int | None:
        """Samples per class that a tie takes, where a minimum is judged on fewer; None elsewhere."""
        from selmix.statistics.verdict import MANY_SAMPLES, is_minimum, samples_to_tie

        if samples > MANY_SAMPLES or not is_minimum(self.rule.metric):
            return None
        needed = samples_to_tie(self.margin)
        return needed if needed > samples else None


def in_order(baselines: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Sort baselines in the order of their catalogue, cheapest first."""
    from selmix.baselines import BASELINES

    # A baseline of another version of the catalogue goes last.
    order = list(BASELINES)
    return sorted(baselines, key=lambda b: order.index(b.name) if b.name in order else len(order))


def load_predictions(folder: RunFolder, trial_id: str) -> list[Predictions]:
    """Load the predictions on select of a trial, replicate or baseline, one entry per model."""
    import torch

    from selmix.metrics import Predictions

    return [
        Predictions(**{key: torch.from_numpy(array) for key, array in arrays.items()})
        for arrays in folder.load_predictions(trial_id)
    ]


def replicate_weights(folder: RunFolder, replicates: Sequence[TrialRecord]) -> list[Path]:
    """Paths of the weights of replicates, in their order."""
    return [folder.weights_path(record.trial_id) for record in replicates]
