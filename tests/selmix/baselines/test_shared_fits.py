"""Heads that are fitted once: by content, with their cost, and no more of them than memory has room for."""

from __future__ import annotations

import time

import pytest
import torch

from selmix.baselines import BASELINES, catalogue, cross_fitted, last_layer, shared_fits
from selmix.baselines.head_path import FittedHead
from selmix.baselines.last_layer import balanced_heads
from selmix.baselines.shared_fits import SharedFits
from tests.selmix.baselines.tasks import small_task


def head(size: int = 2) -> FittedHead:
    return FittedHead(0.1, torch.zeros(size, 3), torch.zeros(size))


def test_equal_content_is_fitted_once_and_costs_what_it_cost() -> None:
    fits, calls = SharedFits(), 0

    def fit() -> list[FittedHead]:
        nonlocal calls
        calls += 1
        time.sleep(0.02)
        return [head()]

    x = torch.arange(6.0).view(3, 2)
    first = fits.path(fit, [x], (0.1,))
    assert fits.saved_s == 0.0
    assert fits.path(fit, [x.clone()], (0.1,))[0] is first[0]
    assert calls == 1
    assert fits.saved_s >= 0.02
    for tensors, settings in (
        ([x + 1.0], (0.1,)), ([x.view(2, 3)], (0.1,)), ([x.double()], (0.1,)), ([x], (0.2,)), ([x, x], (0.1,)),
    ):  # fmt: skip
        fits.path(fit, tensors, settings)
    assert calls == 6


def test_the_least_recently_used_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_fits, "_NUMBERS_KEPT", 16)  # two heads of 8 numbers
    fits, made = SharedFits(), []

    def of(name: int) -> None:
        def fit() -> list[FittedHead]:
            made.append(name)
            return [head()]

        fits.path(fit, [torch.tensor([name])], ())

    for name in (0, 1, 0, 2, 0, 1):
        of(name)
    assert made == [0, 1, 2, 1]
    # One that is larger than all there is room for is given, and not kept.
    big = SharedFits()
    assert len(big.path(lambda: [head(100)], [torch.zeros(1)], ())[0].bias) == 100
    big.path(lambda: made.append(9) or [head(100)], [torch.zeros(1)], ())  # type: ignore[func-returns-value]
    assert made[-1] == 9


def test_a_head_on_train_is_fitted_once_in_a_whole_cross_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, paths = SharedFits(), 0

    def counted(*arguments: object, **named: object) -> object:
        nonlocal paths
        paths += 1
        return balanced_heads(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(last_layer, "SHARED_FITS", fresh)
    monkeypatch.setattr(catalogue, "SHARED_FITS", fresh)
    monkeypatch.setattr(last_layer, "balanced_heads", counted)
    task, row = small_task(), BASELINES["balanced_head"]
    result = row(task)
    found = cross_fitted(row, task, result)
    assert paths == 1
    assert found is not None
    assert found.score is not None
    # Fitted again it takes no time, and is said to.
    assert row(task).cost_s >= 0.5 * result.cost_s
    assert paths == 1
