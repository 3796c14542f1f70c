"""``selmix pin``: keep a winner as a lock file, a weights file and a registered model. Opens the test split."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.clock import utc_now
from orchestrator.credentials import masked
from orchestrator.documents import SCHEMA_VERSION, Document, to_document
from orchestrator.errors import NoFeasibleTrial, PreflightError, UsageError
from orchestrator.files import check_file_writable, writing
from orchestrator.pins.lock_file import (
    ADVICE,
    Pin,
    PinnedBaseline,
    PinnedRow,
    PinnedSweep,
    PinnedVerdict,
    PinnedVerdicts,
    Protocol,
    Registered,
    pin_path,
    sealed,
    weights_beside,
    write_pin,
)
from orchestrator.records.folder import RunFolder
from orchestrator.records.lease import current_state
from orchestrator.records.store import Store
from orchestrator.records.types import TrialRecord
from orchestrator.results.rows import SELMIX, Choices, ObjectiveResult, Verdict, Winner, load_results
from orchestrator.spec.schema import spec_from_resolved
from orchestrator.tracking.address import check_tracking, tracking_of
from selmix.files import written_aside

if TYPE_CHECKING:
    from orchestrator.pins.test_split import OpenedTest
    from orchestrator.results.judge import Judge
    from selmix.metrics import Predictions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# MLflow reserves these aliases for versions; refused here, before the test split is opened.
ALIAS_TAKEN = re.compile(r"v\d+|latest", re.IGNORECASE)


@dataclass(frozen=True)
class PinRequest:
    """Arguments of ``selmix pin``.

    Attributes:
        sweep: name of the sweep.
        name: name of the pin.
        objective: objective whose winner is pinned; may be None where the sweep has only one.
        trial_id: trial to pin instead of the winner.
        force: True to replace a pin of that name.
    """

    sweep: str
    name: str
    objective: str | None = None
    trial_id: str | None = None
    force: bool = False


def pin_sweep(store: Store, pins: Path, request: PinRequest) -> Path:
    """Write the pin of a sweep's winner; trains nothing.

    Args:
        store: the runs folder.
        pins: folder of the pins.
        request: sweep, trial and name of the pin.
    Returns:
        Path of the pin.
    Raises:
        UsageError: the name is taken or not allowed, the objective is not given where there are several, or the sweep
            is not finished.
        NotFound: there is no such sweep or trial.
        NoFeasibleTrial: the objective has no winner.
        PreflightError: MLflow, the pins folder or files of the sweep cannot be used.
    """
    folder = RunFolder.open(store, request.sweep)
    path = _free_path(pins, request)
    target = _chosen(folder, request)
    trial = target.record
    # All these checks come before the test split is opened, because each opening is on record.
    for file in (path, weights_beside(path)):
        check_file_writable(file, ADVICE)
    address = tracking_of(store)
    check_tracking(address)
    if trial.mlflow_run_id is None:
        raise PreflightError(
            f"{trial.trial_id}: must have a run in MLflow at {masked(address)}, got none; launch the sweep again to "
            "send it"
        )
    weights = _weights_of(folder, target)
    # Imported late: it brings torch, which takes seconds that the checks above need not wait for.
    from orchestrator.pins.test_split import open_test

    spec = spec_from_resolved(folder.load_spec())
    test = open_test(spec, f"pin {request.name}", folder)
    document = _document(folder, test, request.name, target, weights)
    document["mlflow"] = to_document(_register(address, document, trial, weights))
    document["created"] = utc_now()
    # Weights first, the pin last: a pin that exists is complete.
    with writing(path, ADVICE), written_aside(weights_beside(path)) as aside:
        shutil.copyfile(weights, aside)
    write_pin(path, sealed(document))
    return path


def _free_path(pins: Path, request: PinRequest) -> Path:
    name = request.name
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--name: must be letters, digits, '.', '_' or '-', the first a letter or digit, got {name!r}"
        )
    if ALIAS_TAKEN.fullmatch(name):
        raise UsageError(
            f"--name: must not be one of MLflow's own aliases (v1, v2, ..., latest), got {name!r}; choose another"
        )
    path = pin_path(pins, name)
    if path.exists() and not request.force:
        raise UsageError(f"{path}: exists; choose another --name, or replace it with --force")
    for other in sorted(pins.glob("*.yaml")):
        if other != path and _alias(other.stem) == _alias(name):
            raise UsageError(
                f"--name: {name} would take the alias of the pin {other.stem} in MLflow, which knows no dots; choose "
                "another"
            )
    return path


def _alias(name: str) -> str:
    """The name of a pin as MLflow's alias, which may hold no dot."""
    return name.replace(".", "-")


@dataclass(frozen=True)
class _Target:
    """The model to pin.

    Attributes:
        objective: that it was made for.
        record: record that its file belongs to.
        result: result of the objective.
        winner: the winner, where the model is its shipped file; None for a trial that ``--trial`` names.
    """

    objective: str
    record: TrialRecord
    result: ObjectiveResult
    winner: Winner | None = None

    @property
    def file(self) -> int:
        """Number of its file among those of its record."""
        return 0 if self.winner is None else self.winner.file

    @property
    def approach(self) -> str:
        """Approach of its row."""
        return SELMIX if self.winner is None else self.winner.approach

    @property
    def seed(self) -> int:
        """Seed that it was made with."""
        return self.record.seed if self.winner is None else self.winner.seed


