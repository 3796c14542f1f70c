"""``selmix pin``: keep a winner as a lock file, a weights file and a registered model. Opens the test split."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.clock import utc_now
from orchestrator.credentials import masked
from orchestrator.documents import SCHEMA_VERSION, Document, to_document
from orchestrator.errors import PreflightError, UsageError
from orchestrator.files import check_file_writable, writing
from orchestrator.messages import counted
from orchestrator.pins.listing import pins_flag
from orchestrator.pins.lock_file import (
    ADVICE,
    Pin,
    PinnedBaseline,
    PinnedOpening,
    PinnedRow,
    PinnedSweep,
    PinnedVerdict,
    PinnedVerdicts,
    Protocol,
    Registered,
    pin_path,
    sealed,
    source_beside,
    weights_beside,
    write_pin,
)
from orchestrator.pins.portable import portable
from orchestrator.pins.registered import not_registered, register
from orchestrator.pins.targets import Target, targets_of, weights_of
from orchestrator.records.folder import RunFolder
from orchestrator.records.store import Store, runs_flag
from orchestrator.records.types import OwnSource, TrialRecord
from orchestrator.results.rows import (
    SELMIX,
    Choices,
    MoreLabels,
    Verdict,
)
from orchestrator.spec.schema import spec_from_resolved
from orchestrator.tracking.address import check_tracking, recorded_address, tracking_of
from selmix.files import written_aside

if TYPE_CHECKING:
    from orchestrator.pins.test_split import OpenedTest
    from orchestrator.results.judge import Judge
    from selmix.metrics import Predictions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# MLflow reserves these aliases for versions; refused here, before the test split is opened.
ALIAS_TAKEN = re.compile(r"v\d+|latest", re.IGNORECASE)
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
        row: row to pin instead of the winner, see :func:`orchestrator.pins.named_rows.named_row`.
        force: True to replace a pin of that name.
    """

    sweep: str
    name: str
    objectives: Sequence[str] = ()
    trial_id: str | None = None
    row: str | None = None
    force: bool = False


@dataclass(frozen=True)
class WrittenPin:
    """A pin that was written.

    Attributes:
        path: of the pin.
        note: what is to be said of its opening of test; None for a first one.
        problem: why its model is not registered in MLflow; None where it is.
    """

    path: Path
    note: str | None
    problem: str | None = None


@dataclass(frozen=True)
class _Chosen:
    """A model that is to be pinned, with all that is checked before the test split is opened for it."""

    name: str
    path: Path
    target: Target
    weights: Path

    @property
    def objective(self) -> str:
        return self.target.objective


