"""``selmix pretrain``: a base model by the recipe of a sweep file, tracked, and resumed where it was stopped."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.build.base_model import initial_weights, torch_threads
from orchestrator.clock import now_ms
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.progress import Progress
from orchestrator.records.store import Store
from orchestrator.records.types import Figure
from orchestrator.run.preflight import check_all
from orchestrator.signals import Stopped, stopped_by_signals
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import percent, sentence
from orchestrator.tracking.tracker import Tracker
from selmix.data.splits import SweepData
from selmix.files import written_aside
from selmix.metrics import MetricContext, Predictions, evaluate_predictions
from selmix.model import predict
from selmix.pretrain import Pretrainer, pretrainer
from selmix.weights import State, save_weights, state_digest

SAVE_EVERY_S = 30.0
SHOWN = ("mean_recall", "min_recall", "accuracy")


@dataclass(frozen=True, kw_only=True)
class PretrainDocument:
    """A base model.

    Attributes:
        weights: path. digest: of the weights. recipe, seed, epochs: that made them.
        select: metric -> value on the select split.
    """

    schema_version: int = SCHEMA_VERSION
    weights: str
    digest: str
    recipe: str
    seed: int
    epochs: int
    select: dict[str, float]


def pretrain_base(spec: SweepSpec, output: Path, store: Store, progress: Progress) -> PretrainDocument:
    """Train, write the weights, and measure them on select.

    A checkpoint lies beside the output while it trains; the same call resumes from it, bit-equal.

    Args:
        spec: of the sweep whose recipe is meant.
        output: safetensors file to write.
        store: the runs folder, where MLflow's store is.
        progress: what the user sees.
    Raises:
        UsageError: the file names a checkpoint instead of a recipe, the output exists, or what lies beside it is of
            another training.
        PreflightError: data, storage or MLflow.
    """
    if spec.recipe is None:
        raise UsageError("pretrain.checkpoint: there is nothing to train; name a recipe")
    if output.exists():
        raise UsageError(f"{output}: exists; choose another --output")
    address, data = check_all(spec, store)
    identity = _identity(spec, data)
    partial = output.with_name(f"{output.name}.partial")
    with torch_threads(spec.resources.cpu):
        trainer = pretrainer(
            spec.recipe, spec.model.config, data.to(_device(spec)), spec.pretrain.seed, spec.pretrain.settings,
            initial_weights(spec),
        )  # fmt: skip
        _resume(trainer, partial, identity)
        name = f"{spec.name}-pretrain"
        tracker = Tracker(address, name, identity, store.root / "mlartifacts" / name, progress.warn)
        tags = {"selmix.objective": "none", "selmix.recipe": spec.recipe}
        params = {f"pretrain.{key}": value for key, value in spec.pretrain.model_dump().items()}
        tracker.open_sweep(spec.recipe, tags, params | {"model.name": spec.model.name})
        tracker.open_trial("pretrain", spec.recipe, tags, params, now_ms(), None)
        with stopped_by_signals():
            _train(trainer, partial, identity, tracker, progress)
        state = trainer.weights()
        save_weights(output, state)
        select = _on_select(spec, data, state)
        estimates = {key: Figure(value, value, value) for key, value in select.items()}
        tracker.finish_trial("pretrain", "FINISHED", now_ms(), trainer.epoch, estimates, {}, [])
        tracker.finish_sweep("FINISHED", now_ms(), dict(select), {"selmix.state": "finished"}, [])
        tracker.close()
    partial.unlink(missing_ok=True)
    return PretrainDocument(
        weights=str(output), digest=state_digest(state), recipe=spec.recipe, seed=spec.pretrain.seed,
        epochs=trainer.epoch, select=select,
    )  # fmt: skip


def pretrain_text(document: PretrainDocument, width: int | None) -> str:
    """The weights in some lines; the first is the answer."""
    numbers = ", ".join(f"{key} {percent(document.select[key])}" for key in SHOWN)
    first = (
        f"{document.weights}: {document.recipe}, {document.epochs} epochs, seed {document.seed}; on select, %: "
        f"{numbers}"
    )
    return "\n".join([
        sentence(first, width),
        sentence(f"use it with pretrain: {{checkpoint: {document.weights}}}", width),
    ])  # fmt: skip


def _train(trainer: Pretrainer, partial: Path, identity: str, tracker: Tracker, progress: Progress) -> None:
    saved = time.monotonic()
    # An interrupt comes in the middle of an epoch; what is kept is the end of the last one.
    whole = copy.deepcopy(trainer.state_dict())
    try:
        while not trainer.finished:
            numbers = trainer.run_epoch()
            whole = copy.deepcopy(trainer.state_dict())
            tracker.log_round("pretrain", trainer.epoch, now_ms(), numbers)
            if trainer.epoch % 10 == 0:
                progress.say(
                    f"epoch {trainer.epoch} of {trainer.settings.epochs}: loss {numbers['loss']:.3f}"
                )
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(whole, partial, identity)
                saved = time.monotonic()
    except Stopped:
        _save(whole, partial, identity)
        tracker.finish_sweep("KILLED", now_ms(), {}, {"selmix.state": "stopped"}, [])
        tracker.close()
        raise


def _save(state: dict[str, Any], partial: Path, identity: str) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(partial) as aside:
        torch.save({"identity": identity, "trainer": state}, aside)


def _resume(trainer: Pretrainer, partial: Path, identity: str) -> None:
    if not partial.is_file():
        return
    try:
        # weights_only: a checkpoint is data; nothing in it may run code.
        stored = torch.load(partial, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything
        raise PreflightError(
            f"{partial}: cannot be read ({type(error).__name__}); remove it to start anew"
        ) from error
    if stored["identity"] != identity:
        raise UsageError(
            f"{partial}: is of another training (data, model or settings); remove it, or choose another --output"
        )
    trainer.load_state_dict(stored["trainer"])


def _identity(spec: SweepSpec, data: SweepData) -> str:
    """Digest of everything that the weights depend on."""
    resolved = spec.resolved()
    sources = {key: resolved[key] for key in ("model", "pretrain")}
    sources |= {"data": dict(data.digests), "cpu": spec.resources.cpu}
    return f"pretrain-{hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]}"


def _device(spec: SweepSpec) -> torch.device:
    return torch.device("cuda" if spec.resources.gpu > 0 else "cpu")


def _on_select(spec: SweepSpec, data: SweepData, state: State) -> dict[str, float]:
    model = spec.model.config.build(data.input_shape, data.num_classes)
    model.load_state_dict(state)
    _, logits = predict(spec.model.config.view(model), data.select.inputs)
    predictions = Predictions.from_logits(data.select.labels, logits, data.select.groups)
    return evaluate_predictions(predictions, MetricContext(data.train_counts, num_groups=data.num_groups))
