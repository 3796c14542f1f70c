"""Group DRO: the smallest worst-cell loss that there is, and nothing that its inputs' units change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.baselines.group_dro import group_dro_head


def cells(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """One feature; class 1 lies above class 0 in group 0, and nearer to it in the small group 1."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([60, 10, 40, 15])
    strata = torch.arange(4).repeat_interleave(sizes)
    centre = torch.tensor([-1.0, 0.2, 1.0, 0.4])[strata]
    return (centre + 0.8 * torch.randn(len(strata), generator=g)).unsqueeze(1), strata // 2, strata


def worst_loss(logits: Tensor, labels: Tensor, strata: Tensor) -> float:
    losses = F.cross_entropy(logits, labels, reduction="none")
    return max(float(losses[strata == cell].mean()) for cell in strata.unique())


def test_its_worst_cell_is_as_good_as_the_best_of_a_grid() -> None:
    """With one feature and two classes only slope and offset of the logit matter, and all of them can be tried."""
    features, labels, strata = cells()
    weight, bias = group_dro_head(features, labels, strata, 2, 0.0)
    x, best = features.double().squeeze(1), float("inf")
    for slope in torch.linspace(-1.0, 4.0, 51).tolist():
        for offset in torch.linspace(-3.0, 3.0, 61).tolist():
            logit = slope * x + offset
            best = min(best, worst_loss(torch.stack([torch.zeros_like(logit), logit], dim=1), labels, strata))
    found = worst_loss(features.double() @ weight.T + bias, labels, strata)
    assert (
        found <= best + 0.01
    )  # 500 steps of Adam come near the saddle point; the grid is off by less than 0.001
    assert found >= best - 0.005


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (0.001, 5.0)])
def test_units_of_the_features_do_not_matter(scale: float, shift: float) -> None:
    features, labels, strata = cells()
    features = features.double()
    plain, bias = group_dro_head(features, labels, strata, 2, 1e-2)
    other, offset = group_dro_head(scale * features + shift, labels, strata, 2, 1e-2)
    logits = (scale * features + shift) @ other.T + offset
    assert torch.allclose(logits, features @ plain.T + bias, atol=1e-6)


def test_cells_may_be_missing_and_samples_come_in_any_order() -> None:
    features, labels, strata = cells()
    weight, bias = group_dro_head(features, labels, strata, 2, 1e-2)
    gaps = group_dro_head(features, labels, 5 * strata + 3, 2, 1e-2)
    assert torch.equal(gaps[0], weight)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    mixed = group_dro_head(features[order], labels[order], strata[order], 2, 1e-2)
    assert torch.allclose(mixed[0], weight, atol=1e-6)
    assert torch.allclose(mixed[1], bias, atol=1e-6)


def test_one_cell_of_each_class_is_plain_minimax_over_classes() -> None:
    """Of two mirrored classes the boundary lies in the middle, however unequal their sizes."""
    x = torch.tensor([[-1.5], [-0.5], [0.2], [1.5], [0.5], [-0.2]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    more = torch.cat([torch.arange(6), torch.arange(3).repeat(5)])
    weight, bias = group_dro_head(x[more], labels[more], labels[more], 2, 1e-1)
    slope, offset = weight[1, 0] - weight[0, 0], bias[1] - bias[0]
    assert float(slope) > 0
    assert float(-offset / slope) == pytest.approx(0.0, abs=0.02)


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels, strata = cells()
    wide = torch.cat([features, torch.full_like(features, 0.3)], dim=1)
    weight, bias = group_dro_head(wide, labels, strata, 2, 1e-2)
    assert weight[:, 1].abs().max() < 1e-9
    plain, offset = group_dro_head(features, labels, strata, 2, 1e-2)
    assert torch.allclose(wide.double() @ weight.T + bias, features.double() @ plain.T + offset, atol=1e-6)
