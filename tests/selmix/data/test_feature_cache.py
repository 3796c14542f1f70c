"""Cache of features: what is read is what would be computed, by whatever it depends on, and nothing ends by it."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from selmix.baselines import BASELINES
from selmix.data.feature_cache import FeatureCache
from selmix.data.images import Images
from selmix.model import ClassifierView, predict
from selmix.models import ModelConfig
from selmix.precision import Arithmetic
from selmix.weights import state_digest
from tests.selmix.baselines.tasks import small_task

CONFIG = ModelConfig("small_cnn")
SHAPE = (1, 8, 8)


def view_of(seed: int = 0, folder: Path | None = None) -> ClassifierView:
    model = CONFIG.build(SHAPE, 3, torch.Generator().manual_seed(seed))
    view = CONFIG.view(model)
    view.cache = None if folder is None else FeatureCache(folder, state_digest(model.state_dict()))
    return view


def inputs_of(rows: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.arrow"))


def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("the network was asked again")

    monkeypatch.setattr(ClassifierView, "features_and_logits", refused)


def test_what_is_read_is_to_the_bit_what_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(1030)  # more than two batches
    plain = predict(view_of(), inputs)
    first = predict(view_of(folder=tmp_path), inputs)
    (file,) = files(tmp_path)
    no_forward(monkeypatch)
    again = predict(view_of(folder=tmp_path), inputs)
    for computed, made, found in zip(plain, first, again, strict=True):
        assert torch.equal(computed, made)
        assert torch.equal(computed, found)
        assert (found.shape, found.dtype) == (computed.shape, computed.dtype)
    with pa.memory_map(str(tmp_path / file)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    assert batch.schema.names == ["features", "logits"]
    assert batch.column("features").to_pylist()[3] == plain[0][3].tolist()


def test_everything_that_bits_depend_on_is_in_the_key(tmp_path: Path) -> None:
    def asked(view: ClassifierView, inputs: Any, batch_size: int = 512) -> int:
        predict(view, inputs, batch_size)
        return len(files(tmp_path))

    inputs = inputs_of()
    assert asked(view_of(folder=tmp_path), inputs) == 1
    assert asked(view_of(folder=tmp_path), inputs.clone()) == 1
    assert asked(view_of(1, tmp_path), inputs) == 2
    assert asked(view_of(folder=tmp_path), inputs.flip(0)) == 3
    assert asked(view_of(folder=tmp_path), inputs, 7) == 4
    other = view_of(folder=tmp_path)
    other.compute_in_(Arithmetic("bfloat16"))
    assert asked(other, inputs) == 5
    pixels = torch.randint(
        0, 256, (20, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    images = Images(size=8, mean=(0.5,), std=(0.5,), pixels=pixels)
    assert asked(view_of(folder=tmp_path), images) == 6
    # The same pixels, normalised otherwise: another view of them.
    assert asked(view_of(folder=tmp_path), replace(images, std=(0.25,))) == 7
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert asked(view_of(folder=tmp_path), inputs) == 8
    finally:
        torch.set_num_threads(threads)


def test_who_writes_into_them_changes_them_for_nobody_else(tmp_path: Path) -> None:
    expected = predict(view_of(), inputs_of())[0]
    predict(view_of(folder=tmp_path), inputs_of())
    found = predict(view_of(folder=tmp_path), inputs_of())[0]
    found.zero_()
    assert torch.equal(predict(view_of(folder=tmp_path), inputs_of())[0], expected)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    expected = predict(view_of(folder=tmp_path), inputs_of())
    (name,) = files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", b"no arrow", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(damaged)
        found = predict(view_of(folder=tmp_path), inputs_of())
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert (tmp_path / name).read_bytes() == whole


def test_a_folder_that_cannot_be_written_to_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    expected = predict(view_of(), inputs_of())
    found = predict(view_of(folder=tmp_path / "file"), inputs_of())
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_no_samples_have_no_features(tmp_path: Path) -> None:
    for _ in range(2):
        features, logits = predict(view_of(folder=tmp_path), inputs_of(0).reshape(0, *SHAPE))
        assert (features.shape, logits.shape) == ((0, 256), (0, 3))


def _asks(folder: Path, counted: Path) -> None:
    view, plain = view_of(folder=folder), ClassifierView.features_and_logits

    def counting(self: ClassifierView, batch: Tensor) -> tuple[Tensor, Tensor]:
        (counted / f"{os.getpid()}").touch()
        return plain(self, batch)

    ClassifierView.features_and_logits = counting  # type: ignore[method-assign]
    predict(view, inputs_of(600))


@pytest.mark.slow
def test_processes_that_want_the_same_compute_it_once(tmp_path: Path) -> None:
    counted = tmp_path / "counted"
    counted.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_asks, args=(tmp_path / "features", counted)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(counted.iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["last_layer_on_train_plus_feedback", "mislas_stage_two", "tau_normalisation"]
)
def test_a_baseline_is_the_same_with_and_without_it(name: str, tmp_path: Path) -> None:
    task = small_task()
    base = replace(task.base, cache=FeatureCache(tmp_path, state_digest(task.base.state)))
    with_cache = [BASELINES[name](replace(task, base=base)).states[0] for _ in range(2)]
    plain = state_digest(BASELINES[name](task).states[0])
    assert [state_digest(state) for state in with_cache] == [plain, plain]
    assert files(tmp_path)
