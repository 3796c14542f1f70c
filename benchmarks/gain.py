"""Time and memory of the closed-form gain at K = 100 and 1,000, against an evaluation pair by pair.

    python benchmarks/gain.py [--json] [--repeat 5]

The alternative in the same run is the most direct vectorised evaluation: for each row i the softmax of all its mixed
prototypes, (S, K) at a time, which needs no more memory than the closed form but S times its exponentials.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time

import torch
from torch import Tensor

from selmix.gain import gain_matrix


def inputs(classes: int, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prototypes, weight = (
        torch.randn(classes, dim, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    gradient = torch.randn(classes, classes, generator=generator, dtype=torch.float64) / classes**2
    return prototypes, weight / dim**0.5, bias, gradient


def row_by_row(z: Tensor, w: Tensor, b: Tensor, d: Tensor, lam: float) -> Tensor:
    a = (z @ z.T) @ d
    gain = torch.empty(len(z), len(z), dtype=torch.float64)
    for i in range(len(z)):
        along = lam * a[i] + (1 - lam) * a
        p = torch.softmax((lam * z[i] + (1 - lam) * z) @ w.T + b, dim=1)
        gain[i] = along[:, i] - (p * along).sum(dim=1)
    return gain


def seconds(function: object, arguments: tuple[object, ...], repeat: int) -> float:
    """Median over ``repeat`` calls after one to warm up."""
    assert callable(function)
    function(*arguments)
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def megabytes_beyond_inputs(classes: int, dim: int, queue: multiprocessing.Queue[float]) -> None:
    """Growth of the process's peak memory over one call, in a process of its own."""
    arguments = inputs(classes, dim)
    small = inputs(64, dim)
    gain_matrix(*small, 0.8)  # libraries load their kernels at the first call
    before = peak_megabytes()
    gain_matrix(*arguments, 0.8)
    queue.put(peak_megabytes() - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=megabytes_beyond_inputs, args=(1000, 512, queue))
    process.start()
    megabytes = queue.get()
    process.join()
    rows = []
    for classes, dim in ((100, 512), (1000, 512)):
        arguments = (*inputs(classes, dim), 0.8)
        ours = seconds(gain_matrix, arguments, options.repeat)
        theirs = seconds(row_by_row, arguments, 1 if classes > 500 else options.repeat)
        error = float((gain_matrix(*arguments) - row_by_row(*arguments)).abs().max())
        rows.append({"classes": classes, "dim": dim, "seconds": ours, "row_by_row_seconds": theirs,
                     "speedup": theirs / ours, "largest_difference": error})  # fmt: skip
    figures = {
        "k100_seconds": rows[0]["seconds"],
        "k1000_seconds": rows[1]["seconds"],
        "k1000_megabytes": megabytes,
    }
    if options.json:
        print(json.dumps({"figures": figures, "rows": rows}))
        return
    for row in rows:
        print(f"K = {row['classes']:>5}, d = {row['dim']}: {1000 * row['seconds']:8.1f} ms, row by row "
              f"{1000 * row['row_by_row_seconds']:8.1f} ms ({row['speedup']:.1f} times), largest difference "
              f"{row['largest_difference']:.1e}")  # fmt: skip
    print(f"K =  1000: {megabytes:.0f} MB beyond its inputs")


if __name__ == "__main__":
    main()
