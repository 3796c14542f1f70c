"""The metrics against their definitions, spelled out on lists."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selmix.definitions import Definitions
from selmix.metrics import (
    METRICS,
    MetricContext,
    Predictions,
    calibration_error,
    compute_metric,
    evaluate_predictions,
)
from selmix.objectives import metric_of_objective

TRAIN = [300, 120, 60, 20, 5]
WEIGHTS = (1.0, 0.0, 2.0, 0.5, 3.0)
COSTS = tuple(tuple(abs(k - j) * 1.5 for j in range(5)) for k in range(5))
OF_CLASSES = {
    key for key, metric in METRICS.items() if metric.of_cells is None and metric.of_predictions is None
}
CONTEXT = MetricContext(torch.tensor(TRAIN), Definitions(0.5, WEIGHTS, COSTS))
TAIL = [4]  # all but the first ceil(0.9 * 5) classes, but at least one


def random_counts(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 20, (5, 5), generator=generator) + 5 * torch.eye(5, dtype=torch.int64)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mcc(c: list[list[int]]) -> float:
    """As in Gorodkin 2004: the correlation of the indicators of the labels and of the predictions."""
    pairs = [(i, j) for i, row in enumerate(c) for j, count in enumerate(row) for _ in range(count)]

    def covariance(a: int, b: int) -> float:
        parts = []
        for k in range(len(c)):
            x, y = [float(pair[a] == k) for pair in pairs], [float(pair[b] == k) for pair in pairs]
            parts.append(_mean([u * v for u, v in zip(x, y, strict=True)]) - _mean(x) * _mean(y))
        return sum(parts)

    return covariance(0, 1) / math.sqrt(covariance(0, 0) * covariance(1, 1))


def _by_hand(c: list[list[int]]) -> dict[str, float]:
    k = range(len(c))
    n = sum(map(sum, c))
    r = [c[i][i] / sum(c[i]) for i in k]
    column = [sum(c[i][j] for i in k) for j in k]
    share = [column[j] / n for j in k]
    head = [i for i in k if i not in TAIL]
    chance = sum(sum(c[i]) * column[i] for i in k)
    return {
        "mean_recall": _mean(r),
        "min_recall": min(r),
        "min_head_tail_recall": min(_mean([r[i] for i in head]), _mean([r[i] for i in TAIL])),
        "g_mean": math.prod(r) ** (1 / len(r)),
        "h_mean": len(r) / sum(1 / x for x in r) if all(r) else 0.0,
        "q_mean": 1 - math.sqrt(_mean([(1 - x) ** 2 for x in r])),
        # Half of five recalls: the worst two, and half of the third.
        "cvar_recall": (sum(sorted(r)[:2]) + 0.5 * sorted(r)[2]) / 2.5,
        "weighted_recall": sum(w * x for w, x in zip(WEIGHTS, r, strict=True)) / sum(WEIGHTS),
        "cost": sum(c[i][j] * COSTS[i][j] for i in k for j in k) / n,
        "f_beta": _mean([5 * c[i][i] / (4 * sum(c[i]) + column[i]) for i in k]),
        "mcc": _mcc(c),
        "cohen_kappa": (n * sum(c[i][i] for i in k) - chance) / (n * n - chance),
        "macro_f1": _mean([2 * c[i][i] / (sum(c[i]) + column[i]) for i in k]),
        "min_precision": min(c[i][i] / column[i] for i in k),
        "accuracy": sum(c[i][i] for i in k) / n,
        "balanced_accuracy": _mean(r),
        "balanced_error": 1 - _mean(r),
        "min_coverage": min(share),
        "min_head_tail_coverage": min(_mean([share[i] for i in head]), _mean([share[i] for i in TAIL])),
        "recall_gap": max(r) - min(r),
        "many_shot_recall": _mean([r[i] for i in k if TRAIN[i] > 100]),
        "medium_shot_recall": _mean([r[i] for i in k if 20 <= TRAIN[i] <= 100]),
        "few_shot_recall": _mean([r[i] for i in k if TRAIN[i] < 20]),
    }


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_their_definitions(seed: int) -> None:
    counts = random_counts(seed)
    expected = _by_hand(counts.tolist())
    assert set(expected) == OF_CLASSES
    for key, value in expected.items():
        assert float(compute_metric(key, counts, CONTEXT)) == pytest.approx(value, abs=1e-12), key


def test_leading_dimensions() -> None:
    stack = torch.stack([random_counts(seed) for seed in range(4)]).view(2, 2, 5, 5)
    for key in OF_CLASSES:
        values = compute_metric(key, stack, CONTEXT)
        assert values.shape == (2, 2)
        assert float(values[1, 0]) == pytest.approx(
            float(compute_metric(key, stack[1, 0], CONTEXT)), abs=1e-12
        )


def test_a_class_that_is_never_right() -> None:
    counts = torch.tensor([[5, 0], [5, 0]])
    context = MetricContext(train_counts=torch.tensor([10, 2]))
    for key in ("min_recall", "g_mean", "h_mean", "min_precision", "min_coverage"):
        assert float(compute_metric(key, counts, context)) == 0.0, key


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: compute_metric("recal", random_counts(0), CONTEXT),
            "unknown metric 'recal'; there are mean_recall",
        ),
        (lambda: compute_metric("calibration_error", random_counts(0), CONTEXT), "needs the confidences"),
        (lambda: metric_of_objective("my_own"), "no metric goes with the objective 'my_own'"),
    ],
)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("min_recall", "min_recall"),
        ("h_mean_min_coverage", "h_mean"),
        ("mean_recall_min_head_tail_coverage", "mean_recall"),
        ("min_coverage", "min_coverage"),
    ],
)
def test_the_metric_of_an_objective(objective: str, metric: str) -> None:
    assert metric_of_objective(objective) == metric


@pytest.mark.parametrize(
    ("fraction", "same_as"), [(1.0, "mean_recall"), (0.2, "min_recall"), (0.01, "min_recall")]
)
def test_the_ends_of_cvar(fraction: float, same_as: str) -> None:
    context = MetricContext(torch.tensor(TRAIN), Definitions(fraction))
    counts = random_counts(3)
    assert float(compute_metric("cvar_recall", counts, context)) == pytest.approx(
        float(compute_metric(same_as, counts, context))
    )


def test_metrics_without_their_definition_are_not_reported() -> None:
    labels = torch.arange(5).repeat(4)
    predictions = Predictions.from_logits(
        labels, torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    )
    values = evaluate_predictions(predictions, MetricContext(torch.tensor(TRAIN)))
    assert {"weighted_recall", "cost"}.isdisjoint(values)
    assert "cvar_recall" in values


def test_definitions_that_do_not_fit() -> None:
    assert Definitions(0.5, WEIGHTS, COSTS).problems(5) == []
    problems = Definitions(0.0, (1.0, -1.0), ((1.0, 2.0),)).problems(2)
    assert [problem.split(":")[0] for problem in problems] == [
        "cvar_fraction",
        "recall_weights",
        "cost_matrix",
    ]
    assert "must be one per class, 5, got 2" in Definitions(recall_weights=(1.0, 1.0)).problems(5)[0]
    assert "not all 0" in Definitions(recall_weights=(0.0, 0.0)).problems(2)[0]
    assert "must be finite" in Definitions(cost_matrix=((0.0, math.nan), (1.0, 0.0))).problems(2)[0]


def test_calibration_error_by_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence, correct = torch.rand(151, generator=generator), torch.rand(151, generator=generator) < 0.6
    pairs = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    sizes = [151 // 15 + (b < 151 % 15) for b in range(15)]
    expected, start = 0.0, 0
    for size in sizes:
        held = pairs[start : start + size]
        expected += abs(sum(hit for _, hit in held) - sum(c for c, _ in held)) / 151
        start += size
    predictions = Predictions(torch.ones(151).long(), correct.long(), confidence)
    assert calibration_error(predictions) == pytest.approx(expected, abs=1e-12)


def test_predictions_from_logits() -> None:
    labels = torch.arange(5).repeat(4)
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    predictions = Predictions.from_logits(labels, logits)
    assert torch.equal(predictions.predicted, logits.argmax(dim=1))
    values = evaluate_predictions(predictions, CONTEXT)
    # Of the scores a sweep keeps those of the predicted class only.
    assert list(values) == [
        key for key, each in METRICS.items() if each.of_cells is None and not each.by_scores
    ]
    assert values["accuracy"] == pytest.approx(float(predictions.correct.double().mean()))
    crowded = MetricContext(train_counts=torch.full((5,), 300))
    assert "few_shot_recall" not in evaluate_predictions(predictions, crowded)
    with pytest.raises(ValueError, match=r"got none for \[4\]"):
        evaluate_predictions(Predictions.from_logits(labels[:4], logits[:4]), CONTEXT)
