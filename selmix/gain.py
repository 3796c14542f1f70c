"""Gain of every pair of strata: first-order change of the objective per unit step on the pair's mixup loss.

Closed form in three matrix products; no tensor of size S x S x K is ever built.
"""

from __future__ import annotations

import torch
from torch import Tensor

GAIN_FORMULAS = ("exact", "released_code")
# Below this the products come near float64's subnormal numbers, which have fewer digits.
_MIN_NORMALISER = 1e-250
# Bounds the memory of the pairs that are recomputed: as many rows of K entries at a time.
_PAIRS_AT_ONCE = 4096


def gain_matrix(
    prototypes: Tensor,
    weight: Tensor,
    bias: Tensor,
    logit_gradient: Tensor,
    mixup_coefficient: float,
    labels: Tensor | None = None,
    formula: str = "exact",
    with_bias: bool = False,
) -> Tensor:
    """Gain G[i, j] = sum_{q, l} D[q, l] <m_ij, z_q> (1{l = label[i]} - p_ij[l]).

    m_ij = lam z_i + (1 - lam) z_j is the mixed prototype and p_ij = softmax(W m_ij + b). A step on the
    cross-entropy of (m_ij, label[i]) in W moves the logits of stratum q by <V_l, z_q>, and the objective by G.
    With A = (Z Z^T) D and L = Z W^T, exp(logit_ij[l]) = E[i, l] F[j, l] factorises, so that

        G = lam A[i, label[i]] + (1 - lam) A[j, label[i]] - (lam (E * A) F^T + (1 - lam) E (F * A)^T) / (E F^T).

    Args:
        prototypes: z, mean penultimate feature of each stratum, shape (S, d).
        weight: W of the linear classifier, shape (K, d).
        bias: b of the linear classifier, shape (K,).
        logit_gradient: D = d psi / d C~, shape (S, K).
        mixup_coefficient: lam in [0, 1], the mean of the coefficient's distribution.
        labels: class of each stratum, shape (S,); None if strata are classes (then S = K).
        formula: ``exact``, or ``released_code`` for the formula of the published code, with <z_i, z_q> in the label
            term, which is right at i = j only; for comparison.
        with_bias: estimate a step of W and b together: Z Z^T + 1 replaces Z Z^T.
    Returns:
        G, shape (S, S), float64, on the device of ``prototypes``.
    Raises:
        ValueError: the shapes do not fit, a label is out of range, the coefficient lies outside [0, 1], an entry is
            not finite, or the formula is unknown.
    Source: SelMix (arXiv:2403.18301). Deviates from the released code, whose label term takes <z_i, z_q> for
        <m_ij, z_q>. The bias is trained too but left out of the estimate unless ``with_bias``, as in the paper.
    """
    _check(prototypes, weight, bias, logit_gradient, mixup_coefficient, labels)
    if formula not in GAIN_FORMULAS:
        raise ValueError(f"formula must be one of {', '.join(GAIN_FORMULAS)}, got {formula!r}")
    # float64: the factors E and F of the normaliser underflow in float32 at large logits.
    z, w, b, d = (t.detach().double() for t in (prototypes, weight, bias, logit_gradient))
    lam = mixup_coefficient
    logits = z @ w.T
    first = lam * logits
    second = (1.0 - lam) * logits + b
    # The shift of a row cancels in the softmax; subtracting the maximum keeps the exponentials in range.
    e = (first - first.amax(dim=1, keepdim=True)).exp()
    f = (second - second.amax(dim=1, keepdim=True)).exp()
    a = (z @ z.T + float(with_bias)) @ d
    index = torch.arange(len(z), device=z.device) if labels is None else labels.to(z.device).long()
    a_label = a[:, index]  # [q, i] = A[q, label[i]]
    normaliser = e @ f.T
    # In place: a matrix over all pairs takes half a gigabyte at S = 8,142.
    expected = ((lam * e * a) @ f.T).addmm_(e, (f * a).T, alpha=1.0 - lam).div_(normaliser)
    _mend_underflow_(expected, normaliser, first, second, a, lam)
    own = a_label.diagonal().unsqueeze(1)  # A[i, label[i]]
    # The published code's label term reads the prototype of i alone, not the mixed one.
    if formula == "released_code":
        return own.expand_as(expected) - expected
    return (lam * own + (1.0 - lam) * a_label.T).sub_(expected)


def _mend_underflow_(
    expected: Tensor, normaliser: Tensor, first: Tensor, second: Tensor, a: Tensor, lam: float
) -> None:
    """Recompute, by the softmax itself, the pairs whose factors underflow (logits hundreds apart).

    Args:
        expected: sum_l p_ij[l] (lam A[i, l] + (1 - lam) A[j, l]), shape (S, S); changed in place.
        normaliser: E F^T, shape (S, S).
        first: logits of the first prototype times lam, shape (S, K).
        second: logits of the other times 1 - lam, plus the bias, shape (S, K).
        a: A, shape (S, K).
        lam: the mixup coefficient.
    """
    rows, columns = torch.nonzero(normaliser < _MIN_NORMALISER, as_tuple=True)
    for i, j in zip(torch.split(rows, _PAIRS_AT_ONCE), torch.split(columns, _PAIRS_AT_ONCE), strict=True):
        p = torch.softmax(first[i] + second[j], dim=1)
        expected[i, j] = (p * (lam * a[i] + (1.0 - lam) * a[j])).sum(dim=1)


def _check(
    prototypes: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, lam: float, labels: Tensor | None
) -> None:
    shapes = {
        "prototypes": tuple(prototypes.shape), "weight": tuple(weight.shape), "bias": tuple(bias.shape),
        "logit_gradient": tuple(gradient.shape),
    }  # fmt: skip
    fits = (
        prototypes.ndim == 2
        and weight.ndim == 2
        and prototypes.shape[1] == weight.shape[1]
        and bias.shape == weight.shape[:1]
        and gradient.shape == (len(prototypes), len(weight))
    )
    if not fits:
        raise ValueError(f"shapes must be (S, d), (K, d), (K,) and (S, K), got {shapes}")
    if labels is None and len(prototypes) != len(weight):
        raise ValueError(
            f"labels are needed where strata are not classes, got S={len(prototypes)}, K={len(weight)}"
        )
    if labels is not None and (
        labels.shape != (len(prototypes),) or int(labels.min()) < 0 or int(labels.max()) >= len(weight)
    ):
        raise ValueError(
            f"labels must be {len(prototypes)} classes below {len(weight)}, got {labels.tolist()[:20]}"
        )
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"mixup_coefficient must lie in [0, 1], got {lam}")
    for name, tensor in zip(shapes, (prototypes, weight, bias, gradient), strict=True):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{name} must be finite, got {int((~torch.isfinite(tensor)).sum())} entries that are not"
            )
