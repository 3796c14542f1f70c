"""Sweeps from a file, a dictionary and arrays: the errors of the command line, and nothing left of what is refused."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import orchestrator
from orchestrator import (
    NotFound,
    PreflightError,
    SelmixError,
    SpecError,
    Sweep,
    UsageError,
)
from orchestrator.build.selection import data_config
from orchestrator.run.driver import Driver
from selmix.data import from_arrays
from tests.command import ROOT, SMOKE, environment, here

pytestmark = pytest.mark.filterwarnings("ignore")  # matters of MLflow's, on a store that begins empty

SPEC = {
    "name": "s",
    "objectives": ["min_recall"],
    "data": {"name": "gaussians"},
    "model": {"name": "linear_head"},
}
ON_ARRAYS = {key: value for key, value in SPEC.items() if key != "data"}
LABELS = np.repeat([0, 1], 120)
FEATURES = np.random.default_rng(0).normal(size=(240, 3)).astype("float32")


def test_importing_is_cheap_and_what_it_gives_is_documented() -> None:
    code = (
        "import sys, orchestrator; from orchestrator import Sweep, open_sweep; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), cwd=ROOT
    )
    assert done.stdout == "[]\n"
    page = (ROOT / "docs" / "python_api.md").read_text()
    assert [name for name in orchestrator.__all__ if f"`{name}" not in page] == []
    assert set(orchestrator.__all__) == set(dir(orchestrator))
    with pytest.raises(AttributeError, match="has no attribute 'Sweeps'"):
        _ = orchestrator.Sweeps
    errors = [
        kind
        for kind in vars(orchestrator).values()
        if isinstance(kind, type) and issubclass(kind, SelmixError)
    ]
    assert {kind.exit_code for kind in errors} == {1, 2, 3, 4, 5, 6, 8}
    assert [kind for kind in errors if f"| `{kind.__name__}` | {kind.exit_code} |" not in page] == []


def test_a_file_has_the_errors_of_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("version: 1\nname: bad\ndata: {name: digits, sise: 3}\nobjectives: [min_recal]\n")
    with pytest.raises(SpecError) as bad:
        Sweep.from_file(path).validate()
    done = here("validate", path)
    assert (done.code, done.err) == (bad.value.exit_code, f"selmix: {bad.value}\n")
    assert Sweep.from_file(path).problems() == bad.value.problems
    assert len(bad.value.problems) == 2
    with pytest.raises(SpecError, match="must be a readable sweep file"):
        Sweep.from_file(tmp_path / "none.yaml").validate()
    with pytest.raises(UsageError, match="an override must be KEY=VALUE"):
        Sweep.from_file(SMOKE, "what").validate()
    assert Sweep.from_file(SMOKE, "what").problems() != []


def test_a_file_is_validated_as_the_command_line_does() -> None:
    valid = Sweep.from_file(SMOKE, "name=other").validate()
    assert valid.as_dict() == here("validate", SMOKE, "name=other", "--json").document
    assert repr(valid).splitlines()[0] == here("validate", SMOKE, "name=other").out.strip()
    assert Sweep.from_file(SMOKE).problems() == []
    assert Sweep.from_file(SMOKE, "name=other").name == "other"


def test_problems_of_a_dictionary_stand_on_no_line() -> None:
    bad = Sweep.from_dict(SPEC | {"objectives": ["min_recal"], "search": {"num_trials": "many"}})
    of_search, of_objective = bad.problems()
    assert of_search.startswith("spec: search.num_trials: must be a whole number")
    assert of_objective.startswith(
        "spec: objectives.0: unknown objective 'min_recal'; did you mean min_recall?"
    )
    (unknown,) = Sweep.from_dict(SPEC | {"serach": {}}).problems()
    assert unknown.startswith("spec: serach: ")
    (nan,) = Sweep.from_dict(SPEC | {"parameters": {"lr": {"value": float("nan")}}}).problems()
    assert nan.startswith("spec: parameters.lr.value: must be a finite number")


def test_a_dictionary_means_what_its_file_does(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "version: 1\nname: s\ndata: {name: gaussians}\nmodel: {name: linear_head}\nobjectives: [min_recall]\n"
    )
    assert Sweep.from_dict(SPEC).spec == Sweep.from_file(tmp_path / "s.yaml").spec
    assert Sweep.from_dict(SPEC, "search.num_trials=3").spec.search.num_trials == 3


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    spec = SPEC | {"parameters": {"steps": {"value": 20}}, "pretrain": {"epochs": 1}}
    plan = Sweep.from_dict(spec, runs=tmp_path / "runs").plan()
    assert plan.document.sweep == "s"
    assert repr(plan).startswith("s: about ")
    assert not (tmp_path / "runs" / "s").exists()
    with pytest.raises(NotFound):
        Sweep.from_dict(spec, runs=tmp_path / "runs").show()


@pytest.mark.parametrize("keys", [{"label": "lab"}, {"features": ["p", "zz"]}, {"feedback": 500}])
def test_errors_speak_of_the_data_that_were_given_and_name_no_file(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    frame = pd.DataFrame({"p": [float(k) for k in range(90)], "q": 1.0, "y": ["a", "b", "c"] * 30})
    spec = {"name": "x", "model": {"name": "linear_head"}, "objectives": ["min_recall"], "rungs": ["scores"]}
    sweep = Sweep.from_frame(
        spec, frame, runs=tmp_path / "runs", **{"features": ["p", "q"], "label": "y"} | keys
    )
    for ask in (sweep.plan, partial(sweep.launch, in_process=True)):
        with pytest.raises((PreflightError, SpecError), match="the data given: ") as refused:
            ask()
        assert ".parquet" not in str(refused.value)
        assert "/" not in str(refused.value)
    assert not (tmp_path / "runs" / "x").exists()


def test_arrays_that_cannot_be_data() -> None:
    with pytest.raises(PreflightError, match=r"^data: .*2 labels") as bad:
        Sweep.from_arrays(ON_ARRAYS, FEATURES[:2], [0, 1], groups=["a"])
    assert bad.value.exit_code == 4
    with pytest.raises(PreflightError, match="feature vectors of shape"):
        Sweep.from_arrays(ON_ARRAYS, np.zeros((4, 2, 2, 2), "float32"), [0, 1, 0, 1])
    with pytest.raises(PreflightError, match="must be a data frame"):
        Sweep.from_frame(ON_ARRAYS, [[1, 2]])
    with pytest.raises(UsageError, match="data: must be left out"):
        Sweep.from_arrays(SPEC, FEATURES, LABELS)
    (unknown,) = Sweep.from_arrays(ON_ARRAYS, FEATURES, LABELS, feedbak=3).problems()
    assert unknown.startswith("spec: data.feedbak: ")


def test_arrays_and_frames_are_the_data_that_the_method_takes() -> None:
    keys: dict[str, Any] = {"feedback": 10, "select": 20, "test": 30}
    ours = data_config((sweep := Sweep.from_arrays(ON_ARRAYS, FEATURES, LABELS, **keys)).spec).load()
    assert ours.digests == from_arrays(FEATURES, LABELS, **keys).digests
    frame = pd.DataFrame(FEATURES, columns=["f0", "f1", "f2"]).assign(y=LABELS)
    of_frame = Sweep.from_frame(ON_ARRAYS, frame, label="y", features="f*", **keys)
    assert data_config(of_frame.spec).load().digests == ours.digests
    assert sweep.problems() == of_frame.problems() == []


def test_square_images_keep_their_size() -> None:
    images = np.random.default_rng(0).integers(0, 256, (240, 8, 8, 3), dtype="uint8")
    keys: dict[str, Any] = {"feedback": 10, "select": 20, "test": 30}
    spec = ON_ARRAYS | {"model": {"name": "small_cnn"}}
    kept = data_config((sweep := Sweep.from_arrays(spec, images, LABELS, **keys)).spec).load()
    assert sweep.problems() == []
    plain = from_arrays(images, LABELS, **keys)
    assert torch.equal(kept.train.labels, plain.train.labels)
    assert torch.allclose(kept.train.whole(), plain.train.whole())
    bigger = Sweep.from_arrays(spec, images, LABELS, size=16, **keys).validate().document.preprocess
    assert bigger is not None
    assert bigger["size"] == 16


def test_a_refused_launch_leaves_nothing(tmp_path: Path) -> None:
    sweep = Sweep.from_arrays(
        ON_ARRAYS | {"resources": {"workers": 2}}, FEATURES, LABELS, feedback=10, select=20, test=30,
        runs=tmp_path / "runs",
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"--in-process: runs have one worker, got resources\.workers 2"):
        sweep.launch(in_process=True)
    assert not (tmp_path / "runs" / "s").exists()
    with pytest.raises(UsageError, match="in_process runs the sweep without a cluster"):
        sweep.launch(in_process=True, address="10.0.0.1:6379")


def test_a_launch_in_another_thread_is_refused() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            Sweep.from_dict(SPEC).launch(in_process=True)
        except SelmixError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [type(error) for error in caught] == [UsageError]
    assert str(caught[0]).startswith("launch: must be called in the main thread")


def test_a_drain_that_hangs_does_not_end_a_notebook() -> None:
    driver = object.__new__(Driver)
    driver.launch = type("Launch", (), {"may_exit": False})()
    # As in a notebook's kernel: a job that a shell runs in the background begins with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may take a moment
            driver._leave()
            threading.Event().wait(5)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("few_baselines")
def test_a_launch_ends_with_a_rung_without_ray(tmp_path: Path) -> None:
    sweep = Sweep.from_file(SMOKE, runs=tmp_path / "runs")
    done = sweep.launch(until="scores")
    assert [step.rung for step in done.result("min_recall").climb] == ["scores"]
    assert done.show().document.left == ["head", "finetune", "retrain"]
    # A private cluster would cost its start. In processes of this machine, or in this one where it has a single CPU.
    log = (tmp_path / "runs" / "smoke" / "driver.log").read_text()
    assert re.search(r"started in (\d+ processes of this machine|this process), ", log)
    with pytest.raises(UsageError, match=r"--until must be a rung of the sweep, scores, got head"):
        Sweep.from_file(SMOKE, "name=t", "rungs=[scores]", runs=tmp_path / "runs").launch(until="head")
