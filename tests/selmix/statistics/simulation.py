"""Draws predictions of models whose true recalls are known."""

from __future__ import annotations

import torch
from torch import Tensor

from selmix.metrics import MetricContext, Predictions

CLASSES, SAMPLES = 10, 24
CONTEXT = MetricContext(train_counts=torch.arange(CLASSES, 0, -1) * 10)

TRUTHS: dict[str, list[float]] = {
    "all .5": [0.5] * 10,
    "all .8": [0.8] * 10,
    "all .95": [0.95] * 10,
    "all .995": [0.995] * 10,
    "one weak": [0.95] * 9 + [0.5],
    "two weak": [0.98] * 8 + [0.7, 0.75],
    "spread": [0.5 + 0.05 * k for k in range(10)],
}


def draw(truth: list[float], generator: torch.Generator, samples: int = SAMPLES) -> Predictions:
    """Predictions right with the class's probability, else any other class."""
    labels = torch.arange(CLASSES).repeat_interleave(samples)
    right = torch.rand(len(labels), generator=generator) < torch.tensor(truth)[labels]
    wrong = (labels + torch.randint(1, CLASSES, labels.shape, generator=generator)) % CLASSES
    return Predictions(labels, torch.where(right, labels, wrong), torch.full((len(labels),), 0.5))


def true_value(key: str, truth: list[float]) -> float:
    from selmix.metrics import METRICS

    metric = METRICS[key].of_recalls
    assert metric is not None
    return float(
        metric(torch.tensor(truth, dtype=torch.float64), torch.full((10,), 0.1, dtype=torch.float64), CONTEXT)
    )


def true_of_matrix(key: str, truth: list[float]) -> float:
    """The value of a metric of the matrix that :func:`draw` draws from."""
    from selmix.metrics import METRICS

    right = torch.tensor(truth, dtype=torch.float64)
    shares = ((1.0 - right) / (CLASSES - 1)).unsqueeze(1).expand(-1, CLASSES).clone()
    shares.diagonal().copy_(right)
    return float(METRICS[key].of(shares / CLASSES, CONTEXT))


def coverage(key: str, truth: list[float], repetitions: int, seed: int = 0) -> float:
    """Share of the shown intervals that hold the true value."""
    from selmix.metrics import METRICS
    from selmix.statistics.intervals import metric_interval

    generator = torch.Generator().manual_seed(seed)
    target = (true_value if METRICS[key].of_recalls is not None else true_of_matrix)(key, truth)
    hits = 0
    for _ in range(repetitions):
        interval = metric_interval(key, draw(truth, generator), CONTEXT)
        hits += interval.low - 1e-12 <= target <= interval.high + 1e-12
    return hits / repetitions


def verdicts(
    ours: Tensor | list[float], theirs: list[float], repetitions: int, seed: int = 0
) -> dict[str, float]:
    """Shares of the outcomes of min recall over independent draws of two models."""
    from selmix.statistics.comparison import outcome, paired_difference

    generator = torch.Generator().manual_seed(seed)
    counts = {"better": 0, "tied": 0, "worse": 0}
    for _ in range(repetitions):
        a, b = draw(list(ours), generator), draw(theirs, generator)
        counts[outcome(paired_difference("min_recall", [a], [b], CONTEXT))] += 1
    return {name: count / repetitions for name, count in counts.items()}
