"""Lines of the bias search against brute force over every point of a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from selmix.baselines import line_search
from selmix.baselines.line_search import NONDECREASING, BiasedLogits
from selmix.baselines.post_hoc import bias_search
from selmix.baselines.tally import Key, Tally
from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.selection import Constraint, SelectionRule

OF_COUNTS = [key for key, metric in METRICS.items() if metric.of_predictions is None]
WIDE = (
    "min_recall",
    "macro_f1",
    "min_coverage",
    "cost",
    "recall_gap",
    "worst_group_recall",
    "equalized_odds_gap",
)


def world(seed: int, classes: int = 4, count: int = 30) -> tuple[Tensor, Tensor, Tensor, MetricContext]:
    """Logits rounded to tenths, so that flips tie; every cell of two groups has a sample."""
    g = torch.Generator().manual_seed(seed)
    labels, groups = torch.arange(count) % classes, torch.arange(count) // classes % 2
    logits = torch.randn(count, classes, generator=g) * 1.5
    logits[torch.arange(count), labels] += 1.0
    logits = (10 * logits).round() / 8  # eighths, so that sums are exact and ties are ties
    costs = torch.randint(0, 5, (classes, classes), generator=g).tolist()
    definitions = Definitions(
        recall_weights=tuple(range(1, classes + 1)), cost_matrix=tuple(tuple(row) for row in costs)
    )
    return logits, labels, groups, MetricContext(torch.tensor([300, 60, 30, 5, 2][:classes]), definitions, 2)


def key_of(
    metric: str, predicted: Tensor, labels: Tensor, groups: Tensor, context: MetricContext,
    bounds: Sequence[Constraint] = (),
) -> Key:  # fmt: skip
    predictions = Predictions(labels, predicted, torch.ones(len(labels)), groups)
    rule = SelectionRule(metric, constraints=tuple(bounds), definitions=context.definitions)
    # These alone: all metrics of thousands of predictions would take minutes.
    needed = {metric: METRICS[metric], "mean_recall": METRICS["mean_recall"]}
    needed |= {bound.key: bound.definition for bound in bounds}
    held = replace(context, definitions=rule.definitions)
    values = {key: predictions.value(each, held) for key, each in needed.items()}
    value = METRICS[metric].sign * values[metric]
    return Key(-rule.violation(values), value, values["mean_recall"])


def rounded(key: tuple[float, ...]) -> tuple[float, ...]:
    """To 12 digits: sums in another order differ in the last one. NaN, of classes that there are none of, is 0."""
    return tuple(0.0 if math.isnan(value) else round(value, 12) for value in key[:3])


BOUNDS: dict[str, tuple[Constraint, ...]] = {
    "none": (),
    # Never missed by more where a recall rises: the points are those that add a hit.
    "recalls": (Constraint("recall", at_least=0.6, label=1), Constraint("balanced_error", at_most=0.45)),
    "ceiling": (Constraint("recall", at_most=0.4, label=1), Constraint("mean_recall", at_least=0.5)),
    "margins": (Constraint("precision", at_least=0.7, label=2), Constraint("min_coverage", at_least=0.2)),
    "matrix": (Constraint("cost", at_most=1.0), Constraint("recall", at_least=0.7, label=3)),
    "groups": (Constraint("worst_group_recall", at_least=0.4), Constraint("demographic_parity_gap", at_most=0.1)),
    # One inside the method, and one of the confidences: neither counts.
    "left out": (
        Constraint("accuracy", at_least=0.99, where=("method",)),
        Constraint("calibration_error", at_most=0.0, where=("search",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("metric", OF_COUNTS)
def test_a_line_is_searched_as_by_brute_force(metric: str) -> None:
    for seed in range(6):
        searched_as_by_brute_force(metric, (), seed)


@pytest.mark.parametrize("bounds", [name for name in BOUNDS if name not in ("none", "left out")])
@pytest.mark.parametrize("metric", ["min_recall", "macro_f1", "recall_gap", "worst_group_recall"])
def test_a_line_is_searched_under_bounds_as_by_brute_force(metric: str, bounds: str) -> None:
    for seed in range(3):
        searched_as_by_brute_force(metric, BOUNDS[bounds], seed)


def searched_as_by_brute_force(metric: str, bounds: Sequence[Constraint], seed: int) -> None:
    """Every point of several lines, one after the other."""
    logits, labels, groups, context = world(seed)
    samples = BiasedLogits(logits, labels, metric, context, groups, bounds)
    samples.move_to(torch.tensor([0.0, 0.25, -0.5, 0.125]))
    best = samples.key()
    assert best == pytest.approx(
        key_of(metric, samples.predicted, labels, groups, context, bounds), nan_ok=True
    )
    for k in (2, 0, 3, 1, 2):
        moved = logits.double() + samples.bias
        moved[:, k] = -torch.inf
        rival, runner_up = moved.max(dim=1)
        flips = rival - logits[:, k]
        ordered = flips.unique()
        points = [float(ordered[0]) - 1, *((ordered[1:] + ordered[:-1]) / 2).tolist(), float(ordered[-1]) + 1]
        tried = [
            (*key_of(metric, torch.where(b > flips, k, runner_up), labels, groups, context, bounds),
             -abs(b - float(samples.bias[k])), b)
            for b in points
        ]  # fmt: skip
        expected = max(tried, key=lambda point: (*rounded(point), point[3]))
        before = float(samples.bias[k])
        found = samples.search_line(k, best)
        if rounded(expected) > rounded(best):
            assert rounded(found) == rounded(expected)
            # Among equals the smallest change; two points may be equally far on the two sides.
            assert abs(float(samples.bias[k]) - before) == pytest.approx(-expected[3])
        else:
            assert (rounded(found), float(samples.bias[k])) == (rounded(best), before)
        best = found


@pytest.mark.parametrize(
    ("bounds", "by_hits", "width"),
    [("none", True, 4), ("recalls", True, 4), ("ceiling", False, 4), ("margins", False, 8),
     ("matrix", False, 16), ("groups", False, 32), ("left out", True, 4)],
)  # fmt: skip
def test_as_few_numbers_and_points_as_the_bounds_need(bounds: str, by_hits: bool, width: int) -> None:
    logits, labels, groups, context = world(0)
    samples = BiasedLogits(logits, labels, "min_recall", context, groups, BOUNDS[bounds])
    assert (samples.by_hits, samples.tally.width) == (by_hits, width)


def test_a_violated_bound_is_below_all_that_hold_whatever_the_metric() -> None:
    """Of 4 samples each: all of class 0 right; and all of class 1, whose floor is 1/2, wrong in the better one."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    better, meets = torch.tensor([0] * 8), torch.tensor([1, 1, 1, 0, 1, 1, 0, 0])
    floor = Constraint("recall", at_least=0.5, label=1)
    tally = Tally(labels, 2, "accuracy", MetricContext(torch.tensor([5, 5])), None, (floor,))
    assert tally.key(better) == (-0.5, 0.5, 0.5)
    assert tally.key(meets) == (0.0, 0.375, 0.375)
    assert tally.key(meets) > tally.key(better)


