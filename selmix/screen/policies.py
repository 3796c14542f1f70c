"""Policies of many rows in one round, each by its own settings: the formulas of selmix.policy on a stack of gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.policy import NoPositiveGain, balanced_policy, uniform_policy
from selmix.policy_schedule import policy_of_round
from selmix.schedules import scheduled
from selmix.screen.draws import Pool

# Computed for all rows at once; any other policy is computed as the single fine-tuner does, row by row.
_TOGETHER = frozenset({"softmax", "loss_weight", "greedy", "proportional", "epsilon", "uniform", "balanced"})
# Stands for the distance of a pair that cannot be drawn below the largest gain; its square is a number too.
_FAR = -1e150
_MAX_SOLVER_STEPS = 200
# Relative change of the inverse temperature at which its solution stands.
_SOLVED = 1e-14


@dataclass(frozen=True)
class PolicyRow:
    """What a row's policy depends on beside its gain.

    Attributes:
        config: the settings.
        pool: samples that pairs are drawn from.
        round_number: from 1.
        progress: share of the steps that are done, in [0, 1].
    """

    config: FinetuneConfig
    pool: Pool
    round_number: int
    progress: float

    @property
    def targeted(self) -> bool:
        """True if the row's policy reads the gain."""
        return self.config.pair_policy.targeted

    @property
    def is_warming_up(self) -> bool:
        return self.targeted and self.round_number <= self.config.warmup_rounds

    @property
    def drawable(self) -> Tensor:
        """Mask of the pairs that can be drawn, shape (S, S); without pairing, of the strata, on the diagonal."""
        pairs = self.pool.drawable
        return pairs if self.config.pair_policy.mixes else torch.diag(pairs.diagonal())

    @property
    def sharpness(self) -> float:
        """Level of the temperature or of the share of pairs, whichever is set, that the schedule has reached."""
        config = self.config
        start = config.temperature if config.temperature is not None else config.effective_pairs
        if start is None:
            raise AssertionError("FinetuneConfig must set temperature or effective_pairs, got neither")
        final = config.temperature_final if config.temperature_final is not None else start / 10.0
        return scheduled(config.temperature_schedule, start, final, self.progress)


def policies_of_round(rows: Sequence[PolicyRow], gain: Tensor) -> tuple[Tensor, Tensor]:
    """Compute P of each row.

    Args:
        rows: p of them.
        gain: G of each, shape (p, S, S), float64; not read where a row's policy does not read it.
    Returns:
        P, shape (p, S, S), float64, and True where a row has a pair to draw, shape (p,).
    """
    policies = torch.zeros_like(gain)
    drawn = torch.ones(len(rows), dtype=torch.bool, device=gain.device)
    by_gain = []
    for place, row in enumerate(rows):
        if row.config.policy not in _TOGETHER:
            policies[place], drawn[place] = _alone(row, gain[place])
        elif row.targeted and not row.is_warming_up:
            by_gain.append(place)
        elif not row.config.pair_policy.mixes:
            # The stratum's share of the pool gives every sample the weight 1.
            counts = row.pool.counts.double()
            policies[place] = torch.diag(counts / counts.sum())
        elif row.config.policy == "balanced":
            policies[place] = balanced_policy(row.drawable)
        else:
            policies[place] = uniform_policy(row.drawable)
    if by_gain:
        chosen = [rows[place] for place in by_gain]
        policies[by_gain], drawn[by_gain] = _policies_of_gain(chosen, gain[by_gain])
    return policies, drawn


def _alone(row: PolicyRow, gain: Tensor) -> tuple[Tensor, bool]:
    """P of one row as the single fine-tuner has it, and whether there is a pair to draw; zeros where there is none."""
    try:
        policy = policy_of_round(
            row.config, gain if row.targeted else None, row.drawable, row.pool.counts, row.round_number,
            row.progress, {},
        )  # fmt: skip
    except NoPositiveGain:
        return torch.zeros_like(gain), False
    return policy.to(gain), True


def _policies_of_gain(rows: Sequence[PolicyRow], gain: Tensor) -> tuple[Tensor, Tensor]:
    positive = (gain > 0) & torch.stack([row.drawable for row in rows])
    positive = positive.flatten(1)
    numbers = positive.sum(dim=1)
    values = gain.flatten(1)
    policies = torch.zeros_like(values)
    kinds: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        kinds.setdefault(_kind(row.config), []).append(place)
    for kind, places in kinds.items():
        held, mask = values[places], positive[places]
        some = [rows[place] for place in places]
        if kind == "greedy":
            policies[places] = _greedy(held, mask, [row.config.top_k for row in some])
        elif kind == "proportional":
            kept = held.masked_fill(~mask, 0.0)
            policies[places] = kept / kept.sum(dim=1, keepdim=True)
        else:
            policies[places] = _softmax(held, mask, some)
    policies = policies.view_as(gain)
    for place, row in enumerate(rows):
        if row.config.policy == "epsilon":
            epsilon = row.config.epsilon
            policies[place] = (1.0 - epsilon) * policies[place] + epsilon * uniform_policy(row.drawable)
    return policies, numbers > 0


