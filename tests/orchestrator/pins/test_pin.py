"""`selmix pin`: everything that can be refused is, before the test split is opened; no sweep is run here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.build.selection import data_config
from orchestrator.errors import NoFeasibleTrial, NotFound, PreflightError, SelmixError, UsageError
from orchestrator.pins import test_split
from orchestrator.pins.lock_file import PinnedOpening
from orchestrator.pins.pin import PinRequest, _pinned_opening, pin_sweep
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import Figure, SweepState, TrialRecord
from orchestrator.results.rows import ObjectiveResult, ReplicateMeans, SweepResult, Winner
from orchestrator.spec.checks import load_spec
from orchestrator.spec.schema import SweepSpec
from selmix.weights import save_weights, state_digest
from tests.command import SMOKE

METRICS = {"min_recall": Figure(0.8, 0.6, 0.9)}
WEIGHTS = {"head.weight": torch.zeros(2, 2)}
WINNER = "min_recall/trial-000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished sweep of two objectives, of which the second has no winner."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = RunFolder.local(tmp_path / "runs", "s")
    made.create()
    made.save_spec({"objectives": ["min_recall", "g_mean"]})
    made.save_state(SweepState("s", "1" * 16, state="finished", problem="no feasible trial for g_mean"))
    for number, state in enumerate(("FINISHED", "FAILED")):
        record = TrialRecord(
            f"min_recall/trial-{number:03d}", "min_recall", "trial", number, 0, select=METRICS
        )
        record.state, record.mlflow_run_id, record.weights_digest = state, "run", state_digest(WEIGHTS)  # type: ignore[assignment]
        made.save_trial(record)
    made.save_trial(
        TrialRecord("min_recall/baseline/untouched", "min_recall", "baseline", 0, 0, state="FINISHED")
    )
    save_weights(made.weights_path(WINNER), WEIGHTS)
    means = ReplicateMeans([1], 0.8, METRICS)
    winner = Winner(WINNER, 0, 3, 60, state_digest(WEIGHTS), {}, True, 0.8, METRICS, 1.0, ["train"], means)
    results = {"min_recall": ObjectiveResult(metric="min_recall", winner=winner), "g_mean": ObjectiveResult()}
    made.save(made.results_path, SweepResult(objectives=results))
    return made


def changed(folder: RunFolder, **values: Any) -> None:
    record = folder.load_trial(WINNER)
    for key, value in values.items():
        setattr(record, key, value)
    folder.save_trial(record)


def refused(folder: RunFolder, kind: type[SelmixError], pins: Path | None = None, **request: Any) -> str:
    """The words of a refusal, which opens no test split and writes no pin."""
    arguments = {"sweep": "s", "name": "kept", "objectives": ["min_recall"]} | request
    with pytest.raises(kind) as caught:
        pin_sweep(folder.store, pins or folder.store.root.parent / "pins", PinRequest(**arguments))
    assert folder.load_state().test_openings == []
    assert not (folder.store.root.parent / "pins" / "kept.safetensors").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "must be letters, digits"), ("../x", "must be letters, digits"), ("-x", "must be letters, digits"),
        ("a b", "must be letters, digits"), ("v1", "MLflow's own aliases"), ("V12", "MLflow's own aliases"),
        ("Latest", "MLflow's own aliases"),
    ],
)  # fmt: skip
def test_names_that_mlflow_or_the_disk_cannot_have(folder: RunFolder, name: str, says: str) -> None:
    words = refused(folder, UsageError, name=name)
    assert words.startswith("--name: ")
    assert says in words


def test_a_name_that_is_taken_or_whose_alias_is(folder: RunFolder) -> None:
    pins = folder.store.root.parent / "pins"
    pins.mkdir()
    (pins / "a.b.yaml").write_text("")
    assert refused(folder, UsageError, name="a-b") == (
        "--name: a-b would take the alias of the pin a.b in MLflow, which knows no dots; choose another"
    )
    # Not even by force: that replaces the pin of this name, and there is another one.
    assert "alias of the pin a.b" in refused(folder, UsageError, name="a-b", force=True)
    assert "a.b.yaml: exists; choose another --name, or replace it with --force" in refused(
        folder, UsageError, name="a.b"
    )


def test_force_replaces_a_pin(folder: RunFolder) -> None:
    pins = folder.store.root.parent / "pins"
    pins.mkdir()
    (pins / "kept.yaml").write_text("")
    changed(folder, mlflow_run_id=None)  # what is looked at next
    assert "must have a run in MLflow" in refused(folder, PreflightError, force=True)


@pytest.mark.parametrize("name", ["kept.yaml", "kept.safetensors"])
def test_not_even_force_replaces_a_folder(folder: RunFolder, tmp_path: Path, name: str) -> None:
    pins = tmp_path / "others"
    (pins / name).mkdir(parents=True)
    words = refused(folder, PreflightError, pins, force=True)
    assert words == f"{pins / name}: must be writable: a folder lies there; choose another --pins folder"


def test_an_unwritable_pins_folder_is_answered_with_advice_about_it(
    folder: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    words = refused(folder, PreflightError, tmp_path / "file" / "pins")
    assert words.endswith("; choose another --pins folder")
    assert "--runs" not in words


@pytest.mark.parametrize(
    ("request_", "kind", "says"),
    [
        ({"sweep": "t"}, NotFound, "there are: s"),
        ({"objectives": []}, UsageError, "--objective: must be given, s has several: min_recall, g_mean"),
        ({"objectives": ["h_mean"]}, UsageError, "must be one of min_recall, g_mean, .* got 'h_mean'"),
        (
            {"objectives": ["g_mean"]},
            NoFeasibleTrial,
            "s: g_mean has no winner: no feasible trial for g_mean",
        ),
        ({"trial_id": "min_recall/trial-009"}, NotFound, "no trial 'min_recall/trial-009'"),
        (
            {"trial_id": "min_recall/trial-001"},
            UsageError,
            "must be a finished trial or replicate, got .*FAILED",
        ),
        ({"trial_id": "min_recall/baseline/untouched"}, UsageError, "got .*: baseline, FINISHED"),
        ({"trial_id": WINNER, "objectives": ["g_mean"]}, UsageError, "must be a trial of --objective g_mean"),
    ],
)
def test_what_cannot_be_pinned(
    folder: RunFolder, request_: dict[str, Any], kind: type[SelmixError], says: str
) -> None:
    words = refused(folder, kind, **request_)
    assert re.search(says, words), words


def test_a_winner_is_decided_when_the_sweep_is_finished_but_a_trial_can_be_named_before(
    folder: RunFolder,
) -> None:
    folder.save_state(SweepState("s", "1" * 16, state="running"))
    assert "must be finished to have a winner, got stopped" in refused(folder, UsageError)
    changed(folder, mlflow_run_id=None)
    assert "must have a run in MLflow" in refused(folder, PreflightError, trial_id=WINNER)


def test_weights_that_are_gone_or_others(folder: RunFolder) -> None:
    path = folder.weights_path(WINNER)
    save_weights(path, {"head.weight": torch.ones(2, 2)})
    assert f"must be the weights of {WINNER}, digest {state_digest(WEIGHTS)}" in refused(
        folder, PreflightError
    )
    path.unlink()
    assert "there is none" in refused(folder, PreflightError)


def test_several_objectives_are_named_once_each_and_without_a_trial(folder: RunFolder) -> None:
    both = ["min_recall", "g_mean"]
    assert "g_mean has no winner" in refused(folder, NoFeasibleTrial, objectives=both)
    assert refused(folder, UsageError, objectives=["g_mean", "g_mean"]) == (
        "--objective: must name each objective once, got g_mean twice"
    )
    assert "cannot stand beside several --objective" in refused(
        folder, UsageError, objectives=both, trial_id=WINNER
    )
    pins = folder.store.root.parent / "pins"
    pins.mkdir()
    (pins / "kept-g_mean.yaml").write_text("")
    assert "kept-g_mean.yaml: exists" in refused(folder, UsageError, objectives=both)


def test_a_sweep_without_data_has_nothing_to_be_opened(folder: RunFolder) -> None:
    assert "must have been launched, its record has no data yet" in refused(folder, PreflightError)


# -- the test split -------------------------------------------------------------------------------------------


def opened_by(folder: RunFolder, spec: SweepSpec, verb: str = "pin", must_be: str | None = None) -> int:
    """Times that the test split was seen before this opening."""
    return test_split.open_test(
        spec, test_split.Opener(verb, ["kept"], ["min_recall"]), folder, must_be
    ).openings_before


def smoke(*overrides: str) -> SweepSpec:
    return load_spec(SMOKE, overrides)


def test_openings_are_counted_by_the_content_of_test_over_sweeps(folder: RunFolder) -> None:
    other = RunFolder(folder.store, "other")
    other.create()
    other.save_state(SweepState("other", "2" * 16))
    assert opened_by(folder, smoke()) == 0
    assert opened_by(other, smoke("data.feedback=10")) == 1  # the same test split
    assert opened_by(other, smoke("data.seed=1")) == 0
    assert opened_by(folder, smoke(), "reproduce") == 2
    assert [opening.by for opening in folder.load_state().test_openings] == ["pin kept", "reproduce kept"]
    # A pin that is reproduced without its sweep leaves no record.
    opener = test_split.Opener("reproduce", ["kept"], ["min_recall"])
    assert test_split.open_test(smoke(), opener, None).opening is None
    assert opened_by(folder, smoke()) == 3


def test_a_test_split_with_a_sample_fewer_was_seen_before(folder: RunFolder) -> None:
    def opened(spec: SweepSpec, name: str) -> PinnedOpening:
        opener = test_split.Opener("pin", [name], ["min_recall"])
        return _pinned_opening(test_split.open_test(spec, opener, folder), [name])

    def rows(spec: SweepSpec) -> set[bytes]:
        return {row.numpy().tobytes() for row in data_config(spec).load_test().inputs}

    first = opened(smoke("data.test=50"), "first")
    assert (first.openings_before, first.confirmatory, first.note, first.share_seen) == (0, True, None, 0.0)
    fewer = opened(smoke("data.test=49"), "fewer")
    samples = rows(smoke("data.test=49"))
    share = len(samples & rows(smoke("data.test=50"))) / len(samples)
    assert 0.9 < share < 1.0
    assert fewer.content_digest != first.content_digest
    assert (fewer.openings_before, fewer.confirmatory, fewer.share_seen) == (1, False, share)
    assert (
        fewer.note == f"about {100 * share:.0f} % of these samples were seen 1 time before: not confirmatory"
    )
    again = opened(smoke("data.test=49"), "again")
    assert (again.openings_before, again.share_seen) == (2, 1.0)
    assert again.note == "test seen 2 times before: not confirmatory"
    assert opened(smoke("data.test=50", "data.seed=1"), "other").confirmatory


def test_an_opening_is_on_record_before_anything_is_evaluated(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    test = test_split.open_test(smoke(), test_split.Opener("pin", ["a"], ["min_recall"]), folder)
    monkeypatch.setattr(test_split, "predictions_on", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        test.predictions({})
    assert [opening.by for opening in folder.load_state().test_openings] == ["pin a"]
    assert opened_by(folder, smoke()) == 1


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("damaged")])
def test_a_test_split_that_cannot_be_read_was_not_seen(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(test_split, "data_config", fails)
        with pytest.raises(
            PreflightError, match=f"data: the test split of gaussians must be readable: {error}"
        ):
            opened_by(folder, smoke())
    with pytest.raises(
        PreflightError, match=r"s.*: the test split must be that of the sweep, digest sha256:0"
    ):
        opened_by(folder, smoke(), must_be="sha256:0")
    assert folder.load_state().test_openings == []
    assert opened_by(folder, smoke()) == 0
