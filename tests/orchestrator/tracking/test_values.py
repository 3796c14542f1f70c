"""Values in the form that MLflow takes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.records.types import Figure
from orchestrator.spec.schema import spec_from_resolved
from orchestrator.tracking.values import (
    CUT,
    MAX_PARAM,
    MAX_TAG,
    Best,
    checked_key,
    frozen_params,
    metrics_to_keep,
    sweep_params,
    tag_filter,
    tag_texts,
)

SPEC = spec_from_resolved(
    {"version": 1, "name": "x", "data": {"name": "digits", "seed": 3}, "objectives": ["min_recall"]}
)


@pytest.mark.parametrize("key", ["a", "select/min_recall", "A-b_c.d :e", "1", "a" * 250])
def test_keys_that_mlflow_takes_are_left_as_they_are(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize("key", ["/a", "a/", "a/./b", ".", "./a", "grün", "a\nb", "a" * 251])
def test_keys_that_it_refuses_are_refused_before_they_are_sent(key: str) -> None:
    for use in (checked_key, lambda key: metrics_to_keep({key: 1.0}), lambda key: tag_texts({key: "x"})):
        with pytest.raises(ValueError, match="MLflow key: must be"):
            use(key)


def test_gaps_are_kept_and_infinities_are_not() -> None:
    kept = metrics_to_keep({"nan": math.nan, "low": -math.inf, "none": None, "zero": 0, "true": 1})
    assert kept.keys() == {"nan", "zero", "true"}
    assert math.isnan(kept["nan"])
    assert metrics_to_keep({"a": None, "b": None}, limit=2) == metrics_to_keep({}) == {}


def test_only_the_ranked_metric_has_limits_as_metrics_and_the_artifact_has_all() -> None:
    select = {"cost": Figure(1.5, 1.0, math.inf), "accuracy": Figure(0.5, 0.25, 0.75)}
    best = Best(select, "cost", -1.5)
    assert best.metrics() == {
        "best/score": -1.5, "best/select/cost": 1.5, "best/select/cost/low": 1.0, "best/select/accuracy": 0.5,
    }  # fmt: skip
    assert list(Best({}, "cost", 0.0).metrics("g_mean/")) == ["g_mean/best/score"]
    assert best.to_document() == {
        "score": -1.5, "metric": "cost",
        "select": {
            "cost": {"value": 1.5, "low": 1.0, "high": math.inf},
            "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75},
        },
    }  # fmt: skip


def test_a_run_that_did_not_finish_is_ranked_by_nothing() -> None:
    assert Best().metrics() == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        ("x", "x"),
        ([1, "a"], '[1, "a"]'),
        ({"a": None}, '{"a": null}'),
    ],
)
def test_a_param_is_the_same_text_at_every_resume(value: Any, text: str) -> None:
    assert frozen_params({"p": value}) == {"p": text}


@pytest.mark.parametrize(("write", "limit"), [(frozen_params, MAX_PARAM), (tag_texts, MAX_TAG)])
def test_a_long_text_is_cut_and_says_so(write: Any, limit: int) -> None:
    assert write({"k": "x" * limit})["k"] == "x" * limit
    cut = write({"k": "x" * (limit + 1)})["k"]
    assert len(cut) == limit
    assert cut.endswith(CUT)


def test_a_tag_without_a_value_is_left_out() -> None:
    assert tag_texts({"a": None, "b": "", "c": False}) == {"b": "", "c": "false"}


def test_a_search_is_by_all_tags_and_quotes_are_refused() -> None:
    assert tag_filter({"a.b": "x", "c": "y z"}) == "tags.`a.b` = 'x' AND tags.`c` = 'y z'"
    for quote in "'\"`\\":
        with pytest.raises(ValueError, match=r"MLflow tag a: must be without quotes"):
            tag_filter({"a": f"x{quote}y"})


def test_params_of_a_sweep_are_the_sections_that_all_runs_share() -> None:
    params = sweep_params(SPEC)
    assert (params["data.name"], params["data.seed"], params["model.name"]) == ("digits", 3, "small_cnn")
    assert {key.partition(".")[0] for key in params} == {"data", "model", "pretrain", "selection"}
    assert None not in params.values()
    assert frozen_params(params)["pretrain.augment"] == "false"
