"""The plug-in classifier: calibration, decisions by hand, and worlds whose best classifier is known."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selmix.baselines import BASELINES, plug_in
from selmix.baselines.plug_in import decision_matrix, plug_in_classifier, stratified_folds, vector_scaling
from selmix.baselines.tally import Tally
from selmix.confusion import confusion_counts
from selmix.corrections import split_correction
from selmix.definitions import Definitions
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.statistics.selection import Constraint, SelectionRule, violations
from tests.selmix.baselines.tasks import small_task

MEANS = torch.tensor([0.0, 1.2, 2.5, 3.0], dtype=torch.float64)
SPREADS = torch.tensor([1.0, 0.6, 1.2, 0.7], dtype=torch.float64)
PRIOR = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
COST = ((0.0, 1.0, 4.0, 2.0), (3.0, 0.0, 1.0, 1.0), (1.0, 5.0, 0.0, 2.0), (9.0, 1.0, 1.0, 0.0))


def gaussians(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits that are the true log joint densities of Gaussians on a line, and labels."""
    g = torch.Generator().manual_seed(seed)
    prior = PRIOR[:classes] / PRIOR[:classes].sum()
    labels = torch.multinomial(prior, count, replacement=True, generator=g)
    x = MEANS[labels] + SPREADS[labels] * torch.randn(count, generator=g, dtype=torch.float64)
    z = (x.unsqueeze(1) - MEANS[:classes]) / SPREADS[:classes]
    return -0.5 * z.square() - SPREADS[:classes].log() + prior.log(), labels


def context(classes: int) -> MetricContext:
    cost = tuple(row[:classes] for row in COST[:classes])
    return MetricContext(torch.tensor([100, 50, 30, 20][:classes]), Definitions(cost_matrix=cost))


def value(metric: str, predicted: Tensor, labels: Tensor, classes: int) -> float:
    return Tally(labels, classes, metric, context(classes), None).key(predicted).value


@pytest.mark.parametrize(
    "metric", ["min_recall", "mean_recall", "g_mean", "macro_f1", "min_precision", "cost"]
)
def test_of_two_classes_it_is_the_best_threshold(metric: str) -> None:
    """With two classes every rule of interest is a threshold on the odds, and all are tried."""
    logits, labels = gaussians(4000, 2, seed=0)
    rule = SelectionRule(metric, definitions=context(2).definitions)
    fit = plug_in_classifier(logits, labels, rule, context(2))
    test, truth = gaussians(20000, 2, seed=1)
    odds = test[:, 1] - test[:, 0]
    thresholds = odds.quantile(torch.linspace(0.01, 0.99, 197).double())
    best = max(value(metric, (odds > threshold).long(), truth, 2) for threshold in thresholds)
    # A smaller step is kept where it is one standard error behind: with 4,000 samples up to 0.02 of a recall.
    assert value(metric, fit.correction.predict(test)[0], truth, 2) >= best - 0.03


def test_costs_are_decided_by_the_matrix() -> None:
    """With true probabilities the least expected cost is the Bayes decision, which no biases give here."""
    logits, labels = gaussians(20000, 4, seed=0)
    rule = SelectionRule("cost", definitions=context(4).definitions)
    whole = plug_in._path(logits, labels, rule, context(4), None)[-1]
    test, truth = gaussians(20000, 4, seed=1)
    bayes = (torch.softmax(test, dim=1) @ torch.tensor(COST, dtype=torch.float64)).argmin(dim=1)
    assert float((whole.predict(test)[0] == bayes).double().mean()) > 0.98
    fit = plug_in_classifier(logits, labels, rule, context(4))
    found = value("cost", fit.correction.predict(test)[0], truth, 4)
    assert found == pytest.approx(value("cost", bayes, truth, 4), abs=0.02)
    assert found > value("cost", test.argmax(dim=1), truth, 4) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "gain"), [("min_recall", 0.15), ("cvar_recall", 0.12), ("h_mean", 0.04)])
