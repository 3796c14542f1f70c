"""``selmix pretrain``: a base model by the recipe of a sweep file, tracked, and gone on with where it was stopped."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from orchestrator.build.base_model import initial_weights, torch_threads
from orchestrator.clock import now_ms
from orchestrator.errors import STOPPING, PreflightError, Stopped, UsageError
from orchestrator.progress import Progress
from orchestrator.records.object_store import Runs
from orchestrator.run.preflight import check_all
from orchestrator.spec.schema import SweepSpec
from orchestrator.tracking.tracker import Tracker
from selmix.data.splits import SweepData
from selmix.metrics import MetricContext, Predictions, evaluate_predictions
from selmix.model import predict
from selmix.pretrain import Pretrainer, pretrainer
from selmix.weights import save_weights, state_digest

SAVE_EVERY_S = 30.0
TOLD = ("mean_recall", "min_recall", "accuracy")


def pretrain_base(spec: SweepSpec, output: Path, runs: Runs, progress: Progress) -> dict[str, Any]:
    """Train, write the weights to ``output``, and say what select gives.

    A checkpoint lies beside the output while it trains; the same call goes on from it, bit-equal.

    Raises:
        UsageError: the file names a checkpoint instead of a recipe, the output exists, or what lies beside it is of
            another training.
        PreflightError: data, storage or MLflow.
    """
    if spec.recipe is None:
        raise UsageError("pretrain.checkpoint: there is nothing to train; name a recipe")
    if output.exists():
        raise UsageError(f"{output}: exists; choose another --output")
    address, data = check_all(spec, runs)
    identity = _identity(spec, data)
    partial = output.with_name(f"{output.name}.partial")
    with torch_threads(spec.resources.cpu):
        trainer = pretrainer(
            spec.recipe, spec.model.config, data.to(_device(spec)), spec.pretrain.seed, spec.pretrain.settings,
            initial_weights(spec),
        )  # fmt: skip
        _go_on(trainer, partial, identity)
        tracker = Tracker(
            address,
            f"{spec.name}-pretrain",
            identity,
            (runs if isinstance(runs, Path) else runs.working) / "mlartifacts" / f"{spec.name}-pretrain",
            progress.warn,
        )
        tags = {"selmix.objective": "none", "selmix.recipe": spec.recipe}
        params = {f"pretrain.{key}": value for key, value in spec.pretrain.model_dump().items()}
        tracker.open_sweep(spec.recipe, tags, params | {"model.name": spec.model.name})
        tracker.open_trial("pretrain", spec.recipe, tags, params, now_ms(), None)
        with stopped_by_signals():
            _train(trainer, partial, identity, tracker, progress)
        state = trainer.weights()
        save_weights(output, state)
        select = _on_select(spec, data, state)
        estimates = {key: {"value": value, "low": value, "high": value} for key, value in select.items()}
        tracker.finish_trial("pretrain", "FINISHED", now_ms(), trainer.epoch, estimates, {}, [])
        tracker.finish_sweep("FINISHED", now_ms(), dict(select), {"selmix.state": "finished"}, [])
        tracker.close()
    partial.unlink(missing_ok=True)
    return {
        "schema_version": 1, "weights": str(output), "digest": state_digest(state), "recipe": spec.recipe,
        "seed": spec.pretrain.seed, "epochs": trainer.epoch, "select": select,
    }  # fmt: skip


def pretrain_text(document: dict[str, Any]) -> str:
    """The document in words."""
    told = ", ".join(f"{key} {100 * document['select'][key]:.1f}" for key in TOLD)
    return (
        f"{document['weights']}: {document['recipe']}, {document['epochs']} epochs, seed {document['seed']}; "
        f"on select, %: {told}\nuse it with pretrain: {{checkpoint: {document['weights']}}}"
    )


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGUSR1 raise :class:`Stopped`, also where the shell that started us ignores Ctrl-C."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(trainer: Pretrainer, partial: Path, identity: str, tracker: Tracker, progress: Progress) -> None:
    saved = time.monotonic()
    # An interrupt comes in the middle of an epoch; what is kept is the end of the last one.
    whole = copy.deepcopy(trainer.state_dict())
    try:
        while not trainer.finished:
            figures = trainer.run_epoch()
            whole = copy.deepcopy(trainer.state_dict())
            tracker.log_round("pretrain", trainer.epoch, now_ms(), figures)
            if trainer.epoch % 10 == 0:
                progress.say(
                    f"epoch {trainer.epoch} of {trainer.settings.epochs}: loss {figures['loss']:.3f}"
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
    temporary = partial.with_name(f".{partial.name}.{os.getpid()}")
    torch.save({"identity": identity, "trainer": state}, temporary)
    temporary.replace(partial)


def _go_on(trainer: Pretrainer, partial: Path, identity: str) -> None:
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
    """What the weights depend on, as a digest."""
    asked = spec.resolved()
    told = {key: asked[key] for key in ("model", "pretrain")} | {
        "data": dict(data.digests),
        "cpu": spec.resources.cpu,
    }
    return f"pretrain-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"


def _device(spec: SweepSpec) -> torch.device:
    return torch.device("cuda" if spec.resources.gpu > 0 else "cpu")


def _on_select(spec: SweepSpec, data: SweepData, state: dict[str, torch.Tensor]) -> dict[str, float]:
    model = spec.model.config.build(data.input_shape, data.num_classes)
    model.load_state_dict(state)
    _, logits = predict(spec.model.config.view(model), data.select.inputs)
    predictions = Predictions.from_logits(data.select.labels, logits, data.select.groups)
    return evaluate_predictions(predictions, MetricContext(data.train_counts, num_groups=data.num_groups))
