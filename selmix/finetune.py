"""The algorithm: rounds of estimating the gain on feedback and SGD steps on pairs drawn by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from selmix.batch import Batch, pair_batch, weighted_batch
from selmix.config import FinetuneConfig
from selmix.confusion import logit_gradient
from selmix.constraints import with_constraints
from selmix.data.splits import Split
from selmix.feedback import FeedbackMemory, estimate
from selmix.gain import gain_matrix
from selmix.gain_fidelity import gain_fidelity, policy_entropy, prototype_drift
from selmix.groups import strata_of
from selmix.loss_weights import stratum_weights
from selmix.model import ClassifierView, freeze_batchnorm_
from selmix.multipliers import MultiplierSettings
from selmix.objectives import AnyObjective, ObjectiveContext, bind_objective
from selmix.optimizer import sgd
from selmix.parallel.world import ALONE, World
from selmix.policy import NoPositiveGain
from selmix.policy_schedule import policy_of_round
from selmix.precision import Arithmetic
from selmix.pseudo_labels import UnlabelledPool
from selmix.round import NonFinite, Round
from selmix.sampler import PairSampler
from selmix.schedules import scheduled
from selmix.statistics.selection import Constraint

FIRST_ORDER = 10.0  # the diagnosis steps at a tenth of the rate: a full step on one pair is not first-order

__all__ = ["FinetuneConfig", "Finetuner", "NonFinite", "Round"]


class Finetuner:
    """Fine-tunes a classifier for an objective, round by round.

    Args:
        view: the model; changed in place, on the device of the data.
        pool: the samples that pairs are drawn from (train, or train and feedback).
        feedback: held-out samples of every stratum, for C, prototypes, gain and multipliers.
        objective: a name of OBJECTIVES or a callable of C (and the context).
        config: the settings.
        context: what the objective may know beside C; multiplier settings are taken from ``config``.
        generator: source of all randomness of the run, on the CPU.
        constraints: bounds that act inside the method.
        unlabelled: where the second samples come from, if ``config.second`` says so.
        world: the ranks that train together; every one is given the same arguments, its own place aside.
    Raises:
        ValueError: settings that ask for unlabelled samples or groups where there are none, or for both, or a batch
            that the ranks cannot share.
    """

    def __init__(
        self,
        view: ClassifierView,
        pool: Split,
        feedback: Split,
        objective: AnyObjective,
        config: FinetuneConfig,
        context: ObjectiveContext,
        generator: torch.Generator,
        constraints: Sequence[Constraint] = (),
        unlabelled: Split | None = None,
        world: World = ALONE,
    ) -> None:
        world.check_batch(config.batch_size, config.accumulate)
        self.view, self.pool, self.feedback = view, pool, feedback
        self.objective, self.config, self.generator, self.world = objective, config, generator, world
        self.constraints = tuple(constraints)
        settings = MultiplierSettings(
            lr=config.multiplier_lr,
            decay=config.multiplier_decay,
            coverage_level=context.settings.coverage_level,
            temperature=config.constraint_temperature,
            maximum=config.constraint_max,
        )
        self.context = dataclasses.replace(context, settings=settings)
        self.num_classes = view.head.out_features
        self.num_strata = self.num_classes * max(1, context.num_groups)
        self.sampler = PairSampler(self._strata(pool), self.num_strata)
        self._weights: Tensor | None = None  # of each sample of the pool, where the gain weighs the loss
        self.second = self._second(unlabelled)
        view.compute_in_(Arithmetic(config.precision, config.channels_last))
        self.optimizer = sgd(view, config)
        self._stepped = world.replicated(view)
        self.round_number = 0
        self.steps_done = 0
        self._largest_gain = float("-inf")
        self._prototypes: Tensor | None = None
        self._memory = FeedbackMemory(objective, self.context, config)

    def _second(self, unlabelled: Split | None) -> UnlabelledPool | None:
        if self.config.second == "labelled" or not self.config.mixes:
            return None
        if unlabelled is None:
            raise ValueError(f"second: {self.config.second} needs unlabelled data, there are none")
        if self.context.num_groups:
            raise ValueError("second samples without labels have no group; use second: labelled with groups")
        return UnlabelledPool(unlabelled, self.config)

    def run_round(self) -> Round:
        """One round: estimate C and z, weigh the pairs by their gain, then SGD steps on pairs drawn by P.

        Raises:
            NonFinite: a value of the estimate or the training loss is not finite.
        """
        strata = self._strata(self.feedback)
        counts, prototypes = estimate(self.view, self.feedback.inputs, strata, self.num_strata, self.world)
        smoothed, context = self._memory.update(counts)
        objective = with_constraints(bind_objective(self.objective, context), self.constraints, context)
        scalars = {"objective": float(objective(smoothed)), "lr": self._learning_rate()}
        gain = self._gain(objective, smoothed, prototypes)
        self.round_number += 1
        if self.second is not None:
            if self.second.due(self.round_number):
                self.second.file(self.view, self.world)
                self.sampler = self.second.sampler(self.pool.labels, self.num_strata)
            scalars["pseudo_labelled"] = float(self.second.used)
            if not self.second.used:
                return self._report(counts, gain, None, context, scalars, "no_pseudo_labels")
        try:
            progress = self.steps_done / self.config.steps
            policy = policy_of_round(
                self.config, gain, self._drawable(), self.sampler.counts, self.round_number, progress, scalars
            )
        except NoPositiveGain:
            return self._report(counts, gain, None, context, scalars, "no_positive_gain")
        if gain is not None and self._on_plateau(float((policy * gain).sum()), scalars):
            return self._report(counts, gain, policy, context, scalars, "gain_plateau")
        self._diagnose(objective, gain, policy, prototypes, scalars)
        self.world.check_alike(policy.double().square().sum(), self.view.head.weight.double().sum())
        self._draw_by(policy)
        scalars["loss"] = self._train(self._round_length())
        stop_reason = "steps" if self.steps_done >= self.config.steps else None
        return self._report(counts, gain, policy, context, scalars, stop_reason)

    # -- the estimate -------------------------------------------------------------------------------------

    def _strata(self, split: Split) -> Tensor:
        """Stratum of each sample: its class, or its (class, group) cell where an objective of groups acts."""
        if not self.context.num_groups:
            return split.labels
        if split.groups is None:
            raise ValueError("an objective of groups needs a split with groups")
        return strata_of(split.labels, split.groups, self.context.num_groups)

    def _gain(
        self, objective: Callable[[Tensor], Tensor], confusion: Tensor, prototypes: Tensor
    ) -> Tensor | None:
        if not self.config.pair_policy.targeted:
            return None
        head = self.view.head
        gradient = logit_gradient(objective, confusion)
        return gain_matrix(
            prototypes, head.weight, head.bias, gradient, self.config.mixup_coefficient, self.context.labels,
            formula=self.config.gain_formula, with_bias=self.config.gain_with_bias,
        )  # fmt: skip

    def _on_plateau(self, expected: float, scalars: dict[str, float]) -> bool:
        """Whether the expected gain of a pair fell below its share of the largest so far."""
        scalars["expected_gain"] = expected
        self._largest_gain = max(self._largest_gain, expected)
        share = self.config.gain_plateau
        return share is not None and expected < share * self._largest_gain

    def _diagnose(
        self, objective: Callable[[Tensor], Tensor], gain: Tensor | None, policy: Tensor, prototypes: Tensor,
        scalars: dict[str, float],
    ) -> None:  # fmt: skip
        scalars["policy_entropy"] = policy_entropy(policy)
        if self._prototypes is not None:
            scalars["prototype_drift"] = prototype_drift(self._prototypes, prototypes)
        self._prototypes = prototypes
        if not self.config.diagnose or gain is None or self.second is not None:
            return
        labels = self.context.labels if self.context.labels is not None else torch.arange(self.num_classes)
        told = gain_fidelity(
            self.view, self.pool, self._strata(self.pool), self.feedback, self._strata(self.feedback), objective,
            gain, labels, self.config.mixup_coefficient, self.config.lr / FIRST_ORDER, self._drawable(),
            torch.Generator().manual_seed(self.round_number),  # of its own: the run stays what it is without
        )  # fmt: skip
        scalars["gain_spearman"], scalars["gain_pearson"] = told.spearman, told.pearson

    def _drawable(self) -> Tensor:
        """Pairs that may be drawn, shape (S, S); strata, on the diagonal, where nothing is paired."""
        pairs = self.sampler.drawable
        return pairs if self.config.pair_policy.mixes else torch.diag(pairs.diagonal())

    # -- the steps ----------------------------------------------------------------------------------------

    def _draw_by(self, policy: Tensor) -> None:
        """Let P decide the steps to come: it draws their pairs, or weighs their losses."""
        if not self.config.pair_policy.mixes:
            self._weights = stratum_weights(policy, self.sampler.counts)[self._strata(self.pool)]
        else:
            self.sampler.set_policy(policy)

    def _round_length(self) -> int:
        grown = self.config.refresh_every * self.config.refresh_growth ** (self.round_number - 1)
        return min(round(grown), self.config.steps - self.steps_done)

    def _learning_rate(self) -> float:
        progress = self.steps_done / self.config.steps
        return scheduled(self.config.lr_schedule, self.config.lr, 0.0, progress)

    def _train(self, steps: int) -> float:
        """``steps`` SGD steps on pairs drawn by P; returns their mean loss."""
        freeze_batchnorm_(self.view.model)
        total = torch.zeros((), device=self.pool.inputs.device)
        # Dropout and the like draw from torch's own stream: give them a seed of this run's and rank's, and the
        # caller the stream back as it was.
        seed = int(torch.randint(2**62, (), generator=self.generator)) + self.world.rank
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for _ in range(steps):
                total += self._step()
        mean = float(self.world.sum_(total)) / self.world.size / max(steps, 1)
        if not mean == mean or abs(mean) == float("inf"):
            raise NonFinite("loss")
        return mean

    def _step(self) -> Tensor:
        lr = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        *others, last = self._draw().parts(self.config.accumulate)
        with self.world.alone(self._stepped):
            losses = [self._add_gradient(part) for part in others]
        losses.append(self._add_gradient(last))
        self.optimizer.step()
        self.steps_done += 1
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _draw(self) -> Batch:
        if self._weights is not None:
            return weighted_batch(self.pool, self._weights, self.config, self.generator, self.world)
        others = self.pool if self.second is None else self.second
        return pair_batch(self.pool, others, self.sampler, self.config, self.generator, self.world)

    def _add_gradient(self, part: Batch) -> Tensor:
        """Backward pass of one part of a batch; returns its share of the batch's loss."""
        loss = part.loss(self._stepped, self.config.mixup_layer) / self.config.accumulate
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    # -- reports and state --------------------------------------------------------------------------------

    def _report(
        self,
        counts: Tensor,
        gain: Tensor | None,
        policy: Tensor | None,
        context: ObjectiveContext,
        scalars: dict[str, float],
        stop_reason: str | None,
    ) -> Round:
        return Round(
            number=self.round_number,
            steps=self.steps_done,
            confusion=(counts.double() / counts.sum()).cpu(),
            gain=None if gain is None else gain.cpu(),
            policy=None if policy is None else policy.cpu(),
            multipliers=None if context.multipliers is None else context.multipliers.cpu(),
            scalars=scalars,
            stop_reason=stop_reason,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on bit-equal: tensors, numbers and dicts of them."""
        return {
            "model": self.view.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "round_number": self.round_number,
            "steps_done": self.steps_done,
            "largest_gain": self._largest_gain,
            "prototypes": self._prototypes,
            "memory": self._memory.state_dict(),
            "second": None if self.second is None else self.second.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()`` of a finetuner with the same model, data and config."""
        self.view.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.round_number, self.steps_done = state["round_number"], state["steps_done"]
        self._largest_gain, self._prototypes = state["largest_gain"], state["prototypes"]
        self._memory.load_state_dict(state["memory"])
        if self.second is not None and state["second"]["labels"] is not None:
            self.second.load_state_dict(state["second"])
            self.sampler = self.second.sampler(self.pool.labels, self.num_strata)
