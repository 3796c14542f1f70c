"""Weights as files, and their digests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from selmix import load_pin
from selmix.models import ModelConfig
from selmix.weights import (
    bytes_digest,
    load_checkpoint_into,
    load_weights,
    save_weights,
    state_digest,
    tensor_digest,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_a_file_holds_what_was_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"a": torch.arange(6).view(2, 3).to(dtype), "b": torch.zeros((), dtype=dtype)}
    save_weights(tmp_path / "w.safetensors", state)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert state_digest(loaded) == state_digest(state)
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pt"
    )
    assert state_digest(load_weights(tmp_path / "w.pt")) == state_digest(state)


def test_a_digest_is_of_names_types_shapes_and_values() -> None:
    a = torch.tensor([1.0, 2.0])
    others = [
        {"b": a}, {"a": a.double()}, {"a": a.view(1, 2)}, {"a": a + 1}, {"a": a.bfloat16()}, {"a": a.half()},
        {"a": a.bfloat16().view(torch.uint8)},
    ]  # fmt: skip
    assert len({state_digest({"a": a}), *map(state_digest, others)}) == len(others) + 1
    assert state_digest({"a": a, "b": a}) == state_digest({"b": a, "a": a})
    square = torch.arange(4.0).view(2, 2)
    assert tensor_digest(square.T.contiguous()) == tensor_digest(square.T)
    assert tensor_digest(a, a) != tensor_digest(a)
    assert bytes_digest(b"") == f"sha256:{'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.safetensors", None, "must be a safetensors or torch file of weights, there is none"),
        ("w.safetensors", b"junk", "must be a safetensors file"),
        ("w.pt", b"junk", "must hold tensors alone"),
    ],
)
def test_files_that_are_none(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load_weights(tmp_path / name)


def test_a_torch_file_runs_nothing_and_holds_a_state_dict(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"write it with torch\.save\(model\.state_dict"):
        load_weights(tmp_path / "module.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_weights(tmp_path / "numbers.pt")


def test_weights_that_do_not_fit_are_listed() -> None:
    model = nn.Linear(3, 2)
    load_checkpoint_into(model, {"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    assert torch.equal(model.weight, torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r"weight must have shape \(2, 3\), got \(2, 4\); unexpected extra; missing bias"
    ):
        load_checkpoint_into(model, {"weight": torch.ones(2, 4), "extra": torch.zeros(1)})


def pin_in(folder: Path) -> Path:
    """A pin of two classes, as far as loading its model needs one."""
    state = ModelConfig("linear_head").build((3,), 2, torch.Generator().manual_seed(0)).state_dict()
    save_weights(folder / "p.safetensors", state)
    document = {
        "protocol": {"class_names": ["cat", "dog"], "model": {"name": "linear_head"}, "input_shape": [3]},
        "digests": {"weights": state_digest(state)},
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(document))
    return folder / "p.yaml"


def test_a_pinned_model(tmp_path: Path) -> None:
    model = load_pin(pin_in(tmp_path))
    assert model.class_names == ("cat", "dog")
    assert not model.training
    assert model(torch.zeros(5, 3)).shape == (5, 2)


def test_pins_that_are_none(tmp_path: Path) -> None:
    path = pin_in(tmp_path)
    with pytest.raises(ValueError, match="must be a pin, there is none"):
        load_pin(tmp_path / "none.yaml")
    whole = yaml.safe_load(path.read_text())
    for key, says in (("digests", "with the keys protocol and digests"), ("protocol", "with the keys")):
        path.write_text(yaml.safe_dump({name: value for name, value in whole.items() if name != key}))
        with pytest.raises(ValueError, match=says):
            load_pin(path)
    path.write_text(yaml.safe_dump({"protocol": {"model": {}}, "digests": {}}))
    with pytest.raises(
        ValueError, match=r"lacks protocol\.class_names, protocol\.input_shape, digests\.weights"
    ):
        load_pin(path)
    path.write_text(yaml.safe_dump(whole | {"digests": {"weights": "sha256:0"}}))
    with pytest.raises(ValueError, match="must have digest sha256:0, got"):
        load_pin(path)
