"""Splits: sizes, disjointness, determinism, and the optimum of the Gaussian world."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.optimum import SMOOTH_OBJECTIVES, optimum
from selmix.data import build_data_config
from selmix.data.digits import SAMPLES_OF_CLASS, DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.longtail import long_tailed_counts, split_by_class
from selmix.data.splits import Split, join


def test_long_tailed_counts() -> None:
    assert long_tailed_counts(10, 80, 20) == [round(80 * 20 ** (-k / 9)) for k in range(10)]
    assert long_tailed_counts(3, 100, 100) == [100, 10, 1]
    assert long_tailed_counts(3, 5, 1000)[-1] == 1
    assert long_tailed_counts(1, 7, 3) == [7]


def test_digits_have_the_sizes_asked_for() -> None:
    config = DigitsConfig(imbalance=50, largest_class=74, feedback=30, select=30, test=40, seed=3)
    data, test = config.load(), config.load_test()
    assert data.train_counts.tolist() == long_tailed_counts(10, 74, 50)
    for split, size in ((data.feedback, 30), (data.select, 30), (test, 40)):
        assert split.counts(10).tolist() == [size] * 10
    assert data.train.inputs.shape[1:] == (1, 8, 8)
    assert 0.0 <= float(data.train.inputs.min()) <= float(data.train.inputs.max()) == 1.0
    assert data.missing_classes("feedback") == []


def test_no_sample_lies_in_two_splits() -> None:
    config = DigitsConfig(seed=1)
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(SAMPLES_OF_CLASS))
    sizes = [config.train_sizes, [20] * 10, [24] * 10, [50] * 10]
    parts = split_by_class(labels, sizes, torch.Generator().manual_seed(1))
    together = torch.cat(parts)
    assert len(together.unique()) == len(together) == sum(map(sum, sizes))


def test_digits_of_a_seed() -> None:
    one, same, other = DigitsConfig(seed=1).load(), DigitsConfig(seed=1).load(), DigitsConfig(seed=2).load()
    assert one.digests == same.digests
    assert set(one.digests) == {"train", "feedback", "select", "test"}
    assert all(one.digests[split] != other.digests[split] for split in one.digests)
    assert one.digests["test"] == DigitsConfig(seed=1).load_test().digest()
    changed = Split(one.train.inputs.clone(), one.train.labels)
    changed.inputs[0, 0, 0, 0] += 0.01
    assert changed.digest() != one.digests["train"]


def test_digits_refuse_what_the_data_do_not_hold() -> None:
    with pytest.raises(ValueError, match="class 0 holds 178 samples, the splits ask for 194"):
        DigitsConfig(largest_class=100)
    with pytest.raises(ValueError, match="imbalance: must be >= 1") as caught:
        DigitsConfig(imbalance=0.5, select=0)
    assert "select: must be >= 1 sample per class, got 0" in str(caught.value)
    with pytest.raises(ValueError, match=r"data\.name: must be one of digits, gaussians"):
        build_data_config("mnist")
    with pytest.raises(ValueError, match="class 1 holds 1 samples, the splits ask for 2"):
        split_by_class(torch.tensor([0, 0, 1]), [[1, 1], [1, 1]], torch.Generator())


def test_a_class_without_feedback_is_named() -> None:
    data = DigitsConfig(feedback=0).load()
    assert data.missing_classes("feedback") == [str(k) for k in range(10)]


def test_splits() -> None:
    split = Split(torch.arange(6.0).view(3, 2), torch.tensor([0, 2, 2]))
    assert split.counts(3).tolist() == [1, 0, 2]
    assert split.take(split.labels == 2).inputs.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert len(join(split, split)) == 6
    with pytest.raises(ValueError, match="one label per sample"):
        Split(torch.zeros(3, 2), torch.tensor([0, 1]))


def test_gaussians_follow_their_world() -> None:
    config = GaussiansConfig(seed=4, test=20_000)
    means, spreads = config.world()
    assert means.norm(dim=1).tolist() == pytest.approx([config.separation] * 6)
    test = config.load_test()
    for k in range(6):
        rows = test.inputs[test.labels == k].double()
        assert torch.allclose(rows.mean(dim=0), means[k], atol=6 * float(spreads[k]) / math.sqrt(20_000))
        assert float(rows.std(dim=0).mean()) == pytest.approx(float(spreads[k]), rel=0.02)
    data = config.load()
    assert data.train_counts.tolist() == long_tailed_counts(6, 400, 20)
    assert GaussiansConfig(seed=4, test=20_000, feedback=7).load_test().digest() == test.digest()
    with pytest.raises(ValueError, match="classes: must be >= 2, got 1"):
        GaussiansConfig(classes=1)
    with pytest.raises(ValueError, match="separation: must be > 0"):
        GaussiansConfig(separation=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("objective", SMOOTH_OBJECTIVES)
def test_the_optimum_of_two_gaussians_in_closed_form(objective: str) -> None:
    config = GaussiansConfig(classes=2, dim=3, separation=1.5, seed=2)
    means, spreads = config.world()
    found = optimum(config, objective, fit_samples=20_000, fresh_samples=50_000)
    assert found.value == pytest.approx(_best_of_two(means, spreads, objective), abs=0.006)


def _best_of_two(means: torch.Tensor, spreads: torch.Tensor, objective: str) -> float:
    """By symmetry the best direction is that of the difference; the threshold on it is scanned."""
    distance = float((means[0] - means[1]).norm())
    at = torch.linspace(-6.0, 6.0 + distance, 4001, dtype=torch.float64)
    first = torch.special.ndtr(at / spreads[0])
    second = torch.special.ndtr((distance - at) / spreads[1])
    misses = torch.stack([1 - first, 1 - second])
    precisions = first / (first + 1 - second), second / (second + 1 - first)
    covered = (torch.minimum(first + 1 - second, second + 1 - first) / 2) >= 0.95 / 2
    values = {
        "cvar_recall": torch.minimum(first, second),  # of two classes the worst 0.6 are the worst one
        "q_mean": 1 - misses.square().mean(dim=0).sqrt(),
        "macro_f1": (2 * first / (2 + first - second) + 2 * second / (2 + second - first)) / 2,
        "min_precision": torch.minimum(*precisions).nan_to_num(),
        "mean_recall_min_coverage": torch.where(covered, (first + second) / 2, 0.0),
        "min_recall": torch.minimum(first, second),
        "mean_recall": (first + second) / 2,
        "g_mean": (first * second).sqrt(),
        "h_mean": 2 / (1 / first + 1 / second),
    }
    return float(values[objective].max())


def test_no_optimum_of_other_objectives() -> None:
    with pytest.raises(ValueError, match="no optimum for 'recall_gap'; there are mean_recall"):
        optimum(GaussiansConfig(), "recall_gap", 10, 10)
