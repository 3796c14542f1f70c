"""Baselines that every winner is compared with, by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from selmix.baselines.decoupled import TAUS as NORM_TAUS
from selmix.baselines.decoupled import learned_scales, smoothed_heads, tau_normalised
from selmix.baselines.fitted_on_both import bias_search_on_both, last_layer_on_both
from selmix.baselines.frozen import frozen
from selmix.baselines.group_dro import group_dro_head
from selmix.baselines.group_thresholds import group_thresholds
from selmix.baselines.head_losses import (
    equal_shares,
    geometric_mean_loss,
    over_smoothed_targets,
    weighted_cross_entropy,
)
from selmix.baselines.head_path import FittedHead, head_path
from selmix.baselines.last_layer import balanced_logistic_regression, tuned_head
from selmix.baselines.linear_post import TOLERANCES, criterion_of, linear_post
from selmix.baselines.plug_in import plug_in_classifier, stratified_folds
from selmix.baselines.post_hoc import TAUS, bias_search, logit_adjustment
from selmix.baselines.shared_fits import SHARED_FITS
from selmix.baselines.task import BaselineResult, BaselineTask, Models, with_bias, with_head
from selmix.config import FinetuneConfig
from selmix.corrections import Correction, predictions_of, with_correction
from selmix.data.splits import Split, join
from selmix.groups import strata_of
from selmix.model import head_state, predict
from selmix.pretrain import pretrain
from selmix.run.run import finetune, training_pool
from selmix.rungs import Rung
from selmix.statistics.selection import Rank
from selmix.weights import State

HEAD_FOLDS = 5
FINETUNE_FOLDS = 3  # fewer than for a head: each fold is a whole fine-tuning
HEAD_DECAYS = (1e-3, 1e-2, 1e-1)
GML_TAUS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Baseline:
    """One baseline: an entry of :data:`BASELINES` is all that a new one needs beside its function.

    Calling it fits it, and records the labels that it used and the seconds that it took.

    Attributes:
        fit: function that gives its models.
        rung: part of the model that it changes.
        uses: labelled splits that it reads, beside those that made the base model.
        correction: of the logits, on top of the model; None where there is none.
        by_seed: True if it runs once on every replicate seed.
        from_scratch: True if it does not begin with the base model, whose labels it then has not seen.
        reference: True if it has another cost or other information than the trials.
        contains_winner: True if it builds on the winner: shown, but never an opponent of it.
        by_policy_alone: True if it differs from the winner in the pair policy alone: likewise.
        of_groups: True if it needs data with a group attribute.
        of_screen: True if its settings are those of the best configuration of a screen, which must be done.
    """

    fit: Callable[[BaselineTask], Models]
    rung: Rung
    uses: tuple[str, ...] = ()
    correction: str | None = None
    by_seed: bool = False
    from_scratch: bool = False
    reference: bool = False
    contains_winner: bool = False
    by_policy_alone: bool = False
    of_groups: bool = False
    of_screen: bool = False

    @property
    def needs_winner(self) -> bool:
        """True if it takes the settings, or the weights, of the best SelMix row, and cannot be fitted without one."""
        return self.rung == "finetune"

    def __call__(self, task: BaselineTask) -> BaselineResult:
        """Fit it on a task."""
        started, saved_s = time.perf_counter(), SHARED_FITS.saved_s
        models = self.fit(task)
        # A fit that another one had made costs what it took there: costs do not depend on who runs first.
        took_s = time.perf_counter() - started + SHARED_FITS.saved_s - saved_s
        # The base model as it is costs nothing, however long looking it up takes.
        cost_s = 0.0 if self.fit is untouched else took_s
        # A model from scratch has seen none of the labels that made the base model.
        made = () if self.from_scratch else tuple(task.base_labels)
        return BaselineResult(
            models.states, (*made, *self.uses), cost_s, self.reference, models.note, models.held_out
        )


def untouched(task: BaselineTask) -> Models:
    """The base model as it is."""
    return Models((task.base.state,))


def post_hoc_logit_adjustment(task: BaselineTask) -> Models:
    """-tau log(training prior) on the base model's logits, tau by its rank on select."""
    logits = task.logits(task.base.state, task.data.select)
    counts = task.data.train_counts.cpu()
    # Of equal ranks the smallest change is kept.
    tau = max(TAUS, key=lambda t: (task.rank_logits(logits + logit_adjustment(counts, t)), -t))
    state = with_bias(task.base.state, task.view(task.base.state), logit_adjustment(counts, tau))
    return Models((state,), {"tau": tau})


