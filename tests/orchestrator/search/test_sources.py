"""Sources of runs: what was given back first, then new ones, studies in turn, within their number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from orchestrator.records.types import TrialRecord, trial_record
from orchestrator.search.sources import ListSource, Source, StudySource
from orchestrator.search.study import ObjectiveStudy

Runs = list[str]


def build(study: str, number: int, parameters: dict[str, Any]) -> TrialRecord:
    objective, _, arm = study.partition("/")
    return trial_record(objective, number, 0, parameters, parameters, arm)


def ids(source: Source) -> Runs:
    """Ids of all that is left."""
    found = []
    while (record := source.next()) is not None:
        found.append(record.trial_id)
    return found


@pytest.fixture
def studies(tmp_path: Path) -> Callable[..., dict[str, ObjectiveStudy]]:
    """Studies of one journal, by name."""

    def make(*names: str) -> dict[str, ObjectiveStudy]:
        space = {"x": FloatDistribution(0.0, 1.0)}
        return {
            name: ObjectiveStudy(tmp_path / "journal", name, "random", 0, space, {"x": 0.5}) for name in names
        }

    return make


def test_a_list_is_handed_out_in_its_order_and_what_comes_back_is_first() -> None:
    records = [build("o", number, {}) for number in range(3)]
    source = ListSource(iter(records))
    first, second = source.next(), source.next()
    assert [first, second] == records[:2]
    source.give_back(records[0])
    source.give_back(records[1])
    source.tell(records[0], 0.5, 0.0)  # teaches nothing
    assert ids(source) == ["o/trial-001", "o/trial-000", "o/trial-002"]
    assert source.next() is None
    source.give_back(records[2])
    assert ids(source) == ["o/trial-002"]
    assert ids(ListSource([])) == []


def test_unfinished_trials_come_first_then_studies_in_turn_up_to_their_number(
    studies: Callable[..., dict[str, ObjectiveStudy]],
) -> None:
    made = studies("b", "a")
    number, _ = made["b"].ask()
    unfinished = [build("b", number, {})]
    source = StudySource(made, 2, unfinished, build, lambda: True)
    assert ids(source) == ["b/trial-000", "a/trial-000", "b/trial-001", "a/trial-001"]
    assert source.next() is None
    assert [len(study.trials()) for study in made.values()] == [2, 2]


def test_a_trial_that_was_given_back_is_the_next_one_and_no_new_point(
    studies: Callable[..., dict[str, ObjectiveStudy]],
) -> None:
    made = studies("o")
    waiting = [build("o", number, {}) for number in range(7, 9)]
    source = StudySource(made, 3, waiting, build, lambda: True)
    began = source.next()
    assert began is waiting[0]
    source.give_back(began)
    assert source.next() is began
    source.next()
    fresh = source.next()
    assert fresh is not None
    source.give_back(fresh)
    assert source.next() is fresh
    assert len(made["o"].trials()) == 1


def test_without_leave_to_begin_only_the_unfinished_are_handed_out(
    studies: Callable[..., dict[str, ObjectiveStudy]],
) -> None:
    made, may_begin = studies("o"), [False]
    source = StudySource(made, 2, [build("o", 9, {})], build, lambda: may_begin[0])
    assert ids(source) == ["o/trial-009"]
    assert made["o"].trials() == []
    may_begin[0] = True
    assert ids(source) == ["o/trial-000", "o/trial-001"]


def test_a_study_that_has_more_trials_than_are_wanted_gets_no_more(
    studies: Callable[..., dict[str, ObjectiveStudy]],
) -> None:
    made = studies("o")
    for _ in range(3):
        made["o"].ask()
    assert ids(StudySource(made, 2, [], build, lambda: True)) == []


def test_the_first_trial_is_the_defaults_and_points_reach_the_record(
    studies: Callable[..., dict[str, ObjectiveStudy]],
) -> None:
    made = studies("o")
    source = StudySource(made, 2, [], build, lambda: True)
    first, second = source.next(), source.next()
    assert first is not None
    assert second is not None
    assert first.config == {"x": 0.5}
    assert second.config == made["o"].trials()[1].params != first.config


def test_a_result_reaches_the_study_of_the_trial_alone(
    studies: Callable[..., dict[str, ObjectiveStudy]],
) -> None:
    made = studies("o/p=a", "o/p=b")
    source = StudySource(made, 1, [], build, lambda: True)
    for score in (0.0, None):
        record = source.next()
        assert record is not None
        source.tell(record, score, 0.0)
    (first,), (second,) = (study.trials() for study in made.values())
    assert (first.state.name, first.value) == ("COMPLETE", 0.0)
    assert (second.state.name, second.value) == ("FAIL", None)
