"""One model, seven ways to ask it: all give the same labels, and probabilities to 1e-4, on the same rows.

The ways: the evaluation of the sweep itself, ``load_pin``, ``selmix predict``, ONNX, a program of torch.export, weights
rebuilt from their description, and MLflow's pyfunc and PyTorch flavours; and the model that MLflow serves.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from orchestrator.build.selection import data_config
from orchestrator.pins.lock_file import broken_sections, read_pin
from orchestrator.pins.test_split import predictions_on
from orchestrator.records.folder import RunFolder
from orchestrator.results.judge import judged
from orchestrator.results.predictions import load_predictions
from orchestrator.spec.schema import spec_from_resolved
from orchestrator.tracking import client
from orchestrator.tracking.client import open_client
from selmix import load_pin
from selmix.data.images import Images, batches
from selmix.metrics import Predictions
from selmix.weights import load_weights
from tests.command import environment, here
from tests.conftest import catalogue_of
from tests.fakes.servers import MlflowServer, Server, answers, free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's and of exporters
]

NAMES = ("ant", "bee", "cat")
TINY = {
    "version": 1, "pretrain": {"recipe": "erm", "seed": 0, "epochs": 4}, "objectives": ["min_recall"],
    "parameters": {"steps": {"value": 20}}, "search": {"method": "tpe", "num_trials": 1, "seed": 0},
    "selection": {"metric": "min_recall", "statistic": "bagged", "replicates": 1, "finalists": 1},
    "resources": {"workers": 1, "cpu": 1, "gpu": 0},
}  # fmt: skip
KEPT = ("untouched", "uniform_mixup", "plug_in", "thresholds_by_group")
"""Baselines: two of them carry a correction, one of these by group."""


def photographs(home: Path) -> dict[str, Any]:
    """Folders of small images of three classes that are told apart by their colours, with much noise."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(NAMES):
        (home / "images" / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 256, (20, 26, 3)).astype(float)
            pixels[:, :, k] += 40
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                home / "images" / name / f"{number:02d}.png"
            )
    return {
        "data": {
            "name": "image_folder", "path": str(home / "images"), "feedback": 10, "select": 10, "test": 20,
            "size": 16, "resize": 18, "crop": "center", "interpolation": "bicubic", "mean": [0.5, 0.4, 0.45],
            "std": [0.3, 0.2, 0.25],
        },
        "model": {"name": "small_cnn"},
    }  # fmt: skip


def features(home: Path) -> dict[str, Any]:
    """A Parquet table of feature vectors of three classes in two groups."""
    rng = np.random.default_rng(0)
    label, site = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    x = rng.normal(size=(300, 5)) + np.eye(3, 5)[label] + 0.5 * site[:, None]
    pq.write_table(
        pa.table({
            "id": [f"{k:04d}" for k in range(300)], "features": list(x.astype(np.float32)),
            "label": np.array(NAMES)[label], "site": np.array(["north", "south"])[site],
        }),
        home / "table.parquet",
    )  # fmt: skip
    return {
        "data": {
            "name": "parquet", "path": str(home / "table.parquet"), "group": "site", "feedback": 20,
            "select": 20, "test": 20,
        },
        "model": {"name": "linear_head"},
    }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A pin, and the rows that it was judged on.

    Attributes:
        home: folder with runs and pins.
        name: of the pin.
        inputs: what a user has: paths of images, or a table of features and groups.
        frame: the same as the registered model takes it.
        program: the same as an exported program takes it.
        group: names of the groups, where the model's correction is by group.
        expected: predictions of the sweep's own evaluation on test.
    """

    home: Path
    name: str
    inputs: Any
    frame: pd.DataFrame
    program: tuple[Tensor, ...]
    group: list[str] | None
    expected: Predictions

    @property
    def pin(self) -> Path:
        return self.home / "pins" / f"{self.name}.yaml"

    @property
    def model(self) -> Any:
        return load_pin(self.pin)


def let_win(home: Path, name: str) -> None:
    """Judge the sweep as if this row had the highest score."""
    folder = RunFolder.local(home / "runs", "mine")
    for record in folder.load_baselines():
        record.score = 9.0 if record.name == name else -1.0
        if record.cross_fitted is not None:
            record.cross_fitted = replace(record.cross_fitted, score=record.score)
        folder.save_trial(record)
    folder.save(folder.results_path, judged(folder, spec_from_resolved(folder.load_spec())))


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sweeps, on images and on features, with three pins of each but one."""
    made = {}
    for kind, make, winners in (
        ("images", photographs, ("selmix", "plug_in")),
        ("features", features, ("selmix", "plug_in", "thresholds_by_group")),
    ):
        home = made[kind] = tmp_path_factory.mktemp(kind)
        (home / "mine.yaml").write_text(yaml.safe_dump(TINY | {"name": "mine"} | make(home)))
        with catalogue_of(KEPT.__contains__):
            done = here("launch", "mine.yaml", "--in-process", cwd=home)
            assert done.code == 0, done.err
            for winner in winners:
                let_win(home, winner)
                done = here("pin", "mine", "--name", winner.replace("_", "-"), cwd=home)
                assert done.code == 0, done.err
                assert "not registered" not in done.err
    return made


