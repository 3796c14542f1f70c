"""Finalists, winner, opponent and verdict; the winner is decided once and stored."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import (
    BaseFacts,
    DataFacts,
    SweepState,
    TrialRecord,
    baseline_id,
    replicate_record,
)
from orchestrator.results.judge import (
    CHEAPER,
    Judge,
    decided,
    finalists,
    in_order,
    judged,
    leader_and_winner,
    load_predictions,
    opponent,
    replicate_weights,
)
from orchestrator.results.rows import Choice, Choices
from orchestrator.spec.schema import SweepSpec
from selmix.baselines import BASELINES
from selmix.config import FinetuneConfig
from tests.orchestrator.spec.test_schema import MINIMAL, spec_of


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


def choose(
    means: dict[int, float], tied: list[int], configs: dict[int, Any] | None = None
) -> tuple[int, list[int], int]:
    trials = {f"o/trial-{n:03d}": trial(n, 0.0, config=(configs or {}).get(n, {})) for n in means}
    finals = {}
    for record, mean in zip(trials.values(), means.values(), strict=True):
        replicate = replicate_record(record, 1, seed=1)
        replicate.score = mean
        finals[record.trial_id] = [replicate]
    chosen = leader_and_winner(
        finals, trials, lambda leader, others: [o for o in others if int(o[-3:]) in tied]
    )
    assert chosen is not None
    return int(chosen.leader[-3:]), [int(name[-3:]) for name in chosen.tied], int(chosen.winner[-3:])


def test_among_the_tied_the_defaults_win() -> None:
    assert choose({0: 0.5, 1: 0.9, 2: 0.7}, tied=[0, 2]) == (1, [1, 0, 2], 0)


def test_without_the_defaults_the_fewest_steps_win_then_the_score() -> None:
    assert choose({0: 0.1, 1: 0.9, 2: 0.7}, tied=[2], configs={1: {"steps": 400}, 2: {"steps": 100}})[2] == 2
    assert choose({0: 0.1, 1: 0.9, 2: 0.7}, tied=[2])[2] == 1


def test_a_clear_leader_wins() -> None:
    assert choose({0: 0.1, 1: 0.9}, tied=[]) == (1, [1], 1)


def test_a_finalist_without_finished_replicates_cannot_win() -> None:
    trials = {"o/trial-000": trial(0, 0.9)}
    assert leader_and_winner({"o/trial-000": []}, trials, lambda *_: []) is None


def baseline(name: str, score: float | None, cost_s: float = 1.0, **more: Any) -> TrialRecord:
    record = trial(0, score, cost_s=cost_s, kind="baseline", **more)
    record.trial_id = f"o/baseline/{name}"
    return record


def test_the_opponent_is_the_best_that_may_be_one() -> None:
    rows = [
        baseline("untouched", 0.2), baseline("balanced_head", 0.5, 3.0), baseline("uniform_mixup", 0.5, 1.0),
        baseline("retrained_logit_adjusted", 0.9, reference=True), baseline("selmix_post_hoc", 0.8),
        baseline("last_layer_post_hoc", 0.95, state="FAILED"),
    ]  # fmt: skip
    best = opponent(rows)
    assert best is not None
    assert best.name == "uniform_mixup"
    assert opponent(rows[3:]) is None


# -- zero, ties and order ---------------------------------------------------------------------------------


def test_a_score_of_zero_ranks_above_none_and_below_a_positive_one() -> None:
    trials = [trial(0, None), trial(1, 0.0), trial(2, -0.1), trial(3, 0.1)]
    assert names(finalists(trials, 1)) == [0, 3]
    assert names(finalists(trials, 2)) == [0, 1, 3]
    assert choose({0: -0.1, 1: 0.0}, tied=[]) == (1, [1], 1)
    assert choose({0: 0.0, 1: 0.0}, tied=[]) == (0, [0], 0)


def test_a_baseline_of_score_zero_opposes_and_a_failed_one_does_not() -> None:
    failed = baseline("balanced_head", 0.9, state="FAILED")
    without = baseline("balanced_head", None)
    zero = baseline("uniform_mixup", 0.0, 5.0)
    assert opponent([failed, zero]) is zero
    assert opponent([without, zero]) is zero
    assert opponent([zero, baseline("balanced_head", -0.1)]) is zero
    assert opponent([failed]) is opponent([]) is None


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
        leader, tied, winner = choose({number: means[number] for number in order}, tied=[3, 4])
        assert (leader, sorted(tied), winner) == (1, [1, 3, 4], 1)


def test_the_defaults_of_another_arm_are_none() -> None:
    trials = {name: trial(0, 0.0) for name in ("a", "b")}
    trials["a"].reference_arm = False
    trials["a"].config["steps"], trials["b"].config["steps"] = 1, 400
    finals = {name: [trial(0, score)] for name, score in (("a", 0.9), ("b", 0.1))}
    assert leader_and_winner(finals, trials, lambda _, others: others) == Choice("a", ["a", "b"], "b")
    trials["b"].reference_arm = False
    assert leader_and_winner(finals, trials, lambda _, others: others) == Choice("a", ["a", "b"], "a")


def test_baselines_are_in_the_order_of_the_catalogue_and_unknown_ones_last() -> None:
    catalogue = list(BASELINES)
    records = [baseline(name, 0.0) for name in ("zzz", *reversed(catalogue), "aaa")]
    assert [b.name for b in in_order(records)] == [*catalogue, "zzz", "aaa"]


# -- a sweep's folder -------------------------------------------------------------------------------------

PER_CLASS = 20


def spec(replicates: int = 2) -> SweepSpec:
    return spec_of(MINIMAL, f"selection.replicates={replicates}")


def sweep(path: Path) -> RunFolder:
    """A sweep whose data have two classes, before its first trial."""
    folder = RunFolder.local(path, "x")
    folder.create()
    data = DataFacts(["a", "b"], [100, 10], {}, 2 * PER_CLASS)
    folder.save_state(SweepState("x", "1", data=data, base=BaseFacts("sha256:1", 1.0, recipe="erm")))
    return folder


def predict(path: Path, hits: int) -> None:
    """Predictions that hit so many samples of the second class, and all of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.repeat([0, 1], PER_CLASS)
    predicted = np.where(np.arange(2 * PER_CLASS) < PER_CLASS + hits, labels, 0)
    np.savez(path, labels=labels, predicted=predicted, confidence=np.ones(2 * PER_CLASS, dtype=np.float32))


