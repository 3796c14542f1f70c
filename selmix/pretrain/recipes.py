"""Recipes of pre-training by name, and training by one of them from beginning to end."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from selmix.data.splits import SweepData
from selmix.models import ModelConfig
from selmix.pretrain.trainer import Pretrainer, PretrainSettings, Recipe

RECIPES: dict[str, Recipe] = {
    "erm": Recipe(),
    "logit_adjusted": Recipe(adjust=1.0),
    "mixup": Recipe(mixup=True),
    "fixmatch": Recipe(fixmatch=True),
    "fixmatch_logit_adjusted": Recipe(adjust=1.0, fixmatch=True),
}


def pretrainer(
    recipe: str,
    model: ModelConfig,
    data: SweepData,
    seed: int,
    settings: PretrainSettings | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Pretrainer:
    """Build a trainer on the device of the data.

    Args:
        recipe: key of RECIPES.
        model: its configuration.
        data: of the sweep; its train split and, for FixMatch, its unlabelled samples are used.
        seed: of all randomness.
        settings: length, rate and regularisation; with None the defaults.
        initial: weights to begin with; with None they are drawn from the seed.
    Raises:
        ValueError: no such recipe, or one that needs unlabelled samples where there are none.
    """
    if recipe not in RECIPES:
        raise ValueError(f"pretrain.recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    return Pretrainer(
        RECIPES[recipe], model, data.train, data.num_classes, seed, settings or PretrainSettings(), data.unlabelled,
        initial,
    )  # fmt: skip


def pretrain(
    recipe: str,
    model: ModelConfig,
    data: SweepData,
    seed: int,
    settings: PretrainSettings | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train a model by a recipe from beginning to end.

    Args:
        recipe: key of RECIPES.
        model: its configuration.
        data: of the sweep; its train split and, for FixMatch, its unlabelled samples are used.
        seed: of all randomness.
        settings: length, rate and regularisation; with None the defaults.
        initial: weights to begin with; with None they are drawn from the seed.
    Returns:
        The trained weights, on the CPU.
    Raises:
        ValueError: as :func:`pretrainer`.
    """
    trainer = pretrainer(recipe, model, data, seed, settings, initial)
    while not trainer.finished:
        trainer.run_epoch()
    return trainer.weights()
