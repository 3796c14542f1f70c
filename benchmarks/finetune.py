"""Speed of the fine-tuning loop against the bare forward, backward and optimiser step of the same batches.

    python benchmarks/finetune.py [--json] [--repeat 3] [--steps 50] [--batch-size 64] [--feedback 30]
        [--device cuda --precision bfloat16 --channels-last]

WRN-28-2 on noise in the shape of CIFAR-10. The bare step is what any hand-written mixup loop must do: 2n samples below
the layer of mixing, n above it, on batches that are ready. The loop is a whole round: feedback pass, gain, policy and
its steps. Both run in turn; the figure puts a round on every 50 steps, whatever --steps is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch
import torch.nn.functional as F

from benchmarks.gain import inputs as gain_inputs
from selmix.config import FinetuneConfig
from selmix.data.splits import Split
from selmix.feedback import estimate
from selmix.finetune import Finetuner
from selmix.gain import gain_matrix
from selmix.mixup import mixed_logits
from selmix.model import ClassifierView
from selmix.models import ModelConfig
from selmix.objectives import ObjectiveContext

CLASSES, SIDE, POOL = 10, 32, 2000
ROUND_EVERY = 50


def now(device: torch.device) -> float:
    """Seconds, once all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class TimedFinetuner(Finetuner):
    """Keeps the seconds of the last round's steps."""

    steps_seconds = 0.0

    def _train(self, steps: int) -> float:
        started = now(self.pool.labels.device)
        loss = super()._train(steps)
        self.steps_seconds = now(self.pool.labels.device) - started
        return loss


def noise(count: int, seed: int, device: torch.device) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    return Split(torch.randn(count, 3, SIDE, SIDE, generator=generator), labels).to(device)


def finetuner(options: argparse.Namespace) -> TimedFinetuner:
    device = torch.device(options.device)
    config = FinetuneConfig(
        start="given", refresh_every=options.steps, steps=10**9, batch_size=options.batch_size,
        mixup_layer=options.layer, lr=1e-4, precision=options.precision, channels_last=options.channels_last,
    )  # fmt: skip
    model = ModelConfig("wrn_28_2").build((3, SIDE, SIDE), CLASSES).to(device)
    counts = torch.full((CLASSES,), POOL // CLASSES)
    return TimedFinetuner(
        ClassifierView(model), noise(POOL, 0, device), noise(CLASSES * options.feedback, 1, device), "g_mean",
        config, ObjectiveContext(train_counts=counts), torch.Generator().manual_seed(0),
    )  # fmt: skip


def bare_seconds(tuner: Finetuner, steps: int, layer: str) -> float:
    """Seconds a step of forward, backward and optimiser on one batch that is ready."""
    size, device = tuner.config.batch_size, tuner.pool.labels.device
    first, second = tuner.pool.batch(torch.arange(size)), tuner.pool.batch(torch.arange(size, 2 * size))
    labels, lam = tuner.pool.labels[:size], torch.full((size,), 0.8, device=device)
    started = now(device)
    for _ in range(steps):
        loss = F.cross_entropy(mixed_logits(tuner.view, first, second, lam, layer), labels)
        tuner.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        tuner.optimizer.step()
    return (now(device) - started) / steps


def measured(options: argparse.Namespace) -> list[dict[str, float]]:
    tuner, device = finetuner(options), torch.device(options.device)
    rows = []
    for repeat in range(options.repeat + 1):
        started = now(device)
        tuner.run_round()
        whole = now(device) - started
        step = tuner.steps_seconds / options.steps
        beside = whole - tuner.steps_seconds
        bare = bare_seconds(tuner, options.steps, options.layer)
        if repeat == 0:
            continue  # warms up
        rows.append({"bare_step_seconds": bare, "step_seconds": step, "round_beside_steps_seconds": beside,
                     "feedback_seconds": feedback_seconds(tuner),
                     "loop_step_seconds": step + beside / ROUND_EVERY})  # fmt: skip
    return rows


def feedback_seconds(tuner: Finetuner) -> float:
    """Seconds of a round's pass over the feedback split."""
    device = tuner.pool.labels.device
    started = now(device)
    estimate(tuner.view, tuner.feedback.inputs, tuner.feedback.labels, CLASSES)
    return now(device) - started


def sampler_seconds(options: argparse.Namespace, calls: int = 50) -> float:
    tuner, device = finetuner(options), torch.device(options.device)
    tuner.sampler.set_policy(
        torch.full((CLASSES, CLASSES), 1 / CLASSES**2, dtype=torch.float64, device=device)
    )
    started = now(device)
    for _ in range(calls):
        tuner.sampler.draw(options.batch_size, tuner.generator)
    return (now(device) - started) / calls


def gain_seconds(classes: int, device: torch.device) -> float:
    arguments = [tensor.to(device) for tensor in gain_inputs(classes, 512)]
    times = []
    for _ in range(4):
        started = now(device)
        gain_matrix(*arguments, 0.8)  # type: ignore[call-arg, arg-type]
        times.append(now(device) - started)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=ROUND_EVERY)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--feedback", type=int, default=30, help="samples a class")
    parser.add_argument("--layer", default="features")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    rows = measured(options)
    figures = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    figures["steps_over_bare_forward_backward"] = figures["bare_step_seconds"] / figures["loop_step_seconds"]
    figures["feedback_share"] = figures["feedback_seconds"] / (ROUND_EVERY * figures["loop_step_seconds"])
    figures["sampler_seconds"] = sampler_seconds(options)
    for classes in (CLASSES, 1000, 8142) if options.device != "cpu" else (CLASSES,):
        figures[f"gain_k{classes}_seconds"] = gain_seconds(classes, torch.device(options.device))
    lines = [f"{name:36} {value:.6g}" for name, value in figures.items()]
    text = json.dumps({"figures": figures, "rows": rows}) if options.json else "\n".join(lines)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
