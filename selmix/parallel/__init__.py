"""Ranks that train one model together."""

from __future__ import annotations

from selmix.parallel.world import ALONE, RanksDiffer, World

__all__ = ["ALONE", "RanksDiffer", "World"]
