"""Class names and preprocessing that a checkpoint carries, against those of the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.build.carried import carried_notes
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from selmix.checkpoint_file import read_checkpoint
from selmix.weights import save_weights
from tests.orchestrator.spec.test_schema import spec_of

NAMES = ("sea lion", "Ant", "bee")


def spec(path: Path) -> SweepSpec:
    return spec_of(
        "version: 1\nname: x\nobjectives: [min_recall]\ndata: {name: image_folder, path: none, size: 32}\n"
        f"pretrain: {{checkpoint: '{path}'}}\n"
    )


@pytest.mark.parametrize("stored", [
    {"class_names": ["Sea_Lion", "ant", "bee"]}, {"class_to_idx": {"bee": 2, "ant": 1, "sea-lion": 0}}, {},
])  # fmt: skip
def test_the_same_order_and_no_names_are_fine(stored: dict[str, object], tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}, **stored}, tmp_path / "a.pt")
    assert carried_notes(spec(tmp_path / "a.pt"), NAMES) == []


def test_another_order_is_refused_with_the_key_that_mends_it(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"w": torch.zeros(2)}, "classes": ["ant", "bee", "sea lion"]}, tmp_path / "a.pt"
    )
    with pytest.raises(PreflightError) as caught:
        carried_notes(spec(tmp_path / "a.pt"), NAMES)
    assert str(caught.value).endswith(
        "a.pt: its classes must be in the order of the data's, got 'ant' as class 0 where the data have 'sea lion'; "
        "give data.class_names: [Ant, bee, sea lion]"
    )
    # Beside weights of this package too.
    save_weights(
        tmp_path / "b.safetensors", {"w": torch.zeros(2)}, {"class_names": ["Ant", "bee", "sea lion"]}
    )
    with pytest.raises(PreflightError, match="its classes must be in the order of the data's"):
        carried_notes(spec(tmp_path / "b.safetensors"), NAMES)


def test_the_path_may_name_the_home_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    torch.save({"state_dict": {"w": torch.zeros(2)}}, tmp_path / "a.pt")
    assert (
        carried_notes(spec(Path("~/a.pt")), NAMES) == carried_notes(spec(Path("$WEIGHTS/a.pt")), NAMES) == []
    )


def test_other_names_and_another_preprocessing_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    facts = {"class_names": ["n01", "n02", "n03"], "preprocess": {"size": 64, "crop": "center"}}
    save_weights(path, {"w": torch.zeros(2)}, facts)
    names, size = carried_notes(spec(path), NAMES)
    assert (
        "its classes are named n01, n02, n03, those of the data sea lion, Ant, bee: whether they are in"
        in names
    )
    assert size == "data.size: 32, the checkpoint was trained with 64"


def test_weights_of_the_same_content_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_weights(
            tmp_path / name, {"w": torch.zeros(2)}, {"class_names": list(NAMES), "preprocess": {"size": 8}}
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    """The file begins with the length of its header: one in 32 begins with the byte 0x80, as a pickle does."""
    path = tmp_path / "a.safetensors"
    for length in range(300):
        save_weights(path, {"w": torch.zeros(2)}, {"class_names": list(NAMES), "more": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header of that length")
    assert read_checkpoint(path, on_meta=True).class_names == NAMES
