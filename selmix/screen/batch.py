"""Many runs at once: linear heads on frozen features, each with its own settings and seed, as tensor programs.

A row is one run. All rows of a batch that still train do a round together, whatever its length: estimates, gains and
policies as stacks, the steps in blocks. A row that is done, for whatever reason, takes no further part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData
from selmix.groups import strata_of
from selmix.metrics import MetricContext
from selmix.objectives import AnyObjective
from selmix.run.run import inside_the_method
from selmix.run.start_model import Base
from selmix.schedules import scheduled
from selmix.screen.decisions import confusions, decide
from selmix.screen.draws import Draw, Pool, draw_stretches
from selmix.screen.feedback import Memories, gain_matrices
from selmix.screen.judging import Judge, Judged
from selmix.screen.policies import PolicyRow, policies_of_round
from selmix.screen.training import Heads, Task, train
from selmix.statistics.selection import SelectionRule

# Numbers of the matrices of pairs that are held at once, each of some ten of them.
_PAIRS_AT_ONCE = 2**23


HALVED = "halving"
"""Reason why a row ended that successive halving left behind."""


def has_failed(stop_reason: str | None) -> bool:
    """True if something that is not finite, or an objective without a value, ended a run."""
    return (stop_reason or "").startswith(("nonfinite", "error"))


@dataclass(frozen=True)
class Head:
    """A linear head.

    Attributes:
        weight: W, shape (K, d).
        bias: b, shape (K,).
    """

    weight: Tensor
    bias: Tensor


@dataclass
class Row:
    """State of one run beside its tensors.

    Attributes:
        number: of the configuration.
        config: its settings.
        generator: of its draws.
        round_number: rounds done.
        steps_done: SGD steps done.
        since_best: rounds judged after the best one.
        largest_gain: largest expected gain of a pair so far.
        stop_reason: reason of its end; None while it continues.
        best: its best round so far; None before the first was judged.
        seconds: its share of the time.
    """

    number: int
    config: FinetuneConfig
    generator: torch.Generator
    round_number: int = 0
    steps_done: int = 0
    since_best: int = 0
    largest_gain: float = float("-inf")
    stop_reason: str | None = None
    best: Judged | None = None
    seconds: float = 0.0

    @property
    def progress(self) -> float:
        """Share of the steps that are done."""
        return self.steps_done / self.config.steps

    @property
    def failed(self) -> bool:
        """True if something that is not finite, or an objective without a value, ended the run."""
        return has_failed(self.stop_reason)

    def round_length(self) -> int:
        """Steps of the round that has begun."""
        grown = self.config.refresh_every * self.config.refresh_growth ** (self.round_number - 1)
        return min(round(grown), self.config.steps - self.steps_done)

    def rates(self, steps: int) -> list[float]:
        """Learning rate of each of the next steps."""
        config, whole = self.config, self.config.steps
        return [
            scheduled(config.lr_schedule, config.lr, 0.0, (self.steps_done + step) / whole)
            for step in range(steps)
        ]


class Setting:
    """What all rows of a screen share: samples, objective, rule and start heads.

    Args:
        data: splits of features, shape (n, d), float32.
        base: of the model ``linear_head``.
        objective: a name of OBJECTIVES or a callable.
        selection: how rounds are ranked, and the constraints.
    Raises:
        ValueError: a stratum of feedback, or a class of select, without a sample; or an objective or constraint of
            groups on data without a group attribute.
    """

    def __init__(
        self, data: SweepData, base: Base, objective: AnyObjective, selection: SelectionRule
    ) -> None:
        self.data, self.base, self.selection = data, base, selection
        self.num_classes = data.num_classes
        self.objective, self.context, self.constraints = inside_the_method(objective, selection, data)
        self.num_strata = self.num_classes * max(1, self.context.num_groups)
        train, feedback = flat_features(data.train), flat_features(data.feedback)
        # Train comes first, so that both pools are the beginning of the same samples.
        self.features = torch.cat([train, feedback])
        self.labels = torch.cat([data.train.labels, data.feedback.labels])
        self.feedback = self.features[len(train) :]
        self.select = flat_features(data.select)
        self.feedback_strata = self._strata(data.feedback)
        strata = torch.cat([self._strata(data.train), self.feedback_strata])
        self.pools = {
            "train": Pool.of(strata[: len(train)], self.num_strata),
            "train+feedback": Pool.of(strata, self.num_strata),
        }
        self.prototypes = self._prototypes()
        self.judge = Judge(
            Split(torch.zeros(len(data.select), 0), data.select.labels.cpu(), _on_cpu(data.select.groups)),
            selection,
            MetricContext(data.train_counts.cpu(), selection.definitions, data.num_groups),
        )
        if missing := data.missing_classes("select"):
            raise ValueError(
                f"every class needs a sample in select to be evaluated on, got none for {', '.join(missing)}"
            )
        self._starts: dict[str, Head] = {}

    @property
    def device(self) -> torch.device:
        return self.features.device

    @property
    def dim(self) -> int:
        """Features of a sample, d."""
        return self.features.shape[1]

    def _strata(self, split: Split) -> Tensor:
        if not self.context.num_groups:
            return split.labels
        if split.groups is None:
            raise ValueError(
                "an objective or constraint of groups needs a split with groups, got one without"
            )
        return strata_of(split.labels, split.groups, self.context.num_groups)

    def _prototypes(self) -> Tensor:
        """Mean feature of each stratum on feedback, shape (S, d), float64: a frozen backbone moves none."""
        sums = torch.zeros(self.num_strata, self.dim, dtype=torch.float64, device=self.device)
        sums.index_add_(0, self.feedback_strata, self.feedback.double())
        counts = torch.bincount(self.feedback_strata, minlength=self.num_strata)
        if bool((counts == 0).any()):
            empty = torch.nonzero(counts == 0).flatten().tolist()
            raise ValueError(f"every stratum needs a held-out sample, got none for {empty}")
        return sums / counts.unsqueeze(1)

    def start(self, name: str) -> Head:
        """Head that runs with this ``start`` begin with, on the device of the data."""
        if name not in self._starts:
            head = self.base.model.view(self.base.build(name, (self.dim,), self.num_classes)).head
            self._starts[name] = Head(
                head.weight.detach().to(self.device), head.bias.detach().to(self.device)
            )
        return self._starts[name]

    def row(self, number: int, config: FinetuneConfig, seed: int) -> Row:
        """A row at its start."""
        return Row(number, config, torch.Generator().manual_seed(seed))


class Batch:
    """Rows that train together.

    Args:
        setting: shared by all rows.
        rows: at their start.
    """

    def __init__(self, setting: Setting, rows: Sequence[Row]) -> None:
        self.setting, self.rows = setting, list(rows)
        starts = [setting.start(row.config.start) for row in self.rows]
        weight, bias = torch.stack([s.weight for s in starts]), torch.stack([s.bias for s in starts])
        moves = any(row.config.momentum > 0 for row in self.rows)
        self.heads = Heads(
            weight,
            bias,
            torch.zeros_like(weight) if moves else None,
            torch.zeros_like(bias) if moves else None,
        )
        self.best_weight, self.best_bias = weight.clone(), bias.clone()
        self._memories = Memories(
            setting.objective, setting.context, setting.constraints, [row.config for row in self.rows],
            setting.num_classes, setting.device,
        )  # fmt: skip
        self._evaluate(range(len(self.rows)), {})

    def best_head(self, place: int) -> Head:
        """Head of a row's best round, on the CPU."""
        return Head(self.best_weight[place].cpu(), self.best_bias[place].cpu())

    def advance(self, until: float, after_round: Callable[[], None] | None = None) -> None:
        """Train until every row has ended or has done a share of its steps.

        Args:
            until: that share, in (0, 1].
            after_round: called after each round of the batch.
        """
        while places := [
            place
            for place, row in enumerate(self.rows)
            # Less than half a step, because the share need not be a number of steps.
            if row.stop_reason is None and row.steps_done < until * row.config.steps - 1e-9
        ]:
            begun = time.perf_counter()
            self._round(places)
            took = time.perf_counter() - begun
            for place in places:
                self.rows[place].seconds += took / len(places)
            if after_round is not None:
                after_round()

    # -- a round ------------------------------------------------------------------------------------------

    def _round(self, places: Sequence[int]) -> None:
        """One round of these rows: estimate, policy, steps, judgement."""
        setting, index = self.setting, self._index(places)
        weight, bias = self.heads.weight[index], self.heads.bias[index]
        decisions = decide(setting.feedback, weight, bias)
        finite = decisions.finite.tolist()
        for place, fine in zip(places, finite, strict=True):
            if not fine:
                self.rows[place].stop_reason = "nonfinite:logits"
        good = [at for at, fine in enumerate(finite) if fine]
        if not good:
            return
        counts = confusions(
            setting.feedback_strata, decisions.predicted[good], setting.num_strata, setting.num_classes
        )
        reasons: dict[int, str] = {}
        tasks: list[Task] = []
        size = max(1, _PAIRS_AT_ONCE // (setting.num_strata * max(setting.num_strata, setting.num_classes)))
        for begin in range(0, len(good), size):
            some = good[begin : begin + size]
            chosen = [places[at] for at in some]
            tasks += self._tasks(chosen, weight[some], bias[some], counts[begin : begin + size], reasons)
        judged = [places[at] for at in good if self.rows[places[at]].stop_reason is None]
        if tasks:
            losses = train(self.heads, setting.features, setting.labels, tasks)
            for task, loss in zip(tasks, torch.isfinite(losses).tolist(), strict=True):
                row = self.rows[task.row]
                row.steps_done += len(task.rates)
                if not loss:
                    row.stop_reason = "nonfinite:loss"
                elif row.steps_done >= row.config.steps:
                    reasons[task.row] = "steps"
        self._evaluate([place for place in judged if self.rows[place].stop_reason is None], reasons)

    def _tasks(
        self, places: Sequence[int], weight: Tensor, bias: Tensor, counts: Tensor, reasons: dict[int, str]
    ) -> list[Task]:
        """Steps of a round of these rows; those that take none get a reason.

        Args:
            places: of the rows.
            weight: W of each, shape (p, K, d).
            bias: b of each, shape (p, K).
            counts: confusion counts on feedback, shape (p, S, K).
            reasons: why rows end after this round; changed in place.
        """
        setting = self.setting
        gain = self._gains(places, weight, bias, counts)
        inputs = []
        for place in places:
            row = self.rows[place]
            row.round_number += 1
            pool = setting.pools[row.config.draw_from]
            inputs.append(PolicyRow(row.config, pool, row.round_number, row.progress))
        policies, drawn = policies_of_round(inputs, gain)
        expected = (policies * gain).sum(dim=(1, 2)).tolist()
        drawing: list[int] = []
        for at, (place, has_pair) in enumerate(zip(places, drawn.tolist(), strict=True)):
            row = self.rows[place]
            if row.stop_reason is not None:
                continue
            if not has_pair:
                reasons[place] = "no_positive_gain"
            elif inputs[at].targeted and self._on_plateau(row, expected[at]):
                reasons[place] = "gain_plateau"
            else:
                drawing.append(at)
        rows = [self.rows[places[at]] for at in drawing]
        draws = [
            Draw(row.config, row.generator, inputs[at].pool, row.round_length())
            for at, row in zip(drawing, rows, strict=True)
        ]
        return [
            Task(places[at], row.config, stretch, row.rates(draw.steps))
            for at, row, draw, stretch in zip(
                drawing, rows, draws, draw_stretches(draws, policies[drawing]), strict=True
            )
        ]

    def _gains(self, places: Sequence[int], weight: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
        """G of the rows whose policy reads it, shape (p, S, S); zeros for the others, and for rows that end here."""
        setting, strata = self.setting, self.setting.num_strata
        gain = torch.zeros(len(places), strata, strata, dtype=torch.float64, device=setting.device)
        targeted = [at for at, place in enumerate(places) if self.rows[place].config.pair_policy.targeted]
        if not targeted:
            return gain
        rows = [places[at] for at in targeted]
        smoothed, held = self._memories.update(rows, counts[targeted])
        gradients, problems = self._memories.gradients(smoothed, held)
        configs = [self.rows[place].config for place in rows]
        found = gain_matrices(
            setting.prototypes, weight[targeted], bias[targeted], gradients, configs, setting.context.labels
        )
        finite = torch.isfinite(found).flatten(1).all(dim=1).tolist()
        for place, problem, fine in zip(rows, problems, finite, strict=True):
            if problem is not None:
                self.rows[place].stop_reason = f"error: {problem}"
            elif not fine:
                self.rows[place].stop_reason = "nonfinite:gain"
        gain[targeted] = found.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return gain

    def _on_plateau(self, row: Row, expected: float) -> bool:
        row.largest_gain = max(row.largest_gain, expected)
        share = row.config.gain_plateau
        return share is not None and expected < share * row.largest_gain

    # -- judgement ----------------------------------------------------------------------------------------

    def _evaluate(self, places: Sequence[int], reasons: dict[int, str]) -> None:
        """Judge the heads of these rows on select, keep the best ones, and end rows for their reasons."""
        if not places:
            return
        setting, judge = self.setting, self.setting.judge
        index = self._index(places)
        decisions = decide(
            setting.select, self.heads.weight[index], self.heads.bias[index], judge.needs_confidence
        )
        finite = decisions.finite.tolist()
        for place, fine in zip(places, finite, strict=True):
            if not fine:
                self.rows[place].stop_reason = "nonfinite:select logits"
        good = [at for at, fine in enumerate(finite) if fine]
        if not good:
            return
        rows = [self.rows[places[at]] for at in good]
        judged = judge.judge(
            decisions.take(good), [row.round_number for row in rows], [row.steps_done for row in rows]
        )
        better = []
        ranks_above = judge.better(judged, [row.best for row in rows])
        for at, row, new, is_better in zip(good, rows, judged, ranks_above, strict=True):
            if is_better:
                row.best, row.since_best = new, 0
                better.append(places[at])
            else:
                row.since_best += 1
            limit = row.config.patience_rounds
            row.stop_reason = reasons.get(places[at])
            # Round 0 has trained nothing: there is no reason to stop after it.
            if row.round_number and row.stop_reason is None and limit is not None and row.since_best >= limit:
                row.stop_reason = "patience"
        if better:
            kept = self._index(better)
            self.best_weight[kept], self.best_bias[kept] = self.heads.weight[kept], self.heads.bias[kept]

    def _index(self, places: Sequence[int]) -> Tensor:
        return torch.tensor(list(places), device=self.setting.device)


def flat_features(split: Split) -> Tensor:
    """Features of a split, shape (n, d), float32.

    Raises:
        ValueError: its inputs are images.
    """
    if not isinstance(split.inputs, Tensor):
        raise ValueError(
            "a screen works on features, shape (n, d), got images; compute them with "
            "selmix.baselines.frozen.frozen_features"
        )
    return split.inputs.flatten(1).float()


def _on_cpu(groups: Tensor | None) -> Tensor | None:
    return None if groups is None else groups.cpu()
