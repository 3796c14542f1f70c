"""A study: results count once, its journal may be torn or gone, and records make it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from orchestrator.search.study import ObjectiveStudy, fail_unfinished

SPACE = {"x": FloatDistribution(0.0, 1.0), "policy": CategoricalDistribution(("a", "b"))}
FIRST = {"x": 0.5, "policy": "a"}
GRID = [{"x": 0.5, "policy": "a"}, {"x": 0.0, "policy": "a"}, {"x": 1.0, "policy": "b"}]


def study(journal: Path, method: str = "tpe", seed: int = 0, name: str = "o", **more: Any) -> ObjectiveStudy:
    return ObjectiveStudy(journal, name, method, seed, SPACE, FIRST, **more)


def params(of: ObjectiveStudy) -> list[dict[str, Any]]:
    return [trial.params for trial in of.trials()]


def states(of: ObjectiveStudy) -> list[str]:
    return [trial.state.name for trial in of.trials()]


@pytest.mark.parametrize("method", ["tpe", "random", "grid"])
def test_the_first_point_is_that_of_the_defaults(tmp_path: Path, method: str) -> None:
    made = study(tmp_path / "j", method, grid=GRID if method == "grid" else None)
    assert made.trials() == []
    assert made.ask() == (0, FIRST)
    number, point = made.ask()
    assert number == 1
    assert 0.0 <= point["x"] <= 1.0
    assert point["policy"] in {"a", "b"}
    assert params(made) == [FIRST, point]
    assert states(made) == ["RUNNING", "RUNNING"]


def test_a_grid_is_walked_in_its_order_by_every_opening(tmp_path: Path) -> None:
    points = [study(tmp_path / "j", "grid", grid=GRID).ask() for _ in GRID]
    assert points == list(enumerate(GRID))


def test_a_reader_that_changes_its_point_changes_no_other(tmp_path: Path) -> None:
    first, second = study(tmp_path / "j", "grid", grid=GRID), study(tmp_path / "k", "grid", grid=GRID)
    first.ask()[1]["x"] = 9.0
    assert params(first) == [second.ask()[1]] == [{"x": 0.5, "policy": "a"}]


def test_seeds_and_numbers_give_points_of_their_own(tmp_path: Path) -> None:
    """Seed 0 at number 2 and seed 1 at number 1 are no twins, as they would be if the two were added."""
    xs = []
    for seed in range(3):
        made = study(tmp_path / str(seed), "random", seed)
        xs += [made.ask()[1]["x"] for _ in range(4)][1:]
    assert len(set(xs)) == 9


def test_a_score_of_zero_is_a_result(tmp_path: Path) -> None:
    made = study(tmp_path / "j")
    made.ask()
    made.tell(0, 0.0)
    made.tell(0, 1.0, violation=1.0)
    (trial,) = study(tmp_path / "j").trials()
    assert (trial.state.name, trial.value) == ("COMPLETE", 0.0)


def test_a_trial_that_was_stopped_early_keeps_its_values(tmp_path: Path) -> None:
    made = study(tmp_path / "j")
    made.ask()
    # A driver was killed after the first value.
    trial_id = made._storage.get_trial_id_from_study_id_trial_number(made._study._study_id, 0)
    made._storage.set_trial_intermediate_value(trial_id, 0, 0.125)
    made.prune(0, {40: 0.5, 0: 0.125, 20: 0.25}, violation=0.75)
    made.prune(0, {60: 1.0})
    made.tell(0, 1.0)
    (trial,) = study(tmp_path / "j").trials()
    assert (trial.state.name, trial.value) == ("PRUNED", 0.5)
    assert trial.intermediate_values == {0: 0.125, 20: 0.25, 40: 0.5}
    assert trial.constraints == {"violation": 0.75}


def test_the_search_learns_from_what_was_stopped_early(tmp_path: Path) -> None:
    """TPE proposes near the pruned trials that came to the best values."""
    points: list[list[float]] = []
    for best in (0.1, 0.9):
        path, xs = tmp_path / str(best), list[float]()
        made = study(path)
        for number in range(24):
            _, point = made.ask()
            made.prune(number, {0: 0.0, 20: -abs(point["x"] - best)})
            xs.append(point["x"])
        points.append(xs[14:])
    assert sum(points[0]) / 10 < 0.4
    assert sum(points[1]) / 10 > 0.6


def test_one_that_is_complete_is_not_pruned(tmp_path: Path) -> None:
    made = study(tmp_path / "j")
    made.ask()
    made.tell(0, 0.25)
    made.prune(0, {0: 0.5})
    assert (states(made), made.trials()[0].value) == (["COMPLETE"], 0.25)
    assert made.trials()[0].intermediate_values == {}


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
def test_a_score_that_ranks_nothing_is_a_failure_and_stays_one(tmp_path: Path, score: float | None) -> None:
    made = study(tmp_path / "j")
    made.ask()
    made.tell(0, score)
    made.tell(0, 0.5)
    assert (states(made), made.trials()[0].value) == (["FAIL"], None)


def test_the_sampler_keeps_away_from_points_that_miss_the_constraints(tmp_path: Path) -> None:
    """The higher half has the higher scores: it is left only where the study knows that it is infeasible."""
    high = {}
    for violation in (0.0, 1.0):
        made = study(tmp_path / str(violation))
        for _ in range(30):
            number, point = made.ask()
            made.tell(number, point["x"], violation if point["x"] > 0.5 else 0.0)
        high[violation] = sum(point["x"] > 0.5 for point in params(made)[15:])
    assert high[0.0] - high[1.0] >= 4  # of 15; seeds 0 to 3 differ by 6 to 9


@pytest.mark.parametrize("known", [(), (0,), (0, 1, 2), (1, 2), (2,)])
def test_a_study_without_a_journal_is_made_again_from_its_records(
    tmp_path: Path, known: tuple[int, ...]
) -> None:
    whole = study(tmp_path / "whole", "random")
    points = [whole.ask()[1] for _ in range(4)]
    again = study(tmp_path / "again", "random")
    for _ in range(2):  # a second time changes nothing
        again.rebuild({number: points[number] | {"steps": 7, "lr": None} for number in known})
    assert params(again) == points[: max(known, default=-1) + 1]
    assert set(states(again)) <= {"RUNNING"}
    assert again.ask() == (len(again.trials()) - 1, points[len(again.trials()) - 1])


def test_records_of_a_whole_journal_add_nothing_and_change_nothing(tmp_path: Path) -> None:
    made = study(tmp_path / "j")
    for _ in range(2):
        made.ask()
    made.tell(0, 0.25)
    before = params(made)
    made.rebuild({0: {"x": 0.9, "policy": "b"}, 1: {"x": 0.9, "policy": "b"}})
    assert (params(made), states(made)) == (before, ["COMPLETE", "RUNNING"])


def test_records_beyond_a_journal_that_was_cut_are_added(tmp_path: Path) -> None:
    made = study(tmp_path / "j")
    made.ask()
    made.rebuild({2: {"x": 0.25, "policy": "b"}})
    assert len(made.trials()) == 3
    assert params(made)[2] == {"x": 0.25, "policy": "b"}


def test_a_record_without_a_searched_parameter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="policy"):
        study(tmp_path / "j").rebuild({0: {"x": 0.5}})


def test_a_line_that_is_not_ended_has_not_happened(tmp_path: Path) -> None:
    made = study(tmp_path / "j")
    made.ask()
    whole = (tmp_path / "j").read_bytes()
    made.tell(0, 0.5)
    torn = (tmp_path / "j").read_bytes()[:-1]
    (tmp_path / "j").write_bytes(torn)
    assert states(study(tmp_path / "j")) == ["RUNNING"]
    left = (tmp_path / "j").read_bytes()
    assert left.startswith(whole)
    assert left.endswith(b"\n")


def test_an_empty_journal_is_a_new_one(tmp_path: Path) -> None:
    for content in (b"", b'{"op_code"'):
        (tmp_path / "j").write_bytes(content)
        assert study(tmp_path / "j").trials() == []


def test_trials_that_never_end_are_failed_and_others_left(tmp_path: Path) -> None:
    for name in ("o", "p"):
        made = study(tmp_path / "j", name=name)
        for number in range(3):
            made.ask()
            if number == 1:
                made.tell(number, 0.5)
    for _ in range(2):
        fail_unfinished(tmp_path / "j", {"o": [0, 1], "p": []})
    assert states(study(tmp_path / "j")) == ["FAIL", "COMPLETE", "RUNNING"]
    assert states(study(tmp_path / "j", name="p")) == ["RUNNING", "COMPLETE", "RUNNING"]
