"""Rungs of the ladder: the part of the model that an approach changes, from the cheapest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Rung = Literal["scores", "head", "finetune", "retrain"]
"""Logits, a head on frozen features, the whole network, all of it from scratch."""

RUNGS: tuple[Rung, ...] = ("scores", "head", "finetune", "retrain")
"""Rungs from the cheapest on."""


def up_to(rungs: Sequence[Rung], last: Rung | None) -> list[Rung]:
    """Those of ``rungs`` that are climbed where ``last`` is the last one; None: all of them."""
    return [rung for rung in rungs if last is None or RUNGS.index(rung) <= RUNGS.index(last)]
