"""The baselines that stand beside every winner, by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from selmix.baselines.decoupled import TAUS as NORM_TAUS
from selmix.baselines.decoupled import learned_scales, smoothed_head, tau_normalised
from selmix.baselines.group_dro import group_dro_head
from selmix.baselines.last_layer import tuned_head
from selmix.baselines.post_hoc import TAUS, bias_search, logit_adjustment
from selmix.baselines.task import BaselineResult, BaselineTask, State, with_bias, with_head
from selmix.config import FinetuneConfig
from selmix.data.splits import Split, join
from selmix.groups import strata_of
from selmix.model import head_state, predict
from selmix.pretrain import pretrain
from selmix.run.run import finetune

HEAD_FOLDS = 5
FINETUNE_FOLDS = 3
HEAD_DECAYS = (1e-3, 1e-2, 1e-1)


def untouched(task: BaselineTask) -> BaselineResult:
    """The base model as it is."""
    return BaselineResult((task.base.state,), tuple(task.base_labels), 0.0)


def post_hoc_logit_adjustment(task: BaselineTask) -> BaselineResult:
    """-tau log(training prior) on the base model's logits, tau by its score on select."""
    started = time.perf_counter()
    logits = task.logits(task.base.state, task.data.select)
    counts = task.data.train_counts.cpu()
    tau = max(TAUS, key=lambda t: (task.score_logits(logits + logit_adjustment(counts, t)), -t))
    state = with_bias(task.base.state, task.view(task.base.state), logit_adjustment(counts, tau))
    return BaselineResult(
        (state,), (*task.base_labels, "select"), time.perf_counter() - started, note={"tau": tau}
    )


def post_hoc_bias_search(task: BaselineTask) -> BaselineResult:
    """Per-class biases on the base model, fitted on feedback."""
    started = time.perf_counter()
    added = _fitted_biases(task, task.logits(task.base.state, task.data.feedback), task.data.feedback)
    state = with_bias(task.base.state, task.view(task.base.state), added)
    return BaselineResult((state,), (*task.base_labels, "feedback"), time.perf_counter() - started)


def balanced_head(task: BaselineTask) -> BaselineResult:
    """The classifier again, class-balanced, on train."""
    started = time.perf_counter()
    state, decay = _retrained_head(task, task.data.train)
    labels = (*task.base_labels, "select")
    return BaselineResult((state,), labels, time.perf_counter() - started, note={"weight_decay": decay})


def last_layer_on_train_plus_feedback(task: BaselineTask) -> BaselineResult:
    """The classifier again, class-balanced, on train + feedback: the start ``balanced_head`` of the method."""
    started = time.perf_counter()
    state, decay = _retrained_head(task, join(task.data.train, task.data.feedback))
    labels = (*task.base_labels, "feedback", "select")
    return BaselineResult((state,), labels, time.perf_counter() - started, note={"weight_decay": decay})


def tau_normalisation(task: BaselineTask) -> BaselineResult:
    """The base model's class weights over their norm to the power tau, tau by its score on select."""
    started = time.perf_counter()
    view = task.view(task.base.state)
    features = predict(view, task.data.select.inputs)[0].cpu()
    weight = head_state(view)["weight"].cpu()
    tau = max(NORM_TAUS, key=lambda t: (task.score_logits(features @ tau_normalised(weight, t).T), -t))
    state = with_head(task.base.state, view, tau_normalised(weight, tau), torch.zeros(len(weight)))
    labels = (*task.base_labels, "select")
    return BaselineResult((state,), labels, time.perf_counter() - started, note={"tau": tau})


def learnable_weight_scaling(task: BaselineTask) -> BaselineResult:
    """One scale a class on the base model's classifier, fitted class-balanced on train + feedback."""
    started = time.perf_counter()
    view, pool = task.view(task.base.state), join(task.data.train, task.data.feedback)
    features, weight = predict(view, pool.inputs)[0].cpu(), head_state(view)["weight"].cpu()
    scales = learned_scales(features @ weight.T, pool.labels.cpu()).float()
    state = with_head(task.base.state, view, scales.unsqueeze(1) * weight, torch.zeros(len(weight)))
    labels = (*task.base_labels, "feedback")
    return BaselineResult((state,), labels, time.perf_counter() - started)


