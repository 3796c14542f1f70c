"""What the objectives benchmark asks: worlds, and in each the objectives with the bounds that they are under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from benchmarks.harness import Setting
from benchmarks.optimum import optimum
from benchmarks.settings import GAUSSIANS, PRODUCT
from selmix.config import FinetuneConfig
from selmix.data import DataConfig
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.models import ModelConfig
from selmix.objectives import metric_of_objective
from selmix.statistics.selection import Constraint, SelectionRule

COVERAGE = 0.95  # of the share that a class would have if all were predicted alike: the method's own level
LARGEST_GAP = 0.2  # that equal opportunity may leave between the groups
OPTIMUM_SAMPLES = 5_000  # a class

BEFORE = ("untouched",)
SAME_LABELS = ("last_layer_on_train_plus_feedback", "last_layer_post_hoc", "uniform_mixup")
OF_GROUPS = ("group_balanced_last_layer", "group_dro_last_layer")
REFERENCES = ("retrained_logit_adjusted", "optimum")
PLAIN = (
    "min_recall",
    "cvar_recall",
    "mean_recall",
    "g_mean",
    "h_mean",
    "mean_recall_min_coverage",
    "q_mean",
    "macro_f1",
    "min_precision",
)


@dataclass(frozen=True)
class Case:
    """An objective under bounds.

    Attributes:
        name: of its row and column. objective: what is fine-tuned for. constraints: bounds beside it.
    """

    name: str
    objective: str
    constraints: tuple[Constraint, ...] = ()

    @property
    def metric(self) -> str:
        return metric_of_objective(self.objective)

    @property
    def rule(self) -> SelectionRule:
        return SelectionRule(self.metric, constraints=self.constraints)


@dataclass(frozen=True)
class World:
    """Data by seed, a model, the cases, the metrics that are shown beside theirs, and the baselines.

    Attributes:
        opponents: baselines with the same labels as the fine-tuning. references: rows with another cost.
        best: (seed, objective) -> weights of the best head there is; None: not known.
    """

    data: Callable[[int], DataConfig]
    model: ModelConfig
    cases: tuple[Case, ...]
    also: tuple[str, ...]
    opponents: tuple[str, ...] = SAME_LABELS
    references: tuple[str, ...] = REFERENCES[:1]
    best: Callable[[int, str], Mapping[str, Tensor]] | None = None
    config: FinetuneConfig = FinetuneConfig(diagnose=True)  # noqa: RUF009 - frozen; diagnosing changes nothing else


def plain_cases(num_classes: int) -> tuple[Case, ...]:
    """An objective each; that of coverage with the bound that it stands for."""
    floor = (Constraint("min_coverage", at_least=COVERAGE / num_classes),)
    return tuple(Case(name, name, floor if name.endswith("_min_coverage") else ()) for name in PLAIN)


def _two_groups(seed: int) -> DigitsConfig:
    # A class holds 87 scans of a group; what feedback, select and test leave of them allows 40 in train.
    return DigitsConfig(groups="ink", largest_class=40, seed=seed)


def _best_linear_head(seed: int, objective: str) -> dict[str, Tensor]:
    found = optimum(GaussiansConfig(seed=seed), objective, OPTIMUM_SAMPLES, OPTIMUM_SAMPLES)
    return {f"head.{name}": tensor for name, tensor in found.head.items()}


FAIR = (
    Case("worst_group_recall", "worst_group_recall"),
    Case(
        "mean_recall_fair",
        "mean_recall",
        (Constraint("equal_opportunity_gap", at_most=LARGEST_GAP),),
    ),
    Case("mean_recall", "mean_recall"),
)


def _setting(setting: Setting) -> tuple[Callable[[int], DataConfig], ModelConfig]:
    return setting.data, setting.model


WORLDS = {
    "digits": World(*_setting(PRODUCT), plain_cases(10), ("min_coverage",)),
    "groups": World(
        _two_groups,
        ModelConfig("small_cnn"),
        FAIR,
        ("equal_opportunity_gap", "equalized_odds_gap", "demographic_parity_gap", "min_recall"),
        (*SAME_LABELS, *OF_GROUPS),
    ),
    "gaussians": World(
        *_setting(GAUSSIANS), plain_cases(6), ("min_coverage",), SAME_LABELS, (), _best_linear_head
    ),
}
