"""Times a sweep beside its trials: 64 trials of one second on two workers, against plain Ray Tune, in one run.

    python benchmarks/sweep.py [--trials 64] [--seconds 1] [--json]

The trials of both do nothing but wait, a step at a time, so that the machine's speed does not matter: ours through a
network whose training pass waits, on the path of every sweep (records, checkpoints, Optuna's journal, MLflow); plain
Ray Tune's a function that waits and reports as often, with OptunaSearch and MLflowLoggerCallback on a new SQLite store.
Start-up is left out: the clock runs from the moment when the first trial begins to work to the end of the last. The
ideal is what the trials themselves say that they took, divided by two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `orchestrator` lies

import torch
from torch import Tensor, nn

from orchestrator.records.folder import RunFolder

ROOT = Path(__file__).parents[1]
WAIT = "SELMIX_BENCHMARK_WAIT"
STEPS, ROUNDS, WORKERS = 20, 4, 2

SWEEP = """
# Question: what does a sweep cost beside its trials?
version: 1
name: overhead
data: {{name: gaussians, imbalance: 20, largest_class: 80, feedback: 20, select: 24, test: 50, seed: 0}}
model: {{name: "benchmarks.sweep:Waiting"}}
pretrain: {{checkpoint: {checkpoint}}}
objectives: [min_recall]
rungs: [finetune]
parameters:
  lr: {{distribution: log_uniform_values, min: 0.003, max: 0.1}}
  start: {{value: given}}
  steps: {{value: {steps}}}
  refresh_every: {{value: {every}}}
search: {{method: tpe, num_trials: {trials}, seed: 0, max_concurrent_trials: {workers}}}
selection: {{metric: min_recall, statistic: bagged, replicates: 1, finalists: 1}}
resources: {{workers: 1, cpu: 1, gpu: 0}}
"""


class Waiting(nn.Module):
    """A linear classifier that waits in each training pass: a step that costs time, and no processor."""

    def __init__(self, num_classes: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Linear(input_shape[0], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            time.sleep(float(os.environ.get(WAIT, "0")))
        logits: Tensor = self.head(inputs)
        return logits


def ours(trials: int, seconds: float, home: Path) -> tuple[float, float]:
    """Seconds from the start of the first trial of a sweep to the end of the last, and those of all trials together."""
    from safetensors.torch import save_file

    model = Waiting(6, (8,))  # of the data below
    checkpoint, file = home / "base.safetensors", home / "overhead.yaml"
    save_file(dict(model.state_dict()), checkpoint)
    file.write_text(
        SWEEP.format(
            checkpoint=checkpoint, steps=STEPS, every=STEPS // ROUNDS, trials=trials, workers=WORKERS
        )
    )
    command = [sys.executable, "-m", "orchestrator.cli", "launch", str(file), "--runs", str(home / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), WAIT: str(seconds / STEPS), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)
    records = [r for r in RunFolder.local(home / "runs", "overhead").load_trials() if r.kind == "trial"]
    if len(records) != trials or any(record.state != "FINISHED" for record in records):
        raise SystemExit("overhead: every trial must have finished")
    ends = [(record.ended_ms or 0) / 1000 for record in records]
    # A trial is on record before its worker has started, which is left out.
    began = min(end - record.cost_s for end, record in zip(ends, records, strict=True))
    return max(ends) - began, sum(record.cost_s for record in records)


PLAIN = """
import json, os, sys, time
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AIR_NEW_OUTPUT="0")
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

home, trials, wait, steps, rounds, workers = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:])

def train(config):
    began = time.time()
    for step in range(steps):
        time.sleep(wait)
        if (step + 1) % (steps // rounds) == 0:
            tune.report({"score": config["lr"], "began": began, "ended": time.time()})

ray.init(address="local", include_dashboard=False, num_cpus=workers, log_to_driver=False)
search = ConcurrencyLimiter(OptunaSearch(metric="score", mode="max", seed=0), max_concurrent=workers)
results = tune.Tuner(
    tune.with_resources(train, {"cpu": 1}),
    param_space={"lr": tune.loguniform(0.003, 0.1)},
    tune_config=tune.TuneConfig(num_samples=trials, search_alg=search),
    run_config=tune.RunConfig(
        storage_path=home, verbose=0,
        callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{home}/mlflow.db", experiment_name="plain")],
    ),
).fit()
rows = [result.metrics for result in results]
wall = max(row["ended"] for row in rows) - min(row["began"] for row in rows)
print(json.dumps([wall, sum(row["ended"] - row["began"] for row in rows)]))
"""


def plain(trials: int, seconds: float, home: Path) -> tuple[float, float]:
    """The same of Ray Tune by itself."""
    arguments = [str(home), str(trials), str(seconds / STEPS), str(STEPS), str(ROUNDS), str(WORKERS)]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *arguments], cwd=home, check=True, capture_output=True, text=True
    )
    wall, work = json.loads(done.stdout.splitlines()[-1])
    return float(wall), float(work)


def measured(trials: int, seconds: float) -> dict[str, Any]:
    """Both, one after the other on the same machine, and their ratios to the ideal."""
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory(prefix="selmix-") as one,
        tempfile.TemporaryDirectory(prefix="plain-") as two,
    ):
        found = {"ours": ours(trials, seconds, Path(one)), "plain": plain(trials, seconds, Path(two))}
    return {"trials": trials} | {
        name: {"s": wall, "ideal_s": work / WORKERS, "ratio": wall * WORKERS / work}
        for name, (wall, work) in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measured(options.trials, options.seconds)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    lines = [
        f"{options.trials} trials of {options.seconds:g} s on {WORKERS} workers, from the first start to the last end"
    ]
    for name, of in {"selmix launch": "ours", "Ray Tune, MLflowLoggerCallback": "plain"}.items():
        each = found[of]
        lines.append(f"  {name:32} {each['s']:6.1f} s, ideal {each['ideal_s']:5.1f} s: {each['ratio']:.2f} x")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
