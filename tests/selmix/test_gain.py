"""The gain against golden numbers, loops over all indices, and its definition."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from selmix.confusion import logit_gradient, smooth_confusion
from selmix.gain import gain_matrix
from selmix.objectives import OBJECTIVES, PUBLISHED, ObjectiveContext, tail_classes
from selmix.policy import sampling_policy
from tests.oracles.gain import gain_by_loops, gain_by_step

GOLDEN = Path(__file__).parent / "golden"
NO_TAIL = ObjectiveContext(tail=torch.zeros(4, dtype=torch.bool))


def golden(classes: int) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"gain_k{classes}.npz") as archive:
        return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive}


def world(seed: int, strata: int, classes: int, dim: int) -> tuple[torch.Tensor, ...]:
    """Random confusion of a non-uniform prior, prototypes, classifier and the labels of the strata."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (strata - classes,), generator=g)])
    counts = torch.rand(strata, classes, generator=g, dtype=torch.float64) + 0.05
    counts[torch.arange(strata), labels] += 1.0
    counts *= torch.rand(strata, 1, generator=g, dtype=torch.float64) + 0.2
    z = torch.randn(strata, dim, generator=g, dtype=torch.float64)
    w = torch.randn(classes, dim, generator=g, dtype=torch.float64)
    b = torch.randn(classes, generator=g, dtype=torch.float64)
    return counts / counts.sum(), z, w, b, labels


# The golden head-and-tail figures of K = 4 have an empty tail. Its recall and its coverage count as 0 there, so that
# its multiplier takes all weight (min_head_tail_recall: a gain of 0) or stands in the divisor alone.
EMPTY_TAIL_DIVISOR = {"mean_recall_min_head_tail_coverage": 1.0 + 99.99982659}


@pytest.mark.parametrize("classes", [4, 10])
@pytest.mark.parametrize("name", PUBLISHED)
def test_gain_equals_golden(classes: int, name: str) -> None:
    if classes == 4 and name == "min_head_tail_recall":
        assert golden(4)["min_head_tail_recall/gain"].abs().max() < 1e-11  # nothing to compare with
        return
    stored = golden(classes)
    context = NO_TAIL if classes == 4 and "head_tail" in name else ObjectiveContext()
    gradient = logit_gradient(partial(OBJECTIVES[name], context=context), stored["confusion"])
    gain = gain_matrix(
        stored["prototypes"], stored["weight"], stored["bias"], gradient, float(stored["mixup_coefficient"])
    )
    divisor = EMPTY_TAIL_DIVISOR.get(name, 1.0) if classes == 4 else 1.0
    assert torch.allclose(gradient / divisor, stored[f"{name}/logit_gradient"], rtol=0, atol=1e-9)
    assert torch.allclose(gain / divisor, stored[f"{name}/gain"], rtol=0, atol=1e-9)


def test_golden_gradient_of_c() -> None:
    stored = golden(10)
    for name in PUBLISHED:
        matrix = stored["confusion"].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(OBJECTIVES[name](matrix), matrix)
        assert torch.allclose(gradient, stored[f"{name}/objective_gradient"], rtol=0, atol=1e-9), name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("strata", "classes"), [(2, 2), (5, 5), (7, 4), (3, 3)])
