"""The start model of a run: the base as it is, or with the balanced head, a new module each time."""

from __future__ import annotations

import pytest
import torch

from selmix.models import ModelConfig
from selmix.run.local_ranks import RunRequest, finetune_on_workers, seconds_of_rounds
from selmix.run.run import finetune
from selmix.run.start_model import Base
from selmix.weights import state_digest
from tests.selmix.baselines.tasks import small_task

CONFIG = ModelConfig("small_cnn")


def base() -> Base:
    state = CONFIG.build((1, 8, 8), 3, torch.Generator().manual_seed(0)).state_dict()
    return Base(CONFIG, state, {"weight": torch.ones(3, 256), "bias": torch.tensor([1.0, 2.0, 3.0])})


def test_a_balanced_start_changes_the_head_alone() -> None:
    given, balanced = (base().build(start, (1, 8, 8), 3).state_dict() for start in ("given", "balanced_head"))
    assert state_digest(given) == state_digest(base().state)
    changed = {name for name, tensor in given.items() if not torch.equal(tensor, balanced[name])}
    assert changed == {"head.weight", "head.bias"}
    assert balanced["head.bias"].tolist() == [1.0, 2.0, 3.0]


def test_what_a_run_does_to_its_model_leaves_the_base() -> None:
    made = base()
    model = made.build("balanced_head", (1, 8, 8), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    again = made.build("balanced_head", (1, 8, 8), 3)
    assert state_digest(again.state_dict()) == state_digest(
        base().build("balanced_head", (1, 8, 8), 3).state_dict()
    )
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"does not fit the model: head\.weight must have shape \(4, 256\)"):
        base().build("given", (1, 8, 8), 4)


def test_one_worker_is_this_process() -> None:
    task = small_task()
    request = RunRequest(task.data, task.base, "min_recall", task.winner_config, 3, task.selection)
    runs = [finetune_on_workers(1, request), finetune(*request)]
    assert len({state_digest(run.view.model.state_dict()) for run in runs}) == 1
    assert [run.stop_reason for run in runs] == ["steps", "steps"]
    assert len(seconds_of_rounds(1, 1, request)) == 2  # round 0 and one more
    assert len(seconds_of_rounds(1, 99, request)) == 3  # the run has two rounds after round 0
    assert min(seconds_of_rounds(1, 0, request)) >= 0.0
