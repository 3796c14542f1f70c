"""Steps per second of one worker and of several, and what a step and a round cost beyond their share of the work.

    python benchmarks/ddp.py [--json] [--workers 1 2] [--steps 100] [--batch 64] [--repeat 3]

Workers are processes of this machine on CPUs, with one torch thread each. Two times are taken of every number of
workers: rounds of many steps, and rounds of one, whose difference is the time of a step and whose rest is the time of
an evaluation. The step of one worker on its share of the batch alone, without any exchange, stands beside it:
the difference is the overhead. On shared cores the figures are noisy; the median of ``--repeat`` rounds is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from typing import Any

import torch

from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.splits import SweepData
from selmix.models import ModelConfig
from selmix.run.local_ranks import RunRequest, seconds_of_rounds
from selmix.run.run import SelectionRule
from selmix.run.start_model import Base


def world() -> tuple[SweepData, Base]:
    """Long-tailed digits and a small CNN."""
    data, config = DigitsConfig(seed=0).load(), ModelConfig("small_cnn")
    torch.manual_seed(0)
    return data, Base(config, config.build(data.input_shape, data.num_classes).state_dict(), {})


def times(workers: int, batch: int, steps: int, repeat: int) -> tuple[float, float]:
    """Seconds of a step, and of a round without its steps."""
    data, base = world()

    def round_s(length: int) -> float:
        config = FinetuneConfig(
            start="given",
            batch_size=batch,
            refresh_every=length,
            steps=length * (repeat + 2),
            mixup_layer="stage1",
        )
        rule = SelectionRule("min_recall")
        seconds = seconds_of_rounds(
            workers, repeat + 1, RunRequest(data, base, "min_recall", config, 0, rule)
        )
        return statistics.median(seconds[2:])  # round 0 takes no step, and round 1 warms up

    short, long = round_s(1), round_s(1 + steps)
    step_s = (long - short) / steps
    return step_s, short - step_s


def row(workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    step_s, evaluation_s = times(workers, arguments.batch, arguments.steps, arguments.repeat)
    share = arguments.batch // workers
    alone_s = step_s if workers == 1 else times(1, share, arguments.steps, arguments.repeat)[0]
    return {
        "workers": workers, "steps_per_s": 1 / step_s, "step_ms": 1e3 * step_s, "round_ms": 1e3 * evaluation_s,
        "share_of_batch": share, "share_alone_step_ms": 1e3 * alone_s,
        "overhead_step_ms": 1e3 * (step_s - alone_s),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(workers, arguments) for workers in arguments.workers]
    figures = {
        f"workers{r['workers']}_{key}": r[key]
        for r in rows
        for key in ("steps_per_s", "overhead_step_ms", "round_ms")
    }
    if arguments.json:
        print(json.dumps({"figures": figures, "rows": rows}))
        return
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"digits, small_cnn, batch {arguments.batch}; {cores} cores, load {load:.1f}")
    for r in rows:
        print(
            f"  {r['workers']} worker(s): {r['steps_per_s']:7.1f} steps/s, {r['step_ms']:6.2f} ms a step (its share of "
            f"{r['share_of_batch']} alone {r['share_alone_step_ms']:.2f}, overhead {r['overhead_step_ms']:+.2f}), "
            f"{r['round_ms']:.1f} ms a round beside its steps"
        )


if __name__ == "__main__":
    main()
