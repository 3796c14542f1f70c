"""A metric of many weights at once is that of each weight by itself, whatever numbers it needs."""

from __future__ import annotations

import pytest
import torch

from selmix.baselines import tally as module
from selmix.baselines.tally import Tally
from selmix.metrics import MetricContext

CLASSES, SAMPLES, DRAWS = 5, 60, 7


@pytest.mark.parametrize("at_once", [1, 2**22])
@pytest.mark.parametrize(
    "metric",
    ["min_recall", "g_mean", "min_precision", "min_coverage", "macro_f1", "mcc", "worst_group_recall"],
)
def test_many_weights_at_once(metric: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(SAMPLES) % CLASSES
    groups = torch.arange(SAMPLES) // CLASSES % 2
    predicted = torch.where(
        torch.rand(SAMPLES, generator=draw) < 0.6, labels, torch.randint(CLASSES, (SAMPLES,), generator=draw)
    )
    context = MetricContext(torch.arange(CLASSES) + 10, num_groups=2)
    tally = Tally(labels, CLASSES, metric, context, groups)
    weights = torch.stack([
        torch.bincount(
            torch.cat([
                rows[torch.randint(len(rows), (len(rows),), generator=draw)]
                for rows in (torch.nonzero(tally.rows == row).flatten() for row in tally.rows.unique())
            ]),
            minlength=SAMPLES,
        )
        for _ in range(DRAWS)
    ])  # fmt: skip
    expected = [tally.key(predicted, each).value for each in weights]
    assert tally.values(predicted, weights.double()).tolist() == expected
    assert len(set(expected)) > 1
