"""Selection rules of a specification, and warnings of settings that will disappoint."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.build.selection import acting_objective, selection_rule, selection_rules, warnings_of
from orchestrator.spec.schema import SweepSpec, spec_from_resolved

NAMES = [f"digit {k}" for k in range(10)]


def spec_of(data: dict[str, Any] | None = None, **more: Any) -> SweepSpec:
    base = {
        "version": 1,
        "name": "x",
        "data": {"name": "digits"} | (data or {}),
        "objectives": ["min_recall"],
    }
    return spec_from_resolved(base | more)


def test_a_rule_has_the_metric_seed_statistic_and_definitions_of_the_file() -> None:
    spec = spec_of(
        selection={"metric": "g_mean", "statistic": "value"},
        search={"seed": 7},
        metrics={"cvar_fraction": 0.5},
    )
    rule = selection_rule(spec, "min_recall", NAMES)
    assert (rule.metric, rule.statistic, rule.seed) == ("g_mean", "value", 7)
    assert rule.definitions.cvar_fraction == 0.5
    assert selection_rule(spec_of(), "h_mean_min_coverage", NAMES).metric == "h_mean"


def test_a_bound_of_the_file_stands_instead_of_that_of_the_objective() -> None:
    own = [{"metric": "min_coverage", "at_least": 0.02, "in": ["search"]}]
    spec = spec_of(objectives=["mean_recall_min_coverage", "min_recall"], constraints=own)
    for rule in selection_rules(spec, NAMES).values():
        assert [(bound.metric, bound.at_least) for bound in rule.constraints] == [("min_coverage", 0.02)]
    other = [{"metric": "min_recall", "at_least": 0.5}]
    rule = selection_rule(spec_of(constraints=other), "mean_recall_min_head_tail_coverage", NAMES * 2)
    assert [(bound.metric, bound.at_least) for bound in rule.constraints] == [
        ("min_recall", 0.5), ("min_head_tail_coverage", 0.95 / 20),
    ]  # fmt: skip


def test_an_objective_of_coverage_keeps_its_own_term_unless_a_bound_of_the_file_takes_its_place() -> None:
    name = "h_mean_min_coverage"
    (bound,) = selection_rule(spec_of(objectives=[name]), name, NAMES).constraints
    assert (bound.metric, bound.at_least, bound.where) == ("min_coverage", 0.095, ("search",))
    for where, acting in ((["search"], name), (["method"], "h_mean")):
        spec = spec_of(constraints=[{"metric": "min_coverage", "at_least": 0.1, "in": where}])
        assert acting_objective(spec, name) == acting
    assert acting_objective(spec_of(constraints=[{"metric": "g_mean", "at_least": 0.1}]), name) == name
    assert acting_objective(spec, "module:function") == "module:function"


def test_a_bound_on_one_class_by_name_and_by_label() -> None:
    bounds = [
        {"metric": "recall", "class": "digit 3", "at_least": 50},
        {"metric": "precision", "class": 4, "at_least": 0.5, "in": ["search"]},
    ]
    spec = spec_of(constraints=bounds)
    rule = selection_rule(spec, "min_recall", NAMES)
    assert [(c.key, c.label, c.bound) for c in rule.constraints] == [
        ("recall/digit 3", 3, 0.5), ("precision/digit 4", 4, 0.5),
    ]  # fmt: skip
    assert [each.key for each in rule.definitions.class_rates] == ["recall/digit 3", "precision/digit 4"]
    assert rule.violation({"recall/digit 3": 0.4, "precision/digit 4": 0.3}) == pytest.approx(0.3)
    assert spec_from_resolved(spec.resolved()) == spec


def test_a_stored_bound_without_a_class_keeps_its_digest() -> None:
    spec = spec_of(constraints=[{"metric": "g_mean", "at_least": 0.1}])
    assert spec.resolved()["constraints"] == [
        {"metric": "g_mean", "at_least": 0.1, "at_most": None, "in": ["method", "search"]}
    ]


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        ({"select": 9, "imbalance": 1}, {}, ["data.select: 9 samples per class: a recall moves in steps of 11 "]),
        ({"select": 10, "imbalance": 1}, {}, []),
        ({"feedback": 9, "imbalance": 1}, {}, ["data.feedback: 9 samples per class: "]),
        ({"feedback": 0, "imbalance": 1}, {}, []),
        ({"feedback": 20, "largest_class": 40, "imbalance": 40}, {}, ["classes 2, 3, 4, 5, 6, 7, 8, 9 have more"]),
        (
            {"imbalance": 1}, {"search": {"num_trials": 1}, "parameters": {"lr": {"values": [0.1, 0.2]}}},
            ["search.num_trials: 1 runs the defaults only"],
        ),
        ({"imbalance": 1}, {"search": {"num_trials": 1}, "parameters": {"lr": {"value": 0.1}}}, []),
    ],
)  # fmt: skip
def test_settings_that_will_disappoint(data: dict[str, Any], more: dict[str, Any], says: list[str]) -> None:
    warnings = warnings_of(spec_of(data, **more))
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))


def test_of_many_small_classes_ten_are_named() -> None:
    (warning,) = warnings_of(
        spec_of(
            {"name": "gaussians", "classes": 14, "largest_class": 50, "imbalance": 1},
            model={"name": "linear_head"},
        )
    )
    assert "classes gaussian0, gaussian1, " in warning
    assert "gaussian9 and 4 more have more feedback (100)" in warning


LISTS = dict.fromkeys(("root", "train_list", "held_list", "test_list"), "nowhere")
UNREAD = [
    {"name": "parquet", "path": "nowhere"},
    {"name": "image_folder", "path": "nowhere"},
    {"name": "parquet", "path": "nowhere", "split": "part"},
    {"name": "image_list", **LISTS},
]


@pytest.mark.parametrize("data", UNREAD)
def test_files_that_are_not_there_yet_are_a_warning(data: dict[str, Any]) -> None:
    (warning,) = warnings_of(spec_of(data))
    assert warning.startswith("data: not checked yet, a launch will stop here: nowhere")


def test_a_space_that_nothing_searches_is_warned_of() -> None:
    space = {"lr": {"min": 0.01, "max": 0.1}}

    def warned(**more: Any) -> list[str]:
        return [
            text for text in warnings_of(spec_of(parameters=space, **more)) if text.startswith("parameters")
        ]

    assert warned(rungs=["scores", "head"]) == [
        "parameters: lr is not searched: rungs has no finetune, and there is no screen"
    ]
    assert warned(rungs=["scores", "head"], screen={"num_configs": 64, "promote": 3}) == []
    assert warned() == []
