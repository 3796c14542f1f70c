"""What every trial of a sweep shares: the data, the base model and its balanced heads; made once by the driver."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.errors import PreflightError
from orchestrator.records.folder import RunFolder
from orchestrator.build.selection import data_config, selection_rules
from orchestrator.spec.schema import SweepSpec
from selmix.run.start_model import Base
from selmix.baselines import tuned_head
from selmix.data.splits import SweepData, join
from selmix.metrics import METRICS
from selmix.models import ModelConfig
from selmix.pretrain import pretrain, pretrainer
from selmix.statistics.selection import SelectionRule
from selmix.weights import load_checkpoint_into, load_weights, save_weights, state_digest


@dataclass(frozen=True)
class Prepared:
    """Data, start models by objective, selection rules by objective, and what is known of the base model."""

    data: SweepData
    bases: dict[str, Base]
    rules: dict[str, SelectionRule]
    base: dict[str, Any]


def load_data(spec: SweepSpec) -> SweepData:
    """Train, feedback and select, checked.

    Raises:
        PreflightError: they cannot be read, or a class is missing from a split.
    """
    try:
        data = data_config(spec).load()
    except (OSError, ValueError) as error:
        raise PreflightError(f"data: {spec.data['name']} must be readable: {error}") from error
    for split in ("train", "feedback", "select"):
        missing = data.missing_classes(split)
        if missing:
            raise PreflightError(
                f"data: every class must have a sample in {split}, got none of {', '.join(missing)}; "
                f"raise data.{'largest_class' if split == 'train' else split}"
            )
    if uses_groups(spec):
        for split in ("feedback", "select"):
            cells = data.missing_cells(split)
            if cells:
                raise PreflightError(
                    f"data: every class of every group must have a sample in {split} for a metric of groups, got none "
                    f"of {', '.join(cells[:6])}"
                )
    return data


def uses_groups(spec: SweepSpec) -> bool:
    """Whether an objective, a constraint or the ranking is one of groups."""
    named = {*spec.objectives, spec.selection.metric, *(c.metric for c in spec.constraints)}
    return any(name in METRICS and METRICS[name].of_cells is not None for name in named if name is not None)


def check_checkpoint(spec: SweepSpec, data: SweepData) -> None:
    """A checkpoint that is named can be read and fits the model.

    Raises:
        PreflightError: it does not.
    """
    if spec.pretrain.checkpoint is not None:
        _from_checkpoint(spec, data)
    if spec.recipe is not None:
        initial = initial_weights(spec)
        try:
            pretrainer(
                spec.recipe, spec.model.config, data, spec.pretrain.seed, spec.pretrain.settings, initial
            )
        except ValueError as error:
            raise PreflightError(f"pretrain: {error}") from error


def prepare(spec: SweepSpec, data: SweepData, folder: RunFolder) -> Prepared:
    """The base model, from the run folder where it was trained before, and the balanced head of each objective.

    Raises:
        PreflightError: a checkpoint that cannot be used, or stored weights that are not those of before.
    """
    with torch_threads(spec.resources.cpu):
        state, base = base_model(spec, data, folder.stored(folder.base_weights))
        if not folder.base_weights.is_file():
            save_weights(folder.base_weights, state)
            folder.publish(folder.base_weights)
        rules = selection_rules(spec, data.num_classes)
        heads = {
            objective: balanced_head_of(spec.model.config, state, data, rule)
            for objective, rule in rules.items()
        }
    for objective, head in heads.items():
        save_weights(folder.base_head(objective), head)
        folder.publish(folder.base_head(objective))
    labels = ("train",) if spec.recipe is not None else ("checkpoint",)
    settings, initial = spec.pretrain.settings, initial_weights(spec)
    bases = {
        objective: Base(spec.model.config, state, head, labels, settings, initial)
        for objective, head in heads.items()
    }
    return Prepared(data, bases, rules, base)


def initial_weights(spec: SweepSpec) -> dict[str, torch.Tensor] | None:
    """What pre-training begins with; None: random weights.

    Raises:
        PreflightError: the file is not there or holds no weights.
    """
    if spec.pretrain.init is None or spec.recipe is None:
        return None
    try:
        return load_weights(Path(spec.pretrain.init))
    except ValueError as error:
        raise PreflightError(f"pretrain.init: {error}") from error


def base_model(
    spec: SweepSpec, data: SweepData, stored: Path
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights of the base model and what is known of it: recipe and seed or address, digest, seconds."""
    started = time.perf_counter()
    if spec.recipe is None:
        state = _from_checkpoint(spec, data)
        known: dict[str, Any] = {"checkpoint": spec.pretrain.checkpoint}
    else:
        state = (
            load_weights(stored)
            if stored.is_file()
            else pretrain(
                spec.recipe,
                spec.model.config,
                data,
                spec.pretrain.seed,
                spec.pretrain.settings,
                initial_weights(spec),
            )
        )
        known = {"recipe": spec.recipe, "seed": spec.pretrain.seed}
        if spec.pretrain.init is not None:
            known["init"] = spec.pretrain.init
    return state, known | {"digest": state_digest(state), "cost_s": time.perf_counter() - started}


def balanced_head_of(
    config: ModelConfig, state: dict[str, torch.Tensor], data: SweepData, rule: SelectionRule
) -> dict[str, torch.Tensor]:
    """The head of ``last_layer_on_train_plus_feedback`` on a base model."""
    model = config.build(data.input_shape, data.num_classes)
    load_checkpoint_into(model, state)
    return tuned_head(config.view(model), join(data.train, data.feedback), data, rule)[0]


def _from_checkpoint(spec: SweepSpec, data: SweepData) -> dict[str, torch.Tensor]:
    path = Path(str(spec.pretrain.checkpoint))
    model = spec.model.config.build(data.input_shape, data.num_classes)
    try:
        state = load_weights(path)
        load_checkpoint_into(model, state)
    except ValueError as error:
        raise PreflightError(
            f"pretrain.checkpoint: {path}: {str(error).removeprefix(f'{path}: ')}; model {spec.model.name} with "
            f"{data.num_classes} classes"
        ) from error
    return state


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """A fixed number of torch threads: one and two give different bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
