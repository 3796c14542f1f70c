"""The settings of the method: what is refused, and which of them act."""

from __future__ import annotations

import dataclasses

import pytest

from selmix.config import FinetuneConfig


def test_the_defaults_use_the_scale_free_temperature() -> None:
    assert FinetuneConfig().effective_pairs == 0.6
    assert FinetuneConfig(temperature=0.1).effective_pairs is None
    assert FinetuneConfig(coefficient_min=0.5).mixup_coefficient == 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "blank"}, "start: must be one of balanced_head, best_head, given, got 'blank'"),
        ({"draw_from": "test"}, r"draw_from: must be one of train\+feedback, train, got 'test'"),
        (
            {"policy": "hard"},
            "policy: must be one of softmax, greedy, proportional, epsilon, loss_weight, uniform, balanced, got 'hard'",
        ),
        ({"top_k": 0}, "top_k: must be a whole number >= 1"),
        ({"epsilon": 1.5}, "epsilon: must be a number in"),
        ({"temperature": 0.0}, "temperature: must be a number > 0, got 0.0"),
        ({"effective_pairs": 1.5}, "effective_pairs: must be a number in"),
        ({"temperature": 0.1, "effective_pairs": 0.3}, "at most one may be set"),
        (
            {"confusion_smoothing": 0.5, "row_smoothing": 1.0},
            "confusion_smoothing, row_smoothing: at most one may be set, got 0.5 and 1.0; leave one out",
        ),
        ({"row_smoothing": 0.0}, "row_smoothing: must be a number > 0, got 0.0"),
        ({"confusion_smoothing": -1.0}, "confusion_smoothing: must be a number > 0, got -1.0"),
        ({"temperature_final": 2.0}, "temperature_final: with effective_pairs it must be at most 1"),
        ({"steps": 0}, "steps: must be a whole number >= 1, got 0"),
        ({"steps": 10.0}, "steps: must be a whole number >= 1, got 10.0"),
        ({"steps": True}, "steps: must be a whole number >= 1, got True"),
        ({"lr": float("nan")}, "lr: must be a number > 0, got nan"),
        ({"lr": float("inf")}, "lr: must be a number > 0, got inf"),
        ({"lr": "0.1"}, "lr: must be a number > 0, got '0.1'"),
        ({"coefficient_min": 1.1}, "coefficient_min: must be a number in"),
        ({"refresh_growth": 0.9}, "refresh_growth: must be a number >= 1"),
        ({"patience_rounds": 0}, "patience_rounds: must be a whole number >= 1"),
        ({"precision": "float16"}, "precision: must be one of float32, bfloat16, got 'float16'"),
        ({"channels_last": 1}, "channels_last: must be true or false, got 1"),
        ({"accumulate": 0}, "accumulate: must be a whole number >= 1, got 0"),
        ({"accumulate": 3}, "accumulate: must divide batch_size 64, got 3"),
        ({"mixup_layer": ""}, "mixup_layer: must be the name of a layer"),
    ],
)
def test_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**change)  # type: ignore[arg-type]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="policy") as caught:
        FinetuneConfig(policy="hard", lr=-1.0, steps=0)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["policy", "lr", "steps"]


def test_every_setting_acts_somewhere() -> None:
    soft = FinetuneConfig(
        policy="epsilon", temperature_schedule="cosine", second="pseudo", channels_last=True, accumulate=2
    ).acting("min_recall")
    greedy = FinetuneConfig(policy="greedy", confusion_smoothing=0.5).acting("mean_recall_min_coverage")
    settings = {field.name for field in dataclasses.fields(FinetuneConfig)}
    assert soft.keys() | greedy.keys() == settings - {"diagnose"}  # which only looks on


@pytest.mark.parametrize(
    ("config", "objective", "same_as"),
    [
        (
            FinetuneConfig(policy="uniform", effective_pairs=0.1),
            "min_recall",
            FinetuneConfig(policy="uniform"),
        ),
        (FinetuneConfig(temperature_final=0.2), "min_recall", FinetuneConfig()),
        (FinetuneConfig(epsilon=0.2, top_k=3), "min_recall", FinetuneConfig()),
        (FinetuneConfig(policy="greedy", effective_pairs=0.1), "min_recall", FinetuneConfig(policy="greedy")),
        (FinetuneConfig(multiplier_lr=7.0), "h_mean", FinetuneConfig()),
        (FinetuneConfig(constraint_max=7.0), "min_recall", FinetuneConfig()),
        (
            FinetuneConfig(coefficient_min=1.0, mixup_layer="input"),
            "min_recall",
            FinetuneConfig(coefficient_min=1.0),
        ),
    ],
)
def test_idle_settings_make_no_other_trial(
    config: FinetuneConfig, objective: str, same_as: FinetuneConfig
) -> None:
    assert config != same_as
    assert config.acting(objective) == same_as.acting(objective)


def test_a_loss_weight_mixes_nothing() -> None:
    config = FinetuneConfig(policy="loss_weight", second="pseudo")
    acting = config.acting("min_recall")
    assert not config.mixes
    assert config.mixup_coefficient == 1.0
    idle = {
        "mixup_layer",
        "coefficient_min",
        "second",
        "pseudo_threshold",
        "pseudo_every",
        "top_k",
        "epsilon",
    }
    assert not idle & acting.keys()
    assert {"effective_pairs", "warmup_rounds", "gain_formula", "multiplier_lr", "augment"} <= acting.keys()


def test_what_acts_makes_another_trial() -> None:
    default = FinetuneConfig()
    assert FinetuneConfig(multiplier_lr=7.0).acting("min_recall") != default.acting("min_recall")
    assert FinetuneConfig(constraint_max=7.0).acting("mean_recall_min_coverage") != default.acting(
        "mean_recall_min_coverage"
    )


def test_one_count_a_row_is_the_default_and_settings_of_before_keep_their_counts_per_cell() -> None:
    default = FinetuneConfig()
    assert (default.row_smoothing, default.confusion_smoothing) == (1.0, None)
    # As a record of an earlier version has them: no row_smoothing.
    stored = {key: value for key, value in default.flat().items() if key != "row_smoothing"}
    before = FinetuneConfig(**stored | {"confusion_smoothing": 0.5})
    assert (before.row_smoothing, before.confusion_smoothing) == (None, 0.5)
    for config, key in ((default, "row_smoothing"), (before, "confusion_smoothing")):
        assert FinetuneConfig(**config.flat()) == config
        assert {"row_smoothing", "confusion_smoothing"} & config.acting("min_recall").keys() == {key}


def test_layout_and_parts_leave_no_trace_where_they_are_the_default() -> None:
    default = FinetuneConfig().acting("min_recall")
    assert not {"channels_last", "accumulate"} & default.keys()
    for config in (FinetuneConfig(accumulate=4), FinetuneConfig(channels_last=True)):
        assert config.acting("min_recall") != default
