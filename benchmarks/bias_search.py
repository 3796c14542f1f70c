"""Post-hoc bias search: several starts against one, and counting by samples against counting whole matrices.

    python benchmarks/bias_search.py [--json] [--seeds 0 1 2 3 4 5 6 7] [--classes 100 1000]

First the mean test min recall on the Gaussians of benchmarks/gaussians.py of the corrected baselines, from all starts
and from no biases alone. Then the time of a line and the memory beyond the logits, at 20 samples per class, against
the most direct evaluation: the confusion matrices of all 256 points of the line at once. Seconds are CPU seconds of one
thread. Of the whole search both figures of memory are given: the peak of its process, most of which is what importing
torch takes, and what logits and search add to that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch
from torch import Tensor

from benchmarks.harness import base_of, values
from benchmarks.settings import GAUSSIANS
from selmix.baselines import BASELINES, BaselineTask, catalogue, post_hoc
from selmix.baselines.line_search import BiasedLogits
from selmix.metrics import MetricContext, compute_metric
from selmix.statistics.selection import Constraint, SelectionRule

METRIC = "min_recall"
POINTS = 256
SEARCHED = ("post_hoc_bias_search", "last_layer_post_hoc")


def from_no_biases(
    logits: Tensor,
    labels: Tensor,
    metric: str,
    context: MetricContext,
    groups: Tensor | None = None,
    bounds: Sequence[Constraint] = (),
) -> Tensor:
    """One coordinate at a time from zeros: the search without its other starts."""
    samples = BiasedLogits(logits, labels, metric, context, groups, bounds)
    best = samples.key()
    for _ in range(post_hoc.SWEEPS):
        before = best
        for k in range(logits.shape[1]):
            best = samples.search_line(k, best)
        if best == before:
            break
    return samples.bias.float()


def on_gaussians(seeds: list[int]) -> dict[str, float]:
    """Mean test min recall by baseline and search, and of the plug-in classifier."""
    found: dict[str, list[float]] = {}
    searches = {"several starts": post_hoc.bias_search, "one start": from_no_biases}
    for seed in seeds:
        source = GAUSSIANS.data(seed)
        data, test = source.load(), source.load_test()
        rule = SelectionRule(METRIC)
        base = base_of(GAUSSIANS.model, data, seed, rule)
        task = BaselineTask(data, base, METRIC, rule, (seed,), GAUSSIANS.config, ())
        for says, search in searches.items():
            with mock.patch.object(catalogue, "bias_search", search):
                for name in SEARCHED:
                    (state,) = BASELINES[name](task).states
                    found.setdefault(f"{name}, {says}", []).append(values(task, state, test)[METRIC])
        for name in ("untouched", "plug_in"):
            (state,) = BASELINES[name](task).states
            found.setdefault(name, []).append(values(task, state, test)[METRIC])
    return {name: statistics.mean(each) for name, each in found.items()}


def logits_of(classes: int) -> tuple[Tensor, Tensor, MetricContext]:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(20 * classes) % classes
    logits = torch.randn(20 * classes, classes, generator=g) * (0.5 + 1.5 * torch.rand(classes, generator=g))
    logits[torch.arange(len(labels)), labels] += 3.0
    return logits, labels, MetricContext(1000 * 0.01 ** (torch.arange(classes) / (classes - 1)))


def whole_matrices(logits: Tensor, labels: Tensor, k: int, context: MetricContext) -> float:
    """Best value on the line of class k, from the confusion matrix of every point."""
    classes = logits.shape[1]
    shifted = logits.double()
    shifted[:, k] = -torch.inf
    rival, runner_up = shifted.max(dim=1)
    flips = rival - logits[:, k]
    ordered = torch.unique(flips)
    points = (ordered[1:] + ordered[:-1]) / 2.0
    points = points[torch.linspace(0, len(points) - 1, POINTS).round().long()]
    predicted = torch.where(points.unsqueeze(1) > flips, k, runner_up)
    entries = labels * classes + predicted
    counts = torch.zeros(len(points), classes * classes, dtype=torch.float64)
    counts.scatter_add_(1, entries, torch.ones_like(entries, dtype=torch.float64))
    return float(compute_metric(METRIC, counts.view(-1, classes, classes), context).max())


def megabytes() -> float:
    """Largest resident memory of this process so far."""
    # Not ru_maxrss where it can be helped: a new process inherits that of the one which started it.
    status = Path("/proc/self/status")
    if status.is_file():
        (kilobytes,) = (
            line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")
        )
        return int(kilobytes) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Cost:
    """Cost of one way to search.

    Attributes:
        seconds: CPU seconds of a line, or of the whole search.
        imports_mb: memory of the process before it holds any data.
        before_mb: its peak once it holds the logits.
        peak_mb: its peak at the end.
    """

    seconds: float
    imports_mb: float
    before_mb: float
    peak_mb: float


def timed(way: str, classes: int, queue: multiprocessing.Queue[Cost]) -> None:
    """Put the cost of one line, or of the whole search; in a process of its own."""
    torch.set_num_threads(1)
    imports = megabytes()
    logits, labels, context = logits_of(classes)
    before, lines = megabytes(), 3
    started = time.process_time()
    if way == "search":
        post_hoc.bias_search(logits, labels, METRIC, context)
        lines = 1
    elif way == "line":
        samples = BiasedLogits(logits, labels, METRIC, context, None)
        best, lines = samples.key(), 50
        started = time.process_time()
        for k in range(lines):
            best = samples.search_line(k, best)
    else:
        for k in range(lines):
            whole_matrices(logits, labels, k, context)
    queue.put(Cost((time.process_time() - started) / lines, imports, before, megabytes()))


def in_process(way: str, classes: int) -> Cost:
    spawning = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[Cost] = spawning.Queue()
    process = spawning.Process(target=timed, args=(way, classes, queue))
    process.start()
    told = queue.get()
    process.join()
    return told


def at_scale(classes: int) -> dict[str, float]:
    line, matrices, search = (in_process(way, classes) for way in ("line", "matrices", "search"))
    return {
        "line_ms": 1e3 * line.seconds, "matrices_ms": 1e3 * matrices.seconds, "ratio": matrices.seconds / line.seconds,
        "line_mb": line.peak_mb - line.before_mb, "matrices_mb": matrices.peak_mb - matrices.before_mb,
        "search_s": search.seconds, "search_mb": search.peak_mb - search.before_mb, "total_mb": search.peak_mb,
        "imports_mb": search.imports_mb, "added_mb": search.peak_mb - search.imports_mb,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=list(range(8)), help="none: time and memory only"
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    gaussians = on_gaussians(options.seeds) if options.seeds else {}
    scale = {classes: at_scale(classes) for classes in options.classes}
    if options.json:
        sys.stdout.write(json.dumps({METRIC: gaussians, "scale": scale}) + "\n")
        return
    lines = [f"test {METRIC}, %, mean over {len(options.seeds)} seeds"] if options.seeds else []
    lines += [f"  {name:40} {100 * value:5.1f}" for name, value in gaussians.items()]
    for classes, row in scale.items():
        lines.append(
            f"K {classes}: a line {row['line_ms']:.2f} ms and {row['line_mb']:.0f} MB, by whole matrices "
            f"{row['matrices_ms']:.0f} ms ({row['ratio']:.0f} times) and {row['matrices_mb']:.0f} MB; the search "
            f"{row['search_s']:.1f} s and {row['search_mb']:.0f} MB; its process {row['total_mb']:.0f} MB in all, of "
            f"which {row['imports_mb']:.0f} MB are imports and {row['added_mb']:.0f} MB logits and search"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
