"""`selmix evaluate`: a metric from labels and class scores alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selmix.baselines.score_table import assess
from selmix.data.score_tables import read_scores
from selmix.metrics import MetricContext, Predictions
from selmix.statistics.intervals import counts_interval, metric_interval
from tests.command import here

CONTEXT = MetricContext(torch.tensor([50, 10, 5]))
NAMES = ("cat", "dog", "eel")


def scores(count: int, shift: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, and scores that lean to the first class by ``shift``."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(count)
    logits = torch.randn(len(labels), 3, generator=generator)
    logits[torch.arange(len(labels)), labels] += 2.5
    logits[:, 0] += shift
    return labels, logits


def write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_the_value_is_that_of_the_predictions() -> None:
    labels, logits = scores(30)
    found = assess(labels, logits, "min_recall", CONTEXT, NAMES)
    assert found.value == metric_interval("min_recall", Predictions.from_logits(labels, logits), CONTEXT)
    assert found.half_width == pytest.approx((found.value.high - found.value.low) / 2)
    recalls = [row.recall.value for row in found.classes]
    assert recalls == sorted(recalls)
    assert {row.name for row in found.classes} == set(NAMES)


@pytest.mark.parametrize("metric", ["min_recall", "mean_recall", "h_mean"])
def test_the_samples_needed_are_the_fewest_that_do(metric: str) -> None:
    labels, logits = scores(8)
    found = assess(labels, logits, metric, CONTEXT, NAMES)
    assert not found.is_resolved
    assert found.samples_needed is not None
    assert found.samples_needed > 8
    counts = Predictions.from_logits(labels, logits).counts(3).double()
    shares = counts / counts.sum(dim=1, keepdim=True)
    widths = [
        counts_interval(metric, shares * n, CONTEXT) for n in (found.samples_needed - 1, found.samples_needed)
    ]
    before, after = ((w.high - w.low) / 2 for w in widths)
    assert (
        after <= 0.05 < before + 0.002
    )  # sampled bias makes the smooth means uneven by a fraction of a percentage point


def test_enough_samples_are_said_to_be_enough() -> None:
    labels, logits = scores(2000)
    found = assess(labels, logits, "min_recall", CONTEXT, NAMES)
    assert found.is_resolved
    assert found.samples_needed == 2000


def test_a_correction_that_helps_and_one_that_does_not() -> None:
    skewed = assess(*scores(300, shift=3.0), "min_recall", CONTEXT, NAMES).correction
    assert skewed is not None
    assert skewed.outcome == "better"
    assert skewed.difference.value > 0.2
    assert skewed.biases[0] < min(skewed.biases[1:]) - 1.5
    straight = assess(*scores(300), "min_recall", CONTEXT, NAMES).correction
    assert straight is not None
    assert straight.outcome == "tied"


def test_a_correction_is_judged_on_samples_it_has_not_seen() -> None:
    """On scores without any signal a fit on the same samples would look better than chance; this must not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    gains = []
    for _ in range(15):
        found = assess(labels, torch.randn(120, 3, generator=generator), "mean_recall", CONTEXT, NAMES)
        assert found.correction is not None
        gains.append(found.correction.value - 1 / 3)
    assert abs(sum(gains) / len(gains)) < 0.03