def _chosen(folder: RunFolder, request: PinRequest) -> _Target:
    """The model to pin, with its objective and the result of that."""
    objective, trial_id = request.objective, request.trial_id
    results = load_results(folder)
    decided = {} if results is None else results.objectives
    if trial_id is not None:
        record = folder.load_trial(trial_id)
        if record.state != "FINISHED" or record.kind == "baseline":
            raise UsageError(
                f"--trial: must be a finished trial or replicate, got {trial_id}: {record.kind}, {record.state}"
            )
        if objective not in (None, record.objective):
            raise UsageError(
                f"--trial: must be a trial of --objective {objective}, got {trial_id}, one of {record.objective}"
            )
        return _Target(record.objective, record, decided.get(record.objective, ObjectiveResult()))
    objectives = folder.load_spec().get("objectives", [])
    if objective is None and len(objectives) > 1:
        raise UsageError(f"--objective: must be given, {folder.name} has several: {', '.join(objectives)}")
    objective = objective or objectives[0]
    if objective not in objectives:
        raise UsageError(
            f"--objective: must be one of {', '.join(objectives)}, the objectives of {folder.name}, got {objective!r}"
        )
    # A trial that --trial names may be pinned at any time; a winner is decided when the sweep is finished.
    state = folder.load_state()
    now = current_state(folder, state.state)
    if now != "finished":
        raise UsageError(
            f"{folder.name}: must be finished to have a winner, got {now}; launch it again, or name a trial: --trial ID"
        )
    result = decided.get(objective, ObjectiveResult())
    if result.winner is None:
        raise NoFeasibleTrial(f"{folder.name}: {objective} has no winner: {state.problem}")
    return _Target(objective, folder.load_trial(result.winner.trial_id), result, result.winner)


def _weights_of(folder: RunFolder, target: _Target) -> Path:
    """Path of the weights to pin, checked before the test split is opened for them."""
    from selmix.weights import load_weights, state_digest

    record = target.record
    files = folder.weights_files(record.trial_id)
    path = files[target.file] if target.file < len(files) else folder.weights_path(record.trial_id)
    expected = record.weights_digest if target.winner is None else target.winner.checkpoint_digest
    try:
        digest = state_digest(load_weights(folder.store.current(path)))
    except ValueError as error:
        raise PreflightError(str(error)) from error
    if digest != expected:
        raise PreflightError(
            f"{path}: must be the weights of {record.trial_id}, digest {expected}, got {digest}"
        )
    return folder.store.current(path)


def _document(folder: RunFolder, test: OpenedTest, name: str, target: _Target, weights: Path) -> Document:
    """The pin of a model, still without its time of creation and its place in MLflow."""
    from orchestrator.pins.test_split import mean_metrics, metrics_of
    from orchestrator.results.judge import Judge, in_order

    state, record, winner = folder.load_state(), target.record, target.winner
    if state.data is None or state.base is None or state.environment is None:
        raise PreflightError(f"{folder.shown}: must have been launched, its record has no data yet")
    if test.digest != state.data.digests["test"]:
        raise PreflightError(
            f"{folder.shown}: the test split must be that of the sweep, digest {state.data.digests['test']}, got "
            f"{test.digest}; restore the data"
        )
    judge = Judge(folder, test.spec, target.objective)
    # Runs of the procedure: the replicates of the pinned trial, or the models of a baseline. A trial that --trial names
    # may have none: it then stands for itself.
    runs: Sequence[TrialRecord] = [record]
    if target.approach == SELMIX:
        runs = judge.finals().get(record.replicate_of or record.trial_id, []) or [record]
    on_test = test.of_files([file for run in runs for file in folder.weights_files(run.trial_id)])
    shipped = test.of_files([weights])
    baselines = {
        b.name: b for b in in_order(folder.load_baselines(target.objective)) if b.state == "FINISHED"
    }
    baseline_tests = {
        key: test.of_files(folder.weights_files(each.trial_id)) for key, each in baselines.items()
    }
    pin = Pin(
        schema_version=SCHEMA_VERSION,
        name=name,
        created="",
        sweep=PinnedSweep(test.spec.name, state.sweep_id, state.file_digest),
        objective=target.objective,
        trial_id=record.trial_id,
        is_winner=winner is not None,
        seed=target.seed,
        round=record.round if target.approach == SELMIX else None,
        config=record.config if winner is None else winner.config,
        protocol=_protocol(test, judge),
        base=state.base.to_document(),
        digests={
            **state.data.digests, "base": state.base.digest,
            "weights": record.weights_digest if winner is None else winner.checkpoint_digest,
        },
        select=record.select if winner is None else winner.select,
        test=metrics_of(shipped[0], judge.context),
        replicates=_replicates(runs, on_test, record, judge),
        baselines={
            key: PinnedBaseline(
                each.select, mean_metrics(baseline_tests[key], judge.context), each.labels, each.reference,
                each.cost_s,
            )
            for key, each in baselines.items()
        },
        verdict=_verdicts(folder, test, target, shipped, on_test, judge),
        environment=state.environment,
        mlflow=Registered("", "", "", "", ""),
        # Of the sweep, not of this version: it decides the bits of what was trained.
        method=state.method,
        row=PinnedRow(
            target.approach, "finetune" if winner is None else winner.rung, record.note, target.seed
        ),
    )  # fmt: skip
    return to_document(pin)


