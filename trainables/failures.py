"""Failures of the ranks of a trial. Imports no Ray, so that whoever sorts failures needs none."""

from __future__ import annotations


class RankFailed(RuntimeError):
    """A rank of a trial died or raised; the message says which, and of what."""


class RankLost(RankFailed):
    """A rank died under its trial, which can resume elsewhere."""
