"""The settings of the benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmarks.harness import Setting
from benchmarks.optimum import optimum
from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.models import ModelConfig


def _best_linear_head(seed: int, objective: str) -> dict[str, Mapping[str, Tensor]]:
    """The weights of a linear_head that no fine-tuner can beat, by the name of their row."""
    head = optimum(GaussiansConfig(seed=seed), objective).head
    return {"optimum": {f"head.{name}": tensor for name, tensor in head.items()}}


def _steep_tail(seed: int) -> DigitsConfig:
    return DigitsConfig(imbalance=50, largest_class=74, feedback=30, select=30, test=40, seed=seed)


def _shipped(seed: int) -> DigitsConfig:
    return DigitsConfig(seed=seed)


def _gaussians(seed: int) -> GaussiansConfig:
    return GaussiansConfig(seed=seed)


METHOD = Setting(
    name="method",
    data=_steep_tail,
    model=ModelConfig("small_cnn"),
    config=FinetuneConfig(
        start="given", draw_from="train", temperature=0.1, multiplier_lr=50.0, lr_schedule="constant",
        confusion_smoothing=0.5, confusion_average=0.0,
    ),
    objectives=("min_recall", "h_mean"),
    last_round=True,
)  # fmt: skip
PRODUCT = Setting(
    name="product",
    data=_shipped,
    model=ModelConfig("small_cnn"),
    config=FinetuneConfig(),
    objectives=("min_recall",),
)
GAUSSIANS = Setting(
    name="gaussians",
    data=_gaussians,
    model=ModelConfig("linear_head"),
    config=FinetuneConfig(),
    objectives=("min_recall", "h_mean"),
    extra=_best_linear_head,
)
SETTINGS = {setting.name: setting for setting in (METHOD, PRODUCT, GAUSSIANS)}
