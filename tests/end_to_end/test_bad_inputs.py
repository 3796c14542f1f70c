"""Bad inputs by the command line: one clear message, the exit code, nothing written."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.cli.main import main
from tests.command import ROOT, SLOW_SMOKE, SMOKE, Done, selmix

FILE = SLOW_SMOKE.read_text()


def begun_with(checkpoint: str | Path) -> str:
    """The sweep file with a checkpoint instead of its pre-training."""
    text, count = re.subn(r"(?m)^(pretrain: *)\{.*\}$", rf"\1{{checkpoint: {checkpoint}}}", FILE)
    assert count == 1
    return text


Refused = Callable[..., Done]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """The command line in this process: a process of its own would spend its time on importing torch."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> Done:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert list(work.iterdir()) == []
        return Done(code, out, err)

    return call


def refused(called: Refused, tmp_path: Path, file: str, *arguments: str) -> Done:
    """Launch a file that must be refused, and see that nothing was written anywhere near it."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(file)
    done = called("launch", sweep, *arguments)
    assert "Traceback" not in done.err
    assert done.out == ""
    return done


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_trials: 4", "num_trails: 4", ":13: search.num_trails: unknown key; did you mean num_trials?"),
        ("feedback: 20", "feedback: twenty", ":5: data.feedback: must be a whole number, got 'twenty'"),
        ("min: 0.003, max: 0.1", "min: 0.1, max: 0.003", ":11: parameters.lr.min: must be below max"),
        ("[min_recall]", "[min_recal]", ":8: objectives.0: unknown objective 'min_recal'; did you mean min_recall?"),
        ("metric: min_recall", "metric: test_min_recall", "the test split is opened by `selmix pin` only"),
        ("largest_class: 80", "largest_class: 800", "class 0 holds 178 samples"),
        ("version: 1", "version: 1\nversion: 1", "must appear once"),
        ("cpu: 1", "cpu: true", "resources.cpu: must be a whole number"),
        ("seed: 0}\nselection", "seed: .inf}\nselection", "must be a finite number"),
        ("policy:   {values: [softmax, uniform]}", "mixup_layer: {values: [stage7]}",
         "has no layer 'stage7'; did you mean stage3? there are input, features, stage1"),
    ],
)  # fmt: skip
def test_an_invalid_sweep_file(called: Refused, tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in FILE
    done = refused(called, tmp_path, FILE.replace(old, new))
    assert done.code == 3
    assert says in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_all_problems_of_a_file_at_once(called: Refused, tmp_path: Path) -> None:
    file = FILE.replace("num_trials: 4", "num_trails: 4").replace("[min_recall]", "[min_recal]")
    done = refused(called, tmp_path, file.replace("steps:    {value: 60}", "steps: {value: -1}"))
    assert done.code == 3
    assert [int(re.findall(r":(\d+): ", line)[0]) for line in done.err.strip().splitlines()] == [8, 12, 13]
    assert len(done.err.strip().splitlines()) == 3


def test_a_gpu_where_there_is_none(called: Refused, tmp_path: Path) -> None:
    done = refused(called, tmp_path, FILE, "resources.gpu=99")
    assert done.code == 4
    assert "requests cpu 1 and gpu 99" in done.err


def test_an_unwritable_runs_folder(called: Refused, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = refused(called, tmp_path, FILE, "--runs", str(blocker / "runs"))
    assert done.code == 4
    assert "must be writable" in done.err
    assert blocker.read_text() == ""


def test_an_mlflow_that_does_not_answer(
    called: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret-word@127.0.0.1:{port}")
    started = time.monotonic()
    done = refused(called, tmp_path, FILE)
    assert time.monotonic() - started < 15
    assert done.code == 4
    assert f"MLflow at http://127.0.0.1:{port}: must answer" in done.err
    assert "secret-word" not in done.err


def test_a_class_missing_from_feedback(called: Refused, tmp_path: Path) -> None:
    done = refused(called, tmp_path, FILE, "data.feedback=0")
    assert done.code == 4
    assert "every class must have a sample in feedback" in done.err


def test_a_checkpoint_that_does_not_fit(called: Refused, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"head.weight": torch.zeros(3, 4)}, str(path))
    file = begun_with(path)
    done = refused(called, tmp_path, file)
    assert done.code == 4
    assert "the checkpoint does not fit the model" in done.err
    assert "head.weight must have shape" in done.err


def test_a_checkpoint_that_is_missing(called: Refused, tmp_path: Path) -> None:
    done = refused(called, tmp_path, begun_with("nowhere.safetensors"))
    assert done.code == 4
    assert "nowhere.safetensors: must be a safetensors or torch file of weights, there is none" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("lunch", "x"), 2, "did you mean launch?"),
        (("show",), 2, "SWEEP"),
        (("show", "nothing"), 8, "does not exist"),
        (("pin", "nothing", "--name", "x"), 8, "does not exist"),
        (("reproduce", "nothing"), 8, "no such pin"),
        (("validate", "nowhere.yaml"), 3, "must be a readable sweep file"),
        (("validate", str(SMOKE), "search.num_trials"), 2, "must be KEY=VALUE"),
        (("pin", "x", "--name", "../x"), 8, "does not exist"),
        (("ui",), 8, "no MLflow store yet"),
    ],
)
def test_wrong_usage(called: Refused, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = called(*arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_flags_and_overrides_in_any_order(called: Refused) -> None:
    for order in (("--json", SMOKE, "name=x"), (SMOKE, "--json", "name=x"), (SMOKE, "name=x", "--json")):
        assert called("validate", *order).document["sweep"] == "x"


def test_every_shipped_sweep_file_is_valid_and_explains_itself(called: Refused) -> None:
    files = sorted((ROOT / "sweeps").rglob("*.yaml"))
    assert {file.name for file in files} >= {"digits_min_recall.yaml", "digits_objectives.yaml", "smoke.yaml"}
    for file in files:
        done = called("validate", file, "--json")
        # That the data of a recipe are not on this machine is the only thing to say of a shipped file.
        assert done.document["valid"] if done.code == 0 else done.err.startswith("selmix: data"), done.err
        head = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
        assert "Question:" in head
        assert "Cost:" in head
        shipped = f"Run: selmix launch sweeps/{file.relative_to(ROOT / 'sweeps')}"
        assert shipped in head or f"Run: selmix cp {file.stem} && selmix launch {file.stem}" in head


def test_plan_touches_nothing(called: Refused) -> None:
    done = called("plan", SMOKE, "--json")
    assert done.code == 0, done.err
    assert done.document["trials"] == 4
    assert done.document["estimated_s"] > 0


@pytest.mark.slow
def test_readers_answer_at_once(tmp_path: Path) -> None:
    """Generous against a loaded machine: the point is that no heavy library is imported."""

    def seconds(*arguments: str) -> float:
        started = time.monotonic()
        selmix(*arguments, cwd=tmp_path)
        return time.monotonic() - started

    assert min(seconds("--help") for _ in range(3)) < 0.6
    assert min(seconds("ls") for _ in range(3)) < 1.5


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    from tests.command import environment

    code = (
        "import sys; from orchestrator.cli.main import main; main(['--help']); main(['ls', '--runs', '/nonexistent']); "
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'yaml', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"