def post_hoc_bias_search(task: BaselineTask) -> Models:
    """Per-class biases on the base model, fitted on feedback under the bounds of the search."""
    added = _fitted_biases(task, task.logits(task.base.state, task.data.feedback), task.data.feedback)
    return Models((with_bias(task.base.state, task.view(task.base.state), added),))


def plug_in(task: BaselineTask) -> Models:
    """Calibrated probabilities of the base model, decided by the gradient of the metric; fitted on feedback."""
    feedback, state = task.data.feedback, task.base.state
    fit = plug_in_classifier(
        task.logits(state, feedback), feedback.labels, task.selection, task.context, feedback.groups
    )
    # Where no correction is best the model stays as it is.
    kept = with_correction(state, fit.correction) if fit.step else state
    return Models((kept,), {"step": fit.step, "iterations": float(fit.iterations if fit.step else 0)})


def thresholds_by_group(task: BaselineTask) -> Models:
    """Offsets by group on the base model's probabilities, searched on feedback for the metric."""
    correction, feedback = _of_the_prior(task), task.data.feedback
    probabilities = correction.probabilities(task.logits(task.base.state, feedback))
    offsets = group_thresholds(
        probabilities, feedback.labels, _groups_of(task, feedback), task.selection, task.context
    )
    corrected = dataclasses.replace(correction, group_offset=offsets)
    return Models((with_correction(task.base.state, corrected),))


def linear_post_processing(task: BaselineTask) -> Models:
    """Offsets by group from a linear program (LinearPost) on feedback, its tolerance by the rank on select."""
    correction, feedback, select = _of_the_prior(task), task.data.feedback, task.data.select
    probabilities = correction.probabilities(task.logits(task.base.state, feedback))
    groups, logits = _groups_of(task, feedback), task.logits(task.base.state, select)
    criterion = criterion_of(task.selection.metric, task.data.num_classes)
    best: tuple[Rank, float, State] | None = None
    # From the largest on: of equal ranks the smaller change is kept.
    for tolerance in sorted(TOLERANCES, reverse=True):
        offsets = linear_post(probabilities, groups, task.data.num_groups, criterion, tolerance)
        corrected = dataclasses.replace(correction, group_offset=offsets)
        state = with_correction(task.base.state, corrected)
        predictions = predictions_of(state, select.labels.cpu(), logits, _groups_of(task, select))
        rank = task.rank_predictions(predictions)
        if best is None or rank > best[0]:
            best = (rank, tolerance, state)
    # For the type checker: the loop has run.
    if best is None:
        raise AssertionError("TOLERANCES is not empty")
    return Models((best[2],), {"tolerance": best[1]})


def balanced_head(task: BaselineTask) -> Models:
    """Classifier trained again, class-balanced, on train."""
    return _with_decay(*_retrained_head(task, task.data.train))


def last_layer_on_train_plus_feedback(task: BaselineTask) -> Models:
    """Classifier trained again, class-balanced, on train + feedback: the start ``balanced_head`` of the method."""
    return _with_decay(*_retrained_head(task, join(task.data.train, task.data.feedback)))


def tau_normalisation(task: BaselineTask) -> Models:
    """Class weights of the base model over their norm to the power tau, tau by its rank on select."""
    view = task.view(task.base.state)
    features = predict(view, task.data.select.inputs)[0].cpu()
    weight = head_state(view)["weight"].cpu()
    # Of equal ranks the smallest change is kept.
    tau = max(NORM_TAUS, key=lambda t: (task.rank_logits(features @ tau_normalised(weight, t).T), -t))
    state = with_head(task.base.state, view, tau_normalised(weight, tau), torch.zeros(len(weight)))
    return Models((state,), {"tau": tau})


