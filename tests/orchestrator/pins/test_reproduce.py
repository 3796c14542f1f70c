"""`selmix reproduce` of a tiny pin: on the same stack, on another one, by another method, edited and incomplete."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.documents import Document
from orchestrator.pins.lock_file import read_pin, sealed, write_pin
from orchestrator.pins.reproduce import ReproduceDocument, StackDifference, reproduce_pin, reproduction_text
from orchestrator.records.folder import RunFolder
from orchestrator.records.store import LocalStore
from selmix import METHOD
from selmix.weights import save_weights
from tests.command import here
from tests.fakes.in_process import launch

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]

TINY = (
    "search.num_trials=1", "selection.replicates=1", "selection.finalists=1", "pretrain.epochs=2",
    "parameters.steps.value=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of one trial and its pin."""
    home = tmp_path_factory.mktemp("pinned")
    assert launch(home / "runs", *TINY).code == 0
    assert here("pin", "smoke", "--name", "kept", cwd=home).code == 0
    return home


def test_a_pin_is_named_by_its_file_too(home: Path, tmp_path: Path) -> None:
    """As it was handed on, from any folder."""
    absent = here("reproduce", tmp_path / "none.yaml", cwd=tmp_path)
    assert (absent.code, absent.err) == (8, f"selmix: {tmp_path}/none.yaml: no such pin; there are: none\n")
    done = here("reproduce", home / "pins" / "kept.yaml", cwd=tmp_path)
    assert (done.code, done.out.partition(";")[0]) == (0, "kept: reproduced")


