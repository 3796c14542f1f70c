"""SGD steps of many linear heads at once, on frozen features: the steps of a round, row by row independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.screen.draws import Stretch

# Numbers of the mixed features of a block of rows: on a CPU they fit its second cache, elsewhere they bound the memory.
_NUMBERS_AT_ONCE = 2**18
_NUMBERS_OF_AN_ACCELERATOR = 2**28


@dataclass
class Heads:
    """Linear heads of P rows, with the memory of their momentum.

    Attributes:
        weight: W, shape (P, K, d), float32.
        bias: b, shape (P, K).
        weight_momentum: shape (P, K, d); None if no row has momentum.
        bias_momentum: shape (P, K); None likewise.
    """

    weight: Tensor
    bias: Tensor
    weight_momentum: Tensor | None = None
    bias_momentum: Tensor | None = None

    def finite(self, index: Tensor) -> Tensor:
        """True for the rows at ``index``, shape (p,), all of whose numbers are finite."""
        # A sum is finite if all are; it may overflow where all are, so that rows are looked at again.
        sums = self.weight[index].sum(dim=(1, 2)) + self.bias[index].sum(dim=1)
        finite = torch.isfinite(sums)
        for place in torch.nonzero(~finite).flatten().tolist():
            row = index[place]
            finite[place] = torch.isfinite(self.weight[row]).all() & torch.isfinite(self.bias[row]).all()
        return finite


@dataclass(frozen=True)
class Task:
    """Steps of one row.

    Attributes:
        row: its place in the heads.
        config: momentum and weight decay are read.
        stretch: the samples.
        rates: learning rate of each step.
    """

    row: int
    config: FinetuneConfig
    stretch: Stretch
    rates: Sequence[float]

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """Rows of one kind share their tensors: batch size, mixing, momentum."""
        return self.stretch.first.shape[1], self.stretch.other is not None, self.config.momentum > 0


def train(heads: Heads, features: Tensor, labels: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Take the steps of all rows, in place; returns the mean loss of each row over its steps, shape (p,).

    Args:
        heads: the heads.
        features: of all samples, shape (n, d), float32.
        labels: shape (n,).
        tasks: rows, each with at least one step.
    """
    losses = torch.zeros(len(tasks), device=features.device)
    for places in _blocks(tasks, features):
        block = [tasks[place] for place in places]
        losses[torch.tensor(places, device=losses.device)] = _Block(heads, features, labels, block).run()
    return losses


