"""Whatever stands in the place of a value, a sweep file is refused in its own words, or taken."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.checks import check_spec
from orchestrator.spec.plain_values import file_of_values
from orchestrator.spec.schema import SweepSpec

WHOLE: dict[str, Any] = {
    "version": 1, "name": "x", "objectives": ["min_recall", "h_mean"], "rungs": ["scores", "head", "finetune"],
    "data": {"name": "digits", "imbalance": 20, "feedback": 20, "select": 20, "test": 40, "unlabelled": 5},
    "model": {"name": "small_cnn"}, "pretrain": {"recipe": "erm", "seed": 0, "epochs": 3, "lr": 0.05},
    "screen": {"num_configs": 8, "promote": 2, "generations": 1, "folds": 3},
    "parameters": {
        "lr": {"min": 0.01, "max": 0.1, "distribution": "log_uniform_values"}, "steps": {"value": 20},
        "start": {"values": ["balanced_head", "best_head"]}, "second": {"values": ["labelled", "pseudo"]},
        "mixup_layer": {"values": ["features", "input"]}, "refresh_every": {"values": [5, 10]},
    },
    "search": {"method": "tpe", "num_trials": 6, "seed": 0, "max_failed": 0.2, "max_concurrent_trials": 2},
    "early_stopping": {"method": "asha", "grace_steps": 10},
    "selection": {"metric": "min_recall", "statistic": "bagged", "replicates": 2, "finalists": 2, "margin": 0.02},
    "constraints": [
        {"metric": "min_coverage", "at_least": 0.05},
        {"metric": "recall", "class": "3", "at_least": 0.5, "in": ["search"]},
    ],
    "metrics": {"cvar_fraction": 0.3}, "resources": {"cpu": 1, "gpu": 0, "workers": 1},
}  # fmt: skip
JUNK: list[Any] = [
    "x", "", 3, -1, 0, 0.5, [], {}, None, [1], ["x"], True, float("inf"), float("nan"), {"a": 1}, {"value": 1}, [[1]],
    10**30, "é\n", {1: 2},
]  # fmt: skip
Path = tuple[Any, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield from places(entry, (*path, key))


def with_junk(path: Path, junk: Any, values: dict[str, Any] = WHOLE) -> dict[str, Any]:
    """A copy with something else in a place."""
    made = copy.deepcopy(values)
    parent: Any = made
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = junk
    return made


def checked(values: dict[str, Any]) -> SweepSpec | SpecError:
    """The specification, or its refusal; any other error is the test's."""
    try:
        return check_spec(file_of_values(values, "spec"))
    except SpecError as error:
        return error


def test_the_whole_file_is_taken() -> None:
    assert isinstance(checked(WHOLE), SweepSpec)


@pytest.mark.slow
@pytest.mark.parametrize("section", WHOLE)
def test_junk_in_one_place_is_refused_in_words_or_taken(section: str) -> None:
    for path in [path for path in places(WHOLE) if path[0] == section]:
        for junk in JUNK:
            checked(with_junk(path, junk))


@pytest.mark.slow
def test_junk_in_several_places_too() -> None:
    chance = random.Random(0)
    for _ in range(200):
        values = WHOLE
        for path in chance.sample(list(places(WHOLE)), chance.choice([2, 3])):
            # A place inside one that is junk by now is gone.
            with suppress(KeyError, IndexError, TypeError):
                values = with_junk(path, chance.choice(JUNK), values)
        checked(values)


@pytest.mark.parametrize("name", [{}, [], 3, None])
def test_the_name_of_the_data_is_a_text(name: Any) -> None:
    error = checked(with_junk(("data", "name"), name))
    assert isinstance(error, SpecError)
    assert error.problems[0].startswith("spec: data.name: must be a text, got ")


@pytest.mark.parametrize(
    "path", [("parameters", "lr", "max"), ("parameters", "lr", "min"), ("search", "seed")]
)
def test_a_number_without_an_end_is_one_problem(path: Path) -> None:
    error = checked(with_junk(path, float("inf")))
    assert isinstance(error, SpecError)
    assert error.problems == [f"spec: {'.'.join(path)}: must be a finite number, got .inf"]


def test_a_number_without_an_end_hides_nothing_else() -> None:
    error = checked(WHOLE | {"parameters": {"lrr": {"min": float("inf"), "max": 1}}})
    assert isinstance(error, SpecError)
    assert [each.split(":")[1] for each in error.problems] == [" parameters.lrr.min", " parameters.lrr"]


def test_a_list_is_shown_as_one() -> None:
    error = checked(with_junk(("parameters",), ["lr", True]))
    assert isinstance(error, SpecError)
    assert "spec: parameters: must be a mapping of keys, got ['lr', true]" in error.problems