def test_a_bound_on_groups_needs_the_groups() -> None:
    labels = torch.tensor([0, 1])
    bound = Constraint("worst_group_recall", at_least=0.5)
    tally = Tally(labels, 2, "accuracy", MetricContext(torch.tensor([5, 5]), num_groups=2), None, (bound,))
    with pytest.raises(ValueError, match=r"worst_group_recall .* needs a group attribute"):
        tally.key(labels)


@pytest.mark.parametrize("metric", WIDE)
def test_after_many_moves_the_two_best_classes_are_known(metric: str) -> None:
    logits, labels, groups, context = world(7, classes=5, count=60)
    samples = BiasedLogits(logits, labels, metric, context, groups)
    best = samples.key()
    for k in (0, 1, 2, 3, 4) * 3:
        best = samples.search_line(k, best)
        shifted = (logits.double() + samples.bias).sort(dim=1, descending=True).values
        assert torch.equal(samples.best_value, shifted[:, 0])
        assert torch.equal(samples.next_value, shifted[:, 1])
        assert best == samples.key()


def test_metrics_that_never_fall_with_a_recall_are_those_of_the_table() -> None:
    """Every metric of recalls is tried at random recalls, one of which rises."""
    g = torch.Generator().manual_seed(0)
    context = world(0)[3]
    low = torch.rand(500, 4, generator=g, dtype=torch.float64)
    high = torch.where(torch.rand(500, 4, generator=g) < 0.4, low + (1 - low) * 0.3, low)
    prior = torch.full((4,), 0.25, dtype=torch.float64)
    for key, metric in METRICS.items():
        if metric.of_recalls is not None:
            before, after = (metric.sign * metric.of_recalls(r, prior, context) for r in (low, high))
            rises = bool((after >= before - 1e-12).logical_or(before.isnan()).all())
            assert rises == (key in NONDECREASING), key