def learnable_weight_scaling(task: BaselineTask) -> Models:
    """One scale per class on the base model's classifier, fitted class-balanced on train + feedback."""
    view, pool = task.view(task.base.state), join(task.data.train, task.data.feedback)
    features, weight = predict(view, pool.inputs)[0], head_state(view)["weight"]
    scales = learned_scales(features @ weight.T, pool.labels).float()
    return Models((with_head(task.base.state, view, scales.unsqueeze(1) * weight, torch.zeros(len(weight))),))


def mislas_stage_two(task: BaselineTask) -> Models:
    """Scales and a correction of the classifier on label-aware smoothed targets, on train + feedback."""

    def path(features: Tensor, pool: Split, weight: Tensor) -> Iterable[FittedHead]:
        return smoothed_heads(features, pool.labels, weight, task.data.train_counts, HEAD_DECAYS)

    return _head_of_best_decay(task, path)


def geometric_mean_head(task: BaselineTask) -> Models:
    """Classifier trained again for the geometric mean of the classes' probabilities (GML), on train + feedback.

    The log class counts that the paper adds to the logits in training only move the bias of the head, by tau = 1 times
    their negative: tau is tuned with the weight decay by the rank on select, so that 0 leaves them out.
    """
    view, pool = task.view(task.base.state), join(task.data.train, task.data.feedback)
    features, classes = predict(view, pool.inputs)[0], task.data.num_classes
    select = predict(view, task.data.select.inputs)[0].cpu()
    loss, counts = geometric_mean_loss(pool.labels, classes), pool.counts(classes).cpu()
    best: tuple[Rank, float, FittedHead, Tensor] | None = None
    # The largest decay and the smallest tau come first: of equal ranks they are kept.
    for head in head_path(features, loss, classes, HEAD_DECAYS, equal_shares(pool.labels)):
        logits = select @ head.weight.float().cpu().T
        for tau in GML_TAUS:
            bias = head.bias.float().cpu() + logit_adjustment(counts, tau)
            rank = task.rank_logits(logits + bias)
            if best is None or rank > best[0]:
                best = (rank, tau, head, bias)
    # For the type checker: the loops have run.
    if best is None:
        raise AssertionError("HEAD_DECAYS and GML_TAUS are not empty")
    _, tau, head, bias = best
    state = with_head(task.base.state, view, head.weight.float(), bias)
    return Models((state,), {"weight_decay": head.decay, "tau": tau})


def label_over_smoothing(task: BaselineTask) -> Models:
    """Classifier trained again, class-balanced, on over-smoothed labels (LOS), on train + feedback.

    The paper draws its samples as they are, and begins with the base model's classifier; here every class weighs the
    same, as in the other heads, and the loss is minimised.
    """
    classes = task.data.num_classes

    def path(features: Tensor, pool: Split, _weight: Tensor) -> Iterable[FittedHead]:
        shares = equal_shares(pool.labels)
        loss = weighted_cross_entropy(over_smoothed_targets(pool.labels, classes), shares)
        return head_path(features, loss, classes, HEAD_DECAYS, shares)

    return _head_of_best_decay(task, path)


def group_balanced_last_layer(task: BaselineTask) -> Models:
    """Classifier trained again, every (class, group) cell weighing the same, on train + feedback."""
    pool, view = join(task.data.train, task.data.feedback), task.view(task.base.state)
    head, decay = tuned_head(view, pool, task.data, task.selection, by_group=True)
    return _with_decay(with_head(task.base.state, view, head["weight"], head["bias"]), decay)


def group_dro_last_layer(task: BaselineTask) -> Models:
    """Classifier trained again for the worst (class, group) cell's loss, on train + feedback."""
    classes, groups = task.data.num_classes, task.data.num_groups

    def path(features: Tensor, pool: Split, _weight: Tensor) -> Iterator[FittedHead]:
        if pool.groups is None:
            raise ValueError(
                f"group_dro_last_layer needs data with a group attribute, {task.data.name} has none"
            )
        strata = strata_of(pool.labels, pool.groups, groups)
        # Each from the beginning: the weights of the cells are part of what is trained.
        for decay in sorted(HEAD_DECAYS, reverse=True):
            yield FittedHead(decay, *group_dro_head(features, pool.labels, strata, classes, decay))

    return _head_of_best_decay(task, path)


