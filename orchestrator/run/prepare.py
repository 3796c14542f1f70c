"""What every trial of a sweep shares, made once by the driver: data, base model, balanced heads, selection rules."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.build.base_model import balanced_head_of, base_model, initial_weights, torch_threads
from orchestrator.build.selection import selection_rules
from orchestrator.cluster.address import Cluster
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BaseFacts, DataFacts
from orchestrator.spec.schema import SweepSpec
from selmix.data.splits import SweepData
from selmix.data.stored import bytes_of, save_data
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule
from selmix.weights import save_weights
from trainables.shared import Shared
from trainables.staged import StagedData


@dataclass(frozen=True)
class Prepared:
    """Everything that the runs of a sweep share.

    Attributes:
        data: train, feedback and select.
        bases: objective -> start models. rules: objective -> what ranks.
        base: what is known of the base model.
    """

    data: SweepData
    bases: dict[str, Base]
    rules: dict[str, SelectionRule]
    base: BaseFacts

    @property
    def facts(self) -> DataFacts:
        """Knowledge of the data that reading results needs."""
        data = self.data
        return DataFacts(
            list(data.class_names), data.train_counts.tolist(), dict(data.digests), len(data.select),
            list(data.group_names),
        )  # fmt: skip


def prepare(spec: SweepSpec, data: SweepData, folder: RunFolder) -> Prepared:
    """The base model, from the run folder where it was trained before, and the balanced head of each objective.

    Args:
        spec: of the sweep.
        data: of the sweep.
        folder: where base model and heads are kept.
    Raises:
        PreflightError: a checkpoint that cannot be used.
    """
    with torch_threads(spec.resources.cpu):
        state, base = base_model(spec, data, folder.store.current(folder.base_weights))
        if not folder.base_weights.is_file():
            save_weights(folder.base_weights, state)
            folder.store.publish(folder.base_weights)
        rules = selection_rules(spec, data.num_classes)
        heads = {
            objective: balanced_head_of(spec.model.config, state, data, rule)
            for objective, rule in rules.items()
        }
    for objective, head in heads.items():
        save_weights(folder.base_head(objective), head)
        folder.store.publish(folder.base_head(objective))
    labels = ("train",) if spec.recipe is not None else ("checkpoint",)
    settings, initial = spec.pretrain.settings, initial_weights(spec)
    bases = {
        objective: Base(spec.model.config, state, head, labels, settings, initial)
        for objective, head in heads.items()
    }
    return Prepared(data, bases, rules, base)


def shared_by_runs(spec: SweepSpec, prepared: Prepared, folder: RunFolder, cluster: Cluster | None) -> Shared:
    """What workers read.

    Args:
        spec: of the sweep.
        prepared: what the driver made.
        folder: of the sweep.
        cluster: that the runs travel to; None: they are in this process.
    """
    data = prepared.data if cluster is None else staged(spec, prepared.data, folder, cluster)
    return Shared(
        data, prepared.bases, prepared.rules, threads=spec.resources.cpu, gpu=spec.resources.gpu,
        filesystem=folder.store.filesystem(),
    )  # fmt: skip


def staged(spec: SweepSpec, data: SweepData, folder: RunFolder, cluster: Cluster) -> SweepData | StagedData:
    """The data as they travel: by Ray's object store; above ``resources.stage_above_mb`` as a file of the run folder.

    On a cluster each node copies the file to its own disk; a private one maps it where it lies.

    Args:
        spec: of the sweep.
        data: of the sweep.
        folder: of the sweep.
        cluster: that they travel to.
    """
    if bytes_of(data) <= spec.resources.stage_above_mb * 1e6:
        return data
    digest = save_data(folder.staged_data, data)
    folder.store.publish(folder.staged_data)
    is_elsewhere = folder.store.filesystem() is not None or not cluster.is_private
    return StagedData(folder.address_of(folder.staged_data), digest, copied=is_elsewhere)