def add(folder: RunFolder, number: int, hits: list[int], cost_s: float = 10.0) -> TrialRecord:
    """A finished trial with one replicate for each number of hits."""
    config = FinetuneConfig(steps=100 + number).flat()
    made = TrialRecord(
        f"min_recall/trial-{number:03d}", "min_recall", "trial", number, 0, config=config, config_hash=str(number),
        state="FINISHED", score=0.5, cost_s=cost_s,
    )  # fmt: skip
    folder.save_trial(made)
    for index, count in enumerate(hits, start=1):
        replicate = replicate_record(made, index, index)
        replicate.state, replicate.score = "FINISHED", count / PER_CLASS
        folder.save_trial(replicate)
        predict(folder.predictions_path(replicate.trial_id), count)
    return made


def oppose(folder: RunFolder, name: str, hits: int, cost_s: float, seeds: list[int]) -> None:
    """A finished baseline."""
    folder.save_trial(TrialRecord(
        baseline_id("min_recall", name), "min_recall", "baseline", 0, 0, state="FINISHED", score=hits / PER_CLASS,
        cost_s=cost_s, seeds=seeds,
    ))  # fmt: skip
    for index in range(max(1, len(seeds))):
        predict(folder.predictions_path(baseline_id("min_recall", name), index if seeds else None), hits)


def test_the_winner_is_decided_once_and_stored(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [0, 1])
    add(folder, 1, [19, 20])
    best = "min_recall/trial-001"
    clear = Choices(objectives={"min_recall": Choice(best, [best], best)})
    assert decided(folder, spec()) == clear
    stored = folder.choices_path.read_bytes()
    add(folder, 0, [20, 20])
    add(folder, 1, [0, 0])
    assert Judge(folder, spec(), "min_recall").choice() != clear.objectives["min_recall"]
    assert decided(folder, spec()) == clear
    assert folder.choices_path.read_bytes() == stored


def test_that_nothing_can_win_is_decided_once_too(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    assert decided(folder, spec()).objectives == {"min_recall": None}
    add(folder, 0, [10, 10])
    assert decided(folder, spec()).objectives == {"min_recall": None}
    assert judged(folder, spec()).objectives["min_recall"].winner is None
    assert judged(folder, spec()).undecided == ["min_recall"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must be a readable JSON document"),
        ('{"objectives": {"min_recall"', "must be a readable JSON document"),
        ("[]", "must be a JSON object, got list"),
        ("{}", "must be a whole record: objectives Field required"),
        ('{"objectives": {"min_recall": {"leader": "a", "tied": []}}}', "must be a whole record: .*winner"),
    ],
)
def test_damaged_choices_are_named_and_not_decided_again(tmp_path: Path, content: str, words: str) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [10, 10])
    folder.choices_path.write_text(content)
    for read in (decided, judged):
        with pytest.raises(PreflightError, match=rf"x/choices\.json: {words}"):
            read(folder, spec())
    assert folder.choices_path.read_text() == content


