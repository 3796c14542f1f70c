"""Checkpoints as other programs write them: which weights are taken, under which names, and what is refused."""

from __future__ import annotations

import argparse
import collections
import pathlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selmix.checkpoint_file import read_checkpoint
from selmix.checkpoints import load_for_model, load_for_training
from selmix.models import ModelConfig
from selmix.weights import load_weights


class Net(nn.Module):
    """A backbone with a buffer of counts, and a classifier."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, classes)


class Hyper(dict):  # type: ignore[type-arg]
    """Settings as a training framework pickles them."""


def weights(seed: int = 0, classes: int = 3) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(Net(classes).state_dict())


STATE = weights()
OTHER = weights(1)


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> bool:
    return list(found) == list(expected) and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize(
    "stored",
    [
        STATE,
        prefixed("module."),
        prefixed("model."),
        prefixed("_orig_mod."),
        prefixed("backbone."),
        prefixed("model._orig_mod.module."),
        prefixed("some.wrapper."),
        {"state_dict": prefixed("model."), "epoch": 3, "optimizer": {"state": {0: STATE["head.bias"]}}},
        {"checkpoint": {"net": STATE}, "best": torch.tensor(0.5)},
        {name.replace("layer.", "layer._orig_mod."): tensor for name, tensor in STATE.items()},
        {"n_averaged": torch.tensor(3), **prefixed("module.")},
        {**prefixed("model."), "criterion.weight": torch.ones(3)},
        {name: tensor for name, tensor in STATE.items() if not name.endswith("num_batches_tracked")},
    ],
)
def test_names_lose_the_prefixes_of_wrappers(stored: object, tmp_path: Path) -> None:
    torch.save(stored, tmp_path / "x.ckpt")
    assert same(load_for_model(tmp_path / "x.ckpt", Net()).state)


def test_files_are_told_by_their_content(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.weights")
    save_file(prefixed("module."), tmp_path / "y.bin", metadata={"format": "pt"})
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("x.weights", "y.bin", "old.pt"):
        assert same(load_for_model(tmp_path / name, Net()).state)
        assert dict(load_weights(tmp_path / name)).keys() == STATE.keys()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_converted_and_it_is_said(kind: torch.dtype, tmp_path: Path) -> None:
    half = {name: t.to(kind) if t.is_floating_point() else t for name, t in STATE.items()}
    for path, save in ((tmp_path / "x.pt", torch.save), (tmp_path / "x.safetensors", save_file)):
        save(half, path)
        loaded = load_for_model(path, Net())
        assert same(loaded.state, {n: half[n].to(STATE[n].dtype) for n in STATE})
        assert loaded.notes == (f"converted {str(kind).removeprefix('torch.')} to the model's types",)


@pytest.mark.parametrize("kind", [torch.int8, torch.int32, torch.bool])
def test_quantised_weights_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    torch.save({n: t.to(kind) if n == "head.weight" else t for n, t in STATE.items()}, tmp_path / "x.pt")
    name = str(kind).removeprefix("torch.")
    with pytest.raises(
        ValueError, match=f"head.weight must hold floating-point numbers, got {name}: .* quantised"
    ):
        load_for_model(tmp_path / "x.pt", Net())


def test_trained_weights_come_before_their_average_and_a_key_chooses(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model_ema": OTHER, "model": STATE}, path)
    loaded = load_for_model(path, Net())
    assert same(loaded.state)
    assert loaded.notes == (
        "took the weights under 'model'; 'model_ema' would fit too: name one with pretrain.checkpoint_key",
    )
    chosen = load_for_model(path, Net(), "model_ema")
    assert same(chosen.state, OTHER)
    assert chosen.notes == ()
    with pytest.raises(
        ValueError, match=r"must hold a state dict under 'ema', it holds 'model', 'model_ema'"
    ):
        load_for_model(path, Net(), "ema")
    # Two networks in one state dict are chosen by prefix.
    torch.save({"state_dict": {**prefixed("teacher.", OTHER), **prefixed("student.")}}, path)
    assert same(load_for_model(path, Net(), "teacher").state, OTHER)
    assert same(load_for_model(path, Net(), "state_dict.student").state)
    assert "'state_dict.teacher' would fit too" in load_for_model(path, Net()).notes[0]
    torch.save({"averaged": {"ema": OTHER}}, path)
    assert load_for_model(path, Net()).notes == ("took the averaged weights under 'averaged.ema'",)


def test_objects_beside_the_weights_are_no_obstacle_and_run_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pathlib.Path.touch, (touched,))  # type: ignore[return-value]

    path = tmp_path / "x.ckpt"
    extra = {
        "hyper_parameters": argparse.Namespace(lr=0.1), "settings": Hyper(a=1), "path": Path("x"),
        "score": np.float64(3.0), "array": np.arange(3), "lists": collections.defaultdict(list, {"a": [1]}),
        "attack": Attack(),
    }  # fmt: skip
    Attack.__qualname__ = "Attack"
    globals()["Attack"] = Attack
    torch.save({"state_dict": STATE, **extra}, path)
    assert same(load_for_model(path, Net()).state)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "must be a safetensors or torch file of weights, there is none"),
        (lambda path: path.write_bytes(b"junk"), "must hold tensors alone, it is neither"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
            "a pointer of Git LFS",
        ),
        (lambda path: torch.save(nn.Linear(2, 2), path), r"got a pickled torch\.nn\.modules\.linear\.Linear"),
        (lambda path: torch.save({"epoch": 3}, path), "must hold a state dict .* got epoch"),
        (lambda path: torch.save([1], path), "must hold a state dict .* got list"),
        (lambda path: path.write_bytes(b"\x80\x04junk"), "it cannot be read"),
        (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path)), "a TorchScript program"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_files_that_hold_no_weights(make: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    make(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=rf"^{path}: .*{says}") as caught:
        load_for_model(path, Net())
    assert "\n" not in str(caught.value)


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    for path, save in ((tmp_path / "x.pt", torch.save), (tmp_path / "x.safetensors", save_file)):
        save(STATE, path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match=r"cannot be read|must be a safetensors file"):
            load_for_model(path, Net())


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    bad = STATE | {"head.bias": torch.tensor([1.0, float("nan"), float("inf")])}
    torch.save(bad, path)
    for load in (lambda: load_for_model(path, Net()), lambda: load_for_training(path, Net(), "head")):
        with pytest.raises(
            ValueError, match=r"must be finite numbers, got NaN or infinity in head\.bias \(2 of 3\)"
        ):
            load()
    # Weights that are not taken may be anything.
    torch.save({"model": STATE, "model_ema": bad}, path)
    assert same(load_for_model(path, Net()).state)


def test_a_head_of_another_size_points_to_pre_training(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(weights(classes=10), path)
    with pytest.raises(
        ValueError, match=r"which gives 10 logits where the data have 3 classes.*pretrain: \{recipe"
    ):
        load_for_model(path, Net())
    loaded = load_for_training(path, Net(), "head")
    assert set(loaded.state) == {name for name in STATE if not name.startswith("head.")}
    torch.save({"extra": torch.ones(1), **{n: t for n, t in STATE.items() if n != "head.bias"}}, path)
    with pytest.raises(ValueError, match=r"unexpected extra; missing head\.bias"):
        load_for_model(path, Net())


def test_initial_weights_that_fit_too_little_say_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    model = ModelConfig("small_cnn").build((1, 8, 8), 3)
    state = dict(model.state_dict())
    first = next(name for name in state if name.endswith("weight"))
    torch.save({first: state[first]}, path)
    with pytest.raises(
        ValueError, match=r"1 of the \d+ tensors of the backbone fit \(\d+ % of its weights\); it lacks"
    ):
        load_for_training(path, model, "head")
    # A small part that begins at random is allowed, and said.
    bias = next(name for name in state if name.endswith("bias") and not name.startswith("head"))
    torch.save({name: tensor for name, tensor in state.items() if name != bias}, path)
    assert load_for_training(path, model, "head").notes == (
        f"1 tensors begin at random, the file has none that fit: {bias}",
    )


def test_headers_are_read_without_values(tmp_path: Path) -> None:
    save_file(
        {name: t.bfloat16() if t.is_floating_point() else t for name, t in STATE.items()},
        tmp_path / "x.safetensors",
    )
    torch.save({"state_dict": STATE, "class_names": ["a", "b", "c"]}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        file = read_checkpoint(tmp_path / name, on_meta=True)
        assert all(tensor.is_meta for tensor in file.states[0].tensors.values())
        assert {k: t.shape for k, t in file.states[0].tensors.items()} == {
            k: t.shape for k, t in STATE.items()
        }
    assert file.class_names == ("a", "b", "c")
    torch.save({"model": STATE, "class_to_idx": {"cow": 1, "ant": 0, "dog": 2}}, tmp_path / "y.pt")
    assert read_checkpoint(tmp_path / "y.pt").class_names == ("ant", "cow", "dog")
