"""Kinds of class scores: logits, log-probabilities and probabilities; and all of them on one scale.

Scores are kept as they add up with biases: logits and log-probabilities as they are, probabilities as their logarithms.
Metrics and corrections are then the same on probabilities and on their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

ScoreKind = Literal["logits", "log-probabilities", "probabilities"]
KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)

_ROWS_AT_ONCE = 2**16  # bounds what is worked on beside the scores


@dataclass(frozen=True)
class ToldKind:
    """Kind of the scores of a table.

    Attributes:
        kind: of KINDS.
        reason: why they are taken for that, in words.
    """

    kind: ScoreKind
    reason: str


class RowError(ValueError):
    """A row that does not do.

    Args:
        row: its place, from 0.
        text: what must hold, and what was got.
    """

    def __init__(self, row: int, text: str) -> None:
        super().__init__(f"row {row + 1}: {text}")
        self.row, self.text = row, text


def kind_of(scores: Tensor, stated: ScoreKind | None = None) -> ToldKind:
    """Kind of scores by their rows, or as it is stated; every row is checked.

    Rows within [0, 1] that sum to one are probabilities; rows whose exponentials sum to one are log-probabilities; all
    others are logits. Of one column, the scores of the positive class, numbers within [0, 1] are probabilities.

    Args:
        scores: shape (n, K), or (n, 1) for the scores of the positive class of two.
        stated: what the user says that they are; None to tell it by the rows.
    Raises:
        RowError: a score is NaN or inf, a row has nothing but -inf, a row is not what is stated, or most rows are
            probabilities and one is not.
    """
    _check_finite(scores)
    single = scores.shape[1] == 1
    if stated is not None:
        if stated != "logits":
            _check_stated(scores, stated)
        return ToldKind(stated, "as stated")
    if single:
        least, most = float(scores.min()), float(scores.max())
        if least >= 0.0 and most <= 1.0:
            return ToldKind("probabilities", "told by their range, which is within [0, 1]")
        hint = "; if they are log-probabilities, state it with --scores" if most <= 0.0 else ""
        if least >= 0.0:
            hint = "; none is below 0: if they are percentages divide them by 100, else give --threshold"
        return ToldKind("logits", f"told by their range, {least:.3g} to {most:.3g}{hint}")
    for kind, numbers in _OF_ROWS:
        if (told := _whole_rows(scores, kind, numbers)) is not None:
            return told
    total = _common_sum(scores)
    if total is not None and abs(total - 100.0) <= tolerance(scores.shape[1]) * 100.0:
        raise RowError(
            0,
            "scores must be logits, log-probabilities or probabilities, got percentages, rows that all sum to 100; "
            "divide them by 100, or state what they are with --scores logits",
        )
    hint = "" if total is None else f"; all sum to {total:.4g}: if they are shares of it, divide them by it"
    if bool((scores >= 0).all()) and bool((scores <= 1).all()):
        hint = "; all lie within [0, 1]: if each is a probability of its own, scale the rows to sum to one"
    return ToldKind(
        "logits", f"told by their rows, which sum to one neither as they are nor as exponentials{hint}"
    )


_OF_ROWS: tuple[tuple[ScoreKind, str], ...] = (
    ("probabilities", "numbers"),
    ("log-probabilities", "exponentials"),
)
"""Kinds that the sums of the rows tell, and what is summed."""


def _whole_rows(scores: Tensor, kind: ScoreKind, numbers: str) -> ToldKind | None:
    """The kind where most rows sum to one as it demands; None where they do not.

    The others may have classes that never win, which were taken from them, and logarithms lose nothing: they are
    scaled.

    Raises:
        RowError: most rows are probabilities, and one is not.
    """
    whole = torch.cat([_is_one(_sums(part, kind), part.shape[1]) for _, part in _blocks(scores)])
    count, total = int(whole.sum()), len(whole)
    if count == total:
        return ToldKind(kind, f"told by their rows, whose {numbers} sum to one")
    if 2 * count <= total:
        return None
    # Nearly all rows are no accident: taken for logits, every probability would be wrong.
    for row in whole.logical_not().nonzero().flatten().tolist() if kind == "probabilities" else ():
        one = float(_sums(scores[row : row + 1], kind))
        if 0.0 < one < 1.0 and bool((scores[row] == 0).any()):
            continue
        got = "has a number outside [0, 1]" if math.isnan(one) else f"sums to {one:.4g}"
        raise RowError(
            row,
            f"{numbers} must sum to one as in {count} of {total} rows, this one {got}; mend it, or state what the "
            f"scores are with --scores {'|'.join(KINDS)}",
        )
    return ToldKind(
        kind,
        f"told by their rows, whose {numbers} sum to one in {count} of {total}; the others are scaled to one",
    )


def _common_sum(scores: Tensor) -> float | None:
    """Sum above 1 of every row of scores of which none is negative; None where they differ, or of one row."""
    if len(scores) < 2 or not bool((scores >= 0).all()):
        return None
    sums = torch.cat([part.double().sum(dim=1) for _, part in _blocks(scores)])
    total = float(sums.median())
    alike = bool(((sums - total).abs() <= tolerance(scores.shape[1]) * total).all())
    return total if total > 1.0 and alike else None


def _blocks(scores: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(scores), _ROWS_AT_ONCE):
        yield start, scores[start : start + _ROWS_AT_ONCE]


def tolerance(num_classes: int) -> float:
    """Tolerance of the sum of a row of probabilities: that of two decimals each, in [0.01, 0.05]."""
    return min(0.05, max(0.01, 0.005 * num_classes)) + 1e-6


def _is_one(sums: Tensor, num_classes: int) -> Tensor:
    return (sums - 1.0).abs() <= tolerance(num_classes)


def _sums(part: Tensor, kind: ScoreKind) -> Tensor:
    """Sum of each row as probabilities, shape (m,), float64; NaN where a number can be none."""
    values = part.double()
    bad = (values < 0) | (values > 1 + tolerance(1)) if kind == "probabilities" else values > tolerance(1)
    values = values if kind == "probabilities" else values.exp()
    return torch.where(bad.any(dim=1), torch.nan, values.sum(dim=1))


def _check_finite(scores: Tensor) -> None:
    for start, part in _blocks(scores):
        for bad, text in (
            (part.isnan().any(dim=1), "scores must be numbers, got NaN"),
            ((part == torch.inf).any(dim=1), "scores must be below infinity, got inf; -inf is allowed, for a score "
                                             "that never wins"),
            (
                (part == -torch.inf).all(dim=1) & (part.shape[1] > 1),
                "one score at least must be more than -inf, got only -inf: no class can be predicted",
            ),
        ):  # fmt: skip
            if bool(bad.any()):
                raise RowError(start + int(bad.nonzero()[0]), text)


def _check_stated(scores: Tensor, kind: ScoreKind) -> None:
    single = scores.shape[1] == 1
    for start, part in _blocks(scores):
        sums = _sums(part, kind)
        # Of one column the other class has the rest; a class that never wins may have been taken from a row.
        never = (part == (0.0 if kind == "probabilities" else -torch.inf)).any(dim=1)
        bad = sums.isnan() if single else ~(_is_one(sums, part.shape[1]) | (never & (sums > 0) & (sums < 1)))
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            within = "within [0, 1]" if kind == "probabilities" else "at most 0"
            whole = (
                "" if single else f", and {'rows' if kind == 'probabilities' else 'exponentials'} sum to one"
            )
            numbers = ", ".join(f"{value:.4g}" for value in part[row, :4].tolist())
            more = ", ..." if part.shape[1] > 4 else ""
            raise RowError(start + row, f"{kind} must lie {within}{whole}, got {numbers}{more}")


def on_log_scale(scores: Tensor, kind: ScoreKind, in_place: bool = False) -> Tensor:
    """Scores to which biases are added: the largest of a row is the prediction.

    Args:
        scores: shape (n, K), K > 1, of that kind; or (n, 1), the scores of the positive class of two.
        kind: of KINDS.
        in_place: write over the scores, which a large table need not be held twice for.
    Returns:
        Shape (n, K), in the dtype of the scores; of one column (n, 2) with the log-odds in the second, float64.
    """
    if scores.shape[1] == 1:
        odds = log_odds(scores[:, 0].double(), kind)
        # A certain class is one beside which the other never wins.
        sure = odds == torch.inf
        return torch.stack([torch.where(sure, -torch.inf, 0.0), torch.where(sure, 0.0, odds)], dim=1)
    if kind == "logits":
        return scores
    logs = scores if in_place else torch.empty_like(scores)
    for start, part in _blocks(scores):
        of_part = _log(part) if kind == "probabilities" else part
        # Rows that sum to one but for their decimals stay as they are, and equal scores equal.
        total = _sums(part, kind)
        off = torch.where(_is_one(total, part.shape[1]), 0.0, torch.logsumexp(of_part.double(), dim=1))
        logs[start : start + len(part)] = of_part - off.to(of_part).unsqueeze(1)
    return logs


def log_odds(values: Tensor, kind: ScoreKind) -> Tensor:
    """Log-odds of the positive class of two from its score, shape (n,); -inf and inf for certainty."""
    if kind == "logits":
        return values
    if kind == "log-probabilities":
        # Rounding may put the logarithm of a probability of one above 0.
        values = values.clamp_max(0.0)
        return values - torch.log(-torch.expm1(values))
    return _log(values) - torch.log1p(-values)


def from_log_odds(odds: float, kind: ScoreKind) -> float:
    """The score of the positive class that has these log-odds."""
    value = torch.tensor(odds, dtype=torch.float64)
    if kind == "logits":
        return odds
    return float(torch.sigmoid(value) if kind == "probabilities" else torch.nn.functional.logsigmoid(value))


def log_probabilities(on_scale: Tensor, kind: ScoreKind, in_place: bool = False) -> Tensor:
    """Logarithms of the probabilities of scores that :func:`on_log_scale` gave, shape (n, K).

    Probabilities count as they are given, without another scaling: equal ones stay equal.

    Args:
        on_scale: shape (n, K).
        kind: of the scores before.
        in_place: write over the scores where they are float64.
    """
    if kind != "logits":
        return on_scale
    reuse = in_place and on_scale.dtype == torch.float64
    logs = on_scale if reuse else torch.empty(on_scale.shape, dtype=torch.float64)
    for start, part in _blocks(on_scale):
        logs[start : start + len(part)] = torch.log_softmax(part.double(), dim=1)
    return logs


def _log(part: Tensor) -> Tensor:
    # numpy's logarithm and not torch's, which may differ in the last bit: logarithms that users write are numpy's.
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(part.contiguous().numpy()))
