"""Judging of rounds on select: each row keeps its best one, by the rule that ranks the rounds of a single run.

The bootstrap mean of one round costs a thousand resamples. Most rounds need none: a fast estimate, from resamples that
all rounds of all rows share, tells how far two rounds lie apart, and only where that is too close to tell is the score
itself computed, which then decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from selmix.data.splits import Split
from selmix.metric_keys import is_own
from selmix.metrics import MetricContext, Predictions, metric_named
from selmix.screen.decisions import Decisions, confusions
from selmix.statistics.selection import (
    RESAMPLES,
    SelectionRule,
    score_of_counts,
    violations,
)

_FAST_RESAMPLES = 250
# Standard errors that two estimates must lie apart to be told apart without the score: an error in 10^9 comparisons.
_APART = 6.0
_NUMBERS_AT_ONCE = 2**24


@dataclass
class Judged:
    """A round of a row, as it was judged.

    Attributes:
        round: its number; 0 is the start.
        steps: SGD steps done at its end.
        violation: sum of what the bounds of the search are missed by.
        counts: confusion counts that the metric of the rule needs, on the CPU.
        fast: values of the metric of the shared resamples, higher is better, shape (R,); None where there are none.
        known_score: the score, once it was computed.
    """

    round: int
    steps: int
    violation: float
    counts: Tensor
    fast: Tensor | None = None
    known_score: float | None = None

    @property
    def feasible(self) -> bool:
        return self.violation == 0.0


@dataclass(frozen=True)
class Judge:
    """Judge of rounds by a rule on a split.

    Attributes:
        split: labels and groups of select, on the CPU.
        rule: metric, statistic and bounds.
        context: of the metrics, on the CPU.
    """

    split: Split
    rule: SelectionRule
    context: MetricContext
    _scores: dict[bytes, float] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.context.train_counts)

    @property
    def needs_confidence(self) -> bool:
        """True if a bound of the search is on a metric of the confidences."""
        return any(
            bound.definition.of_predictions is not None
            for bound in self.rule.constraints
            if "search" in bound.where
        )

    @property
    def of_groups(self) -> bool:
        """True if the metric of the rule is one of (class, group) cells."""
        return metric_named(self.rule.metric, self.rule.definitions).of_cells is not None

    @property
    def _of_recalls(self) -> bool:
        return metric_named(self.rule.metric, self.rule.definitions).of_recalls is not None

    def judge(self, decisions: Decisions, rounds: Sequence[int], steps: Sequence[int]) -> list[Judged]:
        """Judge one round of each of p rows.

        Args:
            decisions: on the split, all finite.
            rounds: number of each row's round.
            steps: SGD steps done at its end.
        """
        predicted = decisions.predicted.cpu()
        classes, groups = self.num_classes, self.context.num_groups
        by_class = confusions(self.split.labels, predicted, classes, classes)
        counts = by_class
        if self.split.groups is not None and groups:
            strata = self.split.labels * groups + self.split.groups
            counts = confusions(strata, predicted, classes * groups, classes)
        missed = violations(self.rule.constraints, counts.double(), self.context)
        missed = missed + self._missed_by_confidence(predicted, decisions.confidence)
        ranked = counts if self.of_groups else by_class
        fast = self._fast_values(predicted, ranked)
        return [
            Judged(number, done, float(violation), matrix, None if fast is None else fast[place])
            for place, (number, done, violation, matrix) in enumerate(
                zip(rounds, steps, missed.tolist(), ranked, strict=True)
            )
        ]

    def _missed_by_confidence(self, predicted: Tensor, confidence: Tensor | None) -> Tensor:
        total = torch.zeros(len(predicted), dtype=torch.float64)
        if confidence is None:
            return total
        bounds = [
            bound
            for bound in self.rule.constraints
            if "search" in bound.where and bound.definition.of_predictions is not None
        ]
        for place, (classes, certain) in enumerate(zip(predicted, confidence.cpu(), strict=True)):
            predictions = Predictions(self.split.labels, classes, certain, self.split.groups)
            values = {bound.key: predictions.value(bound.definition, self.context) for bound in bounds}
            total[place] = sum(bound.violation(values) for bound in bounds)
        return total

    def score(self, judged: Judged) -> float:
        """Score of a round, computed once for equal counts."""
        if judged.known_score is None:
            key = self._key(judged)
            if key not in self._scores:
                self._scores[key] = score_of_counts(
                    self.rule.metric, judged.counts, self.context, self.rule.statistic, seed=self.rule.seed
                )
            judged.known_score = self._scores[key]
        return judged.known_score

    def _key(self, judged: Judged) -> bytes:
        """Key of what the score depends on."""
        # The bootstrap mean of a metric of recalls depends on the hits alone.
        by_hits = self._of_recalls and self.rule.statistic == "bagged"
        counts = judged.counts.diagonal().contiguous() if by_hits else judged.counts
        # A digest, as a thousand classes have a million counts.
        return hashlib.sha256(counts.numpy().tobytes()).digest()

    def better(self, new: Sequence[Judged], old: Sequence[Judged | None]) -> list[bool]:
        """True where a round ranks above an earlier one: feasible ones first, by score; then the least violation.

        Args:
            new: a round of each row.
            old: an earlier one of each; None where there is none, which ranks below all.
        """
        found: list[bool | None] = [_without_score(one, other) for one, other in zip(new, old, strict=True)]
        pairs = [
            (at, new[at], other) for at, other in enumerate(old) if found[at] is None and other is not None
        ]
        close = []
        for (at, one, other), gap in zip(pairs, _gaps([pair[1:] for pair in pairs]), strict=True):
            if gap is None:
                close.append((at, one, other))
            else:
                found[at] = gap > 0
        self._prepare_scores([judged for _, one, other in close for judged in (one, other)])
        for at, one, other in close:
            found[at] = self.score(one) > self.score(other)
        return [bool(each) for each in found]

    def _prepare_scores(self, judged: Sequence[Judged]) -> None:
        """Compute the scores of these rounds, with as many at a time as torch may use threads."""
        if is_own(self.rule.metric):
            return  # a function of the user's own need not bear it
        missing = [each for each in judged if each.known_score is None]
        workers = min(torch.get_num_threads(), len(missing))
        # Each score has a generator of its own, so that their order does not matter.
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(self.score, missing))

    def rank(self, judged: Judged) -> tuple[bool, float]:
        """Sort key of a row's best round among rows."""
        return (judged.feasible, self.score(judged) if judged.feasible else -judged.violation)

    def value(self, judged: Judged) -> float:
        """The metric itself of a round."""
        return float(metric_named(self.rule.metric, self.rule.definitions).of(judged.counts, self.context))

    def _fast_values(self, predicted: Tensor, counts: Tensor) -> Tensor | None:
        """The metric of the shared resamples of each row, higher is better, shape (p, R)."""
        metric = metric_named(self.rule.metric, self.rule.definitions)
        # The other statistics cost no resamples, and functions of the user's own are called on one matrix at a time.
        if self.rule.statistic != "bagged" or is_own(self.rule.metric):
            return None
        rows, (strata, classes) = len(predicted), counts.shape[1:]
        of_recalls = metric.of_recalls is not None
        size = max(_FAST_RESAMPLES * strata, predicted.shape[1]) * (1 if of_recalls else classes)
        at_once = max(1, _NUMBERS_AT_ONCE // size)
        found = []
        for begin in range(0, rows, at_once):
            some = predicted[begin : begin + at_once]
            if of_recalls and metric.of_recalls is not None:
                sums = counts[0].sum(dim=1).double()
                hits = self._resampled((some == self.split.labels).float().unsqueeze(2), strata).squeeze(3)
                found.append(metric.of_recalls(hits / sums, sums / sums.sum(), self.context))
            else:
                onehot = torch.nn.functional.one_hot(some, classes).float()
                found.append(metric.of(self._resampled(onehot, strata), self.context))
        return metric.sign * torch.cat(found)

    def _resampled(self, columns: Tensor, strata: int) -> Tensor:
        """Sums of columns over the resampled samples of each stratum.

        Args:
            columns: shape (p, n, c).
            strata: S.
        Returns:
            Shape (p, R, S, c), float64.
        """
        rows, _, width = columns.shape
        sums = torch.zeros(rows, _FAST_RESAMPLES, strata, width, dtype=torch.float64)
        for stratum, (samples, weights) in enumerate(self._shared):
            # (R, n_s) @ (n_s, p c)
            held = columns[:, samples].transpose(0, 1).reshape(len(samples), rows * width)
            sums[:, :, stratum] = (weights @ held).view(-1, rows, width).transpose(0, 1).double()
        return sums

    @cached_property
    def _shared(self) -> list[tuple[Tensor, Tensor]]:
        """Samples of each stratum of the metric, and how often each resample has them, shape (R, n_s)."""
        strata = self.split.labels
        number = self.num_classes
        if self.of_groups and self.split.groups is not None:
            strata = strata * self.context.num_groups + self.split.groups
            number *= self.context.num_groups
        generator = torch.Generator().manual_seed(self.rule.seed)
        found = []
        for stratum in range(number):
            samples = torch.nonzero(strata == stratum).flatten()
            size = len(samples)
            drawn = torch.randint(max(size, 1), (_FAST_RESAMPLES, size), generator=generator)
            found.append(
                (samples, torch.zeros(_FAST_RESAMPLES, size).scatter_add_(1, drawn, torch.ones(drawn.shape)))
            )
        return found


def _without_score(new: Judged, old: Judged | None) -> bool | None:
    """True if a round ranks above an earlier one, by bounds or as the first; None where only scores can tell."""
    if old is None:
        return True
    if new.feasible != old.feasible:
        return new.feasible
    return None if new.feasible else new.violation < old.violation


def _gaps(pairs: Sequence[tuple[Judged, Judged]]) -> list[float | None]:
    """Difference of the rounds of each pair where their estimates tell it from 0; None where only the scores can."""
    found: list[float | None] = [None] * len(pairs)
    estimated = [at for at, pair in enumerate(pairs) if all(each.fast is not None for each in pair)]
    if not estimated:
        return found
    news, olds = (
        torch.stack([fast for at in estimated if (fast := pairs[at][side].fast) is not None])
        for side in (0, 1)
    )
    paired = news - olds
    # Of the estimates, which share their resamples, and of the two scores, which do not.
    spread = paired.var(dim=1) / paired.shape[1] + (news.var(dim=1) + olds.var(dim=1)) / RESAMPLES
    gap = paired.mean(dim=1)
    told = (gap.abs() > _APART * spread.sqrt()) & (spread > 0)
    for at, value, is_told in zip(estimated, gap.tolist(), told.tolist(), strict=True):
        if is_told:
            found[at] = value
    return found