def test_four_classes_gain_on_new_samples(metric: str, gain: float) -> None:
    """On average: which step is within one standard error of the best differs from sample to sample."""
    test, truth = gaussians(20000, 4, seed=1)
    gains = []
    # Seed 1 is that of the new samples.
    seeds = (0, *range(2, 9))
    for seed in seeds:
        logits, labels = gaussians(1000, 4, seed)
        fit = plug_in_classifier(logits, labels, SelectionRule(metric), context(4))
        plain = value(metric, test.argmax(dim=1), truth, 4)
        gains.append(value(metric, fit.correction.predict(test)[0], truth, 4) - plain)
    assert sum(gains) / len(seeds) > gain


def test_a_floor_on_coverage_is_met() -> None:
    logits, labels = gaussians(2000, 4, seed=0)
    test, truth = gaussians(20000, 4, seed=1)
    assert value("min_coverage", test.argmax(dim=1), truth, 4) < 0.1
    rule = SelectionRule("mean_recall", constraints=(Constraint("min_coverage", at_least=0.15),))
    fit = plug_in_classifier(logits, labels, rule, context(4))
    found = fit.correction.predict(test)[0]
    assert value("min_coverage", found, truth, 4) > 0.14
    assert value("mean_recall", found, truth, 4) > 0.55


@pytest.mark.parametrize("metric", ["mean_recall", "macro_f1"])
@pytest.mark.parametrize(
    "bound", [Constraint("recall", at_least=0.7, label=3), Constraint("precision", at_least=0.75, label=0)]
)
def test_a_floor_on_a_rate_of_one_class_is_met(metric: str, bound: Constraint) -> None:
    logits, labels = gaussians(1000, 4, seed=0)
    rule = SelectionRule(metric, constraints=(bound,))
    fit = plug_in_classifier(logits, labels, rule, context(4))
    free = plug_in_classifier(logits, labels, SelectionRule(metric), context(4))
    counts = [confusion_counts(labels, each.correction.predict(logits)[0], 4, 4) for each in (fit, free)]
    met, missed = violations(rule.constraints, torch.stack(counts), context(4)).tolist()
    assert met == 0.0
    assert missed >= 0.0


@pytest.mark.slow
def test_without_signal_the_guard_mostly_changes_nothing() -> None:
    steps = []
    for seed in range(12):
        logits, labels = (
            torch.randn(300, 3, generator=torch.Generator().manual_seed(seed)),
            torch.arange(300) % 3,
        )
        fit = plug_in_classifier(logits, labels, SelectionRule("mean_recall"), context(3))
        steps.append(fit.step)
        if fit.step == 0.0:
            assert fit.iterations == 0
            assert torch.equal(fit.correction.predict(logits.double())[0], logits.argmax(dim=1))
    # The best of 21 choices is a standard error ahead of none in some of the samples.
    assert steps.count(0.0) >= 9


def test_it_is_the_same_every_time() -> None:
    logits, labels = gaussians(200, 3, seed=3)
    one, two = (plug_in_classifier(logits, labels, SelectionRule("h_mean"), context(3)) for _ in range(2))
    assert torch.equal(one.correction.matrix, two.correction.matrix)
    assert (one.step, one.iterations) == (two.step, two.iterations)


@pytest.mark.parametrize("numbers", [2**22, 50])
def test_calibration_is_the_minimum_of_its_loss(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plug_in, "_NUMBERS_AT_ONCE", numbers)
    logits, labels = gaussians(300, 3, seed=0)
    # Distorted, so that there is something to mend.
    scale, bias = (part.clone().requires_grad_(True) for part in vector_scaling(3 * logits + 1.0, labels))
    loss = torch.nn.functional.cross_entropy((3 * logits + 1.0) * scale + bias, labels)
    loss = loss + 0.5 * ((scale - 1).square().sum() + bias.square().sum()) / 300
    loss.backward()
    assert scale.grad is not None
    assert bias.grad is not None
    assert float(torch.cat([scale.grad, bias.grad]).abs().max()) < 1e-4
    assert float((scale.detach() - 1 / 3).abs().max()) < 0.2


