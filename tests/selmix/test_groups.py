"""Metrics and objectives of groups: fairlearn, loops, limits, the strata of a run, and a sweep."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selmix.baselines import BASELINES, BaselineTask, baselines_for
from selmix.baselines.group_dro import group_dro_head
from selmix.baselines.last_layer import balanced_logistic_regression
from selmix.config import FinetuneConfig
from selmix.confusion import class_confusion, confusion_counts, logit_gradient, smooth_confusion
from selmix.data.digits import DigitsConfig
from selmix.data.parquet import ParquetConfig
from selmix.groups import class_counts, strata_of, stratum_labels
from selmix.metrics import METRICS, MetricContext, Predictions, compute_metric, evaluate_predictions
from selmix.models import ModelConfig
from selmix.objectives import OBJECTIVES, ObjectiveContext, bind_objective
from selmix.pretrain import pretrain
from selmix.run.run import Constraint, SelectionRule, finetune
from selmix.statistics.comparison import paired_difference
from selmix.statistics.intervals import metric_interval
from tests.command import selmix

OF_GROUPS = [key for key, metric in METRICS.items() if metric.of_cells is not None]


def sample(classes: int, groups: int, count: int = 400, seed: int = 0) -> Predictions:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=g)
    group = torch.randint(groups, (count,), generator=g)
    right = torch.rand(count, generator=g) < 0.9 - 0.25 * group / groups
    predicted = torch.where(right, labels, torch.randint(classes, (count,), generator=g))
    return Predictions(labels, predicted, torch.full((count,), 0.5), group)


def context(classes: int, groups: int) -> MetricContext:
    return MetricContext(torch.arange(classes, 0, -1) * 10, num_groups=groups)


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_classes_as_fairlearn_has_them(groups: int, seed: int) -> None:
    from fairlearn import metrics as fairlearn

    p = sample(2, groups, seed=seed)
    values = evaluate_predictions(p, context(2, groups))
    arguments = {
        "y_true": p.labels.numpy(),
        "y_pred": p.predicted.numpy(),
        "sensitive_features": p.groups.numpy(),
    }
    theirs = {
        "equal_opportunity_gap": fairlearn.equal_opportunity_difference(**arguments),
        "equalized_odds_gap": fairlearn.equalized_odds_difference(**arguments),
        "demographic_parity_gap": fairlearn.demographic_parity_difference(**arguments),
    }
    for key, value in theirs.items():
        assert values[key] == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize(("classes", "groups"), [(3, 2), (5, 3)])
def test_many_classes_by_hand(classes: int, groups: int) -> None:
    p = sample(classes, groups, seed=3)
    label, predicted, group = p.labels.tolist(), p.predicted.tolist(), p.groups.tolist()
    rows = list(zip(label, predicted, group, strict=True))

    def rate(of: object, given: object) -> float:
        chosen = [row for row in rows if given(row)]
        return sum(of(row) for row in chosen) / len(chosen)

    cells = {(k, a): rate(lambda r, k=k: r[1] == k, lambda r, k=k, a=a: (r[0], r[2]) == (k, a))
             for k in range(classes) for a in range(groups)}  # fmt: skip

    def gap(of: object, given: object) -> float:
        rates = [rate(of, lambda r, a=a: r[2] == a and given(r)) for a in range(groups)]
        return max(rates) - min(rates)

    pairs = list(itertools.product(range(classes), repeat=2))
    expected = {
        "worst_group_recall": min(cells.values()),
        "equal_opportunity_gap": max(
            gap(lambda r, k=k: r[1] == k, lambda r, k=k: r[0] == k) for k in range(classes)
        ),
        "equalized_odds_gap": max(gap(lambda r, m=m: r[1] == m, lambda r, k=k: r[0] == k) for k, m in pairs),
        "demographic_parity_gap": max(gap(lambda r, m=m: r[1] == m, lambda r: True) for m in range(classes)),
    }
    values = evaluate_predictions(p, context(classes, groups))
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, abs=1e-12), key


def test_empty_cells_are_left_out_and_dimensions_lead() -> None:
    cells = torch.zeros(2, 4, 2)
    cells[:, 0] = torch.tensor([8.0, 2.0])  # class 0, group 0
    cells[:, 2] = torch.tensor([1.0, 9.0])  # class 1, group 0
    cells[:, 3] = torch.tensor([5.0, 5.0])  # class 1, group 1; class 0 of group 1 is empty
    for key in OF_GROUPS:
        values = METRICS[key].of(cells, context(2, 2))
        assert values.shape == (2,)
        assert torch.isfinite(values).all(), key
    assert float(METRICS["worst_group_recall"].of(cells, context(2, 2))[0]) == 0.5
    assert float(METRICS["equal_opportunity_gap"].of(cells, context(2, 2))[0]) == pytest.approx(0.4)


def test_strata_and_classes() -> None:
    p = sample(3, 2)
    strata = strata_of(p.labels, p.groups, 2)
    cells = confusion_counts(strata, p.predicted, 6, 3)
    assert torch.equal(class_counts(cells, 2), p.counts(3))
    assert torch.equal(class_counts(cells, 2).double(), class_confusion(cells.double(), stratum_labels(3, 2)))
    assert torch.equal(p.counts_for("worst_group_recall", context(3, 2)), cells)
    assert torch.equal(p.counts_for("min_recall", context(3, 2)), p.counts(3))
    with pytest.raises(ValueError, match="needs data with a group attribute"):
        Predictions(p.labels, p.predicted, p.confidence).counts_for("worst_group_recall", context(3, 2))
    with pytest.raises(ValueError, match="it needs a group attribute"):
        compute_metric("equalized_odds_gap", p.counts(3), context(3, 0))


@pytest.mark.parametrize("name", OF_GROUPS)
def test_objectives_of_groups_are_their_metrics_and_can_be_differentiated(name: str) -> None:
    cells = smooth_confusion(sample(3, 2).counts_for(name, context(3, 2)))
    given = ObjectiveContext(labels=stratum_labels(3, 2), num_groups=2)
    objective = bind_objective(name, given)
    if name != "worst_group_recall":
        value = float(METRICS[name].of(cells, context(3, 2)))
        assert float(objective(cells)) == pytest.approx(-value)
    gradient = logit_gradient(objective, cells)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().max()) > 0
    # A step along the gradient betters the metric.
    logits = cells.log()
    moved = torch.softmax(logits + 0.1 * gradient / gradient.abs().max(), dim=1) * cells.sum(
        dim=1, keepdim=True
    )
    assert float(objective(moved)) > float(objective(cells))


def test_objectives_of_classes_keep_their_meaning_on_cells() -> None:
    cells = smooth_confusion(sample(3, 2).counts_for("worst_group_recall", context(3, 2)))
    given = ObjectiveContext(labels=stratum_labels(3, 2), num_groups=2)
    for name in ("mean_recall", "h_mean", "macro_f1", "cvar_recall"):
        expected = OBJECTIVES[name](class_counts(cells, 2))
        assert float(bind_objective(name, given)(cells)) == pytest.approx(float(expected)), name


@pytest.mark.parametrize("key", OF_GROUPS)
def test_intervals_hold(key: str) -> None:
    """Simulated from the same truth 200 times: 95 % intervals of one model and of ties between two hold."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor([[0.9, 0.9], [0.8, 0.6], [0.9, 0.7]])  # class, group

    def draw() -> Predictions:
        labels = torch.arange(3).repeat_interleave(60)
        groups = torch.arange(2).repeat(90)
        right = torch.rand(180, generator=generator) < truth[labels, groups]
        return Predictions(
            labels, torch.where(right, labels, (labels + 1) % 3), torch.full((180,), 0.5), groups
        )

    cells = torch.zeros(6, 3)
    for k, a in itertools.product(range(3), range(2)):
        cells[2 * k + a, k], cells[2 * k + a, (k + 1) % 3] = 1000 * truth[k, a], 1000 * (1 - truth[k, a])
    value = float(METRICS[key].of(cells, context(3, 2)))
    held = wrong = 0
    for _ in range(200):
        one, other = draw(), draw()
        interval = metric_interval(key, one, context(3, 2))
        held += interval.low <= value <= interval.high
        gap = paired_difference(key, [one], [other], context(3, 2))
        wrong += gap.low > 0 or gap.high < 0
    assert held >= 185
    assert wrong <= 15


