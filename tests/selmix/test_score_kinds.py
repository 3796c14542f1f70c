"""What scores are: told by their rows or stated, refused by their row, and all on one scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from selmix.score_kinds import (
    KINDS,
    RowError,
    ScoreKind,
    from_log_odds,
    kind_of,
    log_odds,
    log_probabilities,
    on_log_scale,
)

INF = math.inf


def logits(count: int = 50, classes: int = 3, seed: int = 0) -> Tensor:
    return 2.0 * torch.randn(
        count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def as_kind(values: Tensor, kind: ScoreKind) -> Tensor:
    """Logits as scores of a kind, by numpy as a user writes them."""
    if kind == "logits":
        return values
    p = torch.softmax(values, dim=1)
    return p if kind == "probabilities" else torch.from_numpy(np.log(p.numpy()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_kind_is_told_by_the_rows(kind: ScoreKind, dtype: torch.dtype) -> None:
    scores = as_kind(logits(), kind).to(dtype)
    told = kind_of(scores)
    assert told.kind == kind
    assert "told by their rows" in told.reason
    assert kind_of(scores, kind).reason == "as stated"


@pytest.mark.parametrize("decimals", [2, 3, 6])
def test_probabilities_may_be_rounded(decimals: int) -> None:
    assert kind_of(as_kind(logits(), "probabilities").round(decimals=decimals)).kind == "probabilities"


def test_probabilities_of_their_own_are_taken_for_logits_and_that_is_said() -> None:
    told = kind_of(torch.sigmoid(logits()))
    assert told.kind == "logits"
    assert "all lie within [0, 1]" in told.reason
    assert "all lie within" not in kind_of(logits()).reason


def test_percentages_are_refused_and_other_shares_are_said() -> None:
    shares = (as_kind(logits(), "probabilities") * 100.0).round()
    with pytest.raises(
        RowError, match=r"got percentages, rows that all sum to 100; divide them by 100, or state"
    ):
        kind_of(shares)
    votes = kind_of(as_kind(logits(), "probabilities") * 500.0)
    assert votes.kind == "logits"
    assert votes.reason.endswith("; all sum to 500: if they are shares of it, divide them by it")
    assert "if they are shares" not in kind_of(logits()).reason
    assert kind_of(shares, "logits").kind == "logits"
    # Of one row, or with a negative score, a sum says nothing.
    assert kind_of(shares[:1]).kind == kind_of(shares - 1.0).kind == "logits"
    told = kind_of(shares[:, :1])
    assert "if they are percentages divide them by 100, else give --threshold" in told.reason


def test_a_single_row_that_is_no_probability_among_many_is_named() -> None:
    scores = as_kind(logits(), "probabilities")
    scores[6] *= 0.9
    with pytest.raises(
        RowError, match=r"row 7: numbers must sum to one as in 49 of 50 rows, this one sums to 0\.9"
    ) as caught:
        kind_of(scores)
    assert caught.value.row == 6
    scores[6] = torch.tensor([-0.5, 1.0, 0.5])
    with pytest.raises(RowError, match=r"row 7: .* has a number outside"):
        kind_of(scores)
    # The user may insist.
    assert kind_of(scores, "logits").kind == "logits"


@pytest.mark.parametrize("kind", ["probabilities", "log-probabilities"])
def test_classes_that_never_win_may_be_missing_from_their_rows(kind: ScoreKind) -> None:
    scores, never = as_kind(logits(), kind), 0.0 if kind == "probabilities" else -INF
    scores[:5, 0] = never
    told = kind_of(scores)
    assert told.kind == kind
    assert told.reason.endswith("sum to one in 45 of 50; the others are scaled to one")
    assert kind_of(scores, kind).kind == kind
    logs = log_probabilities(on_log_scale(scores, kind), kind)
    assert torch.equal(logs[:5, 0], torch.full((5,), -INF, dtype=torch.float64))
    assert torch.allclose(logs.exp().sum(dim=1), torch.ones(50, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([math.nan, 0.0, 0.0], "row 4: scores must be numbers, got NaN"),
        ([INF, 0.0, 0.0], "row 4: scores must be below infinity, got inf; -inf is allowed"),
        ([-INF, -INF, -INF], "row 4: one score at least must be more than -inf"),
    ],
)
@pytest.mark.parametrize("stated", [None, *KINDS])
def test_scores_that_none_may_have(bad: list[float], message: str, stated: ScoreKind | None) -> None:
    scores = logits()
    scores[3] = torch.tensor(bad)
    with pytest.raises(RowError, match=message):
        kind_of(scores, stated)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("probabilities", [0.5, 0.6, 0.2], r"within \[0, 1\], and rows sum to one, got 0.5, 0.6, 0.2"),
        ("probabilities", [1.2, -0.1, -0.1], "row 3: probabilities must lie within"),
        ("probabilities", [0.0, 0.0, 0.0], "row 3: probabilities must lie within"),
        ("log-probabilities", [0.5, -1.0, -1.0], "row 3: log-probabilities must lie at most 0, and exponentials"),
    ],
)  # fmt: skip
def test_rows_that_are_not_what_is_stated(kind: ScoreKind, row: list[float], message: str) -> None:
    scores = as_kind(logits(), kind)
    kind_of(scores, kind)
    scores[2] = torch.tensor(row)
    with pytest.raises(RowError, match=message):
        kind_of(scores, kind)


def test_all_kinds_come_to_one_scale() -> None:
    values = logits()
    expected = torch.log_softmax(values, dim=1)
    for kind in KINDS:
        scores = on_log_scale(as_kind(values, kind), kind)
        assert torch.allclose(scores - scores[:, :1], values - values[:, :1], atol=1e-12)
        assert torch.allclose(log_probabilities(scores, kind), expected, atol=1e-12)
    # To the bit, so that ties are the same ties.
    p = as_kind(values, "probabilities")
    assert torch.equal(on_log_scale(p, "probabilities"), as_kind(values, "log-probabilities"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_column_is_that_of_the_positive_class(kind: ScoreKind) -> None:
    odds = torch.linspace(-5, 5, 21, dtype=torch.float64)
    column = torch.tensor([from_log_odds(float(value), kind) for value in odds], dtype=torch.float64)
    assert torch.allclose(log_odds(column, kind), odds, atol=1e-9)
    scores = on_log_scale(column.unsqueeze(1), kind)
    assert torch.allclose(torch.softmax(scores, dim=1)[:, 1], torch.sigmoid(odds), atol=1e-12)
    told = kind_of(column.unsqueeze(1))
    # Logarithms of one class look like logits: they must be stated.
    assert told.kind == ("logits" if kind == "log-probabilities" else kind)
    assert ("state it with --scores" in told.reason) == (kind == "log-probabilities")
    assert kind_of(column.unsqueeze(1), kind).kind == kind


def test_certainty_in_one_column_is_a_class_that_never_wins() -> None:
    scores = on_log_scale(torch.tensor([[0.0], [1.0]]), "probabilities")
    assert scores.tolist() == [[0.0, -INF], [-INF, 0.0]]
    with pytest.raises(RowError, match=r"row 2: probabilities must lie within \[0, 1\], got 1\.5"):
        kind_of(torch.tensor([[0.5], [1.5]]), "probabilities")
