"""The base model of a specification: trained by its recipe or read from its checkpoint, and its balanced heads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from orchestrator.build.checkpoint import given_weights, initial_weights
from orchestrator.errors import PreflightError
from orchestrator.records.types import BaseFacts
from orchestrator.spec.schema import SweepSpec
from selmix.data.splits import SweepData
from selmix.pretrain import pretrain, pretrainer
from selmix.weights import State, load_weights, state_digest
from trainables.shared import Shared


def check_checkpoint(spec: SweepSpec, data: SweepData) -> None:
    """Check that the weights which the base model begins with can be read and fit.

    Args:
        spec: of the sweep.
        data: that the model is to take.
    Raises:
        PreflightError: they cannot be read, or do not fit the model.
    """
    if spec.pretrain.checkpoint is not None:
        given_weights(spec, data.input_shape, data.num_classes)
    if spec.recipe is not None:
        initial = initial_state(spec, data)
        # Making the trainer loads the weights into the network; nothing is trained yet.
        try:
            pretrainer(
                spec.recipe, spec.model.config, data, spec.pretrain.seed, spec.pretrain.settings, initial
            )
        except ValueError as error:
            raise PreflightError(f"pretrain: {error}") from error


def initial_state(spec: SweepSpec, data: SweepData) -> State | None:
    """Weights that pre-training begins with; None: random ones.

    Args:
        spec: of the sweep.
        data: that the model is to take.
    Raises:
        PreflightError: as :func:`orchestrator.build.checkpoint.initial_weights`.
    """
    initial = initial_weights(spec, data.input_shape, data.num_classes)
    return None if initial is None else initial.state


def base_model(spec: SweepSpec, data: SweepData, stored: Path | None = None) -> tuple[State, BaseFacts]:
    """Weights of the base model, and its facts.

    Args:
        spec: of the sweep.
        data: that it is trained on.
        stored: file of its weights; where there is none, or None is given, it is trained.
    Raises:
        PreflightError: a checkpoint that cannot be used.
    """
    # Of stored weights this is the time of reading them; their record has the cost of training.
    started = time.perf_counter()
    recipe = spec.recipe
    if recipe is None:
        state = given_weights(spec, data.input_shape, data.num_classes).state
        cost_s = time.perf_counter() - started
        return state, BaseFacts(state_digest(state), cost_s, checkpoint=spec.pretrain.checkpoint)
    if stored is not None and stored.is_file():
        state = load_weights(stored)
    else:
        settings, seed = spec.pretrain.settings, spec.pretrain.seed
        state = pretrain(recipe, spec.model.config, data, seed, settings, initial_state(spec, data))
    cost_s = time.perf_counter() - started
    return state, BaseFacts(
        state_digest(state), cost_s, recipe=recipe, seed=spec.pretrain.seed, init=spec.pretrain.init
    )


def base_model_aside(shared: Shared, spec: SweepSpec, _gpu: float) -> tuple[State, BaseFacts]:
    """Train the base model in a process beside the driver, with the bits that the driver would get.

    Args:
        shared: its data.
        spec: of the sweep.
    """
    with torch_threads(spec.resources.cpu):
        return base_model(spec, shared.on_device())


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Fix the number of torch threads for as long as the block lasts: one and two give different bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
