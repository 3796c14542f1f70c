"""Heads of the base model as a worker fits them: those of each objective's own rule, with the sweep's threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from selmix.baselines import BASELINES, BaselineTask, tuned_head
from selmix.baselines import last_layer as module
from selmix.baselines.shared_fits import SharedFits
from selmix.config import FinetuneConfig
from selmix.data.splits import join
from selmix.statistics.selection import SelectionRule
from tests.trainables.world import shared
from trainables.failures import NoGpu
from trainables.heads import HeadJob, fit_heads

RULES = {
    "min_recall": SelectionRule("min_recall"), "accuracy": SelectionRule("accuracy"), "g_mean": SelectionRule("g_mean"),
}  # fmt: skip


def test_every_objective_gets_the_head_that_it_gets_alone_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    world = shared(rules=RULES)
    base, data = world.bases["min_recall"], world.data
    view = BaselineTask(data, base, "min_recall", RULES["min_recall"], (), FinetuneConfig(), ()).view(
        base.state
    )  # type: ignore[arg-type]
    pool = join(data.train, data.feedback)  # type: ignore[union-attr]
    alone = {name: tuned_head(view, pool, data, rule)[0] for name, rule in RULES.items()}  # type: ignore[arg-type]
    # Else it would find the paths of the heads above.
    monkeypatch.setattr(module, "SHARED_FITS", SharedFits())
    paths = 0
    balanced_heads = module.balanced_heads

    def counted(*arguments: object, **named: object) -> object:
        nonlocal paths
        paths += 1
        return balanced_heads(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "balanced_heads", counted)
    fitted = fit_heads(replace(world, bases={}), HeadJob(base.model, base.state, list(RULES)), 0)
    assert paths == 1
    assert list(fitted.heads) == list(RULES)
    assert fitted.cost_s > 0
    for name, head in fitted.heads.items():
        assert {part: tensor.dtype for part, tensor in head.items()} == {
            "weight": torch.float32, "bias": torch.float32,
        }  # fmt: skip
        for part, tensor in head.items():
            assert torch.equal(tensor, alone[name][part])


def test_the_head_is_that_of_the_baseline_to_the_bit() -> None:
    world = shared()
    base = world.bases["min_recall"]
    head = fit_heads(world, HeadJob(base.model, base.state, ["min_recall"]), 0).heads["min_recall"]
    task = BaselineTask(
        world.on_device(), base, "min_recall", world.rules["min_recall"], (), FinetuneConfig(), ()
    )
    (state,) = BASELINES["last_layer_on_train_plus_feedback"](task).states
    assert torch.equal(state["head.weight"], head["weight"])
    assert torch.equal(state["head.bias"], head["bias"])


def test_threads_are_those_of_the_sweep_and_a_gpu_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, set_to = shared(threads=2), []
    job = HeadJob(world.bases["min_recall"].model, world.bases["min_recall"].state, ["min_recall"])
    # Noted only: two threads would wait for each other on tensors this small.
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    fit_heads(world, job, 0)
    assert set_to == [2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoGpu, match="torch must see the GPU"):
        fit_heads(replace(world, gpu=1), job, 1)
