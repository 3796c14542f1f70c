"""The fast estimates change no decision: the best rounds are those of the scores themselves."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest
import torch

from selmix.data.splits import Split
from selmix.metrics import MetricContext, Predictions
from selmix.screen import judging
from selmix.screen.decisions import Decisions, confusions, decide
from selmix.screen.judging import Judge, Judged
from selmix.statistics.selection import Constraint, SelectionRule, score, score_of_counts

K, N = 4, 30


def judge_of(rule: SelectionRule, groups: int = 0) -> Judge:
    labels = torch.arange(K).repeat_interleave(N)
    split = Split(torch.zeros(K * N, 0), labels, torch.arange(K * N) % groups if groups else None)
    return Judge(split, rule, MetricContext(torch.tensor([40, 30, 20, 10]), rule.definitions, groups))


def rounds(judge: Judge, count: int) -> torch.Tensor:
    """Predictions that get better and worse by little, round by round, shape (count, n)."""
    g = torch.Generator().manual_seed(0)
    labels, found = judge.split.labels, []
    for number in range(count):
        right = torch.rand(len(labels), generator=g) < 0.4 + 0.3 * (number / count)
        found.append(torch.where(right, labels, torch.randint(K, labels.shape, generator=g)))
    # Copies of an earlier round are no better than it.
    return torch.stack([*found, *found[:3]])


@pytest.mark.parametrize(
    ("metric", "statistic", "groups"),
    [
        ("min_recall", "bagged", 0), ("h_mean", "bagged", 0), ("macro_f1", "bagged", 0),
        ("recall_gap", "bagged", 0), ("worst_group_recall", "bagged", 2), ("min_recall", "value", 0),
        ("mean_recall", "lower_bound", 0),
    ],
)  # fmt: skip
def test_the_best_round_is_that_of_the_scores(metric: str, statistic: str, groups: int) -> None:
    rule = SelectionRule(metric, statistic)
    judge = judge_of(rule, groups)
    predicted = rounds(judge, 12)
    decisions = Decisions(predicted, torch.ones(len(predicted), dtype=torch.bool))
    judged = judge.judge(decisions, range(len(predicted)), [0] * len(predicted))
    exact = [
        score(rule, Predictions(judge.split.labels, row, torch.zeros(len(row)), judge.split.groups), judge.context)
        for row in predicted
    ]  # fmt: skip
    best: Judged | None = None
    place = 0
    for number, new in enumerate(judged):
        (better,) = judge.better([new], [best])
        assert better == (best is None or exact[number] > exact[place])
        if better:
            best, place = new, number
    computed = sum(each.known_score is not None for each in judged)
    assert statistic != "bagged" or computed < len(judged)
    assert [judge.score(each) for each in judged] == exact


@pytest.mark.parametrize("threads", [1, 3])
def test_many_rounds_are_scored_by_as_many_threads_as_torch_has(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads change neither scores nor answers."""
    rule, seen = SelectionRule("min_recall", "bagged"), set()

    def scored(*arguments: Any, **named: Any) -> float:
        seen.add(threading.get_ident())
        time.sleep(0.002)  # long enough for another thread to take the next one
        return score_of_counts(*arguments, **named)

    monkeypatch.setattr(judging, "score_of_counts", scored)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        judge = judge_of(rule)
        predicted = rounds(judge, 12)
        decisions = Decisions(predicted, torch.ones(len(predicted), dtype=torch.bool))
        judged = judge.judge(decisions, range(len(predicted)), [0] * len(predicted))
        found = judge.better(judged, [None, *judged[:-1]])
    finally:
        torch.set_num_threads(before)
    exact = [
        score_of_counts("min_recall", each.counts, judge.context, "bagged", seed=rule.seed) for each in judged
    ]
    assert found == [True] + [new > old for old, new in itertools.pairwise(exact)]
    assert [each.known_score for each in judged if each.known_score is not None] == [
        value for each, value in zip(judged, exact, strict=True) if each.known_score is not None
    ]
    assert (len(seen) > 1) == (threads > 1)


def own_recall(confusion: torch.Tensor) -> torch.Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).sum(-1) / confusion.sum((-2, -1))


def test_a_metric_of_ones_own_is_called_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, seen = judge_of(SelectionRule(f"{__name__}:own_recall", "value")), set()
    original = Judge.score

    def scored(self: Judge, judged: Judged) -> float:
        seen.add(threading.get_ident())
        return original(self, judged)

    monkeypatch.setattr(Judge, "score", scored)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    predicted = rounds(judge, 12)
    decisions = Decisions(predicted, torch.ones(len(predicted), dtype=torch.bool))
    judged = judge.judge(decisions, range(len(predicted)), [0] * len(predicted))
    judge.better(judged, [None, *judged[:-1]])
    assert seen == {threading.get_ident()}


def test_bounds_come_first() -> None:
    rule = SelectionRule(
        "min_recall", constraints=(Constraint("mean_recall", at_least=0.6, where=("search",)),)
    )
    judge = judge_of(rule)
    one = torch.zeros(K, K, dtype=torch.int64)
    missed, missed_by_less, held = (Judged(0, 0, violation, one) for violation in (0.3, 0.1, 0.0))
    assert judge.better([held, missed, missed_by_less, missed], [missed, held, missed, missed]) == [
        True,
        False,
        True,
        False,
    ]
    labels = judge.split.labels
    decisions = Decisions(labels.unsqueeze(0), torch.ones(1, dtype=torch.bool))
    assert judge.judge(decisions, [0], [0])[0].feasible
    wrong = Decisions((labels.unsqueeze(0) + 1) % K, torch.ones(1, dtype=torch.bool))
    assert judge.judge(wrong, [0], [0])[0].violation == pytest.approx(0.6)


def test_decisions_and_counts_of_many_heads() -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(50, 3, generator=g)
    weight, bias = torch.randn(5, K, 3, generator=g), torch.randn(5, K, generator=g)
    weight[3, 1, 2] = torch.nan
    weight[4] = 3e38
    decisions = decide(features, weight, bias, with_confidence=True)
    assert decisions.finite.tolist() == [True, True, True, False, False]
    strata = torch.randint(6, (50,), generator=g)
    counts = confusions(strata, decisions.predicted[:3], 6, K)
    for row in range(3):
        logits = features @ weight[row].T + bias[row]
        assert torch.equal(decisions.predicted[row], logits.argmax(dim=1))
        assert decisions.confidence is not None
        assert torch.allclose(decisions.confidence[row], logits.softmax(dim=1).amax(dim=1))
        for stratum in range(6):
            mine = decisions.predicted[row][strata == stratum]
            assert counts[row, stratum].tolist() == [int((mine == k).sum()) for k in range(K)]
