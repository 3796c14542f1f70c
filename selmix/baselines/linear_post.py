"""Post-processing for parity between groups: offsets by group from the dual of a linear program.

Source: Xian and Zhao, "A Unified Post-Processing Framework for Group Fairness in Classification" (LinearPost),
arXiv:2405.04025, for known groups. The program's solution draws the labels of at most some A K samples; here every
sample gets the label of the highest score, and nothing is drawn.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

TOLERANCES = (0.0, 0.02, 0.05, 0.1, 0.2, 1.0)  # the last one binds nothing
LIMIT = 1_000_000  # samples x classes of the linear program

Criterion = Literal["parity", "opportunity", "odds"]
"""Rates that are to be alike in all groups: P(predicted), P(predicted 1 | true 1), P(predicted 1 | true class)."""


def criterion_of(metric: str, num_classes: int) -> Criterion:
    """Criterion whose gap a metric measures, where offsets by group can meet it.

    With more than two classes the rules for opportunity and odds weigh the probabilities by group and are no offsets:
    parity stands in, as it does for metrics that are no gap.
    """
    if num_classes == 2 and metric == "equal_opportunity_gap":
        return "opportunity"
    if num_classes == 2 and metric in ("equalized_odds_gap", "one_vs_rest_odds_gap"):
        return "odds"
    return "parity"


def linear_post(
    probabilities: Tensor, groups: Tensor, num_groups: int, criterion: Criterion, tolerance: float
) -> Tensor:
    """Offsets by group by which the fewest errors are expected with rates within a tolerance of each other.

    The program over shares pi (n, K) of the labels: least sum_i sum_k pi_ik (1 - p_ik) where in every group a each rate
    lies within tolerance / 2 of a common one. The rates are weighted means of pi_ik over a group, the weights those of
    the samples' probabilities of a true class. Its dual prices the rates, and the price of a rate is the offset.

    Args:
        probabilities: p, shape (n, K).
        groups: shape (n,).
        num_groups: A.
        criterion: rates that are to be alike; ``opportunity`` and ``odds`` for two classes.
        tolerance: largest difference of a rate between groups, in [0, 1].
    Returns:
        Shape (A, K), float32: the label is the argmax of p + offset; zeros for a group without samples.
    Raises:
        ValueError: a tolerance outside [0, 1], a criterion of two classes on more, or too large a program.
        RuntimeError: the program was not solved.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    count, classes = probabilities.shape
    if not 0.0 <= tolerance <= 1.0:
        raise ValueError(f"the tolerance must lie in [0, 1], got {tolerance}")
    if criterion != "parity" and classes != 2:
        raise ValueError(f"offsets by group meet {criterion} with two classes only, got {classes}")
    if count * classes > LIMIT:
        raise ValueError(
            f"a linear program of at most {LIMIT:,} samples x classes is solved, got {count} x {classes}; give less "
            "feedback"
        )
    p, groups = probabilities.double().cpu(), groups.cpu()
    # One rate each: the class that is predicted, and the weights of the samples of all groups.
    if criterion == "parity":
        rates = [(k, torch.ones(count, dtype=torch.float64)) for k in range(classes)]
    else:
        rates = [(1, p[:, y]) for y in ((1,) if criterion == "opportunity" else (0, 1))]
    present = torch.unique(groups).tolist()
    rows: list[Any] = []
    for place, (k, weights) in enumerate(rates):
        for a in present:
            members = torch.nonzero(groups == a).flatten()
            share = weights[members] / weights[members].sum().clamp_min(1e-12)
            columns = torch.cat([members * classes + k, torch.tensor([count * classes + place])])
            values = torch.cat([share, torch.tensor([-1.0], dtype=torch.float64)])
            rows.append(
                sparse.csr_matrix(
                    (values.numpy(), (torch.zeros_like(columns).numpy(), columns.numpy())),
                    shape=(1, count * classes + len(rates)),
                )
            )
    above = sparse.vstack(rows)
    ones = sparse.kron(sparse.eye(count), torch.ones(1, classes).numpy())
    solved = linprog(
        torch.cat([(1.0 - p).flatten(), torch.zeros(len(rates), dtype=torch.float64)]).numpy(),
        A_ub=sparse.vstack([above, -above]),
        b_ub=torch.full((2 * above.shape[0],), tolerance / 2.0).double().numpy(),
        A_eq=sparse.hstack([ones, sparse.csr_matrix((count, len(rates)))]),
        b_eq=torch.ones(count).double().numpy(),
        bounds=(0.0, None),
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"the linear program of parity at tolerance {tolerance} failed: {solved.message}")
    marginals = torch.from_numpy(solved.ineqlin.marginals).view(2, len(rates), len(present))
    # Price of a higher rate: how much the errors grow with it.
    price = marginals[1] - marginals[0]
    offsets = torch.zeros(num_groups, classes, dtype=torch.float64)
    for column, a in enumerate(present):
        members = groups == a
        prices = {
            (k, place): price[place, column] / weights[members].sum().clamp_min(1e-12)
            for place, (k, weights) in enumerate(rates)
        }
        if criterion == "parity":
            for (k, _), cost in prices.items():
                offsets[a, k] = -cost
        else:
            by_class = [0.0, float(prices[1, 0])] if criterion == "opportunity" else [
                float(prices[1, 0]), float(prices[1, 1])
            ]  # fmt: skip
            offsets[a, 1] = _threshold_offset(p[members, 1], *by_class)
    return offsets.float()


def _threshold_offset(positive: Tensor, price_negative: float, price_positive: float) -> float:
    """Offset of class 1 for which p_1 + offset > p_0 where p_1 - price_positive p_1 - price_negative p_0 > p_0.

    Args:
        positive: p_1 of the group's samples, shape (m,).
        price_negative: price of predicting 1, weighted by p_0.
        price_positive: price of predicting 1, weighted by p_1.
    """
    slope, level = 2.0 - price_positive + price_negative, 1.0 + price_negative
    if slope > 0:
        return max(-1.0, min(1.0, 1.0 - 2.0 * level / slope))
    # The rule would predict 1 below a threshold, which no offset does: one label for all, that of the most.
    return 1.0 if float((slope * positive > level).double().mean()) > 0.5 else -1.0
