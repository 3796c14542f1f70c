"""``selmix pretrain``: train a base model by the recipe of a sweep file, tracked in MLflow and resumable."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.build.base_model import initial_state, torch_threads
from orchestrator.clock import now_ms
from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import PreflightError, UsageError
from orchestrator.files import check_file_writable, writing
from orchestrator.progress import Progress
from orchestrator.records.store import Store
from orchestrator.records.types import Figure
from orchestrator.run.preflight import check_all
from orchestrator.signals import Stopped, stopped_by_signals
from orchestrator.spec.schema import SweepSpec
from orchestrator.table import percent, sentence
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.values import Best
from selmix.data.content import facts_of, preprocess_digest
from selmix.data.images import Images
from selmix.data.splits import SweepData
from selmix.files import written_aside
from selmix.metrics import MetricContext, Predictions, evaluate_predictions
from selmix.model import predict
from selmix.pretrain import Pretrainer, pretrainer
from selmix.weights import State, save_weights, state_digest

SAVE_EVERY_S = 30.0
ADVICE = "choose another --output"
SHOWN = ("mean_recall", "min_recall", "accuracy")


@dataclass(frozen=True, kw_only=True)
class PretrainDocument:
    """A pre-trained base model.

    Attributes:
        schema_version: version of the document.
        weights: path of the weights.
        digest: digest of the weights.
        recipe: recipe of the training.
        seed: seed of the training.
        epochs: epochs of the training.
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
    """Train a base model, write its weights, and evaluate it on select.

    A checkpoint lies beside the output during the training; the same call resumes from it, bit-equal.

    Args:
        spec: specification of the sweep that has the recipe.
        output: safetensors file to write.
        store: runs folder, in which the MLflow store lies.
        progress: messages to the user.
    Raises:
        UsageError: the file names a checkpoint instead of a recipe, the output exists, or the checkpoint beside it is
            of another training.
        PreflightError: data, storage, the output or MLflow cannot be used.
    """
    if spec.recipe is None:
        raise UsageError(
            f"pretrain: must name a recipe to train by, got checkpoint {spec.pretrain.checkpoint}; set pretrain.recipe"
        )
    if output.exists():
        raise UsageError(f"{output}: exists; choose another --output")
    # Before the training, which may take hours.
    check_file_writable(output, ADVICE)
    address, data = check_all(spec, store)
    # It takes the place of a sweep's id: a resumed training finds its MLflow runs by it.
    identity = _identity(spec, data)
    partial = output.with_name(f"{output.name}.partial")
    with torch_threads(spec.resources.cpu):
        trainer = pretrainer(
            spec.recipe, spec.model.config, data.to(_device(spec)), spec.pretrain.seed, spec.pretrain.settings,
            initial_state(spec, data),
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
        with writing(output, ADVICE):
            save_weights(output, state, facts_of(data))
        select = _on_select(spec, data, state)
        # Single values, for which no interval was computed.
        estimates = {key: Figure(value, value, value) for key, value in select.items()}
        tracker.finish_trial("pretrain", "FINISHED", now_ms(), trainer.epoch, Best(estimates), {}, [])
        tracker.finish_sweep("FINISHED", now_ms(), dict(select), {"selmix.state": "finished"}, [])
        tracker.close()
    # Last: until the weights are written and MLflow has the end of the run, a kill must leave it to resume from.
    partial.unlink(missing_ok=True)
    return PretrainDocument(
        weights=str(output), digest=state_digest(state), recipe=spec.recipe, seed=spec.pretrain.seed,
        epochs=trainer.epoch, select=select,
    )  # fmt: skip


def pretrain_text(document: PretrainDocument, width: int | None) -> str:
    """Text of a trained base model; its first line is the answer."""
    numbers = ", ".join(f"{key} {percent(document.select[key])}" for key in SHOWN)
    first = (
        f"{document.weights}: {document.recipe}, {document.epochs} epochs, seed {document.seed}; on select, %: "
        f"{numbers}"
    )
    return "\n".join([
        sentence(first, width),
        sentence(f"to use it, set in a sweep file: pretrain: {{checkpoint: {document.weights}}}", width),
    ])  # fmt: skip


def _train(trainer: Pretrainer, partial: Path, identity: str, tracker: Tracker, progress: Progress) -> None:
    saved = time.monotonic()
    # An interrupt comes in the middle of an epoch, but only the state between two epochs can be resumed bit-equal.
    between = copy.deepcopy(trainer.state_dict())
    try:
        while not trainer.finished:
            numbers = trainer.run_epoch()
            between = copy.deepcopy(trainer.state_dict())
            tracker.log_round("pretrain", trainer.epoch, now_ms(), numbers)
            if trainer.epoch % 10 == 0:
                progress.say(
                    f"epoch {trainer.epoch} of {trainer.settings.epochs}: loss {numbers['loss']:.3f}"
                )
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(between, partial, identity)
                saved = time.monotonic()
    except Stopped:
        _save(between, partial, identity)
        tracker.finish_sweep("KILLED", now_ms(), {}, {"selmix.state": "stopped"}, [])
        tracker.close()
        raise


def _save(state: dict[str, Any], partial: Path, identity: str) -> None:
    with writing(partial, ADVICE), written_aside(partial) as aside:
        torch.save({"identity": identity, "trainer": state}, aside)


def _resume(trainer: Pretrainer, partial: Path, identity: str) -> None:
    if not partial.is_file():
        return
    try:
        # weights_only, because unpickling could run code that is in the file.
        stored = torch.load(partial, map_location="cpu", weights_only=True)
    # torch.load raises nearly any exception on a damaged file.
    except Exception as error:
        raise PreflightError(
            f"{partial}: must be a checkpoint of this training, but cannot be read ({type(error).__name__}); remove it "
            "to start anew"
        ) from error
    if stored["identity"] != identity:
        raise UsageError(
            f"{partial}: must be a checkpoint of this training, got one of another training (data, model or settings); "
            "remove it, or choose another --output"
        )
    trainer.load_state_dict(stored["trainer"])


def _identity(spec: SweepSpec, data: SweepData) -> str:
    """Digest of everything that the weights depend on."""
    # The number of threads too: one and two give different bits.
    resolved = spec.resolved()
    sources = {key: resolved[key] for key in ("model", "pretrain")}
    sources |= {"data": dict(data.digests), "cpu": spec.resources.cpu}
    inputs = data.train.inputs
    # What earlier versions did has the identity that they gave it.
    if isinstance(inputs, Images) and not inputs.is_decoded and not inputs.is_earlier:
        sources["preprocess"] = preprocess_digest(inputs)
    return f"pretrain-{hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]}"


def _device(spec: SweepSpec) -> torch.device:
    return torch.device("cuda" if spec.resources.gpu > 0 else "cpu")


def _on_select(spec: SweepSpec, data: SweepData, state: State) -> dict[str, float]:
    model = spec.model.config.build(data.input_shape, data.num_classes)
    model.load_state_dict(state)
    _, logits = predict(spec.model.config.view(model), data.select.inputs)
    predictions = Predictions.from_logits(data.select.labels, logits, data.select.groups)
    return evaluate_predictions(predictions, MetricContext(data.train_counts, num_groups=data.num_groups))
