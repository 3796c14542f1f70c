"""Measures every row of the ladder, paired by seed and judged on test: what each rung adds, and where it pays.

    python benchmarks/ladder.py fashion_mnist --seeds 0 1 2 3 4 --keep FILE [--aims ...] [--wide] [--json]
    python benchmarks/ladder.py kr-vs-k.dat --keep FILE

Data: fashion_mnist (imbalance 100, 1,000 training images in the largest class, 100 feedback, 200 select and 1,000 test
images a class), fashion_mnist_unlabelled (the same with 2,000 images a class whose labels are hidden, and a base by
FixMatch with the logit-adjusted loss), digits, gaussians, or a file of the KEEL repository (`benchmarks/keel.py`),
split at random by class.
Seed s seeds split, pre-training and fine-tuning. Rows are those of the product, each with 400 steps of the product's
defaults where it takes steps; `screened_head` is the one of 256 configurations on frozen features with the best
cross-fitted score, and its own score that of the choice out of fold. `--references` adds the network trained anew,
`--wide` SelMix at three layers and two rates of the backbone, each also with partners from the unlabelled images under
pseudo-labels where there are any, and balanced and logit-adjusted fine-tuning at the second rate.

Of each rung the row that scores best on select is picked, leaving out those that were fitted on select, and the picks
are compared on test over the seeds. FILE keeps what is done, part by part, to go on from.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import mean_gap, with_tuned_head, word
from benchmarks.keel import to_parquet
from selmix.baselines import BASELINES, BaselineTask, baselines_for
from selmix.config import FinetuneConfig
from selmix.data import DataConfig
from selmix.data.digits import DigitsConfig
from selmix.data.fashion_mnist import FashionMnistConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.parquet import ParquetConfig
from selmix.data.splits import Split, SweepData
from selmix.metrics import MetricContext, evaluate_predictions
from selmix.models import ModelConfig
from selmix.pretrain import PretrainSettings, pretrain
from selmix.run.run import finetune
from selmix.run.start_model import Base
from selmix.screen import screen
from selmix.screen.choice import choice_out_of_fold
from selmix.statistics.proportions import student_quantile
from selmix.statistics.selection import Constraint, Rank, SelectionRule, rank

COVERAGE_FLOOR = 0.95  # over K, as the published setting
HEADS = 256
FOLDS = 5
LAYERS = ("features", "stage2", "input")
RATES = (0.1, 1.0)
UNLABELLED = 2000  # a class
FIXMATCH_EPOCHS = 400
PSEUDO_EVERY = 4  # rounds; labelling 20,000 images takes longer than a round of ten steps
RUNGS = ("scores", "head", "finetune")
PICKED = {"scores": RUNGS[:1], "head": RUNGS[:2], "finetune": RUNGS}

Part = list[dict[str, Any]]


@dataclass(frozen=True)
class Aim:
    """Objective that is wanted, and the floor on the coverage of every class, over K."""

    objective: str
    floor: float | None = None

    def rule(self, num_classes: int) -> SelectionRule:
        bound = () if self.floor is None else (Constraint("min_coverage", at_least=self.floor / num_classes),)
        return SelectionRule(self.objective, constraints=bound)


AIMS = {
    "min_recall": Aim("min_recall"),
    "h_mean": Aim("h_mean"),
    "mean_recall_min_coverage": Aim("mean_recall", COVERAGE_FLOOR),
}


@dataclass(frozen=True)
class Case:
    """Data by seed, the network on it, its layers for mixing, and how the base model is trained."""

    data: Callable[[int], DataConfig]
    model: ModelConfig
    layers: tuple[str, ...] = ("features",)
    recipe: str = "erm"
    settings: PretrainSettings = field(default_factory=PretrainSettings)


def case_of(name: str, folder: Path) -> Case:
    """The case of a name, or of a KEEL file; its table is written to ``folder``."""
    if name == "fashion_mnist":
        return Case(lambda seed: FashionMnistConfig(seed=seed), ModelConfig("small_cnn"), LAYERS)
    if name == "fashion_mnist_unlabelled":
        return Case(
            lambda seed: FashionMnistConfig(seed=seed, unlabelled=UNLABELLED), ModelConfig("small_cnn"), LAYERS,
            "fixmatch_logit_adjusted", PretrainSettings(epochs=FIXMATCH_EPOCHS),
        )  # fmt: skip
    if name == "digits":
        return Case(lambda seed: DigitsConfig(seed=seed), ModelConfig("small_cnn"), LAYERS)
    if name == "gaussians":
        return Case(lambda seed: GaussiansConfig(seed=seed), ModelConfig("linear_head"))
    table = folder / f"{Path(name).stem}.parquet"
    to_parquet(Path(name), table)
    shares: dict[str, Any] = {"feedback": 0.15, "select": 0.25, "test": 0.3, "floor": 4}
    return Case(
        lambda seed: ParquetConfig(str(table), features="f*", allow_duplicates=True, seed=seed, **shares),
        ModelConfig("benchmarks.keel:perceptron"), ("features", "0", "2"),
    )  # fmt: skip


class Comparison:
    """Rows of a case, part by part.

    Attributes:
        case: data and network.
        references: True for the rows that are trained from scratch, too.
        steps: SGD steps of whatever takes steps.
    """

    def __init__(self, case: Case, references: bool, steps: int) -> None:
        self.case, self.references, self.steps = case, references, steps
        self.base_of = lru_cache(maxsize=None)(self._base_of)

    def _base_of(self, seed: int) -> tuple[SweepData, Split, dict[str, Tensor]]:
        source = self.case.data(seed)
        data = source.load()
        state = pretrain(self.case.recipe, self.case.model, data, seed, self.case.settings)
        return data, source.load_test(), state

    def part(self, aim: Aim, seed: int, wide: bool) -> Part:
        """Every row of an aim and a seed, on select and on test; or the wide ones."""
        data, test, state = self.base_of(seed)
        rule = aim.rule(data.num_classes)
        base = with_tuned_head(self.case.model, state, data, rule)
        config = FinetuneConfig(steps=self.steps)
        task = BaselineTask(data, base, aim.objective, rule, (seed,), config, ())
        rows: Part = []

        def add(method: str, rung: str, weights: Mapping[str, Tensor], seconds: float) -> None:
            on_select = task.predictions(weights, data.select)
            rows.append({
                "method": method, "rung": rung, "seed": seed, "seconds": seconds,
                "rank": list(task.rank_predictions(on_select)),
                "select": evaluate_predictions(on_select, task.context),
                "test": evaluate_predictions(task.predictions(weights, test), task.context),
            })  # fmt: skip

        def tuned(layer: str, rate: float, name: str, second: str = config.second) -> Mapping[str, Tensor]:
            began = time.perf_counter()
            tried = replace(config, mixup_layer=layer, backbone_lr_scale=rate)
            if second != config.second:
                tried = replace(tried, second=second, pseudo_every=PSEUDO_EVERY)
            run = finetune(data, base, aim.objective, tried, seed, rule)
            if run.best is None or run.failed:
                raise FloatingPointError(run.stop_reason)
            add(name, "finetune", run.best.state, time.perf_counter() - began)
            return run.best.state

        def fitted(name: str, task: BaselineTask, suffix: str = "") -> None:
            done = BASELINES[name](task)
            add(name + suffix, BASELINES[name].rung, done.states[0], done.cost_s)

        def unless_it_diverges(name: str, work: Callable[[], object]) -> None:
            try:
                work()
            except FloatingPointError as error:
                sys.stderr.write(f"seed {seed}: {name}: {error}\n")

        if wide:
            seconds = [config.second] if data.unlabelled is None else [config.second, "pseudo"]
            for layer, rate, second in product(self.case.layers, RATES, seconds):
                if (layer, rate, second) != ("features", config.backbone_lr_scale, config.second):
                    name = f"selmix {layer} {rate:g}" + (f" {second}" if second != config.second else "")
                    unless_it_diverges(name, lambda: tuned(layer, rate, name, second))  # noqa: B023 (called at once)
            faster = replace(task, winner_config=replace(config, backbone_lr_scale=RATES[1]))
            for name in ("finetune_balanced", "finetune_logit_adjusted"):
                unless_it_diverges(name, lambda: fitted(name, faster, f" {RATES[1]:g}"))  # noqa: B023
            return rows
        task = replace(task, winner_states=(tuned("features", config.backbone_lr_scale, "selmix"),))
        for name in baselines_for(data.num_groups):
            known = BASELINES[name]
            if not known.of_screen and not known.contains_winner and (self.references or not known.reference):
                fitted(name, task)
        began = time.perf_counter()
        head, ranked = self._screened_head(data, base, aim, rule, task.context, seed)
        add("screened_head", "head", head, time.perf_counter() - began)
        # On select alone the best of hundreds is too high by the luck of the best.
        rows[-1]["rank"] = list(ranked)
        return rows

    def _screened_head(
        self, data: SweepData, base: Base, aim: Aim, rule: SelectionRule, context: MetricContext, seed: int
    ) -> tuple[dict[str, Tensor], Rank]:
        """Weights with the best of many heads, and the rank of this choice out of fold.

        The settings are drawn as a sweep file would have it.
        """
        drawn = np.random.default_rng(seed)
        configs = [FinetuneConfig(steps=self.steps)] + [
            FinetuneConfig(
                steps=self.steps, effective_pairs=float(np.exp(drawn.uniform(np.log(0.03), 0))),
                policy=str(drawn.choice(["softmax", "uniform", "balanced"])),
                coefficient_min=float(drawn.choice([0.6, 1.0])),
                lr=float(np.exp(drawn.uniform(np.log(0.003), np.log(0.3)))),
                refresh_every=int(drawn.choice([10, 20, 50])),
            )
            for _ in range(HEADS - 1)
        ]  # fmt: skip
        found = screen(
            data,
            base,
            aim.objective,
            configs,
            [seed] * HEADS,
            rule,
            promote=1,
            folds=FOLDS,
            cross_fit_best=max(1, HEADS // 8),
        )
        judged = (
            None
            if found.fold_of is None
            else choice_out_of_fold(found.held_out, found.fold_of, rule, context)
        )
        chosen = found.rows[found.promoted[0]].head
        if chosen is None or judged is None:
            raise SystemExit(
                f"seed {seed}: no head stands, or none was cross-fitted: {found.not_cross_fitted}"
            )
        model = self.case.model.build(data.input_shape, data.num_classes)
        model.load_state_dict(dict(base.state))
        view = self.case.model.view(model)
        with torch.no_grad():
            view.head.weight.copy_(chosen.weight)
            view.head.bias.copy_(chosen.bias)
        weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return weights, rank(rule, judged[0], context)


def picks(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """The row that is picked at each rung of each seed: best on select of this rung and those below.

    Rows that were fitted on select, references, and rows that differ from SelMix by their policy alone are left out.
    """
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        known = BASELINES.get(row["method"].partition(" ")[0])
        out_of_fold = row["method"].endswith("_both")
        if out_of_fold or (known is not None and (known.reference or known.by_policy_alone)):
            continue
        for rung in RUNGS:
            if row["rung"] not in PICKED[rung]:
                continue
            before = found.get((rung, row["seed"]))
            # At equal ranks the cheaper rung, and within it the cheaper row.
            if before is None or (row["rank"], -RUNGS.index(row["rung"]), -row["seconds"]) > (
                before["rank"], -RUNGS.index(before["rung"]), -before["seconds"],
            ):  # fmt: skip
                found[rung, row["seed"]] = row
    return found


def interval(values: list[float]) -> str:
    """Mean of values over seeds, in percent, and half of its 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{100 * values[0]:5.1f}       "
    half = student_quantile(len(values) - 1, 0.05) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * statistics.mean(values):5.1f} ± {100 * half:4.1f}"


