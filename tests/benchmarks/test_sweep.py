"""The measure of what a sweep costs beside its trials, at a small size."""

from __future__ import annotations

import pytest

from benchmarks import sweep


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_both_run_and_neither_beats_the_ideal() -> None:
    found = sweep.measured(trials=4, seconds=0.4)
    for each in ("ours", "plain"):
        assert found[each]["ideal_s"] >= 0.8
        assert found[each]["ratio"] > 1
