"""Corrections beside weights: their decisions by a loop, their tensors, and a pinned model that has one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import yaml

from selmix import load_pin
from selmix.corrections import PREFIX, Correction, predictions_of, split_correction, with_correction
from selmix.metrics import Predictions
from selmix.models import ModelConfig
from selmix.weights import save_weights, state_digest


def correction(groups: int = 0, classes: int = 3) -> Correction:
    g = torch.Generator().manual_seed(1)
    scale, bias, offset = (torch.randn(classes, generator=g) for _ in range(3))
    matrix = torch.randn(classes, classes, generator=g)
    group_offset = torch.randn(groups, classes, generator=g) if groups else None
    return Correction(scale, bias, matrix, offset, group_offset)


LOGITS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
GROUPS = torch.arange(40) % 2


@pytest.mark.parametrize("groups", [0, 2])
def test_decisions_are_those_of_a_loop(groups: int) -> None:
    used = correction(groups)
    labels, probabilities = used.predict(LOGITS, GROUPS if groups else None)
    for i, row in enumerate(LOGITS):
        p = torch.softmax(row * used.scale + used.bias, dim=0)
        scores = []
        for j in range(3):
            worth = sum(float(p[k] * used.matrix[k, j]) for k in range(3)) + float(used.offset[j])
            if used.group_offset is not None:
                worth += float(used.group_offset[GROUPS[i], j])
            scores.append(worth)
        assert int(labels[i]) == scores.index(max(scores))
        assert torch.allclose(probabilities[i], p, atol=1e-6)
        assert used.apply(LOGITS, GROUPS)[i].tolist() == pytest.approx(scores, abs=1e-5)


def test_no_correction_is_the_argmax_and_the_softmax() -> None:
    labels, probabilities = Correction.none(3).predict(LOGITS)
    assert torch.equal(labels, LOGITS.argmax(dim=1))
    assert torch.allclose(probabilities, torch.softmax(LOGITS, dim=1))


def test_steps_lead_from_one_correction_to_another() -> None:
    none, whole = Correction.none(3), correction()
    half = none.towards(whole, 0.5)
    assert torch.allclose(half.matrix, (torch.eye(3) + whole.matrix) / 2)
    assert torch.allclose(half.scale, (1 + whole.scale) / 2)
    for step, end in ((0.0, none), (1.0, whole)):
        assert torch.allclose(none.towards(whole, step).apply(LOGITS), end.apply(LOGITS), atol=1e-6)
    assert whole.double().apply(LOGITS.double()).dtype == torch.float64


@pytest.mark.parametrize("groups", [0, 2])
def test_a_correction_survives_its_state_dict(groups: int) -> None:
    state, used = {"head.weight": torch.ones(3, 2)}, correction(groups)
    kept = with_correction(with_correction(state, correction(0)), used)
    assert {name for name in kept if name.startswith(PREFIX)} == used.tensors().keys()
    weights, found = split_correction(kept)
    assert weights.keys() == state.keys()
    assert found is not None
    assert torch.equal(found.apply(LOGITS, GROUPS), used.apply(LOGITS, GROUPS))
    assert split_correction(state) == (state, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correction.offset": None}, "a correction beside weights must have bias, group_offset, matrix"),
        ({"correction.other": torch.ones(1)}, "got bias, matrix, offset, other, scale"),
        (
            {"correction.matrix": torch.ones(3, 2)},
            r"correction.matrix: must be .* \(3, 3\), got shape \(3, 2\)",
        ),
        ({"correction.bias": torch.full((3,), float("nan"))}, "correction.bias: must be finite numbers"),
        ({"correction.group_offset": torch.ones(2, 4)}, r"of shape \(2, 3\), got shape \(2, 4\)"),
    ],
)
def test_damaged_corrections_are_refused(change: dict[str, torch.Tensor | None], message: str) -> None:
    state = {**correction().tensors(), **change}
    with pytest.raises(ValueError, match=message):
        split_correction({name: tensor for name, tensor in state.items() if tensor is not None})


def test_a_correction_by_group_needs_groups_that_it_knows() -> None:
    with pytest.raises(ValueError, match="correction is by group: give the group of every sample"):
        correction(2).predict(LOGITS)
    with pytest.raises(ValueError, match=r"groups must lie in \[0, 2\), got 0 to 2"):
        correction(2).predict(LOGITS, torch.arange(40) % 3)


def test_predictions_have_the_corrected_label_and_its_probability() -> None:
    labels, used = torch.arange(40) % 3, correction(2)
    found = predictions_of(used.tensors(), labels, LOGITS, GROUPS)
    predicted, probabilities = used.predict(LOGITS, GROUPS)
    assert torch.equal(found.predicted, predicted)
    assert torch.equal(found.confidence, probabilities[torch.arange(40), predicted])
    assert found.groups is GROUPS
    plain, expected = predictions_of({}, labels, LOGITS), Predictions.from_logits(labels, LOGITS)
    assert torch.equal(plain.predicted, expected.predicted)
    assert torch.equal(plain.confidence, expected.confidence)


@pytest.mark.parametrize("corrected", [False, True])
def test_a_pinned_model_gives_base_logits_and_predicts_with_its_correction(
    corrected: bool, tmp_path: Path
) -> None:
    model = ModelConfig("linear_head").build((4,), 3)
    state, used = dict(model.state_dict()), correction(2)
    state = with_correction(state, used) if corrected else state
    save_weights(tmp_path / "p.safetensors", state)
    protocol = {"class_names": ["a", "b", "c"], "model": {"name": "linear_head"}, "input_shape": [4]}
    pin = {"protocol": protocol, "digests": {"weights": state_digest(state)}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(pin))
    x, groups = torch.randn(7, 4), torch.arange(7) % 2
    for loaded in (load_pin(tmp_path / "p.yaml"), copy.deepcopy(load_pin(tmp_path / "p.yaml"))):
        logits = model(x)
        assert torch.equal(loaded(x), logits)
        labels, probabilities = loaded.predict(x, groups)
        expected = (
            used.predict(logits, groups) if corrected else (logits.argmax(dim=1), logits.softmax(dim=1))
        )
        assert torch.equal(labels, expected[0])
        assert torch.allclose(probabilities, expected[1])
        assert not probabilities.requires_grad
        if corrected:
            with pytest.raises(ValueError, match="give the group"):
                loaded.predict(x)