def test_gain_equals_loops(seed: int, strata: int, classes: int) -> None:
    confusion, z, w, b, labels = world(seed, strata, classes, 6)
    gradient = logit_gradient(
        partial(OBJECTIVES["h_mean"], context=ObjectiveContext(labels=labels)), confusion
    )
    gain = gain_matrix(z, w, b, gradient, 0.7, labels)
    assert torch.allclose(gain, gain_by_loops(z, w, b, gradient, 0.7, labels.tolist()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mean_recall", "g_mean", "h_mean", "min_recall", "min_head_tail_recall"])
@pytest.mark.parametrize(("strata", "classes"), [(5, 5), (6, 4)])
def test_gain_is_the_change_per_step(name: str, strata: int, classes: int) -> None:
    confusion, z, w, b, labels = world(11, strata, classes, 4)
    context = ObjectiveContext(labels=labels)
    if name.startswith("min"):  # multipliers are held constant over a step
        weights = torch.softmax(torch.arange(strata, dtype=torch.float64), dim=0)
        context = dataclasses.replace(context, multipliers=weights)
    objective = partial(OBJECTIVES[name], context=context)
    gain = gain_matrix(z, w, b, logit_gradient(objective, confusion), 0.8, labels)
    step = gain_by_step(objective, confusion, z, w, b, 0.8, labels.tolist(), eta=1e-5)
    assert torch.allclose(gain, step, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["mean_recall_min_coverage", "h_mean_min_head_tail_coverage"])
def test_gain_of_coverage_is_the_change_per_step(name: str) -> None:
    confusion, z, w, b, _ = world(3, 5, 5, 4)
    fixed = ObjectiveContext(
        coverage_multipliers=torch.tensor([0.0, 2.0, 0.5, 7.0, 1.0], dtype=torch.float64)
    )
    objective = partial(OBJECTIVES[name], context=fixed)
    gain = gain_matrix(z, w, b, logit_gradient(objective, confusion), 0.8)
    assert torch.allclose(
        gain, gain_by_step(objective, confusion, z, w, b, 0.8, list(range(5)), 1e-5), atol=1e-8
    )


def test_relabelling_permutes_gain_and_policy() -> None:
    confusion, z, w, b, _ = world(5, 6, 6, 5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    objective = OBJECTIVES["g_mean"]
    gain = gain_matrix(z, w, b, logit_gradient(objective, confusion), 0.8)
    shuffled = confusion[order][:, order]
    permuted = gain_matrix(z[order], w[order], b[order], logit_gradient(objective, shuffled), 0.8)
    assert torch.allclose(permuted, gain[order][:, order], atol=1e-12)
    assert torch.allclose(
        sampling_policy(permuted, 0.1), sampling_policy(gain, 0.1)[order][:, order], atol=1e-10
    )


@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
def test_gain_survives_logits_far_apart(scale: float) -> None:
    confusion, z, w, b, labels = world(7, 5, 5, 6)
    gradient = logit_gradient(OBJECTIVES["mean_recall"], confusion)
    gain = gain_matrix(z, scale * w, b, gradient, 0.8)
    expected = gain_by_loops(z, scale * w, b, gradient, 0.8, labels.tolist())
    assert torch.allclose(gain, expected, rtol=1e-9, atol=1e-12)


def test_a_class_without_recall_gets_the_gain() -> None:
    counts = torch.diag(torch.full((5,), 20.0, dtype=torch.float64))
    counts[2, 2], counts[2, 0] = 0.0, 20.0
    confusion = smooth_confusion(counts)
    _, z, w, b, _ = world(2, 5, 5, 8)
    context = ObjectiveContext()
    for name in ("min_recall", "g_mean", "h_mean"):
        gradient = logit_gradient(partial(OBJECTIVES[name], context=context), confusion)
        gain = gain_matrix(z, w, b, gradient, 0.8)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(gain).all()
        if name == "min_recall":
            z_far = torch.eye(
                5, 8, dtype=torch.float64
            )  # distinct prototypes: no other class stands in for it
            far = gain_matrix(z_far, w, b, gradient, 0.8)
            assert far.amax(dim=1).argmax() == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prototypes": torch.zeros(3, 4)}, "shapes must be"),
        ({"bias": torch.zeros(4)}, "shapes must be"),
        ({"mixup_coefficient": 1.5}, r"\[0, 1\], got 1.5"),
        ({"weight": torch.full((5, 6), float("nan"))}, "weight must be finite"),
        ({"labels": torch.tensor([0, 1, 2, 3, 9])}, "labels must be"),
    ],
)
def test_gain_refuses(change: dict[str, object], message: str) -> None:
    confusion, z, w, b, _ = world(1, 5, 5, 6)
    arguments = {"prototypes": z, "weight": w, "bias": b, "mixup_coefficient": 0.8, "labels": None}
    arguments["logit_gradient"] = logit_gradient(OBJECTIVES["h_mean"], confusion)
    gain_matrix(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        gain_matrix(**(arguments | change))  # type: ignore[arg-type]


def test_strata_need_labels() -> None:
    confusion, z, w, b, labels = world(1, 7, 4, 6)
    gradient = logit_gradient(
        partial(OBJECTIVES["h_mean"], context=ObjectiveContext(labels=labels)), confusion
    )
    with pytest.raises(ValueError, match="labels are needed"):
        gain_matrix(z, w, b, gradient, 0.8)


def test_the_tail_holds_a_class() -> None:
    assert tail_classes(4).tolist() == [False, False, False, True]
    assert tail_classes(10).sum() == 1
    assert tail_classes(3, torch.tensor([1, 50, 20])).tolist() == [True, False, False]
    assert torch.isfinite(OBJECTIVES["min_head_tail_recall"](golden(4)["confusion"]))


@pytest.mark.parametrize("classes", [4, 10])
@pytest.mark.parametrize("name", ["mean_recall", "min_recall", "g_mean", "h_mean"])
def test_the_formula_of_the_released_code(classes: int, name: str) -> None:
    """What the published code prints of the same arrays; the exact formula differs from it off the diagonal."""
    stored = golden(classes)
    gradient = stored[f"{name}/logit_gradient"]
    arguments = (
        stored["prototypes"],
        stored["weight"],
        stored["bias"],
        gradient,
        float(stored["mixup_coefficient"]),
    )
    published = gain_matrix(*arguments, formula="released_code")
    torch.testing.assert_close(
        published, stored[f"{name}/gain_published_code"].double(), rtol=1e-6, atol=1e-8
    )
    exact = gain_matrix(*arguments)
    torch.testing.assert_close(published.diagonal(), exact.diagonal())
    assert not torch.allclose(published, exact)
    with pytest.raises(ValueError, match="formula must be one of exact, released_code, got 'paper'"):
        gain_matrix(*arguments, formula="paper")


def test_the_gain_of_a_step_of_weights_and_bias() -> None:
    """The same as a feature that is always 1: its weight is the bias, which then is not shifted."""
    confusion, z, w, b, labels = world(3, 6, 4, 5)
    gradient = logit_gradient(
        partial(OBJECTIVES["mean_recall"], context=ObjectiveContext(labels=labels)), confusion
    )
    ones = torch.ones(len(z), 1, dtype=torch.float64)
    wide = gain_matrix(
        torch.cat([z, ones], 1), torch.cat([w, b.unsqueeze(1)], 1), torch.zeros_like(b), gradient, 0.8, labels
    )
    torch.testing.assert_close(gain_matrix(z, w, b, gradient, 0.8, labels, with_bias=True), wide)
