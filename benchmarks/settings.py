"""The settings of the benchmarks, by name."""

from __future__ import annotations

from benchmarks.harness import Setting
from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig

METHOD = Setting(
    name="method",
    data=lambda seed: DigitsConfig(imbalance=50, largest_class=74, feedback=30, select=30, test=40, seed=seed),
    model="small_cnn",
    config=FinetuneConfig(
        start="given", draw_from="train", temperature=0.1, multiplier_lr=50.0, confusion_smoothing=0.5,
        confusion_average=0.0,
    ),
    objectives=("min_recall", "h_mean"),
    last_round=True,
)  # fmt: skip
PRODUCT = Setting(
    name="product",
    data=lambda seed: DigitsConfig(seed=seed),
    model="small_cnn",
    config=FinetuneConfig(),
    objectives=("min_recall",),
)
SETTINGS = {setting.name: setting for setting in (METHOD, PRODUCT)}
