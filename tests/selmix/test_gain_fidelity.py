"""The gain's fidelity: its parts against scipy, what it says of a gain that is right or wrong, and the command."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from selmix.config import FinetuneConfig
from selmix.confusion import logit_gradient
from selmix.data.splits import Split
from selmix.gain import gain_matrix
from selmix.gain_fidelity import (
    MAX_PAIRS,
    _correlations,
    gain_fidelity,
    policy_entropy,
    prototype_drift,
)
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.objectives import OBJECTIVES
from selmix.run.run import finetune
from selmix.weights import state_digest
from tests.command import here
from tests.selmix.test_run import RULE, digits


def test_correlations_as_scipy_has_them() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 6, (40,), generator=g).double()  # with ties
    y = x + torch.randn(40, generator=g)
    spearman, pearson = _correlations(x, y)
    assert pearson == pytest.approx(float(np.corrcoef(x, y)[0, 1]))
    # Spearman's is Pearson's of the ranks, ties sharing their mean.
    ranks = [stats.rankdata(values) for values in (x, y)]
    assert spearman == pytest.approx(float(np.corrcoef(*ranks)[0, 1]))
    assert all(math.isnan(value) for value in _correlations(x, torch.ones(40).double()))


def test_entropy_and_drift() -> None:
    assert policy_entropy(torch.eye(4) / 4) == pytest.approx(torch.tensor(4.0).log().item())
    before = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert prototype_drift(before, before + torch.tensor([0.0, 1.0])) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["mean_recall", "h_mean", "g_mean"])
def test_a_gain_that_is_exact_predicts_every_step(name: str) -> None:
    """Samples that are their prototypes, C taken soft: the gain is the derivative, and a small step follows it."""
    g = torch.Generator().manual_seed(0)
    means, labels = torch.randn(5, 4, generator=g), torch.arange(5).repeat_interleave(6)
    split = Split(means[labels], labels)
    view = ClassifierView(ModelConfig("linear_head").build((4,), 5, g))
    soft = torch.softmax(view.model(means).double(), dim=1).detach() / 5.0
    objective = OBJECTIVES[name]
    gain = gain_matrix(means, view.head.weight, view.head.bias, logit_gradient(objective, soft), 0.8)
    arguments = (torch.arange(5), 0.8, 1e-4, torch.ones(5, 5, dtype=torch.bool))
    told = gain_fidelity(view, split, labels, split, labels, objective, gain, *arguments, generator=g)
    assert len(told.pairs) == 25
    assert told.pearson > 0.999
    assert told.spearman > 0.99
    assert torch.allclose(told.actual / 1e-4, told.predicted, rtol=0.02, atol=1e-4)
    wrong = gain_fidelity(view, split, labels, split, labels, objective, -gain, *arguments, generator=g)
    assert wrong.spearman < -0.99


def test_many_pairs_are_sampled() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(2)
    split = Split(torch.randn(40, 4, generator=g), labels)
    view = ClassifierView(ModelConfig("linear_head").build((4,), 20, g))
    told = gain_fidelity(
        view, split, labels, split, labels, OBJECTIVES["mean_recall"], torch.zeros(20, 20), torch.arange(20), 0.8, 0.01,
        torch.ones(20, 20, dtype=torch.bool), g,
    )  # fmt: skip
    assert len(torch.unique(told.pairs, dim=0)) == len(told.pairs) == MAX_PAIRS


@pytest.mark.parametrize("objective", ["min_recall", "h_mean"])
def test_the_gain_predicts_steps_on_digits_and_telling_changes_nothing(objective: str) -> None:
    data, base = digits()
    told: list[float] = []
    config = FinetuneConfig(steps=40, start="given", draw_from="train")
    run = finetune(
        data, base, objective, dataclasses.replace(config, diagnose=True), 0, RULE,
        lambda report: told.append(report.scalars.get("gain_spearman", 0.0)),
    )  # fmt: skip
    assert told[1] > 0.5
    plain = finetune(data, base, objective, config, 0, RULE)
    assert state_digest(run.view.model.state_dict()) == state_digest(plain.view.model.state_dict())
    assert FinetuneConfig(diagnose=True).acting("min_recall") == FinetuneConfig().acting("min_recall")


FILE = """\
version: 1
name: told
data: {name: gaussians, feedback: 30, select: 30, test: 50, largest_class: 100}
model: {name: linear_head}
objectives: [min_recall, h_mean]
parameters: {steps: {value: 40}}
"""


def test_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "told.yaml"
    file.write_text(FILE)
    done = here("diagnose", file, "--output", "maps", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    told = done.document["objectives"]["h_mean"]
    assert [row["round"] for row in told["rounds"]] == [0, 1, 2]
    assert -1.0 <= told["mean"]["gain_spearman"] <= 1.0
    assert (tmp_path / "maps" / "h_mean.png").read_bytes().startswith(b"\x89PNG")
    text = here("diagnose", file, "--objective", "min_recall", cwd=tmp_path)
    assert text.code == 0
    assert "Spearman" in text.out
    assert "h_mean" not in text.out
    assert here("diagnose", file, "--objective", "g_mean", cwd=tmp_path).code == 2
    assert here("diagnose", file, "parameters.policy.value=uniform", cwd=tmp_path).code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps", "told.yaml"]
