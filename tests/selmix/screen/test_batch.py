"""Rows of a batch equal the single fine-tuner's runs: same draws, same weights, same best round, same ending."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.data.splits import SweepData
from selmix.objectives import AnyObjective
from selmix.policy import POLICIES, NoPositiveGain, Policy, PolicyInputs, uniform_policy
from selmix.run.start_model import Base
from selmix.screen.batch import Batch, Setting
from selmix.statistics.selection import Constraint, SelectionRule
from tests.selmix.screen.worlds import single, world

# float32, in another order of additions: some 20 steps apart.
CLOSE = 1e-5

SHORT: dict[str, Any] = {"steps": 18, "refresh_every": 6, "lr": 0.1, "batch_size": 16}


def check(
    data: SweepData, base: Base, objective: AnyObjective, configs: Sequence[FinetuneConfig], rule: SelectionRule
) -> Batch:  # fmt: skip
    """Train the rows together and one by one, and compare all that there is."""
    setting = Setting(data, base, objective, rule)
    rows = [setting.row(number, config, 100 + number) for number, config in enumerate(configs)]
    batch = Batch(setting, rows)
    batch.advance(1.0)
    for place, (row, config) in enumerate(zip(rows, configs, strict=True)):
        run = single(data, base, objective, config, 100 + place, rule)
        assert row.stop_reason == run.stop_reason, config
        # Every number was drawn in its order, or the generators would lie elsewhere.
        assert torch.equal(row.generator.get_state(), run.finetuner.generator.get_state()), config
        assert (row.round_number, row.steps_done) == (run.finetuner.round_number, run.finetuner.steps_done)
        head = run.view.head
        for ours, theirs in ((batch.heads.weight, head.weight), (batch.heads.bias, head.bias)):
            # The numbers of a run that has diverged mean nothing.
            assert run.failed or torch.allclose(ours[place], theirs, rtol=0, atol=CLOSE), config
        assert (row.best is None) == (run.best is None)
        if row.best is not None and run.best is not None:
            assert (row.best.round, row.best.steps) == (run.best.round, run.best.steps), config
            assert setting.judge.score(row.best) == run.best.score
            assert row.best.feasible == run.best.feasible
            assert row.best.violation == pytest.approx(run.best.violation, abs=1e-6)
            kept = batch.best_head(place).weight
            assert torch.allclose(kept, run.best.state["head.weight"], rtol=0, atol=CLOSE), config
    return batch


def variants() -> list[FinetuneConfig]:
    """Every policy on both pools and both starts, and every schedule and other setting on some."""
    policies = ("softmax", "greedy", "proportional", "epsilon", "loss_weight", "uniform", "balanced")
    found = [
        FinetuneConfig(**SHORT, policy=policy, draw_from=pool, start=start, multiplier_decay=decay)
        for policy, (pool, start, decay) in itertools.product(
            policies, (("train", "given", 0.0), ("train+feedback", "balanced_head", 0.5))
        )
    ]
    found += [
        FinetuneConfig(**SHORT, temperature_schedule=schedule, lr_schedule=rate, **sharpness)
        for (schedule, rate), sharpness in zip(
            (
                ("linear", "constant"),
                ("cosine", "cosine"),
                ("exponential", "constant"),
                ("step", "cosine"),
                ("linear", "cosine"),
            ),
            (
                {"effective_pairs": 0.5},
                {"temperature": 0.05},
                {"temperature": 0.1, "temperature_final": 0.02},
                {"effective_pairs": 0.8, "temperature_final": 0.3},
                {"effective_pairs": 1.0, "temperature_final": 0.01},
            ),
            strict=True,
        )
    ]
    others: list[dict[str, Any]] = [
        {"momentum": 0.9, "weight_decay": 0.01, "batch_size": 7},
        {"weight_decay": 0.1, "coefficient_min": 1.0, "refresh_growth": 1.5},
        {"momentum": 0.5, "steps": 17, "refresh_every": 4, "policy": "loss_weight"},
        {"warmup_rounds": 2, "gain_formula": "released_code", "coefficient_min": 0.2},
        {"warmup_rounds": 1, "policy": "loss_weight", "gain_with_bias": True, "confusion_average": 0.0},
        {"confusion_smoothing": 0.5, "confusion_average": 0.3, "multiplier_lr": 50.0},
        {"row_smoothing": 2.5, "gain_plateau": 0.5, "patience_rounds": 1, "steps": 60},
        {"refresh_every": 100, "accumulate": 4, "backbone_lr_scale": 0.0, "channels_last": True, "top_k": 2},
    ]
    return found + [FinetuneConfig(**{**SHORT, **other}) for other in others]


@pytest.mark.parametrize(
    ("objective", "groups"), [("min_recall", 0), ("mean_recall_min_coverage", 0), ("worst_group_recall", 2)]
)
def test_a_row_is_the_single_run(objective: str, groups: int) -> None:
    data, base = world(groups)
    metric = "mean_recall" if groups == 0 and objective.startswith("mean") else objective
    batch = check(data, base, objective, variants(), SelectionRule(metric))
    # They differ from each other, so that equality says something.
    first, second = batch.heads.weight[0], batch.heads.weight[5]
    assert float((first - second).abs().max()) > 100 * CLOSE


BOUNDS = (
    Constraint("min_coverage", at_least=0.2),
    Constraint("recall", at_least=0.7, label=2, where=("method",)),
    Constraint("recall_gap", at_most=0.3, where=("method", "search")),
)


@pytest.mark.parametrize("groups", [0, 2])
def test_bounds_act_as_in_the_single_run(groups: int) -> None:
    data, base = world(groups)
    fair = (Constraint("equal_opportunity_gap", at_most=0.1),) if groups else ()
    rule = SelectionRule("h_mean", constraints=(*BOUNDS, *fair))
    configs = [
        FinetuneConfig(**SHORT, policy=policy, start=start)
        for policy, start in itertools.product(("softmax", "greedy"), ("given", "balanced_head"))
    ]
    check(data, base, "h_mean", configs, rule)


def test_a_bound_on_confidences_decides_feasibility() -> None:
    data, base = world()
    rule = SelectionRule(
        "mean_recall", constraints=(Constraint("calibration_error", at_most=0.2, where=("search",)),)
    )
    check(data, base, "mean_recall", [FinetuneConfig(**SHORT), FinetuneConfig(**SHORT, start="given")], rule)


def own_objective(confusion: Tensor) -> Tensor:
    # A branch on values, which cannot be mapped over a stack.
    recalls = confusion.diagonal() / confusion.sum(dim=1)
    return recalls.min() if recalls.detach().min().item() > 0.3 else recalls.mean()


def test_a_function_of_the_users_own() -> None:
    data, base = world()
    configs = [FinetuneConfig(**SHORT), FinetuneConfig(**SHORT, policy="greedy", start="given")]
    check(data, base, own_objective, configs, SelectionRule("macro_f1"))


def test_endings_leave_the_others_alone() -> None:
    data, base = world()
    configs = [
        FinetuneConfig(**SHORT),
        FinetuneConfig(**{**SHORT, "lr": 1e38}),
        FinetuneConfig(**SHORT, gain_plateau=0.99),
        FinetuneConfig(**SHORT, patience_rounds=1, policy="balanced"),
        FinetuneConfig(**{**SHORT, "lr": 3e38, "momentum": 0.9}),
        FinetuneConfig(**SHORT, start="given"),
    ]
    batch = check(data, base, "min_recall", configs, SelectionRule("min_recall"))
    reasons = [row.stop_reason for row in batch.rows]
    assert reasons[0] == reasons[5] == "steps"
    assert (reasons[1] or "").startswith("nonfinite")
    assert (reasons[4] or "").startswith("nonfinite")
    assert {reasons[2], reasons[3]} == {"gain_plateau", "patience"}


def test_no_positive_gain_ends_a_row() -> None:
    data, base = world()

    def flat(confusion: Tensor) -> Tensor:
        return confusion.sum()

    configs = [FinetuneConfig(**SHORT), FinetuneConfig(**SHORT, policy="uniform")]
    batch = check(data, base, flat, configs, SelectionRule("min_recall"))
    assert [row.stop_reason for row in batch.rows] == ["no_positive_gain", "steps"]


def test_an_objective_without_a_value_ends_its_row_only() -> None:
    data, base = world()

    def broken(confusion: Tensor) -> Tensor:
        return confusion.sum() / 0.0

    setting = Setting(data, base, broken, SelectionRule("min_recall"))
    configs = [FinetuneConfig(**SHORT), FinetuneConfig(**SHORT, policy="uniform")]
    batch = Batch(setting, [setting.row(n, config, n) for n, config in enumerate(configs)])
    batch.advance(1.0)
    assert (batch.rows[0].stop_reason or "").startswith("error: the objective must be finite")
    assert batch.rows[0].best is not None
    assert batch.rows[0].failed
    assert batch.rows[1].stop_reason == "steps"


def test_strata_without_samples_are_refused() -> None:
    data, base = world()
    some = data.feedback.take(data.feedback.labels != 2)
    hollow = SweepData("hollow", data.class_names, data.train, some, data.select, {})
    with pytest.raises(ValueError, match=r"every stratum needs a held-out sample, got none for \[2\]"):
        Setting(hollow, base, "min_recall", SelectionRule("min_recall"))


def test_a_policy_of_which_the_batch_knows_nothing_is_that_of_the_single_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As whoever adds one to the table finds it."""
    data, base = world()

    def squared(inputs: PolicyInputs) -> Tensor:
        kept = inputs.known_gain.clamp_min(0.0).square() * inputs.drawable
        if not float(kept.sum()):
            raise NoPositiveGain("none")
        return kept / kept.sum()

    monkeypatch.setitem(POLICIES, "squared", Policy(squared))
    monkeypatch.setitem(
        POLICIES, "plain", Policy(lambda inputs: uniform_policy(inputs.drawable), targeted=False)
    )
    configs = [
        FinetuneConfig(**SHORT, policy=policy, **more)
        for policy, more in (
            ("squared", {}),
            ("plain", {}),
            ("softmax", {}),
            ("squared", {"warmup_rounds": 1}),
        )
    ]
    batch = check(data, base, "min_recall", configs, SelectionRule("min_recall"))
    first, _, third, _ = batch.heads.weight
    assert float((first - third).abs().max()) > 100 * CLOSE

    def flat(confusion: Tensor) -> Tensor:
        return confusion.sum()

    ended = check(data, base, flat, configs[:2], SelectionRule("min_recall"))
    assert [row.stop_reason for row in ended.rows] == ["no_positive_gain", "steps"]
