"""Ways to search at equal cost: what can be paid for, what may win, and what a trial has cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import searches
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord, TrialState


def record(
    number: int, cost_s: float, state: TrialState = "FINISHED", score: float | None = 0.5, steps: int = 40
) -> TrialRecord:
    found = TrialRecord(f"trial-{number:03}", searches.OBJECTIVE, "trial", number, 0)
    found.cost_s, found.state, found.score, found.steps, found.ended_ms = (
        cost_s,
        state,
        score,
        steps,
        100 - number,
    )
    return found


def test_what_is_spent_is_the_work_in_order() -> None:
    records = [record(number, 0.1) for number in range(24)]
    # The search itself is not cut by the rounding of its own sum.
    assert searches.affordable(records, 0.0, sum(each.cost_s for each in records)) == records
    assert len(searches.affordable(records, 1.0, 2.05)) == 10
    # The first that cannot be paid for is where it ends, though a later one could.
    assert searches.affordable([record(0, 1.0), record(1, 5.0), record(2, 0.1)], 0.0, 2.0)[-1].number == 0


def test_a_trial_that_was_stopped_early_cannot_win() -> None:
    low, high = record(0, 1.0, score=0.4), record(1, 1.0, "PRUNED", 0.9)
    assert searches.best_of([low, high, record(2, 1.0, "FAILED", None)]) is low
    with pytest.raises(ValueError, match="one of 1 trials must have finished, got none"):
        searches.best_of([high])


def test_a_way_is_read_from_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.local(tmp_path, "screened_0")
    folder.create()
    monkeypatch.setattr(searches, "on_test", lambda folder, record, seed: record.score or 0.0)
    replicate = record(9, 1.0, score=0.99)
    replicate.kind = "replicate"
    # They ended in the reverse order of their numbers.
    for each in (
        record(0, 1.0, score=0.9),
        record(1, 2.0, "PRUNED", 0.8),
        record(2, 3.0, score=0.6),
        replicate,
    ):
        folder.save_trial(each)
        for number, steps in enumerate((0, 40, 120)):
            folder.append_round(each.trial_id, {"round": number, "steps": steps})
    folder.screen_path(searches.OBJECTIVE).parent.mkdir(parents=True)
    folder.screen_path(searches.OBJECTIVE).write_text(json.dumps({"cost_s": 4.0}))
    found = searches.found_by("screened", 0, folder, 9.5)
    # 4 of the screen, 3 and 2; the steps are those taken, not those up to the best round.
    assert (found.ended, found.stopped, found.seconds, found.steps) == (2, 1, 9.0, 240)
    assert (found.trial, found.test, found.ran_out) == (2, 0.6, False)
    assert searches.found_by("screened", 0, folder, 99.0).ran_out
    assert searches.found_by("asha", 0, folder, 6.0).trial == 0
