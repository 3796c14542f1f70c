"""Finalists of a search, and the winner among them."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.records.types import TrialRecord, replicate_record
from orchestrator.results.finalists import finalists, leader_and_winner


def trial(number: int, score: float | None, same_as: int | None = None, **more: Any) -> TrialRecord:
    settings = {"steps": 400} | more.pop("config", {})
    record = TrialRecord(
        f"o/trial-{number:03d}", "o", "trial", number, seed=0, config=settings, state="FINISHED", score=score,
        config_hash=str(number if same_as is None else same_as),
    )  # fmt: skip
    for key, value in more.items():
        setattr(record, key, value)
    return record


def names(records: list[TrialRecord]) -> list[int]:
    return [record.number for record in records]


def test_finalists_are_the_defaults_and_the_best() -> None:
    trials = [trial(0, 0.1), trial(1, 0.5), trial(2, 0.7), trial(3, 0.6), trial(4, 0.6)]
    assert names(finalists(trials, 2)) == [0, 2, 3]
    assert names(finalists([*trials[1:], trial(0, 0.9)], 2)) == [0, 2]


def test_what_failed_or_is_infeasible_is_no_finalist() -> None:
    trials = [
        trial(0, 0.9, feasible=False), trial(1, 0.8, state="FAILED"), trial(2, 0.7, state="INTERRUPTED"),
        trial(3, 0.1), trial(4, 0.99, kind="replicate"),
    ]  # fmt: skip
    assert names(finalists(trials, 3)) == [3]
    assert finalists(trials[:3], 3) == []


def test_the_same_settings_are_run_again_once() -> None:
    trials = [trial(0, 0.5), trial(1, 0.9), trial(2, 0.9, same_as=1), trial(3, 0.5, same_as=0)]
    assert names(finalists(trials, 3)) == [0, 1]


MARGIN = 0.1


def choose(
    means: dict[int, float],
    tied: list[int],
    configs: dict[int, Any] | None = None,
    margin: float = MARGIN,
) -> tuple[int, list[int], int]:
    trials = {f"o/trial-{n:03d}": trial(n, 0.0, config=(configs or {}).get(n, {})) for n in means}
    finals = {}
    for record, mean in zip(trials.values(), means.values(), strict=True):
        replicate = replicate_record(record, 1, seed=1)
        replicate.score = mean
        finals[record.trial_id] = [replicate]
    chosen = leader_and_winner(
        finals, trials, lambda leader, others: [o for o in others if int(o[-3:]) in tied], margin
    )
    assert chosen is not None
    return int(chosen.leader[-3:]), [int(name[-3:]) for name in chosen.tied], int(chosen.winner[-3:])


def test_within_the_margin_of_the_leader_the_defaults_win() -> None:
    assert choose({0: 0.85, 1: 0.9, 2: 0.7}, tied=[0, 2]) == (1, [1, 0, 2], 0)
    # Also where their interval is narrow enough to tell them from the leader: the difference does not matter.
    assert choose({0: 0.85, 1: 0.9, 2: 0.7}, tied=[]) == (1, [1], 0)


def test_beyond_the_margin_the_leader_wins_though_the_interval_contains_0() -> None:
    assert choose({0: 0.5, 1: 0.9, 2: 0.7}, tied=[0, 2]) == (1, [1, 0, 2], 1)
    # 0.75 and 0.25 are exact: a difference of the margin itself does not matter.
    assert choose({0: 0.5, 1: 0.75}, tied=[], margin=0.25)[2] == 0
    assert choose({0: 0.5, 1: 0.75}, tied=[], margin=0.2499)[2] == 1


def test_within_the_margin_the_fewest_steps_win_then_the_lowest_number() -> None:
    few = {1: {"steps": 400}, 2: {"steps": 100}, 3: {"steps": 100}}
    assert choose({1: 0.9, 3: 0.85, 2: 0.82}, tied=[], configs=few)[2] == 2
    assert choose({1: 0.9, 3: 0.85, 2: 0.7}, tied=[2], configs=few)[2] == 3
    # Fewer steps than the defaults are cheaper, too.
    assert choose({0: 0.9, 2: 0.9}, tied=[], configs=few)[2] == 2


def test_a_finalist_without_finished_replicates_cannot_win() -> None:
    trials = {"o/trial-000": trial(0, 0.9)}
    assert leader_and_winner({"o/trial-000": []}, trials, lambda *_: [], MARGIN) is None


def test_a_score_of_zero_ranks_above_none_and_below_a_positive_one() -> None:
    trials = [trial(0, None), trial(1, 0.0), trial(2, -0.1), trial(3, 0.1)]
    assert names(finalists(trials, 1)) == [0, 3]
    assert names(finalists(trials, 2)) == [0, 1, 3]
    assert choose({0: -0.1, 1: 0.0}, tied=[], margin=0.01) == (1, [1], 1)
    assert choose({0: 0.0, 1: 0.0}, tied=[]) == (0, [0], 0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.none() | st.sampled_from([-0.5, 0.0, 0.5]), st.integers(0, 4)), max_size=6),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_finalists_are_those_of_a_brute_force_search_in_any_order(
    given_trials: list[tuple[float | None, int]], count: int, random: Any
) -> None:
    trials = [trial(number, score, same_as=same) for number, (score, same) in enumerate(given_trials)]
    first = [t for t in trials if all(t.config_hash != o.config_hash for o in trials[: t.number])]

    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        if (one.score is None) != (other.score is None):
            return other.score is None
        if one.score is None or other.score is None or one.score == other.score:
            return one.number < other.number
        return one.score > other.score

    expected = [t for t in first if t.number == 0 or sum(beats(other, t) for other in first) < count]
    random.shuffle(trials)
    assert finalists(trials, count) == expected


def test_the_winner_depends_on_no_order() -> None:
    means = {3: 0.5, 1: 0.5, 2: 0.4, 4: 0.5}
    for order in itertools.permutations(means):
        leader, tied, winner = choose({number: means[number] for number in order}, [3, 4], margin=0.05)
        assert (leader, sorted(tied), winner) == (1, [1, 3, 4], 1)
