"""Weights that a sweep file names: what they hold, and whether they fit its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec
from selmix.checkpoint_file import read_checkpoint
from selmix.checkpoints import (
    Fit,
    Loaded,
    best_fit,
    load_for_model,
    load_for_training,
    misfit,
    notes_of,
    too_little,
)
from selmix.files import expanded_path

Shape = tuple[int, ...]
T = TypeVar("T")


def given_weights(spec: SweepSpec, input_shape: Shape, num_classes: int) -> Loaded:
    """Read the checkpoint that is the base model.

    Args:
        spec: that names one.
        input_shape: of one sample, without the batch.
        num_classes: K.
    Raises:
        PreflightError: it cannot be read, does not fit the model, or holds values that are not finite.
    """
    path = _expanded("checkpoint", str(spec.pretrain.checkpoint))
    model = spec.model.config.build(input_shape, num_classes)
    return _named(
        "checkpoint",
        path,
        spec,
        num_classes,
        lambda: load_for_model(path, model, spec.pretrain.checkpoint_key),
    )


def initial_weights(spec: SweepSpec, input_shape: Shape, num_classes: int) -> Loaded | None:
    """Read the weights that pre-training begins with; None: random ones.

    Args:
        spec: of the sweep.
        input_shape: of one sample, without the batch.
        num_classes: K.
    Raises:
        PreflightError: the file is not there, fits too little of the model, or holds values that are not finite.
    """
    if spec.pretrain.init is None or spec.recipe is None:
        return None
    path = _expanded("init", spec.pretrain.init)
    model = spec.model.config.build(input_shape, num_classes)
    head = spec.model.config.view(model).head_name
    return _named(
        "init",
        path,
        spec,
        num_classes,
        lambda: load_for_training(path, model, head, spec.pretrain.checkpoint_key),
    )


def header_notes(spec: SweepSpec, input_shape: Shape, num_classes: int) -> list[str]:
    """Check names, shapes and types of the weights that a sweep file names, without reading their values.

    Args:
        spec: of the sweep.
        input_shape: of one sample, without the batch.
        num_classes: K.
    Returns:
        Choices that a launch will make, a line each.
    Raises:
        PreflightError: a file is not there or does not fit the model.
    """
    key = "checkpoint" if spec.pretrain.checkpoint is not None else "init"
    given = getattr(spec.pretrain, key)
    if given is None:
        return []
    path, model = _expanded(key, given), spec.model.config.build(input_shape, num_classes)
    head = spec.model.config.view(model).head_name if key == "init" else None

    def read() -> list[str]:
        file = read_checkpoint(path, on_meta=True)
        fit, others = best_fit(file, model, spec.pretrain.checkpoint_key, head)
        if (problem := _problem(fit, model, head)) is not None:
            raise ValueError(problem)
        return [f"pretrain.{key}: {note}" for note in notes_of(fit, others, spec.pretrain.checkpoint_key)]

    return _named(key, path, spec, num_classes, read)


def _expanded(key: str, text: str) -> Path:
    try:
        return expanded_path(text)
    except ValueError as error:
        raise PreflightError(f"pretrain.{key}: {error}") from error


def _problem(fit: Fit, model: nn.Module, head: str | None) -> str | None:
    if head is not None:
        return too_little(fit, model, head)
    return None if fit.is_whole else misfit(fit)


def _named(key: str, path: Path, spec: SweepSpec, num_classes: int, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        # An error of reading names the file already, one of fitting does not.
        raise PreflightError(
            f"pretrain.{key}: {path}: {str(error).removeprefix(f'{path}: ')}; model {spec.model.name} with "
            f"{num_classes} classes"
        ) from error
