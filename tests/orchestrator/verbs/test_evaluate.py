"""`selmix evaluate`: a metric from labels and class scores alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn import metrics as sklearn

from selmix.baselines.score_table import assess
from selmix.data.score_tables import read_scores
from selmix.metrics import METRICS, MetricContext, Predictions
from selmix.score_correction import load_score_correction
from selmix.statistics.intervals import counts_interval, metric_interval
from tests.command import ROOT, environment, here

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
        (
            torch.tensor([0, 1, 2]),
            torch.full((3, 3), float("nan")),
            "min_recall",
            "row 1: scores must be numbers",
        ),
    ],
)
def test_refused(labels: torch.Tensor, logits: torch.Tensor, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assess(labels, logits, metric, CONTEXT, NAMES)


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
    assert "must be a Parquet, CSV or TSV file (.parquet, .csv, .tsv, .csv.gz), there is none" in done.err
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
    assert table.scores is not None
    given = {
        "y_true": labels.numpy(), "y_pred": logits.argmax(dim=1).numpy(), "sensitive_features": group.numpy(),
    }  # fmt: skip
    theirs = {
        "equal_opportunity_gap": fairlearn.equal_opportunity_difference(**given),
        "equalized_odds_gap": fairlearn.equalized_odds_difference(**given),
        "one_vs_rest_odds_gap": fairlearn.equalized_odds_difference(**given),
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
    # Metrics that need no groups do not mind, and say it.
    done = here("evaluate", one, "--objective", "min_recall")
    assert done.code == 0
    assert "groups         none: group must name at least two groups, got [0]\n" in done.out
    assert "groups  " not in here("evaluate", plain, "--objective", "min_recall").out
    assert "for want of groups (group must name at least two groups, got [0])" in here("evaluate", one).out


# -- tables as they come --------------------------------------------------------------------------------------


def calibrated(count: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from probabilities of three classes, and these."""
    rng = np.random.default_rng(seed)
    p = np.exp(2 * rng.normal(size=(count, 3)))
    p /= p.sum(axis=1, keepdims=True)
    return np.array([rng.choice(3, p=row) for row in p]), p


def table_of(folder: Path, name: str, labels: np.ndarray, scores: np.ndarray, **columns: Any) -> Path:
    return write(folder / f"{name}.parquet", {"label": labels, "scores": list(scores), **columns})


@pytest.fixture
def kinds(tmp_path: Path) -> dict[str, Path]:
    """The same scores as probabilities, log-probabilities and logits."""
    labels, p = calibrated()
    return {
        "probabilities": table_of(tmp_path, "p", labels, p),
        "log-probabilities": table_of(tmp_path, "log", labels, np.log(p)),
        "logits": table_of(tmp_path, "logits", labels, np.log(p) + labels[:, None] * 3.0 - 1.0),
    }


def test_scores_say_what_they_are_and_all_kinds_give_the_same(kinds: dict[str, Path]) -> None:
    documents = {}
    for kind, path in kinds.items():
        document = here("evaluate", path, "--json").document
        assert document["scores"] == kind
        assert f"scores         {kind}, told by their rows" in here("evaluate", path).out
        documents[kind] = document
    first, second, third = (each["metrics"] for each in documents.values())
    assert first == second
    for one, other in zip(first, third, strict=True):
        assert one["metric"] == other["metric"]
        for key in ("value", "low", "high"):
            assert one[key] == (None if other[key] is None else pytest.approx(other[key], abs=1e-9))
    values = {row["metric"]: row["value"] for row in first}
    assert (
        values["calibration_error"] < 0.04
    )  # it was tens of percent where probabilities were taken for logits
    objectives = [
        here("evaluate", path, "--objective", "min_recall", "--json").document for path in kinds.values()
    ]
    assert objectives[0]["correction"] == objectives[1]["correction"]
    assert objectives[0]["correction"]["value"] == objectives[2]["correction"]["value"]
    # Stated, and wrongly so.
    stated = here("evaluate", kinds["probabilities"], "--scores", "logits", "--json").document
    assert (stated["scores"], stated["scores_reason"]) == ("logits", "as stated")
    assert {row["metric"]: row["value"] for row in stated["metrics"]}["calibration_error"] > 0.1
    done = here("evaluate", kinds["logits"], "--scores", "probabilities")
    assert done.code == 4
    assert "row 1: probabilities must lie within [0, 1], and rows sum to one, got" in done.err