def test_decisions_of_a_gradient_are_kept_and_split_into_weights_and_offsets() -> None:
    g = torch.Generator().manual_seed(0)
    eta = torch.softmax(torch.randn(500, 4, generator=g, dtype=torch.float64), dim=1)
    for _ in range(5):
        gradient = torch.randn(4, 4, generator=g, dtype=torch.float64) + torch.eye(4)
        matrix, offset = decision_matrix(gradient)
        assert torch.equal((eta @ matrix + offset).argmax(dim=1), (eta @ gradient).argmax(dim=1))
    # F1 of three classes: w_j = 2 / (r_j + c_j), o_j = -F_j / (r_j + c_j), up to scale and a shift of all offsets.
    counts = torch.tensor([[30.0, 5, 5], [4, 20, 6], [2, 3, 15]], dtype=torch.float64, requires_grad=True)
    rows, columns, hits = counts.sum(dim=1), counts.sum(dim=0), counts.diagonal()
    f1 = 2 * hits / (rows + columns)
    (gradient,) = torch.autograd.grad(f1.mean(), counts)
    matrix, offset = decision_matrix(gradient)
    weights, offsets = (2 / (rows + columns)).detach(), (-f1 / (rows + columns)).detach()
    assert torch.allclose(matrix, torch.diag(weights / weights.mean()), atol=1e-9)
    assert torch.allclose(offset, (offsets - offsets.mean()) / weights.mean(), atol=1e-9)


