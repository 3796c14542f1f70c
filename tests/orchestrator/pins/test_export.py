"""``selmix export``: what is refused, and by which words; that exports agree is tested end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from selmix.pinned import load_pinned
from selmix.serving import export as module
from selmix.serving.export import compared, export_model
from selmix.serving.program import PinnedProgram, examples
from tests.command import here, selmix
from tests.selmix.test_pinned import STEPS, pinned


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "pins").mkdir()
    pinned(tmp_path / "pins" / "kept.yaml", (3, 16, 16), preprocess=STEPS.as_keys())
    return tmp_path


def test_weights_are_written_with_their_description(home: Path) -> None:
    done = here("export", "kept", "--format", "safetensors", cwd=home)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "kept.safetensors", "kept.safetensors.json",
        "checked on 32 random samples: all labels equal, probabilities within 0",
    ]  # fmt: skip
    about = json.loads((home / "kept.safetensors.json").read_text())
    assert (about["pin"], about["model"], about["check"]["rows"]) == ("kept", {"name": "small_cnn"}, 32)
    assert about["preprocess"] == STEPS.as_keys()
    assert about["before_the_model"][1].startswith("resize both sides to 18, by Pillow's bicubic filter")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("kep", "--format", "pt2"), 8, "pins/kep.yaml: no such pin; did you mean kept?"),
        (("kept", "--format", "safetensors", "-o", "pins/kept.safetensors"), 2, "must be another file than the pin's"),
        (("kept", "--format", "safetensors", "-o", "pins/kept.yaml/x"), 4, "must be writable: Not a directory; choose "
         "another --out"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line(
    home: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = here("export", *arguments, cwd=home)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert len(done.err.splitlines()) == 1


def test_without_onnx_it_is_said_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnx" else whole(name))
    done = here("export", "kept", "--format", "onnx", cwd=home)
    assert (done.code, done.out) == (4, "")
    assert done.err == ("selmix: --format onnx needs onnx; install with pip install 'selmix[onnx]'\n")
    assert [path.name for path in home.iterdir()] == ["pins"]


@pytest.mark.parametrize(("shift", "scale"), [(0.01, 1.0), (0.0, torch.nan), (0.0, -1.0)])
def test_an_export_that_does_not_agree_is_not_kept(
    home: Path, shift: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities that are off, that are no numbers, or other labels."""

    def wrong(program: PinnedProgram, *_: Any) -> Any:
        def run(*batch: torch.Tensor) -> Any:
            logits, p, labels = program(*batch)
            return logits, p * (scale if scale > 0 or scale != scale else 1.0) + shift, labels + (scale < 0)

        return run

    monkeypatch.setitem(module._WRITERS, "pt2", wrong)
    done = here("export", "kept", "--format", "pt2", cwd=home)
    assert (done.code, done.out) == (4, "")
    assert (
        "the exported model must agree with the pinned one: all labels, and probabilities to 0.0001; got"
        in done.err
    )
    assert [path.name for path in home.iterdir()] == ["pins"]


def test_a_program_is_the_loaded_model(home: Path) -> None:
    """On floats from 0 to 1, as images of bytes are before their normalisation."""
    loaded = load_pinned(home / "pins" / "kept.yaml")
    program = PinnedProgram(loaded).eval()
    assert loaded.steps is not None
    for (inputs,) in examples(loaded):
        labels, probabilities = loaded.predict(loaded.steps.normalised(inputs))
        got = program(inputs)
        # Without torch.no_grad, as the page on pins has it, its outputs are plain numbers.
        assert not got[1].requires_grad
        assert torch.equal(got[2], labels)
        assert torch.allclose(got[1], probabilities, atol=1e-6)
    same = compared(program, program, list(examples(loaded)))
    assert (same.rows, same.labels_differ, same.largest_difference, same.holds) == (32, 0, 0.0, True)


def test_an_error_of_the_exporter_is_one_line_and_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("data-dependent control flow\nand a page of advice")

    monkeypatch.setattr(torch.export, "export", fails)
    loaded = load_pinned(home / "pins" / "kept.yaml")
    with pytest.raises(ValueError, match=r"cannot be traced by torch.export with a batch of any size: data-dependent "
                       "control flow; --format safetensors has its weights"):  # fmt: skip
        export_model(
            loaded, home / "m.pt2", "pt2", {"name": "kept", "protocol": {}, "digests": {"weights": "x"}}
        )
    assert [path.name for path in home.iterdir()] == ["pins"]


@pytest.mark.slow
def test_an_export_leaves_nothing_in_the_home_folder(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """onnxruntime, by which it is checked, would report to its makers and keep its id there."""
    own = tmp_path_factory.mktemp("own")
    done = selmix("export", "kept", "--format", "onnx", cwd=home, HOME=str(own))
    assert done.code == 0, done.err
    assert [path for path in own.rglob("*") if path.is_file()] == []
