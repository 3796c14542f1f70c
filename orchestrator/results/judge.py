"""From records to a result: finalists, winner, ties, verdict. What is chosen here is written to results.json.

Ranking is by score, comparison by paired intervals over the replicates, which did not take part in the search: the
best of many trials is biased upwards on its own seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.types import TrialRecord
from orchestrator.results.compare import Comparison
from orchestrator.results.rows import mean_score, mean_select, score_of
from orchestrator.verbs.show import baseline_row

if TYPE_CHECKING:
    from orchestrator.records.folder import RunFolder
    from orchestrator.spec.schema import SweepSpec
    from selmix.metrics import MetricContext, Predictions

CHEAPER = 0.8  # a baseline is called cheaper at less than this share of the winner's seconds


def finalists(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Trials to be run again on fresh seeds: the defaults and the ``count`` best by score, in order of number.

    Failed and infeasible trials are out. Of trials whose acting settings are the same the defaults stand, else the
    first.
    """
    eligible = [t for t in trials if t.kind == "trial" and t.state == "FINISHED" and t.feasible]
    first_of: dict[str, TrialRecord] = {}
    for trial in sorted(eligible, key=lambda t: t.number):
        first_of.setdefault(trial.config_hash, trial)
    ranked = sorted(first_of.values(), key=lambda t: (-score_of(t), t.number))
    chosen = ranked[:count] + [t for t in ranked[count:] if t.number == 0]
    return sorted(chosen, key=lambda t: t.number)


def leader_and_winner(
    finals: Mapping[str, Sequence[TrialRecord]], trials: Mapping[str, TrialRecord], tied_with: Any
) -> tuple[str, list[str], str] | None:
    """Leader, everything tied with it (itself first), and winner.

    Args:
        finals: finalist -> its finished replicates; a finalist without them cannot win.
        trials: finalist -> its record.
        tied_with: (leader, other finalists) -> those that are tied with it.
    Returns:
        None where nothing can win. Among the tied the winner is trial 0 if it is one of them, else the one of fewest
        training steps, then of the highest mean score.
    """
    able = {name: mean_score(replicates) for name, replicates in finals.items() if replicates}
    if not able:
        return None
    leader = min(able, key=lambda name: (-able[name], trials[name].number))
    tied = [leader, *tied_with(leader, [name for name in able if name != leader])]
    default = [name for name in tied if trials[name].is_default]
    cheapest = min(tied, key=lambda name: (trials[name].config["steps"], -able[name], trials[name].number))
    return leader, tied, default[0] if default else cheapest


def opponent(baselines: Sequence[TrialRecord]) -> TrialRecord | None:
    """The best baseline by score on select: reference rows and what contains the winner stand aside."""
    from selmix.baselines import BASELINES

    able = [
        b
        for b in baselines
        if b.state == "FINISHED" and not b.reference and not BASELINES[b.name].contains_winner
    ]
    return min(able, key=lambda b: (-score_of(b), b.cost_s)) if able else None