@cache
def digits() -> tuple[DigitsConfig, object, object]:
    from tests.selmix.test_run import base_of

    config = DigitsConfig(noisy_share=0.2)
    data = config.load()
    return config, data, base_of(data, "small_cnn", 0)


def test_digits_of_two_groups() -> None:
    config, data, _ = digits()
    assert data.group_names == ("clear", "noisy")
    assert data.missing_cells("feedback") == data.missing_cells("select") == []
    assert data.train.groups is not None
    share = float((data.train.groups[data.train.labels == 0] == 1).float().mean())
    assert share == pytest.approx(0.2, abs=0.01)
    clear = DigitsConfig().load()
    untouched = data.select.groups == 0
    assert torch.equal(data.select.whole()[untouched], clear.select.whole()[untouched])
    assert config.load().digests == data.digests != clear.digests
    with pytest.raises(ValueError, match=r"noisy_share: must lie in \[0, 1\), got 1.5"):
        DigitsConfig(noisy_share=1.5)


def test_a_run_for_the_worst_group() -> None:
    _, data, base = digits()
    rule = SelectionRule("worst_group_recall")
    run = finetune(data, base, "worst_group_recall", FinetuneConfig(steps=60), 0, rule)
    assert run.best is not None
    assert run.rounds[1].gain is not None
    assert run.rounds[1].gain.shape == (20, 20)
    assert run.rounds[1].confusion is not None
    assert run.rounds[1].confusion.shape == (20, 10)
    assert "worst_group_recall" in run.best.select
    held = finetune(
        data, base, "mean_recall", FinetuneConfig(steps=40), 0,
        SelectionRule("mean_recall", constraints=(Constraint("equal_opportunity_gap", at_most=0.2),)),
    )  # fmt: skip
    assert held.rounds[1].gain is not None
    assert held.rounds[1].gain.shape == (20, 20)
    plain = finetune(data, base, "mean_recall", FinetuneConfig(steps=20), 0, SelectionRule("mean_recall"))
    assert plain.rounds[1].gain is not None
    assert plain.rounds[1].gain.shape == (10, 10)
    clear = DigitsConfig().load()
    with pytest.raises(ValueError, match="needs data with a group attribute"):
        finetune(clear, base, "worst_group_recall", FinetuneConfig(steps=20), 0, SelectionRule("min_recall"))


