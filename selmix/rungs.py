"""Rungs of the ladder: the part of the model that an approach changes, from the cheapest on."""

from __future__ import annotations

from typing import Literal

Rung = Literal["scores", "head", "finetune", "retrain"]
"""Logits, a head on frozen features, the whole network, all of it from scratch."""

RUNGS: tuple[Rung, ...] = ("scores", "head", "finetune", "retrain")
"""Rungs from the cheapest on."""
