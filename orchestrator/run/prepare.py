"""Preparation of what all trials of a sweep share: data, base model, balanced heads, selection rules.

The driver trains or reads the base model; the heads are a task of whoever runs the trials.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.build.base_model import base_model, base_model_aside, initial_state, torch_threads
from orchestrator.build.selection import selection_rules
from orchestrator.cluster.address import Cluster
from orchestrator.cluster.local_pool import LocalPool, ProcessLost
from orchestrator.errors import NoFeasibleTrial, PreflightError
from orchestrator.messages import first_line
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BaseFacts, BestHead, DataFacts, TrialRecord
from orchestrator.results.judge import Judge
from orchestrator.results.rungs import choose_across_rungs
from orchestrator.results.shipped import shipped_file
from orchestrator.run.outcome import RunOutcome
from orchestrator.spec.schema import SweepSpec
from selmix.baselines.task import head_of
from selmix.data.content import facts_of
from selmix.data.splits import SweepData
from selmix.data.stored import bytes_of, save_data
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule
from selmix.weights import State, load_weights, save_weights, state_digest
from trainables.heads import FittedHeads, HeadJob, fit_heads
from trainables.shared import Shared
from trainables.staged import StagedData

FitHeads = Callable[[HeadJob], FittedHeads]
"""Function that fits heads somewhere: in this process, or on a worker."""

BaseToCome = Callable[[], tuple[State, BaseFacts]]
"""Function that waits for a base model whose training has begun."""


@dataclass(frozen=True)
class Prepared:
    """Data, models and rules that all runs of a sweep share.

    Attributes:
        data: the splits train, feedback and select.
        state: weights of the base model.
        rules: objective -> selection rule, by which rounds and trials are ranked.
        base: facts of the base model for the state of the sweep.
        bases: objective -> start models; empty before the heads are fitted.
    """

    data: SweepData
    state: State
    rules: dict[str, SelectionRule]
    base: BaseFacts
    bases: dict[str, Base] = field(default_factory=dict)

    @property
    def facts(self) -> DataFacts:
        """Facts of the data that reading the results takes."""
        data = self.data
        return DataFacts(
            list(data.class_names), data.train_counts.tolist(), dict(data.digests), len(data.select),
            list(data.group_names), data.select.counts(data.num_classes).tolist(),
        )  # fmt: skip


def prepare(spec: SweepSpec, data: SweepData, folder: RunFolder) -> Prepared:
    """Prepare everything in this process and on its CPU.

    Args:
        spec: specification of the sweep.
        data: of the sweep.
        folder: that keeps base model and heads; what is there already is read.
    Raises:
        PreflightError: a checkpoint cannot be used.
    """
    prepared = prepare_base(spec, data, folder)
    shared = replace(shared_by_runs(spec, prepared, folder, None), gpu=0)

    def fit(job: HeadJob) -> FittedHeads:
        with torch_threads(spec.resources.cpu):
            return fit_heads(shared, job, 0)

    return prepare_heads(spec, prepared, folder, fit)


def begin_base(
    spec: SweepSpec, data: StagedData | None, folder: RunFolder, pool: LocalPool | None
) -> BaseToCome | None:
    """Begin to train the base model in a process of a pool, so that the driver can do other things.

    Args:
        spec: specification of the sweep.
        data: of the sweep, for the processes of the pool; None without any.
        folder: that keeps the base model.
        pool: of processes; None without any.
    Returns:
        Function that waits for it; None where the driver gets it itself: it has no pool, or need not train.
    """
    known = folder.store.current(folder.base_weights).is_file()
    if pool is None or data is None or spec.recipe is None or known:
        return None
    shared = Shared(data, {}, {}, threads=spec.resources.cpu, gpu=0.0)
    piece = pool.start(base_model_aside, shared, spec)
    return None if piece is None else partial(pool.result, piece)


def prepare_base(
    spec: SweepSpec, data: SweepData, folder: RunFolder, begun: BaseToCome | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Prepared:  # fmt: skip
    """Train or load the base model.

    Args:
        spec: specification of the sweep.
        data: of the sweep.
        folder: that keeps the base model; one that is there already is read.
        begun: of :func:`begin_base`.
        report: called with a line where its process was lost.
    Raises:
        PreflightError: a checkpoint cannot be used.
    """
    try:
        found = None if begun is None else begun()
    except (ProcessLost, MemoryError, RuntimeError) as error:
        # As with all work in processes: where one is lost, or memory is short beside others, it is done once more.
        if not isinstance(error, ProcessLost) and RunOutcome.of_error(error).kind != "out_of_memory":
            raise
        report(f"base model: a process of this machine was lost: {error}; it is trained in this one")
        found = None
    if found is None:
        # One and two torch threads give different bits, so the driver uses as many as a worker.
        with torch_threads(spec.resources.cpu):
            found = base_model(spec, data, folder.store.current(folder.base_weights))
    state, base = found
    stored = folder.base_weights
    # Also where the checkpoint is another file by now: its heads would be those of the earlier one.
    if not stored.is_file() or state_digest(load_weights(stored)) != base.digest:
        for objective in spec.objectives:
            for stale in (folder.base_head, folder.best_head, folder.best_head_record):
                folder.store.discard(stale(objective))
    if not stored.is_file():
        save_weights(stored, state, facts_of(data))
        folder.store.publish(stored)
    return Prepared(data, state, selection_rules(spec, data.class_names), base)


def prepare_heads(spec: SweepSpec, prepared: Prepared, folder: RunFolder, fit: FitHeads) -> Prepared:
    """Fit the balanced head of each objective that has none yet.

    Args:
        spec: specification of the sweep.
        prepared: with the base model.
        folder: that keeps the heads; those that are there already are read.
        fit: fits heads.
    """
    files = {objective: folder.store.current(folder.base_head(objective)) for objective in prepared.rules}
    heads: dict[str, State] = {name: load_weights(file) for name, file in files.items() if file.is_file()}
    missing = [name for name in files if name not in heads]
    base = prepared.base
    if missing:
        fitted = fit(HeadJob(spec.model.config, prepared.state, missing))
        base = replace(base, heads_cost_s=fitted.cost_s)
        for objective, head in fitted.heads.items():
            save_weights(folder.base_head(objective), head)
            folder.store.publish(folder.base_head(objective))
            heads[objective] = head
    # Of a checkpoint it is not known which labelled data it has seen.
    labels = ("train",) if spec.recipe is not None else ("checkpoint",)
    settings, initial = spec.pretrain.settings, initial_state(spec, prepared.data)
    bases = {
        objective: Base(spec.model.config, prepared.state, heads[objective], labels, settings, initial)
        for objective in prepared.rules
    }
    return replace(prepared, bases=bases, base=base)


def shared_by_runs(
    spec: SweepSpec,
    prepared: Prepared,
    folder: RunFolder,
    cluster: Cluster | None,
    mapped: StagedData | None = None,
) -> Shared:
    """Bundle what workers read.

    Args:
        spec: specification of the sweep.
        prepared: by the driver.
        folder: of the sweep.
        cluster: that runs the sweep; None for this machine without Ray.
        mapped: without a cluster, the data for processes of this machine; None for this process alone.
    """
    data: SweepData | StagedData = prepared.data if mapped is None else mapped
    # In this process there is nothing to send the data to.
    if cluster is not None and bytes_of(prepared.data) > spec.resources.stage_above_mb * 1e6:
        # Only a file on a disk of the machine can be mapped.
        is_elsewhere = folder.store.filesystem() is not None or not cluster.is_private
        data = staged(folder, prepared.data, copied=is_elsewhere)
    return Shared(
        data, prepared.bases, prepared.rules, threads=spec.resources.cpu, gpu=spec.resources.gpu,
        filesystem=folder.store.filesystem(),
        # Nodes of a cluster have disks of their own.
        features=str(folder.features_path.absolute()) if cluster is None or cluster.is_private else "",
    )  # fmt: skip


def staged(folder: RunFolder, data: SweepData, copied: bool) -> StagedData:
    """Stage data in a file of the run folder, where workers read them.

    On a cluster each node copies the file to its own disk; a process of this machine maps it where it lies.

    Args:
        folder: of the sweep.
        data: of the sweep.
        copied: True if nodes copy it.
    Raises:
        PreflightError: the file cannot be written.
    """
    try:
        digest = save_data(folder.staged_data, data)
    # On a full disk torch raises a RuntimeError of its own.
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(folder.staged_data.parent).free
        raise PreflightError(
            f"{folder.shown}: the data must lie in a file there while the sweep runs, {bytes_of(data) / 1e6:.1f} MB "
            f"with {free / 1e6:.1f} MB free, got: {first_line(error)}; free space, or choose another folder with --runs"
        ) from error
    folder.store.publish(folder.staged_data)
    return StagedData(folder.address_of(folder.staged_data), digest, copied)


# -- the best head, handed up --------------------------------------------------------------------------------


def prepare_best_head(spec: SweepSpec, folder: RunFolder, prepared: Prepared) -> Prepared:
    """Start models with the best head of each objective, once the rung ``head`` is climbed.

    The best is the row with the highest cross-fitted score, or score on select where one lacks it. A row that was
    fitted on select is none: select, which judges every round of a run, would have made its start. Where no head meets
    the bounds it is the one that misses them by least. What is chosen is kept, and stays chosen at a resume.

    Args:
        spec: specification of the sweep.
        folder: of the sweep.
        prepared: what all runs share.
    Raises:
        NoFeasibleTrial: no row of the rung has finished.
    """
    bases = {}
    for objective, base in prepared.bases.items():
        if not folder.store.current(folder.best_head(objective)).is_file():
            _choose(spec, folder, objective, base, prepared)
        found = folder.store.current(folder.best_head(objective))
        bases[objective] = replace(base, best_head=load_weights(found))
    return replace(prepared, bases=bases)


def _choose(spec: SweepSpec, folder: RunFolder, objective: str, base: Base, prepared: Prepared) -> None:
    judge = Judge(folder, spec, objective)
    able = [each for each in judge.candidates(None, ["head"]) if not fitted_on_select(each.records[0])]
    if able:
        _, (choice,) = choose_across_rungs(able, 0.0, bool(judge.bounds))
        (records,) = (each.records for each in able if each.row == choice.best)
    else:
        records = [_nearest(judge, prepared.rules[objective])]
    shipped = shipped_file(records, judge.predictions, judge.rule, judge.context)
    record = shipped.record
    state = load_weights(folder.store.current(folder.weights_path(record.trial_id, shipped.file)))
    head = head_of(state, base, prepared.data)
    seed = record.seeds[shipped.file] if record.seeds else record.seed
    # The weights are written last: a record without them is made again.
    folder.save(
        folder.best_head_record(objective), BestHead(record.name, seed, record.config, state_digest(head))
    )
    save_weights(folder.best_head(objective), head)
    folder.store.publish(folder.best_head(objective))


def _nearest(judge: Judge, rule: SelectionRule) -> TrialRecord:
    """Head that misses the bounds of the search by least, where none meets them: fine-tuning may."""

    def rank(record: TrialRecord) -> tuple[float, float]:
        values = {key: figure.value for key, figure in record.select.items()}
        return -rule.violation(values), record.score if record.score is not None else -math.inf

    heads = [
        record
        for record in judge.folder.load_baselines(judge.objective)
        if record.rung == "head" and record.state == "FINISHED" and not fitted_on_select(record)
        if judge.why_not_shipped(record) is None
    ]
    if not heads:
        raise NoFeasibleTrial(
            f"{judge.objective}: start best_head needs a row of the rung head that was not fitted on select, got none "
            "that finished; see their logs, and launch the sweep under a new name with start: balanced_head"
        )
    return max(heads, key=rank)


def fitted_on_select(record: TrialRecord) -> bool:
    """True for a row whose model has seen the labels of select, and is judged there out of fold."""
    return record.note.get("judged") == "out of fold"


def best_head_digest(folder: RunFolder, objective: str) -> str:
    """Digest of the best head, for the identity of the trials that start from it."""
    found = folder.load_best_head(objective)
    if found is None:
        raise ValueError(f"{objective}: the best head must have been chosen before a trial starts from it")
    return found.digest
