"""The settings of the method: one frozen dataclass whose fields are the parameters of a sweep file.

The defaults are trial 0 of every sweep. Every field is read by the method; which of them act under a given
objective and given other settings is said by :meth:`FinetuneConfig.acting`, the identity of a trial.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from selmix.gain import GAIN_FORMULAS
from selmix.objectives import known_objective
from selmix.policy import POLICIES, Policy
from selmix.precision import PRECISIONS

STARTS = ("balanced_head", "given")
POOLS = ("train+feedback", "train")
AUGMENTS = ("none", "weak")
SECONDS = ("labelled", "pseudo", "oracle")
SCHEDULES = ("constant", "linear", "cosine", "exponential", "step")
LR_SCHEDULES = ("constant", "cosine")
DEFAULT_EFFECTIVE_PAIRS = 0.6
DEFAULT_TEMPERATURE = (
    0.03  # where a file names `temperature`: about effective_pairs 0.6 in a first round on digits
)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of one fine-tuning run.

    Attributes:
        start: ``given``: the base model as it is; ``balanced_head``: with its classifier first re-trained
            class-balanced on train + feedback.
        draw_from: the samples that the pairs are drawn from.
        second: where the partner samples of pairs come from: ``labelled`` (the same pool), ``pseudo`` (unlabelled
            samples under the current model's labels) or ``oracle`` (under their true labels, for ablation only).
        pseudo_threshold: confidence that a pseudo-label needs. pseudo_every: rounds between two labellings.
        temperature: of the softmax policy, in units of gain; excludes ``effective_pairs``.
        effective_pairs: target of exp(H(P)) / (number of pairs with positive gain), in (0, 1]; the temperature
            is solved for. None stands for 0.6 where no temperature is set.
        temperature_schedule, temperature_final: schedule over the rounds of whichever of the two is set, and
            its last value (None: a tenth of the first).
        warmup_rounds: rounds with uniform pairs before the policy acts.
        refresh_every: SGD steps a round. refresh_growth: factor on it from round to round, >= 1.
        policy: pairs by ``softmax`` of the gain, ``greedy`` (the ``top_k`` of highest gain alike), ``proportional`` to
            the gain, ``epsilon`` (softmax, mixed with a share ``epsilon`` of uniform pairs), ``loss_weight`` (uniform
            samples, nothing mixed, each loss weighted by the softmax over the strata), ``uniform``, or ``balanced``
            (i = j, every stratum alike).
        top_k: pairs of the greedy policy. epsilon: uniform share of the epsilon policy, in [0, 1].
        gain_formula: ``exact``, or ``released_code``, the published code's departure from it, for comparison.
        gain_with_bias: estimate the gain of a step of the head's bias too.
        gain_plateau: stop when the expected gain of a pair, sum P G, falls below this share of the largest so far
            (None: never).
        confusion_smoothing: counts added to each cell of C before it is differentiated.
        confusion_average: weight of the past rounds' C, in [0, 1).
        mixup_layer: ``input``, ``features`` (what the classifier sees) or the name of a submodule.
        coefficient_min: lower end of U[., 1], the mixing coefficient; 1 mixes nothing.
        augment: of the samples that are trained on: ``none`` or ``weak`` (a shift, and a flip of colour images).
        lr, backbone_lr_scale, momentum, weight_decay, lr_schedule, batch_size, steps: of SGD; the backbone
            learns at ``lr * backbone_lr_scale``.
        patience_rounds: stop after so many rounds without a better selection score (None: never).
        diagnose: correlate the gain with real steps in every round; changes nothing else.
        precision: of the forward and backward pass, ``float32`` or ``bfloat16`` (autocast; the weights and the
            estimate stay as they are). channels_last: memory format of images and convolutions.
        accumulate: parts that a batch is run through in, one after the other; their gradients add up to the batch's.
        multiplier_lr, multiplier_decay: eta and beta of the worst-case multipliers.
        constraint_temperature, constraint_max: tau and lambda_max of the constraint multipliers.

    Raises:
        ValueError: lists every setting that is out of its range, one a line.
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
    confusion_smoothing: float = 0.5
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
            object.__setattr__(self, "effective_pairs", DEFAULT_EFFECTIVE_PAIRS)
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
            if not _is_valid(getattr(self, name), whole, optional, holds)
        ]

    def _wrong_pairs(self) -> list[str]:
        problems = []
        if self.temperature is not None and self.effective_pairs is not None:
            problems.append(
                "temperature, effective_pairs: at most one may be set, got "
                f"{self.temperature!r} and {self.effective_pairs!r}; leave one out"
            )
        final, target = self.temperature_final, self.effective_pairs
        if target is not None and isinstance(final, int | float) and final > 1:
            problems.append(f"temperature_final: with effective_pairs it must be at most 1, got {final!r}")
        parts = self.accumulate
        if not self._wrong_numbers() and self.batch_size % parts:
            problems.append(f"accumulate: must divide batch_size {self.batch_size}, got {parts}")
        return problems

    @property
    def mixup_coefficient(self) -> float:
        """Mean of U[coefficient_min, 1], the coefficient that the gain is estimated for; 1 where nothing is mixed."""
        return (1.0 + self.coefficient_min) / 2.0 if self.mixes else 1.0

    @property
    def pair_policy(self) -> Policy:
        """The entry of :data:`selmix.policy.POLICIES`."""
        return POLICIES[self.policy]

    @property
    def mixes(self) -> bool:
        """True if a partner sample weighs anything."""
        return self.pair_policy.mixes and self.coefficient_min < 1.0

    def deviations(self) -> dict[str, str]:
        """Settings that deviate from the method, for comparison only: name -> what it stands for.

        Empty for the method itself, and where the deviating setting does not act.
        """
        found = {}
        if self.second == "oracle" and self.mixes:
            found["second"] = "true labels of the unlabelled samples"
        if self.gain_formula == "released_code" and self.pair_policy.targeted:
            found["gain_formula"] = "the gain of the released code"
        return found

    def flat(self) -> dict[str, Any]:
        """Every setting by name, as a trial's ``config`` has them."""
        return dataclasses.asdict(self)

    def acting(self, objective: str, constrained: bool = False) -> dict[str, Any]:
        """The settings that have an effect under ``objective``: the identity of a trial.

        Args:
            objective: name of the objective (a user's own function: its name).
            constrained: whether a constraint acts inside the method.
        """
        values = self.flat()
        idle = {"diagnose"}
        # They change a result by rounding alone: a trial made before there were any is the same trial.
        idle |= {
            name for name, plain in (("channels_last", False), ("accumulate", 1)) if values[name] == plain
        }
        idle |= {name for policy in POLICIES.values() for name in policy.reads} - set(self.pair_policy.reads)
        if self.second != "pseudo":
            idle |= {"pseudo_threshold", "pseudo_every"}
        if not self.mixes:
            idle |= {"mixup_layer", "second", "pseudo_threshold", "pseudo_every"}
        if not self.pair_policy.mixes:
            idle.add("coefficient_min")
        if not self.pair_policy.targeted:
            idle |= {"warmup_rounds", "confusion_smoothing", "confusion_average"}
            idle |= {"gain_formula", "gain_with_bias", "gain_plateau"}
            idle |= {"multiplier_lr", "multiplier_decay", "constraint_temperature", "constraint_max"}
        if self.temperature_schedule == "constant":
            idle.add("temperature_final")
        known = known_objective(objective)
        if known is None or known.worst_of is None:
            idle |= {"multiplier_lr", "multiplier_decay"}
        if not constrained and (known is None or known.coverage is None):
            idle |= {"constraint_temperature", "constraint_max"}
        return {name: value for name, value in values.items() if name not in idle}


def _is_valid(value: object, whole: bool, optional: bool, holds: Any) -> bool:
    if value is None:
        return optional
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return math.isfinite(value) and bool(holds(value))


# name -> (whole number, may be None, rule in words, rule)
_NUMBER_RULES: dict[str, tuple[bool, bool, str, Any]] = {
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
    "confusion_smoothing": (False, False, "a number > 0", lambda v: v > 0),
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
"""The parameters that are counted, not measured."""