def pin_sweep(store: Store, pins: Path, request: PinRequest) -> list[WrittenPin]:
    """Write the pins of a sweep's winners; trains nothing.

    Several objectives are one opening of the test split: their pins are declared together.

    Args:
        store: the runs folder.
        pins: folder of the pins.
        request: sweep, row, objectives and name of the pin.
    Returns:
        The pins, in the order of the objectives.
    Raises:
        UsageError: the name is taken or not allowed, the objective is not given where there are several, or the sweep
            is not finished.
        NotFound: there is no such sweep, trial or row.
        NoFeasibleTrial: the objective has no winner.
        PreflightError: MLflow, the pins folder, the data or files of the sweep cannot be used.
    """
    folder = RunFolder.open(store, request.sweep)
    # All these checks come before the test split is opened, because each opening is on record.
    paths = [_free_path(pins, name, request.force) for name in _names(request)]
    chosen = targets_of(folder, request.objectives, request.trial_id, request.row)
    address = tracking_of(store)
    for path in paths:
        for file in (path, weights_beside(path)):
            check_file_writable(file, ADVICE)
    check_tracking(address)
    picks = [_checked(folder, path, each, address) for path, each in zip(paths, chosen, strict=True)]
    state = folder.load_state()
    if state.data is None or state.base is None or state.environment is None:
        raise PreflightError(f"{folder.shown}: must have been launched, its record has no data yet")
    # Imported late: it brings torch, which takes seconds that the checks above need not wait for.
    from orchestrator.build.own_source import imported_from, write_sources
    from orchestrator.pins.test_split import Opener, open_test

    sources = _kept_sources(folder, state.objective_source)
    spec = spec_from_resolved(folder.load_spec())
    opener = Opener("pin", [pick.name for pick in picks], [pick.objective for pick in picks])
    test = open_test(spec, opener, folder, must_be=state.data.digests["test"])
    opening = _pinned_opening(test, [pick.name for pick in picks])
    # The functions that the sweep was judged by, wherever this runs and whatever has become of their modules.
    with imported_from(folder.source_path, state.objective_source):
        documents = _documents(folder, test, picks, opening)
    written = []
    for pick, document in zip(picks, documents, strict=True):
        beside = source_beside(pick.path)
        if sources:
            document["objective_source"] = [
                to_document(replace(each, file=f"{beside.name}/{each.main}"))
                for each in state.objective_source
            ]
            write_sources(beside, sources, ADVICE)
        else:
            document.pop("objective_source")
        run_id, alias = str(pick.target.record.mlflow_run_id), _alias(pick.name)
        # Complete before MLflow is asked: test was opened for it, and a server that is away must not lose it.
        document["mlflow"] = to_document(
            Registered(recorded_address(address, store.root), run_id, test.spec.name, "", alias)
        )
        document["created"] = utc_now()
        # Weights first, the pin last: a pin that exists is complete.
        with writing(pick.path, ADVICE), written_aside(weights_beside(pick.path)) as aside:
            shutil.copyfile(pick.weights, aside)
        write_pin(pick.path, sealed(document))
        problem = None
        try:
            registered = register(address, store.root, document, run_id, alias, weights_beside(pick.path))
        # A boundary: whatever MLflow, a disk or the model's own code says, the pin stands.
        except Exception as error:
            flags = runs_flag(store.shown) + pins_flag(pins)
            problem = not_registered(
                error, address, f"selmix pin {test.spec.name} --name {pick.name} --register{flags}"
            )
        else:
            document["mlflow"] = to_document(registered)
            write_pin(pick.path, sealed(document))
        written.append(WrittenPin(pick.path, opening.note, problem))
    return written


def _kept_sources(folder: RunFolder, sources: Sequence[OwnSource]) -> dict[str, bytes]:
    """Files of the user's own functions that the sweep was judged by: relative name -> content.

    Raises:
        PreflightError: they are not those of the sweep's record.
    """
    from orchestrator.build.own_source import read_sources

    if sources:
        folder.store.pull(folder.source_path, (".py",))
    files: dict[str, bytes] = {}
    for source in sources:
        kept = read_sources(folder.source_path, source)
        if isinstance(kept, str):
            raise PreflightError(f"{folder.shown}: {kept}")
        files |= kept
    return files


def _names(request: PinRequest) -> list[str]:
    """Names of the pins, one for each objective."""
    if len(request.objectives) < 2:
        return [request.name]
    for flag, one in (("--trial", request.trial_id), ("--row", request.row)):
        if one is not None:
            raise UsageError(
                f"{flag}: names one {flag.removeprefix('--')} to pin, and cannot stand beside several --objective"
            )
    twice = sorted({name for name in request.objectives if request.objectives.count(name) > 1})
    if twice:
        raise UsageError(f"--objective: must name each objective once, got {twice[0]} twice")
    # A function of the user's own, module:function, has a sign that no file should have.
    return [f"{request.name}-{objective.replace(':', '.')}" for objective in request.objectives]


def _checked(folder: RunFolder, path: Path, target: Target, address: str) -> _Chosen:
    """The model with its weights, if it can be pinned."""
    record = target.record
    if record.mlflow_run_id is None:
        raise PreflightError(
            f"{record.trial_id}: must have a run in MLflow at {masked(address)}, got none; launch the sweep again to "
            "send it"
        )
    return _Chosen(path.stem, path, target, weights_of(folder, target))


