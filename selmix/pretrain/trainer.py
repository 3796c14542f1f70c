"""Training from scratch, epoch by epoch, so that it can be stopped, tracked and resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix.augment import strong, weak
from selmix.config import number_holds
from selmix.data.splits import Split
from selmix.models import ModelConfig
from selmix.models.linear_head import StandardisedHead
from selmix.schedules import scheduled

EPOCHS = 60
BATCH = 32
LR = 0.05
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
MIXUP_ALPHA = 0.2
EMA_DECAY = 0.99
UNLABELLED_RATIO = 2
"""Unlabelled samples per labelled one in a step of FixMatch."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Recipe:
    """Loss and samples of training from scratch.

    Attributes:
        adjust: tau of the logit-adjusted loss, log-priors added to the logits; 0 is plain cross-entropy.
        mixup: True if the inputs of a batch are mixed, as in stage one of MiSLAS.
        fixmatch: True if unlabelled samples take part, under confident pseudo-labels of their weak augmentation.
    Source: logit adjustment, Menon et al., ICLR 2021; stage one of MiSLAS, Zhong et al., CVPR 2021;
        FixMatch, Sohn et al., NeurIPS 2020.
    """

    adjust: float = 0.0
    mixup: bool = False
    fixmatch: bool = False


@dataclass(frozen=True)
class PretrainSettings:
    """Length, rate and regularisation of the training.

    Attributes:
        epochs: passes over the labelled samples.
        batch_size: labelled samples of a step.
        lr: of SGD with Nesterov momentum at the first step; it falls by a cosine schedule.
        augment: True if labelled samples are weakly augmented (with FixMatch they always are).
        weight_decay: of SGD.
        mixup_alpha: of mixup's Beta(alpha, alpha), where the recipe mixes.
        ema_decay: per step, of the exponential average of the weights, where the recipe keeps one (FixMatch).
    Raises:
        ValueError: a setting out of range.
    """

    epochs: int = EPOCHS
    batch_size: int = BATCH
    lr: float = LR
    augment: bool = False
    weight_decay: float = WEIGHT_DECAY
    mixup_alpha: float = MIXUP_ALPHA
    ema_decay: float = EMA_DECAY

    def __post_init__(self) -> None:
        problems = [
            f"{name}: must be {rule}, got {getattr(self, name)!r}"
            for name, (whole, rule, holds) in _NUMBER_RULES.items()
            if not number_holds(getattr(self, name), whole, False, holds)
        ]
        if problems:
            raise ValueError("\n".join(problems))


# name -> (whole number, rule in words, predicate)
_NUMBER_RULES: dict[str, tuple[bool, str, Callable[[Any], bool]]] = {
    "epochs": (True, "a whole number >= 1", lambda v: v >= 1),
    "batch_size": (True, "a whole number >= 2", lambda v: v >= 2),
    "lr": (False, "a number > 0", lambda v: v > 0),
    "weight_decay": (False, "a number >= 0", lambda v: v >= 0),
    "mixup_alpha": (False, "a number > 0", lambda v: v > 0),
    "ema_decay": (False, "a number in [0, 1)", lambda v: 0 <= v < 1),
}


