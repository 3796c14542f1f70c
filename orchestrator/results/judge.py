"""Result of a sweep from its records: winner, ties, verdict.

Trials are ranked by score and compared by paired intervals over their replicates on fresh seeds, which took no part in
the search: the best of many trials is biased upwards on its own seed. The winner is decided once and stored; every
reader takes it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from orchestrator.records.folder import RunFolder
from orchestrator.records.screen import ScreenRecord
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.candidates import (
    Candidate,
    baseline_candidate,
    baseline_candidates,
    in_order,
    of_more_labels,
    opponents_of,
    selmix_candidate,
)
from orchestrator.results.compare import ArmComparison
from orchestrator.results.finalists import leader_and_winner
from orchestrator.results.predictions import StoredPredictions
from orchestrator.results.replicate_means import mean_score, mean_select
from orchestrator.results.rows import (
    SELMIX,
    Bound,
    Choice,
    Choices,
    ChosenBy,
    FinalistRow,
    MoreLabels,
    ObjectiveResult,
    Outcome,
    ReplicateMeans,
    RungStep,
    ScreenSummary,
    SearchGain,
    SweepResult,
    Verdict,
    Winner,
    base_labels,
    baseline_row,
    rung_of,
)
from orchestrator.results.rungs import choose_across_rungs, rank_correlation
from orchestrator.results.shipped import Shipped, shipped_file
from selmix.metric_keys import ends_of
from selmix.rungs import RUNGS, Rung

if TYPE_CHECKING:
    from orchestrator.spec.schema import SweepSpec
    from selmix.metrics import MetricContext, Predictions


def decided(folder: RunFolder, spec: SweepSpec) -> Choices:
    """Winners of a sweep: those that were stored, else decided and stored here."""
    return _decided(folder, spec, lambda objective: Judge(folder, spec, objective))


def judged(folder: RunFolder, spec: SweepSpec, rungs: Sequence[Rung] = RUNGS) -> SweepResult:
    """Result of a sweep whose runs and baselines are done.

    Args:
        folder: records of the sweep.
        spec: specification of the sweep.
        rungs: that have been climbed; without ``finetune`` among them, and in ``spec``, no trial is looked at.
    """
    judges, reached = _judges(folder, spec, rungs)
    return SweepResult(
        objectives={name: judge.result(choice, reached) for name, (judge, choice) in judges.items()}
    )


def climbed(
    folder: RunFolder, spec: SweepSpec, rungs: Sequence[Rung]
) -> dict[str, tuple[str, list[RungStep]]]:
    """Metric of each objective, and what each rung added to it: the part of :func:`judged` that a rung ends with."""
    judges, reached = _judges(folder, spec, rungs)
    return {
        name: (judge.rule.metric, judge.climb(judge.candidates(choice, reached)))
        for name, (judge, choice) in judges.items()
    }


def _judges(
    folder: RunFolder, spec: SweepSpec, rungs: Sequence[Rung]
) -> tuple[dict[str, tuple[Judge, Choice | None]], list[Rung]]:
    """Judge and choice of each objective, and the sweep's rungs among ``rungs``."""
    reached = [rung for rung in spec.rungs if rung in rungs]
    judges = {name: Judge(folder, spec, name) for name in spec.objectives}
    # Before the search there is nothing to choose, and no choice may be stored that a later rung would be bound to.
    searched = "finetune" in reached
    choices = (
        _decided(folder, spec, judges.__getitem__).objectives if searched else dict.fromkeys(spec.objectives)
    )
    return {name: (judge, choices[name]) for name, judge in judges.items()}, reached


def _decided(folder: RunFolder, spec: SweepSpec, judge_of: Callable[[str], Judge]) -> Choices:
    # Stored before the baselines are fitted, which take the winner's settings: a resume must not change its mind.
    choices = folder.load(folder.choices_path, Choices)
    if choices is None:
        choices = Choices(objectives={name: judge_of(name).choice() for name in spec.objectives})
        folder.save(folder.choices_path, choices)
    return choices


