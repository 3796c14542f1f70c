"""Heads of many classes on frozen features: a path of weight decays against each decay by itself, and on a GPU.

    python benchmarks/heads.py [--classes 1000] [--features 256] [--samples 50] [--device cpu cuda]

Features are Gaussians around random means, ``--samples`` of every class. Each line is the time of the seven decays of
the balanced last layer on one device, warm-started along the path, and of the same decays each from zero; ratios are
against the latter on the same device, and against the path on the first device.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor

from selmix.baselines.last_layer import WEIGHT_DECAYS, balanced_heads


def problem(classes: int, features: int, samples: int) -> tuple[Tensor, Tensor]:
    """Features (n, d), float32, and labels (n,) of classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    means = 0.45 * torch.randn(classes, features, generator=generator)
    labels = torch.arange(classes).repeat_interleave(samples)
    return means[labels] + torch.randn(len(labels), features, generator=generator), labels


def seconds(x: Tensor, labels: Tensor, classes: int, paths: list[list[float]]) -> float:
    """Seconds of fitting these paths of decays one after the other."""
    started = time.perf_counter()
    for path in paths:
        for head in balanced_heads(x, labels, classes, path):
            # The value is read, so that a GPU has finished.
            float(head.bias.sum())
    return time.perf_counter() - started


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
        if device.type == "cuda":
            seconds(*here, arguments.classes, [[0.1]])  # the first calls build handles
        path = seconds(*here, arguments.classes, [list(WEIGHT_DECAYS)])
        first = first or path
        line = f"{name}: path {path:.1f} s, {path / first:.3f} of {arguments.device[0]}"
        if not arguments.path_only:
            apart = seconds(*here, arguments.classes, [[decay] for decay in WEIGHT_DECAYS])
            line += f"; each from zero {apart:.1f} s, ratio {path / apart:.2f}"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