@pytest.mark.parametrize("metric", ["macro_f1", "recall_gap"])
def test_thinned_points_are_refined_about_the_best(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, groups, context = world(3, classes=3, count=300)
    whole = BiasedLogits(logits, labels, metric, context, groups)
    exact = whole.search_line(0, whole.key())
    monkeypatch.setattr(line_search, "CANDIDATES", 9)
    thinned = BiasedLogits(logits, labels, metric, context, groups)
    found = thinned.search_line(0, thinned.key())
    assert found == thinned.key()
    assert exact.value - 0.02 <= found.value <= exact.value


def test_memory_is_bounded_by_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, groups, context = world(5, classes=5, count=80)
    for metric in WIDE:
        found = []
        for numbers in (2**18, 7):
            monkeypatch.setattr(line_search, "_NUMBERS_AT_ONCE", numbers)
            samples = BiasedLogits(logits, labels, metric, context, groups)
            best = samples.key()
            for k in range(5):
                best = samples.search_line(k, best)
            found.append((best, samples.bias.tolist(), samples.predictions(samples.bias).tolist()))
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("min_recall", [0.25 - 0.75, 0.25, 0.25]),
        # Precisions 1/2, 0, and 1 for a class that is never predicted.
        ("min_precision", [0.0, -0.5, 0.5]),
        # Shares 6/7, 1/7 and 0 of the predictions, where each is to have 1/3.
        ("min_coverage", [1 - 18 / 7, 1 - 3 / 7, 1.0]),
        # The head, classes 0 and 1, has a mean recall of 3/8, the tail of 0.
        ("min_head_tail_recall", [-0.125, -0.125, 0.25]),
    ],
)
def test_the_shortfall_by_hand(metric: str, expected: list[float]) -> None:
    """Of four samples of class 0 three are right and one is predicted as 1; all others are predicted as 0."""
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 0, 0, 0])
    tally = Tally(labels, 3, metric, MetricContext(torch.tensor([9, 5, 1])), None)
    assert tally.shortfall(predicted).tolist() == pytest.approx(expected)


def banned(seed: int, classes: int = 4, count: int = 40) -> tuple[Tensor, Tensor, Tensor, MetricContext]:
    """A world in which many scores are -inf, up to all but one of a row."""
    logits, labels, groups, context = world(seed, classes, count)
    g = torch.Generator().manual_seed(seed + 100)
    never = torch.rand(count, classes, generator=g) < 0.3
    never[:4] = torch.eye(classes)[:4] == 0
    never[torch.arange(count), torch.randint(classes, (count,), generator=g)] = False
    never[2, 2], never[3, 3] = False, False
    return logits.masked_fill(never, -torch.inf), labels, groups, context


@pytest.mark.parametrize("metric", [*WIDE, "mcc", "g_mean", "worst_group_recall"])
def test_a_score_of_minus_infinity_never_wins(metric: str) -> None:
    """On every line: what is reached is the best of all points, and the two best classes stay known."""
    for seed in range(2):
        logits, labels, groups, context = banned(seed)
        samples = BiasedLogits(logits, labels, metric, context, groups)
        best = samples.key()
        for k in range(4):
            other = samples.bias.clone()
            best = samples.search_line(k, best)
            shifted = logits.double() + samples.bias
            assert torch.equal(samples.predicted, shifted.argmax(dim=1))
            assert bool(torch.isfinite(samples.bias).all())
            assert not bool((logits[torch.arange(len(logits)), samples.predicted] == -torch.inf).any())
            assert best == samples.key()
            others = (logits.double() + other)[:, [each for each in range(4) if each != k]]
            flips = torch.unique(others.amax(dim=1) - logits[:, k].double())
            flips = flips[torch.isfinite(flips)]
            points = torch.cat([flips[:1] - 1.0, (flips[1:] + flips[:-1]) / 2.0, flips[-1:] + 1.0])
            keys = []
            for value in points:
                other[k] = value
                predicted = (logits.double() + other).argmax(dim=1)
                keys.append(rounded(key_of(metric, predicted, labels, groups, context)))
            assert rounded(best) >= max(keys)


def test_where_no_bias_moves_a_sample_nothing_is_moved() -> None:
    logits = torch.full((6, 3), -torch.inf)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    logits[torch.arange(6), labels.roll(1)] = 1.0
    found = bias_search(logits, labels, "min_recall", MetricContext(torch.ones(3)))
    assert torch.equal(found - found[0], torch.zeros(3))
    # One sample alone can move, and does.
    logits[0, 0] = 0.0
    found = bias_search(logits, labels, "accuracy", MetricContext(torch.ones(3)))
    assert int((logits[0] + found).argmax()) == 0