def _kind(config: FinetuneConfig) -> str:
    """Formula of a policy of the gain: all but two are a softmax, or begin with one."""
    return config.policy if config.policy in ("greedy", "proportional") else "softmax"


def _greedy(values: Tensor, positive: Tensor, top_k: Sequence[int]) -> Tensor:
    """Uniform over the pairs of highest gain, and over those tied with the last; shape (p, S S)."""
    kept = values.masked_fill(~positive, -torch.inf)
    most = min(max(top_k), kept.shape[1])
    highest = kept.topk(most, dim=1).values
    limit = torch.tensor(top_k, device=values.device)
    last = torch.minimum(limit, positive.sum(dim=1)).clamp(1, most) - 1
    chosen = ((kept >= highest.gather(1, last.unsqueeze(1))) & positive).double()
    return chosen / chosen.sum(dim=1, keepdim=True)


def _softmax(values: Tensor, positive: Tensor, rows: Sequence[PolicyRow]) -> Tensor:
    """Softmax of the positive gains at each row's sharpness, shape (p, S S)."""
    levels = values.new_tensor([row.sharpness for row in rows])
    solved = torch.tensor([row.config.temperature is None for row in rows], device=values.device)
    below = torch.where(positive, values, -torch.inf)
    # Rows without a positive gain draw nothing; they are carried along with numbers that do no harm.
    below = (below - below.amax(dim=1, keepdim=True)).nan_to_num(nan=_FAR, neginf=_FAR)
    inverse = torch.where(solved, 1.0, 1.0 / levels)
    if bool(solved.any()):
        places = torch.nonzero(solved).flatten()
        inverse[places] = solve_inverse_temperatures(below[places], positive[places], levels[places])
    # Infinite: uniform over the ties at the top. Zero: uniform over all.
    scaled = torch.where(below == 0, 0.0, below * inverse.unsqueeze(1)).masked_fill(~positive, -torch.inf)
    # A softmax of nothing is NaN.
    return torch.softmax(scaled, dim=1).nan_to_num(nan=0.0)


def solve_inverse_temperatures(below: Tensor, positive: Tensor, targets: Tensor) -> Tensor:
    """Inverse temperatures at which exp(H(P)) / (number of pairs with positive gain) is the target.

    Newton's method on the logarithm of 1 / T, kept inside a bracket that every step narrows: the entropy
    H = log Z - E / T falls with 1 / T, with the slope -Var / T^2 in its logarithm. The single fine-tuner finds the same
    root by bisection.

    Args:
        below: gains less the largest one of the row, <= 0, shape (p, m), float64.
        positive: mask of the pairs with positive gain, shape (p, m).
        targets: shares, in (0, 1], shape (p,).
    Returns:
        Shape (p,): 0 where P is uniform over all pairs with positive gain, inf where it is uniform over the ties.
    """
    numbers = positive.sum(dim=1).double()
    ties = ((below == 0) & positive).sum(dim=1).double()
    uniform = (targets >= 1.0) | (ties == numbers)
    greedy = ~uniform & (ties >= targets * numbers)
    spread = -torch.where(positive, below, 0.0).amin(dim=1)
    # A row that is settled takes part with numbers that do no harm.
    spread = torch.where(uniform | greedy | (numbers == 0), 1.0, spread)
    wanted = (targets * numbers.clamp_min(1.0)).log()
    masked = torch.where(positive, below / spread.unsqueeze(1), _FAR)
    low = torch.full_like(targets, math.log(1e-6))
    high = torch.full_like(targets, math.inf)
    at = torch.zeros_like(targets)
    done = uniform | greedy | (numbers == 0)
    for _ in range(_MAX_SOLVER_STEPS):
        entropy, slope = _entropy(masked, at.exp())
        excess = entropy - wanted
        low, high = torch.where(excess > 0, at, low), torch.where(excess > 0, high, at)
        step = at - excess / slope
        # Outside of the bracket, or with no slope left: its middle, or a tenfold where it has no upper end yet.
        middle = torch.where(torch.isinf(high), at + math.log(10.0), (low + high) / 2.0)
        step = torch.where((step > low) & (step < high), step, middle)
        # Newton's way out of a flat region is far too long.
        step = torch.minimum(step, at + math.log(100.0))
        done |= (step - at).abs() <= _SOLVED * (1.0 + at.abs())
        done |= high - low <= _SOLVED * (1.0 + at.abs())
        at = torch.where(done, at, step)
        if bool(done.all()):
            break
    inverse = at.exp() / spread
    inverse = torch.where(greedy, torch.inf, inverse)
    return torch.where(uniform, 0.0, inverse)


def _entropy(below: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the softmax at ``inverse``, and its slope in the logarithm of ``inverse``; both of shape (p,)."""
    weights = (below * inverse.unsqueeze(1)).exp_()
    total = weights.sum(dim=1)
    weights *= below
    mean = weights.sum(dim=1) / total
    square = weights.mul_(below).sum(dim=1) / total
    variance = (square - mean.square()).clamp_min(0.0)
    return total.log() - inverse * mean, -inverse.square() * variance
