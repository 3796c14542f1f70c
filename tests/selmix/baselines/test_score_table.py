"""A table of labels and scores: metrics of every kind, and where no correction can be searched."""

from __future__ import annotations

import pytest
import torch

from selmix.baselines import score_table
from selmix.baselines.score_table import assess, thinned
from selmix.metrics import MetricContext


def table(classes: int, each: int) -> tuple[torch.Tensor, torch.Tensor, MetricContext, tuple[str, ...]]:
    labels = torch.arange(classes).repeat(each)
    scores = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(0))
    scores[torch.arange(len(labels)), labels] += 3.0
    return labels, scores, MetricContext(torch.ones(classes)), tuple(f"k{k}" for k in range(classes))


def test_a_metric_of_predictions_has_neither_correction_nor_number_of_samples() -> None:
    labels, scores, context, names = table(3, 4)
    found = assess(labels, scores, "calibration_error", context, names)
    assert found.correction is None
    assert found.samples_needed is None
    assert not found.is_resolved


def test_of_a_metric_of_the_whole_matrix_the_samples_cannot_be_worked_out() -> None:
    labels, scores, context, names = table(3, 4)
    found = assess(labels, scores, "macro_f1", context, names)
    assert found.samples_needed is None
    assert found.correction is not None
    assert len(found.correction.biases) == 3


@pytest.mark.parametrize("most", [2, 3])
def test_a_correction_is_searched_up_to_a_number_of_classes(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_table, "MAX_CLASSES_CORRECTED", most)
    labels, scores, context, names = table(3, 2)
    assert (assess(labels, scores, "mean_recall", context, names).correction is None) == (most < 3)


def test_one_sample_of_each_class_is_enough_but_for_a_correction() -> None:
    labels, _, context, names = table(3, 1)
    found = assess(labels, 9.0 * torch.eye(3)[labels], "min_recall", context, names)
    assert found.value.value == 1.0
    assert found.correction is None


def test_equal_recalls_keep_the_order_of_the_classes() -> None:
    labels, _, context, names = table(3, 5)
    found = assess(labels, 9.0 * torch.eye(3)[labels], "min_recall", context, names)
    assert [row.name for row in found.classes] == list(names)
    for row in found.classes:  # five of five: the exact bound is 0.025 ** (1 / 5)
        assert (row.samples, row.recall.value, row.recall.high) == (5, 1.0, 1.0)
        assert row.recall.low == pytest.approx(0.025 ** (1 / 5))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_scores_that_are_inf_or_nan_are_refused_by_their_row(value: float) -> None:
    labels, scores, context, names = table(3, 2)
    scores[4, 1] = value
    with pytest.raises(ValueError, match="row 5: scores must be"):
        assess(labels, scores, "min_recall", context, names)


def test_all_classes_without_a_sample_are_named() -> None:
    labels, scores, context, names = table(3, 2)
    with pytest.raises(ValueError, match="every class must have a sample, got none of k0, k2"):
        assess(torch.ones_like(labels), scores, "min_recall", context, names)


@pytest.mark.parametrize("keep_shares", [False, True])
def test_samples_are_thinned_within_strata(keep_shares: bool) -> None:
    rows = torch.tensor([0] * 600 + [1] * 300 + [3] * 20)
    chosen = thinned(rows, 100, keep_shares)
    kept = torch.bincount(rows[chosen], minlength=4).tolist()
    # In proportion, rounded up; or the small stratum whole and the large ones alike.
    assert kept == ([66, 33, 0, 3] if keep_shares else [40, 40, 0, 20])
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, thinned(rows, 100, keep_shares))


@pytest.mark.parametrize("metric", ["min_recall", "accuracy"])
def test_a_large_table_is_fitted_on_a_part_and_evaluated_whole(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, scores, context, names = table(3, 200)
    scores[:, 0] += 2.0
    whole = assess(labels, scores, metric, context, names).correction
    monkeypatch.setattr(score_table, "MAX_SAMPLES_FITTED", 150)
    part = assess(labels, scores, metric, context, names).correction
    assert whole is not None
    assert part is not None
    assert part.biases != whole.biases
    assert part.value == pytest.approx(whole.value, abs=0.05)
    assert (600 * part.value) == pytest.approx(round(600 * part.value)) or metric == "min_recall"
