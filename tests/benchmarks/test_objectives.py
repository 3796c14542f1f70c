"""The objectives benchmark: groups by ink, bounds on test, work done once, and its tables on rows made by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.bounds import bound_on_test
from benchmarks.cases import WORLDS, Case, World
from benchmarks.harness import mean_gap, word
from benchmarks.objective_tables import shares_closed, tables, verdicts
from benchmarks.shared import UniformCourses, remembered_fits
from selmix.baselines import BASELINES, BaselineTask, last_layer
from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.groups import strata_of
from selmix.metrics import MetricContext, Predictions
from selmix.models import ModelConfig
from selmix.run.run import Constraint, SelectionRule
from selmix.run.start_model import Base
from selmix.statistics.proportions import clopper_pearson
from selmix.weights import state_digest


def test_groups_by_ink() -> None:
    config = DigitsConfig(groups="ink", largest_class=40)
    data, test = config.load(), config.load_test()
    assert data.group_names == config.group_names == ("faint", "bold")

    def cells(split: object) -> list[int]:
        return torch.bincount(strata_of(split.labels, split.groups, 2), minlength=20).tolist()

    train = cells(data.train)
    assert [sum(train[2 * k : 2 * k + 2]) for k in range(10)] == config.train_sizes
    assert train[:6] == [4, 36, 26, 3, 2, 19]  # a tenth faint, a tenth bold, a tenth faint
    assert min(train) == 1
    assert cells(data.feedback) == [10] * 20
    assert cells(data.select) == [12] * 20
    assert cells(test) == [25] * 20
    for k in range(10):
        ink = {
            group: [
                s.inputs[(s.labels == k) & (s.groups == group)].double().sum(dim=(1, 2, 3))
                for s in (data.train, data.feedback, data.select, test)
            ]
            for group in (0, 1)
        }
        assert torch.cat(ink[0]).max() <= torch.cat(ink[1]).min()
    scans = torch.cat([s.whole().flatten(1) for s in (data.train, data.feedback, data.select, test)])
    assert len(torch.unique(scans, dim=0)) >= len(scans) - 1  # the parts are disjoint
    assert config.load().digests == data.digests
    assert data.digests["test"] == test.digest()
    assert DigitsConfig(groups="ink", largest_class=40, seed=1).load().digests != data.digests


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"groups": "slant"}, "groups: must be ink or left out, got 'slant'"),
        ({"groups": "ink", "noisy_share": 0.2}, "groups: cannot stand beside noisy_share"),
        ({"minority": 0.0}, r"minority: must lie in \(0, 0.5\], got 0.0"),
        ({"groups": "ink"}, "class 0 x bold holds 89 samples, the splits ask for 119"),
    ],
)
def test_groups_that_cannot_be(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsConfig(**keys)


def predictions(hits: tuple[int, ...], of: int) -> Predictions:
    """Of each class ``hits`` right, the others taken for the next class."""
    labels = torch.arange(len(hits)).repeat_interleave(of)
    rank = torch.arange(of).repeat(len(hits))
    right = rank < torch.tensor(hits).repeat_interleave(of)
    return Predictions(
        labels, torch.where(right, labels, (labels + 1) % len(hits)), torch.full((len(labels),), 0.5)
    )


def test_what_test_says_of_a_bound() -> None:
    told, context = predictions((40, 50), 50), MetricContext(torch.tensor([10, 10]))
    low, high = (float(v) for v in clopper_pearson(torch.tensor([40.0]), torch.tensor([50.0]), 0.025))
    by = {
        floor: bound_on_test(Constraint("min_recall", at_least=floor), told, context)
        for floor in (0.8, 0.85, 0.99)
    }
    assert by[0.8]["value"] == pytest.approx(0.8)
    assert by[0.8]["low"] == pytest.approx(low)
    assert by[0.8]["high"] >= high
    assert {floor: each["says"] for floor, each in by.items()} == {
        0.8: "holds",
        0.85: "within error",
        0.99: "missed",
    }
    assert bound_on_test(Constraint("recall_gap", at_most=0.2), told, context)["says"] == "holds"
    assert bound_on_test(Constraint("recall_gap", at_most=0.15), told, context)["says"] == "within error"
    assert bound_on_test(Constraint("recall_gap", at_most=0.0), told, context)["says"] == "missed"


def test_uniform_mixup_from_one_course_is_the_baseline() -> None:
    data = GaussiansConfig(largest_class=60, feedback=20, select=20, test=20).load()
    model = ModelConfig("linear_head")
    state = dict(model.build(data.input_shape, data.num_classes).state_dict())
    base = Base(model, state, {"weight": state["head.weight"], "bias": state["head.bias"]})
    courses = UniformCourses()
    for name in ("min_recall", "h_mean"):
        task = BaselineTask(data, base, name, SelectionRule(name), (3,), FinetuneConfig(steps=40), ())
        assert state_digest(courses.state(task)) == state_digest(BASELINES["uniform_mixup"](task).states[0])
    patient = dataclasses.replace(task, winner_config=FinetuneConfig(steps=20, patience_rounds=2))
    with pytest.raises(ValueError, match="patience looks at the rule"):
        UniformCourses().state(patient)


def test_fits_are_remembered_and_unchanged() -> None:
    g = torch.Generator().manual_seed(0)
    solve = last_layer.balanced_logistic_regression
    x, labels = torch.randn(30, 2, generator=g), torch.arange(3).repeat(10)
    with remembered_fits():
        first, again, other = (
            last_layer.balanced_logistic_regression(x, labels, 3, decay) for decay in (0.1, 0.1, 0.01)
        )
    assert first is again
    assert last_layer.balanced_logistic_regression is solve
    for told, decay in ((first, 0.1), (other, 0.01)):
        assert all(torch.equal(a, b) for a, b in zip(told, solve(x, labels, 3, decay), strict=True))


def rows_by_hand() -> tuple[World, list[dict[str, object]]]:
    world = WORLDS["gaussians"]
    case = Case("min_recall", "min_recall")
    values = {
        "selmix": (0.6, 0.7, 0.62), "last_layer_on_train_plus_feedback": (0.5, 0.6, 0.52),
        "last_layer_post_hoc": (0.55, 0.64, 0.58), "uniform_mixup": (0.5, 0.5, 0.5), "optimum": (0.7, 0.8, 0.72),
        "untouched": (0.1, 0.1, 0.1),
    }  # fmt: skip
    bound = bound_on_test(
        Constraint("min_recall", at_least=0.99),
        predictions((40, 50), 50),
        MetricContext(torch.tensor([10, 10])),
    )
    rows: list[dict[str, object]] = []
    for method, told in values.items():
        for seed, value in enumerate(told):
            row = {"method": method, "case": case.name, "seed": seed, "bounds": [bound],
                   "test": {"min_recall": value, "min_coverage": value}}  # fmt: skip
            if method == "selmix":
                row |= {"feasible": True, "fidelity": {"gain_spearman": 0.8, "gain_pearson": None}}
            rows.append(row)
    return world, rows


def test_tables_of_rows_made_by_hand() -> None:
    world, rows = rows_by_hand()
    told = verdicts(world, rows)["min_recall"]
    assert told["opponent"] == "last_layer_post_hoc"
    assert told["gap"] == pytest.approx(0.05)
    gaps = torch.tensor([0.05, 0.06, 0.04], dtype=torch.float64)
    half = 4.302653 * float(gaps.std()) / 3**0.5  # Student's t with 2 degrees of freedom
    assert told["low"] == pytest.approx(0.05 - half, abs=1e-6)
    assert told["says"] == "better"
    closed = shares_closed(world, rows)["min_recall"]
    assert closed["distance"] == pytest.approx(0.2)
    assert closed["selmix"] == pytest.approx(0.5)
    text = tables(world, rows)
    assert "| min_recall | **64.0** | 64.0 |" in text
    assert "Of 3 constrained fine-tunings on test: 0 holds, 0 within error, 3 missed." in text
    assert "| min_recall | 0.80 | 0.80 |" in text


def test_words() -> None:
    assert (word(0.1, 0.2), word(-0.1, 0.2), word(-0.2, -0.1)) == ("better", "not told apart", "worse")
    assert mean_gap([0.1])[1:] == (-float("inf"), float("inf"))
