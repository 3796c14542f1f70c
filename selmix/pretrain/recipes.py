"""Training from scratch on a long-tailed set: plain and logit-adjusted cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix.data.splits import Split, SweepData
from selmix.models import ModelConfig
from selmix.models.linear_head import StandardisedHead
from selmix.schedules import scheduled

EPOCHS = 60
BATCH = 32
LR = 0.05
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class Recipe:
    """How to train from scratch.

    Attributes:
        adjust: tau of the logit-adjusted loss, log-priors added to the logits; 0 is plain cross-entropy.
    Source: logit adjustment, Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """

    adjust: float


RECIPES: dict[str, Recipe] = {"erm": Recipe(adjust=0.0), "logit_adjusted": Recipe(adjust=1.0)}


def pretrain(recipe: str, model: ModelConfig, data: SweepData, seed: int) -> dict[str, Tensor]:
    """Weights of a model trained on the train split, on its device.

    Raises:
        ValueError: no such recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"pretrain.recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    return train_from_scratch(RECIPES[recipe], model, data.train, data.num_classes, seed)


def train_from_scratch(
    recipe: Recipe, config: ModelConfig, split: Split, num_classes: int, seed: int
) -> dict[str, Tensor]:
    """Weights after SGD with momentum and a cosine learning rate; all randomness is that of ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    model = config.build(tuple(split.inputs.shape[1:]), num_classes, generator)
    model = model.to(split.inputs.device).train()
    if isinstance(model, StandardisedHead):
        model.fit_scale(split.whole())
    counts = split.counts(num_classes).double().clamp_min(1.0)
    shift = recipe.adjust * (counts / counts.sum()).log().float()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    batches = max(1, len(split) // BATCH)
    with torch.random.fork_rng():  # dropout and the like, for models that have them
        torch.manual_seed(seed)
        for step in range(EPOCHS * batches):
            if step % batches == 0:
                order = torch.randperm(len(split), generator=generator).to(split.labels.device)
            index = order[(step % batches) * BATCH : (step % batches + 1) * BATCH]
            _step(
                model,
                optimizer,
                split.batch(index),
                split.labels[index],
                shift,
                scheduled("cosine", LR, 1e-4, step / (EPOCHS * batches)),
            )
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    shift: Tensor,
    lr: float,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = F.cross_entropy(model(inputs) + shift, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