def _protocol(test: OpenedTest, judge: Judge) -> Protocol:
    from orchestrator.build.selection import data_config

    resolved, source = test.spec.resolved(), data_config(test.spec)
    return Protocol(
        data=resolved["data"],
        class_names=list(source.class_names),
        input_shape=list(source.input_shape),
        model=resolved["model"],
        pretrain=resolved["pretrain"],
        constraints=resolved["constraints"],
        metrics=resolved["metrics"],
        # The metric and seed that the sweep file left to their defaults, so that a pin does not depend on these.
        selection=resolved["selection"] | {"metric": judge.rule.metric, "seed": judge.rule.seed},
        search_seed=test.spec.search.seed,
        threads=test.spec.resources.cpu,
        workers=test.spec.resources.workers,
        tolerance="on another stack every metric must lie within the pin's own interval",
    )


def _replicates(
    runs: Sequence[TrialRecord], on_test: Sequence[Predictions], record: TrialRecord, judge: Judge
) -> Document:
    """Seeds of the procedure, and metric -> mean, low, high on test; no metrics where nothing is repeated."""
    from orchestrator.pins.test_split import mean_metrics

    seeds = record.seeds if record.kind == "baseline" else [run.seed for run in runs]
    if not seeds or (list(runs) == [record] and record.kind != "baseline"):
        return {"split": "test", "seeds": []}
    means = mean_metrics(on_test, judge.context)
    named = {key: {"mean": f.value, "low": f.low, "high": f.high} for key, f in means.items()}
    return {"split": "test", "seeds": seeds, **named}


def _verdicts(
    folder: RunFolder,
    test: OpenedTest,
    target: _Target,
    shipped: Sequence[Predictions],
    on_test: Sequence[Predictions],
    judge: Judge,
) -> PinnedVerdicts:
    """Verdicts on both splits, against the opponents that were fixed on select."""
    from orchestrator.results.judge import opponents_of

    decided = judge.folder.load(folder.choices_path, Choices)
    choice = None if decided is None else decided.objectives.get(target.objective)
    candidates = judge.candidates(choice)
    # A trial that --trial names has the opponents of the best SelMix row.
    row_id = SELMIX if target.winner is None else target.winner.approach
    row = next((each for each in candidates if each.name == row_id), None)
    opponents = [] if row is None else opponents_of(row, candidates)
    if not opponents:
        return PinnedVerdicts(None, None)
    files, means = {}, {}
    for each in opponents:
        ships = judge.shipped(each)
        paths = folder.weights_files(ships.record.trial_id)
        files[each.name] = test.of_files([paths[ships.file]])
        means[each.name] = test.of_files(
            [path for record in each.records for path in folder.weights_files(record.trial_id)]
        )
    # The same opponent as on select: the best of several on test would be biased upwards.
    against = opponents[0].name
    on_select = target.result.verdict if target.winner is not None else None
    return PinnedVerdicts(
        None if on_select is None else _pinned(on_select),
        _pinned(judge.judged(shipped, files, against, "test")),
        _pinned(judge.judged(on_test, means, against, "test")),
    )


def _pinned(verdict: Verdict) -> PinnedVerdict:
    return PinnedVerdict(
        verdict.outcome, verdict.against, verdict.difference, verdict.optimistic, verdict.margin,
        verdict.within_margin, verdict.differences, verdict.not_told_apart, verdict.worse_than, verdict.samples,
        verdict.samples_needed,
    )  # fmt: skip


def _register(address: str, document: Document, trial: TrialRecord, weights: Path) -> Registered:
    """Register the model in MLflow: weights and settings as plain files, under the name of the pin as alias."""
    from orchestrator.tracking.client import register_model

    sweep, name = document["sweep"]["name"], document["name"]
    alias = _alias(name)
    tags = {"selmix.weights_digest": document["digests"]["weights"], "selmix.pin": name}
    kept = ("objective", "trial_id", "seed", "round", "config", "protocol", "digests")
    run_id = str(trial.mlflow_run_id)
    with tempfile.TemporaryDirectory(prefix="selmix-pin-") as scratch:
        files = [Path(scratch) / "weights.safetensors", Path(scratch) / "settings.json"]
        shutil.copyfile(weights, files[0])
        files[1].write_text(json.dumps({key: document[key] for key in kept}, indent=1))
        version = register_model(address, run_id, sweep, alias, files, tags)
    return Registered(masked(address), run_id, sweep, version, alias)
