"""Models of the field and of the user's own: shapes, determinism, refusals, and a round of fine-tuning on each."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.run.run import SelectionRule, finetune
from selmix.run.start_model import Base
from selmix.weights import load_checkpoint_into, load_weights, save_weights, state_digest
from tests.command import here, selmix

OWN = """
import torch
from torch import nn

def network(num_classes, input_shape):
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
    return nn.Sequential(body, nn.Linear(16, num_classes))

def greedy(num_classes, width):
    return nn.Linear(width, num_classes)

def wrong(num_classes):
    return nn.Linear(64, num_classes + 1)

def nothing():
    return None

def worst_two(confusion):
    recalls = confusion.diagonal() / confusion.sum(dim=1)
    return recalls.sort().values[:2].mean()

def infinite(confusion):
    return (confusion.diagonal() - confusion.diagonal()).sqrt().sum()

def constant(confusion):
    return torch.tensor(1.0)
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    return "own_parts"


def images(side: int = 32, classes: int = 3, each: int = 4) -> SweepData:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)

    def split() -> Split:
        noise = torch.randn(len(labels), 3, side, side, generator=generator)
        return Split(noise + labels.view(-1, 1, 1, 1).float(), labels)

    names = tuple(f"class{k}" for k in range(classes))
    return SweepData("noise", names, split(), split(), split(), {})


@pytest.mark.parametrize(
    ("name", "layer", "precision"),
    [
        ("wrn_28_2", "group2", "float32"),
        ("resnet32", "features", "bfloat16"),
        ("torchvision/resnet18", "layer2", "float32"),
        pytest.param(
            "torchvision/vit_b_16", "encoder.layers.encoder_layer_5", "float32", marks=pytest.mark.slow
        ),
    ],
)
def test_a_round_on_models_of_the_field(name: str, layer: str, precision: str) -> None:
    data, config = images(), ModelConfig(name)
    state = torch.get_rng_state()
    model = config.build(data.input_shape, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert state_digest(model.state_dict()) == state_digest(config.build(data.input_shape, 3).state_dict())
    settings = FinetuneConfig(
        start="given",
        steps=2,
        refresh_every=2,
        batch_size=4,
        policy="uniform",
        lr=0.01,
        mixup_layer=layer,
        precision=precision,
    )
    run = finetune(
        data, Base(config, model.state_dict(), {}), "mean_recall", settings, 0, SelectionRule("mean_recall")
    )
    assert run.stop_reason == "steps"
    assert not torch.equal(run.view.head.weight, config.view(model).head.weight)


def test_published_sizes() -> None:
    """WRN-28-2 has 1.5 and ResNet-32 0.46 million parameters (tables of their papers)."""
    sizes = {
        name: sum(p.numel() for p in ModelConfig(name).build((3, 32, 32), 10).parameters())
        for name in ("wrn_28_2", "resnet32")
    }
    assert abs(sizes["wrn_28_2"] / 1.5e6 - 1) < 0.03
    assert abs(sizes["resnet32"] / 0.46e6 - 1) < 0.02


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("torchvision/resnet81", (3, 32, 32), "no classifier 'resnet81'; close to it: resnet18"),
        ("torchvision/resnet18", (1, 32, 32), r"takes images \(3, height, width\)"),
        ("torchvision/squeezenet1_0", (3, 32, 32), "must have an nn.Linear as its classifier"),
        ("wrn_28_2", (3, 2, 2), "4 x 4 or more"),
        ("absent_module:network", (3, 32, 32), "absent_module cannot be imported: ModuleNotFoundError"),
        ("torch:9", (3, 32, 32), "must read package.module:function"),
    ],
)
def test_models_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(name).build(shape, 4)


def test_a_model_of_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="timm/resnet18 needs timm; install it with pip install 'selmix"):
        ModelConfig("timm/resnet18").build((3, 32, 32), 4)


