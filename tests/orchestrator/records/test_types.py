"""Records as values: identities, names, and JSON that comes back as it went."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.documents import from_document, to_document
from orchestrator.provenance import Environment, GitState, Hardware
from orchestrator.records.types import (
    BaseFacts,
    ClusterFacts,
    DataFacts,
    Figure,
    Kind,
    Opening,
    SweepState,
    TrialRecord,
    TrialState,
    baseline_id,
    config_hash,
    new_sweep_id,
    replicate_record,
    trial_record,
)

few = settings(max_examples=40, deadline=None, derandomize=True)
numbers = st.floats(allow_nan=False)
texts = st.text(max_size=8)
maybe_text = st.none() | texts
figures = st.builds(Figure, numbers, numbers, numbers)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
configs = st.dictionaries(texts, plain, max_size=3)
records = st.builds(
    TrialRecord,
    trial_id=texts, objective=texts, kind=st.sampled_from(get_args(Kind)), number=st.integers(0), seed=st.integers(0),
    replicate_of=maybe_text, arm=texts, config=configs, point=configs, state=st.sampled_from(get_args(TrialState)),
    error=maybe_text, round=st.none() | st.integers(0), score=st.none() | numbers, feasible=st.booleans(),
    select=st.dictionaries(texts, figures, max_size=2), checkpoint=maybe_text, labels=st.lists(texts, max_size=2),
    seeds=st.lists(st.integers(), max_size=2), note=st.dictionaries(texts, numbers | texts, max_size=2),
    rung=st.none() | st.sampled_from(["scores", "head", "finetune", "retrain"]),
)  # fmt: skip
environments = st.builds(
    Environment,
    git=st.builds(GitState, maybe_text, st.none() | st.booleans()),
    packages=st.dictionaries(texts, maybe_text, max_size=2),
    hardware=st.builds(Hardware, maybe_text, st.none() | st.integers(0), st.lists(texts, max_size=2)),
    torch_threads=st.none() | st.integers(0),
)
states = st.builds(
    SweepState,
    name=texts, sweep_id=texts, state=st.sampled_from(["running", "stopped", "finished", "failed"]), ended=maybe_text,
    exit_code=st.none() | st.integers(0, 8), cancelled=st.booleans(), method=st.integers(0),
    data=st.none()
    | st.builds(
        DataFacts, st.lists(texts, max_size=2), st.lists(st.integers(0), max_size=2),
        st.dictionaries(texts, texts, max_size=2), st.integers(0), st.lists(texts, max_size=2),
    ),
    base=st.none()
    | st.builds(BaseFacts, texts, numbers, maybe_text, st.none() | st.integers(0), maybe_text, maybe_text),
    environment=st.none() | environments,
    cluster=st.none() | st.builds(ClusterFacts, texts, maybe_text, st.none() | st.integers(0), maybe_text, maybe_text),
    test_openings=st.lists(st.builds(Opening, texts, texts), max_size=2), problem=maybe_text, unsent=st.integers(0),
)  # fmt: skip


def through_json(document: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read


@few
@given(records)
def test_a_run_comes_back_from_json_as_it_was(record: TrialRecord) -> None:
    assert from_document(TrialRecord, through_json(to_document(record))) == record


@few
@given(states)
def test_a_sweep_comes_back_from_json_as_it_was(state: SweepState) -> None:
    assert SweepState.from_document(through_json(state.to_document())) == state


@few
@given(records, st.data())
def test_an_old_record_reads_as_the_defaults_of_the_keys_that_it_lacks(
    record: TrialRecord, data: st.DataObject
) -> None:
    added = [
        each.name
        for each in fields(TrialRecord)
        if (each.default, each.default_factory) != (MISSING, MISSING)
    ]
    lacking = data.draw(st.sets(st.sampled_from(added)))
    document = {key: value for key, value in to_document(record).items() if key not in lacking}
    read = from_document(TrialRecord, through_json(document))
    blank = TrialRecord(record.trial_id, record.objective, record.kind, record.number, record.seed)
    for each in fields(TrialRecord):
        expected = blank if each.name in lacking else record
        assert getattr(read, each.name) == getattr(expected, each.name)


@pytest.mark.parametrize("score", [math.nan, 0.0, None])
def test_a_score_of_nan_of_zero_and_no_score_stay_apart(score: float | None) -> None:
    record = TrialRecord("o/trial-000", "o", "trial", 0, 0, score=score)
    read = from_document(TrialRecord, through_json(to_document(record))).score
    assert repr(read) == repr(score)


def test_keys_of_a_later_version_are_left_out() -> None:
    record = TrialRecord("o/trial-000", "o", "trial", 0, 0)
    assert from_document(TrialRecord, to_document(record) | {"colour": "red"}) == record
    state = SweepState("s", "1")
    assert SweepState.from_document(state.to_document() | {"colour": "red"}) == state


@pytest.mark.parametrize("key", ["trial_id", "objective", "kind", "number", "seed"])
def test_a_record_without_its_identity_is_none(key: str) -> None:
    document = to_document(TrialRecord("o/trial-000", "o", "trial", 0, 0))
    del document[key]
    with pytest.raises(ValueError, match=key):
        from_document(TrialRecord, document)


def test_unknown_facts_of_a_sweep_are_empty_objects_and_absent_ones_are_unknown_too() -> None:
    document = SweepState("s", "1").to_document()
    assert [document[key] for key in ("data", "base", "environment", "cluster")] == [{}, {}, {}, {}]
    for key in ("data", "base", "environment", "cluster"):
        del document[key]
    assert SweepState.from_document(document) == SweepState("s", "1")
    assert SweepState.from_document({"name": "s", "sweep_id": "1"}) == SweepState("s", "1")


def test_the_base_model_is_stored_with_its_origin_first_and_without_empty_keys() -> None:
    trained = BaseFacts("sha256:1", 2.0, recipe="erm", seed=0)
    assert list(trained.to_document().items()) == [
        ("recipe", "erm"), ("seed", 0), ("digest", "sha256:1"), ("cost_s", 2.0),
    ]  # fmt: skip
    assert trained.source == "pre-trained by erm"
    given = BaseFacts("sha256:1", 0.0, checkpoint="w.safetensors")
    assert list(given.to_document()) == ["checkpoint", "digest", "cost_s"]
    assert given.source == "w.safetensors"


def test_ids_name_study_number_and_seed() -> None:
    plain_trial = trial_record("o", 7, 3, {"lr": 0.1}, {"lr": 0.1})
    assert (plain_trial.trial_id, plain_trial.study, plain_trial.seed) == ("o/trial-007", "o", 3)
    trial = trial_record("o", 1234, 3, {"lr": 0.1}, {"lr": 0.1}, arm="policy=uniform")
    assert (trial.trial_id, trial.study) == ("o/policy=uniform/trial-1234", "o/policy=uniform")
    trial.reference_arm = False
    again = replicate_record(trial, 2, seed=9)
    assert again.trial_id == "o/policy=uniform/trial-1234/seed-2"
    assert (again.kind, again.seed, again.replicate_of) == ("replicate", 9, trial.trial_id)
    shared = ("objective", "number", "arm", "reference_arm", "config", "config_hash")
    assert [getattr(again, key) for key in shared] == [getattr(trial, key) for key in shared]
    assert again.state == "RUNNING"


@pytest.mark.parametrize(
    ("record", "name", "shown"),
    [
        (trial_record("o", 7, 0, {}, {}), "trial-007", "trial-007"),
        (trial_record("o", 7, 0, {}, {}, arm="policy=uniform"), "trial-007", "policy=uniform-trial-007"),
        (replicate_record(trial_record("o", 7, 0, {}, {}), 1, 1), "seed-1", "trial-007-seed-1"),
        (
            replicate_record(trial_record("o", 7, 0, {}, {}, arm="policy=uniform"), 1, 1),
            "seed-1",
            "policy=uniform-trial-007-seed-1",
        ),
        (
            TrialRecord(baseline_id("o", "untouched"), "o", "baseline", 0, 0),
            "untouched",
            "baseline-untouched",
        ),
    ],
)
def test_names_of_runs(record: TrialRecord, name: str, shown: str) -> None:
    assert (record.name, record.display_name) == (name, shown)


@pytest.mark.parametrize("state", get_args(TrialState))
def test_a_run_is_done_unless_it_can_be_run_again(state: TrialState) -> None:
    record = TrialRecord("o/trial-000", "o", "trial", 0, 0, state=state)
    assert record.is_done == (state not in {"RUNNING", "INTERRUPTED", "KILLED"})


def test_the_defaults_are_trial_0_of_the_reference_arm_only() -> None:
    assert TrialRecord("o/trial-000", "o", "trial", 0, 0).is_default
    assert not TrialRecord("o/trial-001", "o", "trial", 1, 0).is_default
    assert not TrialRecord("o/a=1/trial-000", "o", "trial", 0, 0, arm="a=1", reference_arm=False).is_default


def test_the_identity_of_settings_is_their_values_under_an_objective() -> None:
    one = config_hash("o", {"lr": 0.1, "steps": 7})
    assert len(one) == 12
    assert int(one, 16) >= 0
    assert config_hash("o", {"steps": 7, "lr": 0.1}) == one
    others = [
        config_hash("p", {"lr": 0.1, "steps": 7}), config_hash("o", {"lr": 0.2, "steps": 7}),
        config_hash("o", {"lr": 0.1}), config_hash("o", {"lr": 0.1, "steps": 7, "top_k": None}), config_hash("o", {}),
    ]  # fmt: skip
    assert len({one, *others}) == 6


def test_the_identity_of_settings_never_changes() -> None:
    """Records of earlier versions hold it: a finalist is found again by it."""
    assert config_hash("min_recall", {"lr": 0.03, "policy": "softmax"}) == "cce367de1880"


def test_sweep_ids_are_sixteen_digits_and_fresh() -> None:
    made = {new_sweep_id() for _ in range(50)}
    assert len(made) == 50
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in made)
