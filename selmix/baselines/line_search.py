"""Exact line search over one class's bias at a time: only the samples that change their prediction are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.baselines.tally import Key, Tally
from selmix.metrics import MetricContext
from selmix.statistics.selection import Constraint

CANDIDATES = (
    256  # points of one line that are evaluated at once where all of them matter; then those between the best
)
_NUMBERS_AT_ONCE = (
    2**18
)  # bounds the memory of counts and logits that are worked on; what fits a cache is faster

NONDECREASING = frozenset({
    "mean_recall", "min_recall", "min_head_tail_recall", "g_mean", "h_mean", "q_mean", "cvar_recall",
    "weighted_recall", "accuracy", "balanced_accuracy", "balanced_error", "worst_group_recall",
    "many_shot_recall", "medium_shot_recall", "few_shot_recall",
})  # fmt: skip
"""Metrics that never get worse where a recall rises: along a line only points that add a hit of the class matter."""


@dataclass(frozen=True)
class _Line:
    """Move of the bias of one class k, the others held.

    Attributes:
        k: the class.
        rival: best logit of the other classes, biases included, shape (n,).
        runner_up: its class, shape (n,).
        flips: sample i is predicted as k where the bias of k exceeds ``flips[i]``, shape (n,); inf where it never is
            (its score of k is -inf), -inf where it always is (all its other scores are).
    """

    k: int
    rival: Tensor
    runner_up: Tensor
    flips: Tensor


class BiasedLogits:
    """Logits of labelled samples under per-class biases, of which one moves at a time.

    The two best classes of every sample are kept, so that a line costs O(n) and not O(n K).

    Args:
        logits: shape (n, K), n >= 1; -inf is a score that never wins, and no row has only these.
        labels: shape (n,).
        metric: a key of METRICS, none of predictions.
        context: of the metric.
        groups: shape (n,), for data with a group attribute.
        bounds: constraints, of which those of the search come before the metric.
    Attributes:
        tally: of the metric on these samples.
        by_hits: True if neither the metric nor a bound ever gets worse where a recall rises.
        bias: shape (K,), float64.
        predicted: class of each sample under the biases, shape (n,).
    """

    def __init__(
        self, logits: Tensor, labels: Tensor, metric: str, context: MetricContext, groups: Tensor | None,
        bounds: Sequence[Constraint] = (),
    ) -> None:  # fmt: skip
        self.classes = logits.shape[1]
        self.tally = Tally(labels, self.classes, metric, context, groups, bounds)
        self.by_hits = metric in NONDECREASING and all(_rewards_hits(bound) for bound in self.tally.bounds)
        # Half precision has no sums on every CPU.
        self.logits = logits.cpu() if logits.dtype in (torch.float32, torch.float64) else logits.cpu().float()
        # Class by class in memory: a line reads one class.
        self.columns = self.logits.t().contiguous()
        self.members = [torch.nonzero(self.tally.labels == k).flatten() for k in range(self.classes)]
        self.bias = torch.zeros(self.classes, dtype=torch.float64)
        count = len(logits)
        self.best_value, self.next_value = (torch.empty(count, dtype=torch.float64) for _ in range(2))
        self.predicted, self.next_class = (torch.empty(count, dtype=torch.int64) for _ in range(2))
        self.move_to(self.bias)

    def move_to(self, bias: Tensor) -> None:
        """Set all biases, shape (K,)."""
        self.bias = bias.double().clone()
        size = max(1, _NUMBERS_AT_ONCE // self.classes)
        for start in range(0, len(self.tally.labels), size):
            self._rank(slice(start, start + size))

    def _rank(self, chosen: slice | Tensor) -> None:
        """Find the two best classes of the chosen samples anew."""
        moved = self.columns[:, chosen].double() + self.bias.unsqueeze(1)
        best = moved.max(dim=0)
        moved.scatter_(0, best.indices.unsqueeze(0), -torch.inf)
        following = moved.max(dim=0)
        self.best_value[chosen], self.predicted[chosen] = best
        self.next_value[chosen] = following.values
        # Where all other classes are at -inf the search may have found the best one itself: any other one will do.
        same = following.indices == best.indices
        self.next_class[chosen] = torch.where(same, (best.indices + 1) % self.classes, following.indices)

    def predictions(self, bias: Tensor) -> Tensor:
        """Class of each sample under other biases, shape (n,), in the precision of the logits; nothing moves."""
        # By numpy, whose search along a row is twice as fast as torch's at a thousand classes.
        added = bias.to(self.logits).numpy()
        size = max(1, _NUMBERS_AT_ONCE // self.classes)
        starts = range(0, len(self.logits), size)
        parts = ((self.logits[start : start + size].numpy() + added).argmax(axis=1) for start in starts)
        return torch.cat([torch.from_numpy(part) for part in parts])

    def key(self) -> Key:
        """Bounds, metric and mean recall under the biases."""
        return self.tally.key(self.predicted)

    def search_line(self, k: int, best: Key) -> Key:
        """Move the bias of class k to the best point of its line; it stays where nothing is better than ``best``.

        The points lie between consecutive flips and beyond the ends. Of equal ones the smaller change is taken.

        Args:
            k: the class.
            best: of the biases as they are.
        Returns:
            Of the biases afterwards.
        """
        line = self._line(k)
        # No bias moves any sample.
        if not bool(torch.isfinite(line.flips).any()):
            return best
        to = self._of_hits(line, best) if self.by_hits else self._of_all(line, best)
        if to is None:
            return best
        before = float(self.bias[k])
        self._move(line, to)
        # Flips may lie so close that no number lies between them: what counts is what is predicted.
        reached = self.key()
        if reached > best:
            return reached
        self._move(self._line(k), before)
        return best

    def _line(self, k: int) -> _Line:
        first = self.predicted == k
        rival = torch.where(first, self.next_value, self.best_value)
        runner_up = torch.where(first, self.next_class, self.predicted)
        return _Line(k, rival, runner_up, rival - self.columns[k].double())

    def _move(self, line: _Line, to: float) -> None:
        k, lower = line.k, to < float(self.bias[line.k])
        held = (self.predicted == k) | (self.next_class == k)
        self.bias[k] = to
        value = self.columns[k].double() + to
        wins = value > line.rival
        # Not among the two best before, and not the best now: it may still have become the second.
        passed = held if not lower else torch.zeros_like(held)
        second = ~wins & (passed | (~held & (value > self.next_value)))
        kept_value = torch.where(second, value, self.next_value)
        kept_class = torch.where(second, k, self.next_class)
        self.next_value = torch.where(wins, line.rival, kept_value)
        self.next_class = torch.where(wins, line.runner_up, kept_class)
        self.best_value = torch.where(wins, value, line.rival)
        self.predicted = torch.where(wins, k, line.runner_up)
        # A class that falls out of the two best leaves a place to one that is not known: these are ranked anew.
        fallen = torch.nonzero(held & ~wins).flatten() if lower else torch.empty(0, dtype=torch.int64)
        size = max(1, _NUMBERS_AT_ONCE // self.classes)
        for start in range(0, len(fallen), size):
            self._rank(fallen[start : start + size])

    def _of_hits(self, line: _Line, best: Key) -> float | None:
        """Best point of a line for what never gets worse where a recall rises; None if none is better.

        Between two flips of samples of class k a larger bias only loses hits of other classes, so the best points
        follow such a flip, or lie below all of them: there bounds, metric and mean recall are all at their best.
        """
        stops = torch.unique(_finite(line.flips[self.members[line.k]]))
        # Hits of others that go before the last of these flips.
        lost = line.runner_up == self.tally.labels
        if len(stops):
            lost &= line.flips <= stops[-1]
        chosen = torch.cat([torch.nonzero(lost).flatten(), self.members[line.k]])
        first = _points_before(line.flips[chosen], stops)
        ranks = self._along(line, first, len(stops) + 1, chosen)
        top = _best(*ranks)
        if not Key(*ranks[:, top].tolist()) > best:
            return None
        tied = torch.nonzero((ranks == ranks[:, top : top + 1]).all(dim=0)).flatten().tolist()
        return self._within(line, stops, tied)

    def _within(self, line: _Line, stops: Tensor, states: list[int]) -> float:
        """Smallest change of those at which as many of ``stops`` are passed, and no further hit is lost."""
        flips = _finite(line.flips)
        least = float(flips.min())
        matters = _finite(line.flips[(self.tally.labels == line.k) | (line.runner_up == self.tally.labels)])
        points = []
        for state in states:
            # From the last flip that is passed to the next one that would change a hit.
            start = float(stops[state - 1]) if state else least - 2.0
            above = matters[matters > start]
            end = float(above.min()) if len(above) else torch.inf
            inner = torch.unique(flips[(flips >= start) & (flips <= end)])
            ends = [inner[:1] - 1.0] if not state else []
            ends += [inner[-1:] + 1.0] if not len(above) else []
            points.append(torch.cat([(inner[1:] + inner[:-1]) / 2.0, *ends]))
        found = torch.cat(points)
        return float(found[(found - self.bias[line.k]).abs().argmin()])

    def _of_all(self, line: _Line, best: Key) -> float | None:
        """Best point of a line for any metric; None if none is better.

        All points are compared, or CANDIDATES of them and then, again and again, those about the best of them.
        """
        ordered = torch.unique(_finite(line.flips))
        first = _points_before(line.flips, ordered)
        points = torch.cat([ordered[:1] - 1.0, (ordered[1:] + ordered[:-1]) / 2.0, ordered[-1:] + 1.0])
        low, high = 0, len(points) - 1
        while True:
            states = torch.arange(low, high + 1)
            if len(states) > CANDIDATES:
                states = torch.linspace(low, high, CANDIDATES, dtype=torch.float64).round().long()
            # A sample is flipped at the points after its own flip.
            ranks = self._along(line, torch.searchsorted(states, first), len(states))
            change = -(points[states] - self.bias[line.k]).abs()
            top = _best(*ranks, change)
            if len(states) == high - low + 1:
                return float(points[states[top]]) if Key(*ranks[:, top].tolist()) > best else None
            low, high = int(states[max(0, top - 1)]), int(states[min(len(states) - 1, top + 1)])

    def _along(self, line: _Line, first: Tensor, count: int, chosen: Tensor | None = None) -> Tensor:
        """Keys at points of a line.

        Args:
            line: the line.
            first: the first point at which each chosen sample is predicted as class k, shape (m,); ``count`` or more
                for none.
            count: of the points, in the order of the bias.
            chosen: samples whose flips matter, shape (m,); None for all.
        Returns:
            Shape (3, count), the numbers of a key first.
        """
        leaves, left = self.tally.places(line.runner_up)
        state = torch.bincount(leaves[left], minlength=self.tally.width).double()
        if chosen is not None:
            leaves, left = leaves[:, chosen], left[:, chosen]
        enters, entered = self.tally.places(torch.full_like(line.runner_up, line.k), chosen)
        # What the samples leave, and what they enter; a hit is entered by samples of class k only.
        moments = torch.cat([first.expand_as(leaves)[left], first.expand_as(enters)[entered]])
        places = torch.cat([leaves[left], enters[entered]])
        amounts = torch.ones(len(places), dtype=torch.float64)
        amounts[: int(left.sum())] = -1.0
        size = max(1, _NUMBERS_AT_ONCE // self.tally.width)
        ranks = []
        for start in range(0, count, size):
            length = min(size, count - start)
            within = (moments >= start) & (moments < start + length)
            changes = torch.bincount(
                (moments[within] - start) * self.tally.width + places[within], amounts[within],
                minlength=length * self.tally.width,
            ).double().view(length, self.tally.width)  # fmt: skip
            statistics = changes.cumsum_(dim=0).add_(state)
            state = statistics[-1].clone()
            ranks.append(self.tally.keys(statistics))
        return torch.cat(ranks, dim=1)


def _rewards_hits(bound: Constraint) -> bool:
    """True if a bound is never missed by more where a recall rises."""
    better = bound.at_least if bound.definition.sign > 0 else bound.at_most
    return better is not None and (bound.metric in NONDECREASING or bound.metric == "recall")


def _finite(flips: Tensor) -> Tensor:
    return flips[torch.isfinite(flips)]


def _points_before(flips: Tensor, ordered: Tensor) -> Tensor:
    """The first of the points before, between and beyond ``ordered`` at which each sample has flipped; 0 if always.

    Args:
        flips: shape (m,).
        ordered: finite, sorted, shape (p,).
    Returns:
        Shape (m,), in [0, p]; p + 1 for a sample that never flips.
    """
    return torch.where(flips == -torch.inf, 0, torch.searchsorted(ordered, flips) + 1)


def _best(*keys: Tensor) -> int:
    """Place of the largest, lexicographically, shape (c,) each; NaN is below everything, and of equal ones the last."""
    alive = torch.arange(len(keys[0]))
    for values in keys:
        held = values[alive].nan_to_num(nan=-torch.inf)
        alive = alive[held == held.max()]
    return int(alive[-1])
