"""Heads of many classes on frozen features: a path of weight decays against each decay by itself, and on a GPU.

    python benchmarks/heads.py [--classes 1000] [--features 256] [--samples 50] [--device cpu cuda]

Features are Gaussians around random means, ``--samples`` of every class. Each line is the time of the seven decays of
the balanced last layer on one device, warm-started along the path, and of the same decays each from zero; ratios are
against the latter on the same device, and against the path on the first device. Evaluations of the loss are counted
too: they do not depend on what else the machine does. On a CPU the seconds are CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor

from selmix.baselines.head_losses import equal_shares, weighted_cross_entropy
from selmix.baselines.head_path import head_path
from selmix.baselines.last_layer import WEIGHT_DECAYS


def problem(classes: int, features: int, samples: int) -> tuple[Tensor, Tensor]:
    """Features (n, d), float32, and labels (n,) of classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    means = 0.45 * torch.randn(classes, features, generator=generator)
    labels = torch.arange(classes).repeat_interleave(samples)
    return means[labels] + torch.randn(len(labels), features, generator=generator), labels


def cost(x: Tensor, labels: Tensor, classes: int, paths: list[list[float]]) -> tuple[float, int]:
    """Seconds and evaluations of the loss of fitting these paths of decays one after the other."""
    shares, evaluations = equal_shares(labels), 0
    balanced = weighted_cross_entropy(labels, shares)

    def counted(logits: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        return balanced(logits)

    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    started = clock()
    for path in paths:
        for head in head_path(x, counted, classes, path, shares):
            # The value is read, so that a GPU has finished.
            float(head.bias.sum())
    return clock() - started, evaluations


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--samples", type=int, default=50, help="of each class")
    parser.add_argument("--device", nargs="+", default=["cpu"])
    parser.add_argument("--path-only", action="store_true", help="leave out the decays each from zero")
    arguments = parser.parse_args()
    x, labels = problem(arguments.classes, arguments.features, arguments.samples)
    first: float | None = None
    for name in arguments.device:
        device = torch.device(name)
        here = x.to(device), labels.to(device)
        # The first optimiser imports for seconds, and the first calls on a GPU build handles.
        cost(here[0][:1000], here[1][:1000], arguments.classes, [[0.1]])
        path, steps = cost(*here, arguments.classes, [list(WEIGHT_DECAYS)])
        first = first or path
        line = (
            f"{name}: path {path:.1f} s and {steps} evaluations, {path / first:.3f} of {arguments.device[0]}"
        )
        if not arguments.path_only:
            apart, more = cost(*here, arguments.classes, [[decay] for decay in WEIGHT_DECAYS])
            line += (
                f"; each from zero {apart:.1f} s and {more} evaluations, ratio {path / apart:.2f} of the time and "
                f"{steps / more:.2f} of the evaluations"
            )
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
