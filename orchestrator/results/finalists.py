"""Finalists: the trials that are run again on fresh seeds, and the winner among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.records.types import TrialRecord
from orchestrator.results.replicate_means import mean_score, score_of
from orchestrator.results.rows import Choice


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
