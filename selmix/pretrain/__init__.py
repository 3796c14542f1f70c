"""Pre-training: recipes for a base model where the user brings none."""

from __future__ import annotations

from selmix.pretrain.recipes import RECIPES, pretrain, pretrainer
from selmix.pretrain.trainer import Pretrainer, PretrainSettings

__all__ = ["RECIPES", "PretrainSettings", "Pretrainer", "pretrain", "pretrainer"]
