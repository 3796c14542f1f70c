"""``selmix pin``: a winner becomes a lock file, a weights file and a registered model. Opens the test split."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.clock import utc_now
from orchestrator.credentials import masked
from orchestrator.documents import SCHEMA_VERSION, Document, to_document
from orchestrator.errors import NoFeasibleTrial, PreflightError, UsageError
from orchestrator.files import check_writable, writing
from orchestrator.pins.lock_file import (
    Pin,
    PinnedBaseline,
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
from orchestrator.records.types import Figure, TrialRecord
from orchestrator.results.rows import ObjectiveResult, load_results
from orchestrator.spec.schema import spec_from_resolved
from orchestrator.tracking.address import check_tracking, tracking_of
from selmix import METHOD
from selmix.files import written_aside

if TYPE_CHECKING:
    from orchestrator.pins.test_split import OpenedTest
    from orchestrator.results.judge import Judge
    from selmix.metrics import Predictions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ALIAS_TAKEN = re.compile(r"v\d+|latest", re.IGNORECASE)
ADVICE = "choose another --pins folder"


@dataclass(frozen=True)
class PinRequest:
    """What is to be pinned.

    Attributes:
        sweep: its name. name: of the pin.
        objective: whose winner; None where the sweep has one.
        trial_id: this trial instead of the winner; None: the winner.
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
        request: what is to be pinned.
    Returns:
        The pin's path.
    Raises:
        UsageError: a name that is taken or not allowed, no objective where there are several, no finished sweep.
        NotFound: no such sweep or trial. NoFeasibleTrial: the objective has no winner.
        PreflightError: MLflow, the pins folder or the sweep's files are not there.
    """
    folder = RunFolder.open(store, request.sweep)
    path = _free_path(pins, request)
    objective, trial, result = _chosen(folder, request)
    check_writable(path, ADVICE)
    address = tracking_of(store)
    check_tracking(address)
    if trial.mlflow_run_id is None:
        raise PreflightError(
            f"{trial.trial_id} has no run at {masked(address)} yet; launch the sweep again to send it"
        )
    weights = _weights_of(folder, trial)
    from orchestrator.pins.test_split import open_test  # torch is imported from here on

    spec = spec_from_resolved(folder.load_spec())
    test = open_test(spec, f"pin {request.name}", folder)
    document = _document(folder, test, request.name, trial, result, objective)
    document["mlflow"] = to_document(_register(address, document, trial, weights))
    document["created"] = utc_now()
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
        raise UsageError(f"--name: {name} is a name that MLflow keeps for its own aliases; choose another")
    path = pin_path(pins, name)
    if path.exists() and not request.force:
        raise UsageError(f"{path}: exists; choose another --name, or --force to replace it")
    return path


def _chosen(folder: RunFolder, request: PinRequest) -> tuple[str, TrialRecord, ObjectiveResult]:
    """Objective, trial, and the result that it stands in."""
    objective, trial_id = request.objective, request.trial_id
    results = load_results(folder)
    decided = {} if results is None else results.objectives
    if trial_id is not None:
        record = folder.load_trial(trial_id)
        if record.state != "FINISHED" or record.kind == "baseline":
            raise UsageError(
                f"--trial: must be a finished trial or replicate, {trial_id} is a {record.state} {record.kind}"
            )
        if objective not in (None, record.objective):
            raise UsageError(
                f"--trial: {trial_id} is a trial of {record.objective}, --objective says {objective}"
            )
        return record.objective, record, decided.get(record.objective, ObjectiveResult())
    objectives = folder.load_spec().get("objectives", [])
    if objective is None and len(objectives) > 1:
        raise UsageError(f"--objective: must be named, {folder.name} has {', '.join(objectives)}")
    objective = objective or objectives[0]
    if objective not in objectives:
        raise UsageError(f"--objective: {folder.name} has {', '.join(objectives)}, got {objective!r}")
    state = folder.load_state()
    now = current_state(folder, state.state)
    if now != "finished":
        raise UsageError(f"{folder.name} is {now}: it has no winner yet; launch it again, or name a --trial")
    result = decided.get(objective, ObjectiveResult())
    if result.winner is None:
        raise NoFeasibleTrial(f"{folder.name}: {objective} has no winner: {state.problem}")
    return objective, folder.load_trial(result.winner.trial_id), result


def _weights_of(folder: RunFolder, trial: TrialRecord) -> Path:
    """The weights of a trial, checked before test is opened for them."""
    from selmix.weights import load_weights, state_digest

    path = folder.store.current(folder.weights_path(trial.trial_id))
    try:
        found = state_digest(load_weights(path))
    except ValueError as error:
        raise PreflightError(str(error)) from error
    if found != trial.weights_digest:
        raise PreflightError(
            f"{path}: must be the weights of the trial, digest {found}, recorded {trial.weights_digest}"
        )
    return path


def _document(
    folder: RunFolder,
    test: OpenedTest,
    name: str,
    trial: TrialRecord,
    result: ObjectiveResult,
    objective: str,
) -> Document:
    """The pin of a trial; its creation time and its place in MLflow are still to come."""
    from orchestrator.pins.test_split import mean_metrics, metrics_of
    from orchestrator.results.judge import Judge, in_order
    from selmix.weights import load_weights

    state = folder.load_state()
    if state.data is None or state.base is None or state.environment is None:
        raise PreflightError(f"{folder.shown}: must have been run, its record holds no data yet")
    if test.digest != state.data.digests["test"]:
        raise PreflightError(
            f"{folder.shown}: the test split is not that of the sweep: digest {test.digest}, recorded "
            f"{state.data.digests['test']}"
        )
    judge = Judge(folder, test.spec, objective)
    is_winner = result.winner is not None and result.winner.trial_id == trial.trial_id
    replicates = judge.finals().get(trial.trial_id, []) or [trial]
    on_test = [p for record in replicates for p in test.of_files(folder.weights_files(record.trial_id))]
    baselines = {b.name: b for b in in_order(folder.load_baselines(objective)) if b.state == "FINISHED"}
    baseline_tests = {
        key: test.of_files(folder.weights_files(record.trial_id)) for key, record in baselines.items()
    }
    weights = load_weights(folder.weights_path(trial.trial_id))
    pin = Pin(
        schema_version=SCHEMA_VERSION,
        name=name,
        created="",
        sweep=PinnedSweep(test.spec.name, state.sweep_id, state.file_digest),
        objective=objective,
        trial_id=trial.trial_id,
        is_winner=is_winner,
        seed=trial.seed,
        round=trial.round,
        config=trial.config,
        protocol=_protocol(test, judge),
        base=state.base.to_document(),
        digests={**state.data.digests, "base": state.base.digest, "weights": trial.weights_digest},
        select=trial.select,
        test=metrics_of(test.predictions(weights), judge.context),
        replicates=_replicates(replicates, on_test, trial, judge),
        baselines={
            key: PinnedBaseline(
                record.select, mean_metrics(baseline_tests[key], judge.context), record.labels,
                record.reference, record.cost_s,
            )
            for key, record in baselines.items()
        },
        verdict=_verdicts(result, is_winner, on_test, baseline_tests, judge),
        environment=state.environment,
        mlflow=Registered("", "", "", "", ""),
        method=METHOD,
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
        selection=resolved["selection"] | {"metric": judge.rule.metric, "seed": judge.rule.seed},
        search_seed=test.spec.search.seed,
        threads=test.spec.resources.cpu,
        workers=test.spec.resources.workers,
        tolerance="on another stack every metric must lie within the pin's own interval",
    )


def _replicates(
    replicates: Sequence[TrialRecord], on_test: Sequence[Predictions], trial: TrialRecord, judge: Judge
) -> Document:
    """Seeds, and metric -> mean, low, high on test over them; none for a trial that was not replicated."""
    from orchestrator.pins.test_split import mean_metrics

    if list(replicates) == [trial]:
        return {"split": "test", "seeds": []}
    means = mean_metrics(on_test, judge.context)
    named = {key: {"mean": f.value, "low": f.low, "high": f.high} for key, f in means.items()}
    return {"split": "test", "seeds": [r.seed for r in replicates], **named}


def _verdicts(
    result: ObjectiveResult,
    is_winner: bool,
    on_test: Sequence[Predictions],
    baselines: dict[str, list[Predictions]],
    judge: Judge,
) -> PinnedVerdicts:
    """Against the opponent that was chosen on select, on both splits."""
    from selmix.statistics.comparison import outcome, paired_difference

    on_select = result.verdict
    if on_select is None:
        return PinnedVerdicts(None, None)
    gap = paired_difference(judge.rule.metric, on_test, baselines[on_select.against], judge.context)
    test = PinnedVerdict(outcome(gap), on_select.against, Figure(**asdict(gap)))
    select = PinnedVerdict(on_select.outcome, on_select.against, on_select.difference, optimistic=True)
    return PinnedVerdicts(select if is_winner else None, test)


def _register(address: str, document: Document, trial: TrialRecord, weights: Path) -> Registered:
    """Put the model into MLflow's registry: weights and settings as plain files, under the alias of the pin."""
    from orchestrator.tracking.client import register_model

    sweep, name = document["sweep"]["name"], document["name"]
    alias = name.replace(".", "-")  # MLflow takes no dot in an alias
    tags = {"selmix.weights_digest": document["digests"]["weights"], "selmix.pin": name}
    kept = ("objective", "trial_id", "seed", "round", "config", "protocol", "digests")
    run_id = str(trial.mlflow_run_id)
    with tempfile.TemporaryDirectory(prefix="selmix-pin-") as scratch:
        files = [Path(scratch) / "weights.safetensors", Path(scratch) / "settings.json"]
        shutil.copyfile(weights, files[0])
        files[1].write_text(json.dumps({key: document[key] for key in kept}, indent=1))
        version = register_model(address, run_id, sweep, alias, files, tags)
    return Registered(masked(address), run_id, sweep, version, alias)
