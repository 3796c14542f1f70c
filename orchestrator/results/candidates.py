"""Candidates: the rows of a sweep that may win or oppose, the best SelMix row among the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.records.types import CrossFittedScore, TrialRecord
from orchestrator.results.replicate_means import mean_score, score_of
from orchestrator.results.rows import SELMIX, baseline_row, rung_of
from selmix.rungs import RUNGS, Rung


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
        cross_fitted: score over feedback and select, out of fold; None of a row that trains more than a head.
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
    cross_fitted: CrossFittedScore | None = None

    @property
    def effort(self) -> tuple[int, int]:
        """Effort of a run by its rung, then its steps.

        Not by seconds: those of a rung leave out what it starts from, and a clock would have a verdict say one thing
        today and another tomorrow.
        """
        return RUNGS.index(self.rung), self.steps

    @property
    def cheapness(self) -> tuple[int, int, int]:
        """Order from cheap to expensive."""
        return *self.effort, self.number

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


def of_more_labels(row: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Rows that used labels which this one did not, and so do not oppose it, the best by score first."""
    beyond = [each for each in candidates if not set(each.labels) <= set(row.labels)]
    return sorted(beyond, key=_strength)


def opponents_of(row: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Opponents of a row, the best by score first; at equal scores the cheaper one is the stronger opponent."""
    return sorted((each for each in candidates if each.opposes(row)), key=_strength)


def _strength(each: Candidate) -> tuple[float, int, int, int]:
    return -each.score, *each.cheapness


def selmix_candidate(
    trial: TrialRecord, runs: Sequence[TrialRecord], base_labels: Sequence[str]
) -> Candidate:
    """The best SelMix row.

    Args:
        trial: of the search.
        runs: its replicates on fresh seeds.
        base_labels: labelled splits that the base model was trained on.
    """
    return Candidate(
        trial.trial_id, SELMIX, "finetune", int(trial.config["steps"]), trial.number,
        (*base_labels, "feedback", "select"), mean_score(runs), trial.cost_s, runs,
    )  # fmt: skip


def baseline_candidates(baselines: Sequence[TrialRecord], steps: int) -> list[Candidate]:
    """Baselines that may win or oppose, in the order of their catalogue: finished, feasible, and no reference.

    Args:
        baselines: records of an objective.
        steps: of one run of those that fine-tune: they do so for as many as the winner, whose settings they have.
    """
    return [
        baseline_candidate(record, number, steps)
        for number, record in enumerate(in_order(baselines))
        if record.state == "FINISHED" and record.feasible and not record.reference
    ]


def baseline_candidate(record: TrialRecord, number: int, steps: int) -> Candidate:
    """A baseline as a row that is judged, also one that may not win.

    Args:
        record: of a finished baseline.
        number: place in the order of their catalogue.
        steps: of one run of those that fine-tune.
    """
    rung = record.rung or rung_of(record.name)
    # A head that SelMix trains takes the steps of its own settings; the others take none, or are solved.
    taken = steps if rung == "finetune" else int(record.config.get("steps", 0))
    return Candidate(
        record.trial_id, record.name, rung, taken, 1000 + number,
        tuple(record.labels), score_of(record), baseline_row(record).cost_per_run_s, [record],
        record.cross_fitted,
    )  # fmt: skip


def in_order(baselines: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Sort baselines in the order of their catalogue, cheapest first."""
    from selmix.baselines import BASELINES

    # A baseline of another version of the catalogue goes last.
    order = list(BASELINES)
    return sorted(baselines, key=lambda b: order.index(b.name) if b.name in order else len(order))