def last_layer_post_hoc(task: BaselineTask) -> Models:
    """Biases on top of :func:`last_layer_on_train_plus_feedback`, in-sample or out-of-fold, whichever is better.

    The heads without a fold of feedback, on whose logits there the biases are fitted, have the weight decay of the head
    itself and are not tuned again. That decay was chosen on select; nothing but which of seven it is can carry a trace
    of the fold. Where this row is cross-fitted, the judging fold has taken no part in any of it: the decay is chosen
    anew on the rest of select, for heads on the rest of feedback.
    """
    data, view = task.data, task.view(task.base.state)
    state, decay = _retrained_head(task, join(data.train, data.feedback))

    def refit(held: Tensor) -> State:
        rest = join(data.train, data.feedback.take(~held))
        weight, bias = balanced_logistic_regression(
            predict(view, rest.inputs)[0], rest.labels, data.num_classes, decay
        )
        return with_head(task.base.state, view, weight.float(), bias.float())

    corrected, fitted = _corrected(task, state, refit, HEAD_FOLDS)
    return Models((corrected,), {"fitted": fitted})


def last_layer_post_hoc_both(task: BaselineTask) -> Models:
    """:func:`last_layer_post_hoc` on train + feedback + select."""
    return last_layer_on_both(task, HEAD_DECAYS)


def selmix_head(task: BaselineTask) -> Models:
    """SelMix on frozen features with the settings of the best screened configuration, on the replicate seeds.

    The single fine-tuner makes these models: a screen only ranks.
    """
    view, flat, states = task.view(task.base.state), frozen(task), []
    for seed in task.seeds:
        head = _finetuned(flat, task.winner_config, seed)
        states.append(with_head(task.base.state, view, head["head.weight"], head["head.bias"]))
    return Models(tuple(states))


def uniform_mixup(task: BaselineTask) -> Models:
    """Fine-tuning with the winner's settings and uniform pairs, on the replicate seeds."""
    config = dataclasses.replace(task.winner_config, policy="uniform")
    return Models(tuple(_finetuned(task, config, seed) for seed in task.seeds))


def finetune_balanced(task: BaselineTask) -> Models:
    """Fine-tuning with the winner's settings on class-balanced samples, nothing mixed, on the replicate seeds.

    The strata of the winner's run weigh the same: classes, or (class, group) cells under an objective of groups.
    Start, pool, steps, batch size, optimiser and the choice of a round on select are the winner's.
    """
    config = _without_mixing(task.winner_config, "balanced")
    return Models(tuple(_finetuned(task, config, seed) for seed in task.seeds))


def finetune_logit_adjusted(task: BaselineTask) -> Models:
    """Fine-tuning with the winner's settings and the logit-adjusted loss, nothing mixed, on the replicate seeds.

    Samples are drawn uniformly from the winner's pool, and log(prior of the pool) is added to the logits in training.
    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """
    config = _without_mixing(task.winner_config, "uniform")
    pool = training_pool(task.data, config.draw_from)
    # The correction at tau 1 is minus the log-prior, up to a constant that no softmax sees.
    log_prior = -logit_adjustment(pool.counts(task.data.num_classes), 1.0)
    return Models(tuple(_finetuned(task, config, seed, log_prior) for seed in task.seeds))


def selmix_post_hoc(task: BaselineTask) -> Models:
    """Biases on top of each of the winner's replicates, in-sample or out-of-fold, whichever is better on select."""
    states, fits = [], []
    for seed, state in zip(task.seeds, task.winner_states, strict=True):
        # The default binds this turn's seed: a closure would see the last one.
        def refit(held: Tensor, seed: int = seed) -> State:
            rest = dataclasses.replace(task.data, feedback=task.data.feedback.take(~held))
            return _finetuned(dataclasses.replace(task, data=rest), task.winner_config, seed)

        # A winner that never drew from feedback has logits there as on new samples: no folds are needed.
        folds = FINETUNE_FOLDS if task.winner_config.draw_from == "train+feedback" else 0
        corrected, fitted = _corrected(task, state, refit, folds)
        states.append(corrected)
        fits.append(fitted)
    return Models(tuple(states), {"fitted": ", ".join(fits)})