def _pinned_opening(test: OpenedTest, names: list[str]) -> PinnedOpening:
    before, share = test.openings_before, test.share_seen
    note = None
    if before:
        what = "test" if share == 1.0 else f"about {100 * share:.0f} % of these samples were"
        note = f"{what} seen {counted(before, 'time')} before: not confirmatory"
    return PinnedOpening(test.content, before, before == 0, note, names, share)


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


@dataclass(frozen=True)
class _Evaluated:
    """A model that is to be pinned, evaluated on test beside its opponents and every baseline.

    Attributes:
        chosen: the model.
        judge: of its objective.
        runs: of the procedure that it is one of: replicates, or the models of a baseline; itself without them.
        baselines: name -> record of a baseline.
        shipped: predictions of the model.
        on_test: predictions of all runs.
        baseline_tests: name -> predictions of all models of a baseline.
        opposing: opponent -> predictions of its shipped file.
        opposing_runs: opponent -> predictions of all its runs.
        against: the opponent that is the best by score on select; None without any.
        beyond_test: row of more labels, which is no opponent -> predictions of its shipped file; the best by score on
            select first.
        beyond_runs: the same, predictions of all its runs.
    """

    chosen: _Chosen
    judge: Judge
    runs: Sequence[TrialRecord]
    baselines: dict[str, TrialRecord]
    shipped: list[Predictions]
    on_test: list[Predictions]
    baseline_tests: dict[str, list[Predictions]]
    opposing: dict[str, list[Predictions]]
    opposing_runs: dict[str, list[Predictions]]
    against: str | None
    beyond_test: dict[str, list[Predictions]]
    beyond_runs: dict[str, list[Predictions]]


def _documents(
    folder: RunFolder, test: OpenedTest, picks: Sequence[_Chosen], opening: PinnedOpening
) -> list[Document]:
    """The pins of the models, still without their times of creation and their places in MLflow."""
    evaluated = {pick.name: _evaluated(folder, test, pick) for pick in picks}
    for each in evaluated.values():
        target, (shipped,) = each.chosen.target, each.shipped
        arrays = {key: values.numpy() for key, values in vars(shipped).items() if values is not None}
        folder.save_test_predictions(target.record.trial_id, target.file, arrays)
    verdicts = _verdicts_on_test(evaluated, opening.openings_before)
    return [_document(folder, test, each, verdicts[name], opening) for name, each in evaluated.items()]


def _evaluated(folder: RunFolder, test: OpenedTest, pick: _Chosen) -> _Evaluated:
    from orchestrator.results.candidates import Candidate, in_order, of_more_labels, opponents_of
    from orchestrator.results.judge import Judge

    target, record = pick.target, pick.target.record
    judge = Judge(folder, test.spec, target.objective)
    runs: Sequence[TrialRecord] = [record]
    if target.approach == SELMIX:
        # A trial that --trial names may have no replicates: it then stands for itself.
        runs = judge.finals().get(record.replicate_of or record.trial_id, []) or [record]
    baselines = {
        b.name: b for b in in_order(folder.load_baselines(target.objective)) if b.state == "FINISHED"
    }

    @cache
    def models(trial_id: str) -> list[Predictions]:
        return test.of_files(folder.weights_files(trial_id))

    choices = folder.load(folder.choices_path, Choices)
    choice = None if choices is None else choices.objectives.get(target.objective)
    candidates = judge.candidates(choice)
    # Of any trial the opponents are those of the best SelMix row, whose labels it used.
    row = judge.row_of(record, choice)
    opponents, beyond = opponents_of(row, candidates), of_more_labels(row, candidates)

    def shipped(each: Candidate) -> list[Predictions]:
        ships = judge.shipped(each)
        return [models(ships.record.trial_id)[ships.file]]

    def all_runs(each: Candidate) -> list[Predictions]:
        return [p for run in each.records for p in models(run.trial_id)]

    return _Evaluated(
        pick, judge, runs, baselines, test.of_files([pick.weights]),
        [p for run in runs for p in models(run.trial_id)],
        {key: models(each.trial_id) for key, each in baselines.items()},
        {each.name: shipped(each) for each in opponents}, {each.name: all_runs(each) for each in opponents},
        opponents[0].name if opponents else None,
        {each.name: shipped(each) for each in beyond}, {each.name: all_runs(each) for each in beyond},
    )  # fmt: skip


