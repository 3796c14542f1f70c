"""The gain as a loss weight: its expected loss, its strata, going on bit-equal, and a sweep file that asks for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from orchestrator.spec.checks import load_spec
from selmix.config import FinetuneConfig
from selmix.gain import gain_matrix
from selmix.loss_weights import stratum_weights, uniform_samples, weighted_cross_entropy
from selmix.policy import policy_at_effective_pairs, policy_perplexity
from selmix.run.run import Run, finetune
from tests.selmix.test_run import RULE, SHORT, best_of, weights_of, world

WEIGHTED = dataclasses.replace(SHORT, policy="loss_weight", warmup_rounds=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_of_the_pool_is_the_mean_of_the_strata_by_the_policy(seed: int) -> None:
    """Exact, over every sample: also the gradient, since weights and policy do not depend on the model."""
    g = torch.Generator().manual_seed(seed)
    strata, classes = torch.tensor([0] * 40 + [1] * 7 + [3] * 2), 3
    labels, labels_of = strata.clamp_max(2), (0, 1, 2, 2)
    logits = torch.randn(len(strata), classes, generator=g, dtype=torch.float64)
    rows = torch.rand(4, generator=g, dtype=torch.float64)
    rows[2] = 0.0  # no sample: masked
    policy = torch.diag(rows / rows.sum())
    weights = stratum_weights(policy, torch.bincount(strata, minlength=4))
    found = weighted_cross_entropy(logits, labels, weights[strata])
    expected = torch.zeros((), dtype=torch.float64)
    for i in (0, 1, 3):
        of_stratum = logits[strata == i]
        target = torch.full((len(of_stratum),), labels_of[i])
        expected += policy[i, i] * F.cross_entropy(of_stratum, target)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    assert float(weights[strata].mean()) == pytest.approx(1.0, rel=1e-12)
    assert float(weights[2]) == 0.0


def test_weights_of_a_policy_of_pairs_are_those_of_its_rows() -> None:
    policy = torch.tensor([[0.1, 0.3], [0.5, 0.1]], dtype=torch.float64)
    assert stratum_weights(policy, torch.tensor([30, 10])).tolist() == pytest.approx([0.4 / 0.75, 0.6 / 0.25])
    with pytest.raises(ValueError, match="stratum without samples"):
        stratum_weights(policy, torch.tensor([30, 0]))


def test_every_sample_is_drawn_alike() -> None:
    drawn = uniform_samples(5, 50_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=5) / 50_000
    assert float((shares - 0.2).abs().max()) < 4 * (0.2 * 0.8 / 50_000) ** 0.5


def test_the_policy_is_the_softmax_over_the_strata() -> None:
    """Without mixing the gain of a pair does not depend on j; the softmax over pairs has the same rows."""
    data, base = world()
    run = Run(data, base, "h_mean", WEIGHTED, 0, RULE)
    run.step()
    run.step()
    fine = run.finetuner
    done = fine.run_round()
    assert done.gain is not None
    assert done.policy is not None
    assert torch.allclose(done.gain, done.gain[:, :1].expand_as(done.gain), rtol=1e-9, atol=1e-12)
    assert torch.equal(done.policy, torch.diag(done.policy.diagonal()))
    paired, _ = policy_at_effective_pairs(done.gain, 0.6)
    assert torch.allclose(paired.sum(dim=1), done.policy.diagonal(), atol=1e-9)
    positive = int((done.gain[:, 0] > 0).sum())
    assert done.scalars["positive_pairs"] == positive
    assert done.scalars["policy_perplexity"] == policy_perplexity(done.policy)
    assert done.scalars["effective_pairs_share"] == pytest.approx(0.6, abs=1e-6)


def test_gain_without_mixing_by_the_definition() -> None:
    g = torch.Generator().manual_seed(3)
    z, w, d = (torch.randn(4, n, generator=g, dtype=torch.float64) for n in (5, 5, 4))
    b = torch.randn(4, generator=g, dtype=torch.float64)
    gain = gain_matrix(z, w, b, d, 1.0)
    for i in range(4):
        residual = F.one_hot(torch.tensor(i), 4) - torch.softmax(w @ z[i] + b, dim=0)
        direct = sum(d[q, k] * (z[i] @ z[q]) * residual[k] for q in range(4) for k in range(4))
        assert gain[i].tolist() == pytest.approx([float(direct)] * 4, rel=1e-10)


def test_rounds_before_the_gain_acts_weigh_every_sample_alike() -> None:
    data, base = world()
    run = Run(data, base, "min_recall", WEIGHTED, 0, RULE)
    run.step()
    run.step()
    counts = run.finetuner.sampler.counts
    first = run.rounds[1].policy
    assert first is not None
    assert torch.allclose(first, torch.diag(counts / counts.sum()))
    assert run.finetuner._weights is not None
    assert torch.allclose(run.finetuner._weights, torch.ones(len(run.finetuner.pool), dtype=torch.float64))
    run.step()
    assert not torch.allclose(
        run.finetuner._weights, torch.ones(len(run.finetuner.pool), dtype=torch.float64)
    )
    assert float(run.finetuner._weights.mean()) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("after", [1, 3])
def test_a_weighted_run_goes_on_bit_equal(tmp_path: Path, after: int) -> None:
    data, base = world()
    whole = finetune(data, base, "min_recall", WEIGHTED, 5, RULE)
    first = Run(data, base, "min_recall", WEIGHTED, 5, RULE)
    for _ in range(after):
        first.step()
    first.save(tmp_path)
    second = Run(data, base, "min_recall", WEIGHTED, 99, RULE)
    second.load(tmp_path)
    while not second.finished:
        second.step()
    assert weights_of(second) == weights_of(whole)
    assert best_of(second) == best_of(whole)


def test_idle_settings_change_nothing() -> None:
    data, base = world()
    plain = finetune(data, base, "min_recall", WEIGHTED, 0, RULE)
    other = dataclasses.replace(WEIGHTED, coefficient_min=0.2, mixup_layer="input", second="pseudo", top_k=1)
    assert weights_of(finetune(data, base, "min_recall", other, 0, RULE)) == weights_of(plain)
    diagnosed = finetune(data, base, "min_recall", dataclasses.replace(WEIGHTED, diagnose=True), 0, RULE)
    assert weights_of(diagnosed) == weights_of(plain)


def test_a_sweep_file_may_compare_it(tmp_path: Path) -> None:
    path = tmp_path / "weighted.yaml"
    path.write_text(
        "version: 1\nname: weighted\ndata: {name: gaussians}\nmodel: {name: linear_head}\n"
        "objectives: [min_recall]\ncompare: {policy: [softmax, loss_weight]}\n"
        "parameters: {lr: {min: 0.01, max: 0.1}}\nsearch: {num_trials: 2}\n"
    )
    spec = load_spec(path)
    assert [arm["policy"] for arm in spec.arms.values()] == ["softmax", "loss_weight"]
    assert FinetuneConfig(policy="loss_weight").acting("min_recall")["policy"] == "loss_weight"
