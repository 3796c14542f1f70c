"""Finalists, winner, opponent and verdict; the winner is decided once and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import (
    BaseFacts,
    CrossFittedScore,
    DataFacts,
    Figure,
    SweepState,
    TrialRecord,
    baseline_id,
    replicate_record,
)
from orchestrator.results.candidates import Candidate, baseline_candidate
from orchestrator.results.judge import Judge, decided, judged
from orchestrator.results.predictions import load_predictions
from orchestrator.results.rows import Choice, Choices, ObjectiveResult, RungChoice
from orchestrator.results.shipped import replicate_weights
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import difference
from orchestrator.verbs.show_text import answer
from selmix.baselines import BASELINES
from selmix.config import FinetuneConfig
from selmix.weights import save_weights, state_digest
from tests.orchestrator.spec.test_schema import MINIMAL, spec_of

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


BOUNDED = (
    "constraints=[{metric: min_coverage, at_least: 0.4}]", "data={name: gaussians, classes: 2}",
    "model={name: linear_head}",
)  # fmt: skip


def covered(coverage: float) -> dict[str, Figure]:
    return figures(10) | {"min_coverage": Figure(coverage, coverage, coverage)}


def test_where_no_trial_is_feasible_a_row_that_meets_the_bound_wins(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [20, 20], min_coverage=0.3)
    oppose(folder, "untouched", 20, cost_s=0.0, feasible=False, select=covered(0.2))
    oppose(folder, "post_hoc_bias_search", 6, select=covered(0.45))
    oppose(folder, "last_layer_post_hoc", 12, select=covered(0.5))
    oppose(folder, "retrained_logit_adjusted", 20, select=covered(0.5))
    result = result_of(folder, *BOUNDED)
    assert result.winner is not None
    assert (result.winner.approach, result.winner.rung, result.winner.config) == (
        "last_layer_post_hoc",
        "head",
        {},
    )
    assert result.verdict is not None
    assert list(result.verdict.differences) == ["post_hoc_bias_search"]
    # SelMix has a finalist that breaks the bound, and no row that can stand.
    assert (result.selmix, result.leader, result.tied, result.search_added) == (None, None, [], None)
    assert [row.trial_id for row in result.finalists] == ["min_recall/trial-000"]
    assert result.front == ["min_recall/baseline/last_layer_post_hoc"]
    assert judged(folder, spec(*BOUNDED)).undecided == []


def test_where_no_row_at_all_is_feasible_none_wins(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [20, 20], min_coverage=0.3)
    oppose(folder, "untouched", 20, cost_s=0.0, feasible=False, select=covered(0.2))
    oppose(folder, "retrained_logit_adjusted", 20, select=covered(0.5))  # a reference
    assert judged(folder, spec(*BOUNDED)).undecided == ["min_recall"]
    assert result_of(folder, *BOUNDED).winner is None


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


def test_a_winner_of_few_labels_is_shown_beside_the_best_row_of_more(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [16, 18])
    oppose(folder, "untouched", 2, cost_s=0.0)
    oppose(folder, "post_hoc_logit_adjustment", 18)
    oppose(folder, "post_hoc_bias_search", 3)
    oppose(folder, "last_layer_post_hoc_both", 19)
    oppose(folder, "retrained_logit_adjusted", 20, cost_s=99.0)
    oppose(folder, "mislas_stage_two", 20, feasible=False)
    # Within the margin of the best the cheapest ships, whatever labels it used.
    result = result_of(folder, "selection.margin=0.06")
    assert (result.winner and result.winner.approach) == "post_hoc_logit_adjustment"
    assert result.verdict is not None
    assert (result.verdict.outcome, list(result.verdict.differences)) == ("better", ["untouched"])
    more = result.verdict.more_labels
    # Neither the reference, nor a row that breaks a bound.
    assert more is not None
    assert (more.rows, more.is_higher) == (
        ["last_layer_post_hoc_both", "selmix", "post_hoc_bias_search"],
        True,
    )
    assert more.difference == Judge(folder, spec(), "min_recall").difference(
        [folder.load_trial("min_recall/baseline/post_hoc_logit_adjustment")],
        [folder.load_trial("min_recall/baseline/last_layer_post_hoc_both")],
    )
    assert (more.difference.value, more.difference.low < -0.05) == (pytest.approx(-0.05), True)
    assert result.more_labels is None
    # SelMix used all labels that there are.
    assert result.selmix is not None
    assert result.selmix.more_labels is None
    assert "every opponent" not in answer(result)
    assert answer(result).endswith("pp on select); last_layer_post_hoc_both, of more labels, is higher: " + (
        f"{difference(more.difference)} pp"
    ))  # fmt: skip


def test_an_untouched_winner_without_opponents_too(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    add(folder, 0, [3, 3])
    oppose(folder, "untouched", 3, cost_s=0.0)
    oppose(folder, "balanced_head", 2)
    result = result_of(folder)
    assert (result.winner and result.winner.approach, result.verdict) == ("untouched", None)
    assert result.more_labels is not None
    assert (result.more_labels.rows, result.more_labels.is_higher) == (["selmix", "balanced_head"], False)
    assert result.more_labels.difference.value == 0.0
    assert answer(result).endswith("; none of the 2 rows of more labels is higher")


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


TWO_CLASSES = ("data={name: gaussians, classes: 2}", "model={name: linear_head}")


def bounded(least: float) -> tuple[str, ...]:
    return (f"constraints=[{{metric: min_coverage, at_least: {least}, in: [search]}}]", *TWO_CLASSES)


@pytest.mark.parametrize(
    ("bound", "file"),
    [
        ("at_least: 0.44, in: [search]", "seed-2"),  # 19 of 20, the highest, meets it
        ("at_most: 0.46, in: [search]", "seed-3"),  # the higher of the two that meet it
        ("at_most: 0.4, in: [search]", "seed-1"),  # none meets it: the nearest
        ("at_most: 0.46, in: [method]", "seed-2"),  # inside the method it decides nothing here
    ],
)
def test_a_file_that_meets_the_bounds_ships_before_a_higher_one_that_does_not(
    tmp_path: Path, bound: str, file: str
) -> None:
    folder = sweep(tmp_path)
    # The least coverage of a model with h of 20 hits is h / 40: .425, .475 and .45.
    made = add(folder, 0, [17, 19, 18])
    judge = Judge(
        folder, spec(f"constraints=[{{metric: min_coverage, {bound}}}]", *TWO_CLASSES, replicates=3), "min_recall"
    )  # fmt: skip
    (row, *_) = judge.candidates(Choice(made.trial_id, [made.trial_id], made.trial_id))
    ships = judge.shipped(row)
    assert ships.record.name == file
    hits = int(ships.predictions.correct.sum()) - PER_CLASS
    assert ships.score == pytest.approx(
        hits / PER_CLASS, abs=0.02
    )  # the bootstrap mean of a minimum lies below it


# -- within a rung ------------------------------------------------------------------------------------------


def fitted(score: float | None, **more: Any) -> CrossFittedScore:
    return CrossFittedScore(score, 5, 80, **({"violation": None if score is None else 0.0} | more))


def heads(folder: RunFolder, *scores: CrossFittedScore | None) -> None:
    """SelMix far behind, and two heads: the first is ahead on select."""
    add(folder, 0, [1, 1])
    for name, hits, score in zip(("balanced_head", "tau_normalisation"), (19, 15), scores, strict=True):
        oppose(folder, name, hits, rung="head", cross_fitted=score)


def test_the_cross_fitted_score_chooses_the_winner_within_its_rung(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    heads(folder, fitted(0.70), fitted(0.85))
    result = result_of(folder)
    assert result.winner is not None
    assert (result.winner.approach, result.winner.chosen_by) == ("tau_normalisation", "cross_fitted")
    assert result.winner.checkpoint_digest == state_digest(weights(15))
    first, second = (baseline_id("min_recall", name) for name in ("balanced_head", "tau_normalisation"))
    assert result.rungs == [
        RungChoice("head", "cross_fitted", [second], best=second, leader=first),
        RungChoice("finetune", "select", ["min_recall/trial-000"], *["min_recall/trial-000"] * 2),
    ]
    # The verdict is on select, and the row that was passed over is its best opponent.
    assert result.verdict is not None
    assert result.verdict.against == "balanced_head"
    assert result.verdict.difference.value == pytest.approx(-4 / PER_CLASS)
    assert result.front == [second]
    assert result.selmix is not None
    assert set(result.selmix.differences) == {"balanced_head", "tau_normalisation"}


def test_what_a_refused_score_leaves_to_select_is_stored_with_the_reason(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    heads(folder, fitted(None, reason="too few samples"), fitted(0.85))
    result = result_of(folder)
    assert result.winner is not None
    assert (result.winner.approach, result.winner.chosen_by) == ("balanced_head", "select")
    assert result.rungs[0].reason == "balanced_head: too few samples"


def test_a_row_that_breaks_a_bound_out_of_fold_does_not_win_by_its_cross_fitted_score(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    heads(folder, fitted(0.80), fitted(0.95, violation=0.01))
    replicates = [record for record in folder.load_trials() if record.kind == "replicate"]
    for record in (*replicates, *folder.load_baselines("min_recall")):
        record.select = {**record.select, "min_coverage": Figure(0.45, 0.4, 0.5)}
        folder.save_trial(record)
    result = result_of(folder, *bounded(0.44))
    assert result.winner is not None
    assert (result.winner.approach, result.winner.chosen_by) == ("balanced_head", "cross_fitted")
    # Without the bound the higher score stands.
    folder.choices_path.unlink()
    loose = result_of(folder, *TWO_CLASSES)
    assert loose.winner is not None
    assert loose.winner.approach == "tau_normalisation"


def test_a_file_of_predictions_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(tmp_path)
    for number in (0, 1):
        add(folder, number, [10 + number, 12])
    for name in ("balanced_head", "last_layer_post_hoc", "untouched"):
        oppose(folder, name, 11)
    read: list[str] = []
    load = RunFolder.load_predictions

    def counted(self: RunFolder, trial_id: str) -> Any:
        read.append(trial_id)
        return load(self, trial_id)

    monkeypatch.setattr(RunFolder, "load_predictions", counted)
    result = result_of(folder)
    assert result.verdict is not None
    assert len(result.verdict.differences) > 1
    assert sorted(read) == sorted({*read})
    assert len(read) == 4 + 3


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
    oppose(folder, "balanced_head", 0, select=figures(0, mean_recall=0.5))
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


@pytest.mark.parametrize(("name", "cheaper"), [("of_another_version", False), ("balanced_head", True)])
@pytest.mark.parametrize("cost_s", [0.1, 10.0, 1000.0])
def test_an_opponent_is_cheaper_by_its_rung_whatever_a_clock_says(
    tmp_path: Path, name: str, cost_s: float, cheaper: bool
) -> None:
    folder = sweep(tmp_path)
    winner = add(folder, 0, [10, 10], cost_s=10.0)
    rung = "head" if name in BASELINES else "finetune"
    oppose(folder, name, 10, 10, cost_s=cost_s, seeds=[41, 42], rung=rung)
    judge = Judge(folder, spec(), "min_recall")
    rows = judge.candidates(Choice(winner.trial_id, [winner.trial_id], winner.trial_id))
    verdict = judge.verdict(rows[0], rows)
    assert verdict is not None
    assert verdict.against_is_cheaper is cheaper


def test_of_heads_those_that_take_no_steps_are_cheaper() -> None:
    def head(name: str, config: dict[str, Any]) -> Candidate:
        record = TrialRecord(
            baseline_id("min_recall", name), "min_recall", "baseline", 0, 0, config=config, score=0.5, labels=["train"],
            rung="head",
        )  # fmt: skip
        return baseline_candidate(record, 0, 400)

    screened, solved = head("selmix_head", {"steps": 200}), head("balanced_head", {})
    assert (screened.steps, solved.steps) == (200, 0)
    assert solved.effort < screened.effort
    assert not screened.effort < solved.effort


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
