"""Hundreds of heads at once against one after the other: time and memory of a screen.

    python benchmarks/screen.py [--json] [--configs 256] [--steps 400] [--singles 8] [--folds 0] [--profile]
    python benchmarks/screen.py --large [--configs 64] [--steps 40]

Draws configurations around the defaults at random, screens them on Gaussian clusters of unequal spread (350 training
samples a class at most, 100 of feedback and 200 of select), and runs some of them by the single fine-tuner on the same
features. Ratios are of CPU seconds of one thread, which other work on the machine hardly changes. ``--large`` takes
100,000 training samples of 512 features and 1,000 classes; its peak RSS is that of this process.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `selmix` lies

import torch

from selmix.config import FinetuneConfig
from selmix.data.splits import Split, SweepData
from selmix.models import ModelConfig
from selmix.run.run import finetune
from selmix.run.start_model import Base
from selmix.screen import ScreenResult, screen
from selmix.statistics.selection import SelectionRule

SPREADS = (0.7, 1.5)
SEPARATION = 1.5  # root mean square distance of a mean from the centre, in units of sqrt(d / 10)


def world(
    classes: int, dim: int, train: int, imbalance: float, held_out: tuple[int, int], seed: int = 0
) -> SweepData:
    """Clusters around random means, each with a spread of its own; the training samples have a long tail.

    Args:
        classes: K.
        dim: d.
        train: training samples of the largest class.
        imbalance: of the largest over those of the smallest class.
        held_out: samples of every class in feedback and in select.
        seed: of all numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, dim, generator=generator) * (SEPARATION * (10 / dim) ** 0.5)
    spreads = torch.linspace(SPREADS[0], SPREADS[1], classes)[torch.randperm(classes, generator=generator)]
    tail = [max(1, round(train * imbalance ** (-k / (classes - 1)))) for k in range(classes)]

    def split(sizes: list[int]) -> Split:
        labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(sizes))
        inputs = torch.randn(len(labels), dim, generator=generator).mul_(spreads[labels].unsqueeze(1))
        return Split(inputs.add_(means[labels]), labels)

    feedback, select = ([each] * classes for each in held_out)
    names = tuple(f"class{k}" for k in range(classes))
    return SweepData("clusters", names, split(tail), split(feedback), split(select), {})


def base_of(data: SweepData) -> Base:
    """A base model whose head is the class means of the training features, scaled down."""
    features, labels = data.train.whole(), data.train.labels
    means = torch.stack([features[labels == k].mean(0) for k in range(data.num_classes)])
    weight = means / data.input_shape[0] ** 0.5
    bias = -0.5 * (weight * means).sum(dim=1)
    head = {"weight": weight, "bias": bias}
    return Base(ModelConfig("linear_head"), {f"head.{name}": value for name, value in head.items()}, head)


def draw_configs(count: int, steps: int, batch_size: int, seed: int = 0) -> list[FinetuneConfig]:
    """The defaults, and configurations at random around them."""
    chosen = random.Random(seed)
    found = [FinetuneConfig(steps=steps, batch_size=batch_size)]
    while len(found) < count:
        found.append(
            FinetuneConfig(
                steps=steps,
                batch_size=batch_size,
                lr=10 ** chosen.uniform(-2.5, -1),
                effective_pairs=chosen.uniform(0.1, 0.9),
                coefficient_min=chosen.choice([0.6, 1.0]),
                multiplier_lr=chosen.uniform(5, 50),
                policy=chosen.choice(["softmax", "softmax", "uniform", "balanced"]),
                refresh_every=chosen.choice([10, 20, 40]),
                lr_schedule=chosen.choice(["constant", "cosine"]),
                draw_from=chosen.choice(["train", "train+feedback"]),
            )
        )
    return found


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Screen, run some configurations singly, and collect what both took."""
    if options.large:
        data = world(options.classes, options.dim, round(4.0 * 100_000 / options.classes), 50.0, (20, 20))
    else:
        data = world(options.classes, options.dim, 350, 10.0, (100, 200))
    base, rule = base_of(data), SelectionRule(options.objective)
    configs = draw_configs(options.configs, options.steps, options.batch)
    seeds = list(range(len(configs)))
    # Once before the clock starts: what is imported on first use.
    short = [FinetuneConfig(steps=2, refresh_every=1)]
    if not options.large:
        screen(data, base, options.objective, short, [0], rule)
        finetune(data, base, options.objective, short[0], 0, rule)
    before = peak_gb()
    # Of CPU time, as the clock counts what else the machine does.
    profile = cProfile.Profile(time.process_time)
    clock, cpu = time.perf_counter(), time.process_time()
    if options.profile:
        profile.enable()
    result: ScreenResult = screen(
        data, base, options.objective, configs, seeds, rule, promote=8, folds=options.folds,
        memory=round(options.memory * 1e9),
    )  # fmt: skip
    profile.disable()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    after = peak_gb()
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    singles = configs[: options.singles]
    single_clock, single_cpu = time.perf_counter(), time.process_time()
    runs = [
        finetune(data, base, options.objective, config, seed, rule) for seed, config in enumerate(singles)
    ]
    single_clock, single_cpu = time.perf_counter() - single_clock, time.process_time() - single_cpu
    differences = [
        abs(run.best.score - row.score)
        for run, row in zip(runs, result.rows, strict=False)
        if run.best is not None and row.score is not None
    ]
    return {
        "configs": len(configs), "steps": options.steps, "classes": options.classes, "dim": options.dim,
        "train": len(data.train), "objective": options.objective, "folds": options.folds,
        "threads": torch.get_num_threads(),
        "screen_s": clock, "screen_cpu_s": cpu, "screen_ms_per_config": 1e3 * cpu / len(configs),
        "singles": len(singles),
        "single_s": single_clock / len(singles) if singles else None,
        "single_cpu_s": single_cpu / len(singles) if singles else None,
        "ratio": (single_cpu / len(singles)) / (cpu / len(configs)) if singles else None,
        "largest_difference_of_scores": max(differences, default=None),
        "peak_gb_before": before, "peak_gb": after,
    }  # fmt: skip


def peak_gb() -> float:
    """Largest RSS of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--configs", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--singles", type=int)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, help="budget of the screen in GB")
    parser.add_argument("--objective", default="min_recall")
    options = parser.parse_args()
    usual = (
        {"configs": 64, "classes": 1000, "dim": 512, "steps": 40, "singles": 1, "memory": 4.0}
        if options.large
        else {"configs": 256, "classes": 10, "dim": 256, "steps": 400, "singles": 8, "memory": 2.0}
    )
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    torch.set_num_threads(options.threads)
    found = measured(options)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:30} {value:.3f}" if isinstance(value, float) else f"{name:30} {value}")


if __name__ == "__main__":
    main()