def retrained_logit_adjusted(task: BaselineTask) -> Models:
    """Whole model trained again with the logit-adjusted loss on train + feedback."""
    pool = join(task.data.train, task.data.feedback)
    data, base = dataclasses.replace(task.data, train=pool), task.base
    return Models(tuple(
        pretrain("logit_adjusted", base.model, data, seed, base.settings, base.initial) for seed in task.seeds
    ))  # fmt: skip


BOTH = ("feedback", "select")
"""Labelled splits of a baseline that is fitted on feedback and tuned on select."""

BASELINES: dict[str, Baseline] = {
    "untouched": Baseline(untouched, "scores"),
    "post_hoc_logit_adjustment": Baseline(
        post_hoc_logit_adjustment, "scores", ("select",), correction="biases"
    ),
    "post_hoc_bias_search": Baseline(post_hoc_bias_search, "scores", ("feedback",), correction="biases"),
    "post_hoc_bias_search_both": Baseline(bias_search_on_both, "scores", BOTH, correction="biases"),
    "plug_in": Baseline(plug_in, "scores", ("feedback",), correction="weights and offsets"),
    "thresholds_by_group": Baseline(
        thresholds_by_group, "scores", ("feedback",), correction="thresholds by group", of_groups=True
    ),
    "linear_post_processing": Baseline(
        linear_post_processing, "scores", BOTH, correction="offsets by group", of_groups=True
    ),
    "balanced_head": Baseline(balanced_head, "head", ("select",)),
    "last_layer_on_train_plus_feedback": Baseline(last_layer_on_train_plus_feedback, "head", BOTH),
    "tau_normalisation": Baseline(tau_normalisation, "head", ("select",)),
    "learnable_weight_scaling": Baseline(learnable_weight_scaling, "head", ("feedback",)),
    "mislas_stage_two": Baseline(mislas_stage_two, "head", BOTH),
    "geometric_mean_head": Baseline(geometric_mean_head, "head", BOTH),
    "label_over_smoothing": Baseline(label_over_smoothing, "head", BOTH),
    "group_balanced_last_layer": Baseline(group_balanced_last_layer, "head", BOTH, of_groups=True),
    "group_dro_last_layer": Baseline(group_dro_last_layer, "head", BOTH, of_groups=True),
    "last_layer_post_hoc": Baseline(last_layer_post_hoc, "head", BOTH, correction="biases"),
    "last_layer_post_hoc_both": Baseline(last_layer_post_hoc_both, "head", BOTH, correction="biases"),
    "selmix_head": Baseline(selmix_head, "head", BOTH, by_seed=True, of_screen=True),
    "uniform_mixup": Baseline(uniform_mixup, "finetune", BOTH, by_seed=True, by_policy_alone=True),
    "finetune_balanced": Baseline(finetune_balanced, "finetune", BOTH, by_seed=True),
    "finetune_logit_adjusted": Baseline(finetune_logit_adjusted, "finetune", BOTH, by_seed=True),
    "selmix_post_hoc": Baseline(
        selmix_post_hoc, "finetune", BOTH, correction="biases", by_seed=True, contains_winner=True
    ),
    "retrained_logit_adjusted": Baseline(
        retrained_logit_adjusted, "retrain", ("train", "feedback"), by_seed=True, from_scratch=True,
        reference=True,
    ),
}  # fmt: skip


def baselines_for(num_groups: int, screened: bool = False) -> list[str]:
    """Names of the baselines that are fitted, in the order of BASELINES.

    Args:
        num_groups: of the data; with 0 those of groups are left out.
        screened: True if there is a screen, whose best configuration is one of them.
    """
    return [
        name for name, baseline in BASELINES.items()
        if (num_groups or not baseline.of_groups) and (screened or not baseline.of_screen)
    ]  # fmt: skip


def _groups_of(task: BaselineTask, split: Split) -> Tensor:
    if split.groups is None:
        raise ValueError(
            f"a correction by group needs data with a group attribute, {task.data.name} has none"
        )
    return split.groups.cpu()


