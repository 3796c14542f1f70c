"""Preparation of what all trials of a sweep share: data, base model, balanced heads, selection rules."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.build.base_model import base_model, initial_state, torch_threads
from orchestrator.build.selection import selection_rules
from orchestrator.cluster.address import Cluster
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BaseFacts, DataFacts
from orchestrator.spec.schema import SweepSpec
from selmix.baselines.last_layer import start_head
from selmix.data.content import facts_of
from selmix.data.splits import SweepData
from selmix.data.stored import bytes_of, save_data
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule
from selmix.weights import save_weights
from trainables.shared import Shared
from trainables.staged import StagedData


@dataclass(frozen=True)
class Prepared:
    """Data, models and rules that all runs of a sweep share.

    Attributes:
        data: the splits train, feedback and select.
        bases: objective -> start models.
        rules: objective -> selection rule, by which rounds and trials are ranked.
        base: facts of the base model for the state of the sweep.
    """

    data: SweepData
    bases: dict[str, Base]
    rules: dict[str, SelectionRule]
    base: BaseFacts

    @property
    def facts(self) -> DataFacts:
        """Facts of the data that reading the results takes."""
        data = self.data
        return DataFacts(
            list(data.class_names), data.train_counts.tolist(), dict(data.digests), len(data.select),
            list(data.group_names),
        )  # fmt: skip


def prepare(spec: SweepSpec, data: SweepData, folder: RunFolder) -> Prepared:
    """Train or load the base model, and fit the balanced head of each objective.

    Args:
        spec: specification of the sweep.
        data: of the sweep.
        folder: that keeps base model and heads; a base model that is there already is read.
    Raises:
        PreflightError: a checkpoint cannot be used.
    """
    # One and two torch threads give different bits, so the driver uses as many as a worker.
    with torch_threads(spec.resources.cpu):
        state, base = base_model(spec, data, folder.store.current(folder.base_weights))
        if not folder.base_weights.is_file():
            save_weights(folder.base_weights, state, facts_of(data))
            folder.store.publish(folder.base_weights)
        rules = selection_rules(spec, data.class_names)
        heads = {
            objective: start_head(spec.model.config, state, data, rule) for objective, rule in rules.items()
        }
    for objective, head in heads.items():
        save_weights(folder.base_head(objective), head)
        folder.store.publish(folder.base_head(objective))
    # Of a checkpoint it is not known which labelled data it has seen.
    labels = ("train",) if spec.recipe is not None else ("checkpoint",)
    settings, initial = spec.pretrain.settings, initial_state(spec, data)
    bases = {
        objective: Base(spec.model.config, state, head, labels, settings, initial)
        for objective, head in heads.items()
    }
    return Prepared(data, bases, rules, base)


def shared_by_runs(spec: SweepSpec, prepared: Prepared, folder: RunFolder, cluster: Cluster | None) -> Shared:
    """Bundle what workers read.

    Args:
        spec: specification of the sweep.
        prepared: by the driver.
        folder: of the sweep.
        cluster: that runs the sweep; None for this process.
    """
    # In this process there is nothing to send the data to.
    data = prepared.data if cluster is None else staged(spec, prepared.data, folder, cluster)
    return Shared(
        data, prepared.bases, prepared.rules, threads=spec.resources.cpu, gpu=spec.resources.gpu,
        filesystem=folder.store.filesystem(),
    )  # fmt: skip


def staged(spec: SweepSpec, data: SweepData, folder: RunFolder, cluster: Cluster) -> SweepData | StagedData:
    """Data as they are sent to workers: as they are, through Ray's object store, or staged in a file.

    Above ``resources.stage_above_mb`` they are staged in the run folder. On a cluster each node copies the file to its
    own disk; a private Ray maps it where it lies.

    Args:
        spec: specification of the sweep.
        data: of the sweep.
        folder: of the sweep.
        cluster: that runs the sweep.
    """
    if bytes_of(data) <= spec.resources.stage_above_mb * 1e6:
        return data
    digest = save_data(folder.staged_data, data)
    folder.store.publish(folder.staged_data)
    # Only a file on a disk of the machine can be mapped.
    is_elsewhere = folder.store.filesystem() is not None or not cluster.is_private
    return StagedData(folder.address_of(folder.staged_data), digest, copied=is_elsewhere)