def _document(
    folder: RunFolder,
    test: OpenedTest,
    evaluated: _Evaluated,
    on_test: tuple[PinnedVerdict | None, PinnedVerdict | None],
    opening: PinnedOpening,
) -> Document:
    """The pin of a model, still without its time of creation and its place in MLflow."""
    from orchestrator.pins.test_split import mean_metrics, metrics_of
    from selmix.data.content import preprocess_digest

    state = folder.load_state()
    if state.data is None or state.base is None or state.environment is None:
        raise AssertionError("what a pin needs of the sweep's record was checked before test was opened")
    target, judge = evaluated.chosen.target, evaluated.judge
    record, row = target.record, target.row
    pin = Pin(
        schema_version=SCHEMA_VERSION,
        name=evaluated.chosen.name,
        created="",
        sweep=PinnedSweep(test.spec.name, state.sweep_id, state.file_digest),
        objective=target.objective,
        trial_id=record.trial_id,
        is_winner=target.is_winner,
        seed=target.seed,
        round=record.round if target.approach == SELMIX else None,
        config=record.config if row is None else row.config,
        protocol=_protocol(test, judge, record.config if row is None else row.config),
        base=portable(state.base.to_document()),
        digests={
            **state.data.digests, "preprocess": preprocess_digest(test.split.inputs), "base": state.base.digest,
            "weights": record.weights_digest if row is None else row.checkpoint_digest,
        },
        select=record.select if row is None else row.select,
        test=metrics_of(evaluated.shipped[0], judge.context),
        replicates=_replicates(evaluated),
        baselines={
            key: PinnedBaseline(
                each.select, mean_metrics(evaluated.baseline_tests[key], judge.context), each.labels,
                each.reference, each.cost_s,
            )
            for key, each in evaluated.baselines.items()
        },
        verdict=PinnedVerdicts(
            None if target.on_select is None else _pinned(target.on_select), *on_test,
            _more_labels(evaluated, evaluated.shipped, evaluated.beyond_test) if evaluated.against is None else None,
        ),
        environment=state.environment,
        mlflow=Registered("", "", "", "", ""),
        # Of the sweep, not of this version: it decides the bits of what was trained.
        method=state.method,
        row=PinnedRow(
            target.approach, "finetune" if row is None else row.rung, record.note, target.seed
        ),
        test_opening=opening,
    )  # fmt: skip
    return to_document(pin)


def _protocol(test: OpenedTest, judge: Judge, config: Mapping[str, object]) -> Protocol:
    from orchestrator.build.selection import data_config
    from selmix.data.images import steps_of

    resolved, source = test.spec.resolved(), data_config(test.spec)
    columns: str | Sequence[str] | None = getattr(source, "input_columns", None)
    return Protocol(
        data=portable(resolved["data"]),
        class_names=list(source.class_names),
        input_shape=list(source.input_shape),
        model=resolved["model"],
        pretrain=portable(resolved["pretrain"]),
        constraints=resolved["constraints"],
        metrics=resolved["metrics"],
        # The metric and seed that the sweep file left to their defaults, so that a pin does not depend on these.
        selection=resolved["selection"] | {"metric": judge.rule.metric, "seed": judge.rule.seed},
        search_seed=test.spec.search.seed,
        threads=test.spec.resources.cpu,
        workers=test.spec.resources.workers,
        tolerance="on another stack every metric must lie within the pin's own interval",
        preprocess=None if (steps := steps_of(test.split.inputs)) is None else steps.as_keys(),
        columns=columns if columns is None or isinstance(columns, str) else list(columns),
        bounds=judge.bounds,
        group_names=list(getattr(source, "group_names", ())) or None,
        best_head=judge.folder.load_best_head(judge.objective)
        if config.get("start") == "best_head"
        else None,
    )


