"""Results as values: rows of the table, and ``results.json`` of this version, of an earlier one, and damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.documents import from_document, to_document
from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import (
    BaseFacts,
    CrossFittedScore,
    Figure,
    TrialRecord,
    TrialState,
    baseline_id,
)
from orchestrator.results.rows import (
    BaselineRow,
    Bound,
    Choice,
    Choices,
    ChosenBy,
    ComparisonRow,
    ComparisonTable,
    ObjectiveResult,
    ReplicateMeans,
    RungChoice,
    RungStep,
    SweepResult,
    Verdict,
    VerdictOutcome,
    Winner,
    base_labels,
    baseline_row,
    load_results,
    row_of,
    said,
)
from selmix.baselines import BASELINES
from selmix.config import FinetuneConfig
from selmix.rungs import RUNGS

few = settings(max_examples=30, deadline=None, derandomize=True)
numbers, texts = st.floats(allow_nan=False), st.text(max_size=6)
names = st.lists(texts, max_size=2)
metrics = st.dictionaries(texts, st.builds(Figure, numbers, numbers, numbers), max_size=2)
winners = st.builds(
    Winner, texts, st.integers(0), st.none() | st.integers(0), st.none() | st.integers(0), st.none() | texts,
    st.dictionaries(texts, st.none() | st.booleans() | numbers | texts, max_size=2), st.booleans(),
    st.none() | numbers, metrics, numbers, names,
    st.builds(ReplicateMeans, st.lists(st.integers(), max_size=2), numbers, metrics), row=st.none() | texts,
    rung=st.sampled_from(RUNGS), approach=texts, deviations=st.none() | st.dictionaries(texts, texts, max_size=1),
    replicate_of=st.none() | texts, file=st.integers(0), chosen_by=st.none() | st.sampled_from(get_args(ChosenBy)),
)  # fmt: skip
cross_fitted = st.builds(
    CrossFittedScore, st.none() | numbers, st.integers(2), st.integers(0), texts, st.none() | numbers
)  # fmt: skip
gaps = st.builds(Figure, numbers, numbers, numbers)
verdicts = st.builds(
    Verdict, st.sampled_from(get_args(VerdictOutcome)), texts, gaps, margin=st.none() | numbers,
    within_margin=st.booleans(), differences=st.dictionaries(texts, gaps, max_size=2), not_told_apart=names,
    worse_than=names, samples=st.none() | st.integers(), samples_needed=st.none() | st.integers(),
    samples_to_tie=st.none() | st.integers(), row=st.none() | texts,
)  # fmt: skip
baselines = st.builds(
    BaselineRow, metrics, names, numbers, st.booleans(), st.none() | numbers, st.sampled_from(get_args(TrialState)),
    st.none() | texts, st.lists(st.integers(), max_size=2), st.dictionaries(texts, numbers | texts, max_size=2),
    st.none() | texts, st.none() | cross_fitted,
)  # fmt: skip
tables = st.builds(
    ComparisonTable, texts, numbers | texts,
    st.lists(st.builds(ComparisonRow, numbers | texts | st.booleans(), st.none(), st.none()), max_size=2),
)  # fmt: skip
results = st.builds(
    ObjectiveResult, st.none() | texts, st.none() | st.booleans(), st.none() | winners, names, st.none() | texts,
    verdict=st.none() | verdicts, selmix=st.none() | verdicts,
    baselines=st.dictionaries(texts, baselines, max_size=2), compare=st.none() | tables,
    rungs=st.lists(
        st.builds(
            RungChoice, st.sampled_from(RUNGS), st.sampled_from(get_args(ChosenBy)), names, texts, texts, texts
        ),
        max_size=2,
    ),
    climb=st.lists(
        st.builds(
            RungStep, st.sampled_from(RUNGS), texts, texts, numbers, numbers, st.none() | texts,
            st.none() | st.builds(Figure, numbers, numbers, numbers), texts, st.none() | numbers,
        ),
        max_size=2,
    ),
)  # fmt: skip
choices = st.none() | st.builds(Choice, texts, names, texts)


def winner(**more: Any) -> Winner:
    made = Winner(
        "o/trial-000", 0, 1, 20, "sha256:1", {}, True, 0.0, {}, 1.0, ["train"], ReplicateMeans([1], 0.0, {}),
        row="o/trial-000", deviations={},
    )  # fmt: skip
    return replace(made, **more)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.local(tmp_path, "s")
    made.create()
    return made


def baseline(name: str, **more: Any) -> TrialRecord:
    return TrialRecord(baseline_id("o", name), "o", "baseline", 0, 0, **more)


@few
@given(st.builds(SweepResult, objectives=st.dictionaries(texts, results, max_size=2)))
def test_a_result_comes_back_from_json_as_it_was(result: SweepResult) -> None:
    assert from_document(SweepResult, json.loads(json.dumps(to_document(result)))) == result


@few
@given(st.builds(Choices, objectives=st.dictionaries(texts, choices, max_size=3)))
def test_choices_come_back_from_json_as_they_were(made: Choices) -> None:
    assert from_document(Choices, json.loads(json.dumps(to_document(made)))) == made


def test_no_result_is_none_before_it_was_decided(folder: RunFolder) -> None:
    assert load_results(folder) is None


def test_a_stored_result_is_loaded_with_its_zeros(folder: RunFolder) -> None:
    result = SweepResult(
        objectives={"o": ObjectiveResult("m", True, winner(cost_s=0.0)), "p": ObjectiveResult()}
    )
    folder.save(folder.results_path, result)
    loaded = load_results(folder)
    assert loaded == result
    assert loaded.undecided == ["p"]
    assert loaded.objectives["o"].winner is not None
    assert loaded.objectives["o"].winner.score == 0.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "must be a readable JSON document"),
        ('{"objectives": {"o": {', "must be a readable JSON document"),
        ("[]", "must be a JSON object, got list"),
        ("{}", "must be a result as selmix launch writes it: .*objectives"),
        (
            '{"objectives": {"o": {"winner": {"trial_id": "x"}}}}',
            "must be a result as selmix launch writes it: ",
        ),
        ('{"objectives": {"o": {"tied": "x"}}}', "must be a result as selmix launch writes it: .*tied"),
    ],
)
def test_a_damaged_result_is_named(folder: RunFolder, content: str, words: str) -> None:
    folder.results_path.write_text(content)
    with pytest.raises(PreflightError, match=rf"(?s)s/results\.json: {words}"):
        load_results(folder)


@pytest.mark.parametrize(
    ("config", "deviations"),
    [
        ({}, {}),
        ({"second": "oracle"}, {"second": "true labels of the unlabelled samples"}),
        ({"second": "oracle", "coefficient_min": 1.0}, {}),
        ({"gain_formula": "released_code"}, {"gain_formula": "the gain of the released code"}),
    ],
)
def test_a_winner_of_an_earlier_version_gets_the_keys_that_it_lacks(
    folder: RunFolder, config: dict[str, Any], deviations: dict[str, str]
) -> None:
    whole = winner(config=FinetuneConfig(**config).flat())
    folder.save(folder.results_path, SweepResult(objectives={"o": ObjectiveResult("m", True, whole)}))
    document = json.loads(folder.results_path.read_text())
    for key in ("row", "rung", "approach", "deviations"):
        del document["objectives"]["o"]["winner"][key]
    del document["schema_version"]
    folder.results_path.write_text(json.dumps(document))
    loaded = load_results(folder)
    assert loaded is not None
    assert loaded.objectives["o"].winner == replace(whole, deviations=deviations)


def test_a_result_of_before_the_choice_within_rungs_says_nothing_of_it(folder: RunFolder) -> None:
    fitted = CrossFittedScore(0.5, 5, 80, violation=0.0)
    rows = {"x": baseline_row(baseline("x", cross_fitted=fitted))}
    choice = RungChoice("head", "cross_fitted", ["x"], "x", "x")
    result = ObjectiveResult("m", True, winner(chosen_by="cross_fitted"), baselines=rows, rungs=[choice])
    folder.save(folder.results_path, SweepResult(objectives={"o": result}))
    document = json.loads(folder.results_path.read_text())
    stored = document["objectives"]["o"]
    del stored["rungs"], stored["winner"]["chosen_by"], stored["baselines"]["x"]["cross_fitted"]
    folder.results_path.write_text(json.dumps(document))
    loaded = load_results(folder)
    assert loaded is not None
    assert loaded.objectives["o"] == replace(
        result, winner=winner(), rungs=[], baselines={"x": replace(rows["x"], cross_fitted=None)}
    )


def test_a_cross_fitted_score_of_before_knows_no_violation(folder: RunFolder) -> None:
    record = baseline("x", cross_fitted=CrossFittedScore(0.5, 5, 80, violation=0.0))
    folder.save_trial(record)
    path = folder.trial_folder(record.trial_id) / "record.json"
    document = json.loads(path.read_text())
    del document["cross_fitted"]["violation"]
    path.write_text(json.dumps(document))
    assert folder.load_trial(record.trial_id).cross_fitted == CrossFittedScore(0.5, 5, 80)


def test_a_verdict_of_an_earlier_version_is_told_by_its_missing_margin(folder: RunFolder) -> None:
    gap = {"value": 0.1, "low": -0.1, "high": 0.3}
    earlier = {
        "outcome": "tied", "against": "untouched", "difference": gap, "split": "select", "optimistic": True,
        "against_is_cheaper": True,
    }  # fmt: skip
    folder.results_path.write_text(json.dumps({"objectives": {"o": {"metric": "m", "verdict": earlier}}}))
    loaded = load_results(folder)
    assert loaded is not None
    verdict = loaded.objectives["o"].verdict
    assert verdict == Verdict("tied", "untouched", Figure(0.1, -0.1, 0.3), against_is_cheaper=True)
    assert (verdict.margin, verdict.differences, verdict.samples) == (None, {}, None)
    assert loaded.objectives["o"].selmix is None


@pytest.mark.parametrize("outcome", get_args(VerdictOutcome))
def test_every_outcome_has_its_words(outcome: VerdictOutcome) -> None:
    assert said(outcome).split()[-1] in ("than", "with", "from")


def test_deviations_that_were_stored_are_not_worded_anew(folder: RunFolder) -> None:
    stored = winner(config=FinetuneConfig(second="oracle").flat(), deviations={"second": "in other words"})
    folder.save(folder.results_path, SweepResult(objectives={"o": ObjectiveResult("m", True, stored)}))
    loaded = load_results(folder)
    assert loaded is not None
    assert loaded.objectives["o"].winner == stored


def test_the_row_of_a_trial_names_what_it_read_and_keeps_a_score_of_zero() -> None:
    record = TrialRecord(
        "o/trial-000", "o", "trial", 0, 7, state="FINISHED", score=0.0, cost_s=2.0, feasible=False
    )
    row = row_of(record, ["checkpoint"])
    assert (row.rung, row.approach, row.seeds) == ("finetune", "selmix", [7])
    assert row.labels == ["checkpoint", "feedback", "select"]
    assert (row.score, row.cost_s, row.feasible, row.state) == (0.0, 2.0, False, "FINISHED")
    assert row_of(TrialRecord("o/trial-001", "o", "trial", 1, 7), []).score is None


def test_the_row_of_a_baseline_has_its_own_labels_seeds_and_rung() -> None:
    fitted = CrossFittedScore(0.5, 5, 80, violation=0.0)
    record = baseline(
        "balanced_head", labels=["train"], seeds=[1, 2], rung="head", correction="tau", score=0.0,
        cross_fitted=fitted,
    )  # fmt: skip
    row = row_of(record, ["checkpoint"])
    assert row.cross_fitted == baseline_row(record).cross_fitted == fitted
    assert (row.rung, row.approach, row.labels, row.seeds) == ("head", "balanced_head", ["train"], [1, 2])
    assert (row.correction, row.score) == ("tau", 0.0)


@pytest.mark.parametrize("name", [*BASELINES, "of_another_version"])
def test_a_baseline_without_a_rung_has_that_of_the_catalogue(name: str) -> None:
    expected = BASELINES[name].rung if name in BASELINES else "head"
    assert row_of(baseline(name), []).rung == expected
    assert row_of(baseline(name, rung="scores"), []).rung == "scores"


@pytest.mark.parametrize(("seeds", "per_run"), [([], 6.0), ([4], 6.0), ([1, 2, 3], 2.0)])
def test_the_cost_of_a_baseline_is_the_sum_over_its_seeds(seeds: list[int], per_run: float) -> None:
    row = baseline_row(baseline("x", cost_s=6.0, seeds=seeds, score=0.0, error="e", note={"tau": 0.0}))
    assert row.cost_per_run_s == per_run
    assert (row.score, row.error, row.note, row.seeds) == (0.0, "e", {"tau": 0.0}, seeds)


def test_labels_of_the_base_model_are_not_known_of_a_checkpoint() -> None:
    assert base_labels(None) == base_labels(BaseFacts("d", 1.0, recipe="erm")) == ["train"]
    assert base_labels(BaseFacts("d", 0.0, checkpoint="w")) == ["checkpoint"]


@pytest.mark.parametrize(
    ("bound", "met", "broken"),
    [
        (Bound("recall_gap", None, 0.35), 0.35000000000000003, 0.3501),
        (Bound("min_recall", 0.3, None), 1.0 - 0.7, 0.2999),
        (Bound("min_recall", 0.3, None), 0.29999999999999993, 0.2999),
    ],
)
def test_a_bound_is_met_at_its_edge_whatever_the_last_digits(bound: Bound, met: float, broken: float) -> None:
    assert (bound.is_broken(met), bound.is_broken(broken)) == (False, True)