CASES = [
    ("images", "selmix"), ("images", "plug-in"),
    ("features", "selmix"), ("features", "plug-in"), ("features", "thresholds-by-group"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cases(homes: dict[str, Path]) -> dict[tuple[str, str], Case]:
    return {(kind, name): case_of(homes[kind], kind, name) for kind, name in CASES}


def case_of(home: Path, kind: str, name: str) -> Case:
    spec = spec_from_resolved(RunFolder.local(home / "runs", "mine").load_spec())
    split = data_config(spec).load_test()
    expected = predictions_on(spec, load_weights(home / "pins" / f"{name}.safetensors"), split)
    if kind == "images":
        assert isinstance(split.inputs, Images)
        files = list(split.inputs.files)
        steps = split.inputs.preprocess
        # Of the network's inputs what the program takes: floats from 0 to 1, of the model's size.
        normalised = torch.cat(list(batches(split.inputs, 64)))
        pixels = normalised * torch.tensor(steps.std).view(-1, 1, 1) + torch.tensor(steps.mean).view(-1, 1, 1)
        frame = pd.DataFrame({"image": [Path(file).read_bytes() for file in files]})
        return Case(home, name, files, frame, (pixels,), None, expected)
    assert isinstance(split.inputs, Tensor)
    assert split.groups is not None
    sites = [("north", "south")[k] for k in split.groups.tolist()]
    columns: dict[str, Any] = {"features": list(split.inputs.numpy())}
    by_group = name == "thresholds-by-group"
    table = pa.table({"features": list(split.inputs.numpy()), "site": sites, "id": list(range(len(sites)))})
    return Case(
        home, name, table, pd.DataFrame(columns | ({"site": sites} if by_group else {})),
        (split.inputs, split.groups) if by_group else (split.inputs,), sites if by_group else None, expected,
    )  # fmt: skip


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def case(request: pytest.FixtureRequest, cases: dict[tuple[str, str], Case]) -> Case:
    return cases[request.param]


def agree(case: Case, labels: Tensor, probabilities: Tensor) -> None:
    """Labels all, probabilities to 1e-4: with the model as it is loaded, and with the sweep's own evaluation."""
    own_labels, own = case.model.predict(case.inputs, case.group)
    assert labels.tolist() == own_labels.tolist() == case.expected.predicted.tolist()
    assert probabilities.shape == own.shape
    assert float((probabilities - own).abs().max()) <= 1e-4
    confidence = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    assert float((confidence - case.expected.confidence).abs().max()) <= 1e-4


def of_frame(frame: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Labels and probabilities of a table of predictions."""
    labels = torch.tensor([NAMES.index(name) for name in frame["predicted"]])
    columns = [torch.tensor(frame[f"probability_{name}"].to_numpy(), dtype=torch.float64) for name in NAMES]
    return labels, torch.stack(columns, dim=1)


def test_the_pins_are_what_the_cases_say(cases: dict[tuple[str, str], Case]) -> None:
    for (kind, name), case in cases.items():
        pin = read_pin(case.home / "pins", name)
        correction = case.model.correction
        assert (correction is None) == (name == "selmix")
        assert (correction is not None and correction.num_groups) == (2 if case.group else 0)
        assert pin["protocol"]["group_names"] == (["north", "south"] if kind == "features" else None)
        # The predictions are those that the pin's numbers on test were computed from.
        accuracy = float((case.expected.predicted == case.expected.labels).float().mean())
        assert pin["test"]["accuracy"]["value"] == pytest.approx(accuracy)
        assert len(set(case.expected.predicted.tolist())) == 3
    of = {name: cases["features", name].expected.predicted for name in ("plug-in", "thresholds-by-group")}
    plain = cases["features", "selmix"].expected.predicted
    assert all(not torch.equal(each, plain) for each in of.values())


def test_a_loaded_pin_and_the_sweep_agree(case: Case) -> None:
    agree(case, *case.model.predict(case.inputs, case.group))


def test_a_loaded_pin_and_the_stored_predictions_on_select_agree(cases: dict[tuple[str, str], Case]) -> None:
    for key in (("images", "selmix"), ("features", "selmix")):
        case = cases[key]
        folder = RunFolder.local(case.home / "runs", "mine")
        pin = read_pin(case.home / "pins", "selmix")
        select = data_config(spec_from_resolved(folder.load_spec())).load().select
        stored = load_predictions(folder, pin["trial_id"])[0]
        labels, probabilities = case.model.predict(torch.cat(list(batches(select.inputs, 64))))
        assert labels.tolist() == stored.predicted.tolist()
        assert torch.allclose(probabilities.max(dim=1).values, stored.confidence, atol=1e-4)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predict_agrees(case: Case, ending: str, tmp_path: Path) -> None:
    out = tmp_path / f"p.{ending}"
    if isinstance(case.inputs, list):
        (tmp_path / "list.txt").write_text("\n".join(case.inputs))
        given = tmp_path / "list.txt"
    else:
        given = tmp_path / "t.parquet"
        pq.write_table(case.inputs, given)
    done = here("predict", case.pin, given, "--out", out, "--batch-size", "7", "--json")
    assert done.code == 0, done.err
    assert done.document["rows"] == len(case.expected.labels)
    frame = pd.read_parquet(out) if ending == "parquet" else pd.read_csv(out, dtype={"id": int})
    agree(case, *of_frame(frame))
    kept = "path" if isinstance(case.inputs, list) else "id"
    assert list(frame[kept]) == (
        case.inputs if isinstance(case.inputs, list) else case.inputs[kept].to_pylist()
    )


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_exports_agree(case: Case, form: str, tmp_path: Path) -> None:
    out = tmp_path / f"model.{form}"
    done = here("export", case.pin, "--format", form, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.document["files"] == [str(out), f"{out}.json"]
    about = json.loads(Path(f"{out}.json").read_text())
    assert about["class_names"] == list(NAMES)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        assert names == [each["name"] for each in about["inputs"]]
        feed = {name: each.numpy() for name, each in zip(names, case.program, strict=True)}
        _, probabilities, labels = (torch.from_numpy(each) for each in session.run(None, feed))
        assert json.loads(session.get_modelmeta().custom_metadata_map["selmix.json"])["pin"] == case.name
    elif form == "pt2":
        _, probabilities, labels = torch.export.load(out).module()(*case.program)
    else:
        labels, probabilities = by_hand(out, about, *case.program)
    agree(case, labels, probabilities)


def by_hand(
    path: Path, about: dict[str, Any], inputs: Tensor, group: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Predictions of a file of weights, as its description says it, without this package but for the network."""
    from selmix.models import ModelConfig

    state = load_weights(path)
    network = ModelConfig(**about["model"]).build(tuple(about["input_shape"]), len(about["class_names"]))
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("correction.")})
    if about["preprocess"] is not None:
        mean, std = (torch.tensor(about["preprocess"][key]).view(-1, 1, 1) for key in ("mean", "std"))
        inputs = (about["preprocess"]["input_range"] * inputs - mean) / std
    with torch.no_grad():
        logits = network.eval()(inputs)
    if about["correction"] is None:
        return logits.argmax(dim=1), logits.softmax(dim=1)
    part = {k.removeprefix("correction."): v for k, v in state.items() if k in about["correction"]}
    p = (part["scale"] * logits + part["bias"]).softmax(dim=1)
    scores = p @ part["matrix"] + part["offset"]
    if group is not None:
        scores = scores + part["group_offset"][group]
    return scores.argmax(dim=1), p


def test_the_registered_model_agrees(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    store = f"sqlite:///{case.home}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    # What an archive without a pickled object may hold is all that is allowed here.
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    address = f"models:/mine@{case.name}"
    model = mlflow.pyfunc.load_model(address)
    agree(case, *of_frame(model.predict(case.frame)))
    _, probabilities, labels = mlflow.pytorch.load_model(address)(*case.program)
    agree(case, labels, probabilities)
    assert [each.name for each in model.metadata.get_input_schema()] == list(case.frame.columns)
    example = model.input_example
    assert len(model.predict(example)) == len(example) == 2

    version = open_client(store).get_model_version_by_alias("mine", case.name)
    pin = read_pin(case.home / "pins", case.name)
    assert str(version.version) == pin["mlflow"]["version"]
    assert float(version.tags["test.min_recall"]) == pytest.approx(
        pin["test"]["min_recall"]["value"], abs=1e-6
    )
    assert {key for key in version.tags if key.startswith("test.")} == {f"test.{key}" for key in pin["test"]}
    assert re.match(r"\*\*min_recall on test [\d.]+ \[[\d.]+, [\d.]+\] %\*\* \(95 %", version.description)
    assert f"models:/mine@{case.name}" in version.description


def test_a_pin_outlives_a_registration_that_fails(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> str:
        raise RuntimeError("the server has gone away")

    home = homes["features"]
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.tracking.client.register_model", gone)
        done = here("pin", "mine", "--name", "alone", cwd=home)
    assert (done.code, done.out) == (0, "pins/alone.yaml\n")
    assert "alone: the pin is complete, but its model is not registered in MLflow" in done.err
    assert "the server has gone away" in done.err
    pin = read_pin(home / "pins", "alone")
    assert (pin["mlflow"]["version"], pin["mlflow"]["alias"]) == ("", "alone")
    assert load_pin(home / "pins" / "alone.yaml").class_names == NAMES
    assert here("reproduce", "alone", cwd=home).code == 0
    # Later, as the message has it; test is not opened for it.
    command = "selmix pin mine --name alone --register"
    assert f"to register it once MLflow takes it: {command}\n" in done.err
    openings = (home / "runs" / "openings.jsonl").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.tracking.client.register_model", gone)
        done = here(*command.split()[1:], cwd=home)
    assert (done.code, done.out) == (4, "")
    assert "its model must be registered in MLflow at sqlite:" in done.err
    assert "got: the server has gone away" in done.err
    with monkeypatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/another.db")
        done = here(*command.split()[1:], cwd=home)
    assert (done.code, done.out) == (4, "")
    assert "must be registered in the MLflow store of its sweep" in done.err
    done = here(*command.split()[1:], cwd=home)
    assert (done.code, done.out, done.err) == (0, "pins/alone.yaml\n", "")
    assert (home / "runs" / "openings.jsonl").read_bytes() == openings
    again = read_pin(home / "pins", "alone")
    assert again["mlflow"]["version"]
    kept = {key: value for key, value in again.items() if key not in ("mlflow", "digests")}
    assert kept == {key: pin[key] for key in kept}
    assert broken_sections(again) == []
    version = open_client(f"sqlite:///{home}/runs/mlflow.db").get_model_version_by_alias("mine", "alone")
    assert str(version.version) == again["mlflow"]["version"]
    assert here("reproduce", "alone", cwd=home).code == 0
    for extra, says in (
        ((), "its model is registered already, as version"),
        (("--force",), "--register: is of a pin that stands; leave --force out"),
    ):
        done = here(*command.split()[1:], *extra, cwd=home)
        assert done.code == 2
        assert says in done.err


def test_a_network_that_cannot_be_traced_is_registered_without_a_program(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from orchestrator.pins import registered
    from selmix.serving import export

    def never(*_: object) -> None:
        raise ValueError("the model cannot be traced")

    monkeypatch.setattr(export, "exported_program", never)
    home = homes["features"]
    document = read_pin(home / "pins", "selmix")
    registered.write_folder(tmp_path / "model", document, home / "pins" / "selmix.safetensors")
    held = yaml.safe_load((tmp_path / "model" / "MLmodel").read_text())
    assert held["flavors"].keys() == {"python_function"}
    done = here("export", home / "pins" / "selmix.yaml", "--format", "pt2", "--out", tmp_path / "m.pt2")
    assert (done.code, done.err) == (4, "selmix: the model cannot be traced\n")
    assert not (tmp_path / "m.pt2").exists()


class Served(Server):
    """``mlflow models serve`` on loopback.

    Args:
        store: address of MLflow. address: of the model. log: gets what it says.
    """

    def __init__(self, store: str, address: str, log: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}/invocations"
        command = [
            sys.executable, "-m", "mlflow", "models", "serve", "-m", address, "--env-manager", "local",
            "-h", "127.0.0.1", "-p", str(port),
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = environment(MLFLOW_TRACKING_URI=store, PATH=path)
        super().__init__(command, lambda: answers(f"http://127.0.0.1:{port}/ping"), log, environ)


def asked(url: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Answer of a served model for the rows of a frame, as JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        return value.tolist() if isinstance(value, np.ndarray) else value

    rows = [{key: plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
    request = urllib.request.Request(
        url, json.dumps({"dataframe_records": rows}).encode(), {"Content-Type": "application/json"}
    )
    with closing(urllib.request.urlopen(request, timeout=60)) as answer:
        return pd.DataFrame(json.loads(answer.read())["predictions"])


@pytest.mark.long
@pytest.mark.parametrize("key", [("images", "plug-in"), ("features", "thresholds-by-group")])
def test_the_served_model_agrees(
    key: tuple[str, str], cases: dict[tuple[str, str], Case], tmp_path: Path
) -> None:
    case = cases[key]
    store = f"sqlite:///{case.home}/runs/mlflow.db"
    with Served(store, f"models:/mine@{case.name}", tmp_path / "served.log") as server:
        agree(case, *of_frame(asked(server.url, case.frame)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path) as running:
        yield running


@pytest.mark.long
def test_a_server_that_keeps_the_artifacts_has_the_whole_model(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    (home / "mine.yaml").write_text(yaml.safe_dump(TINY | {"name": "mine"} | features(home)))
    with catalogue_of(KEPT.__contains__):
        assert here("launch", "mine.yaml", "--in-process", cwd=home).code == 0
        let_win(home, "plug_in")
        done = here("pin", "mine", "--name", "plug-in", cwd=home)
    assert done.code == 0
    assert done.err.startswith(
        "\nplug-in: min_recall on test "
    )  # its verdict, and no word of what was not registered
    case = case_of(home, "features", "plug-in")
    model = mlflow.pyfunc.load_model("models:/mine@plug-in")
    agree(case, *of_frame(model.predict(case.frame)))
    with Served(server.address, "models:/mine@plug-in", tmp_path / "served.log") as running:
        agree(case, *of_frame(asked(running.url, case.frame)))
    # The server ends between the opening of test and the registration: nothing is lost.
    register = client.register_model

    def too_late(*arguments: Any) -> str:
        server.kill()
        return str(register(*arguments))

    monkeypatch.setattr("orchestrator.tracking.client.register_model", too_late)
    done = here("pin", "mine", "--name", "late", cwd=home)
    assert (done.code, done.out) == (0, "pins/late.yaml\n")
    assert "late: the pin is complete, but its model is not registered in MLflow" in done.err
    assert load_pin(home / "pins" / "late.yaml").class_names == NAMES
