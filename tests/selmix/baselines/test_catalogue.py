"""The baselines of the table against their definitions, on a linear model where each can be written down."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from selmix.baselines import BASELINES, BaselineResult, baselines_for, joined
from selmix.baselines.catalogue import GML_TAUS, HEAD_DECAYS, Baseline
from selmix.baselines.decoupled import TAUS as NORM_TAUS
from selmix.baselines.decoupled import smoothed_head, tau_normalised
from selmix.baselines.group_dro import group_dro_head
from selmix.baselines.head_losses import SMOOTHING, equal_shares, geometric_mean_loss
from selmix.baselines.head_path import head_path
from selmix.baselines.post_hoc import TAUS, logit_adjustment
from selmix.baselines.task import Models, with_bias, with_head
from selmix.data.splits import join
from selmix.groups import strata_of
from selmix.metrics import Predictions, evaluate_predictions
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.run.run import finetune
from selmix.statistics.selection import Constraint
from selmix.weights import state_digest
from tests.selmix.baselines.tasks import score_by_hand, small_task


def test_logit_adjustment_takes_the_best_tau_and_of_equals_the_smallest() -> None:
    task = small_task()
    weight, bias = task.base.state["head.weight"], task.base.state["head.bias"]
    scores = {
        tau: score_by_hand(task, weight, bias + logit_adjustment(task.data.train_counts, tau)) for tau in TAUS
    }
    fitted = BASELINES["post_hoc_logit_adjustment"].fit(task)
    assert fitted.note == {"tau": max(TAUS, key=lambda tau: (scores[tau], -tau))}
    assert scores[fitted.note["tau"]] > scores[0.0]  # type: ignore[index]
    (state,) = fitted.states
    expected = bias + logit_adjustment(task.data.train_counts, fitted.note["tau"])  # type: ignore[arg-type]
    assert torch.allclose(state["head.bias"], expected)


def test_tau_normalisation_takes_the_best_tau_and_drops_the_bias() -> None:
    task = small_task()
    weight = task.base.state["head.weight"]
    scores = {tau: score_by_hand(task, tau_normalised(weight, tau), torch.zeros(3)) for tau in NORM_TAUS}
    fitted = BASELINES["tau_normalisation"].fit(task)
    tau = max(NORM_TAUS, key=lambda each: (scores[each], -each))
    assert fitted.note == {"tau": tau}
    assert torch.allclose(fitted.states[0]["head.weight"], tau_normalised(weight, tau))
    assert torch.equal(fitted.states[0]["head.bias"], torch.zeros(3))


def test_learnable_scaling_multiplies_rows_and_drops_the_bias() -> None:
    task = small_task()
    (state,) = BASELINES["learnable_weight_scaling"].fit(task).states
    factors = state["head.weight"] / task.base.state["head.weight"]
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), rtol=1e-4)
    assert len(factors[:, 0].unique()) == 3
    assert torch.equal(state["head.bias"], torch.zeros(3))


@pytest.mark.parametrize("name", ["mislas_stage_two", "group_dro_last_layer"])
def test_heads_of_several_decays_keep_the_best_and_of_equals_the_largest(name: str) -> None:
    task = small_task(groups=2, metric="worst_group_recall")
    pool = join(task.data.train, task.data.feedback)
    assert pool.groups is not None
    heads = {}
    for decay in HEAD_DECAYS:
        if name == "mislas_stage_two":
            weight = task.base.state["head.weight"]
            fitted = smoothed_head(pool.whole(), pool.labels, weight, task.data.train_counts, decay)
        else:
            strata = strata_of(pool.labels, pool.groups, 2)
            fitted = group_dro_head(pool.whole(), pool.labels, strata, 3, decay)
        heads[decay] = [part.float() for part in fitted]
    best = max(HEAD_DECAYS, key=lambda decay: (score_by_hand(task, *heads[decay]), decay))
    models = BASELINES[name].fit(task)
    assert models.note == {"weight_decay": best}
    assert torch.allclose(models.states[0]["head.weight"], heads[best][0], atol=1e-5)


def test_group_dro_refuses_data_without_groups() -> None:
    with pytest.raises(
        ValueError, match="group_dro_last_layer needs data with a group attribute, gaussians has none"
    ):
        BASELINES["group_dro_last_layer"](small_task())


def test_a_fine_tuning_that_diverges_names_its_seed_and_policy() -> None:
    with pytest.raises(
        FloatingPointError, match=r"seed 1: must stay finite .* policy uniform, got nonfinite"
    ):
        BASELINES["uniform_mixup"](small_task(lr=1e38))


@pytest.mark.parametrize(
    ("draw_from", "notes"), [("train", {"in-sample"}), ("train+feedback", {"in-sample", "out-of-fold"})]
)
def test_folds_are_needed_only_where_the_winner_drew_from_feedback(draw_from: str, notes: set[str]) -> None:
    fitted = BASELINES["selmix_post_hoc"].fit(small_task(draw_from=draw_from)).note["fitted"]
    assert fitted in notes


def test_labels_are_those_of_the_base_then_its_own() -> None:
    task = small_task()
    unknown = dataclasses.replace(task, base=dataclasses.replace(task.base, labels=()))
    assert BASELINES["post_hoc_bias_search"](unknown).labels == ("feedback",)
    scratch = Baseline(lambda _: Models(({},)), "retrain", ("train", "feedback"), from_scratch=True)
    assert scratch(task).labels == ("train", "feedback")
    assert BASELINES["untouched"](task) == BaselineResult((task.base.state,), ("train",), 0.0)


def test_baselines_of_groups_are_left_out_without_them() -> None:
    assert baselines_for(2, screened=True) == list(BASELINES)
    assert [name for name in BASELINES if name not in baselines_for(2)] == ["selmix_head"]
    assert [name for name in BASELINES if name not in baselines_for(0, screened=True)] == [
        "thresholds_by_group", "linear_post_processing", "group_balanced_last_layer", "group_dro_last_layer",
    ]  # fmt: skip


def test_a_model_that_is_its_own_classifier_has_no_prefix() -> None:
    model = torch.nn.Linear(2, 3)
    view, state = ClassifierView(model), dict(model.state_dict())
    changed = with_bias(state, view, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert changed.keys() == state.keys()
    assert changed["bias"].dtype == torch.float32
    assert torch.allclose(changed["bias"] - state["bias"], torch.tensor([1.0, 2.0, 3.0]))
    other = with_head(state, view, torch.ones(3, 2), torch.zeros(3))
    assert torch.equal(other["weight"], torch.ones(3, 2))
    assert torch.equal(state["bias"], model.bias)  # the given state stays as it was


def test_of_several_classifiers_the_named_one_is_changed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3))
    view = ModelConfig("own", head="0").view(model)
    changed = with_head(dict(model.state_dict()), view, torch.zeros(3, 2), torch.ones(3))
    assert torch.equal(changed["0.bias"], torch.ones(3))
    assert torch.equal(changed["1.weight"], model[1].weight)


def test_one_result_stays_and_several_join_their_notes_in_order() -> None:
    first = BaselineResult(({"a": torch.zeros(1)},), ("train",), 1.5, True, {"tau": 0.5})
    second = dataclasses.replace(first, states=({"a": torch.ones(1)},), cost_s=2.0, note={"tau": 1.0})
    assert joined([first]) is first
    both = joined([second, first])
    assert both.note == {"tau": "1.0, 0.5"}
    assert (both.cost_s, both.labels, both.reference) == (3.5, ("train",), True)
    assert [float(state["a"]) for state in both.states] == [1.0, 0.0]


def test_balanced_fine_tuning_takes_the_winners_steps_on_single_samples() -> None:
    """A run of the method's own fine-tuner whose pairs are of one class each and mix nothing."""
    task = small_task(coefficient_min=0.5)
    config = dataclasses.replace(task.winner_config, policy="balanced", coefficient_min=1.0)
    run = finetune(task.data, task.base, task.objective, config, 1, task.selection)
    assert run.best is not None
    (state,) = BASELINES["finetune_balanced"].fit(task).states
    assert state_digest(state) == state_digest(run.best.state)


