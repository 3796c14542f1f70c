"""One trial from its start model to its chosen round, without Ray: the unit that a sweep schedules.

A run evaluates the start model on select (round 0, eligible to win), then alternates a round of the fine-tuner
with an evaluation on select, and keeps the weights of the round that the selection rule ranks highest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selmix.config import FinetuneConfig
from selmix.confusion import recalls
from selmix.data.splits import Split, SweepData, join
from selmix.finetune import Finetuner
from selmix.groups import stratum_labels
from selmix.metrics import MetricContext, Predictions, evaluate_predictions, metric_named
from selmix.model import predict
from selmix.objectives import AnyObjective, ObjectiveContext, is_of_groups, without_coverage
from selmix.parallel.world import ALONE, World
from selmix.round import NonFinite, Round
from selmix.run.round_table import RoundMatrices, write_rounds
from selmix.run.start_model import Base
from selmix.statistics.selection import Constraint, SelectionRule, score

__all__ = ["BestRound", "Constraint", "RoundReport", "Run", "SelectionRule", "finetune"]

# Bytes of the matrices that a trial keeps: with 1000 classes C, G and P of one round alone are 12 MB.
_MATRIX_BUDGET = 64 * 2**20


@dataclass(frozen=True)
class RoundReport:
    """Numbers of one round, fit for a log line.

    Attributes:
        round: its number; round 0 evaluates the start model.
        steps: SGD steps done at its end.
        score: number that ranks rounds; higher is better.
        feasible: True if the constraints of the search hold on select.
        best: True if no earlier round ranks as high.
        select: metric -> value on select.
        scalars: diagnostics of the round (loss, policy_perplexity, ...); empty in round 0.
    """

    round: int
    steps: int
    score: float
    feasible: bool
    best: bool
    select: dict[str, float]
    scalars: dict[str, float]


@dataclass(frozen=True)
class BestRound:
    """Chosen round of a run, with its weights and its predictions on select.

    Attributes:
        round: its number; 0 if the start model won.
        steps: SGD steps done at its end.
        score: number that ranks rounds; higher is better.
        feasible: True if the constraints of the search hold on select.
        violation: sum of what they are missed by; 0.0 where they hold.
        select: metric -> value on select.
        state: weights, on the CPU; empty on every rank but the first.
        predictions: on select.
    """

    round: int
    steps: int
    score: float
    feasible: bool
    violation: float
    select: dict[str, float]
    state: dict[str, Tensor]
    predictions: Predictions

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key: feasible rounds come first, by score; infeasible ones follow, the least violation first."""
        return (self.feasible, self.score if self.feasible else -self.violation)


@dataclass
class _Progress:
    """State of a run beside that of its fine-tuner.

    Attributes:
        reported: rounds evaluated, round 0 included.
        since_best: rounds evaluated after the best one.
        stop_reason: see :attr:`Run.stop_reason`.
        matrices: of the rounds that are kept for the artifact.
    """

    reported: int = 0
    since_best: int = 0
    stop_reason: str | None = None
    matrices: list[RoundMatrices] = field(default_factory=list)