class Judge:
    """Decides one objective of a sweep from the records and predictions in its folder.

    Each file of predictions is read once, however many comparisons it enters: a judge is for records that are done.

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
        self.predictions = StoredPredictions(folder)
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
            ours = self.predictions.over(finals[leader])
            theirs = {name: self.predictions.over(finals[name]) for name in others}
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
        return [
            Bound.of(c.key, c.at_least, c.at_most, c.class_name)
            for c in self.rule.constraints
            if "search" in c.where
        ]

    def meets_bounds(self, runs: Sequence[TrialRecord]) -> bool:
        """True if the means over these runs meet the constraints of the search."""
        values = {key: figure.value for key, figure in mean_select(runs).items()}
        return self.rule.violation(values) == 0.0

    def candidates(self, choice: Choice | None, rungs: Sequence[Rung] = RUNGS) -> list[Candidate]:
        """Rows of some rungs that may win or oppose, in the order of the table; those that break a bound cannot."""
        rows = []
        if choice is not None:
            trial, runs = self.trials[choice.winner], self.finals()[choice.winner]
            rows.append(selmix_candidate(trial, runs, self.base_labels))
        steps = rows[0].steps if rows else 0
        baselines = baseline_candidates(self.folder.load_baselines(self.objective), steps)
        # What no pin could keep is reported, and not recommended.
        return [
            *rows,
            *(
                each
                for each in baselines
                if each.rung in rungs and self.why_not_shipped(each.records[0]) is None
            ),
        ]

    def why_not_shipped(self, record: TrialRecord) -> str | None:
        """Reason why no single file is the model of a row, so that it cannot be pinned; None where one is.

        Args:
            record: of a finished run.
        """
        models, runs = len(self.predictions.of(record.trial_id)), max(1, len(record.seeds))
        if models <= runs:
            return None
        return f"a pin holds one model, and this row is {models} files that are used together"

    def row_of(self, record: TrialRecord, choice: Choice | None) -> Candidate:
        """The row of any finished run, also of one that may not win.

        Args:
            record: a baseline; a trial, which stands for its replicates where it has them; or a replicate.
            choice: of the objective.
        """
        if record.kind == "baseline":
            steps = 0 if choice is None else int(self.trials[choice.winner].config["steps"])
            order = [each.name for each in in_order(self.folder.load_baselines(self.objective))]
            return baseline_candidate(record, order.index(record.name), steps)
        return selmix_candidate(record, self.finals().get(record.trial_id) or [record], self.base_labels)

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> Figure:
        """Paired difference ours - theirs on select with its interval, oriented so that higher is better."""
        return self.paired(self.predictions.over(ours), self.predictions.over(theirs))

    def paired(self, ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> Figure:
        """Paired difference ours - theirs on whichever split, with its interval; higher is better."""
        from selmix.statistics.comparison import paired_difference

        return Figure(**asdict(paired_difference(self.rule.metric, ours, theirs, self.context)))

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, Outcome]:
        """Outcome of each of several against the reference, corrected for their number."""
        from selmix.statistics.comparison import outcomes_against

        predictions = {name: self.predictions.over(runs) for name, runs in others.items()}
        return outcomes_against(self.rule.metric, predictions, self.predictions.over(reference), self.context)

    def climb(self, candidates: Sequence[Candidate]) -> list[RungStep]:
        """List what each rung added over those below it, from the cheapest on.

        Args:
            candidates: rows that may win.
        """
        from selmix.metrics import metric_named

        metric, bounded = metric_named(self.rule.metric, self.rule.definitions), bool(self.bounds)
        by_row, spent_s = {each.row: each for each in candidates}, self._spent_s()
        low, high = ends_of(self.rule.metric)
        steps: list[RungStep] = []
        below: Candidate | None = None
        for rung in dict.fromkeys(each.rung for each in sorted(candidates, key=lambda each: each.cheapness)):
            reached = [each for each in candidates if RUNGS.index(each.rung) <= RUNGS.index(rung)]
            wins, choices = choose_across_rungs(reached, self.margin, bounded)
            best = by_row[choices[-1].best]
            added = None if below is None else self.difference(best.records, below.records)
            end, value = low if metric.minimise else high, mean_select(wins.records)[self.rule.metric].value
            room = abs(end - value) if math.isfinite(end) else None
            over = None if below is None else below.row
            out_of_fold = best.cross_fitted if choices[-1].chosen_by == "cross_fitted" else None
            steps.append(RungStep(
                rung, best.row, best.name, best.score, spent_s[rung], over, added, wins.row, room,
                None if out_of_fold is None else out_of_fold.score,
            ))  # fmt: skip
            below = wins
        return steps

    def screen(self) -> ScreenSummary | None:
        """The screen of the objective, beside the full runs of what it promoted; None without one."""
        record = self.folder.load(self.folder.screen_path(self.objective), ScreenRecord)
        if record is None:
            return None
        trials, pairs = {}, []
        finished = [t for t in self.trials.values() if t.state == "FINISHED" and t.score is not None]
        for each in record.promoted:
            trial = next((t for t in finished if t.point == each.point), None)
            if trial is not None and trial.score is not None:
                trials[each.id] = trial.trial_id
                pairs.append((each.score if each.cross_fitted is None else each.cross_fitted, trial.score))
        return ScreenSummary(
            record.num_configs, [each.id for each in record.promoted], record.choice, record.cost_s, trials,
            rank_correlation(pairs), record.improved,
        )  # fmt: skip

    def _spent_s(self) -> dict[Rung, float]:
        """Seconds of work of everything that each rung ran."""
        spent: dict[Rung, float] = dict.fromkeys(RUNGS, 0.0)
        for record in self.folder.load_baselines(self.objective):
            spent[record.rung or rung_of(record.name)] += record.cost_s
        runs = [*self.trials.values(), *(run for each in self.replicates.values() for run in each)]
        spent["finetune"] += sum(run.cost_s + run.lost_s for run in runs)
        return spent

    def result(self, choice: Choice | None, rungs: Sequence[Rung] = RUNGS) -> ObjectiveResult:
        """Result of this objective.

        Args:
            choice: of the search, made before; None where no trial can win, or none was run.
            rungs: that have been climbed.
        """
        baselines = in_order(self.folder.load_baselines(self.objective))
        rows = {b.name: baseline_row(b) for b in baselines}
        feasible = any(t.feasible for t in self.trials.values()) if "finetune" in rungs else None
        finals, candidates = self.finals(), self.candidates(choice, rungs)
        if not candidates:
            return ObjectiveResult(self.rule.metric, feasible, baselines=rows, bounds=self.bounds)
        best, within = choose_across_rungs(candidates, self.margin, bool(self.bounds))
        (chosen_by,) = (each.chosen_by for each in within if each.rung == best.rung)
        verdict = self.verdict(best, candidates)
        compare, selmix, gain = None, None, None
        if choice is not None:
            # SelMix is the first of the candidates.
            selmix = verdict if best is candidates[0] else self.verdict(candidates[0], candidates)
            gain = self._search_gain(choice.winner, finals)
        if self.spec.compare and choice is not None:
            (parameter,) = self.spec.compare
            compare = ArmComparison(self, self.spec.arms, self.trials, finals).table(parameter)
        return ObjectiveResult(
            metric=self.rule.metric,
            feasible=feasible,
            winner=self.shipped_row(best, choice, chosen_by),
            tied=[] if choice is None else choice.tied,
            leader=None if choice is None else choice.leader,
            finalists=[self._finalist(name, finals[name]) for name in finals if finals[name]],
            search_added=gain,
            verdict=verdict,
            baselines=rows,
            front=[best.row],
            compare=compare,
            selmix=selmix,
            bounds=self.bounds,
            rungs=within,
            more_labels=self.more_labels(best, candidates) if verdict is None else None,
            climb=self.climb(candidates),
            screen=self.screen(),
        )

    def shipped(self, candidate: Candidate) -> Shipped:
        """The file of a row that ships, see :func:`orchestrator.results.shipped.shipped_file`."""
        return shipped_file(candidate.records, self.predictions, self.rule, self.context)

    def shipped_row(self, row: Candidate, choice: Choice | None, chosen_by: ChosenBy | None = None) -> Winner:
        """A row with the file that ships of it, as of the winner.

        Args:
            row: any.
            choice: of the objective.
            chosen_by: score that chose it; None of a row that did not win.
        """
        from selmix.baselines import BASELINES
        from selmix.config import FinetuneConfig
        from selmix.statistics.intervals import all_intervals
        from selmix.weights import load_weights, state_digest

        ships = self.shipped(row)
        record, is_selmix = ships.record, row.name == SELMIX
        path = self.folder.weights_files(record.trial_id)[ships.file]
        # The settings of fine-tuned rows are those of the best SelMix trial, with uniform pairs or a correction.
        selmix = None if choice is None else self.trials[choice.winner]
        if is_selmix:
            selmix = self.trials[record.replicate_of or record.trial_id]
        # The best of a screen has settings of its own.
        config = dict(record.config) if row.name in BASELINES and BASELINES[row.name].of_screen else {}
        if selmix is not None and row.rung == "finetune":
            config = dict(selmix.config)
        if row.name in BASELINES and BASELINES[row.name].by_policy_alone:
            config["policy"] = "uniform"
        seeds = [run.seed for run in row.records] if is_selmix else record.seeds
        return Winner(
            trial_id=record.trial_id, seed=seeds[ships.file] if not is_selmix and seeds else record.seed,
            round=record.round if is_selmix else None, steps=record.steps if is_selmix else None,
            checkpoint_digest=state_digest(load_weights(path)), config=config,
            is_default=is_selmix and selmix is not None and selmix.is_default, score=ships.score,
            select={
                key: Figure(**asdict(each)) for key, each in all_intervals(ships.predictions, self.context).items()
            },
            cost_s=row.cost_s, labels=list(row.labels),
            replicates=ReplicateMeans(seeds, row.score, mean_select(row.records)), row=row.row, rung=row.rung,
            approach=row.name, deviations=FinetuneConfig(**config).deviations() if config else {},
            replicate_of=record.replicate_of, file=ships.file, chosen_by=chosen_by,
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
        ours = self.predictions.over(row.records)
        theirs = {each.name: self.predictions.over(each.records) for each in opponents}
        against = opponents[0]
        return replace(
            self.judged(ours, theirs, against.name), optimistic=True,
            against_is_cheaper=against.effort < row.effort, row=row.row,
            more_labels=self.more_labels(row, candidates),
        )  # fmt: skip

    def more_labels(self, row: Candidate, candidates: Sequence[Candidate]) -> MoreLabels | None:
        """Rows that used more labels than this one, and the best of them beside it on select; None without any.

        Args:
            row: that is judged.
            candidates: all rows that may win.
        """
        beyond = of_more_labels(row, candidates)
        if not beyond:
            return None
        gap = self.difference(row.records, beyond[0].records)
        return MoreLabels([each.name for each in beyond], gap, beyond[0].score > row.score)

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
