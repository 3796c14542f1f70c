"""Means over the replicates of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.records.types import Figure, Metrics, TrialRecord


def score_of(record: TrialRecord) -> float:
    """Score of a run; -inf without one, so that it ranks last."""
    return record.score if record.score is not None else float("-inf")


def mean_score(records: Sequence[TrialRecord]) -> float:
    """Mean score over the replicates of a configuration."""
    return sum(score_of(record) for record in records) / len(records)


def mean_select(records: Sequence[TrialRecord]) -> Metrics:
    """Mean of each metric over the replicates, with its interval; metrics that one of them lacks are left out."""
    from selmix.statistics.comparison import mean_over_replicates
    from selmix.statistics.intervals import Estimate

    # In the order of the first record: a set has none, and tables and pins must come out the same every time.
    shared = set.intersection(*(set(r.select) for r in records))
    return {
        key: Figure(**asdict(mean_over_replicates(key, [Estimate(**asdict(r.select[key])) for r in records])))
        for key in records[0].select
        if key in shared
    }
