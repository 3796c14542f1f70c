"""Steps of many heads against torch's own SGD on each."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from selmix.config import FinetuneConfig
from selmix.screen.draws import Stretch
from selmix.screen.training import Heads, Task, train


def test_steps_are_those_of_torch() -> None:
    g = torch.Generator().manual_seed(0)
    samples, classes, dim = 30, 3, 4
    features, labels = torch.randn(samples, dim, generator=g), torch.randint(classes, (samples,), generator=g)
    # Lengths, batch sizes, mixing, momentum, decay and weights all differ; two are of one kind.
    kinds = [
        (5, 6, True, 0.0, 0.0, False), (3, 6, True, 0.0, 0.1, False), (4, 6, True, 0.9, 0.01, False),
        (2, 3, False, 0.0, 0.0, True), (5, 3, False, 0.0, 0.0, False), (1, 1, True, 0.5, 0.0, True),
    ]  # fmt: skip
    tasks = []
    for row, (steps, size, mixes, momentum, decay, weighted) in enumerate(kinds):
        index = torch.randint(samples, (2, steps, size), generator=g)
        stretch = Stretch(
            index[0],
            index[1] if mixes else None,
            torch.rand(steps, size, generator=g) if mixes else None,
            2.0 * torch.rand(steps, size, generator=g) if weighted else None,
        )
        config = FinetuneConfig(momentum=momentum, weight_decay=decay)
        tasks.append(Task(row, config, stretch, torch.rand(steps, generator=g).tolist()))
    weight, bias = torch.randn(6, classes, dim, generator=g), torch.randn(6, classes, generator=g)
    heads = Heads(weight.clone(), bias.clone(), torch.zeros_like(weight), torch.zeros_like(bias))
    losses = train(heads, features, labels, tasks)
    for row, task in enumerate(tasks):
        w, b = weight[row].clone().requires_grad_(), bias[row].clone().requires_grad_()
        optimizer = torch.optim.SGD(
            [w, b], lr=1.0, momentum=task.config.momentum, weight_decay=task.config.weight_decay
        )
        total = 0.0
        for step, rate in enumerate(task.rates):
            optimizer.param_groups[0]["lr"] = rate
            x, y = features[task.stretch.first[step]], labels[task.stretch.first[step]]
            if task.stretch.other is not None and task.stretch.coefficients is not None:
                lam = task.stretch.coefficients[step].unsqueeze(1)
                x = lam * x + (1.0 - lam) * features[task.stretch.other[step]]
            loss = F.cross_entropy(F.linear(x, w, b), y, reduction="none")
            if task.stretch.weights is not None:
                loss = loss * task.stretch.weights[step]
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            total += loss.detach().mean().item()
        assert torch.allclose(heads.weight[row], w.detach(), atol=2e-6), row
        assert torch.allclose(heads.bias[row], b.detach(), atol=2e-6), row
        assert abs(float(losses[row]) - total / len(task.rates)) < 1e-5


def test_a_loss_that_overflows_is_seen() -> None:
    features = torch.full((2, 1), 1e30)
    heads = Heads(torch.full((2, 2, 1), 1e10), torch.zeros(2, 2))
    heads.weight[0] = 0.0
    stretch = Stretch(torch.zeros(1, 2, dtype=torch.int64))
    losses = train(
        heads,
        features,
        torch.tensor([0, 1]),
        [Task(row, FinetuneConfig(), stretch, [0.1]) for row in range(2)],
    )
    assert torch.isfinite(losses).tolist() == [True, False]
