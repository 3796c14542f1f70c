"""The score of a screen's choice, against a loop over folds and samples."""

from __future__ import annotations

import pytest
import torch

from selmix.metrics import MetricContext, Predictions
from selmix.screen.choice import choice_out_of_fold
from selmix.statistics.selection import SelectionRule, rank

CONTEXT = MetricContext(torch.tensor([30, 20, 10]))
FOLDS = 3


def held_out(seed: int, right: float, labels: torch.Tensor) -> Predictions:
    g = torch.Generator().manual_seed(seed)
    hit = torch.rand(len(labels), generator=g) < right
    return Predictions(
        labels, torch.where(hit, labels, (labels + 1) % 3), torch.rand(len(labels), generator=g)
    )


@pytest.mark.parametrize("statistic", ["value", "bagged"])
def test_no_fold_chooses_the_configuration_that_it_judges(statistic: str) -> None:
    labels = torch.arange(90) % 3
    fold_of = torch.randint(FOLDS, (90,), generator=torch.Generator().manual_seed(9))
    rule = SelectionRule("min_recall", statistic=statistic)  # type: ignore[arg-type]
    all_of: list[Predictions | None] = [held_out(seed, 0.6, labels) for seed in range(6)]
    all_of[2] = None
    found = choice_out_of_fold(all_of, fold_of, rule, CONTEXT)
    assert found is not None
    predicted, confidence, expected = [-1] * 90, [0.0] * 90, []
    for fold in range(FOLDS):
        others = [sample for sample in range(90) if int(fold_of[sample]) != fold]
        best, highest = -1, (-float("inf"), -float("inf"))
        for number, each in enumerate(all_of):
            if each is not None and (own := rank(rule, each.take(torch.tensor(others)), CONTEXT)) > highest:
                best, highest = number, own
        expected.append(best)
        chosen = all_of[best]
        assert chosen is not None
        for sample in set(range(90)) - set(others):
            predicted[sample] = int(chosen.predicted[sample])
            confidence[sample] = float(chosen.confidence[sample])
    assert found[1] == expected
    assert found[0].predicted.tolist() == predicted
    assert found[0].confidence.tolist() == confidence
    assert torch.equal(found[0].labels, labels)


def test_the_best_of_many_equals_is_no_better_than_any_of_them() -> None:
    """Of 200 configurations that are right as often, the highest score is well above what the choice gets."""
    labels = torch.arange(300) % 3
    rule = SelectionRule("mean_recall", statistic="value")
    all_of = [held_out(seed, 0.6, labels) for seed in range(200)]
    found = choice_out_of_fold(all_of, torch.arange(300) // 3 % 5, rule, CONTEXT)
    assert found is not None
    assert max(rank(rule, each, CONTEXT)[1] for each in all_of) > 0.66
    assert rank(rule, found[0], CONTEXT)[1] < 0.64


def test_without_predictions_there_is_no_choice() -> None:
    folds, rule = torch.zeros(3, dtype=torch.int64), SelectionRule("min_recall")
    assert choice_out_of_fold([None, None], folds, rule, CONTEXT) is None