@pytest.mark.parametrize(
    ("labels", "logits", "metric", "message"),
    [
        (torch.tensor([0, 1, 2]), torch.eye(3), "recal", "unknown metric 'recal'"),
        (torch.tensor([0, 1, 1]), torch.eye(3), "min_recall", "got none of eel"),
        (torch.tensor([0, 1, 2]), torch.full((3, 3), float("nan")), "min_recall", "scores must be finite"),
    ],
)
def test_refused(labels: torch.Tensor, logits: torch.Tensor, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assess(labels, logits, metric, CONTEXT, NAMES)


def test_both_forms_of_a_table(tmp_path: Path) -> None:
    labels, logits = scores(4)
    lists = read_scores(write(tmp_path / "a.parquet", {"label": labels.tolist(), "scores": logits.tolist()}))
    columns = {f"score_{name}": logits[:, k].numpy() for k, name in enumerate(NAMES)}
    texts = [NAMES[k] for k in labels.tolist()]
    named = read_scores(write(tmp_path / "b.parquet", {"label": texts, **columns}))
    numbered = read_scores(write(tmp_path / "c.parquet", {"label": labels.tolist(), **columns}))
    for table in (lists, named, numbered):
        assert torch.equal(table.labels, labels)
        assert torch.equal(table.scores, logits)
    assert lists.class_names == ("0", "1", "2")
    assert named.class_names == NAMES


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scores": [[0.1, 0.9]]}, "must have a column label"),
        ({"label": [0]}, "must have a column scores"),
        ({"label": [0, 1], "scores": [[0.1, 0.9], [0.1]]}, "as many for every row"),
        ({"label": [0, 5], "scores": [[0.1, 0.9], [0.1, 0.9]]}, "label must be one of 0, 1, got 5"),
        ({"label": ["cat"], "score_dog": [0.1]}, "label must be one of dog, got 'cat'"),
        ({"label": [0, None], "scores": [[0.1, 0.9], [0.1, 0.9]]}, "missing in label"),
        ({"label": pa.array([], pa.int64()), "score_a": pa.array([], pa.float32())}, "must have rows"),
    ],
)
def test_tables_that_do_not_do(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scores(write(tmp_path / "x.parquet", columns))


def test_on_the_command_line(tmp_path: Path) -> None:
    labels, logits = scores(30, shift=2.0)
    table = write(tmp_path / "t.parquet", {"label": labels.tolist(), "scores": logits.tolist()})
    done = here("evaluate", table, "--objective", "min_recall")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("min_recall ")
    assert "resolved       no" in done.out
    assert "post hoc       a bias per class" in done.out
    document = here("evaluate", table, "--objective", "min_recall", "--json").document
    assert document["schema_version"] == 1
    assert document["rows"] == 90
    assert document["value"] == vars(
        metric_interval("min_recall", Predictions.from_logits(labels, logits), CONTEXT)
    )
    assert here("evaluate", table, "--objective", "cvar_recall", "--cvar-fraction", "0.5").code == 0
    assert here("evaluate", table, "--objective", "few_shot_recall", "--train-counts", "30,10,5").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--objective", "min_recal"), 2, "did you mean min_recall?"),
        (("--objective", "few_shot_recall"), 2, "give --train-counts"),
        (("--objective", "cost"), 2, "needs numbers of its own"),
        (("--objective", "min_recall", "--train-counts", "1,2"), 2, "must be 3 numbers"),
        (("--objective", "min_recall", "--train-counts", "a"), 2, "--train-counts"),
        (("--objective", "cvar_recall", "--cvar-fraction", "0"), 2, "--cvar-fraction: must be a number"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    labels, logits = scores(3)
    table = write(tmp_path / "t.parquet", {"label": labels.tolist(), "scores": logits.tolist()})
    done = here("evaluate", table, *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_no_table(tmp_path: Path) -> None:
    done = here("evaluate", tmp_path / "none.parquet", "--objective", "min_recall")
    assert done.code == 4
    assert "must be a Parquet file, there is none" in done.err
    (tmp_path / "none.parquet").write_text("no")
    assert here("evaluate", tmp_path / "none.parquet", "--objective", "min_recall").code == 4


def grouped(classes: int, groups: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, scores that are worse for the later groups, and groups."""
    g = torch.Generator().manual_seed(seed)
    labels, group = torch.arange(classes * 60) % classes, torch.randint(groups, (classes * 60,), generator=g)
    logits = torch.randn(len(labels), classes, generator=g)
    logits[torch.arange(len(labels)), labels] += 2.0 - group.float()
    return labels, logits, group


@pytest.mark.parametrize("groups", [2, 3])
def test_metrics_of_groups_as_fairlearn_has_them(tmp_path: Path, groups: int) -> None:
    from fairlearn import metrics as fairlearn

    labels, logits, group = grouped(2, groups)
    names = [f"site{k}" for k in group.tolist()]
    columns = {"label": labels.tolist(), "scores": logits.tolist(), "group": names}
    table = read_scores(write(tmp_path / "g.parquet", columns))
    assert table.group_names == tuple(f"site{k}" for k in range(groups))
    assert table.groups is not None
    given = {
        "y_true": labels.numpy(), "y_pred": logits.argmax(dim=1).numpy(), "sensitive_features": group.numpy(),
    }  # fmt: skip
    theirs = {
        "equal_opportunity_gap": fairlearn.equal_opportunity_difference(**given),
        "equalized_odds_gap": fairlearn.equalized_odds_difference(**given),
        "demographic_parity_gap": fairlearn.demographic_parity_difference(**given),
        "worst_group_recall": min(
            fairlearn.MetricFrame(
                metrics=lambda y_true, y_pred: float((y_true == y_pred).mean()),
                y_true=given["y_true"][labels.numpy() == k], y_pred=given["y_pred"][labels.numpy() == k],
                sensitive_features=given["sensitive_features"][labels.numpy() == k],
            ).group_min()
            for k in range(2)
        ),
    }  # fmt: skip
    counts = MetricContext(torch.tensor([1, 1]), num_groups=groups)
    for metric, value in theirs.items():
        found = assess(table.labels, table.scores, metric, counts, table.class_names, table.groups)
        assert found.value.value == pytest.approx(value, abs=1e-12), metric
        assert 0.0 <= found.value.low <= found.value.value <= found.value.high <= 1.0
        assert found.correction is not None
        assert found.value == metric_interval(metric, Predictions.from_logits(labels, logits, group), counts)


def test_groups_on_the_command_line(tmp_path: Path) -> None:
    labels, logits, group = grouped(3, 2)
    columns = {"label": labels.tolist(), "scores": logits.tolist()}
    table = write(tmp_path / "t.parquet", columns | {"group": group.tolist()})
    done = here("evaluate", table, "--objective", "worst_group_recall")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("worst_group_recall ")
    assert "in 2 groups" in done.out
    plain = write(tmp_path / "p.parquet", columns)
    done = here("evaluate", plain, "--objective", "equalized_odds_gap")
    assert (done.code, done.out) == (2, "")
    assert "needs groups; give" in done.err
    one = write(tmp_path / "o.parquet", columns | {"group": [0] * len(labels)})
    done = here("evaluate", one, "--objective", "worst_group_recall")
    assert done.code == 4
    assert "group must name at least two groups" in done.err