def _replicates(evaluated: _Evaluated) -> Document:
    """Seeds of the procedure, and metric -> mean, low, high on test; no metrics where nothing is repeated."""
    from orchestrator.pins.test_split import mean_metrics

    record, runs = evaluated.chosen.target.record, evaluated.runs
    seeds = record.seeds if record.kind == "baseline" else [run.seed for run in runs]
    if not seeds or (record.kind != "baseline" and list(runs) == [record]):
        return {"split": "test", "seeds": []}
    means = mean_metrics(evaluated.on_test, evaluated.judge.context)
    named = {key: {"mean": f.value, "low": f.low, "high": f.high} for key, f in means.items()}
    return {"split": "test", "seeds": seeds, **named}


def _verdicts_on_test(
    evaluated: Mapping[str, _Evaluated], openings_before: int
) -> dict[str, tuple[PinnedVerdict | None, PinnedVerdict | None]]:
    """Verdicts on test, of the shipped file and of the procedure, of pins that are declared together, by their names.

    Each is against all opponents that were fixed on select. The outcome is that of the plain level, by Holm's procedure
    where there are several pins. The corrected difference has the level of that procedure too, begun at the level of
    the opening.
    """
    from selmix.statistics.openings import holm_levels, level_of_opening

    # A pin without an opponent claims nothing, and is not counted among the claims.
    claims = {name: each.against for name, each in evaluated.items() if each.against is not None}

    @cache
    def verdict(name: str, level: float) -> Verdict:
        each = evaluated[name]
        return each.judge.judged(each.shipped, each.opposing, claims[name], "test", level)

    def told_apart(name: str, level: float) -> bool:
        return verdict(name, level).outcome in ("better", "worse")

    decided = holm_levels(claims, told_apart, LEVEL)
    corrected = holm_levels(claims, told_apart, level_of_opening(openings_before, LEVEL))
    verdicts: dict[str, tuple[PinnedVerdict | None, PinnedVerdict | None]] = dict.fromkeys(
        evaluated, (None, None)
    )
    for name, against in claims.items():
        each, plain = evaluated[name], verdict(name, LEVEL)
        level = corrected[name] if corrected[name] != LEVEL else None
        # Every claim is that of the level that Holm's procedure leaves; the intervals are plain.
        shipped = replace(
            _pinned(verdict(name, decided[name])), difference=plain.difference, differences=plain.differences,
            difference_corrected=None if level is None else verdict(name, level).difference,
            level_corrected=level, more_labels=_more_labels(each, each.shipped, each.beyond_test),
        )  # fmt: skip
        procedure = replace(
            _pinned(each.judge.judged(each.on_test, each.opposing_runs, against, "test")),
            more_labels=_more_labels(each, each.on_test, each.beyond_runs),
        )
        verdicts[name] = shipped, procedure
    return verdicts


def _more_labels(
    evaluated: _Evaluated, ours: Sequence[Predictions], theirs: Mapping[str, Sequence[Predictions]]
) -> MoreLabels | None:
    """Rows of more labels beside a pinned model, on test; None without any.

    Args:
        evaluated: the model.
        ours: its predictions, or those of its procedure.
        theirs: row of more labels -> its predictions.
    """
    if not theirs:
        return None
    gaps = {name: evaluated.judge.paired(ours, each) for name, each in theirs.items()}
    first = next(iter(gaps))
    return MoreLabels(list(gaps), gaps[first], gaps[first].value < 0.0, gaps)


def _pinned(verdict: Verdict) -> PinnedVerdict:
    return PinnedVerdict(
        verdict.outcome, verdict.against, verdict.difference, verdict.optimistic, verdict.margin,
        verdict.within_margin, verdict.differences, verdict.not_told_apart, verdict.worse_than, verdict.samples,
        verdict.samples_needed, more_labels=verdict.more_labels,
    )  # fmt: skip