class Pretrainer:
    """Trainer of a model from scratch, or from given weights.

    Args:
        recipe: loss and samples.
        config: of the model.
        split: labelled samples; training runs on their device.
        num_classes: K.
        seed: of all randomness.
        settings: length, rate and regularisation.
        unlabelled: samples for FixMatch; their labels are not read.
        initial: weights to begin with; a classifier of another size is left at random.
    Raises:
        ValueError: FixMatch without unlabelled samples, or initial weights of another model.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: ModelConfig,
        split: Split,
        num_classes: int,
        seed: int,
        settings: PretrainSettings,
        unlabelled: Split | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        if recipe.fixmatch and unlabelled is None:
            raise ValueError("FixMatch needs unlabelled samples, the data have none; choose another recipe")
        self.recipe, self.settings, self._split, self._unlabelled = recipe, settings, split, unlabelled
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        model = config.build(tuple(split.inputs.shape[1:]), num_classes, self._generator)
        if initial is not None:
            own = model.state_dict()
            fitting = {k: v for k, v in initial.items() if k in own and v.shape == own[k].shape}
            if not fitting:
                raise ValueError(
                    "the initial weights have no layer in common with the model; take weights of the same architecture"
                )
            # How much of a file must fit is checked where it is read.
            model.load_state_dict(fitting, strict=False)
        self.model = model.to(split.inputs.device).train()
        # After the initial weights, whose scale is that of other data.
        if isinstance(self.model, StandardisedHead):
            self.model.fit_scale(split.whole())
        self._average = copy.deepcopy(self.model) if recipe.fixmatch else None
        # A class without a sample would have an infinite log-prior.
        counts = split.counts(num_classes).double().clamp_min(1.0)
        self._shift = recipe.adjust * (counts / counts.sum()).log().float()
        self.epoch = 0

    @cached_property
    def _optimizer(self) -> torch.optim.SGD:
        # Made once something is trained: torch imports its compiler with the first one, which takes a second.
        return torch.optim.SGD(
            self.model.parameters(),
            lr=self.settings.lr,
            momentum=MOMENTUM,
            weight_decay=self.settings.weight_decay,
            nesterov=True,
        )

    @property
    def finished(self) -> bool:
        return self.epoch >= self.settings.epochs

    def run_epoch(self) -> dict[str, float]:
        """Make one pass over the labelled samples.

        Returns:
            ``loss``, the mean over its steps; with FixMatch also ``pseudo_labelled``, the share of unlabelled samples
            with a confident pseudo-label.
        """
        size = self.settings.batch_size
        # An incomplete batch is left out, except where it is the only one.
        count = max(1, len(self._split) // size)
        order = torch.randperm(len(self._split), generator=self._generator).to(self._split.labels.device)
        totals: dict[str, float] = {}
        # Dropout and the like draw from the global stream. Seeded by the epoch, so that a resumed training draws alike.
        with torch.random.fork_rng():
            torch.manual_seed(self._seed * 100_003 + self.epoch)
            for step in range(count):
                progress = (self.epoch * count + step) / (self.settings.epochs * count)
                # The schedule falls to 1e-4, but never rises to it from a lower rate.
                for group in self._optimizer.param_groups:
                    group["lr"] = scheduled("cosine", self.settings.lr, min(1e-4, self.settings.lr), progress)
                index = order[step * size : (step + 1) * size]
                for name, value in self._step(self._split.batch(index), self._split.labels[index]).items():
                    totals[name] = totals.get(name, 0.0) + float(value) / count
        self.epoch += 1
        return totals

    def _step(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        if self.settings.augment or self.recipe.fixmatch:
            inputs = weak(inputs, self._generator)
        if self.recipe.mixup:
            loss = self._mixup_loss(inputs, labels)
        else:
            loss = F.cross_entropy(self.model(inputs) + self._shift, labels)
        if self.recipe.fixmatch:
            consistency, metrics["pseudo_labelled"] = self._consistency(len(labels))
            loss = loss + consistency
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._average is not None:
            _follow(self._average, self.model, self.settings.ema_decay)
        return metrics | {"loss": loss.detach()}

    def _mixup_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        # Beta(alpha, alpha) from two gammas, as torch.distributions takes no generator.
        concentration = torch.full((2,), self.settings.mixup_alpha)
        first, second = torch._standard_gamma(concentration, generator=self._generator).tolist()
        lam = first / (first + second) if first + second > 0 else 1.0
        other = torch.randperm(len(labels), generator=self._generator).to(labels.device)
        logits = self.model(lam * inputs + (1.0 - lam) * inputs[other]) + self._shift
        return lam * F.cross_entropy(logits, labels) + (1.0 - lam) * F.cross_entropy(logits, labels[other])

    def _consistency(self, labelled: int) -> tuple[Tensor, Tensor]:
        """Loss of strongly augmented samples against confident pseudo-labels of their weak augmentation.

        Args:
            labelled: samples of the labelled batch.
        Returns:
            The mean loss over all drawn samples, and the share of them with a confident pseudo-label.
        """
        pool = self._unlabelled
        if pool is None:
            raise AssertionError("checked in __init__")
        index = torch.randint(len(pool), (UNLABELLED_RATIO * labelled,), generator=self._generator)
        raw = pool.batch(index.to(pool.labels.device))
        with torch.no_grad():
            confidence, pseudo = torch.softmax(self.model(weak(raw, self._generator)), dim=1).max(dim=1)
        confident = (confidence >= CONFIDENCE).float()
        losses = F.cross_entropy(self.model(strong(raw, self._generator)), pseudo, reduction="none")
        # Mean over all of them, not over the confident ones, as in the paper: few confident samples weigh little.
        return (confident * losses).mean(), confident.mean()

    def weights(self) -> dict[str, Tensor]:
        """Trained weights (with FixMatch their exponential average), on the CPU."""
        chosen = self.model if self._average is None else self._average
        return {name: tensor.detach().cpu().clone() for name, tensor in chosen.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """State that is needed to resume bit-equal, between two epochs."""
        return {
            "model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "epoch": self.epoch,
            "generator": self._generator.get_state(),
            "average": None if self._average is None else self._average.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict` of a trainer of the same recipe, model, data, seed and settings."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.epoch = state["epoch"]
        if self._average is not None:
            self._average.load_state_dict(state["average"])


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move an exponential average of the parameters towards a model; its buffers are copied."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - decay)
    # Statistics of batch normalisation are averages already, and counters cannot be averaged.
    for kept, current in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(current)
