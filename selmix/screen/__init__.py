"""Hundreds of configurations on frozen features as one tensor program: the head rung of a sweep."""

from __future__ import annotations

from selmix.screen.batch import Head
from selmix.screen.result import Screened, ScreenResult
from selmix.screen.screening import Halving, ScreenProgress, screen

__all__ = ["Halving", "Head", "ScreenProgress", "ScreenResult", "Screened", "screen"]