class Run:
    """Step a fine-tuner, evaluate each round on select and keep the best.

    Args:
        data: train, feedback and select; on the device to train on.
        base: the start models.
        objective: a name of OBJECTIVES or a callable.
        config: the settings.
        seed: of pair draws, coefficients and the model's own randomness.
        selection: how rounds are ranked, and the constraints.
        world: the ranks that train together; all step at once, the first keeps the best weights and saves.
        log_prior: of a logit-adjusted loss, see :class:`Finetuner`; None for the method.
    Attributes:
        view: the model that is trained.
        finetuner: what trains it.
        metric_context: of the metrics on select.
        best: the best round so far; None before the first evaluation.
    Raises:
        ValueError: an objective or constraint of groups on data without a group attribute, or settings that the
            fine-tuner refuses.
    """

    def __init__(
        self,
        data: SweepData,
        base: Base,
        objective: AnyObjective,
        config: FinetuneConfig,
        seed: int,
        selection: SelectionRule,
        world: World = ALONE,
        log_prior: Tensor | None = None,
    ) -> None:
        self.data, self.config, self.selection, self.world = data, config, selection, world
        model = base.build(config.start, data.input_shape, data.num_classes).to(data.train.inputs.device)
        self.view = base.model.view(model)
        # The weights that are kept are float32, so select is evaluated in float32 whatever the training's precision is.
        self._evaluated_view = base.model.view(model)
        self.metric_context = MetricContext(data.train_counts, selection.definitions, data.num_groups)
        acting, context, constraints = inside_the_method(objective, selection, data)
        pool = training_pool(data, config.draw_from)
        generator = torch.Generator().manual_seed(seed)
        self.finetuner = Finetuner(
            self.view,
            pool,
            data.feedback,
            acting,
            config,
            context,
            generator,
            constraints,
            data.unlabelled,
            world,
            log_prior,
        )
        self.best: BestRound | None = None
        self._progress = _Progress()

    @property
    def finished(self) -> bool:
        """True if the run has ended, for whatever reason."""
        return self._progress.stop_reason is not None

    @property
    def stop_reason(self) -> str | None:
        """Reason of the end: ``steps``, ``patience``, ``no_positive_gain``, ``no_pseudo_labels``, ``gain_plateau`` or
        ``nonfinite:WHAT``; None while the run continues."""
        return self._progress.stop_reason

    @property
    def failed(self) -> bool:
        """True if a value that is not finite ended the run; an earlier best round stays valid."""
        return (self.stop_reason or "").startswith("nonfinite")

    @property
    def rounds(self) -> list[RoundMatrices]:
        """Matrices of the rounds so far; where they are large some are left out between the first and the last."""
        return list(self._progress.matrices)

    def step(self) -> RoundReport | None:
        """Evaluate the start model at the first call; fine-tune and evaluate one round at each later one.

        Returns:
            Numbers of the round; None where a value that is not finite ended the run before its evaluation.
        Raises:
            RuntimeError: the run is finished.
        """
        if self.finished:
            raise RuntimeError(f"the run is finished ({self.stop_reason}); there is no further round")
        # Divergence is an outcome of the settings and no error of the program: the best round before it is kept.
        try:
            done = None if self._progress.reported == 0 else self.finetuner.run_round()
            return self._evaluate(done)
        except NonFinite as error:
            self._progress.stop_reason = f"nonfinite:{error}"
            return None

    def _evaluate(self, done: Round | None) -> RoundReport:
        _, logits = predict(self._evaluated_view, self.world.part_of_inputs(self.data.select.inputs))
        logits = self.world.gathered(logits, len(self.data.select))
        # The argmax of NaN is a class too, so a diverged model would get a score.
        if not bool(torch.isfinite(logits).all()):
            raise NonFinite("select logits")
        predictions = Predictions.from_logits(self.data.select.labels, logits, self.data.select.groups)
        select = evaluate_predictions(predictions, self.metric_context)
        counts = predictions.counts(self.data.num_classes)
        candidate = BestRound(
            round=self.finetuner.round_number,
            steps=self.finetuner.steps_done,
            score=score(self.selection, predictions, self.metric_context),
            violation=self.selection.violation(select),
            feasible=self.selection.violation(select) == 0.0,
            select=select,
            state={},
            predictions=predictions,
        )  # fmt: skip
        is_best = self._keep_if_best(candidate)
        self._progress.reported += 1
        self._progress.matrices.append(_matrices(candidate, done, counts))
        self._thin_matrices()
        # Round 0 has trained nothing: there is no reason to stop after it.
        if done is not None:
            self._progress.stop_reason = done.stop_reason or self._patience()
        return RoundReport(
            candidate.round, candidate.steps, candidate.score, candidate.feasible, is_best, select,
            done.scalars if done is not None else {},
        )  # fmt: skip

    def _keep_if_best(self, candidate: BestRound) -> bool:
        # Of equal ranks the earlier round stays: it is the smaller change of the start model.
        if self.best is not None and candidate.rank <= self.best.rank:
            self._progress.since_best += 1
            return False
        self._progress.since_best = 0
        # All ranks hold the same weights and only the first saves: the others need no copy.
        weights = self.view.model.state_dict() if self.world.is_first else {}
        state = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        self.best = replace(candidate, state=state)
        return True

    def _patience(self) -> str | None:
        limit = self.config.patience_rounds
        return "patience" if limit is not None and self._progress.since_best >= limit else None

    def _thin_matrices(self) -> None:
        """Leave out every second round between the first and the last while the matrices exceed their budget."""
        kept = self._progress.matrices
        while len(kept) > 2 and sum(m.nbytes for m in kept) > _MATRIX_BUDGET:
            kept[:] = [kept[0], *kept[2:-1:2], kept[-1]]

    def save(self, folder: Path) -> None:
        """Write what :meth:`load` needs to resume bit-equal, and the artifact of the rounds so far."""
        folder.mkdir(parents=True, exist_ok=True)
        # Dataclasses are taken apart: loading with weights_only accepts plain containers and tensors.
        progress = vars(self._progress) | {"matrices": [vars(m) for m in self._progress.matrices]}
        best = None
        if self.best is not None:
            best = vars(self.best) | {"predictions": vars(self.best.predictions)}
        torch.save(
            {"finetuner": self.finetuner.state_dict(), "progress": progress, "best": best}, folder / "run.pt"
        )
        write_rounds(folder / "rounds.parquet", self._progress.matrices)

    def load(self, folder: Path) -> None:
        """Resume from :meth:`save` of a run of the same data, base, objective, config and seed."""
        # weights_only: a checkpoint is data; nothing in it may run code. On the CPU: the generator's state must lie
        # there, and weights are copied to the model's own device.
        stored: dict[str, Any] = torch.load(folder / "run.pt", map_location="cpu", weights_only=True)
        self.finetuner.load_state_dict(stored["finetuner"])
        progress = stored["progress"]
        matrices = [RoundMatrices(**m) for m in progress["matrices"]]
        self._progress = _Progress(**{**progress, "matrices": matrices})
        self.best = None
        if (best := stored["best"]) is not None:
            self.best = BestRound(**{**best, "predictions": Predictions(**best["predictions"])})


