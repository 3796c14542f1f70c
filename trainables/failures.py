"""Failures of the ranks of a trial. Imports no Ray, so that code that sorts failures needs none."""

from __future__ import annotations


class RankFailed(RuntimeError):
    """A rank of a trial died or raised; the message names the rank and the cause."""


class RankLost(RankFailed):
    """A rank died with its process or node; the trial can resume elsewhere."""
