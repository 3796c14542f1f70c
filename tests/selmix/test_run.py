"""The fine-tuner and a whole trial: repeatable, resumable, and honest about how it ended."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch

from selmix.baselines import tuned_head
from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.splits import Split, SweepData, join
from selmix.finetune import _on_device
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.pretrain import pretrain
from selmix.run.round_table import read_rounds
from selmix.run.run import Constraint, Run, SelectionRule, finetune
from selmix.run.start_model import Base
from selmix.weights import state_digest

RULE = SelectionRule("min_recall")
SHORT = FinetuneConfig(steps=50, refresh_every=10, momentum=0.9)


@cache
def world(seed: int = 0) -> tuple[SweepData, Base]:
    data = GaussiansConfig(seed=seed, feedback=40, select=40).load()
    return data, base_of(data, "linear_head", seed)


@cache
def digits() -> tuple[SweepData, Base]:
    data = DigitsConfig(seed=0).load()
    return data, base_of(data, "small_cnn", 0)


def base_of(data: SweepData, name: str, seed: int) -> Base:
    config = ModelConfig(name)
    state = pretrain("erm", config, data, seed)
    model = config.build(data.input_shape, data.num_classes)
    model.load_state_dict(state)
    head, _ = tuned_head(ClassifierView(model), join(data.train, data.feedback), data, RULE)
    return Base(config, state, head)


def weights_of(run: Run) -> str:
    return state_digest(run.view.model.state_dict())


def best_of(run: Run) -> str:
    assert run.best is not None
    return state_digest(run.best.state)


@pytest.mark.parametrize("layer", ["input", "stage2", "features"])
def test_the_same_seed_gives_the_same_bits(layer: str) -> None:
    data, base = digits()
    config = dataclasses.replace(SHORT, mixup_layer=layer, steps=20)
    outside = torch.get_rng_state()
    one, same, other = (finetune(data, base, "min_recall", config, seed, RULE) for seed in (0, 0, 1))
    assert weights_of(one) == weights_of(same) != weights_of(other)
    assert best_of(one) == best_of(same)
    assert torch.equal(torch.get_rng_state(), outside)


@pytest.mark.parametrize("objective", ["min_recall", "g_mean", "mean_recall_min_coverage"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_run_resumes_bit_equal(tmp_path: Path, after: int, objective: str) -> None:
    data, base = digits()
    config = dataclasses.replace(SHORT, multiplier_decay=0.5, refresh_growth=1.3)
    whole = finetune(data, base, objective, config, 5, RULE)
    first = Run(data, base, objective, config, 5, RULE)
    for _ in range(after):
        first.step()
    first.save(tmp_path)
    second = Run(data, base, objective, config, 99, RULE)
    second.load(tmp_path)
    while not second.finished:
        second.step()
    assert weights_of(second) == weights_of(whole)
    assert best_of(second) == best_of(whole)
    assert second.stop_reason == whole.stop_reason == "steps"
    assert len(second.rounds) == len(whole.rounds)
    for a, b in zip(second.rounds, whole.rounds, strict=True):
        assert torch.equal(a.select_recalls, b.select_recalls)
        assert (a.policy is None) == (b.policy is None)
        assert a.policy is None or torch.equal(a.policy, b.policy)


def test_the_rounds_of_a_run() -> None:
    data, base = world()
    run = Run(data, base, "min_recall", SHORT, 0, RULE)
    reports = []
    while not run.finished:
        report = run.step()
        assert report is not None
        reports.append(report)
    assert [r.round for r in reports] == [0, 1, 2, 3, 4, 5]
    assert [r.steps for r in reports] == [0, 10, 20, 30, 40, 50]
    assert run.best is not None
    assert run.best.score == max(r.score for r in reports)
    assert [r.best for r in reports].count(True) >= 1
    assert reports[0].best
    assert reports[1].scalars["lr"] == SHORT.lr
    assert reports[-1].scalars["lr"] < SHORT.lr / 5
    assert reports[1].scalars["effective_pairs_share"] == pytest.approx(0.6, abs=1e-6)
    with pytest.raises(RuntimeError, match=r"the run is finished \(steps\)"):
        run.step()


def test_rounds_grow() -> None:
    data, base = world()
    config = dataclasses.replace(SHORT, refresh_every=4, refresh_growth=1.5)
    reported = []
    finetune(data, base, "h_mean", config, 0, RULE, callback=lambda report: reported.append(report.steps))
    assert reported == [0, 4, 10, 19, 33, 50]  # 4, 6, 9, 13.5 -> 14 (to even), 20.25 and what is left


def test_the_start_model_may_win() -> None:
    data, base = world()
    run = finetune(data, base, "min_recall", dataclasses.replace(SHORT, lr=50.0), 0, RULE)
    assert run.best is not None
    assert run.best.round == 0
    started = base.build("balanced_head", data.input_shape, data.num_classes)
    assert best_of(run) == state_digest(started.state_dict())


def test_where_a_run_starts() -> None:
    data, base = world()
    given = base.build("given", data.input_shape, data.num_classes).state_dict()
    balanced = base.build("balanced_head", data.input_shape, data.num_classes).state_dict()
    assert state_digest(given) == state_digest(base.state)
    assert torch.equal(balanced["head.weight"], base.head["weight"])
    assert not torch.equal(given["head.weight"], base.head["weight"])


def test_a_frozen_backbone_stays() -> None:
    data, base = digits()
    run = finetune(data, base, "min_recall", dataclasses.replace(SHORT, backbone_lr_scale=0.0), 0, RULE)
    moved = {
        name
        for name, value in run.view.model.state_dict().items()
        if not torch.equal(value, base.state[name])
    }
    assert moved == {"head.weight", "head.bias"}


def test_batchnorm_statistics_stay() -> None:
    data, base = digits()
    run = finetune(data, base, "min_recall", SHORT, 0, RULE)
    state = run.view.model.state_dict()
    for name in base.state:
        if "running" in name or "num_batches" in name:
            assert torch.equal(state[name], base.state[name]), name
    assert not torch.equal(state["stage1.0.weight"], base.state["stage1.0.weight"])


def test_a_run_that_diverges_stops_with_a_reason() -> None:
    data, base = world()
    run = finetune(data, base, "min_recall", dataclasses.replace(SHORT, lr=1e38, momentum=0.0), 0, RULE)
    assert run.failed
    assert run.stop_reason is not None
    assert run.stop_reason.startswith("nonfinite:")
    assert run.best is not None  # what was good before is kept


def test_no_positive_gain_is_a_state_of_its_own() -> None:
    # A model that is right with certainty: every residual vanishes, and with it every gain.
    labels = torch.arange(3).repeat(20)
    inputs = torch.nn.functional.one_hot(labels, 3).float()
    split = Split(inputs, labels)
    data = SweepData("perfect", ("a", "b", "c"), split, split, split, {})
    state = {"head.weight": 1e6 * torch.eye(3), "head.bias": torch.zeros(3)}
    base = Base(
        ModelConfig("linear_head"), state, {"weight": state["head.weight"], "bias": state["head.bias"]}
    )
    run = finetune(data, base, "mean_recall", dataclasses.replace(SHORT, coefficient_min=1.0), 0, RULE)
    assert (run.stop_reason, run.failed) == ("no_positive_gain", False)
    assert run.best is not None
    assert run.best.select["min_recall"] == 1.0


def test_patience() -> None:
    data, base = world()
    config = dataclasses.replace(SHORT, lr=50.0, steps=500, patience_rounds=3)
    run = finetune(data, base, "min_recall", config, 0, RULE)
    assert run.stop_reason == "patience"
    assert run.finetuner.round_number == 3


@pytest.mark.parametrize(
    ("config", "check"),
    [
        (dataclasses.replace(SHORT, policy="uniform"), "uniform"),
        (dataclasses.replace(SHORT, policy="balanced"), "balanced"),
        (dataclasses.replace(SHORT, warmup_rounds=2), "warmup"),
    ],
)
def test_policies_and_warm_up(config: FinetuneConfig, check: str) -> None:
    data, base = world()
    rounds = finetune(data, base, "min_recall", config, 0, RULE).rounds[1:]
    uniform = torch.full((6, 6), 1 / 36)
    policies = [r.policy for r in rounds if r.policy is not None]
    assert len(policies) == 5
    if check == "balanced":
        assert all(torch.allclose(policy, torch.eye(6) / 6) for policy in policies)
    else:
        assert [torch.allclose(policy, uniform) for policy in policies] == [
            check == "uniform" or at < 2 for at in range(5)
        ]
    assert all((r.gain is None) == (check != "warmup") for r in rounds)


@pytest.mark.parametrize("policy", ["greedy", "proportional", "epsilon"])
def test_targeted_policies(policy: str) -> None:
    data, base = world()
    config = dataclasses.replace(SHORT, policy=policy, top_k=3, epsilon=0.5)
    rounds = finetune(data, base, "min_recall", config, 0, RULE).rounds[1:]
    for each in rounds:
        assert each.policy is not None
        assert each.gain is not None
        if policy == "greedy":
            assert int((each.policy > 0).sum()) == 3
        elif policy == "proportional":
            expected = each.gain.clamp_min(0.0)
            assert torch.allclose(each.policy, expected / expected.sum(), atol=1e-6)
        else:
            assert torch.allclose(each.policy[each.gain <= 0], torch.tensor(0.5 / 36))
            assert float(each.policy.min()) >= 0.5 / 36 - 1e-6


def test_a_constraint_decides_feasibility() -> None:
    data, base = world()
    out_of_reach = (Constraint("min_coverage", at_least=0.9, where=("search",)),)
    run = finetune(data, base, "min_recall", SHORT, 0, SelectionRule("min_recall", constraints=out_of_reach))
    assert run.best is not None
    assert not run.best.feasible
    assert run.best.violation == pytest.approx(0.9 - run.best.select["min_coverage"])


def test_a_user_function_is_an_objective() -> None:
    data, base = world()

    def second_recall(confusion: torch.Tensor) -> torch.Tensor:
        return confusion[1, 1] / confusion[1].sum()

    run = finetune(data, base, second_recall, SHORT, 0, RULE)
    policies = [r.policy for r in run.rounds if r.policy is not None]
    assert policies[0][1].sum() > 0.5  # the pairs that are labelled as class 1


def test_the_artifact_holds_every_round(tmp_path: Path) -> None:
    data, base = world()
    run = finetune(data, base, "min_recall", SHORT, 0, RULE)
    run.save(tmp_path)
    read = read_rounds(tmp_path / "rounds.parquet", 6, 6)
    assert [r.round for r in read] == list(range(6))
    assert read[0].gain is None
    for a, b in zip(read, run.rounds, strict=True):
        for name in ("confusion", "gain", "policy", "multipliers", "select_recalls"):
            left, right = getattr(a, name), getattr(b, name)
            assert (left is None) == (right is None)
            assert left is None or torch.equal(left, right)
    assert float(read[-1].policy.sum()) == pytest.approx(1.0, abs=1e-6)  # type: ignore[union-attr]
    multipliers = read[-1].multipliers
    assert multipliers is not None
    assert multipliers.shape == (6,)


def test_the_method_closes_part_of_the_gap_to_the_best_head() -> None:
    """From the plain model a few hundred steps must gain what no noise explains."""
    data, base = world(3)
    config = FinetuneConfig(start="given", steps=400)
    run = finetune(data, base, "min_recall", config, 0, RULE)
    assert run.best is not None
    first = float(run.rounds[0].select_recalls.min())
    assert run.best.select["min_recall"] > first + 0.15


def test_a_run_stops_where_the_gain_has_levelled_off() -> None:
    data, base = world()
    run = finetune(data, base, "min_recall", FinetuneConfig(gain_plateau=0.9, steps=2000, lr=0.05), 0, RULE)
    assert run.stop_reason == "gain_plateau"
    assert run.finetuner.steps_done < 2000


def test_a_stored_state_is_loaded_where_the_run_is() -> None:
    """Every tensor of it, however deep: a state is stored on the CPU."""
    state = {
        "counts": torch.ones(2),
        "worst_case": {"multipliers": torch.ones(3)},
        "bounds": [0.5],
        "none": None,
    }
    moved = _on_device(state, torch.device("meta"))
    assert moved["counts"].device.type == moved["worst_case"]["multipliers"].device.type == "meta"
    assert (moved["bounds"], moved["none"]) == ([0.5], None)
