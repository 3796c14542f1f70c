"""The baselines: against scikit-learn, against search by brute force, and the labels that they record as used."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache

import pytest
import torch

from selmix.baselines import BASELINES, BaselineTask, joined
from selmix.baselines.decoupled import label_aware_targets, learned_scales, smoothed_head, tau_normalised
from selmix.baselines.last_layer import balanced_logistic_regression
from selmix.baselines.post_hoc import bias_search, logit_adjustment
from selmix.config import FinetuneConfig
from selmix.corrections import split_correction
from selmix.metrics import MetricContext, compute_metric
from selmix.run.run import SelectionRule, finetune
from selmix.weights import state_digest
from tests.selmix.test_run import world
from trainables.baseline import BaselineJob

CONFIG = FinetuneConfig(start="given", steps=20, refresh_every=10)


def test_the_head_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data, _ = world()
    x, y = data.train.inputs.double().numpy(), data.train.labels.numpy()
    decay = 1e-2
    scaled = StandardScaler().fit(x)
    # Its loss is C times a sum whose class weights sum to n, ours a mean: C = 1 / (decay n).
    model = LogisticRegression(C=1 / (decay * len(y)), class_weight="balanced", tol=1e-10, max_iter=5000)
    model.fit(scaled.transform(x), y)
    weight, bias = balanced_logistic_regression(data.train.inputs, data.train.labels, 6, decay)
    ours = torch.softmax(data.select.inputs.double() @ weight.T + bias, dim=1)
    theirs = torch.from_numpy(model.predict_proba(scaled.transform(data.select.inputs.double().numpy())))
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("metric", ["min_recall", "h_mean", "min_precision"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bias_of_two_classes_is_the_best_there_is(metric: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(2).repeat(25)
    logits = torch.randn(50, 2, generator=generator) + torch.tensor([1.5, 0.0])
    logits[torch.arange(50), labels] += 1.0
    context = MetricContext(train_counts=torch.tensor([40, 4]))

    def value(bias: torch.Tensor) -> float:
        cells = labels * 2 + (logits + bias).argmax(dim=1)
        return float(compute_metric(metric, torch.bincount(cells, minlength=4).view(2, 2), context))

    best = max(value(torch.tensor([0.0, b])) for b in torch.linspace(-8, 8, 3001).tolist())
    assert value(bias_search(logits, labels, metric, context)) == pytest.approx(best)


def test_the_bias_of_three_classes_is_near_a_grid_search() -> None:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(3).repeat(30)
    logits = torch.randn(90, 3, generator=generator) + torch.tensor([2.0, 0.0, -1.0])
    logits[torch.arange(90), labels] += 1.0
    context = MetricContext(train_counts=torch.tensor([40, 4, 4]))

    def value(bias: torch.Tensor) -> float:
        cells = labels * 3 + (logits + bias).argmax(dim=1)
        return float(compute_metric("min_recall", torch.bincount(cells, minlength=9).view(3, 3), context))

    grid = torch.linspace(-1, 5, 40).tolist()
    best = max(value(torch.tensor([0.0, a, b])) for a, b in itertools.product(grid, grid))
    biases = bias_search(logits, labels, "min_recall", context)
    assert value(biases) >= best - 2 / 30
    assert value(biases) > value(torch.zeros(3)) + 0.2


@pytest.mark.parametrize("metric", ["recall_gap", "balanced_error"])
def test_metrics_to_be_minimised_are_minimised(metric: str) -> None:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(3).repeat(30)
    logits = torch.randn(90, 3, generator=generator) + torch.tensor([2.0, 0.0, -1.0])
    logits[torch.arange(90), labels] += 1.0
    context = MetricContext(train_counts=torch.tensor([40, 4, 4]))

    def value(bias: torch.Tensor) -> float:
        cells = labels * 3 + (logits + bias).argmax(dim=1)
        return float(compute_metric(metric, torch.bincount(cells, minlength=9).view(3, 3), context))

    assert value(bias_search(logits, labels, metric, context)) < value(torch.zeros(3)) - 0.1


def test_no_correction_where_none_helps() -> None:
    labels = torch.arange(3).repeat(5)
    logits = 10.0 * torch.nn.functional.one_hot(labels, 3).float()
    context = MetricContext(train_counts=torch.tensor([5, 5, 5]))
    assert bias_search(logits, labels, "min_recall", context).tolist() == [0.0, 0.0, 0.0]


def test_logit_adjustment_by_hand() -> None:
    shift = logit_adjustment(torch.tensor([90, 10]), 2.0)
    assert shift.tolist() == pytest.approx([-2 * -0.1053605, -2 * -2.3025851], rel=1e-5)
    assert logit_adjustment(torch.tensor([90, 10]), 0.0).tolist() == [0.0, 0.0]


@cache
def task() -> BaselineTask:
    data, base = world()
    seeds = (1, 2)
    rule = SelectionRule("min_recall")
    runs = [finetune(data, base, "min_recall", CONFIG, seed, rule) for seed in seeds]
    states = tuple(run.best.state for run in runs if run.best is not None)
    return BaselineTask(data, base, "min_recall", rule, seeds, CONFIG, states)


@pytest.mark.parametrize(
    ("name", "labels", "models"),
    [
        ("untouched", ("train",), 1),
        ("post_hoc_logit_adjustment", ("train", "select"), 1),
        ("post_hoc_bias_search", ("train", "feedback"), 1),
        ("plug_in", ("train", "feedback"), 1),
        ("balanced_head", ("train", "select"), 1),
        ("last_layer_on_train_plus_feedback", ("train", "feedback", "select"), 1),
        ("last_layer_post_hoc", ("train", "feedback", "select"), 1),
        ("uniform_mixup", ("train", "feedback", "select"), 2),
        ("selmix_post_hoc", ("train", "feedback", "select"), 2),
        ("retrained_logit_adjusted", ("train", "feedback"), 2),
        ("tau_normalisation", ("train", "select"), 1),
        ("learnable_weight_scaling", ("train", "feedback"), 1),
        ("mislas_stage_two", ("train", "feedback", "select"), 1),
        ("geometric_mean_head", ("train", "feedback", "select"), 1),
        ("label_over_smoothing", ("train", "feedback", "select"), 1),
        ("finetune_balanced", ("train", "feedback", "select"), 2),
        ("finetune_logit_adjusted", ("train", "feedback", "select"), 2),
    ],
)
def test_the_result_of_a_baseline(name: str, labels: tuple[str, ...], models: int) -> None:
    assert set(BASELINES) > {name}
    result = BASELINES[name](task())
    assert result.labels == labels
    assert len(result.states) == models
    assert result.reference == (name == "retrained_logit_adjusted")
    assert [state_digest(s) for s in result.states] == [
        state_digest(s) for s in BASELINES[name](task()).states
    ]
    for state in result.states:
        # A plug-in classifier keeps its correction beside the weights.
        assert set(split_correction(state)[0]) == set(task().base.state)
        assert (split_correction(state)[1] is None) or name == "plug_in"
    assert (result.cost_s > 0) == (name != "untouched")


@pytest.mark.parametrize("name", [name for name, entry in BASELINES.items() if entry.by_seed])
def test_seeds_fitted_apart_are_the_same_models_as_together(name: str) -> None:
    whole = BASELINES[name](task())
    parts = [
        BASELINES[name](dataclasses.replace(task(), seeds=(seed,), winner_states=(state,)))
        for seed, state in zip(task().seeds, task().winner_states, strict=True)
    ]
    again = joined(parts)
    assert [state_digest(s) for s in again.states] == [state_digest(s) for s in whole.states]
    assert (again.labels, again.reference, again.note) == (whole.labels, whole.reference, whole.note)
    assert again.cost_s == pytest.approx(sum(part.cost_s for part in parts))


def test_nothing_is_no_baseline() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        joined([])


def test_a_baseline_of_every_seed_is_fitted_in_parts_and_others_in_one() -> None:
    job = BaselineJob("uniform_mixup", "min_recall", {}, ["a", "b"], [1, 2], "folder")
    assert [(part.winner_weights, part.seeds) for part in job.parts()] == [(["a"], [1]), (["b"], [2])]
    assert dataclasses.replace(job, name="untouched").parts() == [dataclasses.replace(job, name="untouched")]


def test_the_start_of_the_method_is_a_baseline() -> None:
    (state,) = BASELINES["last_layer_on_train_plus_feedback"](task()).states
    assert torch.equal(state["head.weight"], task().base.head["weight"])
    assert torch.equal(state["head.bias"], task().base.head["bias"])


def test_a_correction_moves_only_the_biases() -> None:
    for name in ("post_hoc_logit_adjustment", "post_hoc_bias_search"):
        (state,) = BASELINES[name](task()).states
        assert [key for key in state if not torch.equal(state[key], task().base.state[key])] == ["head.bias"]


def test_the_corrected_winner_is_never_the_opponent() -> None:
    assert [name for name, entry in BASELINES.items() if entry.contains_winner] == ["selmix_post_hoc"]


def test_a_baseline_uses_the_winners_settings_with_uniform_pairs() -> None:
    data, base = world()
    config = dataclasses.replace(CONFIG, policy="uniform")
    run = finetune(data, base, "min_recall", config, 1, SelectionRule("min_recall"))
    assert run.best is not None
    states = BASELINES["uniform_mixup"](task()).states
    assert state_digest(states[0]) == state_digest(run.best.state) != state_digest(states[1])


def test_tau_normalisation() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert torch.equal(tau_normalised(weight, 0.0), weight)
    assert torch.allclose(tau_normalised(weight, 1.0), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert torch.allclose(tau_normalised(weight, 0.5).norm(dim=1), weight.norm(dim=1).sqrt())


def test_learned_scales_are_an_optimum() -> None:
    """No scale moved a little is better: the loss is convex in them."""
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 4, generator=g), torch.randint(4, (200,), generator=g)
    logits[torch.arange(200), labels] += 1.5
    counts = torch.bincount(labels).double()

    def loss(scales: torch.Tensor) -> float:
        losses = torch.nn.functional.cross_entropy(logits.double() * scales, labels, reduction="none")
        return float((losses / counts[labels]).sum() / 4)

    best = learned_scales(logits, labels)
    for k, change in itertools.product(range(4), (-0.05, 0.05)):
        moved = best.clone()
        moved[k] += change
        assert loss(moved) > loss(best)


def test_label_aware_targets() -> None:
    targets = label_aware_targets(torch.tensor([0, 2, 1]), torch.tensor([100, 50, 2]))
    assert torch.allclose(targets.sum(dim=1), torch.ones(3).double())
    assert float(targets[0, 0]) == pytest.approx(0.7)  # the largest class: 0.3 is spread
    assert float(targets[1, 2]) == 1.0  # the smallest: nothing is
    assert 0.7 < float(targets[2, 1]) < 1.0


def test_stage_two_of_mislas_is_an_optimum() -> None:
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(40)
    features = torch.randn(120, 5, generator=g) + torch.eye(3, 5)[labels] * 2
    weight, counts = torch.randn(3, 5, generator=g), torch.tensor([60, 30, 5])
    fitted, bias = smoothed_head(features, labels, weight, counts, 1e-2)
    targets = label_aware_targets(labels, counts)

    def loss(w: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(features.double() @ w.T + b, targets))

    assert loss(fitted, bias) < loss(weight.double(), torch.zeros(3).double())
    predicted = (features.double() @ fitted.T + bias).argmax(dim=1)
    assert float((predicted == labels).double().mean()) > 0.75