def test_files_that_lie_elsewhere_are_asked_for_by_their_keys(home: Path, tmp_path: Path) -> None:
    document = read_pin(home / "pins", "kept")
    document["protocol"]["data"] = {
        "name": "parquet", "path": "features.parquet", "feedback": 5, "select": 5, "test": 5
    }  # fmt: skip
    write_pin(tmp_path / "pins" / "kept.yaml", sealed(document))
    done = here("reproduce", "kept", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert done.err.endswith(
        "features.parquet: must be a Parquet file, there is none; say where it lies here: selmix reproduce kept "
        "data.path=PATH\n"
    )
    done = here("reproduce", "kept", "data.path=other.parquet", cwd=tmp_path)
    assert done.err.endswith("other.parquet: must be a Parquet file, there is none\n")


@pytest.fixture
def pins(home: Path, tmp_path: Path) -> Path:
    """A copy of the pin, to be changed."""
    return shutil.copytree(home / "pins", tmp_path / "pins")


def resealed(pins: Path, change: Callable[[Document], object]) -> None:
    """Change the pin and seal it again."""
    document = read_pin(pins, "kept")
    change(document)
    write_pin(pins / "kept.yaml", sealed(document))


def reproduced(pins: Path) -> ReproduceDocument:
    return reproduce_pin(pins, "kept", LocalStore(pins.parent / "no runs"))


def test_on_the_same_stack_everything_is_equal_and_the_opening_is_on_record(home: Path) -> None:
    done = here("reproduce", "kept", cwd=home)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("kept: reproduced; every digest and number is equal (")
    openings = RunFolder.local(home / "runs", "smoke").load_state().test_openings
    assert [opening.by for opening in openings][:2] == ["pin kept", "reproduce kept"]


def test_a_pin_from_before_methods_had_numbers_is_of_the_first(pins: Path) -> None:
    resealed(pins, lambda pin: pin.pop("method"))
    document = reproduced(pins)
    assert (document.reproduced, document.same_stack) == (True, False)
    assert document.stack_differences == {"method": StackDifference(1, METHOD)}


def test_an_approach_of_another_version_is_refused(pins: Path) -> None:
    resealed(pins, lambda pin: pin["row"].update(approach="of_another_version"))
    done = here("reproduce", "kept", "--pins", pins, "--runs", pins / "none")
    assert done.code == 4
    assert "kept: row.approach must be selmix or one of untouched, " in done.err


def another_method(pin: Document) -> None:
    pin["method"] = 0


def another_stack(pin: Document) -> None:
    pin["environment"]["packages"]["torch"] = "1.0"


@pytest.mark.parametrize(("change", "part"), [(another_method, "method"), (another_stack, "torch")])
def test_elsewhere_the_stored_weights_are_evaluated_and_the_training_repeated(
    pins: Path, change: Callable[[Document], None], part: str
) -> None:
    resealed(pins, change)
    document = reproduced(pins)
    assert (document.reproduced, document.same_stack, document.exit_code) == (True, False, 0)
    assert list(document.stack_differences) == [part]
    places = [compared.what for compared in document.compared]
    for place in ("stored weights/select", "stored weights/test", "select", "test"):
        assert f"{place}/min_recall/value" in places
    assert f"other stack  {part}: pinned" in reproduction_text(document, None)


def test_elsewhere_numbers_may_differ_within_the_interval_and_digests_of_weights_anyhow(pins: Path) -> None:
    def drift(pin: Document) -> None:
        another_method(pin)
        pin["digests"]["base"] = "sha256:0"
        estimate = pin["test"]["accuracy"]
        estimate["value"] += (estimate["high"] - estimate["value"]) / 2
        estimate["low"] -= 0.01

    resealed(pins, drift)
    document = reproduced(pins)
    assert (document.reproduced, document.problems) == (True, [])
    drifted = [compared.what for compared in document.compared if not compared.equal]
    assert drifted == [
        "digests/base", "stored weights/test/accuracy/value", "stored weights/test/accuracy/low",
        "test/accuracy/value", "test/accuracy/low",
    ]  # fmt: skip
    words = " ".join(reproduction_text(document, None).split())
    assert words.endswith(f"drifted within tolerance: {', '.join(drifted)}")


@pytest.mark.parametrize(
    ("part", "place"),
    [("select", "accuracy"), ("test", "accuracy"), ("digests", "train"), ("digests", "test")],
)
def test_elsewhere_the_data_must_be_equal_and_numbers_within_their_interval(
    pins: Path, part: str, place: str
) -> None:
    def apart(pin: Document) -> None:
        another_method(pin)
        far = {"value": 0.001, "low": 0.0, "high": 0.002}
        pin[part][place] = "sha256:0" if part == "digests" else far

    resealed(pins, apart)
    document = reproduced(pins)
    assert (document.reproduced, document.exit_code) == (False, 7)
    value = "" if part == "digests" else "/value"
    wanted = [f"{part}/{place}{value}"]
    if part != "digests":
        wanted.insert(0, f"stored weights/{wanted[0]}")
    assert [problem.partition(": pinned ")[0] for problem in document.problems] == wanted


def test_a_metric_that_is_no_longer_computed_is_a_difference(pins: Path) -> None:
    resealed(pins, lambda pin: pin["test"].update(gone={"value": 0.5, "low": 0.0, "high": 1.0}))
    document = reproduced(pins)
    assert document.problems == [f"test/gone/{part}: pinned {value}, got None" for part, value in (
        ("value", 0.5), ("low", 0.0), ("high", 1.0),
    )]  # fmt: skip


@pytest.mark.parametrize("key", ["method", "select", "protocol"])
def test_a_pin_that_lacks_a_sealed_key_is_edited_and_not_trained(
    pins: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = read_pin(pins, "kept")
    del document[key]
    write_pin(pins / "kept.yaml", document)
    monkeypatch.setattr(
        "orchestrator.pins.test_split.open_test", lambda *_: pytest.fail("the test split is opened")
    )
    done = here("reproduce", "kept", "--pins", pins, "--json")
    assert done.code == 7
    assert done.document["problems"] == [f"{key}: was edited since the pin was written, its digest differs"]
    assert done.document["compared"] == []
    assert f"selmix: kept: {key}: was edited" in done.err


def test_missing_weights_are_one_difference_and_the_training_is_compared(pins: Path) -> None:
    (pins / "kept.safetensors").unlink()
    document = reproduced(pins)
    (problem,) = document.problems
    assert problem.startswith("kept.safetensors: pinned sha256:")
    assert problem.endswith("got None")
    assert len(document.compared) > 100


def test_damaged_weights_are_one_difference_and_the_training_is_compared(pins: Path) -> None:
    resealed(pins, another_method)
    (pins / "kept.safetensors").write_bytes(b"x")
    document = reproduced(pins)
    (problem,) = document.problems
    assert problem.startswith("kept.safetensors: pinned sha256:")
    assert "must be a safetensors file" in problem
    assert len(document.compared) > 100


def test_weights_of_another_model_are_two_differences(pins: Path) -> None:
    resealed(pins, another_method)
    save_weights(pins / "kept.safetensors", {"fc": torch.zeros(1)})
    other, unfit = reproduced(pins).problems
    assert other.startswith("kept.safetensors: pinned sha256:")
    assert unfit.startswith(
        "stored weights: pinned weights of the model, got the checkpoint does not fit the model"
    )


def test_data_that_are_gone_are_refused_in_one_message(pins: Path) -> None:
    gone = {"name": "parquet", "path": "gone.parquet"}
    resealed(pins, lambda pin: pin["protocol"].update(data=gone))
    done = here("reproduce", "kept", "--pins", pins, "--runs", pins / "none")
    assert done.code == 4
    assert done.err.startswith("selmix: data: the test split of parquet must be readable: gone.parquet")


def test_the_model_in_mlflow_is_that_of_the_pin(home: Path) -> None:
    pin: dict[str, Any] = read_pin(home / "pins", "kept")
    (stored,) = (home / "runs" / "mlartifacts").rglob("settings.json")
    assert (stored.parent.name, json.loads(stored.read_text())["digests"]["train"]) == (
        "kept",
        pin["digests"]["train"],
    )
    assert (stored.parent / "weights.safetensors").read_bytes() == (
        home / "pins" / "kept.safetensors"
    ).read_bytes()


def test_by_force_a_pin_is_written_again(home: Path) -> None:
    """Last, as it opens the test split once more."""
    before = read_pin(home / "pins", "kept")
    assert here("pin", "smoke", "--name", "kept", cwd=home).code == 2
    done = here("pin", "smoke", "--name", "kept", "--force", cwd=home)
    assert done.code == 0
    assert re.match(
        r"selmix: kept: test seen \d+ times? before: not confirmatory\n\nkept: min_recall on test ", done.err
    )
    after = read_pin(home / "pins", "kept")
    assert (after["test"], after["mlflow"]["version"]) == (before["test"], "2")


def test_a_pin_from_before_rows_is_of_selmix(home: Path) -> None:
    # Last: it adds a version to the model in MLflow.
    trial = ("--trial", "min_recall/trial-000", "--name", "trial")
    assert here("pin", "smoke", *trial, "--pins", home / "trials", cwd=home).code == 0
    document = read_pin(home / "trials", "trial")
    assert (document.pop("row")["approach"], document.pop("test_opening")["openings_before"] > 0) == (
        "selmix",
        True,
    )
    write_pin(home / "trials" / "trial.yaml", sealed(document))
    again = reproduce_pin(home / "trials", "trial", LocalStore(home / "none"))
    assert (again.reproduced, again.same_stack) == (True, True)
