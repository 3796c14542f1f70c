"""Pre-training: the recipes that make a base model where the user brings none."""

from __future__ import annotations

from selmix.pretrain.recipes import RECIPES, pretrain, train_from_scratch

__all__ = ["RECIPES", "pretrain", "train_from_scratch"]