def test_a_score_of_minus_infinity_never_wins(tmp_path: Path) -> None:
    labels, p = calibrated()
    logs = np.log(p)
    logs[:5, 0] = -np.inf
    logs[5:9] = -np.inf
    logs[5:9, 2] = 0.0
    path = table_of(tmp_path, "m", labels, logs)
    document = here("evaluate", path, "--objective", "min_recall", "--json").document
    assert document["scores"] == "log-probabilities"
    assert document["correction"] is not None
    assert here("evaluate", path).code == 0
    here("evaluate", path, "--objective", "min_precision", "--save", tmp_path / "c.json")
    found = load_score_correction(tmp_path / "c.json").predict(logs)
    assert bool((found[:5] != 0).all())
    assert found[5:9].tolist() == [2] * 4
    logs[3] = -np.inf
    done = here("evaluate", table_of(tmp_path, "all", labels, logs), "--objective", "min_recall")
    assert (done.code, done.out) == (4, "")
    assert "row 4: one score at least must be more than -inf" in done.err


def test_a_correction_to_one_class_is_said_to_be_one(tmp_path: Path) -> None:
    labels, p = calibrated()
    group = np.where(np.arange(len(labels)) % 2 == 0, "a", "b")
    logits = np.log(p) + np.where(group[:, None] == "a", [2.0, 0.0, 0.0], 0.0)
    path = table_of(tmp_path, "g", labels, logits, group=group)
    done = here("evaluate", path, "--objective", "demographic_parity_gap")
    assert re.search(r"better, by giving EVERY sample to class \d; mean recall -\d+\.\d \[", done.out)
    correction = here("evaluate", path, "--objective", "demographic_parity_gap", "--json").document[
        "correction"
    ]
    assert correction["constant_class"] in {"0", "1", "2"}
    assert sorted([correction["constant_class"], *correction["emptied"]]) == ["0", "1", "2"]
    assert correction["mean_recall"]["high"] < -0.2
    # One that leaves all classes says what the mean recall loses too, and nothing else.
    plain = here("evaluate", path, "--objective", "min_recall", "--json").document["correction"]
    assert (plain["constant_class"], plain["emptied"], plain["constant_folds"]) == (None, [], 0)
    assert "sample to class" not in here("evaluate", path, "--objective", "min_recall").out
    assert "mean recall" in here("evaluate", path, "--objective", "min_recall").out


def test_a_correction_that_empties_a_class_names_it(tmp_path: Path) -> None:
    """A class of eight samples that look like another one: accuracy is best without it."""
    labels = np.array([0, 1] * 200 + [2] * 8)
    logits = 3.0 * np.eye(3)[labels % 2]
    logits[:, 2] = 4.0
    done = here("evaluate", table_of(tmp_path, "e", labels, logits), "--objective", "accuracy")
    assert "better, by giving NO sample to class 2; mean recall +33.3 [" in done.out


def binary(folder: Path, count: int = 1500) -> tuple[Path, np.ndarray, np.ndarray]:
    labels, p = calibrated(count)
    y, positive = (labels > 0).astype(int), (1 - p[:, 0]).round(6)
    lines = "".join(f"{a},{b:.6f}\n" for a, b in zip(y, positive, strict=True))
    (folder / "binary.csv").write_text("y_true,proba\n" + lines)
    return folder / "binary.csv", y, positive


