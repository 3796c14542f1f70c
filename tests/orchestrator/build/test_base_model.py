"""The base model of a specification: trained, read, or refused with the key that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.build.base_model import (
    base_model,
    check_checkpoint,
    initial_state,
    torch_threads,
)
from orchestrator.build.data import load_data
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec, spec_from_resolved
from selmix.weights import load_weights, save_weights, state_digest

DATA = {
    "name": "gaussians",
    "classes": 3,
    "largest_class": 20,
    "imbalance": 2,
    "feedback": 8,
    "select": 8,
    "test": 8,
}


def spec_of(**pretrain: object) -> SweepSpec:
    pretrain = pretrain if "checkpoint" in pretrain else {"epochs": 2, **pretrain}
    return spec_from_resolved({
        "version": 1, "name": "x", "data": DATA, "model": {"name": "linear_head"}, "objectives": ["min_recall"],
        "pretrain": pretrain,
    })  # fmt: skip


SPEC = spec_of()
LOADED = load_data(SPEC)


def test_a_recipe_gives_the_same_weights_every_time_and_its_facts() -> None:
    first, facts = base_model(SPEC, LOADED)
    again, _ = base_model(SPEC, LOADED)
    other, _ = base_model(spec_of(seed=1), LOADED)
    assert state_digest(first) == state_digest(again) == facts.digest != state_digest(other)
    assert (facts.recipe, facts.seed, facts.checkpoint, facts.init) == ("erm", 0, None, None)


def test_stored_weights_are_read_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, facts = base_model(SPEC, LOADED, tmp_path / "none yet")
    save_weights(tmp_path / "w.safetensors", state)
    monkeypatch.setattr(
        "orchestrator.build.base_model.pretrain", lambda *_: pytest.fail("it is trained again")
    )
    read, of_read = base_model(SPEC, LOADED, tmp_path / "w.safetensors")
    assert state_digest(read) == of_read.digest == facts.digest


def test_a_checkpoint_is_the_base_model(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, base_model(SPEC, LOADED)[0])
    spec = spec_of(checkpoint=str(path))
    check_checkpoint(spec, LOADED)
    state, facts = base_model(spec, LOADED)
    assert state_digest(state) == facts.digest == state_digest(load_weights(path))
    assert (facts.checkpoint, facts.recipe, facts.seed) == (str(path), None, None)


def test_a_checkpoint_that_cannot_be_used_names_its_key_and_its_file_once(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for content in (None, b"x", {"fc": torch.zeros(1)}):
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            save_weights(path, content)
        for use in (check_checkpoint, base_model):
            with pytest.raises(
                PreflightError, match=r"^pretrain\.checkpoint: .*; model linear_head with 3"
            ) as caught:
                use(spec_of(checkpoint=str(path)), LOADED)
            assert str(caught.value).count(str(path)) == 1


def test_initial_weights_belong_to_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights = base_model(SPEC, LOADED)[0]
    save_weights(path, weights)
    assert initial_state(SPEC, LOADED) is None
    assert initial_state(spec_of(init=str(path), checkpoint="x"), LOADED) is None
    assert state_digest(initial_state(spec_of(init=str(path)), LOADED) or {}) == state_digest(weights)
    save_weights(path, {"fc": torch.zeros(1)})
    with pytest.raises(
        PreflightError, match=r"^pretrain\.init: .*must be of the same architecture: 0 of the 0"
    ):
        check_checkpoint(spec_of(init=str(path)), LOADED)
    with pytest.raises(PreflightError, match=r"^pretrain\.init: .*there is none"):
        check_checkpoint(spec_of(init=str(tmp_path / "none")), LOADED)


def test_the_number_of_threads_is_restored_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1 / 0
    assert torch.get_num_threads() == before
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
