"""Settings of the method: one frozen dataclass whose fields are the parameters of a sweep file.

The defaults are trial 0 of every sweep. Every field is read by the method; :meth:`FinetuneConfig.acting` selects those
that have an effect under a given objective and the other settings. They identify a trial.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from selmix.gain import GAIN_FORMULAS
from selmix.objectives import known_objective
from selmix.policy import POLICIES, Policy
from selmix.precision import PRECISIONS

STARTS = ("balanced_head", "best_head", "given")
POOLS = ("train+feedback", "train")
AUGMENTS = ("none", "weak")
SECONDS = ("labelled", "pseudo", "oracle")
SCHEDULES = ("constant", "linear", "cosine", "exponential", "step")
LR_SCHEDULES = ("constant", "cosine")
DEFAULT_EFFECTIVE_PAIRS = 0.6
DEFAULT_ROW_SMOOTHING = 1.0
# Default where a sweep file names `temperature`: about effective_pairs 0.6 in the first round on digits.
DEFAULT_TEMPERATURE = 0.03
# Likewise where it names `confusion_smoothing`.
DEFAULT_CONFUSION_SMOOTHING = 0.5
EXCLUSIVE = (("temperature", "effective_pairs"), ("confusion_smoothing", "row_smoothing"))
"""Pairs of settings of which one is set: they say the same thing in two ways."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of one fine-tuning run.

    Attributes:
        start: ``given`` for the base model unchanged; ``balanced_head`` to retrain its classifier first,
            class-balanced, on train + feedback; ``best_head`` to take the best head of the rung below.
        draw_from: splits that pairs are drawn from, ``train+feedback`` or ``train``.
        second: source of the partner samples of pairs: ``labelled`` (the same pool), ``pseudo`` (unlabelled samples
            under the current model's labels) or ``oracle`` (under their true labels, for ablation only).
        pseudo_threshold: confidence that a pseudo-label needs, in [0, 1).
        pseudo_every: rounds between two labellings.
        temperature: temperature of the softmax policy, in units of gain; excludes ``effective_pairs``.
        effective_pairs: target of exp(H(P)) / (number of pairs with positive gain), in (0, 1], for which the
            temperature is solved. None means 0.6 if no temperature is set.
        temperature_schedule: schedule over the steps of whichever of the two is set.
        temperature_final: last value of that schedule; None for a tenth of the first.
        warmup_rounds: rounds with uniform pairs before the policy acts.
        refresh_every: SGD steps per round.
        refresh_growth: factor on ``refresh_every`` from round to round, >= 1.
        policy: distribution of the pairs: ``softmax`` of the gain, ``greedy`` (uniform over the ``top_k`` of highest
            gain), ``proportional`` to the gain, ``epsilon`` (softmax, mixed with a share ``epsilon`` of uniform
            pairs), ``loss_weight`` (uniform samples, nothing mixed, each loss weighted by the softmax over the
            strata), ``uniform``, or ``balanced`` (i = j, uniform over the strata).
        top_k: number of pairs of the greedy policy.
        epsilon: uniform share of the epsilon policy, in [0, 1].
        gain_formula: ``exact``, or ``released_code`` for the published code's deviation from it, for comparison.
        gain_with_bias: estimate the gain of a step of the head's bias too.
        gain_plateau: stop when the expected gain of a pair, sum P G, falls below this share of the largest so far;
            None for never.
        row_smoothing: counts added to each row of C before it is differentiated, shaped as the rows taken together
            (:func:`selmix.confusion.smooth_rows`); excludes ``confusion_smoothing``. None means 1 if that is not set.
        confusion_smoothing: counts added to each cell of C instead, before the multipliers are taken from it too: the
            way of earlier versions, at 0.5.
        confusion_average: weight of the past rounds' C, in [0, 1).
        mixup_layer: ``input``, ``features`` (the classifier's input) or the name of a submodule.
        coefficient_min: lower end of U[., 1], the mixing coefficient's distribution; 1 mixes nothing.
        augment: augmentation of the training samples: ``none`` or ``weak`` (a shift, and a flip of colour images).
        lr: learning rate of the head.
        backbone_lr_scale: factor on ``lr`` for the backbone; 0 freezes it.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        lr_schedule: schedule of the learning rate over the steps, ``constant`` or ``cosine`` to 0.
        batch_size: samples (or pairs) per SGD step.
        steps: SGD steps of the run.
        patience_rounds: stop after this many rounds without a better selection score; None for never.
        diagnose: correlate the gain with real steps in every round; changes nothing else.
        precision: precision of the forward and backward pass, ``float32`` or ``bfloat16`` (autocast; the weights and
            the estimate keep theirs).
        channels_last: use the channels-last memory format for images and convolutions.
        accumulate: parts that a batch is processed in, one after the other; their gradients add up to the batch's.
        multiplier_lr: eta of the worst-case multipliers.
        multiplier_decay: beta of the worst-case multipliers.
        constraint_temperature: tau of the multipliers of the published coverage objectives; bounds have none.
        constraint_max: lambda_max of these multipliers.

    Raises:
        ValueError: lists every setting that is out of its range, one per line.
    """

    start: str = "balanced_head"
    draw_from: str = "train+feedback"
    second: str = "labelled"
    pseudo_threshold: float = 0.8
    pseudo_every: int = 1
    temperature: float | None = None
    effective_pairs: float | None = None
    temperature_schedule: str = "constant"
    temperature_final: float | None = None
    warmup_rounds: int = 0
    refresh_every: int = 20
    refresh_growth: float = 1.0
    policy: str = "softmax"
    top_k: int = 10
    epsilon: float = 0.1
    gain_formula: str = "exact"
    gain_with_bias: bool = False
    gain_plateau: float | None = None
    row_smoothing: float | None = None
    confusion_smoothing: float | None = None
    confusion_average: float = 0.7
    mixup_layer: str = "features"
    coefficient_min: float = 0.6
    augment: str = "none"
    lr: float = 0.03
    backbone_lr_scale: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    lr_schedule: str = "cosine"
    batch_size: int = 64
    steps: int = 400
    patience_rounds: int | None = None
    diagnose: bool = False
    precision: str = "float32"
    channels_last: bool = False
    accumulate: int = 1
    multiplier_lr: float = 20.0
    multiplier_decay: float = 0.0
    constraint_temperature: float = 0.01
    constraint_max: float = 100.0

    def __post_init__(self) -> None:
        if self.temperature is None and self.effective_pairs is None:
            # The dataclass is frozen: a plain assignment would raise.
            object.__setattr__(self, "effective_pairs", DEFAULT_EFFECTIVE_PAIRS)
        # Settings that were stored before row_smoothing existed name the other one, which then stands.
        if self.row_smoothing is None and self.confusion_smoothing is None:
            object.__setattr__(self, "row_smoothing", DEFAULT_ROW_SMOOTHING)
        # Raised together, so that one attempt shows everything that must be corrected.
        problems = [*self._wrong_choices(), *self._wrong_numbers(), *self._wrong_pairs()]
        if problems:
            raise ValueError("\n".join(problems))

    def _wrong_choices(self) -> list[str]:
        allowed = {
            "start": STARTS, "draw_from": POOLS, "second": SECONDS, "augment": AUGMENTS, "policy": tuple(POLICIES),
            "precision": PRECISIONS,
            "temperature_schedule": SCHEDULES, "lr_schedule": LR_SCHEDULES, "gain_formula": GAIN_FORMULAS,
        }  # fmt: skip
        problems = [
            f"{name}: must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
            for name, choices in allowed.items()
            if getattr(self, name) not in choices
        ]
        problems += [
            f"{name}: must be true or false, got {getattr(self, name)!r}"
            for name in ("gain_with_bias", "diagnose", "channels_last")
            if not isinstance(getattr(self, name), bool)
        ]
        if not isinstance(self.mixup_layer, str) or not self.mixup_layer:
            problems.append(f"mixup_layer: must be the name of a layer, got {self.mixup_layer!r}")
        return problems

    def _wrong_numbers(self) -> list[str]:
        return [
            f"{name}: must be {rule}, got {getattr(self, name)!r}"
            for name, (whole, optional, rule, holds) in _NUMBER_RULES.items()
            if not number_holds(getattr(self, name), whole, optional, holds)
        ]

    def _wrong_pairs(self) -> list[str]:
        problems = [
            f"{one}, {other}: at most one may be set, got {getattr(self, one)!r} and {getattr(self, other)!r}; "
            "leave one out"
            for one, other in EXCLUSIVE
            if getattr(self, one) is not None and getattr(self, other) is not None
        ]
        # The schedule then ends at a share of the pairs. A final value that is no number is reported elsewhere.
        final, target = self.temperature_final, self.effective_pairs
        if target is not None and isinstance(final, int | float) and final > 1:
            problems.append(f"temperature_final: with effective_pairs it must be at most 1, got {final!r}")
        # Only for numbers in range: a remainder by 0, or by a text, would raise an error of its own.
        parts = self.accumulate
        if not self._wrong_numbers() and self.batch_size % parts:
            problems.append(f"accumulate: must divide batch_size {self.batch_size}, got {parts}")
        return problems

    @property
    def mixup_coefficient(self) -> float:
        """Mean of U[coefficient_min, 1], the coefficient that the gain is estimated for; 1 if nothing is mixed."""
        return (1.0 + self.coefficient_min) / 2.0 if self.mixes else 1.0

    @property
    def pair_policy(self) -> Policy:
        """Entry of :data:`selmix.policy.POLICIES` that ``policy`` names."""
        return POLICIES[self.policy]

    @property
    def mixes(self) -> bool:
        """True if partner samples have a weight in the mixture."""
        return self.pair_policy.mixes and self.coefficient_min < 1.0

    def deviations(self) -> dict[str, str]:
        """Settings that deviate from the method, for comparison only: name -> meaning.

        Empty for the method itself, and if the deviating setting has no effect.
        """
        meanings = {}
        if self.second == "oracle" and self.mixes:
            meanings["second"] = "true labels of the unlabelled samples"
        if self.gain_formula == "released_code" and self.pair_policy.targeted:
            meanings["gain_formula"] = "the gain of the released code"
        return meanings

    def flat(self) -> dict[str, Any]:
        """Every setting by name, as they are stored in a trial's ``config``."""
        return dataclasses.asdict(self)

    def acting(self, objective: str) -> dict[str, Any]:
        """Settings that have an effect under ``objective``: the identity of a trial.

        Args:
            objective: name of the objective, or of a user's own function; without its coverage term where a bound
                takes the term's place (:func:`selmix.objectives.without_coverage`).
        """
        values = self.flat()
        # The diagnosis observes the run and draws from a generator of its own.
        idle = {"diagnose"}
        # Left out at their plain values, so that trials recorded without these keys keep their identity.
        idle |= {
            name for name, plain in (("channels_last", False), ("accumulate", 1)) if values[name] == plain
        }
        # One of the two is None, and trials recorded before there were two keep their identity.
        idle |= {name for name in ("row_smoothing", "confusion_smoothing") if values[name] is None}
        idle |= {name for policy in POLICIES.values() for name in policy.reads} - set(self.pair_policy.reads)
        if self.second != "pseudo":
            idle |= {"pseudo_threshold", "pseudo_every"}
        # Without mixing no partner sample is read, so neither its source nor the layer matters.
        if not self.mixes:
            idle |= {"mixup_layer", "second", "pseudo_threshold", "pseudo_every"}
        if not self.pair_policy.mixes:
            idle.add("coefficient_min")
        # Without the gain, neither C nor the objective steers the run.
        if not self.pair_policy.targeted:
            idle |= {"warmup_rounds", "row_smoothing", "confusion_smoothing", "confusion_average"}
            idle |= {"gain_formula", "gain_with_bias", "gain_plateau"}
            idle |= {"multiplier_lr", "multiplier_decay", "constraint_temperature", "constraint_max"}
        if self.temperature_schedule == "constant":
            idle.add("temperature_final")
        # Only objectives that are a minimum have worst-case multipliers.
        known = known_objective(objective)
        if known is None or known.worst_of is None:
            idle |= {"multiplier_lr", "multiplier_decay"}
        # These multipliers belong to the coverage bound of an objective; other bounds have no settings.
        if known is None or known.coverage is None:
            idle |= {"constraint_temperature", "constraint_max"}
        return {name: value for name, value in values.items() if name not in idle}


def number_holds(value: object, whole: bool, optional: bool, holds: Callable[[Any], bool]) -> bool:
    """True if a setting is a finite number within its range.

    Args:
        value: of the setting.
        whole: True if it must be a whole number.
        optional: True if it may be None.
        holds: True for a number within the range.
    """
    if value is None:
        return optional
    # bool is a subclass of int: `steps: true` must not pass as 1.
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return math.isfinite(value) and holds(value)


# name -> (whole number, may be None, rule in words, predicate)
_NUMBER_RULES: dict[str, tuple[bool, bool, str, Callable[[Any], bool]]] = {
    "temperature": (False, True, "a number > 0", lambda v: v > 0),
    "effective_pairs": (False, True, "a number in (0, 1]", lambda v: 0 < v <= 1),
    "temperature_final": (False, True, "a number > 0", lambda v: v > 0),
    "pseudo_threshold": (False, False, "a number in [0, 1)", lambda v: 0 <= v < 1),
    "pseudo_every": (True, False, "a whole number >= 1", lambda v: v >= 1),
    "warmup_rounds": (True, False, "a whole number >= 0", lambda v: v >= 0),
    "refresh_every": (True, False, "a whole number >= 1", lambda v: v >= 1),
    "refresh_growth": (False, False, "a number >= 1", lambda v: v >= 1),
    "top_k": (True, False, "a whole number >= 1", lambda v: v >= 1),
    "epsilon": (False, False, "a number in [0, 1]", lambda v: 0 <= v <= 1),
    "gain_plateau": (False, True, "a number in (0, 1)", lambda v: 0 < v < 1),
    "row_smoothing": (False, True, "a number > 0", lambda v: v > 0),
    "confusion_smoothing": (False, True, "a number > 0", lambda v: v > 0),
    "confusion_average": (False, False, "a number in [0, 1)", lambda v: 0 <= v < 1),
    "coefficient_min": (False, False, "a number in [0, 1]", lambda v: 0 <= v <= 1),
    "lr": (False, False, "a number > 0", lambda v: v > 0),
    "backbone_lr_scale": (False, False, "a number >= 0", lambda v: v >= 0),
    "momentum": (False, False, "a number in [0, 1)", lambda v: 0 <= v < 1),
    "weight_decay": (False, False, "a number >= 0", lambda v: v >= 0),
    "batch_size": (True, False, "a whole number >= 1", lambda v: v >= 1),
    "accumulate": (True, False, "a whole number >= 1", lambda v: v >= 1),
    "steps": (True, False, "a whole number >= 1", lambda v: v >= 1),
    "patience_rounds": (True, True, "a whole number >= 1", lambda v: v >= 1),
    "multiplier_lr": (False, False, "a number >= 0", lambda v: v >= 0),
    "multiplier_decay": (False, False, "a number in [0, 1]", lambda v: 0 <= v <= 1),
    "constraint_temperature": (False, False, "a number > 0", lambda v: v > 0),
    "constraint_max": (False, False, "a number >= 0", lambda v: v >= 0),
}

WHOLE_NUMBERS = frozenset(name for name, (whole, *_) in _NUMBER_RULES.items() if whole)
"""Parameters that take whole numbers only."""