def test_a_model_of_the_users_own(own_module: str) -> None:
    config = ModelConfig(f"{own_module}:network")
    assert config.build((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    for function, message in {
        "greedy": "also requires width", "wrong": "must give 10 logits", "nothing": "must return an nn.Module",
        "missing": "has no function 'missing'; it has",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ModelConfig(f"{own_module}:{function}").build((1, 8, 8), 10)


def test_the_classifier_can_be_named() -> None:
    model = nn.ModuleDict({"classifier": nn.Linear(4, 3), "projection": nn.Linear(4, 8)})
    assert ClassifierView(model).head_name == "projection"
    assert ClassifierView(model, "classifier").head is model["classifier"]
    with pytest.raises(ValueError, match="one of classifier, projection; got 'fc'"):
        ClassifierView(model, "fc")
    with pytest.raises(ValueError, match="must have a bias"):
        ClassifierView(nn.Linear(4, 3, bias=False))


def test_checkpoints_of_torch_are_read_as_data(tmp_path: Path) -> None:
    model = ModelConfig("linear_head").build((4,), 3)
    state = model.state_dict()
    save_weights(tmp_path / "a.safetensors", state)
    torch.save(state, tmp_path / "a.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "b.pth")
    for name in ("a.safetensors", "a.pt", "b.pth"):
        loaded = load_weights(tmp_path / name)
        load_checkpoint_into(model, loaded)
        assert state_digest(loaded) == state_digest(state)


def test_checkpoints_that_hold_code_are_refused(tmp_path: Path) -> None:
    torch.save(ModelConfig("linear_head").build((4,), 3), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"must hold tensors alone.*torch.save\(model.state_dict"):
        load_weights(tmp_path / "whole.pt")
    torch.save({"epoch": 3}, tmp_path / "no.pt")
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_weights(tmp_path / "no.pt")
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="must hold tensors alone"):
        load_weights(tmp_path / "noise.pt")


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(f"version: 1\nname: own\ndata: {{name: digits}}\n{text}")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objectives: [own_parts:worst_two]\n", "needs selection.margin"),
        ("objectives: [own_parts:infinite]\nselection: {metric: min_recall}\n", "finite gradient"),
        ("objectives: [own_parts:constant]\nselection: {metric: min_recall}\n", "scalar tensor that depends"),
        ("objectives: [own_parts:absent]\nselection: {metric: min_recall}\n", "has no function 'absent'"),
        ("objectives: [min_recall]\nmodel: {name: own_parts:wrong}\n", "must give 10 logits"),
        ("objectives: [min_recall]\nmodel: {name: small_cnn, head: stage1}\n", "model.head must name"),
    ],
)
def test_validate_refuses_parts_of_the_users_own(
    tmp_path: Path, own_module: str, text: str, message: str
) -> None:
    done = here("validate", sweep_file(tmp_path, text), cwd=tmp_path)
    assert done.code == 3
    assert message in done.err


@pytest.mark.long
@pytest.mark.ray
def test_a_sweep_of_parts_of_the_users_own(tmp_path: Path, own_module: str) -> None:
    """A network, an objective and a plain torch checkpoint of the user's, from sweep to pin and back."""
    config = ModelConfig(f"{own_module}:network")
    torch.save(config.build((1, 8, 8), 10).state_dict(), tmp_path / "base.pt")
    file = sweep_file(
        tmp_path,
        "model: {name: 'own_parts:network'}\npretrain: {checkpoint: base.pt}\nobjectives: ['own_parts:worst_two']\n"
        "selection: {metric: min_recall, finalists: 1, replicates: 1}\nsearch: {num_trials: 1}\n"
        "parameters: {steps: {value: 40}}\n",
    )
    for verb in (["launch", file], ["pin", "own", "--name", "own"], ["reproduce", "own"]):
        done = selmix(*verb, cwd=tmp_path)
        assert done.code == 0, done.err
    assert "every digest and number is equal" in done.out


def test_settings_are_those_of_the_config() -> None:
    assert dataclasses.asdict(ModelConfig("small_cnn")) == {"name": "small_cnn", "head": None}
