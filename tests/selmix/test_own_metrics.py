"""Functions of a user's own as metrics: of torch and of numpy, one matrix at a time, with their defaults."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selmix.baselines.post_hoc import bias_search
from selmix.confusion import logit_gradient, smooth_rows
from selmix.definitions import Definitions
from selmix.metrics import (
    METRICS,
    MetricContext,
    Predictions,
    compute_metric,
    evaluate_predictions,
    metric_named,
)
from selmix.objectives import ObjectiveContext, bind_objective, metric_of_objective
from selmix.own_metrics import OwnFunction, OwnFunctionError, differences, own_function
from selmix.statistics.selection import Constraint, SelectionRule, rank, score_of_counts

COUNTS = torch.tensor([[18.0, 1.0, 1.0], [4.0, 15.0, 1.0], [6.0, 2.0, 12.0]], dtype=torch.float64)
CONTEXT = MetricContext(torch.tensor([50, 10, 5]))
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])
SHAPES: list[tuple[int, ...]] = []


def macro_f1(confusion: Tensor, beta: float = 1.0) -> Tensor:
    """F_beta, at its default the metric of that name."""
    SHAPES.append(tuple(confusion.shape))
    hits = confusion.diagonal()
    recall, precision = hits / confusion.sum(1), hits / confusion.sum(0).clamp_min(1e-12)
    return ((1 + beta**2) * precision * recall / (beta**2 * precision + recall).clamp_min(1e-12)).mean()


def numpy_f1(confusion: Any) -> Any:
    assert isinstance(confusion, np.ndarray)
    size = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.mean(2.0 * np.diag(confusion) / size)


def mean_error(confusion: Tensor) -> Tensor:
    return 1.0 - (confusion.diagonal() / confusion.sum(1)).mean()


mean_error.lower_is_better = True  # type: ignore[attr-defined]


def tail_recall(confusion: Tensor, context: Any) -> Tensor:
    return (confusion.diagonal() / confusion.sum(1))[context.train_counts < 20].mean()


def branching(confusion: Tensor) -> float:
    """A function that leaves torch on the way: it is called one by one, and has no gradient of its own."""
    recalls = [float(row[k] / row.sum()) for k, row in enumerate(confusion)]
    return min(recalls) if min(recalls) > 0.5 else 0.5 * sum(recalls) / len(recalls)


def held(confusion: Tensor) -> Tensor:
    """Autograd sees half of what it depends on."""
    recalls = confusion.diagonal() / confusion.sum(1)
    return (torch.softmax(-5.0 * recalls, 0).detach() * recalls).sum()


GOOD: dict[str, Callable[..., Any]] = {
    "macro_f1": macro_f1, "numpy_f1": numpy_f1, "mean_error": mean_error, "tail_recall": tail_recall,
    "branching": branching, "held": held,
    "weight": lambda confusion, w=WEIGHTS: (w * confusion.diagonal() / confusion.sum(1)).sum(),
}  # fmt: skip

BAD: dict[str, tuple[Callable[..., Any], str]] = {
    "vector": (
        lambda c: c.diagonal() / c.sum(1),
        r"must return one number, got Tensor of shape \(3,\) of a 3 x 3",
    ),
    "array": (lambda c: np.diag(np.asarray(c)), r"must return one number, got ndarray of shape \(3,\)"),
    "nothing": (lambda c: None, "must return one number, got NoneType"),
    "words": (lambda c: "0.5", "must return one number, got str"),
    "nan": (
        lambda c: (c.diagonal() / c.sum(0)).mean(),
        r"finite number, got nan on a 3 x 3 confusion matrix in which 1 of the classes are never predicted \(of a",
    ),
    "infinite": (lambda c: (c.diagonal() / c.sum(1)).log().mean(), "must be a finite number, got -inf"),
    "raises": (lambda c: c["x"], "fails on a 3 x 3 confusion matrix"),
    "argument": (lambda c, *, beta: c.sum() * beta, "fails on a 3 x 3 confusion matrix: TypeError: .*beta"),
    "exits": (
        lambda c: sys.exit(3),
        r"fails on a 3 x 3 confusion matrix: RuntimeError: it called sys\.exit\(3\)",
    ),
    "scale": (
        lambda c: c.diagonal().sum(),
        "must not depend on the scale of C, got 60 of counts and 1 of the same",
    ),
    "both": (lambda c: c.std() / c.mean(), "must be a function of torch or of numpy, got .* of a tensor and"),
}


@pytest.fixture(autouse=True)
def users_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("users_metrics")
    vars(module).update(GOOD | {name: each for name, (each, _) in BAD.items()})
    monkeypatch.setitem(sys.modules, "users_metrics", module)
    SHAPES.clear()
    yield
    SHAPES.clear()


def of(name: str) -> OwnFunction:
    return own_function(f"users_metrics:{name}")


@pytest.mark.parametrize("name", ["macro_f1", "numpy_f1"])
def test_a_function_of_torch_or_numpy_is_the_metric_that_it_computes(name: str) -> None:
    batch = torch.stack([COUNTS, COUNTS.T, COUNTS + 1.0]).view(1, 3, 3, 3)
    expected = METRICS["macro_f1"].of(batch, CONTEXT)
    assert torch.allclose(compute_metric(f"users_metrics:{name}", batch, CONTEXT), expected, atol=1e-12)
    # On shares as on counts, and on one matrix alone.
    assert float(of(name)(COUNTS / 60.0, CONTEXT)) == pytest.approx(float(expected[0, 0]))
    assert of(name)(batch, CONTEXT).shape == (1, 3)
    assert of(name).takes_numpy(3, CONTEXT) == (name == "numpy_f1")
    assert of(name).problems(3, CONTEXT) == []


def test_the_function_sees_one_matrix_at_a_time_and_keeps_its_defaults() -> None:
    of("macro_f1")(torch.stack([COUNTS] * 5), CONTEXT)
    assert set(SHAPES) == {(3, 3)}
    twice = float(macro_f1(COUNTS, beta=2.0))
    assert float(of("macro_f1")(COUNTS, CONTEXT)) != pytest.approx(twice)
    weighted = 0.9 + 2.0 * 0.75 + 3.0 * 0.6
    assert float(of("weight")(COUNTS, CONTEXT)) == pytest.approx(weighted)


def test_a_function_that_cannot_be_batched_is_called_one_by_one() -> None:
    batch = torch.stack([COUNTS, COUNTS.roll(1, dims=1)])
    found = of("branching")(batch, CONTEXT)
    assert found.tolist() == pytest.approx([branching(matrix) for matrix in batch])


def test_the_context_reaches_a_function_that_takes_it() -> None:
    assert float(of("tail_recall")(COUNTS, CONTEXT)) == pytest.approx((0.75 + 0.6) / 2)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_metric_is_said_in_one_line_that_names_it(name: str) -> None:
    try:
        problems = of(name).problems(3, CONTEXT)
    except OwnFunctionError as error:
        problems = [str(error)]
    (problem,) = problems
    assert problem.startswith(f"users_metrics:{name}: ")
    assert re.search(BAD[name][1], problem), problem


@pytest.mark.parametrize("name", GOOD)
def test_what_is_a_metric_has_no_problems(name: str) -> None:
    assert of(name).problems(3, CONTEXT) == []


def test_beyond_some_classes_a_metric_needs_a_gradient_of_its_own() -> None:
    assert of("macro_f1").problems(130, MetricContext(torch.ones(130))) == []
    (problem,) = of("numpy_f1").problems(130, MetricContext(torch.ones(130)))
    assert "must be differentiable by torch beyond 128 classes, got 130" in problem


@pytest.mark.parametrize("name", ["macro_f1", "numpy_f1", "tail_recall"])
def test_gradients_are_those_of_the_formula(name: str) -> None:
    exact = COUNTS.clone().requires_grad_(True)
    reference = tail_recall if name == "tail_recall" else macro_f1
    value = reference(exact, CONTEXT) if name == "tail_recall" else macro_f1(exact)
    (expected,) = torch.autograd.grad(value, exact)
    # Differences of a hundredth of a count, of some twenty a class.
    assert torch.allclose(of(name).gradient(COUNTS, CONTEXT), expected, rtol=1e-2, atol=1e-6)
    assert torch.allclose(differences(of(name), COUNTS, CONTEXT), expected, rtol=1e-2, atol=1e-5)
    shares = differences(of(name), COUNTS / 60.0, CONTEXT)
    assert torch.allclose(shares, 60.0 * expected, rtol=1e-2, atol=1e-3)


def test_a_gradient_that_autograd_sees_in_part_is_taken_by_differences() -> None:
    assert not of("held").has_own_gradient(3, CONTEXT)
    assert of("macro_f1").has_own_gradient(3, CONTEXT)
    exact = COUNTS.clone().requires_grad_(True)
    recalls = exact.diagonal() / exact.sum(1)
    (whole,) = torch.autograd.grad((torch.softmax(-5.0 * recalls, 0) * recalls).sum(), exact)
    assert torch.allclose(of("held").gradient(COUNTS, CONTEXT), whole, rtol=2e-2, atol=1e-5)


def test_less_is_better_where_the_function_says_so() -> None:
    metric = metric_named("users_metrics:mean_error")
    assert (metric.minimise, metric.sign) == (True, -1.0)
    assert not metric_named("users_metrics:macro_f1").minimise
    psi = bind_objective("users_metrics:mean_error", ObjectiveContext())
    assert float(psi(COUNTS)) == pytest.approx(-float(mean_error(COUNTS)))
    # Maximised as the mean recall is.
    plain = bind_objective("mean_recall", ObjectiveContext())
    ours, theirs = (logit_gradient(each, smooth_rows(COUNTS)) for each in (psi, plain))
    assert torch.allclose(ours, theirs)
    assert score_of_counts("users_metrics:mean_error", COUNTS, CONTEXT, "value") == -float(mean_error(COUNTS))


def test_a_rule_reports_what_it_names_and_ranks_by_it() -> None:
    bound = Constraint("users_metrics:numpy_f1", at_least=0.9, where=("search",))
    rule = SelectionRule("users_metrics:macro_f1", "value", (bound,))
    assert rule.definitions.own_metrics == ("users_metrics:macro_f1", "users_metrics:numpy_f1")
    labels = torch.arange(3).repeat_interleave(20)
    logits = 4.0 * torch.nn.functional.one_hot(labels, 3) + torch.randn(
        60, 3, generator=torch.Generator().manual_seed(0)
    )
    logits[:12] = logits[:12].flip(1)
    context = MetricContext(CONTEXT.train_counts, rule.definitions)
    predictions = Predictions.from_logits(labels, logits)
    values = evaluate_predictions(predictions, context)
    assert list(values)[-2:] == ["users_metrics:macro_f1", "users_metrics:numpy_f1"]
    assert values["users_metrics:macro_f1"] == pytest.approx(values["macro_f1"])
    assert rank(rule, predictions, context) == pytest.approx((values["macro_f1"] - 0.9, values["macro_f1"]))
    assert Definitions().own_metrics == ()


def test_a_search_for_it_ends_where_that_for_the_metric_of_the_same_formula_ends() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(3).repeat_interleave(20)
    logits = torch.randn(60, 3, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 3)
    logits[:, 0] += 1.0
    expected = bias_search(logits, labels, "macro_f1", CONTEXT)
    for name in ("macro_f1", "numpy_f1"):
        assert torch.allclose(bias_search(logits, labels, f"users_metrics:{name}", CONTEXT), expected)


def test_an_objective_of_ones_own_is_judged_by_itself() -> None:
    assert metric_of_objective("users_metrics:macro_f1") == "users_metrics:macro_f1"
    with pytest.raises(ValueError, match="users_metrics has no function 'nowhere'"):
        metric_named("users_metrics:nowhere")


def test_a_failure_on_the_way_names_the_function() -> None:
    rare = torch.tensor([[20.0, 0.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 20.0]])
    with pytest.raises(
        OwnFunctionError, match=r"^users_metrics:nan: must be a finite number, got nan on a 3 x 3"
    ):
        compute_metric("users_metrics:nan", torch.stack([COUNTS, rare.double()]), CONTEXT)