def finetune(
    data: SweepData,
    base: Base,
    objective: AnyObjective,
    config: FinetuneConfig,
    seed: int,
    selection: SelectionRule,
    callback: Callable[[RoundReport], None] | None = None,
    world: World = ALONE,
    log_prior: Tensor | None = None,
) -> Run:
    """Step a run to its end.

    Args:
        data: train, feedback and select; on the device to train on.
        base: the start models.
        objective: a name of OBJECTIVES or a callable.
        config: the settings.
        seed: of pair draws, coefficients and the model's own randomness.
        selection: how rounds are ranked, and the constraints.
        callback: called with the report of every round that was evaluated.
        world: the ranks that train together.
        log_prior: of a logit-adjusted loss, see :class:`Finetuner`; None for the method.
    Returns:
        The finished run; its ``best`` is the chosen round.
    Raises:
        ValueError: as of :class:`Run`.
    """
    run = Run(data, base, objective, config, seed, selection, world, log_prior)
    while not run.finished:
        report = run.step()
        if callback is not None and report is not None:
            callback(report)
    return run


def training_pool(data: SweepData, draw_from: str) -> Split:
    """Samples that pairs are drawn from: train, or train and feedback."""
    if draw_from == "train":
        return data.train
    return join(data.train, data.feedback)


def inside_the_method(
    objective: AnyObjective, selection: SelectionRule, data: SweepData
) -> tuple[AnyObjective, ObjectiveContext, tuple[Constraint, ...]]:
    """Bind an objective and the constraints of a rule to the data, as the fine-tuner takes them.

    The strata are (class, group) cells where the objective or a constraint is one of groups, classes otherwise. An
    objective ``X_min_coverage`` is X where the rule has a bound on that metric: the bound is then the rule's.

    Args:
        objective: a name of OBJECTIVES or a callable.
        selection: its constraints, of which those with ``method`` act, and the definitions.
        data: training counts and groups.
    Returns:
        The objective, its context, and the constraints that act inside the method.
    Raises:
        ValueError: an objective or constraint of groups on data without a group attribute.
    """
    context = ObjectiveContext(train_counts=data.train_counts, definitions=selection.definitions)
    acting = tuple(c for c in selection.constraints if "method" in c.where)
    metrics = [metric_named(c.key, selection.definitions) for c in acting]
    if is_of_groups(objective) or any(metric.of_cells is not None for metric in metrics):
        if not data.num_groups:
            raise ValueError(
                f"an objective or constraint of groups needs data with a group attribute, {data.name} has none"
            )
        labels = stratum_labels(data.num_classes, data.num_groups).to(data.train.labels.device)
        context = replace(context, labels=labels, num_groups=data.num_groups)
    # Both terms would bind the same metric: the bound of the name gives way to the one that was set.
    return without_coverage(objective, {c.key for c in acting}), context, acting


def _matrices(candidate: BestRound, done: Round | None, counts: Tensor) -> RoundMatrices:
    return RoundMatrices(
        round=candidate.round,
        steps=candidate.steps,
        confusion=None if done is None else done.confusion.float(),
        gain=None if done is None or done.gain is None else done.gain.float(),
        policy=None if done is None or done.policy is None else done.policy.float(),
        multipliers=None if done is None or done.multipliers is None else done.multipliers.float(),
        select_recalls=recalls(counts.double()).float().cpu(),
    )