def test_one_column_of_scores_and_a_threshold(tmp_path: Path) -> None:
    path, y, p = binary(tmp_path)
    given = ("evaluate", path, "--label", "y_true", "--positive", "1")
    for threshold, flags in ((0.5, ()), (0.8, ("--threshold", "0.8"))):
        document = here(*given, *flags, "--json").document
        values = {row["metric"]: row["value"] for row in document["metrics"]}
        assert values["accuracy"] == pytest.approx(np.mean((p > threshold) == y))
        assert values["mcc"] == pytest.approx(sklearn.matthews_corrcoef(y, p > threshold))
        assert values["auroc"] == pytest.approx(sklearn.roc_auc_score(y, p))
        assert values["average_precision"] == pytest.approx(sklearn.average_precision_score(y, p))
        assert values["brier_score"] == pytest.approx(sklearn.brier_score_loss(y, p))
        assert values["log_loss"] == pytest.approx(sklearn.log_loss(y, p))
        assert (document["positive"], document["threshold"], document["scores"]) == (
            "1",
            threshold,
            "probabilities",
        )
    cut = tmp_path / "cut.json"
    done = here(*given, "--objective", "mean_recall", "--save", cut)
    assert "a threshold of 0." in done.out
    assert f"written to {cut}" in done.out
    correction = load_score_correction(cut)
    assert correction.kind == "threshold"
    assert torch.equal(correction.predict(p), torch.from_numpy(p > correction.threshold).long())
    # Where negatives are half as many as positives, the threshold of equal recalls lies above one half.
    assert correction.threshold is not None
    assert 0.55 < correction.threshold < 0.85


@pytest.mark.parametrize("form", ["threshold", "biases"])
def test_a_correction_is_applied_to_another_table(form: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    if form == "threshold":
        (path, y, p), other = binary(tmp_path), binary(tmp_path / "a", 1000)
        flags: tuple[str, ...] = ("--label", "y_true", "--positive", "1")
        second, y, p = other
    else:
        path = table_of(tmp_path, "first", *calibrated(1500, 1))
        y, p = calibrated(1000, 2)
        p = p * [1.0, 2.0, 4.0] / (p * [1.0, 2.0, 4.0]).sum(axis=1, keepdims=True)
        second, flags = table_of(tmp_path, "second", y, p), ()
    cut = tmp_path / "c.json"
    saved = here("evaluate", path, *flags, "--objective", "min_recall", "--save", cut, "--json").document
    assert saved["saved"] == str(cut)
    again = here(
        "evaluate", second, *flags, "--objective", "min_recall", "--correction", cut, "--json"
    ).document
    corrected = load_score_correction(cut).predict(p).numpy()
    recalls = [np.mean(corrected[y == k] == k) for k in np.unique(y)]
    assert again["correction"]["value"] == pytest.approx(min(recalls))
    assert (again["correction"]["given"], again["correction"]["fitted_here"]) == (str(cut), False)
    whole = here("evaluate", second, *flags, "--correction", cut, "--json").document
    rows = {row["metric"]: row["corrected"] for row in whole["metrics"]}
    assert rows["accuracy"] == pytest.approx(np.mean(corrected == y))
    assert rows["auroc"] is None  # decisions move, scores do not
    assert "fitted on another table" in here("evaluate", second, *flags, "--correction", cut).out
    same = here("evaluate", path, *flags, "--objective", "min_recall", "--correction", cut)
    assert "fitted on these very samples: what it gains here says nothing of others" in same.out


def test_predictions_alone_give_what_counts_give(tmp_path: Path) -> None:
    labels, p = calibrated()
    hard = write(tmp_path / "h.parquet", {"label": labels, "hat": p.argmax(axis=1)})
    scored = here("evaluate", table_of(tmp_path, "s", labels, p), "--json").document["metrics"]
    document = here("evaluate", hard, "--prediction", "hat", "--json").document
    assert document["metrics"] == [row for row in scored if METRICS[row["metric"]].of_predictions is None]
    assert document["left_out"]["log_loss"] == "scores"
    assert document["scores"] is None
    done = here("evaluate", hard, "--prediction", "hat", "--objective", "min_recall")
    assert (done.code, done.err) == (0, "")
    assert "post hoc       not tried: it needs scores" in done.out


def test_without_an_objective_all_metrics_are_shown(tmp_path: Path) -> None:
    labels, p = calibrated()
    group = ["a", "b"] * 750
    path = table_of(tmp_path, "t", labels, p, group=group)
    document = here("evaluate", path, "--train-counts", "300,50,5", "--beta", "0.5", "--json").document
    shown = [row["metric"] for row in document["metrics"]]
    assert shown == [key for key in METRICS if key not in ("weighted_recall", "cost")]
    assert set(document["left_out"]) == {"weighted_recall", "cost"}
    assert document["definitions"]["beta"] == 0.5
    assert (document["metric"], document["value"], document["correction"]) == (None, None, None)
    done = here("evaluate", path)
    assert re.search(r"^  log_loss +\d\.\d{3} nats  no interval$", done.out, re.MULTILINE)
    assert re.search(r"^  mcc +0\.\d{3}  \[0\.\d{3}, 0\.\d{3}\]$", done.out, re.MULTILINE)
    one = here("evaluate", path, "--objective", "log_loss")
    assert one.out.startswith("log_loss 0.")
    assert "nats (no interval is known)" in one.out


def test_metrics_as_scikit_learn_and_fairlearn_have_them(tmp_path: Path) -> None:
    """All keys on 3,000 rows, of two classes and of four, from probabilities with ties and from their logarithms."""
    for classes in (2, 4):
        rng = np.random.default_rng(classes)
        p = np.exp(1.5 * rng.normal(size=(3000, classes)))
        # Quarters of a hundredth: many equal scores, and rows that sum to one exactly.
        p = np.floor(400 * p / p.sum(axis=1, keepdims=True))
        p[:, 0] += 400 - p.sum(axis=1)
        p /= 400
        y = np.array([rng.choice(classes, p=row) for row in p])
        group = rng.integers(3, size=3000)
        path = table_of(tmp_path, f"k{classes}", y, p, group=group)
        counts = [300, 50, 10, 5][:classes]
        document = here(
            "evaluate", path, "--train-counts", ",".join(map(str, counts)), "--cvar-fraction", "0.5", "--json"
        ).document
        found = {row["metric"]: row["value"] for row in document["metrics"]}
        expected = by_others(y, p, group, counts)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, abs=1e-9), (classes, key)