def test_a_finalist_with_a_failed_or_a_missing_replicate_cannot_win(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [1, 1])
    add(folder, 1, [20])
    add(folder, 2, [20, 20])
    failed = folder.load_trial("min_recall/trial-002/seed-2")
    failed.state = "FAILED"
    folder.save_trial(failed)
    judge = Judge(folder, spec(), "min_recall")
    assert {name[-3:]: len(runs) for name, runs in judge.finals().items()} == {"000": 2, "001": 0, "002": 0}
    choice = judge.choice()
    assert choice is not None
    assert choice.tied == [choice.leader] == [choice.winner] == ["min_recall/trial-000"]


def test_a_sweep_whose_every_score_is_zero_has_a_result(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for number in (0, 1):
        add(folder, number, [0, 0])
    oppose(folder, "untouched", 0, 0.0, [])
    result = judged(folder, spec()).objectives["min_recall"]
    assert result.winner is not None
    assert result.winner.is_default
    assert result.winner.replicates.score == 0.0
    assert [row.score for row in result.finalists] == [0.0, 0.0]
    assert result.search_added is not None
    assert (result.search_added.trial_id, result.search_added.value) == ("min_recall/trial-001", 0.0)
    assert result.verdict is not None
    assert (result.verdict.against, result.verdict.outcome) == ("untouched", "tied")
    assert result.verdict.difference.value == 0.0
    assert result.baselines["untouched"].score == 0.0


def test_a_clear_winner_beats_the_defaults_and_the_baseline(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [0, 2])
    add(folder, 1, [20, 20])
    oppose(folder, "untouched", 1, 0.0, [])
    oppose(folder, "balanced_head", 4, 30.0, [1, 2])
    result = judged(folder, spec()).objectives["min_recall"]
    assert result.winner is not None
    assert (result.winner.trial_id, result.winner.replicates.seeds) == ("min_recall/trial-001", [1, 2])
    assert result.winner.labels == ["train", "feedback", "select"]
    assert (result.tied, result.front) == ([result.winner.trial_id], [result.winner.trial_id])
    assert result.search_added is not None
    assert result.search_added.value == pytest.approx(0.95)  # 20 of 20 minus the mean of 0 and 2 of 20
    assert result.search_added.low > 0.0
    assert result.verdict is not None
    assert (result.verdict.against, result.verdict.outcome) == ("balanced_head", "better")
    assert result.verdict.difference.value == pytest.approx(0.8)
    assert list(result.baselines) == ["untouched", "balanced_head"]


def test_where_the_defaults_won_the_best_of_the_others_is_what_the_search_added(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for number, count in enumerate((10, 9, 11, 10)):
        add(folder, number, [count, count])
    result = judged(folder, spec()).objectives["min_recall"]
    assert result.winner is not None
    assert result.winner.is_default
    assert result.leader == "min_recall/trial-002"
    assert result.search_added is not None
    assert result.search_added.trial_id == "min_recall/trial-002"
    assert result.search_added.value == pytest.approx(1 / PER_CLASS)


def test_without_the_defaults_among_the_finalists_the_search_added_nothing_known(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 1, [10, 10])
    result = judged(folder, spec()).objectives["min_recall"]
    assert result.winner is not None
    assert result.search_added is result.verdict is None


@pytest.mark.parametrize(
    ("cost_s", "cheaper"), [(0.0, True), (2 * 7.9, True), (2 * 8.0, False), (2 * 10.0, False)]
)
def test_a_baseline_is_cheaper_by_a_run_of_it(tmp_path: Path, cost_s: float, cheaper: bool) -> None:
    assert CHEAPER == 0.8
    folder = sweep(tmp_path)
    winner = add(folder, 0, [10, 10], cost_s=10.0)
    oppose(folder, "balanced_head", 10, cost_s, [1, 2])
    judge = Judge(folder, spec(), "min_recall")
    (against,) = folder.load_baselines()
    verdict = judge.verdict(winner, judge.finals()[winner.trial_id], against)
    assert verdict.against_is_cheaper is cheaper


def test_a_sweep_is_judged_after_its_data_were_prepared_only(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    folder.save_state(SweepState("x", "1"))
    with pytest.raises(AssertionError, match="judged after its data and base model were prepared"):
        decided(folder, spec())
    assert not folder.choices_path.exists()


def test_predictions_and_weights_are_in_order_of_the_replicates(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    made = add(folder, 0, [3, 7])
    replicates = folder.load_trials()[1:]
    hits = [int(p.correct.sum()) for r in replicates for p in load_predictions(folder, r.trial_id)]
    assert hits == [PER_CLASS + 3, PER_CLASS + 7]
    assert load_predictions(folder, made.trial_id) == []
    both = [folder.weights_path(f"{made.trial_id}/seed-{index}") for index in (1, 2)]
    assert replicate_weights(folder, replicates) == both
