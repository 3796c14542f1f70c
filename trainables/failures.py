"""Failures of workers. Imports no Ray, so that code that sorts failures needs none."""

from __future__ import annotations


class RankFailed(RuntimeError):
    """A rank of a trial died or raised; the message names the rank and the cause."""


class RankLost(RankFailed):
    """A rank died with its process or node; the trial can resume elsewhere."""


class NoGpu(RuntimeError):
    """A worker that was given a GPU sees none; the message names the node and what to do."""
