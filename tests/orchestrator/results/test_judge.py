"""Finalists, winner, opponent and verdict; the winner is decided once and stored."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import (
    BaseFacts,
    DataFacts,
    Figure,
    SweepState,
    TrialRecord,
    baseline_id,
    replicate_record,
)
from orchestrator.results.candidates import Candidate, in_order, opponents_of
from orchestrator.results.finalists import finalists, leader_and_winner
from orchestrator.results.judge import CHEAPER, Judge, decided, judged
from orchestrator.results.predictions import load_predictions
from orchestrator.results.rows import Choice, Choices, ObjectiveResult
from orchestrator.results.shipped import replicate_weights
from orchestrator.spec.schema import SweepSpec
from selmix.baselines import BASELINES
from selmix.config import FinetuneConfig
from selmix.weights import save_weights, state_digest
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


def baseline(name: str, score: float | None, cost_s: float = 1.0, **more: Any) -> TrialRecord:
    record = trial(0, score, cost_s=cost_s, kind="baseline", **more)
    record.trial_id = f"o/baseline/{name}"
    return record


def candidate(name: str, score: float = 0.5, labels: str = "train feedback select", **more: Any) -> Candidate:
    rung: Any = BASELINES[name].rung if name in BASELINES else "finetune"
    made = Candidate(f"o/{name}", name, rung, 0, 0, tuple(labels.split()), score, 1.0, [])
    return replace(made, **more)


def opposing(row: Candidate, *others: Candidate) -> list[str]:
    return [each.name for each in opponents_of(row, [row, *others])]


SELMIX_ROW = candidate("selmix")


def test_opponents_have_no_more_labels_and_the_best_comes_first() -> None:
    others = [
        candidate("untouched", 0.2, "train"), candidate("balanced_head", 0.7, "train select"),
        candidate("last_layer_post_hoc", 0.6), candidate("tau_normalisation", 0.9, "train feedback select unlabelled"),
    ]  # fmt: skip
    assert opposing(SELMIX_ROW, *others) == ["balanced_head", "last_layer_post_hoc", "untouched"]
    # Where a baseline is judged, rows that have seen more do not vote, SelMix among them.
    assert opposing(others[1], SELMIX_ROW, others[0], others[2]) == ["untouched"]
    assert opposing(others[0], SELMIX_ROW, others[1]) == []
    # A checkpoint's labels are not known: only its own descendants compare.
    assert opposing(candidate("selmix", labels="checkpoint feedback select"), others[0]) == []


def test_at_equal_scores_the_cheaper_opponent_is_the_stronger_one() -> None:
    others = [
        candidate("mislas_stage_two", number=1003), candidate("balanced_head", number=1001),
        candidate("post_hoc_bias_search", number=1002),
    ]  # fmt: skip
    assert opposing(SELMIX_ROW, *others) == ["post_hoc_bias_search", "balanced_head", "mislas_stage_two"]


def test_rows_that_contain_selmix_or_differ_by_the_policy_alone_do_not_vote() -> None:
    uniform, corrected, head = (
        candidate(n, 0.9) for n in ("uniform_mixup", "selmix_post_hoc", "balanced_head")
    )
    assert opposing(SELMIX_ROW, uniform, corrected, head) == ["balanced_head"]
    # The other way round: uniform pairs differ from SelMix in the policy alone, too; what contains SelMix does not
    # make SelMix contain it.
    assert opposing(uniform, SELMIX_ROW, head) == ["balanced_head"]
    assert opposing(corrected, SELMIX_ROW, uniform) == ["uniform_mixup", "selmix"]
    assert opposing(head, SELMIX_ROW, uniform, corrected) == ["uniform_mixup", "selmix_post_hoc", "selmix"]


def test_a_baseline_of_another_version_of_the_catalogue_opposes() -> None:
    assert opposing(SELMIX_ROW, candidate("of_another_version")) == ["of_another_version"]


# -- zero, ties and order ---------------------------------------------------------------------------------


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


def test_baselines_are_in_the_order_of_the_catalogue_and_unknown_ones_last() -> None:
    catalogue = list(BASELINES)
    records = [baseline(name, 0.0) for name in ("zzz", *reversed(catalogue), "aaa")]
    assert [b.name for b in in_order(records)] == [*catalogue, "zzz", "aaa"]


# -- a sweep's folder -------------------------------------------------------------------------------------

PER_CLASS = 20


def spec(*overrides: str, replicates: int = 2) -> SweepSpec:
    return spec_of(MINIMAL, f"selection.replicates={replicates}", *overrides)


def sweep(path: Path) -> RunFolder:
    """A sweep whose data have two classes, before its first trial."""
    folder = RunFolder.local(path, "x")
    folder.create()
    data = DataFacts(["a", "b"], [100, 10], {}, 2 * PER_CLASS)
    folder.save_state(SweepState("x", "1", data=data, base=BaseFacts("sha256:1", 1.0, recipe="erm")))
    return folder


def model(folder: RunFolder, trial_id: str, hits: int, index: int | None = None) -> None:
    """Weights, and predictions that hit so many samples of the second class, and all of the first."""
    path = folder.predictions_path(trial_id, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.repeat([0, 1], PER_CLASS)
    predicted = np.where(np.arange(2 * PER_CLASS) < PER_CLASS + hits, labels, 0)
    np.savez(path, labels=labels, predicted=predicted, confidence=np.ones(2 * PER_CLASS, dtype=np.float32))
    save_weights(
        path.with_name(path.name.replace("predictions", "weights")).with_suffix(".safetensors"), weights(hits)
    )


def weights(hits: int) -> dict[str, torch.Tensor]:
    return {"hits": torch.tensor([float(hits)])}


def figures(hits: float, **more: float) -> dict[str, Figure]:
    return {
        key: Figure(value, max(0.0, value - 0.1), value)
        for key, value in {"min_recall": hits / PER_CLASS, **more}.items()
    }


def add(
    folder: RunFolder, number: int, hits: list[int], cost_s: float = 10.0, **select: float
) -> TrialRecord:
    """A finished trial with one replicate for each number of hits."""
    config = FinetuneConfig(steps=100 + number).flat()
    made = TrialRecord(
        f"min_recall/trial-{number:03d}", "min_recall", "trial", number, 0, config=config, config_hash=str(number),
        state="FINISHED", score=0.5, cost_s=cost_s,
    )  # fmt: skip
    folder.save_trial(made)
    for index, count in enumerate(hits, start=1):
        replicate = replicate_record(made, index, 40 + index)
        replicate.state, replicate.score = "FINISHED", count / PER_CLASS
        replicate.select = figures(count, **select)
        folder.save_trial(replicate)
        model(folder, replicate.trial_id, count)
    return made


def oppose(
    folder: RunFolder, name: str, *hits: int, cost_s: float = 1.0, seeds: list[int] | None = None, **more: Any
) -> None:
    """A finished baseline with one model for each number of hits."""
    mean = sum(hits) / len(hits)
    uses = BASELINES[name].uses if name in BASELINES else ()
    made = TrialRecord(
        baseline_id("min_recall", name), "min_recall", "baseline", 0, 0, state="FINISHED", score=mean / PER_CLASS,
        cost_s=cost_s, seeds=seeds or [], labels=["train", *uses], select=figures(mean),
        reference=name in BASELINES and BASELINES[name].reference,
    )  # fmt: skip
    for key, value in more.items():
        setattr(made, key, value)
    folder.save_trial(made)
    for index, count in enumerate(hits):
        model(folder, made.trial_id, count, index)


def result_of(folder: RunFolder, *overrides: str, replicates: int = 2) -> ObjectiveResult:
    return judged(folder, spec(*overrides, replicates=replicates)).objectives["min_recall"]


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


def test_a_mean_over_seeds_that_breaks_a_bound_cannot_win(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [10, 10], min_coverage=0.4)
    add(folder, 1, [20, 20], min_coverage=0.39)
    bounded = "constraints=[{metric: min_coverage, at_least: 0.4}]"
    two_classes = ("data={name: gaussians, classes: 2}", "model={name: linear_head}")
    choice = Judge(folder, spec(bounded, *two_classes), "min_recall").choice()
    assert choice is not None
    assert choice.winner == "min_recall/trial-000"
    higher = bounded.replace("0.4}", "0.41}")
    assert Judge(folder, spec(higher, *two_classes), "min_recall").choice() is None


# -- the winner among all rows ------------------------------------------------------------------------------


def test_a_sweep_whose_every_score_is_zero_has_a_result(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for number in (0, 1):
        add(folder, number, [0, 0])
    oppose(folder, "untouched", 0, cost_s=0.0)
    result = result_of(folder)
    # Nothing is gained by work: what costs nothing ships.
    assert result.winner is not None
    assert (result.winner.approach, result.winner.rung, result.winner.score) == ("untouched", "scores", 0.0)
    assert result.winner.labels == ["train"]
    # Of fewer labels than every other row: it has no opponent.
    assert result.verdict is None
    assert [row.score for row in result.finalists] == [0.0, 0.0]
    assert result.search_added is not None
    assert (result.search_added.trial_id, result.search_added.value) == ("min_recall/trial-001", 0.0)
    assert result.selmix is not None
    assert (result.selmix.against, result.selmix.row) == ("untouched", "min_recall/trial-000")
    assert result.selmix.difference.value == 0.0
    assert result.baselines["untouched"].score == 0.0


def test_a_clear_winner_beats_the_defaults_and_the_baselines(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [0, 2])
    add(folder, 1, [19, 20])
    oppose(folder, "untouched", 1, cost_s=0.0)
    oppose(folder, "balanced_head", 4)
    result = result_of(folder)
    assert result.winner is not None
    # The seed that is highest on select ships; the table has the mean of both.
    assert (result.winner.row, result.winner.trial_id) == (
        "min_recall/trial-001",
        "min_recall/trial-001/seed-2",
    )
    assert (result.winner.replicate_of, result.winner.seed, result.winner.file) == (
        "min_recall/trial-001",
        42,
        0,
    )
    assert result.winner.checkpoint_digest == state_digest(weights(20))
    assert result.winner.select["min_recall"].value == 1.0
    assert result.winner.score == 1.0
    assert (result.winner.replicates.seeds, result.winner.replicates.score) == (
        [41, 42],
        pytest.approx(0.975),
    )
    assert result.winner.replicates.select["min_recall"].value == pytest.approx(0.975)
    assert (result.winner.approach, result.winner.rung) == ("selmix", "finetune")
    assert result.winner.labels == ["train", "feedback", "select"]
    assert (result.tied, result.front) == (["min_recall/trial-001"], ["min_recall/trial-001"])
    assert result.search_added is not None
    assert result.search_added.value == pytest.approx(0.925)  # 19.5 of 20 minus the mean of 0 and 2 of 20
    assert result.search_added.low > 0.0
    assert result.verdict == result.selmix
    assert result.verdict is not None
    assert (result.verdict.against, result.verdict.outcome) == ("balanced_head", "better")
    assert result.verdict.difference.value == pytest.approx(0.775)
    assert {name: each.value for name, each in result.verdict.differences.items()} == {
        "balanced_head": pytest.approx(0.775), "untouched": pytest.approx(0.925),
    }  # fmt: skip
    assert (result.verdict.margin, result.verdict.within_margin, result.verdict.optimistic) == (
        0.02,
        False,
        True,
    )
    assert (result.verdict.samples, result.verdict.samples_needed) == (PER_CLASS, None)
    assert list(result.baselines) == ["untouched", "balanced_head"]


def test_a_baseline_wins_where_it_is_ahead_and_selmix_has_a_verdict_of_its_own(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [1, 1])
    oppose(folder, "untouched", 0)
    oppose(folder, "last_layer_post_hoc", 20)
    oppose(folder, "balanced_head", 3)
    result = result_of(folder)
    assert result.winner is not None
    assert (result.winner.row, result.winner.trial_id) == ("min_recall/baseline/last_layer_post_hoc",) * 2
    assert (result.winner.config, result.winner.round, result.winner.replicate_of) == ({}, None, None)
    assert (result.winner.is_default, result.winner.replicates.seeds) == (False, [])
    assert result.winner.checkpoint_digest == state_digest(weights(20))
    assert result.verdict is not None
    assert result.verdict.outcome == "better"
    assert list(result.verdict.differences) == ["balanced_head", "selmix", "untouched"]
    assert result.selmix is not None
    assert (result.selmix.outcome, result.selmix.against) == ("worse", "last_layer_post_hoc")
    assert (result.selmix.worse_than, result.selmix.row) == (["last_layer_post_hoc"], "min_recall/trial-000")


def test_within_the_margin_the_cheapest_row_ships(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [20, 20])
    oppose(folder, "last_layer_post_hoc", 18)
    oppose(folder, "post_hoc_bias_search", 17)
    for margin, winner in ((0.02, "selmix"), (0.12, "last_layer_post_hoc"), (0.16, "post_hoc_bias_search")):
        made = Judge(folder, spec(f"selection.margin={margin}"), "min_recall")
        result = made.result(made.choice())
        assert result.winner is not None
        assert result.winner.approach == winner
        assert result.verdict is None or result.verdict.margin == margin


def test_of_a_baseline_with_seeds_the_best_model_ships(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [1, 1, 1])
    oppose(folder, "selmix_post_hoc", 18, 20, 19, seeds=[41, 42, 43], cost_s=30.0)
    result = result_of(folder, replicates=3)
    assert result.winner is not None
    assert (result.winner.approach, result.winner.seed, result.winner.file) == ("selmix_post_hoc", 42, 1)
    assert result.winner.checkpoint_digest == state_digest(weights(20))
    # What fine-tunes has the settings of the winning trial.
    assert result.winner.config == FinetuneConfig(steps=100).flat()
    assert (result.winner.replicates.seeds, result.winner.replicates.score) == (
        [41, 42, 43],
        pytest.approx(0.95),
    )
    assert result.winner.cost_s == pytest.approx(10.0)
    assert result.verdict is not None
    assert result.verdict.against == "selmix"
    # It contains SelMix, and is no opponent of it.
    assert result.selmix is None


def test_the_settings_of_uniform_pairs_say_so(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [1, 1])
    oppose(folder, "uniform_mixup", 20, 20, seeds=[41, 42])
    result = result_of(folder)
    assert result.winner is not None
    assert result.winner.config == FinetuneConfig(steps=100).flat() | {"policy": "uniform"}
    assert result.winner.deviations == {}


def test_the_first_of_equal_models_ships(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    made = add(folder, 0, [7, 9, 9])
    judge = Judge(folder, spec(replicates=3), "min_recall")
    (row, *_) = judge.candidates(Choice(made.trial_id, [made.trial_id], made.trial_id))
    ships = judge.shipped(row)
    assert (ships.record.trial_id, ships.file) == ("min_recall/trial-000/seed-2", 0)
    assert int(ships.predictions.correct.sum()) == PER_CLASS + 9


def test_references_failures_and_rows_that_break_a_bound_neither_win_nor_oppose(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [5, 5])
    oppose(folder, "retrained_logit_adjusted", 20, seeds=[41])
    oppose(folder, "last_layer_post_hoc", 20, state="FAILED")
    oppose(folder, "balanced_head", 20, feasible=False)
    oppose(folder, "untouched", 0)
    result = result_of(folder)
    assert result.winner is not None
    assert result.winner.approach == "selmix"
    assert result.verdict is not None
    assert list(result.verdict.differences) == ["untouched"]
    assert len(result.baselines) == 4


def test_without_an_opponent_there_is_no_verdict(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [5, 5])
    oppose(folder, "uniform_mixup", 4, 4, seeds=[41, 42])
    result = result_of(folder)
    assert result.winner is not None
    assert result.verdict is result.selmix is None


def test_what_cannot_be_told_says_what_would(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [10, 10])
    oppose(folder, "balanced_head", 8)
    verdict = result_of(folder).verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.not_told_apart) == ("undecided", ["balanced_head"])
    # The interval narrows as 1 / sqrt(n): by hand from its lower limit, which must come to lie at 0.
    gap = verdict.difference
    assert verdict.samples_needed is not None
    assert verdict.samples_needed == pytest.approx(
        PER_CLASS * ((gap.value - gap.low) / gap.value) ** 2, abs=1
    )
    assert (verdict.samples, verdict.samples_to_tie) == (PER_CLASS, 1_537)


def test_where_the_best_opponent_is_told_apart_another_one_says_what_would(tmp_path: Path) -> None:
    # tau_normalisation is the best by score, and yet told apart: another one of a lower score is not.
    folder = sweep(tmp_path)
    add(folder, 0, [20, 20])
    oppose(folder, "balanced_head", 19)
    oppose(folder, "tau_normalisation", 2, score=0.97)
    verdict = result_of(folder, "selection.margin=0.001").verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.against) == ("undecided", "tau_normalisation")
    assert verdict.not_told_apart == ["balanced_head"]
    gap = verdict.differences["balanced_head"]
    ratio = (gap.value - gap.low) / gap.value
    assert ratio > 1.0
    assert verdict.samples_needed == pytest.approx(PER_CLASS * ratio**2, abs=1)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 1_537),
        (["selection.margin=0.1"], 62),
        (["selection.margin=0.2"], None),  # 16, and there are 20
        (["selection.metric=mean_recall"], None),
    ],
)
def test_a_minimum_on_few_samples_says_what_a_tie_takes(
    tmp_path: Path, overrides: list[str], expected: int | None
) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [20, 20], mean_recall=1.0)
    oppose(folder, "balanced_head", 0)
    verdict = result_of(folder, *overrides).verdict
    assert verdict is not None
    assert verdict.samples_to_tie == expected


def test_where_the_defaults_won_the_best_of_the_others_is_what_the_search_added(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for number, count in enumerate((10, 9, 11, 10)):
        add(folder, number, [count, count])
    result = result_of(folder, "selection.margin=0.1")
    assert result.winner is not None
    assert result.winner.is_default
    assert result.leader == "min_recall/trial-002"
    assert result.search_added is not None
    assert result.search_added.trial_id == "min_recall/trial-002"
    assert result.search_added.value == pytest.approx(1 / PER_CLASS)


def test_without_the_defaults_among_the_finalists_the_search_added_nothing_known(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 1, [10, 10])
    result = result_of(folder)
    assert result.winner is not None
    assert result.search_added is result.verdict is None


@pytest.mark.parametrize(
    ("name", "cost_s", "cheaper"),
    [
        # Of the same rung by its seconds a run, of a lower one in any case.
        ("of_another_version", 2 * 7.9, True), ("of_another_version", 2 * 8.0, False),
        ("of_another_version", 2 * 10.0, False), ("balanced_head", 2 * 100.0, True),
    ],
)  # fmt: skip
def test_an_opponent_is_cheaper_by_its_rung_or_a_run_of_it(
    tmp_path: Path, name: str, cost_s: float, cheaper: bool
) -> None:
    assert CHEAPER == 0.8
    folder = sweep(tmp_path)
    winner = add(folder, 0, [10, 10], cost_s=10.0)
    rung = "head" if name in BASELINES else "finetune"
    oppose(folder, name, 10, 10, cost_s=cost_s, seeds=[41, 42], rung=rung)
    judge = Judge(folder, spec(), "min_recall")
    rows = judge.candidates(Choice(winner.trial_id, [winner.trial_id], winner.trial_id))
    verdict = judge.verdict(rows[0], rows)
    assert verdict is not None
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
