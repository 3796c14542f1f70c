"""The baselines of the table against their definitions, on a linear model where each can be written down."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from selmix.baselines import BASELINES, BaselineResult, baselines_for, joined
from selmix.baselines.catalogue import HEAD_DECAYS, Baseline
from selmix.baselines.decoupled import TAUS as NORM_TAUS
from selmix.baselines.decoupled import smoothed_head, tau_normalised
from selmix.baselines.group_dro import group_dro_head
from selmix.baselines.post_hoc import TAUS, logit_adjustment
from selmix.baselines.task import Models, with_bias, with_head
from selmix.data.splits import join
from selmix.groups import strata_of
from selmix.model import ClassifierView
from selmix.models import ModelConfig
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
    assert baselines_for(2) == list(BASELINES)
    assert [name for name in BASELINES if name not in baselines_for(0)] == [
        "group_balanced_last_layer", "group_dro_last_layer",
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
