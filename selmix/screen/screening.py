"""A screen: hundreds of configurations of the method on frozen features in one program, ranked, the best promoted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from selmix.baselines.frozen import frozen_features
from selmix.config import FinetuneConfig
from selmix.data.splits import SweepData
from selmix.metrics import MetricContext, Predictions
from selmix.objectives import AnyObjective
from selmix.run.start_model import Base
from selmix.screen.batch import HALVED, Batch, Head, Row, Setting
from selmix.screen.cross_fit import CrossFit, FoldFit, cross_fit, fit_fold, folds_of
from selmix.screen.promotion import DISTANCE, promotion
from selmix.screen.result import Screened, ScreenResult, screened
from selmix.statistics.selection import SelectionRule
from selmix.weights import load_checkpoint_into

MEMORY = 2 * 2**30
"""Bytes that the tensors of a screen take at most, where nothing else is said."""

# Bytes of what is built on the way, whatever the number of rows: ten matrices of pairs, logits and mixed features.
_SCRATCH = 2**30


@dataclass(frozen=True)
class Halving:
    """Successive halving inside the batch.

    At each of the fractions of its steps a row waits for the others; of the rows that still run then, the better part
    by their best score on select so far stays, and the rest ends with the reason ``halving``.

    Attributes:
        fractions: shares of the steps, rising, each in (0, 1).
        keep: share of the running rows that stays, in (0, 1); at least one does.
    Raises:
        ValueError: a number out of range.
    """

    fractions: tuple[float, ...]
    keep: float = 0.5

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.fractions, self.fractions[1:], strict=False))
        if not rising or not all(0 < fraction < 1 for fraction in self.fractions):
            raise ValueError(f"fractions: must rise within (0, 1), got {list(self.fractions)}")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep: must lie in (0, 1), got {self.keep}")


@dataclass(frozen=True)
class ScreenProgress:
    """Progress of a screen, after a round of a batch.

    Attributes:
        stage: ``screen``, or ``fold 1/5`` and so on.
        steps: SGD steps of all configurations that are done or will not be taken, in this stage.
        total: SGD steps of all configurations together.
        running: configurations that have not ended.
        best: highest rank, feasibility and score, of those that have ended; None before the first.
    """

    stage: str
    steps: int
    total: int
    running: int
    best: tuple[bool, float] | None


def screen(
    data: SweepData,
    base: Base,
    objective: AnyObjective,
    configs: Sequence[FinetuneConfig],
    seeds: Sequence[int],
    selection: SelectionRule,
    *,
    promote: int = 0,
    folds: int = 0,
    cross_fit_best: int | None = None,
    distance: float = DISTANCE,
    halving: Halving | None = None,
    memory: int = MEMORY,
    callback: Callable[[ScreenProgress], None] | None = None,
) -> ScreenResult:
    """Run many configurations of the method on frozen features at once, rank them, and choose the best.

    A row of the screen is the run of :func:`selmix.run.run.finetune` of the same configuration and seed on a linear
    head over the same features, up to rounding: its draws are the same numbers of the same generator. Settings of the
    backbone, of memory formats and of the diagnosis have no part in it.

    Args:
        data: train, feedback and select, on the device to compute on.
        base: the start models. Features are computed first unless it is a ``linear_head`` over vectors already.
        objective: a name of OBJECTIVES or a callable, the same for all.
        configs: the configurations.
        seeds: seed of each.
        selection: how rounds and configurations are ranked, and the constraints.
        promote: number of configurations to promote: the best by cross-fitted score (by the score on select where there
            is none), kept apart by :func:`selmix.screen.promotion.promoted`. Those that failed or were halved away are
            left out.
        folds: F, for cross-fitted scores over feedback and select; 0 for none. They cost F more screens.
        cross_fit_best: number of configurations, the best on select, that are cross-fitted; None for all that neither
            failed nor were halved away. The others are promoted only where these do not suffice.
        distance: least distance of two promoted configurations.
        halving: successive halving on select; None for none.
        memory: bytes for all tensors; configurations run in batches that fit (:func:`bytes_of_row`).
        callback: called after every round of a batch; what it raises ends the screen.
    Raises:
        ValueError: settings that a frozen backbone cannot have (all of them are listed), numbers of seeds or folds that
            do not fit, a budget that is too small, or whatever the single run refuses.
    """
    started = time.perf_counter()
    _check(folds, promote, cross_fit_best)
    _check_configs(configs, seeds)
    features = on_features(data, base)
    rows = ranked(
        *features, objective, configs, seeds, selection, halving=halving, memory=memory, callback=callback
    )
    check_stands(rows)
    judged = best_on_select(rows, cross_fit_best)
    fitted = CrossFit(())
    if folds and judged:
        try:
            fold_of = folds_of(data, base, folds)
        # Too few samples of a class are no failure of the screen.
        except ValueError as error:
            fitted = CrossFit((), str(error))
        else:
            fits = [
                judged_on_fold(
                    *features, objective, [configs[number] for number in judged], [seeds[number] for number in judged],
                    selection, fold_of, fold, memory=memory, callback=callback,
                )
                for fold in range(folds)
            ]  # fmt: skip
            context = MetricContext(data.train_counts.cpu(), selection.definitions, data.num_groups)
            fitted = cross_fit(fits, selection, context)
    rows, held_out = with_cross_fitted(rows, judged, fitted)
    chosen = promotion(rows, objective, promote, distance)
    places = {number: place for place, number in enumerate(chosen)}
    return ScreenResult(
        tuple(replace(row, promoted=places.get(number)) for number, row in enumerate(rows)), tuple(chosen),
        fitted.reason, time.perf_counter() - started, held_out, fitted.fold_of,
    )  # fmt: skip


# -- the stages of a screen, which may be run elsewhere, part by part ---------------------------------------


def on_features(data: SweepData, base: Base) -> tuple[SweepData, Base]:
    """Splits of features and the linear head on them, in the place of samples and a network."""
    if base.model.name == "linear_head" and isinstance(data.train.inputs, Tensor):
        flat = {
            name: replace(getattr(data, name), inputs=getattr(data, name).inputs.flatten(1))
            for name in ("train", "feedback", "select")
        }
        return replace(data, **flat), base
    model = base.model.build(data.input_shape, data.num_classes)
    load_checkpoint_into(model, base.state)
    view = base.model.view(model.to(data.train.inputs.device))
    view.cache = base.cache
    return frozen_features(data, base, view)


def ranked(
    data: SweepData,
    base: Base,
    objective: AnyObjective,
    configs: Sequence[FinetuneConfig],
    seeds: Sequence[int],
    selection: SelectionRule,
    *,
    halving: Halving | None = None,
    memory: int = MEMORY,
    callback: Callable[[ScreenProgress], None] | None = None,
) -> list[Screened]:
    """Run configurations to their ends, without a cross-fitted score; numbered from 0.

    Args:
        data: splits of features, and so on as of :func:`screen`.
    Raises:
        ValueError: settings that a frozen backbone cannot have, a budget that is too small, or whatever the single run
            refuses; not where all of them fail.
    """
    _check_configs(configs, seeds)
    setting = Setting(data, base, objective, selection)
    rows = [
        setting.row(number, config, seed) for number, (config, seed) in enumerate(zip(configs, seeds, strict=True))
    ]  # fmt: skip
    heads = _run(setting, rows, halving, memory, "screen", callback)
    return [
        screened(row, seed, head, setting.judge) for row, seed, head in zip(rows, seeds, heads, strict=True)
    ]


def check_stands(rows: Sequence[Screened]) -> None:
    """Check that some configuration has a round that was judged.

    Raises:
        ValueError: none has.
    """
    if not any(row.stands or row.score is not None for row in rows):
        raise ValueError(
            f"every configuration failed before a round could be judged, the first one by {rows[0].stop_reason}"
        )


def best_on_select(rows: Sequence[Screened], count: int | None) -> list[int]:
    """Places of the best rows on select of those that neither failed nor were halved away, in order; None: of all."""
    standing = [place for place, row in enumerate(rows) if row.stands]
    if count is None or count >= len(standing):
        return standing
    held = {place: rank for place in standing if (rank := rows[place].rank) is not None}
    # Stable: of equal ranks the earlier configuration stays.
    return sorted(sorted(held, key=held.__getitem__, reverse=True)[:count])


def judged_on_fold(
    data: SweepData,
    base: Base,
    objective: AnyObjective,
    configs: Sequence[FinetuneConfig],
    seeds: Sequence[int],
    selection: SelectionRule,
    fold_of: tuple[Tensor, ...],
    fold: int,
    *,
    memory: int = MEMORY,
    callback: Callable[[ScreenProgress], None] | None = None,
) -> FoldFit:
    """Judge configurations on a fold of feedback and select by runs that did not see it.

    Args:
        data: splits of features, and so on as of :func:`screen`.
        fold_of: fold of each sample of feedback and of select (:func:`selmix.screen.cross_fit.folds_of`).
        fold: that judges.
    """
    started = time.perf_counter()

    def runs(rest: SweepData, without: Base, stage: str) -> list[Head | None]:
        setting = Setting(rest, without, objective, selection)
        rows = [setting.row(number, *each) for number, each in enumerate(zip(configs, seeds, strict=True))]
        return _run(setting, rows, None, memory, stage, callback)

    found = fit_fold(data, base, configs, selection, fold_of, fold, runs)
    return replace(found, seconds=time.perf_counter() - started)


def with_cross_fitted(
    rows: Sequence[Screened], judged: Sequence[int], fitted: CrossFit
) -> tuple[list[Screened], tuple[Predictions | None, ...]]:
    """Rows with the cross-fitted ranks of some of them, and the predictions of all, None of those without.

    Args:
        rows: without one.
        judged: places of the rows that were cross-fitted.
        fitted: their ranks, none at all where they could not be.
    """
    ranks = dict(zip(judged, fitted.ranks, strict=False))
    held_out = dict(zip(judged, fitted.predictions, strict=False))
    found = [row.with_cross_fitted(ranks.get(place)) for place, row in enumerate(rows)]
    return found, tuple(held_out.get(place) for place in range(len(rows)))


def refused(config: FinetuneConfig) -> list[str]:
    """List the settings of a configuration that a frozen backbone cannot have, one text each."""
    problems = []
    if config.mixes and config.mixup_layer != "features":
        problems.append(f"mixup_layer: must be features, got {config.mixup_layer!r}")
    if config.mixes and config.second != "labelled":
        problems.append(f"second: must be labelled, got {config.second!r}")
    if config.augment != "none":
        problems.append(f"augment: must be none, got {config.augment!r}")
    if config.precision != "float32":
        problems.append(f"precision: must be float32, got {config.precision!r}")
    return problems


def _check(folds: int, promote: int, cross_fit_best: int | None) -> None:
    if folds < 0 or folds == 1:
        raise ValueError(f"folds: must be 0 or at least 2, got {folds}")
    if promote < 0:
        raise ValueError(f"promote: must be >= 0, got {promote}")
    if cross_fit_best is not None and cross_fit_best < 1:
        raise ValueError(f"cross_fit_best: must be >= 1, or None for all, got {cross_fit_best}")


def _check_configs(configs: Sequence[FinetuneConfig], seeds: Sequence[int]) -> None:
    if not configs or len(configs) != len(seeds):
        raise ValueError(
            f"a screen needs at least one configuration and a seed for each, got {len(configs)} and {len(seeds)}"
        )
    problems = [
        f"configuration {number:04d}: {problem}"
        for number, config in enumerate(configs)
        for problem in refused(config)
    ]
    if problems:
        shown = problems[:10] + [f"and {len(problems) - 10} more"] * (len(problems) > 10)
        raise ValueError(
            "a screen trains heads on frozen features, where some settings have no meaning; leave them to full runs:\n"
            + "\n".join(shown)
        )


# -- running ----------------------------------------------------------------------------------------------


def bytes_of_row(setting: Setting, config: FinetuneConfig, heads: int = 1) -> int:
    """Bytes that a configuration takes while its batch runs, and its head at the end.

    With W of K d + K numbers in float32: W and its best, a copy of each while a round runs, the two of momentum where
    there is some, and the head that is kept; the averaged confusion of S K numbers in float64, twice, and the counts of
    two rounds on select; the class of every held-out sample; and of every sample of a round two indices, coefficient,
    label and logarithm, twice.

    Args:
        setting: of the screen.
        config: the configuration.
        heads: heads that are kept at the end, of 4 (K d + K) bytes each.
    """
    classes, dim = setting.num_classes, setting.dim
    head = 4 * classes * (dim + 1)
    longest = config.refresh_every * config.refresh_growth ** _rounds_of(config)
    drawn = 2 * 32 * config.batch_size * min(math.ceil(longest), config.steps)
    held_out = 8 * (len(setting.feedback) + len(setting.select))
    return (
        head * (4 + 4 * (config.momentum > 0) + heads) + 32 * setting.num_strata * classes + held_out + drawn
    )


def _rounds_of(config: FinetuneConfig) -> int:
    """Rounds of a run that ends with its steps, less one."""
    done, number = 0, 0
    while done < config.steps:
        done += max(1, round(config.refresh_every * config.refresh_growth**number))
        number += 1
    return number - 1


def _batches(setting: Setting, rows: Sequence[Row], memory: int, together: bool) -> list[list[Row]]:
    """Rows by batch, as many in each as fit the budget.

    Raises:
        ValueError: not one row fits, or not all where all must be held together.
    """
    features = setting.features.nbytes + setting.select.nbytes
    pairs = 80 * setting.num_strata * max(setting.num_strata, setting.num_classes)
    free = memory - features - max(pairs, min(_SCRATCH, memory // 4))
    batches: list[list[Row]] = [[]]
    used = 0
    for row in rows:
        needed = bytes_of_row(setting, row.config)
        if needed > free:
            raise ValueError(
                f"memory: must hold the features and one configuration, {(memory - free + needed) / 1e9:.2f} GB, got "
                f"{memory / 1e9:.2f} GB; give the screen more"
            )
        if batches[-1] and used + needed > free:
            batches.append([])
            used = 0
        batches[-1].append(row)
        used += needed
    if together and len(batches) > 1:
        whole = memory - free + sum(bytes_of_row(setting, row.config) for row in rows)
        raise ValueError(
            f"memory: halving compares all configurations and holds them at once, {whole / 1e9:.2f} GB, got "
            f"{memory / 1e9:.2f} GB; give the screen more, screen fewer, or leave halving out"
        )
    return batches


def _run(
    setting: Setting,
    rows: Sequence[Row],
    halving: Halving | None,
    memory: int,
    stage: str,
    callback: Callable[[ScreenProgress], None] | None,
) -> list[Head | None]:
    """Run rows to their ends; returns the best head of each, in their order."""
    total = sum(row.config.steps for row in rows)

    def report() -> None:
        if callback is None:
            return
        running = [row for row in rows if row.stop_reason is None]
        left = sum(row.config.steps - row.steps_done for row in running)
        # Of those that still run most scores are not known, and need never be.
        ranks = [setting.judge.rank(row.best) for row in rows if row.best is not None and row.stop_reason]
        callback(ScreenProgress(stage, total - left, total, len(running), max(ranks, default=None)))

    heads: dict[int, Head | None] = {}
    for part in _batches(setting, rows, memory, halving is not None):
        batch = Batch(setting, part)
        for fraction in (*(halving.fractions if halving is not None else ()), 1.0):
            batch.advance(fraction, report)
            if halving is not None and fraction < 1.0:
                _halve(setting, part, halving.keep)
        for place, row in enumerate(part):
            heads[row.number] = None if row.best is None else batch.best_head(place)
    return [heads[row.number] for row in rows]


def _halve(setting: Setting, rows: Sequence[Row], keep: float) -> None:
    """End the worse part of the rows that still run."""
    running = [row for row in rows if row.stop_reason is None and row.best is not None]
    # Stable: of equal ranks the earlier configuration stays.
    order = sorted(
        running, key=lambda row: setting.judge.rank(row.best) if row.best is not None else (False, 0.0), reverse=True
    )  # fmt: skip
    for row in order[max(1, math.ceil(keep * len(order))) :]:
        row.stop_reason = HALVED