def test_logit_adjusted_fine_tuning_by_hand() -> None:
    """Each step: uniform samples of train + feedback, gradient of CE(logits + log prior), the winner's rate."""
    task = small_task(momentum=0.5, lr=1.0)
    config, pool = task.winner_config, join(task.data.train, task.data.feedback)
    prior = torch.bincount(pool.labels).double() / len(pool)
    weight, bias = (task.base.state[f"head.{name}"].clone() for name in ("weight", "bias"))
    velocity = torch.zeros(3, 5)
    generator = torch.Generator().manual_seed(1)
    best = (score_by_hand(task, weight, bias), weight, bias)
    for step in range(4):
        if step % 2 == 0:  # each round seeds the model's own randomness first
            torch.randint(2**62, (), generator=generator)
        drawn = torch.randint(len(pool), (64,), generator=generator)
        x, labels = pool.whole()[drawn], pool.labels[drawn]
        shifted = x @ weight.T + bias + prior.log().float()
        residuals = (shifted.softmax(dim=1) - torch.eye(3)[labels]) / 64
        velocity = 0.5 * velocity + torch.cat([residuals.T @ x, residuals.sum(dim=0).unsqueeze(1)], dim=1)
        rate = config.lr * (1 + math.cos(math.pi * step / 4)) / 2
        weight, bias = weight - rate * velocity[:, :4], bias - rate * velocity[:, 4]
        if step % 2 == 1 and (value := score_by_hand(task, weight, bias)) > best[0]:
            best = (value, weight, bias)
    (state,) = BASELINES["finetune_logit_adjusted"].fit(task).states
    assert not torch.equal(best[1], task.base.state["head.weight"])
    assert torch.allclose(state["head.weight"], best[1], atol=1e-5)
    assert torch.allclose(state["head.bias"], best[2], atol=1e-5)


