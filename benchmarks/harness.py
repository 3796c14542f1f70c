"""Runs a setting over seeds: every baseline and SelMix on the same data, base model and seed."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selmix.baselines import BASELINES, BaselineTask, baselines_for, tuned_head
from selmix.config import FinetuneConfig
from selmix.data import DataConfig
from selmix.data.splits import Split, join
from selmix.metrics import evaluate_predictions
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.objectives import metric_of_objective
from selmix.pretrain import pretrain
from selmix.run.run import finetune
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule

OBJECTIVE_FREE = ("untouched",)
REFERENCES = ("retrained_logit_adjusted", "optimum")
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is measured: data by seed, model, settings, objectives, and which round counts.

    Travels to other processes: its functions are those of a module.
    """

    name: str
    data: Callable[[int], DataConfig]
    model: ModelConfig
    config: FinetuneConfig
    objectives: tuple[str, ...]
    last_round: bool = False
    extra: Callable[[int, str], dict[str, Mapping[str, Tensor]]] | None = (
        None  # (seed, objective) -> weights by row
    )


def base_of(model: ModelConfig, data: Any, seed: int, rule: SelectionRule) -> Base:
    """The base model of a seed with the head of last_layer_on_train_plus_feedback."""
    return with_tuned_head(model, pretrain("erm", model, data, seed), data, rule)


def with_tuned_head(model: ModelConfig, state: dict[str, Tensor], data: Any, rule: SelectionRule) -> Base:
    """A base model of these weights with the head of last_layer_on_train_plus_feedback for a rule."""
    module = model.build(data.input_shape, data.num_classes)
    module.load_state_dict(state)
    head, _ = tuned_head(ClassifierView(module), join(data.train, data.feedback), data, rule)
    return Base(model, state, head)


def rows_of_seed(setting: Setting, seed: int) -> list[Row]:
    """Every method of one seed, on select and on test."""
    torch.set_num_threads(1)
    source = setting.data(seed)
    data, test = source.load(), source.load_test()
    rows: list[Row] = []
    for objective in setting.objectives:
        rule = SelectionRule(metric_of_objective(objective))
        base = base_of(setting.model, data, seed, rule)
        run = finetune(data, base, objective, setting.config, seed, rule)
        if run.best is None or run.failed:
            raise SystemExit(f"seed {seed}: {run.stop_reason}")
        last = {name: tensor.detach().clone() for name, tensor in run.view.model.state_dict().items()}
        state = last if setting.last_round else run.best.state
        task = BaselineTask(data, base, objective, rule, (seed,), setting.config, (state,))
        methods = {"selmix": state} | {
            name: BASELINES[name](task).states[0] for name in baselines_for(data.num_groups)
        }
        methods |= setting.extra(seed, objective) if setting.extra is not None else {}
        for method, weights in methods.items():
            rows.append({
                "method": method, "objective": None if method in OBJECTIVE_FREE else objective, "seed": seed,
                "select": values(task, weights, data.select), "test": values(task, weights, test),
            })  # fmt: skip
    unique = {(r["method"], r["objective"]): r for r in rows}
    return list(unique.values())


def values(task: BaselineTask, state: Any, split: Split) -> dict[str, float]:
    return evaluate_predictions(task.predictions(state, split), task.context)


def compare(setting: Setting, seeds: Sequence[int], kept: Path | None = None) -> list[Row]:
    """The rows of all seeds, two at a time.

    Args:
        setting: of the comparison.
        seeds: one run of everything each.
        kept: file of JSON lines, one a seed: those that are there are not run again, the others are added as they end.
    Raises:
        SystemExit: the file is of another setting.
    """
    parts: dict[int, list[Row]] = {}
    if kept is not None and kept.is_file():
        for part in map(json.loads, kept.read_text().splitlines()):
            if part["setting"] != setting.name:
                raise SystemExit(
                    f"{kept}: must be of {setting.name}, got {part['setting']}; name another file"
                )
            parts[part["seed"]] = part["rows"]
    with ProcessPoolExecutor(max_workers=2) as pool:
        missing = {pool.submit(rows_of_seed, setting, seed): seed for seed in seeds if seed not in parts}
        failed: BaseException | None = None
        for done in as_completed(missing):
            # The others are kept all the same.
            if done.exception() is not None:
                failed = failed or done.exception()
                continue
            parts[missing[done]] = done.result()
            if kept is not None:
                with kept.open("a") as file:
                    file.write(
                        json.dumps({"setting": setting.name, "seed": missing[done], "rows": done.result()})
                        + "\n"
                    )
    if failed is not None:
        raise failed
    return [row for seed in seeds for row in parts[seed]]


def paired(rows: list[Row], objective: str, method: str, other: str) -> tuple[float, float, float]:
    """Mean difference on test and its 95 % interval by Student's t over the seeds."""
    metric = metric_of_objective(objective)
    ours, theirs = (by_seed(rows, name, objective, metric) for name in (method, other))
    return mean_gap([ours[seed] - theirs[seed] for seed in ours])


def mean_gap(gaps: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval by Student's t; that of a single one is unbounded."""
    if len(gaps) < 2:
        return gaps[0], -math.inf, math.inf
    from selmix.statistics.proportions import student_quantile

    half = student_quantile(len(gaps) - 1, 0.05) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return statistics.mean(gaps), statistics.mean(gaps) - half, statistics.mean(gaps) + half


def word(low: float, high: float) -> str:
    """What an interval of a difference says, higher being better."""
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def by_seed(rows: list[Row], method: str, objective: str, metric: str) -> dict[int, float]:
    return {
        row["seed"]: row["test"][metric]
        for row in rows
        if row["method"] == method and row["objective"] in (objective, None)
    }


def report(setting: Setting, rows: list[Row], as_json: bool, more: Mapping[str, float] | None = None) -> None:
    figures: dict[str, float] = dict(more or {})
    lines = []
    for objective in setting.objectives:
        metric = metric_of_objective(objective)
        names = list(dict.fromkeys(r["method"] for r in rows if r["objective"] in (objective, None)))
        lines.append(
            f"{objective}: test {metric}, %, mean over seeds; SelMix minus it, paired by seed [95 %]"
        )
        for name in names:
            mean = statistics.mean(by_seed(rows, name, objective, metric).values())
            figures[f"{objective}/{name}"] = mean
            line = f"  {name:36} {100 * mean:5.1f}"
            if name != "selmix":
                gap, low, high = paired(rows, objective, "selmix", name)
                figures[f"{objective}/selmix_minus_{name}"] = gap
                figures[f"{objective}/selmix_minus_{name}/low"] = low
                figures[f"{objective}/selmix_minus_{name}/high"] = high
                says = word(low, high)
                aside = (
                    " (never the opponent)" if name in BASELINES and BASELINES[name].contains_winner else ""
                )
                aside = " (reference)" if name in REFERENCES else aside
                line += f"   {100 * gap:+5.1f} [{100 * low:+5.1f}, {100 * high:+5.1f}]  {says}{aside}"
            lines.append(line)
    sys.stdout.write((json.dumps({"figures": figures, "rows": rows}) if as_json else "\n".join(lines)) + "\n")
