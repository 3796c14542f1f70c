"""Preflight: a sweep resumes with the file, the method and the MLflow that it began with, and with no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.documents import Document
from orchestrator.errors import PreflightError, UsageError
from orchestrator.records.folder import RunFolder
from orchestrator.records.store import LocalStore
from orchestrator.records.types import DataFacts, SweepState
from orchestrator.run.preflight import changed_keys, check_all, check_same_data, check_unchanged
from orchestrator.spec.checks import load_spec
from selmix import METHOD
from tests.command import SMOKE

ADDRESS = "http://me:pa55word@mlflow:5000"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.local(tmp_path, "smoke")
    made.create()
    made.save_spec(load_spec(SMOKE).resolved())
    return made


def begun(folder: RunFolder, **known: Any) -> RunFolder:
    state = {"tracking_uri": "http://mlflow:5000", "method": METHOD} | known
    folder.save_state(SweepState("smoke", "1" * 16, **state))
    return folder


def test_the_same_sweep_resumes_with_other_credentials(folder: RunFolder) -> None:
    begun(folder)
    for address in (ADDRESS, "http://you@mlflow:5000", "http://mlflow:5000"):
        check_unchanged(folder, load_spec(SMOKE), address)
    begun(folder, tracking_uri="")  # a record from before addresses were kept
    check_unchanged(folder, load_spec(SMOKE), ADDRESS)


def test_every_key_that_changed_is_named_with_both_values(folder: RunFolder) -> None:
    spec = load_spec(SMOKE, ["search.num_trials=9", "parameters.lr.max=0.2", "data.seed=1"])
    with pytest.raises(UsageError) as refused:
        check_unchanged(begun(folder), spec, ADDRESS)
    assert refused.value.exit_code == 2
    assert (
        "changed: data.seed (0 -> 1), parameters.lr.max (0.1 -> 0.2), search.num_trials (4 -> 9). Launch"
        in str(refused.value)
    )


def test_another_margin_later_is_refused_also_where_the_sweep_is_finished(folder: RunFolder) -> None:
    for known in ({}, {"exit_code": 0, "state": "finished"}):
        with pytest.raises(UsageError, match=r"changed: selection\.margin \(nothing -> 0\.05\)") as refused:
            check_unchanged(begun(folder, **known), load_spec(SMOKE, ["selection.margin=0.05"]), ADDRESS)
        assert refused.value.exit_code == 2
    # A sweep from before margins has none stored, and resumes without one.
    stored = load_spec(SMOKE).resolved()
    del stored["selection"]["margin"]
    folder.save_spec(stored)
    check_unchanged(begun(folder), load_spec(SMOKE), ADDRESS)


def test_another_method_ends_no_sweep_that_it_did_not_begin(folder: RunFolder) -> None:
    begun(folder, method=METHOD - 1)
    with pytest.raises(
        UsageError, match=f"begun with method {METHOD - 1}, this is method {METHOD}"
    ) as refused:
        check_unchanged(folder, load_spec(SMOKE), ADDRESS)
    assert refused.value.exit_code == 2
    # It has no more runs: any version may send it to MLflow.
    check_unchanged(begun(folder, method=METHOD - 1, exit_code=0), load_spec(SMOKE), ADDRESS)


def test_other_data_under_the_same_path_are_refused(folder: RunFolder) -> None:
    digests = {"train": "sha256:1", "select": "sha256:2", "test": "sha256:3"}
    data: Any = SimpleNamespace(digests=digests, class_names=("a", "b"), group_names=())
    check_same_data(begun(folder), data)  # killed before its data were read
    facts = DataFacts(["a", "b"], [9, 1], digests, 5)
    check_same_data(begun(folder, data=facts), data)
    begun(folder, data=replace(facts, digests=digests | {"select": "sha256:4", "test": "sha256:5"}))
    with pytest.raises(
        UsageError, match=r"launched with other data; changed: select, test\. Its rows"
    ) as refused:
        check_same_data(folder, data)
    assert refused.value.exit_code == 2
    # The same samples with the classes renamed.
    begun(folder, data=replace(facts, class_names=["b", "a"]))
    with pytest.raises(UsageError, match="changed: the names of the classes"):
        check_same_data(folder, data)
    begun(
        folder,
        data=replace(facts, group_names=["north", "south"], digests=digests | {"unlabelled": "sha256:6"}),
    )
    with pytest.raises(UsageError, match="changed: unlabelled, the names of the groups"):
        check_same_data(folder, data)


def test_another_mlflow_would_miss_the_runs_of_earlier_launches(folder: RunFolder) -> None:
    with pytest.raises(PreflightError) as refused:
        check_unchanged(begun(folder), load_spec(SMOKE), "http://me:pa55word@other:5000")
    assert "began with, http://mlflow:5000, got http://other:5000; set MLFLOW_TRACKING_URI back" in str(
        refused.value
    )
    assert "pa55word" not in str(refused.value)


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({}, {}, []),
        ({"a": {"b": [1]}}, {"a": {"b": [1]}}, []),
        ({"b": 1, "a": {"c": 1}}, {"a": {"c": 2}}, ["b (1 -> nothing)", "a.c (1 -> 2)"]),
        ({"a": None}, {}, []),  # a key without a value is as good as none
        ({}, {"a": {"b": 1}}, ["a (nothing -> {'b': 1})"]),
        ({"a": {"b": 1}}, {"a": 0}, ["a ({'b': 1} -> 0)"]),
        ({"a": "x" * 40}, {"a": "x" * 41}, [f"a ({'x' * 40} -> {'x' * 37}...)"]),
    ],
)
def test_changed_keys_are_dotted_and_in_the_order_of_the_file(
    before: Document, now: Document, changed: list[str]
) -> None:
    assert changed_keys(before, now) == changed


def test_the_first_thing_that_is_missing_ends_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of how quickly each is known: storage, MLflow, resources, data."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").touch()
    wanting = load_spec(SMOKE, ["resources.cpu=9999", "pretrain={checkpoint: /none}"])
    with pytest.raises(PreflightError, match="must be writable"):
        check_all(wanting, LocalStore(tmp_path / "file" / "runs"))
    store = LocalStore(tmp_path / "runs")
    with pytest.raises(PreflightError, match="a trial must fit on the cluster, requests cpu 9999"):
        check_all(wanting, store)
    with pytest.raises(PreflightError, match=r"pretrain\.checkpoint: /none"):
        check_all(wanting, store, on_this_machine=False)
    address, data = check_all(load_spec(SMOKE), store)
    assert address == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert (len(data.feedback), len(data.select)) == (20 * 6, 24 * 6)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing was written
