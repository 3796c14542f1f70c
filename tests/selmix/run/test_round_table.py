"""The artifact of a trial: what is written is what is read, in single precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from selmix.run.round_table import RoundMatrices, read_rounds, write_rounds

NAMES = ("confusion", "gain", "policy", "multipliers", "select_recalls")


def matrices(number: int, strata: int = 4, classes: int = 2, **missing: None) -> RoundMatrices:
    """Numbers in double precision, of (class, group) cells where there are more strata than classes."""
    g = torch.Generator().manual_seed(number)
    shapes = {"confusion": (strata, classes), "gain": (strata, strata), "policy": (strata, strata),
              "multipliers": (strata,), "select_recalls": (classes,)}  # fmt: skip
    drawn: dict[str, Tensor] = {
        name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()
    }
    return RoundMatrices(number, 10 * number, **{**drawn, **missing})  # type: ignore[arg-type]


def test_every_matrix_comes_back_in_its_shape(tmp_path: Path) -> None:
    rounds = [matrices(0), matrices(1), matrices(7)]
    write_rounds(tmp_path / "deep" / "r.parquet", rounds)
    read = read_rounds(tmp_path / "deep" / "r.parquet", 4, 2)
    assert [(each.round, each.steps) for each in read] == [(0, 0), (1, 10), (7, 70)]
    for before, after in zip(rounds, read, strict=True):
        for name in NAMES:
            assert torch.equal(getattr(after, name), getattr(before, name).float()), name
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r.parquet"]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_what_a_round_has_not_is_none(name: str, tmp_path: Path) -> None:
    lacking = matrices(1, **{name: None})
    for rounds in ([lacking], [matrices(0), lacking]):  # alone, its column has no value at all
        write_rounds(tmp_path / "r.parquet", rounds)
        read = read_rounds(tmp_path / "r.parquet", 4, 2)
        assert getattr(read[-1], name) is None
        assert [getattr(read[-1], other) is None for other in NAMES].count(True) == 1


def test_no_round_and_values_that_are_not_finite(tmp_path: Path) -> None:
    write_rounds(tmp_path / "r.parquet", [])
    assert read_rounds(tmp_path / "r.parquet", 4, 2) == []
    odd = torch.tensor([float("inf"), float("nan")])
    write_rounds(tmp_path / "r.parquet", [RoundMatrices(0, 0, None, None, None, None, odd)])
    (read,) = read_rounds(tmp_path / "r.parquet", 4, 2)
    assert torch.equal(read.select_recalls.isnan(), odd.isnan())
    assert float(read.select_recalls[0]) == float("inf")


def test_matrices_in_another_layout_are_written_row_by_row(tmp_path: Path) -> None:
    turned = torch.arange(8.0).view(2, 4).T
    write_rounds(tmp_path / "r.parquet", [RoundMatrices(0, 0, turned, None, None, None, torch.ones(2))])
    read = read_rounds(tmp_path / "r.parquet", 4, 2)[0].confusion
    assert read is not None
    assert torch.equal(read, turned)


def test_bytes_are_those_of_the_three_matrices() -> None:
    assert matrices(0).nbytes == 8 * (4 * 2 + 4 * 4 + 4 * 4)
    assert matrices(0, confusion=None, gain=None, policy=None).nbytes == 0