def _of_the_prior(task: BaselineTask) -> Correction:
    """Correction of the training prior to that of feedback: the probabilities are then those of held-out samples."""
    train, feedback = (
        split.counts(task.data.num_classes).double().clamp_min(1.0).cpu()
        for split in (task.data.train, task.data.feedback)
    )
    bias = ((feedback / feedback.sum()).log() - (train / train.sum()).log()).float()
    return dataclasses.replace(Correction.none(task.data.num_classes), bias=bias)


def _head_of_best_decay(
    task: BaselineTask, path: Callable[[Tensor, Split, Tensor], Iterable[FittedHead]]
) -> Models:
    """Fit heads on train + feedback with each weight decay, and keep the one that ranks highest on select.

    Args:
        task: of the baseline.
        path: (features (n, d), samples, weight (K, d) of the base model) -> heads, the largest decay first, so that of
            equal ranks the larger decay is kept.
    """
    view = task.view(task.base.state)
    pool = join(task.data.train, task.data.feedback)
    select = predict(view, task.data.select.inputs)[0].cpu()
    best: tuple[Rank, FittedHead] | None = None
    for head in path(predict(view, pool.inputs)[0], pool, head_state(view)["weight"]):
        rank = task.rank_logits(select @ head.weight.float().cpu().T + head.bias.float().cpu())
        if best is None or rank > best[0]:
            best = (rank, head)
    # For the type checker: a path has a head for every decay.
    if best is None:
        raise AssertionError("HEAD_DECAYS is not empty")
    head = best[1]
    return _with_decay(with_head(task.base.state, view, head.weight.float(), head.bias.float()), head.decay)


def _with_decay(state: State, decay: float) -> Models:
    return Models((state,), {"weight_decay": decay})


def _retrained_head(task: BaselineTask, split: Split) -> tuple[dict[str, Tensor], float]:
    view = task.view(task.base.state)
    head, decay = tuned_head(view, split, task.data, task.selection)
    return with_head(task.base.state, view, head["weight"], head["bias"]), decay


def _without_mixing(config: FinetuneConfig, policy: str) -> FinetuneConfig:
    """Settings by which single samples are drawn; those of unlabelled partners would be refused or cost time."""
    return dataclasses.replace(
        config, policy=policy, coefficient_min=1.0, second="labelled", gain_plateau=None, diagnose=False
    )


def _finetuned(
    task: BaselineTask, config: FinetuneConfig, seed: int, log_prior: Tensor | None = None
) -> State:
    run = finetune(task.data, task.base, task.objective, config, seed, task.selection, log_prior=log_prior)
    if run.best is None or run.failed:
        loss = f"the policy {config.policy}" if log_prior is None else "the logit-adjusted loss"
        raise FloatingPointError(
            f"fine-tuning of a baseline, seed {seed}: must stay finite with the winner's settings and {loss}, got "
            f"{run.stop_reason}; search smaller learning rates"
        )
    return run.best.state


def _fitted_biases(task: BaselineTask, logits: Tensor, split: Split) -> Tensor:
    rule = task.selection
    return bias_search(logits, split.labels, rule.metric, task.context, split.groups, rule.constraints)


def _corrected(
    task: BaselineTask, state: State, refit: Callable[[Tensor], State], folds: int
) -> tuple[State, str]:
    """Add biases to a model that was trained on feedback, fitted there in-sample or out-of-fold.

    Args:
        task: of the baseline.
        state: weights of the model.
        refit: mask of held-out feedback samples -> weights of the model trained without them.
        folds: of feedback; 0 where in-sample is enough.
    Returns:
        The weights with the biases that rank higher on select, and ``in-sample`` or ``out-of-fold``.
    """
    feedback, select_logits = task.data.feedback, task.logits(state, task.data.select)
    fits = {"in-sample": _fitted_biases(task, task.logits(state, feedback), feedback)}
    # A model fits the samples that it was trained on too well: biases fitted there may not carry over.
    if folds:
        logits = torch.zeros(len(feedback), task.data.num_classes)
        for held in stratified_folds(feedback.labels, folds):
            logits[held.cpu()] = task.logits(refit(held), feedback.take(held))
        fits["out-of-fold"] = _fitted_biases(task, logits, feedback)
    fitted = max(fits, key=lambda name: task.rank_logits(select_logits + fits[name]))
    return with_bias(state, task.view(state), fits[fitted]), fitted