@pytest.mark.parametrize("metric", ["min_recall", "cvar_recall", "recall_gap", "g_mean", "accuracy"])
def test_weights_of_recalls_are_those_of_the_whole_matrix(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two beta draws a row have the distribution that the hits of a whole drawn row have."""
    logits, labels = gaussians(400, 4, seed=0)
    for name in ("DRAWS", "DRAWS_OF_HITS"):
        monkeypatch.setattr(plug_in, name, 20_000)
    gradient = plug_in._BaggedGradient(labels, 4, SelectionRule(metric), context(4), None)
    assert gradient.is_diagonal
    predicted = logits.argmax(dim=1)
    counts, hits = gradient.counts(predicted), gradient.hits(predicted)
    assert torch.allclose(counts.diagonal(), hits, rtol=1e-6)
    matrix, offset = decision_matrix(gradient.of_metric(counts))
    weights, none = plug_in._AveragedWeights(gradient).decisions(predicted, 1.0)
    # What only depends on the row is 0 here already.
    assert float((matrix - torch.diag(matrix.diagonal())).abs().max()) < 1e-12
    # Five standard errors and more: a weight of 1 varies by less than 1 between draws.
    assert torch.allclose(weights, matrix.diagonal(), atol=0.05)
    assert torch.allclose(offset, none, atol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        SelectionRule("macro_f1"),
        SelectionRule("min_recall", constraints=(Constraint("recall", at_least=0.5, label=0),)),
    ],
)
def test_columns_and_bounds_take_the_whole_matrix(rule: SelectionRule) -> None:
    _, labels = gaussians(100, 4, seed=0)
    assert not plug_in._BaggedGradient(labels, 4, rule, context(4), None).is_diagonal


@pytest.mark.parametrize("part", [2**16, 1, 7])
def test_decisions_by_parts_by_weights_and_by_a_matrix(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plug_in, "_NUMBERS_OF_A_PART", part)
    g = torch.Generator().manual_seed(0)
    eta = torch.softmax(torch.randn(50, 3, generator=g, dtype=torch.float64), dim=1)
    weights, offset = torch.tensor([2.0, 1.0, 0.5]).double(), torch.tensor([0.0, 0.1, 0.3]).double()
    expected = [
        max(range(3), key=lambda j: row[j] * float(weights[j]) + float(offset[j])) for row in eta.tolist()
    ]
    assert plug_in._decided(eta, weights, offset).tolist() == expected
    assert plug_in._decided(eta, torch.diag(weights), offset).tolist() == expected
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.9], [0.2, 0.0, 1.0]]).double()
    assert torch.equal(plug_in._decided(eta, matrix, offset), (eta @ matrix + offset).argmax(dim=1))


def test_a_fit_whose_decisions_have_settled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that nothing confuses: the decisions never change, and all numbers of iterations are one fit."""
    labels = torch.arange(40) % 4
    logits = 20.0 * torch.eye(4, dtype=torch.float64)[labels]
    calls = 0
    of_hits = plug_in._BaggedGradient.of_hits

    def counted(self: plug_in._BaggedGradient, hits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return of_hits(self, hits)

    monkeypatch.setattr(plug_in._BaggedGradient, "of_hits", counted)
    fits = plug_in._path(logits, labels, SelectionRule("mean_recall"), context(4), None)
    assert calls == plug_in.SETTLED
    assert len(fits) == len(plug_in.ITERATIONS)
    # Those of 30 and of 100 iterations are the last one.
    assert fits[-1] is fits[-2]
    assert all(torch.equal(fit.predict(logits)[0], labels) for fit in fits)


def test_folds_are_stratified_and_hold_every_sample_once() -> None:
    labels = torch.tensor([0] * 7 + [1] * 5 + [2])
    masks = torch.stack(list(stratified_folds(labels, 5)))
    assert torch.equal(masks.sum(dim=0), torch.ones(13, dtype=torch.int64))
    assert [int(m[labels == 1].sum()) for m in masks] == [1] * 5


def test_the_baseline_keeps_its_correction_beside_the_weights() -> None:
    task = small_task()
    result = BASELINES["plug_in"](task)
    (state,) = result.states
    weights, correction = split_correction(state)
    assert all(torch.equal(weights[name], tensor) for name, tensor in task.base.state.items())
    assert result.labels == ("train", "feedback")
    if correction is None:
        assert result.note == {"step": 0.0, "iterations": 0.0}
    else:
        found = task.predictions(state, task.data.select)
        expected = correction.predict(task.logits(weights, task.data.select))[0]
        assert torch.equal(found.predicted, expected)


def test_a_metric_of_groups_is_fitted_without_the_groups_at_hand() -> None:
    task = small_task(groups=2, metric="worst_group_recall")
    (state,) = BASELINES["plug_in"](task).states
    correction = split_correction(state)[1]
    assert correction is None or correction.group_offset is None


def test_a_diagonal_gradient_is_its_own_matrix() -> None:
    """As the turns of least squares would leave it, which an entry off the diagonal brings about."""
    diagonal = torch.tensor([0.5, 0.0, 2.0, 1.5], dtype=torch.float64)
    matrix, offset = decision_matrix(torch.diag(diagonal))
    assert torch.equal(matrix, torch.diag(diagonal))
    assert torch.equal(offset, torch.zeros(4, dtype=torch.float64))
    nearly = torch.diag(diagonal)
    nearly[0, 1] = 1e-300
    for one, other in zip(decision_matrix(nearly), (matrix, offset), strict=True):
        assert torch.allclose(one, other, rtol=0.0, atol=1e-15)


def test_a_function_of_ones_own_is_fitted_as_the_metric_of_its_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of torch by its gradient; of numpy by differences, over fewer draws."""

    def torch_f1(confusion: Tensor) -> Tensor:
        return (2.0 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))).mean()

    def numpy_f1(confusion: Any) -> Any:
        return np.mean(2.0 * np.diag(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1)))

    module = ModuleType("users_plug_in")
    vars(module).update({"torch_f1": torch_f1, "numpy_f1": numpy_f1})
    monkeypatch.setitem(sys.modules, "users_plug_in", module)
    # What differs is the gradient: a few iterations and resamples show it.
    monkeypatch.setattr(plug_in, "ITERATIONS", (1, 3, 10))
    monkeypatch.setattr(plug_in, "RESAMPLES", 20)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor([60, 20, 10]))
    logits = torch.randn(90, 3, generator=generator) + torch.nn.functional.one_hot(labels, 3)
    logits[:, 0] += 1.5
    context = MetricContext(torch.tensor([60, 20, 10]))
    fits = {
        name: plug_in_classifier(logits, labels, SelectionRule(name), context)
        for name in ("macro_f1", "users_plug_in:torch_f1", "users_plug_in:numpy_f1")
    }
    known, ours, of_numpy = fits.values()
    assert known.step > 0
    assert (ours.step, ours.iterations) == (known.step, known.iterations)
    assert torch.allclose(ours.correction.matrix, known.correction.matrix, atol=1e-6)
    values = {
        name: float(METRICS["macro_f1"].of(
            Predictions(labels, fit.correction.predict(logits.double())[0], torch.ones(90)).counts(3), context
        ))
        for name, fit in fits.items()
    }  # fmt: skip
    assert values["users_plug_in:numpy_f1"] == pytest.approx(values["macro_f1"], abs=0.05)
    assert of_numpy.step > 0