def mislas_stage_two(task: BaselineTask) -> BaselineResult:
    """Scales and a correction of the classifier on label-aware smoothed targets, on train + feedback."""
    counts = task.data.train_counts.cpu()

    def fit(features: Tensor, pool: Split, weight: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        return smoothed_head(features, pool.labels, weight, counts, decay)

    return _head_of_best_decay(task, fit)


def group_balanced_last_layer(task: BaselineTask) -> BaselineResult:
    """The classifier again, every (class, group) cell weighing the same, on train + feedback."""
    started = time.perf_counter()
    pool, view = join(task.data.train, task.data.feedback), task.view(task.base.state)
    head, decay = tuned_head(view, pool, task.data, task.selection, by_group=True)
    state = with_head(task.base.state, view, head["weight"], head["bias"])
    labels = (*task.base_labels, "feedback", "select")
    return BaselineResult((state,), labels, time.perf_counter() - started, note={"weight_decay": decay})


def group_dro_last_layer(task: BaselineTask) -> BaselineResult:
    """The classifier again for the worst (class, group) cell's loss, on train + feedback."""
    classes, groups = task.data.num_classes, task.data.num_groups

    def fit(features: Tensor, pool: Split, weight: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        if pool.groups is None:
            raise ValueError("group_dro_last_layer needs data with a group attribute")
        strata = strata_of(pool.labels, pool.groups, groups)
        return group_dro_head(features, pool.labels, strata, classes, decay)

    return _head_of_best_decay(task, fit)


def last_layer_post_hoc(task: BaselineTask) -> BaselineResult:
    """Biases on top of the last, fitted in-sample and out-of-fold; the better by select stands."""
    started = time.perf_counter()
    data = task.data
    state, _ = _retrained_head(task, join(data.train, data.feedback))

    def without(held: Tensor) -> State:
        return _retrained_head(task, join(data.train, data.feedback.take(~held)))[0]

    corrected, how = _corrected(task, state, without, HEAD_FOLDS)
    labels = (*task.base_labels, "feedback", "select")
    return BaselineResult((corrected,), labels, time.perf_counter() - started, note={"fitted": how})


def uniform_mixup(task: BaselineTask) -> BaselineResult:
    """The winner's settings with uniform pairs, on the replicate seeds."""
    started = time.perf_counter()
    config = dataclasses.replace(task.winner_config, policy="uniform")
    states = tuple(_finetuned(task, config, seed) for seed in task.seeds)
    return BaselineResult(states, _finetune_labels(task), time.perf_counter() - started)


def selmix_post_hoc(task: BaselineTask) -> BaselineResult:
    """Biases on top of each of the winner's replicates, fitted in-sample and out-of-fold.

    Shown, but never the verdict's opponent: it contains the winner.
    """
    started = time.perf_counter()
    states, fits = [], []
    for seed, state in zip(task.seeds, task.winner_states, strict=True):

        def without(held: Tensor, seed: int = seed) -> State:
            rest = dataclasses.replace(task.data, feedback=task.data.feedback.take(~held))
            return _finetuned(dataclasses.replace(task, data=rest), task.winner_config, seed)

        folds = FINETUNE_FOLDS if task.winner_config.draw_from == "train+feedback" else 0
        corrected, how = _corrected(task, state, without, folds)
        states.append(corrected)
        fits.append(how)
    note: dict[str, float | str] = {"fitted": ", ".join(fits)}
    return BaselineResult(tuple(states), _finetune_labels(task), time.perf_counter() - started, note=note)


def retrained_logit_adjusted(task: BaselineTask) -> BaselineResult:
    """The whole model again with the logit-adjusted loss on train + feedback: another cost, so a reference."""
    started = time.perf_counter()
    pool = join(task.data.train, task.data.feedback)
    data, base = dataclasses.replace(task.data, train=pool), task.base
    states = tuple(
        pretrain("logit_adjusted", base.model, data, seed, base.settings, base.initial) for seed in task.seeds
    )
    return BaselineResult(states, ("train", "feedback"), time.perf_counter() - started, reference=True)


BASELINES: dict[str, Callable[[BaselineTask], BaselineResult]] = {
    "untouched": untouched,
    "post_hoc_logit_adjustment": post_hoc_logit_adjustment,
    "post_hoc_bias_search": post_hoc_bias_search,
    "balanced_head": balanced_head,
    "last_layer_on_train_plus_feedback": last_layer_on_train_plus_feedback,
    "tau_normalisation": tau_normalisation,
    "learnable_weight_scaling": learnable_weight_scaling,
    "mislas_stage_two": mislas_stage_two,
    "group_balanced_last_layer": group_balanced_last_layer,
    "group_dro_last_layer": group_dro_last_layer,
    "last_layer_post_hoc": last_layer_post_hoc,
    "uniform_mixup": uniform_mixup,
    "selmix_post_hoc": selmix_post_hoc,
    "retrained_logit_adjusted": retrained_logit_adjusted,
}
# one model for each replicate seed
BY_SEED = ("uniform_mixup", "selmix_post_hoc", "retrained_logit_adjusted")
NEVER_OPPONENT = ("selmix_post_hoc",)
OF_GROUPS = ("group_balanced_last_layer", "group_dro_last_layer")


def baselines_for(num_groups: int) -> list[str]:
    """Names of the baselines that the data allow, in order."""
    return [name for name in BASELINES if num_groups or name not in OF_GROUPS]


def _head_of_best_decay(
    task: BaselineTask, fit: Callable[[Tensor, Split, Tensor, float], tuple[Tensor, Tensor]]
) -> BaselineResult:
    """The head that ``fit`` gives on train + feedback with the weight decay that scores highest on select.

    Args:
        fit: (features (n, d), samples, weight (K, d) of the base model, weight decay) -> W and b; on the CPU.
    """
    started = time.perf_counter()
    view = task.view(task.base.state)
    pool = join(task.data.train, task.data.feedback).to(torch.device("cpu"))
    features = predict(view, join(task.data.train, task.data.feedback).inputs)[0].cpu()
    select = predict(view, task.data.select.inputs)[0].cpu()
    weight = head_state(view)["weight"].cpu()
    best: tuple[float, float, Tensor, Tensor] | None = None
    for decay in sorted(HEAD_DECAYS, reverse=True):
        fitted, bias = (part.float() for part in fit(features, pool, weight, decay))
        value = task.score_logits(select @ fitted.T + bias)
        if best is None or value > best[0]:
            best = (value, decay, fitted, bias)
    if best is None:
        raise AssertionError("HEAD_DECAYS is not empty")
    state = with_head(task.base.state, view, best[2], best[3])
    labels = (*task.base_labels, "feedback", "select")
    return BaselineResult((state,), labels, time.perf_counter() - started, note={"weight_decay": best[1]})


def _retrained_head(task: BaselineTask, split: Split) -> tuple[dict[str, Tensor], float]:
    view = task.view(task.base.state)
    head, decay = tuned_head(view, split, task.data, task.selection)
    return with_head(task.base.state, view, head["weight"], head["bias"]), decay


def _finetuned(task: BaselineTask, config: FinetuneConfig, seed: int) -> State:
    run = finetune(task.data, task.base, task.objective, config, seed, task.selection)
    if run.best is None or run.failed:
        raise FloatingPointError(f"seed {seed}: {run.stop_reason}")
    return run.best.state


def _finetune_labels(task: BaselineTask) -> tuple[str, ...]:
    return (*task.base_labels, "feedback", "select")


def _fitted_biases(task: BaselineTask, logits: Tensor, split: Split) -> Tensor:
    return bias_search(logits, split.labels, task.selection.metric, task.context, split.groups)


def _corrected(
    task: BaselineTask, state: State, without: Callable[[Tensor], State], folds: int
) -> tuple[State, str]:
    """A model that saw feedback, with biases fitted on it in-sample and out-of-fold; the better by select."""
    feedback, select_logits = task.data.feedback, task.logits(state, task.data.select)
    fits = {"in-sample": _fitted_biases(task, task.logits(state, feedback), feedback)}
    if folds:
        logits = torch.zeros(len(feedback), task.data.num_classes)
        for held in _folds(feedback.labels, folds):
            logits[held.cpu()] = task.logits(without(held), feedback.take(held))
        fits["out-of-fold"] = _fitted_biases(task, logits, feedback)
    how = max(fits, key=lambda name: task.score_logits(select_logits + fits[name]))
    return with_bias(state, task.view(state), fits[how]), how


def _folds(labels: Tensor, folds: int) -> Iterator[Tensor]:
    """Masks of stratified folds: the samples of each class dealt out in turn."""
    position = torch.zeros_like(labels)
    for k in torch.unique(labels):
        members = labels == k
        position[members] = torch.arange(int(members.sum()), device=labels.device)
    for fold in range(folds):
        yield position % folds == fold
