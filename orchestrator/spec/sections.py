"""Sections of a sweep file: their keys, types and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
)

from selmix.definitions import DEFAULT_BETA, DEFAULT_CVAR_FRACTION, DEFAULT_HEAD_FRACTION, Definitions
from selmix.metric_keys import is_fraction
from selmix.models import ModelConfig
from selmix.pretrain import PretrainSettings
from selmix.pretrain.trainer import BATCH, EMA_DECAY, EPOCHS, LR, MIXUP_ALPHA, WEIGHT_DECAY

Name = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Number = StrictFloat  # takes whole numbers too, never a boolean
Count = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0)]


class Section(BaseModel):
    """Base of all sections: nothing unknown, nothing converted, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSection(Section):
    """The model; see :class:`selmix.models.ModelConfig`."""

    name: StrictStr = "small_cnn"
    head: StrictStr | None = None

    @property
    def config(self) -> ModelConfig:
        """As the method takes it."""
        return ModelConfig(self.name, self.head)


class PretrainSection(Section):
    """Origin of the base model: a recipe with its settings (and weights to begin with), or a checkpoint.

    Attributes:
        recipe: name of a recipe; None: a checkpoint is given, or ``erm``.
        seed: of the training.
        checkpoint: file of the base model's weights; None: it is trained.
        checkpoint_key: place of the weights in that file, or in ``init``, such as ``model_ema``; None: found.
        epochs: passes over train.
        batch_size: samples per step.
        lr: learning rate.
        augment: True to augment the samples.
        weight_decay: of the weights.
        mixup_alpha: of the Beta distribution of recipes that mix.
        ema_decay: of the averaged weights of recipes that average.
        init: file of weights to begin with; None: random ones.
    """

    recipe: StrictStr | None = None
    seed: Seed = 0
    checkpoint: StrictStr | None = None
    checkpoint_key: StrictStr | None = None
    epochs: Count = EPOCHS
    batch_size: Annotated[StrictInt, Field(ge=2)] = BATCH
    lr: Annotated[Number, Field(gt=0)] = LR
    augment: StrictBool = False
    weight_decay: Annotated[Number, Field(ge=0)] = WEIGHT_DECAY
    mixup_alpha: Annotated[Number, Field(gt=0)] = MIXUP_ALPHA
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = EMA_DECAY
    init: StrictStr | None = None

    @property
    def settings(self) -> PretrainSettings:
        """As the method takes them."""
        return PretrainSettings(
            **{field.name: getattr(self, field.name) for field in fields(PretrainSettings)}
        )


class ConstraintSection(Section):
    """A bound on a metric, inside the method, in the search, or both.

    Attributes:
        metric: a key of METRICS; ``recall`` or ``precision`` of one class; ``module:function`` of the user's own.
        of_class: that class, by its name or its place in the order of the labels; None for a metric of all classes. The
            key is ``class``.
        at_least: floor; one of the two is given. Above 1 it is percent, unless the metric is a cost or the user's own.
        at_most: ceiling; likewise.
        where: ``method`` (through multipliers), ``search`` (feasibility), or both; the key is ``in``.
    """

    metric: StrictStr
    of_class: StrictInt | StrictStr | None = Field(default=None, alias="class")
    at_least: Number | None = None
    at_most: Number | None = None
    where: tuple[Literal["method", "search"], ...] = Field(default=("method", "search"), alias="in")

    @field_validator("at_least", "at_most")
    @classmethod
    def as_fraction(cls, value: float | None, info: ValidationInfo) -> float | None:
        """The bound as a fraction; that of a metric in its own unit, or of the user's own, as it is."""
        if value is None or value <= 1 or not is_fraction(str(info.data.get("metric"))):
            return value
        # Rounded, so that 14.3 and 0.143 are one number.
        return round(value / 100.0, 12)

    @property
    def bounds(self) -> list[float]:
        """Those of at_least and at_most that are given."""
        return [bound for bound in (self.at_least, self.at_most) if bound is not None]


class MetricsSection(Section):
    """Numbers that define the metrics with parameters; see :class:`selmix.definitions.Definitions`.

    Attributes:
        cvar_fraction: share of the classes with the lowest recalls that CVaR averages.
        recall_weights: one per class.
        cost_matrix: cost of each (true, predicted) pair of classes.
        head_fraction: share of the classes that are the head.
        beta: weight of the recall beside the precision in ``f_beta``.
    """

    cvar_fraction: Number = DEFAULT_CVAR_FRACTION
    recall_weights: tuple[Number, ...] | None = None
    cost_matrix: tuple[tuple[Number, ...], ...] | None = None
    head_fraction: Number = DEFAULT_HEAD_FRACTION
    beta: Number = DEFAULT_BETA

    @property
    def definitions(self) -> Definitions:
        """As the method takes them."""
        return Definitions(
            self.cvar_fraction, self.recall_weights, self.cost_matrix, self.head_fraction, beta=self.beta
        )