def test_baselines_of_groups() -> None:
    _, data, base = digits()
    task = BaselineTask(
        data,
        base,
        "worst_group_recall",
        SelectionRule("worst_group_recall"),
        (1,),
        FinetuneConfig(steps=20),
        (),
    )
    assert "group_dro_last_layer" in baselines_for(2)
    assert "group_dro_last_layer" not in baselines_for(0)
    values = {}
    for name in ("untouched", "group_balanced_last_layer", "group_dro_last_layer", "post_hoc_bias_search"):
        logits = task.logits(BASELINES[name](task).states[0], data.select)
        predictions = Predictions.from_logits(data.select.labels, logits, data.select.groups)
        values[name] = evaluate_predictions(predictions, task.context)["worst_group_recall"]
    assert values["group_balanced_last_layer"] > values["untouched"]
    assert values["group_dro_last_layer"] > values["untouched"]


def test_group_dro_evens_out_the_cells() -> None:
    """Its worst cell's loss is below that of the head in which every class weighs the same."""
    g = torch.Generator().manual_seed(0)
    labels, groups = torch.arange(2).repeat(200), (torch.rand(400, generator=g) < 0.1).long()
    x = torch.randn(400, 4, generator=g) + torch.stack([labels, labels * (1 - 2 * groups), groups, groups], 1)
    strata = strata_of(labels, groups, 2)

    def worst(weight: torch.Tensor, bias: torch.Tensor) -> float:
        losses = torch.nn.functional.cross_entropy(x.double() @ weight.T + bias, labels, reduction="none")
        return max(float(losses[strata == s].mean()) for s in range(4))

    plain = worst(*balanced_logistic_regression(x, labels, 2, 1e-3))
    assert worst(*group_dro_head(x, labels, strata, 2, 1e-3)) < plain


def test_groups_of_a_parquet_file(tmp_path: Path) -> None:
    count = 400
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(count // 2)
    columns = {
        "label": labels.tolist(), "features": torch.randn(count, 3, generator=g).tolist(),
        "sex": ["f" if k % 3 else "m" for k in range(count)],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = ParquetConfig(str(tmp_path / "a.parquet"), group="sex").load()
    assert data.group_names == ("f", "m")
    assert data.train.groups is not None
    with pytest.raises(ValueError, match="must have a column age"):
        ParquetConfig(str(tmp_path / "a.parquet"), group="age").load()


FILE = """\
version: 1
name: fair
data: {name: digits, noisy_share: 0.2}
objectives: [worst_group_recall]
constraints: [{metric: equal_opportunity_gap, at_most: 0.9}]
search: {num_trials: 1}
parameters: {steps: {value: 40}}
selection: {finalists: 1, replicates: 1}
"""


def test_groups_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "fair.yaml"
    path.write_text(FILE.replace(", noisy_share: 0.2", ""))
    done = selmix("validate", path)
    assert done.code == 3
    assert (
        ":4: objectives.0: worst_group_recall needs data with a group attribute, digits as configured has none"
        in done.err
    )
    assert ":5: constraints.0: equal_opportunity_gap needs data with a group attribute" in done.err


@pytest.mark.long
@pytest.mark.ray
def test_a_sweep_for_the_worst_group(tmp_path: Path) -> None:
    path = tmp_path / "fair.yaml"
    path.write_text(FILE)
    assert selmix("launch", path, cwd=tmp_path).code == 0
    result = selmix("show", "fair", "--json", cwd=tmp_path).document["objectives"]["worst_group_recall"]
    assert result["metric"] == "worst_group_recall"
    assert {"group_balanced_last_layer", "group_dro_last_layer"} <= result["baselines"].keys()
    assert all(row["state"] == "FINISHED" for row in result["baselines"].values())
    assert selmix("pin", "fair", "--name", "fair", cwd=tmp_path).code == 0
    assert selmix("reproduce", "fair", cwd=tmp_path).code == 0


def test_pretraining_takes_no_notice_of_groups() -> None:
    _, data, base = digits()
    assert pretrain("erm", ModelConfig("small_cnn"), data, 0).keys() == base.state.keys()