@pytest.mark.parametrize("name", ["finetune_balanced", "finetune_logit_adjusted"])
@pytest.mark.parametrize("metric", ["min_recall", "worst_group_recall"])
def test_fine_tuning_without_mixing_takes_any_settings_of_a_winner(name: str, metric: str) -> None:
    """Partners of unlabelled data and a plateau of the gain belong to what is left out."""
    groups = 2 if metric == "worst_group_recall" else 0
    task = small_task(groups, metric, second="pseudo", gain_plateau=0.5, diagnose=True, draw_from="train")
    assert len(BASELINES[name].fit(task).states) == 1


def test_a_logit_adjusted_fine_tuning_that_diverges_names_its_loss() -> None:
    with pytest.raises(FloatingPointError, match=r"seed 1: must stay finite .* the logit-adjusted loss, got"):
        BASELINES["finetune_logit_adjusted"](small_task(lr=1e38))


def test_the_geometric_mean_head_takes_the_best_decay_and_tau() -> None:
    task = small_task()
    pool = join(task.data.train, task.data.feedback)
    counts, heads = torch.bincount(pool.labels), {}
    # The whole path: the loss is not convex, and each decay starts from the one before.
    loss = geometric_mean_loss(pool.labels, 3)
    for head in head_path(pool.whole(), loss, 3, HEAD_DECAYS, equal_shares(pool.labels)):
        for tau in GML_TAUS:
            bias = head.bias - tau * (counts / counts.sum()).log()
            heads[head.decay, tau] = (head.weight.float(), bias.float())
    best = max(heads, key=lambda key: (score_by_hand(task, *heads[key]), key[0], -key[1]))
    models = BASELINES["geometric_mean_head"].fit(task)
    assert models.note == {"weight_decay": best[0], "tau": best[1]}
    assert torch.allclose(models.states[0]["head.weight"], heads[best][0])
    assert torch.allclose(models.states[0]["head.bias"], heads[best][1])


def test_label_over_smoothing_is_nearly_least_squares() -> None:
    """As the targets come near 1 / K the softmax is linear: W z is the ridge regression on balanced one-hot labels."""
    task = small_task()
    pool = join(task.data.train, task.data.feedback)
    models = BASELINES["label_over_smoothing"].fit(task)
    decay = models.note["weight_decay"]
    assert isinstance(decay, float)
    x = pool.whole().double()
    z = torch.cat([(x - x.mean(dim=0)) / x.std(dim=0, unbiased=False), torch.ones(len(x), 1)], dim=1)
    shares = equal_shares(pool.labels).unsqueeze(1)
    ridge = decay * torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    right = (1 - SMOOTHING) * (z * shares).T @ (torch.eye(3, dtype=torch.float64)[pool.labels] - 1 / 3)
    logits = z @ torch.linalg.solve((z * shares).T @ z / 3 + ridge, right)
    found = x.float() @ models.states[0]["head.weight"].T + models.states[0]["head.bias"]
    # The softmax of logits as small as these deviates from a line by their square.
    assert (found - logits).abs().max() < 0.05 * logits.abs().max()


FLOORS = (Constraint("recall", at_least=0.8, label=0), Constraint("min_coverage", at_least=0.2))


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_row_runs_under_a_bound_on_one_class(name: str) -> None:
    task = small_task(2 if BASELINES[name].of_groups else 0, bounds=FLOORS)
    for state in BASELINES[name](task).states:
        assert len(task.predictions(state, task.data.select).labels) == len(task.data.select)


def test_tau_is_the_one_that_misses_the_bounds_least_then_that_of_the_best_score() -> None:
    chosen = {}
    for bounds in ((), FLOORS, (Constraint("recall", at_least=0.99, label=2),)):
        task = small_task(bounds=bounds)
        logits = task.logits(task.base.state, task.data.select)
        ranked = []
        for tau in TAUS:
            moved = logits + logit_adjustment(task.data.train_counts.cpu(), tau)
            values = evaluate_predictions(
                Predictions.from_logits(task.data.select.labels, moved), task.context
            )
            ranked.append((-task.selection.violation(values), task.score_logits(moved), -tau))
        chosen[bounds] = BASELINES["post_hoc_logit_adjustment"](task).note["tau"]
        assert chosen[bounds] == -max(ranked)[2]
    assert len(set(chosen.values())) > 1


def test_biases_are_fitted_under_the_bounds_of_the_search() -> None:
    floor = Constraint("recall", at_least=0.9, label=0, where=("search",))
    task, plain = small_task(bounds=(floor,)), small_task()
    feedback = task.data.feedback
    recalls = []
    for each in (task, plain):
        (state,) = BASELINES["post_hoc_bias_search"](each).states
        predicted = each.predictions(state, feedback).predicted
        recalls.append(float((predicted == 0)[feedback.labels == 0].double().mean()))
    assert recalls[0] >= 0.9 > recalls[1]