class ParameterSection(Section):
    """One parameter: fixed (``value``) or searched (``values``, or ``min`` and ``max`` with a distribution).

    Attributes:
        distribution: as W&B names it; None: ``uniform`` for a range.
        value: of a fixed parameter.
        values: to choose from.
        min: low end of a range.
        max: high end of a range.
        q: step of the distributions ``q_...``.
    """

    distribution: (
        Literal[
            "uniform",
            "log_uniform_values",
            "int_uniform",
            "q_uniform",
            "q_log_uniform_values",
            "categorical",
            "constant",
        ]
        | None
    ) = None
    value: Any = None
    values: tuple[Any, ...] | None = None
    min: Number | None = None
    max: Number | None = None
    q: Number | None = None

    @property
    def is_fixed(self) -> bool:
        """True if nothing of it is searched."""
        return self.values is None and self.min is None and self.max is None


class SearchSection(Section):
    """Search of the space.

    Attributes:
        method: of choosing points.
        num_trials: per objective, and per value of a compared parameter.
        seed: of the sampler, the trials and the bootstrap resamples.
        max_concurrent_trials: trials at once; None: as many as the resources hold.
        max_failed: share of the trials that may fail before the sweep gives up.
    """

    method: Literal["tpe", "random", "grid"] = "tpe"
    num_trials: Count = 16
    seed: Seed = 0
    max_concurrent_trials: Count | None = None
    max_failed: Annotated[Number, Field(ge=0, le=1)] = 0.2


def listed_values(
    name: str, parameters: Mapping[str, ParameterSection | None], compare: Mapping[str, Iterable[Any]]
) -> tuple[Any, ...]:
    """Values that a file gives a parameter that has no range, in ``parameters`` or in ``compare``."""
    section = parameters.get(name)
    return (*(() if section is None else section.values or (section.value,)), *compare.get(name, ()))


OF_THE_NETWORK = frozenset({
    "mixup_layer", "backbone_lr_scale", "second", "pseudo_threshold", "pseudo_every", "augment", "precision",
    "channels_last", "accumulate", "diagnose",
})  # fmt: skip
"""Settings that a head on frozen features does not have: a screen leaves them at the defaults' point."""


class ScreenSection(Section):
    """Screen of the rung ``head``: many configurations on frozen features at once.

    Attributes:
        num_configs: configurations of each objective; the first one is the defaults.
        promote: the best of them, which the search begins with.
        generations: batches that the configurations are chosen in: the first at random, later ones from the results.
        folds: of the cross-fitted score that ranks them.
    """

    num_configs: Annotated[StrictInt, Field(ge=2, le=1_000_000)] = 256
    promote: Count = 4
    generations: Count = 1
    folds: Annotated[StrictInt, Field(ge=2)] = 5


class EarlyStoppingSection(Section):
    """Stopping of trials that are behind their peers, which are the trials of the same objective (and arm).

    Attributes:
        method: ``asha`` (asynchronous successive halving: at each milestone the best 1 / reduction_factor of those that
            have come so far continue) or ``median`` (a trial ends where its best is below the median of the averages of
            the others).
        grace_steps: SGD steps before which no trial is stopped; None: an eighth of the most steps of a trial.
        reduction_factor: of ``asha``: ratio of a milestone to the one before, the first of which is ``grace_steps``.
        min_samples: of ``median``: trials that must have come as far before one is stopped.
    """

    method: Literal["asha", "median"]
    grace_steps: Count | None = None
    reduction_factor: Annotated[Number, Field(gt=1)] = 4
    min_samples: Count = 3

    @property
    def idle(self) -> str:
        """Key that does not act under its method."""
        return "min_samples" if self.method == "asha" else "reduction_factor"

    def grace(self, most_steps: int) -> int:
        """SGD steps before which no trial is stopped.

        Args:
            most_steps: largest number of steps that a trial of the sweep may have.
        """
        return max(1, most_steps // 8) if self.grace_steps is None else self.grace_steps


class SelectionSection(Section):
    """Ranking of rounds and trials on the select split.

    Attributes:
        metric: a key of METRICS, or ``module:function`` of the user's own; None: the objective's own.
        statistic: of the metric: ``bagged`` (its bootstrap mean), ``lower_bound`` (of its confidence interval) or
            ``value``.
        replicates: runs of a finalist on fresh seeds.
        finalists: best trials per objective that are run again.
        margin: difference of the metric that does not matter, in its own unit; None: 0.02 of recalls, precisions, means
            and gaps, 0.1 / K of coverages, 0.02 of the range of the costs, 0.01 of the calibration error. A function of
            the user's own must have one.
    """

    metric: StrictStr | None = None
    statistic: Literal["bagged", "lower_bound", "value"] = "bagged"
    replicates: Count = 3
    finalists: Count = 3
    margin: Annotated[Number, Field(gt=0)] | None = None


class ResourceSection(Section):
    """Resources of a trial, and the most that a sweep takes of a cluster that it shares.

    Attributes:
        workers: processes of one trial, which share its batches.
        cpu: cores per worker.
        gpu: GPUs per worker.
        max_cpus: of the sweep; None: no limit.
        max_gpus: of the sweep; None: no limit.
        stage_above_mb: MB from which on data do not travel by Ray's object store: each node copies them to its disk
            once. Without Ray processes of the machine map a file, whatever its size.
    """

    workers: Count = 1
    cpu: Count = 1
    gpu: Annotated[Number, Field(ge=0)] = 0
    max_cpus: Count | None = None
    max_gpus: Annotated[Number, Field(gt=0)] | None = None
    stage_above_mb: Annotated[Number, Field(ge=0)] = 1000
