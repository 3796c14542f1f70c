"""All that a GPU is to be measured for, in one run, with torch alone.

    python benchmarks/gpu.py [--device cuda] [--budget 480] [--json] [--out FILE]

On a CPU the same stages run at a small size, which shows that the script works and says nothing of a GPU. Every figure
is a ratio against a named alternative in the same run, beside the seconds of both:

- loop: a step of the fine-tuning loop at WRN-28-2 (a round on every 50 steps) over the bare forward, backward and
  optimiser step of the same batches, in bfloat16 and channels-last.
- screen: heads on frozen features, a configuration of the screen over one of the single fine-tuner.
- gain: the closed-form gain of all class pairs over the product of matrices that it cannot do without.
- heads: the path of seven weight decays over each of them from zero.
- bias search: the search of K biases over one pass of sorting all margins, which any search must do.

A stage that would begin after the budget, or not end within it by the seconds of a smaller one of its kind, is left
out, and said. Results are printed, and written to the file, as they come.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch

from benchmarks import finetune as loop_benchmark
from benchmarks.gain import inputs as gain_inputs
from benchmarks.heads import cost as heads_cost
from benchmarks.heads import problem
from benchmarks.screen import base_of, draw_configs, world
from selmix.baselines.last_layer import WEIGHT_DECAYS
from selmix.baselines.post_hoc import bias_search
from selmix.gain import gain_matrix
from selmix.metrics import MetricContext
from selmix.run.run import finetune
from selmix.screen import screen
from selmix.statistics.selection import SelectionRule

Figures = dict[str, float]


def seconds(work: Callable[[], object], device: torch.device, repeat: int = 1) -> float:
    """Median seconds of ``repeat`` calls, each until the device is done."""
    times = []
    for _ in range(repeat):
        started = loop_benchmark.now(device)
        work()
        times.append(loop_benchmark.now(device) - started)
    return sorted(times)[len(times) // 2]


def loop(device: torch.device, small: bool) -> Figures:
    options = Namespace(
        device=str(device), steps=4 if small else 50, batch_size=8 if small else 64, feedback=2 if small else 30,
        layer="features", repeat=1 if small else 3, precision="float32" if small else "bfloat16",
        channels_last=not small,
    )  # fmt: skip
    rows = loop_benchmark.measured(options)
    step = sorted(row["loop_step_seconds"] for row in rows)[len(rows) // 2]
    bare = sorted(row["bare_step_seconds"] for row in rows)[len(rows) // 2]
    return {"loop_step_s": step, "bare_step_s": bare, "loop over bare": step / bare}


def screened(count: int) -> Callable[[torch.device, bool], Figures]:
    def stage(device: torch.device, small: bool) -> Figures:
        configs, steps = (count // 64, 40) if small else (count, 400)
        data = world(10, 32 if small else 256, 350, 10.0, (100, 200)).to(device)
        base, rule = base_of(data.to(torch.device("cpu"))), SelectionRule("min_recall")
        drawn = draw_configs(configs, steps, 64)
        # Imports and handles first.
        screen(data, base, "min_recall", drawn[:2], [0, 1], rule)
        together = seconds(
            lambda: screen(data, base, "min_recall", drawn, list(range(configs)), rule), device
        )
        single = seconds(lambda: finetune(data, base, "min_recall", drawn[0], 0, rule), device)
        each = together / configs
        return {
            "configs": configs,
            "screen_s": together,
            "single_s": single,
            "single over screened": single / each,
        }

    return stage


def gain(classes: int) -> Callable[[torch.device, bool], Figures]:
    def stage(device: torch.device, small: bool) -> Figures:
        size = classes // 16 if small else classes
        z, w, b, d = (tensor.to(device) for tensor in gain_inputs(size, 512))
        gain_matrix(z, w, b, d, 0.8)
        ours = seconds(lambda: gain_matrix(z, w, b, d, 0.8), device, 3)
        product = seconds(lambda: (z @ z.T) @ d, device, 3)
        return {"classes": size, "gain_s": ours, "product_s": product, "gain over product": ours / product}

    return stage


def heads(device: torch.device, small: bool) -> Figures:
    classes = 40 if small else 1000
    x, labels = (tensor.to(device) for tensor in problem(classes, 32 if small else 256, 20))
    heads_cost(x[:400], labels[:400], classes, [[0.1]])
    path, steps = heads_cost(x, labels, classes, [list(WEIGHT_DECAYS)])
    apart, more = heads_cost(x, labels, classes, [[decay] for decay in WEIGHT_DECAYS])
    return {"path_s": path, "apart_s": apart, "path over apart": path / apart, "evaluations": steps / more}


def biases(device: torch.device, small: bool) -> Figures:
    classes = 40 if small else 1000
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20 * classes) % classes
    logits = torch.randn(len(labels), classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += 3.0
    context = MetricContext(torch.full((classes,), 20))
    # Where logits are corrected: the search runs on the CPU, whatever the device of the model.
    search = seconds(lambda: bias_search(logits, labels, "min_recall", context), torch.device("cpu"))
    sort = seconds(lambda: logits.sort(dim=0), torch.device("cpu"))
    return {"search_s": search, "sort_s": sort, "search over sort": search / sort}


STAGES: dict[str, Callable[[torch.device, bool], Figures]] = {
    "loop at WRN-28-2": loop,
    "screen of 1,024 heads": screened(1024),
    "gain at K = 1,000": gain(1000),
    "heads at K = 1,000": heads,
    "gain at K = 8,142": gain(8142),
    "bias search at K = 1,000": biases,
    "screen of 16,384 heads": screened(16384),
}

LIKE = {"screen of 16,384 heads": ("screen of 1,024 heads", "screen_s", 16.0)}
"""Stage -> stage of its kind, the figure of that with its seconds, and how many times as long it should take."""


def expected_s(name: str, found: dict[str, Any]) -> float:
    """Seconds that a stage should take by the one of its kind that ran before; 0 for one that has none of its kind."""
    if name not in LIKE:
        return 0.0
    like, figure, times = LIKE[name]
    # Without that figure it is not begun: a small stage that failed speaks for no larger one.
    return times * float(found.get(like, {}).get(figure, math.inf))


def run(
    device: torch.device,
    small: bool,
    budget_s: float,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Figures of every stage; of one that was left out or failed, the reason.

    Args:
        device: to measure.
        small: True for the small size.
        budget_s: seconds after which no stage begins, nor one that should take longer than what is left.
        say: shows a line.
        keep: called with the figures so far after each stage.
    """
    found: dict[str, Any] = {}
    begun = time.perf_counter()
    for name, stage in STAGES.items():
        spent = time.perf_counter() - begun
        expected = expected_s(name, found)
        if spent + expected > budget_s:
            found[name] = {
                "left out": f"after {spent:.0f} s of {budget_s:.0f}, as it should take {expected:.0f} s"
            }
        else:
            try:
                found[name] = stage(device, small)
            except Exception as error:  # one stage that fails must not cost the figures of the others
                found[name] = {"failed": repr(error)}
        shown = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in found[name].items()
        )
        say(f"{name}: {shown}")
        keep({"stages": found, "seconds": time.perf_counter() - begun})
    return {"stages": found, "seconds": time.perf_counter() - begun}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds that the stages should take")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    device = torch.device(options.device)
    small = device.type == "cpu"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, small sizes"
    about: dict[str, Any] = {"device": name, "torch": torch.__version__}

    def keep(figures: dict[str, Any]) -> None:
        if options.out is not None:
            options.out.write_text(json.dumps(about | figures, indent=1))

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    found = about | run(device, small, options.budget, say, keep)
    if options.json:
        print(json.dumps(found))
    return 1 if any("failed" in figures for figures in found["stages"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
