"""Result of a sweep from its records: finalists, winner, ties, verdict.

Trials are ranked by score and compared by paired intervals over their replicates on fresh seeds, which took no part in
the search: the best of many trials is biased upwards on its own seed. The winner is decided once and stored; every
reader takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.folder import RunFolder
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.compare import ArmComparison
from orchestrator.results.replicate_means import mean_score, mean_select, score_of
from orchestrator.results.rows import (
    Choice,
    Choices,
    FinalistRow,
    ObjectiveResult,
    Outcome,
    ReplicateMeans,
    SearchGain,
    SweepResult,
    Verdict,
    Winner,
    base_labels,
    baseline_row,
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
) -> Choice | None:
    """Choose leader and winner of the finalists; None where nothing can win.

    Of the leader and all that are tied with it, the winner is trial 0 if it is among them, else the one of fewest
    training steps, then of the highest mean score: on few held-out samples a search easily does worse than good
    defaults.

    Args:
        finals: id of a finalist -> its finished replicates; a finalist without them cannot win.
        trials: id of a finalist -> its record.
        tied_with: (leader, other finalists) -> those that are tied with the leader.
    """
    able = {name: mean_score(replicates) for name, replicates in finals.items() if replicates}
    if not able:
        return None
    # Ties by number again, so that the result depends on the records alone.
    leader = min(able, key=lambda name: (-able[name], trials[name].number))
    tied = [leader, *tied_with(leader, [name for name in able if name != leader])]
    default = [name for name in tied if trials[name].is_default]
    cheapest = min(tied, key=lambda name: (trials[name].config["steps"], -able[name], trials[name].number))
    return Choice(leader, tied, default[0] if default else cheapest)


def opponent(baselines: Sequence[TrialRecord]) -> TrialRecord | None:
    """Best baseline by score on select that may oppose the winner; None where there is none.

    References, which have another cost or other information, and baselines built on the winner are excluded.
    """
    from selmix.baselines import BASELINES

    able = [
        b
        for b in baselines
        if b.state == "FINISHED" and not b.reference and not BASELINES[b.name].contains_winner
    ]
    # At equal scores the cheaper baseline is the stronger opponent.
    return min(able, key=lambda b: (-score_of(b), b.cost_s)) if able else None


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

        finals = self.finals()

        def tied_with(leader: str, others: list[str]) -> list[str]:
            ours = self.predictions_over(finals[leader])
            theirs = {name: self.predictions_over(finals[name]) for name in others}
            return tied_with_leader(self.rule.metric, ours, theirs, self.context)

        return leader_and_winner(finals, self.trials, tied_with)

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
            return ObjectiveResult(self.rule.metric, feasible, baselines=rows)
        finals = self.finals()
        winner, replicates = self.trials[choice.winner], finals[choice.winner]
        best = opponent(baselines)
        compare = None
        if self.spec.compare:
            (parameter,) = self.spec.compare
            compare = ArmComparison(self, self.spec.arms, self.trials, finals).table(parameter)
        return ObjectiveResult(
            metric=self.rule.metric,
            feasible=feasible,
            winner=self._winner(winner, replicates),
            tied=choice.tied,
            leader=choice.leader,
            finalists=[self._finalist(name, finals[name]) for name in finals if finals[name]],
            search_added=self._search_gain(choice.winner, finals),
            verdict=None if best is None else self.verdict(winner, replicates, best),
            baselines=rows,
            front=[choice.winner],
            compare=compare,
        )

    def _winner(self, trial: TrialRecord, replicates: Sequence[TrialRecord]) -> Winner:
        from selmix.config import FinetuneConfig

        return Winner(
            trial_id=trial.trial_id, seed=trial.seed, round=trial.round, steps=trial.steps,
            checkpoint_digest=trial.weights_digest, config=trial.config, is_default=trial.is_default,
            score=trial.score, select=trial.select, cost_s=trial.cost_s,
            # Feedback drives the gain, and select chooses the round.
            labels=[*self.base_labels, "feedback", "select"],
            replicates=ReplicateMeans(
                [r.seed for r in replicates], mean_score(replicates), mean_select(replicates)
            ),
            row=trial.trial_id, deviations=FinetuneConfig(**trial.config).deviations(),
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

    def verdict(self, trial: TrialRecord, replicates: Sequence[TrialRecord], against: TrialRecord) -> Verdict:
        """Verdict on select.

        Args:
            trial: the winner.
            replicates: its replicates on fresh seeds.
            against: the best baseline that may oppose it.
        """
        from selmix.statistics.comparison import outcome
        from selmix.statistics.intervals import Estimate

        gap = self.difference(replicates, [against])
        # Per run, because cost_s of a baseline is the sum over its seeds and that of the trial is of one run.
        per_run = baseline_row(against).cost_per_run_s
        return Verdict(
            outcome(Estimate(**asdict(gap))), against.name, gap,
            against_is_cheaper=per_run < CHEAPER * trial.cost_s,
        )  # fmt: skip


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
