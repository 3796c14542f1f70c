"""The method on a CUDA GPU against the same on the CPU: the same random numbers, weights within rounding.

Needs torch and pytest alone:
``python -m pytest --noconftest -o addopts= -o filterwarnings=default tests/selmix/test_cuda.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selmix.baselines.last_layer import start_base, start_heads
from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData
from selmix.gain import gain_matrix
from selmix.models import ModelConfig
from selmix.pretrain.recipes import RECIPES, pretrain
from selmix.pretrain.trainer import PretrainSettings
from selmix.run.run import Run
from selmix.screen import screen
from selmix.statistics.selection import Constraint, SelectionRule
from tests.selmix.screen.worlds import single, world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")
# float32, in another order of additions: some 20 steps apart.
CLOSE = 1e-4
SHORT = FinetuneConfig(steps=18, refresh_every=6, lr=0.1, batch_size=16)
RULE = SelectionRule("min_recall")


def images(classes: int = 3, side: int = 16, unlabelled: int = 0) -> SweepData:
    """Images whose class is a brighter row, long-tailed."""
    g = torch.Generator().manual_seed(0)

    def split(sizes: list[int]) -> Split:
        labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(sizes))
        pixels = torch.randn(len(labels), 3, side, side, generator=g)
        pixels[torch.arange(len(labels)), :, labels * 4] += 2.0
        return Split(pixels, labels)

    names = tuple(f"class{k}" for k in range(classes))
    data = SweepData("images", names, split([40, 20, 8]), split([12] * classes), split([12] * classes), {})
    return replace(data, unlabelled=split([unlabelled] * classes)) if unlabelled else data


@pytest.mark.parametrize("bias", [False, True])
def test_gains_are_those_of_the_cpu(bias: bool) -> None:
    g = torch.Generator().manual_seed(0)
    z, w, d = (
        torch.randn(30, 8, generator=g),
        torch.randn(30, 8, generator=g),
        torch.randn(30, 30, generator=g),
    )
    b = torch.randn(30, generator=g)
    ours = gain_matrix(z.to(GPU), w.to(GPU), b.to(GPU), d.to(GPU), 0.8, with_bias=bias)
    expected = gain_matrix(z, w, b, d, 0.8, with_bias=bias)
    assert ours.device.type == "cuda"
    assert torch.allclose(ours.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "groups", "constraints"),
    [
        ("min_recall", 0, ()),
        ("g_mean", 0, (Constraint("min_coverage", at_least=0.2),)),
        ("worst_group_recall", 2, ()),
    ],
)
@pytest.mark.parametrize(
    "config",
    [
        SHORT,
        replace(SHORT, policy="greedy", start="given", momentum=0.9),
        replace(SHORT, policy="loss_weight", draw_from="train"),
        replace(SHORT, policy="epsilon", effective_pairs=0.4, temperature_schedule="cosine"),
    ],
)
def test_a_run_is_that_of_the_cpu(
    objective: str, groups: int, constraints: tuple[Constraint, ...], config: FinetuneConfig
) -> None:
    data, base = world(groups)
    rule = SelectionRule(objective, constraints=constraints)
    ours = single(data.to(GPU), base, objective, config, 7, rule)
    expected = single(data, base, objective, config, 7, rule)
    assert ours.view.head.weight.device.type == "cuda"
    assert ours.stop_reason == expected.stop_reason
    assert torch.equal(ours.finetuner.generator.get_state(), expected.finetuner.generator.get_state())
    assert torch.allclose(ours.view.head.weight.cpu(), expected.view.head.weight, rtol=0, atol=CLOSE)
    assert ours.best is not None
    assert expected.best is not None
    assert ours.best.round == expected.best.round
    assert ours.best.state["head.weight"].device.type == "cpu"


@pytest.mark.parametrize("groups", [0, 2])
def test_screened_rows_are_single_runs(groups: int) -> None:
    data, base = world(groups)
    configs = [
        replace(SHORT, policy=policy, lr=lr)
        for policy in ("softmax", "greedy", "uniform", "loss_weight")
        for lr in (0.03, 0.1)
    ]
    result = screen(data.to(GPU), base, "min_recall", configs, list(range(8)), RULE, promote=2, folds=2)
    on_cpu = screen(data, base, "min_recall", configs, list(range(8)), RULE, promote=2, folds=2)
    for seed, (row, other, config) in enumerate(zip(result.rows, on_cpu.rows, configs, strict=True)):
        run = single(data.to(GPU), base, "min_recall", config, seed, RULE)
        assert run.best is not None
        assert row.head is not None
        assert other.head is not None
        assert (row.best_round, row.stop_reason) == (run.best.round, run.stop_reason)
        assert torch.allclose(row.head.weight, run.best.state["head.weight"], rtol=0, atol=CLOSE)
        assert torch.allclose(row.head.weight, other.head.weight, rtol=0, atol=CLOSE)
        assert row.cross_fitted == pytest.approx(other.cross_fitted, abs=1e-6)
    assert result.promoted == on_cpu.promoted


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_is_trained_and_kept(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow, which rounds are stored by")
    data = images()
    model = ModelConfig("tiny_cnn")
    state = pretrain("erm", model, data.to(GPU), 0, PretrainSettings(epochs=2, batch_size=16))
    assert all(tensor.device.type == "cpu" for tensor in state.values())
    base = start_base(model, state, data.to(GPU), RULE)
    config = replace(
        SHORT,
        steps=12,
        precision=precision,
        channels_last=True,
        backbone_lr_scale=1.0,
        augment="weak",
        accumulate=2,
    )
    run = Run(data.to(GPU), base, "min_recall", config, 0, RULE)
    run.step()
    run.step()
    # Stored and loaded in the midst, as a worker that was lost would.
    run.save(tmp_path)
    again = Run(data.to(GPU), base, "min_recall", config, 0, RULE)
    again.load(tmp_path)
    while not run.finished:
        run.step()
    while not again.finished:
        again.step()
    assert not run.failed
    assert run.best is not None
    assert all(
        torch.isfinite(tensor).all() for tensor in run.best.state.values() if tensor.is_floating_point()
    )
    assert run.best.round == (again.best.round if again.best else None)
    # Kernels may add in another order from run to run, and convolutions use fewer bits.
    close = 1e-2 if precision == "float32" else 1e-1
    assert torch.allclose(run.view.head.weight, again.view.head.weight, rtol=0, atol=close)


def test_pseudo_labels_are_made_there() -> None:
    data = images(unlabelled=20)
    model = ModelConfig("tiny_cnn")
    state = pretrain("erm", model, data.to(GPU), 0, PretrainSettings(epochs=2, batch_size=16))
    base = start_base(model, state, data.to(GPU), RULE)
    config = replace(SHORT, steps=12, second="pseudo", pseudo_threshold=0.1)
    run = single(data.to(GPU), base, "min_recall", config, 0, RULE)
    assert not run.failed
    assert run.best is not None


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_there(recipe: str) -> None:
    data = images(unlabelled=16)
    state = pretrain(
        recipe, ModelConfig("tiny_cnn"), data.to(GPU), 0, PretrainSettings(epochs=1, batch_size=16)
    )
    assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())


def test_heads_are_those_of_the_cpu() -> None:
    data, base = world()
    ours = start_heads(base.model, base.state, data.to(GPU), {"min_recall": RULE})["min_recall"]
    expected = start_heads(base.model, base.state, data, {"min_recall": RULE})["min_recall"]
    assert torch.allclose(ours["weight"], expected["weight"], rtol=1e-4, atol=CLOSE)
    assert torch.allclose(ours["bias"], expected["bias"], rtol=1e-4, atol=CLOSE)
