"""The screen as a whole: budget, halving, promotion, cross-fitting, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from selmix.baselines.folds import content_folds
from selmix.baselines.last_layer import tuned_head
from selmix.config import FinetuneConfig
from selmix.data.splits import join
from selmix.metrics import MetricContext, Predictions
from selmix.models import ModelConfig
from selmix.run.run import Run
from selmix.screen import Halving, ScreenProgress, screen
from selmix.screen.batch import Setting
from selmix.screen.screening import bytes_of_row
from selmix.statistics.selection import SelectionRule, score
from tests.selmix.screen.worlds import single, world

RULE = SelectionRule("min_recall")
CONFIGS = [
    FinetuneConfig(steps=20, refresh_every=5, lr=lr, policy=policy, batch_size=16, start=start)
    for lr, policy, start in (
        (0.1, "softmax", "given"),
        (0.03, "greedy", "balanced_head"),
        (0.3, "uniform", "balanced_head"),
        (0.01, "softmax", "given"),
        (0.05, "balanced", "balanced_head"),
        (0.2, "loss_weight", "given"),
    )
]
SEEDS = list(range(len(CONFIGS)))


def test_rows_are_single_runs_whatever_the_budget() -> None:
    data, base = world()
    setting = Setting(data, base, "min_recall", RULE)
    # Room for two rows at a time.
    scratch = setting.features.nbytes + setting.select.nbytes
    small = math.ceil((scratch + 2 * bytes_of_row(setting, CONFIGS[0])) * 4 / 3)
    seen: list[ScreenProgress] = []
    whole = screen(data, base, "min_recall", CONFIGS, SEEDS, RULE)
    parts = screen(data, base, "min_recall", CONFIGS, SEEDS, RULE, memory=small, callback=seen.append)
    assert max(each.running for each in seen) == len(CONFIGS)
    assert len({each.steps for each in seen}) > 4
    assert seen[-1].steps == seen[-1].total
    assert seen[-1].running == 0
    assert seen[-1].best == (True, max(row.score for row in whole.rows if row.score is not None))
    for row, other, config, seed in zip(whole.rows, parts.rows, CONFIGS, SEEDS, strict=True):
        run = single(data, base, "min_recall", config, seed, RULE)
        assert run.best is not None
        assert row.head is not None
        assert other.head is not None
        assert (row.score, row.best_round, row.stop_reason) == (
            run.best.score,
            run.best.round,
            run.stop_reason,
        )
        assert (row.value, row.rounds, row.steps) == (run.best.select["min_recall"], 4, 20)
        assert torch.allclose(row.head.weight, other.head.weight, atol=1e-6)
        assert row.seconds > 0


def test_features_are_computed_where_the_base_is_a_network() -> None:
    data, base = world()
    model = ModelConfig("standardised_head")
    built = model.build(data.input_shape, data.num_classes)
    built.fit_scale(data.train.inputs)  # type: ignore[operator]
    other = replace(base, model=model, state=built.state_dict())
    result = screen(data, other, "min_recall", CONFIGS[:1], [3], RULE)
    run = single(data, other, "min_recall", CONFIGS[0], 3, RULE)
    assert run.best is not None
    assert result.rows[0].head is not None
    assert result.rows[0].score == run.best.score
    assert torch.allclose(result.rows[0].head.weight, run.best.state["head.weight"], atol=1e-5)


def test_halving_keeps_the_better_part() -> None:
    data, base = world()
    result = screen(data, base, "min_recall", CONFIGS, SEEDS, RULE, halving=Halving((0.25, 0.6)), promote=6)
    steps = sorted(row.steps for row in result.rows)
    # Six, then three, then two; the second fraction is met by the end of a round.
    assert steps == [5, 5, 5, 15, 20, 20]
    halved = [row for row in result.rows if row.stop_reason == "halving"]
    assert len(halved) == 4
    assert all(row.promoted is None for row in halved)
    assert len(result.promoted) == 2
    # The oracle: what the single runs had reached at the first fraction.
    reached = []
    for config, seed in zip(CONFIGS, SEEDS, strict=True):
        part = Run(data, base, "min_recall", config, seed, RULE)
        part.step()
        part.step()
        assert part.best is not None
        reached.append(part.best.score)
    order = sorted(range(len(CONFIGS)), key=lambda number: -reached[number])
    assert {int(row.id) for row in result.rows if row.steps > 5} == set(order[:3])


def test_cross_fitted_scores_are_those_of_runs_without_the_fold() -> None:
    data, base = world()
    folds, configs = 2, CONFIGS[:2]
    result = screen(data, base, "min_recall", configs, SEEDS[:2], RULE, folds=folds, promote=1)
    fold_of = content_folds((data.feedback, data.select), folds)
    for row, config, seed in zip(result.rows, configs, SEEDS, strict=False):
        labels, predicted = [], []
        for fold in range(folds):
            held = [each == fold for each in fold_of]
            rest = replace(data, feedback=data.feedback.take(~held[0]), select=data.select.take(~held[1]))
            view = base.model.view(base.build("given", data.input_shape, data.num_classes))
            head, _ = tuned_head(view, join(rest.train, rest.feedback), rest, RULE)
            run = single(rest, replace(base, head=head), "min_recall", config, seed, RULE)
            assert run.best is not None
            for split, mask in zip((data.feedback, data.select), held, strict=True):
                part = split.take(mask)
                assert isinstance(part.inputs, torch.Tensor)
                logits = part.inputs @ run.best.state["head.weight"].T + run.best.state["head.bias"]
                labels.append(part.labels)
                predicted.append(logits.argmax(dim=1))
        judged = Predictions(torch.cat(labels), torch.cat(predicted), torch.zeros(len(torch.cat(labels))))
        assert row.cross_fitted == score(RULE, judged, MetricContext(data.train_counts))
        assert row.cross_fitted_violation == 0.0
    best = max(result.rows, key=lambda row: row.cross_fitted or 0.0)
    assert result.promoted == (int(best.id),)
    assert best.promoted == 0
    assert result.not_cross_fitted == ""


def test_the_best_on_select_alone_are_cross_fitted_and_come_first() -> None:
    data, base = world()
    result = screen(
        data,
        base,
        "min_recall",
        CONFIGS[:4],
        SEEDS[:4],
        RULE,
        folds=2,
        cross_fit_best=2,
        promote=3,
        distance=0.0,
    )
    order = sorted(range(4), key=lambda number: -(result.rows[number].score or 0.0))
    fitted = [int(row.id) for row in result.rows if row.cross_fitted is not None]
    assert fitted == sorted(order[:2])
    assert result.promoted == (
        *sorted(order[:2], key=lambda number: -(result.rows[number].cross_fitted or 0.0)), order[2]
    )  # fmt: skip


def test_what_cannot_be_cross_fitted_says_why() -> None:
    data, base = world()
    seen = replace(base, labels=("train", "select"))
    result = screen(data, seen, "min_recall", CONFIGS[:2], SEEDS[:2], RULE, folds=2, promote=1)
    assert result.not_cross_fitted == "the base model was trained on select"
    assert [row.cross_fitted for row in result.rows] == [None, None]
    best = max(result.rows, key=lambda row: row.score or 0.0)
    assert result.promoted == (int(best.id),)
    few = screen(data, base, "min_recall", CONFIGS[:1], SEEDS[:1], RULE, folds=20)
    assert "20 folds need at least 40 samples of every class" in few.not_cross_fitted


def test_the_table_has_a_row_for_each_configuration() -> None:
    data, base = world()
    result = screen(data, base, "min_recall", CONFIGS[:3], [7, 8, 9], RULE, promote=2, distance=0.0)
    table = result.table()
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["0000", "0001", "0002"]
    assert [row["seed"] for row in rows] == [7, 8, 9]
    assert [row["lr"] for row in rows] == [0.1, 0.03, 0.3]
    assert [row["cross_fitted"] for row in rows] == [None] * 3
    assert [row["score"] for row in rows] == [row.score for row in result.rows]
    order = sorted(range(3), key=lambda number: -(rows[number]["score"]))
    assert [row["promoted"] for row in rows] == [order.index(n) if n in order[:2] else None for n in range(3)]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mixup_layer": "input"}, "mixup_layer: must be features, got 'input'"),
    ({"second": "pseudo"}, "second: must be labelled, got 'pseudo'"),
    ({"augment": "weak"}, "augment: must be none, got 'weak'"),
    ({"precision": "bfloat16"}, "precision: must be float32, got 'bfloat16'"),
]


@pytest.mark.parametrize(("settings", "text"), REFUSED)
def test_settings_of_a_backbone_are_refused(settings: dict[str, Any], text: str) -> None:
    data, base = world()
    configs = [FinetuneConfig(), FinetuneConfig(**settings)]
    with pytest.raises(ValueError, match=f"configuration 0001: {text}"):
        screen(data, base, "min_recall", configs, [0, 1], RULE)


def test_a_layer_that_mixes_nothing_is_no_matter() -> None:
    data, base = world()
    configs = [FinetuneConfig(steps=2, mixup_layer="input", coefficient_min=1.0, second="pseudo")]
    assert screen(data, base, "min_recall", configs, [0], RULE).rows[0].stop_reason == "steps"


def test_bad_arguments_are_one_error() -> None:
    data, base = world()
    with pytest.raises(ValueError, match="a seed for each, got 1 and 2"):
        screen(data, base, "min_recall", CONFIGS[:1], [0, 1], RULE)
    with pytest.raises(ValueError, match="folds: must be 0 or at least 2, got 1"):
        screen(data, base, "min_recall", CONFIGS[:1], [0], RULE, folds=1)
    with pytest.raises(ValueError, match="cross_fit_best: must be >= 1, or None for all, got 0"):
        screen(data, base, "min_recall", CONFIGS[:1], [0], RULE, folds=2, cross_fit_best=0)
    with pytest.raises(ValueError, match="memory: must hold the features and one configuration"):
        screen(data, base, "min_recall", CONFIGS[:1], [0], RULE, memory=1000)
    with pytest.raises(ValueError, match="fractions: must rise"):
        Halving((0.5, 0.5))
    with pytest.raises(ValueError, match="keep: must lie"):
        Halving((0.5,), keep=1.0)
    small = 40_000
    with pytest.raises(ValueError, match="halving compares all configurations and holds them at once"):
        screen(data, base, "min_recall", CONFIGS, SEEDS, RULE, memory=small, halving=Halving((0.5,)))
    dear = [FinetuneConfig(steps=4, refresh_every=2, lr=1e38)]
    result = screen(data, base, "min_recall", dear, [0], RULE)
    assert result.rows[0].stop_reason.startswith("nonfinite")
    assert result.rows[0].best_round == 0
    broken = replace(base, state={name: tensor * math.nan for name, tensor in base.state.items()})
    with pytest.raises(ValueError, match="every configuration failed before a round could be judged"):
        screen(data, broken, "min_recall", [replace(dear[0], start="given")], [0], RULE)