def table(aim: str, rows: Part) -> list[str]:
    """Lines of an aim: every row, then what each rung added."""
    metric, floor = AIMS[aim].objective, AIMS[aim].floor
    seeds = sorted({row["seed"] for row in rows})
    what = f"mean of {len(seeds)} seeds ± 95 % (t); seconds; SelMix minus it, paired by seed [95 %]"
    lines = [f"{aim}: test {metric}, %, {what}"]
    picked = picks(rows)
    for name in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == name]
        line = f"  {of[0]['rung']:9} {name:36} {interval([row['test'][metric] for row in of])}"
        line += f"  {statistics.mean(row['seconds'] for row in of):7.1f} s"
        ours = {row["seed"]: row["test"][metric] for row in rows if row["method"] == "selmix"}
        if name != "selmix" and ours:
            gap, low, high = mean_gap([ours[row["seed"]] - row["test"][metric] for row in of])
            line += f"  {100 * gap:+5.1f} [{100 * low:+5.1f}, {100 * high:+5.1f}] {word(low, high)}"
        if floor is not None:
            least = [row["test"]["min_coverage"] for row in of]
            line += f"  min coverage {interval(least)}"
        lines.append(
            line
            + ("" if len(of) == len(seeds) else f"  {len(of)} of {len(seeds)} seeds; the others diverged")
        )
    lines.append("  picked on select at each rung:")
    before: str | None = None
    for rung in RUNGS:
        chosen = {seed: picked[rung, seed] for seed in seeds if (rung, seed) in picked}
        line = f"  {rung:9} {interval([row['test'][metric] for row in chosen.values()])}"
        if before is not None:
            gaps = [
                row["test"][metric] - picked[before, seed]["test"][metric] for seed, row in chosen.items()
            ]
            gap, low, high = mean_gap(gaps)
            line += f"  adds {100 * gap:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]: {word(low, high)}"
        lines.append(line + f"  ({', '.join(row['method'] for row in chosen.values())})")
        before = rung
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--aims", nargs="+", choices=list(AIMS), default=list(AIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--keep", type=Path, help="file of the parts that are done, to go on from")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = [Path(options.data).name, options.steps, options.references]
    parts: dict[tuple[str, int, bool], Part] = {}
    if options.keep is not None and options.keep.is_file():
        for line in options.keep.read_text().splitlines():
            kept = json.loads(line)
            if kept["case"] != case:
                raise SystemExit(
                    f"{options.keep}: must be of the same run, {case}, got {kept['case']}; name another file"
                )
            parts[kept["aim"], kept["seed"], kept["wide"]] = kept["rows"]
    asked = list(product(options.aims, options.seeds, (False, True) if options.wide else (False,)))
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(case_of(options.data, Path(folder)), options.references, options.steps)
        for aim, seed, wide in asked:
            if (aim, seed, wide) in parts:
                continue
            rows = parts[aim, seed, wide] = comparison.part(AIMS[aim], seed, wide)
            if options.keep is not None:
                with options.keep.open("a") as file:
                    file.write(
                        json.dumps({"case": case, "aim": aim, "seed": seed, "wide": wide, "rows": rows})
                        + "\n"
                    )
    if options.json:
        sys.stdout.write(json.dumps([
            {"aim": aim, "seed": seed, "wide": wide, "rows": parts[aim, seed, wide]} for aim, seed, wide in asked
        ]) + "\n")  # fmt: skip
        return
    for aim in options.aims:
        rows = [row for each in asked if each[0] == aim for row in parts[each]]
        sys.stdout.write("\n".join(table(aim, rows)) + "\n")


if __name__ == "__main__":
    main()
