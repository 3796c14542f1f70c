"""The script for a machine with a GPU: every stage at its small size, the budget, and a stage that fails."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


@pytest.mark.slow
def test_every_stage_runs_on_a_cpu_at_a_small_size() -> None:
    said: list[str] = []
    found = gpu.run(torch.device("cpu"), True, 600.0, said.append)["stages"]
    assert len(said) == len(found) == len(gpu.STAGES)
    for name, figures in found.items():
        assert not {"failed", "left out"} & figures.keys(), (name, figures)
        assert any(" over " in key for key in figures), name


def test_a_stage_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device, small: bool) -> gpu.Figures:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "STAGES", {"a": fails, "b": lambda device, small: {"x over y": 2.0}})
    said: list[str] = []
    found = gpu.run(torch.device("cpu"), True, 600.0, said.append)["stages"]
    assert found == {"a": {"failed": "RuntimeError('out of memory')"}, "b": {"x over y": 2.0}}
    late = gpu.run(torch.device("cpu"), True, -1.0, said.append)["stages"]
    assert all("left out" in figures for figures in late.values())


def test_what_should_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the seconds of a smaller stage of its kind; figures of each stage are kept as they come."""
    monkeypatch.setattr(gpu, "STAGES", dict.fromkeys(("small", "large"), lambda device, small: {"s": 40.0}))
    monkeypatch.setattr(gpu, "LIKE", {"large": ("small", "s", 16.0)})
    kept: list[int] = []
    device = torch.device("cpu")
    found = gpu.run(device, True, 600.0, lambda _: None, lambda figures: kept.append(len(figures["stages"])))
    assert found["stages"]["large"] == {"left out": "after 0 s of 600, as it should take 640 s"}
    assert gpu.run(device, True, 650.0, lambda _: None)["stages"]["large"] == {"s": 40.0}
    assert kept == [1, 2]
