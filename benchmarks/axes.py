"""What the ablations vary: arms by axis, and the contrasts between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from benchmarks.harness import Setting
from benchmarks.settings import GAUSSIANS, METHOD, PRODUCT
from selmix.config import SCHEDULES, FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.models import ModelConfig
from selmix.policy import POLICIES

Side = tuple[str, ...]  # arms whose mean over a seed is one side of a contrast


@dataclass(frozen=True)
class Axis:
    """Arms, each the settings that it changes, and what is asked of them.

    Attributes:
        arms: label -> settings. families: name -> contrast -> (side, side that is subtracted); those of a family are
            corrected together.
    """

    arms: Mapping[str, Mapping[str, Any]]
    families: Mapping[str, Mapping[str, tuple[Side, Side]]]


# one list entry a value; the reference is the value that the setting has
VALUES: dict[str, tuple[Any, ...]] = {
    "policy": tuple(POLICIES),
    "mixup_layer": ("features", "input", "stage1", "stage2"),
    "coefficient_min": (0.6, 1.0),
    "backbone_lr_scale": (0.1, 0.0, 1.0),
    "steps": (400, 200, 800),
    "draw_from": ("train+feedback", "train"),
    "gain_formula": ("exact", "released_code"),
    "temperature_schedule": SCHEDULES,
}
OF_A_NETWORK = ("mixup_layer", "backbone_lr_scale")  # a linear head has neither layers nor a backbone
BACKBONES = (0.1, 0.0, 1.0)  # the default, frozen, as fast as the head
AIMS = ("softmax", "uniform")
MIXINGS: dict[str, dict[str, Any]] = {
    "none": {"coefficient_min": 1.0},
    "features": {"mixup_layer": "features"},
    "input": {"mixup_layer": "input"},
}
SECOND: dict[str, dict[str, Any]] = {
    "labelled": {"second": "labelled"},
    "pseudo": {"second": "pseudo"},
    "oracle": {"second": "oracle"},
}


def one_by_one(parameter: str, config: FinetuneConfig) -> Axis:
    """The values of a parameter against that of ``config``."""
    reference = str(getattr(config, parameter))
    arms = {str(value): {parameter: value} for value in VALUES[parameter]}
    asked = {label: ((label,), (reference,)) for label in arms if label != reference}
    return Axis(arms, {f"minus {reference}": asked})


def grid(backbones: Sequence[float]) -> Axis:
    """Backbone x mixing x policy: what targeting gives in each cell, what mixing gives, and both over the grid."""
    cells = list(product(backbones, MIXINGS, AIMS))
    arms = {
        _cell(scale, mixing, policy): {"backbone_lr_scale": scale, **MIXINGS[mixing], "policy": policy}
        for scale, mixing, policy in cells
    }
    targeting = {
        f"backbone {scale:g}, mixing {mixing}": (
            (_cell(scale, mixing, "softmax"),),
            (_cell(scale, mixing, "uniform"),),
        )
        for scale, mixing in product(backbones, MIXINGS)
    }
    mixing = {
        f"backbone {scale:g}, {policy}, mixing at {layer}": (
            (_cell(scale, layer, policy),),
            (_cell(scale, "none", policy),),
        )
        for scale, policy, layer in product(backbones, AIMS, ("features", "input"))
    }
    overall = {
        f"backbone {scale:g}, {name}": (_cells(scale, *ours), _cells(scale, *theirs))
        for scale in backbones
        for name, ours, theirs in (
            ("targeting", (None, "softmax"), (None, "uniform")),
            ("mixing at features", ("features", None), ("none", None)),
            ("mixing at input", ("input", None), ("none", None)),
        )
    }
    return Axis(arms, {
        "softmax minus uniform": targeting, "minus no mixing": mixing, "mean over the other factor": overall,
    })  # fmt: skip


def second() -> Axis:
    """Second samples from labelled data, pseudo-labels or true labels, mixed at the features and at the input."""
    arms: dict[str, dict[str, Any]] = {"no mixing": {"coefficient_min": 1.0}}
    families: dict[str, dict[str, tuple[Side, Side]]] = {}
    for layer in ("features", "input"):
        arms |= {f"{name} at {layer}": {"mixup_layer": layer, **each} for name, each in SECOND.items()}
        families[f"at {layer}"] = {
            "pseudo - labelled": ((f"pseudo at {layer}",), (f"labelled at {layer}",)),
            "oracle - labelled": ((f"oracle at {layer}",), (f"labelled at {layer}",)),
            "pseudo - oracle": ((f"pseudo at {layer}",), (f"oracle at {layer}",)),
            "labelled - no mixing": ((f"labelled at {layer}",), ("no mixing",)),
            "pseudo - no mixing": ((f"pseudo at {layer}",), ("no mixing",)),
        }
    return Axis(arms, families)


def axes(setting: str) -> dict[str, Axis]:
    """Axis by name, those of a setting."""
    if setting in (SEMI.name, SEMI_PLAIN.name):
        return {"second": second()}
    single = {parameter: one_by_one(parameter, SETTINGS[setting].config) for parameter in VALUES}
    if setting == GAUSSIANS.name:
        return {name: axis for name, axis in single.items() if name not in OF_A_NETWORK}
    return {"core": grid(BACKBONES[:1])} | single | {"backbones": grid(BACKBONES)}


def configured(config: FinetuneConfig, changes: Mapping[str, Any]) -> FinetuneConfig:
    """``config`` with the settings of an arm."""
    return replace(config, **changes)


def _cell(scale: float, mixing: str, policy: str) -> str:
    return f"{scale:g}/{mixing}/{policy}"


def _cells(scale: float, mixing: str | None, policy: str | None) -> Side:
    """Every cell of a backbone that has this mixing and this policy; None: any."""
    return tuple(
        _cell(scale, m, p) for m, p in product(MIXINGS, AIMS) if mixing in (None, m) and policy in (None, p)
    )


def _few_labels(seed: int) -> DigitsConfig:
    return DigitsConfig(
        imbalance=20, largest_class=40, feedback=10, select=24, test=40, unlabelled=60, seed=seed
    )


SEMI = Setting(
    name="semi",
    data=_few_labels,
    model=ModelConfig("small_cnn"),
    config=FinetuneConfig(),
    objectives=("min_recall",),
)
SEMI_PLAIN = replace(SEMI, name="semi_plain", config=METHOD.config, last_round=True)
SETTINGS = {setting.name: setting for setting in (PRODUCT, METHOD, SEMI, SEMI_PLAIN, GAUSSIANS)}
