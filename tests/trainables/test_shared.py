"""Devices of a worker: the GPU that it was given, and its share of it."""

from __future__ import annotations

import pytest
import torch

from trainables.shared import FAKE_GPUS, device_of, keep_to_share


def test_a_share_of_a_gpu_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    for gpu in (0, 0.25, 1, 2):
        keep_to_share(gpu)
    assert fractions == [0.25, 1.0, 1.0]


def test_a_gpu_that_torch_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(FAKE_GPUS, raising=False)
    assert device_of(0) == torch.device("cpu")
    with pytest.raises(RuntimeError, match="torch must see the GPU"):
        device_of(0.5)
    monkeypatch.setenv(FAKE_GPUS, "1")
    assert device_of(0.5) == torch.device("cpu")
    keep_to_share(0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(0.5) == torch.device("cuda")
