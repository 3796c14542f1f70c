"""Weights that a sweep file names, by their headers and as they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.build.checkpoint import given_weights, header_notes, initial_weights
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec, spec_from_resolved
from orchestrator.verbs.validate import check_named_files, validate_document

SHAPE, CLASSES = (8,), 3


def spec_of(**pretrain: object) -> SweepSpec:
    return spec_from_resolved({
        "version": 1, "name": "x", "data": {"name": "gaussians", "classes": CLASSES}, "model": {"name": "linear_head"},
        "objectives": ["min_recall"], "pretrain": pretrain,
    })  # fmt: skip


def stored(path: Path, classes: int = CLASSES, **more: object) -> str:
    state = spec_of().model.config.build(SHAPE, classes).state_dict()
    torch.save({"model": state, **more}, path)
    return str(path)


def test_a_checkpoint_is_checked_by_its_header_and_then_read(tmp_path: Path) -> None:
    spec = spec_of(checkpoint=stored(tmp_path / "x.pt"))
    assert header_notes(spec, SHAPE, CLASSES) == []
    assert set(given_weights(spec, SHAPE, CLASSES).state) == {"head.weight", "head.bias"}
    wrong = spec_of(checkpoint=stored(tmp_path / "x.pt", classes=5))
    for use in (header_notes, given_weights):
        with pytest.raises(
            PreflightError, match=r"^pretrain\.checkpoint: .*must have shape \(3, 8\), got \(5, 8\)"
        ):
            use(wrong, SHAPE, CLASSES)
    assert header_notes(spec_of(), SHAPE, CLASSES) == []


def test_a_choice_is_a_warning_of_validate_and_a_key_makes_it(tmp_path: Path) -> None:
    ema = spec_of().model.config.build(SHAPE, CLASSES).state_dict()
    path = stored(tmp_path / "x.pt", model_ema={name: tensor * 0.5 for name, tensor in ema.items()})
    (warning,) = [
        w for w in validate_document(spec_of(checkpoint=path), tmp_path).warnings if "pretrain" in w
    ]
    assert "took the weights under 'model'; 'model_ema' would fit too" in warning
    keyed = spec_of(checkpoint=path, checkpoint_key="model_ema")
    assert header_notes(keyed, SHAPE, CLASSES) == []
    assert torch.equal(given_weights(keyed, SHAPE, CLASSES).state["head.weight"], ema["head.weight"] * 0.5)
    # A file of before has no such key, and its digest stays.
    assert "checkpoint_key" not in spec_of(checkpoint=path).resolved()["pretrain"]


def test_initial_weights_are_those_of_a_recipe(tmp_path: Path) -> None:
    path = stored(tmp_path / "x.pt")
    assert initial_weights(spec_of(checkpoint=path), SHAPE, CLASSES) is None
    loaded = initial_weights(spec_of(init=path), SHAPE, CLASSES)
    assert loaded is not None
    assert set(loaded.state) == {"head.weight", "head.bias"}
    with pytest.raises(PreflightError, match=r"^pretrain\.init: .*same architecture"):
        initial_weights(spec_of(init=stored(tmp_path / "x.pt", classes=5)), SHAPE, CLASSES)


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    spec = spec_from_resolved({
        "version": 1, "name": "x", "data": {"name": "image_folder", "path": str(tmp_path / "no")},
        "model": {"name": "resnet32"}, "objectives": ["min_recall"], "pretrain": {"checkpoint": "none.pt"},
    })  # fmt: skip
    with pytest.raises(PreflightError, match=r"data\.path: .*must be there") as caught:
        check_named_files(spec)
    assert "pretrain.checkpoint: none.pt must be there" in str(caught.value)
