"""The algorithm: rounds that estimate the gain on feedback, then take SGD steps on pairs drawn by it."""

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

# Divisor of the learning rate for the diagnosis: a full step on a single pair is not first-order.
FIRST_ORDER = 10.0

__all__ = ["FinetuneConfig", "Finetuner", "NonFinite", "Round"]


class Finetuner:
    """Fine-tune a classifier for an objective, round by round.

    Args:
        view: the model; changed in place, on the device of the data.
        pool: the samples that pairs are drawn from (train, or train and feedback).
        feedback: held-out samples of every stratum, for C, prototypes, gain and multipliers.
        objective: a name of OBJECTIVES or a callable of C (and the context).
        config: the settings.
        context: further inputs of the objective; the multipliers' settings are taken from ``config``.
        generator: source of all randomness of the run, on the CPU.
        constraints: bounds that act inside the method.
        unlabelled: source of the partner samples if ``config.second`` is not ``labelled``.
        world: the ranks that train together; all of them get the same arguments, except for their own ``world``.
        log_prior: logarithms of class priors, shape (K,), which are added to the logits in training (the logit-adjusted
            loss): the samples are then drawn uniformly, one by one, whatever the policy. None for the method.
    Raises:
        ValueError: the settings need unlabelled samples or groups that the data lack, or combine both, or the ranks
            cannot share a batch.
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
        log_prior: Tensor | None = None,
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
        # Loss weight of each sample of the pool, under a policy that weighs losses instead of drawing pairs.
        self._weights: Tensor | None = None
        self._log_prior = log_prior
        if log_prior is not None:
            self._weights = torch.ones(len(pool), device=pool.labels.device)
        self.second = self._partner_pool(unlabelled)
        view.compute_in_(Arithmetic(config.precision, config.channels_last))
        self.optimizer = sgd(view, config)
        # After sgd, which freezes parameters: the replica exchanges gradients of those that need one when it is made.
        self._stepped = world.replicated(view)
        self.round_number = 0
        self.steps_done = 0
        self._largest_gain = float("-inf")
        self._prototypes: Tensor | None = None
        self._memory = FeedbackMemory(objective, self.context, config, self.constraints)

    def _partner_pool(self, unlabelled: Split | None) -> UnlabelledPool | None:
        if self.config.second == "labelled" or not self.config.mixes:
            return None
        if unlabelled is None:
            raise ValueError(
                f"second: {self.config.second} needs unlabelled data, there are none; use second: labelled"
            )
        if self.context.num_groups:
            raise ValueError(
                "second: must be labelled under an objective or constraint of groups, because unlabelled samples have "
                f"no group, got {self.config.second!r}"
            )
        return UnlabelledPool(unlabelled, self.config)

    def run_round(self) -> Round:
        """Run one round: estimate C and z, weigh the pairs by their gain, take SGD steps on pairs drawn by P.

        Returns:
            The estimate, the policy and the diagnostics of the round, with a reason to stop if it was the last.
        Raises:
            NonFinite: a logit of the estimate or the training loss is not finite.
        """
        strata = self._strata(self.feedback)
        counts, prototypes = estimate(self.view, self.feedback.inputs, strata, self.num_strata, self.world)
        smoothed, context = self._memory.update(counts)
        objective = with_constraints(bind_objective(self.objective, context), self.constraints, context)
        scalars = {"objective": float(objective(smoothed)), "lr": self._learning_rate()}
        scalars |= {f"multiplier/{key}": value for key, value in self._memory.bounds.items()}
        gain = self._gain(objective, smoothed, prototypes)
        self.round_number += 1
        if self.second is not None:
            # Before the policy: new pseudo-labels change which pairs can be drawn.
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
        # An outcome of the run, not an error: the caller reads it from the report.
        except NoPositiveGain:
            return self._report(counts, gain, None, context, scalars, "no_positive_gain")
        if gain is not None and self._on_plateau(float((policy * gain).sum()), scalars):
            return self._report(counts, gain, policy, context, scalars, "gain_plateau")
        self._diagnose(objective, gain, policy, prototypes, scalars)
        # Two sums stand for P and the head. Ranks that differ must stop before they exchange gradients.
        self.world.check_alike(policy.double().square().sum(), self.view.head.weight.double().sum())
        self._draw_by(policy)
        scalars["loss"] = self._train(self._round_length())
        stop_reason = "steps" if self.steps_done >= self.config.steps else None
        return self._report(counts, gain, policy, context, scalars, stop_reason)

    # -- the estimate -------------------------------------------------------------------------------------

    def _strata(self, split: Split) -> Tensor:
        """Stratum of each sample: its class, or its (class, group) cell if groups play a part in the method."""
        if not self.context.num_groups:
            return split.labels
        if split.groups is None:
            raise ValueError(
                "an objective or constraint of groups needs a split with groups, got one without"
            )
        return strata_of(split.labels, split.groups, self.context.num_groups)

    def _gain(
        self, objective: Callable[[Tensor], Tensor], confusion: Tensor, prototypes: Tensor
    ) -> Tensor | None:
        # Uniform and balanced pairs are drawn without the gain: its cost is saved.
        if not self.config.pair_policy.targeted:
            return None
        head = self.view.head
        gradient = logit_gradient(objective, confusion)
        return gain_matrix(
            prototypes, head.weight, head.bias, gradient, self.config.mixup_coefficient, self.context.labels,
            formula=self.config.gain_formula, with_bias=self.config.gain_with_bias,
        )  # fmt: skip

    def _on_plateau(self, expected: float, scalars: dict[str, float]) -> bool:
        """True if the expected gain of a pair fell below its share of the largest so far."""
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
        # Both samples of a pair come from the pool here; with unlabelled partners these are not the pairs of the run.
        if not self.config.diagnose or gain is None or self.second is not None:
            return
        labels = self.context.labels if self.context.labels is not None else torch.arange(self.num_classes)
        fidelity = gain_fidelity(
            self.view, self.pool, self._strata(self.pool), self.feedback, self._strata(self.feedback), objective,
            gain, labels, self.config.mixup_coefficient, self.config.lr / FIRST_ORDER, self._drawable(),
            # A generator of its own: the diagnosis must not shift the draws of the run.
            torch.Generator().manual_seed(self.round_number),
        )  # fmt: skip
        scalars["gain_spearman"], scalars["gain_pearson"] = fidelity.spearman, fidelity.pearson

    def _drawable(self) -> Tensor:
        """Mask of the pairs that can be drawn, shape (S, S); without pairing, of the strata, on the diagonal."""
        pairs = self.sampler.drawable
        return pairs if self.config.pair_policy.mixes else torch.diag(pairs.diagonal())

    # -- the steps ----------------------------------------------------------------------------------------

    def _draw_by(self, policy: Tensor) -> None:
        """Set P for the coming steps: it draws their pairs, or weighs their losses."""
        # The loss takes the place of a policy.
        if self._log_prior is not None:
            return
        if not self.config.pair_policy.mixes:
            self._weights = stratum_weights(policy, self.sampler.counts)[self._strata(self.pool)]
        else:
            self.sampler.set_policy(policy)

    def _round_length(self) -> int:
        # From the number of the round, not from the last length: rounding does not add up, and a resumed run agrees.
        grown = self.config.refresh_every * self.config.refresh_growth ** (self.round_number - 1)
        return min(round(grown), self.config.steps - self.steps_done)

    def _learning_rate(self) -> float:
        progress = self.steps_done / self.config.steps
        return scheduled(self.config.lr_schedule, self.config.lr, 0.0, progress)

    def _train(self, steps: int) -> float:
        """Take ``steps`` SGD steps on pairs drawn by P; returns their mean loss."""
        freeze_batchnorm_(self.view.model)
        # Summed on the device: reading the loss as a number would wait for the GPU in every step.
        total = torch.zeros((), device=self.pool.inputs.device)
        # Dropout and the like draw from torch's global generator: it is seeded from this run's generator, on each rank
        # differently, and restored for the caller.
        seed = int(torch.randint(2**62, (), generator=self.generator)) + self.world.rank
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for _ in range(steps):
                total += self._step()
        mean = float(self.world.sum_(total)) / self.world.size / max(steps, 1)
        # NaN is unequal to itself.
        if not mean == mean or abs(mean) == float("inf"):
            raise NonFinite("loss")
        return mean

    def _step(self) -> Tensor:
        lr = self._learning_rate()
        # Set by hand, as a function of the step: there is no scheduler whose state a checkpoint must carry.
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        *others, last = self._draw().parts(self.config.accumulate)
        # Gradients are exchanged once per step, with the last part.
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
        """Run the backward pass of one part of a batch; returns its share of the batch's loss."""
        # Divided here, so that the gradients of the parts add up to that of the batch's mean loss.
        loss = part.loss(self._stepped, self.config.mixup_layer, self._log_prior) / self.config.accumulate
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
        """State from which a run resumes bit-equal: tensors, numbers and dicts of them."""
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
        """Resume from the :meth:`state_dict` of a fine-tuner with the same model, data and config."""
        self.view.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.round_number, self.steps_done = state["round_number"], state["steps_done"]
        device = self.pool.labels.device
        self._largest_gain, self._prototypes = state["largest_gain"], _on_device(state["prototypes"], device)
        self._memory.load_state_dict(_on_device(state["memory"], device))
        # No labels: the state was saved before the first labelling, which the next round makes.
        if self.second is not None and state["second"]["labels"] is not None:
            self.second.load_state_dict(state["second"])
            self.sampler = self.second.sampler(self.pool.labels, self.num_strata)


def _on_device(state: Any, device: torch.device) -> Any:
    """Tensors of a state on a device, in the dicts that hold them; a stored state lies on the CPU."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {name: _on_device(value, device) for name, value in state.items()}
    return state
