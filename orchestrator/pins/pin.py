"""``selmix pin``: keep a winner as a lock file, a weights file and a registered model. Opens the test split."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.clock import utc_now
from orchestrator.credentials import masked
from orchestrator.documents import SCHEMA_VERSION, Document, to_document
from orchestrator.errors import NoFeasibleTrial, PreflightError, UsageError
from orchestrator.files import check_writable, writing
from orchestrator.messages import counted
from orchestrator.pins.lock_file import (
    Pin,
    PinnedBaseline,
    PinnedOpening,
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
from selmix.files import written_aside

if TYPE_CHECKING:
    from orchestrator.pins.test_split import OpenedTest
    from orchestrator.results.judge import Judge
    from selmix.metrics import Predictions
    from selmix.statistics.intervals import Estimate

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# MLflow reserves these aliases for versions; refused here, before the test split is opened.
ALIAS_TAKEN = re.compile(r"v\d+|latest", re.IGNORECASE)
ADVICE = "choose another --pins folder"
LEVEL = 0.95
"""Level of a claim on test at its first opening, and of all pins together that are declared at once."""


@dataclass(frozen=True)
class PinRequest:
    """Arguments of ``selmix pin``.

    Attributes:
        sweep: name of the sweep.
        name: name of the pin; of several objectives the pins are NAME-OBJECTIVE.
        objectives: objectives whose winners are pinned, declared together; may be empty where the sweep has only one.
        trial_id: trial to pin instead of the winner.
        force: True to replace a pin of that name.
    """

    sweep: str
    name: str
    objectives: Sequence[str] = ()
    trial_id: str | None = None
    force: bool = False


@dataclass(frozen=True)
class WrittenPin:
    """A pin that was written.

    Attributes:
        path: of the pin.
        note: what is to be said of its opening of test; None for a first one.
    """

    path: Path
    note: str | None


@dataclass(frozen=True)
class _Chosen:
    """A trial that is to be pinned, with all that is checked before the test split is opened for it."""

    name: str
    path: Path
    objective: str
    trial: TrialRecord
    result: ObjectiveResult
    weights: Path


def pin_sweep(store: Store, pins: Path, request: PinRequest) -> list[WrittenPin]:
    """Write the pins of a sweep's winners; trains nothing.

    Several objectives are one opening of the test split: their pins are declared together.

    Args:
        store: the runs folder.
        pins: folder of the pins.
        request: sweep, trial, objectives and name of the pin.
    Returns:
        The pins, in the order of the objectives.
    Raises:
        UsageError: the name is taken or not allowed, the objective is not given where there are several, or the sweep
            is not finished.
        NotFound: there is no such sweep or trial.
        NoFeasibleTrial: the objective has no winner.
        PreflightError: MLflow, the pins folder, the data or files of the sweep cannot be used.
    """
    folder = RunFolder.open(store, request.sweep)
    # All these checks come before the test split is opened, because each opening is on record.
    paths = [_free_path(pins, name, request.force) for name in _names(request)]
    chosen = _chosen(folder, request)
    address = tracking_of(store)
    check_writable(pins, ADVICE)
    check_tracking(address)
    picks = [_checked(folder, path, *each, address=address) for path, each in zip(paths, chosen, strict=True)]
    state = folder.load_state()
    if state.data is None or state.base is None or state.environment is None:
        raise PreflightError(f"{folder.shown}: must have been launched, its record has no data yet")
    # Imported late: it brings torch, which takes seconds that the checks above need not wait for.
    from orchestrator.pins.test_split import Opener, open_test

    spec = spec_from_resolved(folder.load_spec())
    opener = Opener("pin", [pick.name for pick in picks], [pick.objective for pick in picks])
    test = open_test(spec, opener, folder, must_be=state.data.digests["test"])
    opening = _pinned_opening(test, [pick.name for pick in picks])
    written = []
    for pick, document in zip(picks, _documents(folder, test, picks, opening), strict=True):
        document["mlflow"] = to_document(_register(address, document, pick.trial, pick.weights))
        document["created"] = utc_now()
        # Weights first, the pin last: a pin that exists is complete.
        with writing(pick.path, ADVICE), written_aside(weights_beside(pick.path)) as aside:
            shutil.copyfile(pick.weights, aside)
        write_pin(pick.path, sealed(document))
        written.append(WrittenPin(pick.path, opening.note))
    return written


def _names(request: PinRequest) -> list[str]:
    """Names of the pins, one for each objective."""
    if len(request.objectives) < 2:
        return [request.name]
    if request.trial_id is not None:
        raise UsageError("--trial: names one trial to pin, and cannot stand beside several --objective")
    twice = sorted({name for name in request.objectives if request.objectives.count(name) > 1})
    if twice:
        raise UsageError(f"--objective: must name each objective once, got {twice[0]} twice")
    return [f"{request.name}-{objective}" for objective in request.objectives]


def _checked(
    folder: RunFolder, path: Path, objective: str, trial: TrialRecord, result: ObjectiveResult, address: str
) -> _Chosen:
    """The trial with its weights, if it can be pinned."""
    if trial.mlflow_run_id is None:
        raise PreflightError(
            f"{trial.trial_id}: must have a run in MLflow at {masked(address)}, got none; launch the sweep again to "
            "send it"
        )
    return _Chosen(path.stem, path, objective, trial, result, _weights_of(folder, trial))


def _pinned_opening(test: OpenedTest, names: list[str]) -> PinnedOpening:
    before = test.openings_before
    note = f"test seen {counted(before, 'time')} before: not confirmatory" if before else None
    return PinnedOpening(test.content, before, before == 0, note, names)


def _free_path(pins: Path, name: str, force: bool) -> Path:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"--name: must be letters, digits, '.', '_' or '-', the first a letter or digit, got {name!r}"
        )
    if ALIAS_TAKEN.fullmatch(name):
        raise UsageError(
            f"--name: must not be one of MLflow's own aliases (v1, v2, ..., latest), got {name!r}; choose another"
        )
    path = pin_path(pins, name)
    if path.exists() and not force:
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


def _chosen(folder: RunFolder, request: PinRequest) -> list[tuple[str, TrialRecord, ObjectiveResult]]:
    """Objectives and trials to pin, and the results of these objectives."""
    trial_id = request.trial_id
    results = load_results(folder)
    decided = {} if results is None else results.objectives
    if trial_id is not None:
        record = folder.load_trial(trial_id)
        if record.state != "FINISHED" or record.kind == "baseline":
            raise UsageError(
                f"--trial: must be a finished trial or replicate, got {trial_id}: {record.kind}, {record.state}"
            )
        if any(objective != record.objective for objective in request.objectives):
            raise UsageError(
                f"--trial: must be a trial of --objective {request.objectives[0]}, got {trial_id}, one of "
                f"{record.objective}"
            )
        return [(record.objective, record, decided.get(record.objective, ObjectiveResult()))]
    objectives = folder.load_spec().get("objectives", [])
    if not request.objectives and len(objectives) > 1:
        raise UsageError(
            f"--objective: must be given, {folder.name} has several: {', '.join(objectives)}; give it several times "
            "to declare their pins together"
        )
    asked = request.objectives or objectives[:1]
    for objective in asked:
        if objective not in objectives:
            raise UsageError(
                f"--objective: must be one of {', '.join(objectives)}, the objectives of {folder.name}, got "
                f"{objective!r}"
            )
    # A trial that --trial names may be pinned at any time; a winner is decided when the sweep is finished.
    state = folder.load_state()
    now = current_state(folder, state.state)
    if now != "finished":
        raise UsageError(
            f"{folder.name}: must be finished to have a winner, got {now}; launch it again, or name a trial: --trial ID"
        )
    chosen = []
    for objective in asked:
        result = decided.get(objective, ObjectiveResult())
        if result.winner is None:
            raise NoFeasibleTrial(f"{folder.name}: {objective} has no winner: {state.problem}")
        chosen.append((objective, folder.load_trial(result.winner.trial_id), result))
    return chosen


def _weights_of(folder: RunFolder, trial: TrialRecord) -> Path:
    """Path of the weights of a trial, checked before the test split is opened for them."""
    from selmix.weights import load_weights, state_digest

    path = folder.store.current(folder.weights_path(trial.trial_id))
    try:
        digest = state_digest(load_weights(path))
    except ValueError as error:
        raise PreflightError(str(error)) from error
    if digest != trial.weights_digest:
        raise PreflightError(
            f"{path}: must be the weights of {trial.trial_id}, digest {trial.weights_digest}, got {digest}"
        )
    return path


@dataclass(frozen=True)
class _Evaluated:
    """A trial that is to be pinned, evaluated on test beside its baselines."""

    chosen: _Chosen
    judge: Judge
    replicates: list[TrialRecord]
    baselines: dict[str, TrialRecord]
    on_test: list[Predictions]
    baseline_tests: dict[str, list[Predictions]]

    @property
    def is_winner(self) -> bool:
        winner = self.chosen.result.winner
        return winner is not None and winner.trial_id == self.chosen.trial.trial_id

    def difference(self, against: str, level: float) -> Estimate:
        """Paired difference on test from a baseline."""
        from selmix.statistics.comparison import paired_difference

        theirs = self.baseline_tests[against]
        return paired_difference(self.judge.rule.metric, self.on_test, theirs, self.judge.context, level)


def _documents(
    folder: RunFolder, test: OpenedTest, picks: Sequence[_Chosen], opening: PinnedOpening
) -> list[Document]:
    """The pins of the trials, still without their times of creation and their places in MLflow."""
    evaluated = {pick.name: _evaluated(folder, test, pick) for pick in picks}
    verdicts = _verdicts_on_test(evaluated, opening.openings_before)
    return [_document(folder, test, each, verdicts[name], opening) for name, each in evaluated.items()]


def _evaluated(folder: RunFolder, test: OpenedTest, pick: _Chosen) -> _Evaluated:
    from orchestrator.results.judge import Judge, in_order

    judge = Judge(folder, test.spec, pick.objective)
    # A trial that --trial names may have no replicates: it then stands for itself.
    replicates = judge.finals().get(pick.trial.trial_id, []) or [pick.trial]
    baselines = {b.name: b for b in in_order(folder.load_baselines(pick.objective)) if b.state == "FINISHED"}
    return _Evaluated(
        pick, judge, replicates, baselines,
        [p for record in replicates for p in test.of_files(folder.weights_files(record.trial_id))],
        {key: test.of_files(folder.weights_files(record.trial_id)) for key, record in baselines.items()},
    )  # fmt: skip


def _document(
    folder: RunFolder,
    test: OpenedTest,
    evaluated: _Evaluated,
    on_test: PinnedVerdict | None,
    opening: PinnedOpening,
) -> Document:
    """The pin of a trial, still without its time of creation and its place in MLflow."""
    from orchestrator.pins.test_split import mean_metrics, metrics_of
    from selmix.data.content import preprocess_digest
    from selmix.weights import load_weights

    state = folder.load_state()
    if state.data is None or state.base is None or state.environment is None:
        raise AssertionError("what a pin needs of the sweep's record was checked before test was opened")
    pick, trial, judge = evaluated.chosen, evaluated.chosen.trial, evaluated.judge
    # The pinned model is that of the trial itself; its replicates only measure the spread over seeds.
    weights = load_weights(folder.weights_path(trial.trial_id))
    pin = Pin(
        schema_version=SCHEMA_VERSION,
        name=pick.name,
        created="",
        sweep=PinnedSweep(test.spec.name, state.sweep_id, state.file_digest),
        objective=pick.objective,
        trial_id=trial.trial_id,
        is_winner=evaluated.is_winner,
        seed=trial.seed,
        round=trial.round,
        config=trial.config,
        protocol=_protocol(test, judge),
        base=state.base.to_document(),
        digests={
            **state.data.digests, "preprocess": preprocess_digest(test.split.inputs), "base": state.base.digest,
            "weights": trial.weights_digest,
        },
        select=trial.select,
        test=metrics_of(test.predictions(weights), judge.context),
        replicates=_replicates(evaluated.replicates, evaluated.on_test, trial, judge),
        baselines={
            key: PinnedBaseline(
                record.select, mean_metrics(evaluated.baseline_tests[key], judge.context), record.labels,
                record.reference, record.cost_s,
            )
            for key, record in evaluated.baselines.items()
        },
        verdict=PinnedVerdicts(_verdict_on_select(evaluated), on_test),
        environment=state.environment,
        mlflow=Registered("", "", "", "", ""),
        # Of the sweep, not of this version: it decides the bits of what was trained.
        method=state.method,
        test_opening=opening,
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
    replicates: Sequence[TrialRecord], on_test: Sequence[Predictions], trial: TrialRecord, judge: Judge
) -> Document:
    """Seeds of the replicates, and metric -> mean, low, high on test; no metrics for a trial without replicates."""
    from orchestrator.pins.test_split import mean_metrics

    if list(replicates) == [trial]:
        return {"split": "test", "seeds": []}
    means = mean_metrics(on_test, judge.context)
    named = {key: {"mean": f.value, "low": f.low, "high": f.high} for key, f in means.items()}
    return {"split": "test", "seeds": [r.seed for r in replicates], **named}


def _verdict_on_select(evaluated: _Evaluated) -> PinnedVerdict | None:
    verdict = evaluated.chosen.result.verdict
    if verdict is None or not evaluated.is_winner:
        return None
    return PinnedVerdict(verdict.outcome, verdict.against, verdict.difference, optimistic=True)


def _verdicts_on_test(
    evaluated: Mapping[str, _Evaluated], openings_before: int
) -> dict[str, PinnedVerdict | None]:
    """Verdicts on test of pins that are declared together, by the name of the pin.

    The outcome is that of the plain level, by Holm's procedure where there are several pins. The corrected difference
    has the level of that procedure too, begun at the level of the opening.
    """
    from selmix.statistics.comparison import outcome
    from selmix.statistics.openings import holm_levels, level_of_opening

    # The opponents of select: the best of several baselines on test would be biased upwards. A pin without an
    # opponent claims nothing, and is not counted among the claims.
    opponents = {
        name: each.chosen.result.verdict.against
        for name, each in evaluated.items()
        if each.chosen.result.verdict is not None
    }

    @cache
    def gap(name: str, level: float) -> Estimate:
        return evaluated[name].difference(opponents[name], level)

    def told_apart(name: str, level: float) -> bool:
        return outcome(gap(name, level)) != "tied"

    decided = holm_levels(opponents, told_apart, LEVEL)
    corrected = holm_levels(opponents, told_apart, level_of_opening(openings_before, LEVEL))
    verdicts: dict[str, PinnedVerdict | None] = dict.fromkeys(evaluated)
    for name, against in opponents.items():
        level = corrected[name] if corrected[name] != LEVEL else None
        verdicts[name] = PinnedVerdict(
            outcome(gap(name, decided[name])), against, Figure(**asdict(gap(name, LEVEL))),
            difference_corrected=None if level is None else Figure(**asdict(gap(name, level))),
            level_corrected=level,
        )  # fmt: skip
    return verdicts


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
