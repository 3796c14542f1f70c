"""The images that come with the package: sizes, licence, and equality with the official files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from selmix.data.images import Images
from selmix.data.longtail import long_tailed_counts
from selmix.data.shipped import FashionSmallConfig
from selmix.data.shipped.fashion_small import FILE, OFFICIAL
from selmix.data.shipped.make_fashion_small import make

FOLDER = os.environ.get("FASHION_MNIST", OFFICIAL.path)


def pixels(inputs: object) -> torch.Tensor:
    assert isinstance(inputs, Images)
    assert inputs.pixels is not None
    return inputs.pixels


def test_there_are_enough_held_out_samples_in_a_small_file() -> None:
    data, test = FashionSmallConfig().load(), FashionSmallConfig().load_test()
    assert sorted(data.train_counts.tolist(), reverse=True) == long_tailed_counts(10, 1000, 100)
    assert data.select.counts(10).tolist() == [200] * 10
    assert data.feedback.counts(10).tolist() == [100] * 10
    assert test.counts(10).tolist() == [500] * 10
    assert pixels(test.inputs).shape == (5000, 1, 28, 28)
    assert FILE.stat().st_size <= 7_000_000
    assert "Zalando" in FILE.with_name("LICENSE.fashion-mnist").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(FOLDER).is_dir(),
    reason="no Fashion-MNIST: apt-get install dataset-fashion-mnist, or FASHION_MNIST=FOLDER",
)
def test_the_file_is_made_from_the_official_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "made.parquet", FOLDER)
    shipped = FashionSmallConfig().load(), FashionSmallConfig().load_test()
    monkeypatch.setattr("selmix.data.shipped.fashion_small.FILE", tmp_path / "made.parquet")
    made = FashionSmallConfig().load(), FashionSmallConfig().load_test()
    assert made[0].digests == shipped[0].digests
    assert torch.equal(pixels(made[1].inputs), pixels(shipped[1].inputs))


def test_a_damaged_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.parquet").write_bytes(FILE.read_bytes()[:5000])
    monkeypatch.setattr("selmix.data.shipped.fashion_small.FILE", tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="install the package again"):
        FashionSmallConfig().load()