def by_others(y: np.ndarray, p: np.ndarray, group: np.ndarray, train: list[int]) -> dict[str, float]:
    """Every metric by scikit-learn and fairlearn, or by numpy from what these give."""
    from fairlearn import metrics as fairlearn

    k, hat, classes = p.shape[1], p.argmax(axis=1), np.arange(p.shape[1])
    recalls = sklearn.recall_score(y, hat, average=None)
    cover = np.bincount(hat, minlength=k) / len(y)
    # The tail is all but the first ceil(0.9 K) classes, and one class at least.
    head, tail, train_counts = classes[:-1], classes[-1:], np.array(train)

    def by_group(rate: Any, true: np.ndarray, decided: np.ndarray) -> float:
        frame = fairlearn.MetricFrame(metrics=rate, y_true=true, y_pred=decided, sensitive_features=group)
        return float(frame.difference())

    def shots(mask: np.ndarray) -> dict[str, float]:
        return {"value": float(recalls[mask].mean())} if mask.any() else {}

    one_hot, confidence, hit = np.eye(k)[y], p.max(axis=1), hat == y
    order = np.argsort(confidence, kind="stable")
    masses = np.array_split(order, 15)
    widths = [np.flatnonzero((confidence > b / 15) & (confidence <= (b + 1) / 15)) for b in range(15)]
    ranked = classes if k > 2 else classes[1:]
    opportunity = [by_group(fairlearn.true_positive_rate, y == c, hat == c) for c in ranked]
    rates = [by_group(rate, y == c, hat == c) for c in classes
             for rate in (fairlearn.true_positive_rate, fairlearn.false_positive_rate)]  # fmt: skip
    cells = [
        np.ptp([np.mean(hat[(y == c) & (group == g)] == d) for g in range(3)])
        for c in classes
        for d in classes
    ]
    values = {
        "mean_recall": sklearn.recall_score(y, hat, average="macro"), "min_recall": recalls.min(),
        "min_head_tail_recall": min(recalls[head].mean(), recalls[tail].mean()),
        "g_mean": float(np.prod(recalls)) ** (1 / k), "h_mean": k / np.sum(1 / recalls),
        "q_mean": 1 - np.sqrt(np.mean((1 - recalls) ** 2)),
        "cvar_recall": np.sort(recalls)[: k // 2].mean(),
        "macro_f1": sklearn.f1_score(y, hat, average="macro"),
        "f_beta": sklearn.fbeta_score(y, hat, beta=2, average="macro"),
        "mcc": sklearn.matthews_corrcoef(y, hat), "cohen_kappa": sklearn.cohen_kappa_score(y, hat),
        "min_precision": sklearn.precision_score(y, hat, average=None, zero_division=0).min(),
        "accuracy": sklearn.accuracy_score(y, hat), "balanced_accuracy": sklearn.balanced_accuracy_score(y, hat),
        "balanced_error": 1 - sklearn.balanced_accuracy_score(y, hat), "min_coverage": cover.min(),
        "min_head_tail_coverage": min(cover[head].mean(), cover[tail].mean()), "recall_gap": np.ptp(recalls),
        "worst_group_recall": min(np.mean(hit[(y == c) & (group == g)]) for c in classes for g in range(3)),
        "equal_opportunity_gap": max(opportunity), "equalized_odds_gap": max(cells),
        "one_vs_rest_odds_gap": max(rates),
        "demographic_parity_gap": max(by_group(fairlearn.selection_rate, y == c, hat == c) for c in classes),
        **{f"many_shot_recall{name[5:]}": value for name, value in shots(train_counts > 100).items()},
        **{
            f"medium_shot_recall{name[5:]}": value
            for name, value in shots((train_counts >= 20) & (train_counts <= 100)).items()
        },
        **{f"few_shot_recall{name[5:]}": value for name, value in shots(train_counts < 20).items()},
        "calibration_error": sum(abs(np.sum(hit[b] - confidence[b])) for b in masses) / len(y),
        "calibration_error_equal_width": sum(abs(np.sum(hit[b] - confidence[b])) for b in widths) / len(y),
        "log_loss": sklearn.log_loss(y, p),
        "brier_score": sklearn.brier_score_loss(y, p if k > 2 else p[:, 1]),
        "auroc": sklearn.roc_auc_score(y, p if k > 2 else p[:, 1], multi_class="ovr"),
        "average_precision": sklearn.average_precision_score(one_hot if k > 2 else y, p if k > 2 else p[:, 1]),
    }  # fmt: skip
    if k == 2:
        assert values["one_vs_rest_odds_gap"] == pytest.approx(
            fairlearn.equalized_odds_difference(y, hat, sensitive_features=group)
        )
    return {key: float(value) for key, value in values.items()}


PEAK = """
import resource, sys
from orchestrator.cli.main import main
code = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_all_metrics_of_two_million_rows_fit_into_a_gigabyte(kind: str, tmp_path: Path) -> None:
    rng, count = np.random.default_rng(0), 2_000_000
    values = rng.normal(size=(count, 4))
    if kind == "probabilities":
        values = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    columns = {
        "label": rng.integers(0, 4, count), "scores": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4),
        "group": rng.integers(0, 2, count),
    }  # fmt: skip
    path = write(tmp_path / "large.parquet", columns)
    # A shell between: a process begins with the peak of the one it was spawned from.
    done = subprocess.run(
        ["sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-c", PEAK, "evaluate", str(path)],
        check=False, capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[-1]) < 1_000_000_000


COSTS = ((0.0, 1.0, 2.0), (5.0, 0.0, 0.5), (1.0, -0.25, 0.0))


def test_weights_and_costs_are_given_by_flags(tmp_path: Path) -> None:
    labels, p = calibrated(600)
    path, hat = table_of(tmp_path, "t", labels, p), p.argmax(axis=1)
    weights = np.array([1.0, 0.5, 3.0])
    recalls = sklearn.recall_score(labels, hat, average=None)
    values = {
        "weighted_recall": float((weights * recalls).sum() / weights.sum()),
        "cost": float(np.array(COSTS)[labels, hat].mean()),
    }
    rows = ";".join(",".join(map(str, row)) for row in COSTS)
    (tmp_path / "costs.csv").write_text(rows.replace(";", "\n") + "\n")
    plain = here("evaluate", path, "--json").document
    assert {plain["left_out"][key] for key in values} == {"--recall-weights", "--cost-matrix"}
    for costs in (rows, str([list(row) for row in COSTS]), str(tmp_path / "costs.csv")):
        flags = ("--recall-weights", "1,0.5,3", "--cost-matrix", costs)
        document = here("evaluate", path, *flags, "--json").document
        found = {row["metric"]: row for row in document["metrics"]}
        for key, value in values.items():
            assert found[key]["value"] == pytest.approx(value)
            assert found[key]["low"] < value < found[key]["high"]
            assert here("evaluate", path, *flags, "--objective", key, "--json").document["metric"] == key
        assert document["cost_matrix"] == [list(row) for row in COSTS]
        assert document["recall_weights"] == weights.tolist()


@pytest.mark.parametrize(("flags", "says"), [
    (("--recall-weights", "1,2"), "--recall-weights: must be one per class, 3, got 2"),
    (("--recall-weights", "1,a,2"), "--recall-weights: must be numbers with commas between, got '1,a,2'"),
    (("--recall-weights", "0,0,0"), "--recall-weights: must be finite, >= 0 and not all 0"),
    (("--cost-matrix", "0,1;1,0"), "--cost-matrix: must be 3 rows of 3 numbers, got 2 rows of [2]"),
    (("--cost-matrix", "none.csv"), "--cost-matrix: must be rows of numbers such as '0,1;5,0', or a file with"),
    (("--cost-matrix", "[1, 2]"), "--cost-matrix: must be rows of numbers"),
    (("--objective", "weighted_recall"), "needs numbers of its own; give them with --recall-weights W,W,..."),
    (("--objective", "cost"), "cost needs numbers of its own; give them with --cost-matrix ROWS"),
])  # fmt: skip
def test_weights_and_costs_that_do_not_fit(flags: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = here("evaluate", table_of(tmp_path, "t", *calibrated(60)), *flags, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert says in done.err


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--scores", "odds"), 2, "--scores: invalid choice"),
        (("--threshold", "0.5"), 2, "--threshold: goes with one column of scores"),
        (("--save", "c.json"), 2, "--save: a correction is fitted for one metric; give --objective"),
        (
            ("--save", "c.json", "--correction", "d.json", "--objective", "mcc"),
            2,
            "got --correction beside it",
        ),
        (("--prediction", "label", "--scores", "logits"), 2, "--scores: goes with scores, got --prediction"),
        (("--prediction", "label", "--objective", "auroc"), 2, "auroc needs scores, got --prediction"),
        (("--objective", "auroc", "--save", "c.json"), 2, "which no correction of decisions changes"),
        (("--beta", "0"), 2, "--beta: must be a number > 0, got 0"),
        (("--class-names", "a,b"), 4, "--class-names must be 3 different names"),
        (("--label", "y"), 4, "must have a column y, got label, scores; name it with --label"),
        (("--correction", "none.json"), 4, "none.json: must be a correction"),
        (("--objective", "equalized_odds_gap"), 2, "needs groups"),
    ],
)
def test_flags_that_do_not_go_together(flags: tuple[str, ...], code: int, says: str, tmp_path: Path) -> None:
    done = here("evaluate", table_of(tmp_path, "t", *calibrated(60)), *flags, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--positive", "2"), 4, "--positive must be one of 0, 1, got '2'"),
        (
            ("--threshold", "1.5"),
            2,
            "--threshold: must lie in (0, 1), since the scores are probabilities, got 1.5",
        ),
        (("--scores", "log-probabilities"), 4, "row 1 (line 2): log-probabilities must lie at most 0"),
        (("--scores-column", "prob"), 4, "must have a column prob, got y_true, proba"),
    ],
)
def test_flags_that_do_not_fit_one_column(
    flags: tuple[str, ...], code: int, says: str, tmp_path: Path
) -> None:
    path, *_ = binary(tmp_path, 60)
    done = here("evaluate", path, "--label", "y_true", *flags)
    assert (done.code, done.out) == (code, "")
    assert says in done.err


def test_names_of_classes_from_a_file_and_where_a_correction_cannot_be_written(tmp_path: Path) -> None:
    path = table_of(tmp_path, "t", *calibrated(300))
    (tmp_path / "names.txt").write_text("\ufeffant\n bee\n\ncow\n")
    done = here(
        "evaluate", path, "--class-names", tmp_path / "names.txt", "--objective", "min_recall", "--json"
    )
    assert {row["name"] for row in done.document["classes"]} == {"ant", "bee", "cow"}
    (tmp_path / "names.txt").write_bytes("b\u00e4r".encode("latin-1"))
    assert (
        "names.txt: must be text in UTF-8"
        in here("evaluate", path, "--class-names", tmp_path / "names.txt").err
    )
    done = here("evaluate", path, "--objective", "min_recall", "--save", tmp_path / "none" / "c.json")
    assert (done.code, done.out) == (4, "")
    assert "c.json: cannot be written: No such file or directory" in done.err