def _blocks(tasks: Sequence[Task], features: Tensor) -> Iterator[list[int]]:
    """Places of rows of one kind, the longest first, as many at a time as fit."""
    numbers = _NUMBERS_AT_ONCE if features.device.type == "cpu" else _NUMBERS_OF_AN_ACCELERATOR
    order = sorted(range(len(tasks)), key=lambda place: (*tasks[place].kind, -len(tasks[place].rates)))
    held: list[int] = []
    for place in order:
        size = max(1, numbers // (tasks[place].kind[0] * features.shape[1]))
        if held and (tasks[place].kind != tasks[held[0]].kind or len(held) >= size):
            yield held
            held = []
        held.append(place)
    if held:
        yield held


class _Block:
    """Rows of one kind that step together; those with fewer steps lie last and drop out when they are done."""

    def __init__(self, heads: Heads, features: Tensor, labels: Tensor, tasks: Sequence[Task]) -> None:
        self.heads, self.features = heads, features
        self.batch_size, self.mixes, self.has_momentum = tasks[0].kind
        device = features.device
        lengths = [len(task.rates) for task in tasks]
        self.steps = max(lengths)
        # active[s]: rows that take step s. The rows are sorted, so they are the first ones.
        self.active = [sum(length > step for length in lengths) for step in range(self.steps)]
        self.rows = torch.tensor([task.row for task in tasks], device=device)
        self.first = self._stacked([task.stretch.first for task in tasks])
        self.labels = labels[self.first].unsqueeze(2)
        if self.mixes:
            self.other = self._stacked([_known(task.stretch.other) for task in tasks])
            self.coefficients = self._stacked([_known(task.stretch.coefficients) for task in tasks])
        # Filled on the CPU: to another device it goes at once.
        rates = torch.zeros(self.steps, len(tasks), 1, 1)
        for place, task in enumerate(tasks):
            rates[: lengths[place], place, 0, 0] = torch.tensor(task.rates)
        self.rates = rates.to(device)
        self.scales = self._scales(tasks)
        self.momentum = _column([task.config.momentum for task in tasks], device)
        decays = [task.config.weight_decay for task in tasks]
        self.decay = _column(decays, device) if any(decays) else None
        self.lengths = torch.tensor(lengths, device=device)

    def _scales(self, tasks: Sequence[Task]) -> Tensor:
        """Weight of each sample in the mean loss of its batch, shape (n, p, 1, B); (1, 1, 1, B) where all are 1 / B."""
        if all(task.stretch.weights is None for task in tasks):
            return torch.full((1, 1, 1, self.batch_size), 1.0 / self.batch_size, device=self.features.device)
        weights = [
            torch.ones_like(task.stretch.first, dtype=torch.float32)
            if task.stretch.weights is None
            else task.stretch.weights
            for task in tasks
        ]
        return self._stacked(weights).unsqueeze(2) / self.batch_size

    def _stacked(self, parts: Sequence[Tensor]) -> Tensor:
        """Steps of all rows, shape (n, p, B): step by step, so that a step's numbers lie together."""
        padded = [
            part if len(part) == self.steps else F.pad(part, (0, 0, 0, self.steps - len(part)))
            for part in parts
        ]
        return torch.stack(padded, dim=1)

    def run(self) -> Tensor:
        """Take the steps; returns the mean loss of each row, shape (p,)."""
        heads, rows = self.heads, self.rows
        weight, bias = heads.weight[rows], heads.bias[rows]
        moving = (
            (heads.weight_momentum[rows], heads.bias_momentum[rows])
            if self.has_momentum and heads.weight_momentum is not None and heads.bias_momentum is not None
            else None
        )
        picked = torch.zeros(self.steps, len(rows), 1, self.batch_size, device=self.features.device)
        size = (len(rows) * self.batch_size, self.features.shape[1])
        buffers = [self.features.new_empty(size) for _ in range(2 if self.mixes else 1)]
        for step in range(self.steps):
            live = self.active[step]
            self._step(step, weight[:live], bias[:live], moving, picked[step, :live], buffers)
        heads.weight[rows], heads.bias[rows] = weight, bias
        if moving is not None and heads.weight_momentum is not None and heads.bias_momentum is not None:
            heads.weight_momentum[rows], heads.bias_momentum[rows] = moving
        # Steps that a row does not take have picked 0.
        return -(picked * self.scales).sum(dim=(0, 2, 3)) / self.lengths

    def _step(
        self, step: int, weight: Tensor, bias: Tensor, moving: tuple[Tensor, Tensor] | None, picked: Tensor,
        buffers: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """One step of the rows that still take one.

        Args:
            step: its number in the round.
            weight: W of these rows, shape (p, K, d); changed in place, as are ``bias`` and ``moving``.
            bias: b, shape (p, K).
            moving: momentum of all rows of the block.
            picked: takes the logarithm of each label's probability, shape (p, 1, B).
            buffers: hold the features of the samples.
        """
        live = len(weight)
        mixed = self._mixed(step, live, buffers)
        labels, rate = self.labels[step, :live], self.rates[step, :live]
        scale = self.scales[step % len(self.scales), :live]
        # Classes in the rows: the softmax then runs along whole batches, which is twice as fast with few classes.
        logits = torch.baddbmm(bias.unsqueeze(2), weight, mixed.transpose(1, 2))
        probabilities = torch.log_softmax(logits, dim=1)
        picked.copy_(probabilities.gather(1, labels))
        residuals = probabilities.exp_()
        # The gradient of the loss in the logits is (p - onehot) times the sample's weight.
        factor = (scale if moving is not None else -rate * scale).expand(live, 1, self.batch_size)
        residuals.mul_(factor).scatter_add_(1, labels, -factor)
        decay = None if self.decay is None else self.decay[:live]
        if moving is None:
            if decay is not None:
                weight.mul_(1.0 - rate * decay)
                bias.mul_(1.0 - (rate * decay).squeeze(2))
            weight.baddbmm_(residuals, mixed)
            bias.add_(residuals.sum(dim=2))
            return
        momentum, by_weight, by_bias = self.momentum[:live], moving[0][:live], moving[1][:live]
        by_weight.mul_(momentum).baddbmm_(residuals, mixed)
        by_bias.mul_(momentum.squeeze(2)).add_(residuals.sum(dim=2))
        if decay is not None:
            by_weight.add_(decay * weight)
            by_bias.add_(decay.squeeze(2) * bias)
        weight.sub_(rate * by_weight)
        bias.sub_(rate.squeeze(2) * by_bias)

    def _mixed(self, step: int, live: int, buffers: Sequence[Tensor]) -> Tensor:
        """Mixed features of a step, shape (p, B, d)."""
        shape = (live, self.batch_size, self.features.shape[1])
        count = live * self.batch_size
        first = buffers[0][:count]
        torch.index_select(self.features, 0, self.first[step, :live].reshape(-1), out=first)
        if not self.mixes:
            return first.view(shape)
        other = buffers[1][:count]
        torch.index_select(self.features, 0, self.other[step, :live].reshape(-1), out=other)
        return other.view(shape).lerp_(first.view(shape), self.coefficients[step, :live].unsqueeze(2))


def _known(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise AssertionError("rows of a block must all mix or none, got both")
    return tensor


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    """Numbers of the rows of a block, shape (p, 1, 1), float32."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
