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
