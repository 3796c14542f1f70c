"""Means over the replicates of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.records.types import TrialRecord


def mean_score(records: Sequence[TrialRecord]) -> float:
    """Mean score over the replicates of a configuration."""
    return sum(score_of(record) for record in records) / len(records)


def score_of(record: TrialRecord) -> float:
    """Its score; of a run without one, less than any."""
    return record.score if record.score is not None else float("-inf")


def mean_select(records: Sequence[TrialRecord]) -> dict[str, dict[str, float]]:
    """Metric -> mean over the replicates with its interval."""
    from selmix.statistics.comparison import mean_over_replicates
    from selmix.statistics.intervals import Estimate

    shared = set.intersection(*(set(r.select) for r in records))
    return {
        key: asdict(mean_over_replicates([Estimate(**r.select[key]) for r in records]))
        for key in records[0].select
        if key in shared
    }