class Judge:
    """Decides one objective of a sweep from what lies in its folder.

    Args:
        folder: of the sweep. spec: of the sweep. objective: one of its objectives.
    """

    def __init__(self, folder: RunFolder, spec: SweepSpec, objective: str) -> None:
        import torch

        from orchestrator.build.selection import selection_rule
        from selmix.metrics import MetricContext

        self.folder, self.spec, self.objective = folder, spec, objective
        known = folder.load_state().data
        counts, num_groups = known["train_counts"], len(known.get("group_names", []))
        self.base_labels = ["train"] if spec.recipe is not None else ["checkpoint"]
        self.rule = selection_rule(spec, objective, len(counts))
        self.context: MetricContext = MetricContext(torch.tensor(counts), self.rule.definitions, num_groups)
        records = [r for r in folder.load_trials() if r.objective == objective]
        self.trials = {r.trial_id: r for r in records if r.kind == "trial"}
        self.replicates: dict[str, list[TrialRecord]] = {}
        for record in records:
            if record.replicate_of is not None:
                self.replicates.setdefault(record.replicate_of, []).append(record)
        self.planned = spec.selection.replicates

    def finals(self) -> dict[str, list[TrialRecord]]:
        """Finalist -> its replicates; empty where one of them failed: a failed trial cannot win."""
        complete = {}
        for trial_id, replicates in self.replicates.items():
            good = len(replicates) == self.planned and all(r.state == "FINISHED" for r in replicates)
            complete[trial_id] = replicates if good else []
        return complete

    def choice(self) -> tuple[str, list[str], str] | None:
        """Leader, the tied, and the winner; None where nothing can win."""
        from selmix.statistics.comparison import tied_with_leader

        finals = self.finals()

        def tied_with(leader: str, others: list[str]) -> list[str]:
            ours = self.predictions_over(finals[leader])
            theirs = {name: self.predictions_over(finals[name]) for name in others}
            return tied_with_leader(self.rule.metric, ours, theirs, self.context)

        return leader_and_winner(finals, self.trials, tied_with)

    def predictions_over(self, records: Sequence[TrialRecord]) -> list[Predictions]:
        """Predictions on select of every model of these records."""
        return [p for record in records for p in load_predictions(self.folder, record.trial_id)]

    def difference(self, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> dict[str, float]:
        """Paired difference on select with its interval, higher is better."""
        from selmix.statistics.comparison import paired_difference

        estimate = paired_difference(
            self.rule.metric, self.predictions_over(ours), self.predictions_over(theirs), self.context
        )
        return asdict(estimate)

    def outcomes(
        self, others: Mapping[str, Sequence[TrialRecord]], reference: Sequence[TrialRecord]
    ) -> dict[str, str]:
        """``better``, ``tied`` or ``worse`` than the reference, corrected for how many are compared with it."""
        from selmix.statistics.comparison import outcomes_against

        predictions = {name: self.predictions_over(runs) for name, runs in others.items()}
        told = outcomes_against(self.rule.metric, predictions, self.predictions_over(reference), self.context)
        return {name: str(says) for name, says in told.items()}

    def result(self) -> dict[str, Any]:
        """The document of this objective in results.json."""
        baselines = self.folder.load_baselines(self.objective)
        document: dict[str, Any] = {
            "metric": self.rule.metric, "feasible": any(t.feasible for t in self.trials.values()), "winner": None,
            "tied": [], "leader": None, "finalists": [], "search_added": None, "verdict": None,
            "baselines": {b.name: baseline_row(b) for b in in_order(baselines)}, "front": [], "compare": None,
        }  # fmt: skip
        chosen = self.choice()
        if chosen is None:
            return document
        leader, tied, winner = chosen
        finals = self.finals()
        document |= {
            "winner": self.winner_row(self.trials[winner], finals[winner]), "tied": tied, "leader": leader,
            "finalists": [self.finalist_row(name, finals[name]) for name in finals if finals[name]],
            "search_added": self.search_added(winner, finals), "front": [winner],
            "compare": Comparison(self, finals).document(),
        }  # fmt: skip
        best = opponent(baselines)
        if best is not None:
            document["verdict"] = self.verdict(self.trials[winner], finals[winner], best)
        return document

    def winner_row(self, trial: TrialRecord, replicates: Sequence[TrialRecord]) -> dict[str, Any]:
        return {
            "trial_id": trial.trial_id, "seed": trial.seed, "round": trial.round, "steps": trial.steps,
            "checkpoint_digest": trial.weights_digest, "config": trial.config, "is_default": trial.is_default,
            "score": trial.score, "select": trial.select, "cost_s": trial.cost_s,
            "labels": [*self.base_labels, "feedback", "select"],
            "replicates": {"seeds": [r.seed for r in replicates], "score": mean_score(replicates),
                           "select": mean_select(replicates)},
        }  # fmt: skip

    def finalist_row(self, name: str, replicates: Sequence[TrialRecord]) -> dict[str, Any]:
        return {
            "trial_id": name, "score": mean_score(replicates), "select": mean_select(replicates),
            "cost_s": self.trials[name].cost_s, "feasible_seeds": sum(r.feasible for r in replicates),
        }  # fmt: skip

    def search_added(self, winner: str, finals: Mapping[str, list[TrialRecord]]) -> dict[str, Any] | None:
        """The best searched finalist against the defaults, whether it won or not."""
        default = next(
            (name for name, trial in self.trials.items() if trial.is_default and finals.get(name)), None
        )
        others = [name for name in finals if finals[name] and name != default]
        if default is None or not others:
            return None
        best = winner if winner != default else max(others, key=lambda name: mean_score(finals[name]))
        return {"trial_id": best} | self.difference(finals[best], finals[default])

    def verdict(
        self, trial: TrialRecord, replicates: Sequence[TrialRecord], against: TrialRecord
    ) -> dict[str, Any]:
        from selmix.statistics.comparison import outcome
        from selmix.statistics.intervals import Estimate

        difference = self.difference(replicates, [against])
        per_run = against.cost_s / max(1, len(against.seeds))
        return {
            "outcome": outcome(Estimate(**difference)), "against": against.name, "difference": difference,
            "split": "select", "optimistic": True, "against_is_cheaper": per_run < CHEAPER * trial.cost_s,
        }  # fmt: skip


def in_order(baselines: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Baselines in the order of their catalogue, cheapest first."""
    from selmix.baselines import BASELINES

    order = list(BASELINES)
    return sorted(baselines, key=lambda b: order.index(b.name) if b.name in order else len(order))


def load_predictions(folder: RunFolder, trial_id: str) -> list[Predictions]:
    """What a trial, replicate or baseline says of select, one entry a model."""
    import torch

    from selmix.metrics import Predictions

    return [
        Predictions(**{key: torch.from_numpy(array) for key, array in arrays.items()})
        for arrays in folder.load_predictions(trial_id)
    ]


def replicate_weights(folder: RunFolder, replicates: Sequence[TrialRecord]) -> list[Path]:
    """Weights of the replicates, seed by seed."""
    return [folder.weights_path(record.trial_id) for record in replicates]
