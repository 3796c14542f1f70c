"""Compares ways to search at equal cost: every trial to its end, heads screened first, and bad trials stopped early.

    python benchmarks/searches.py --seeds 0 1 2 3 4 --keep FOLDER [--json]

Fashion-MNIST with a long tail (imbalance 100, 1,000 training images in the largest class, 100 feedback, 200 select,
1,000 test images a class), the network tiny_cnn, min recall, 200 steps a trial, on Ray. Seed s seeds split,
pre-training and search. `whole` is a search of 24 trials. `screened` screens 256 heads on frozen features, whose best
8 are its first trials, and `asha` stops trials by asynchronous successive halving. Both have more trials than they
can pay for: what counts is the best trial, by its score on select, that had ended by the time the work of `whole` was
spent (screened: in seconds on one core, the screen's among them; asha: in SGD steps). Its model is then evaluated on
test. Balanced heads and baselines count for none. FOLDER keeps the sweeps, to go on from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `orchestrator` lies

import torch

from benchmarks.harness import mean_gap, word
from orchestrator import OpenedSweep, Sweep
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from selmix.data.fashion_mnist import FashionMnistConfig
from selmix.metrics import MetricContext, Predictions, evaluate_predictions

OBJECTIVE = "min_recall"
WHOLE_TRIALS, MORE_TRIALS = 24, 64
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"rungs": ["finetune"], "search": {"num_trials": WHOLE_TRIALS}},
    "screened": {
        "rungs": ["head", "finetune"],
        "search": {"num_trials": WHOLE_TRIALS},
        "screen": {"num_configs": 256, "promote": 8, "folds": 5},
    },
    "asha": {
        "rungs": ["finetune"],
        "search": {"num_trials": MORE_TRIALS},
        "early_stopping": {"method": "asha", "grace_steps": 40, "reduction_factor": 2},
    },
}


@dataclass(frozen=True)
class Found:
    """What a way of searching has found.

    Attributes:
        way: key of WAYS.
        seed: of everything.
        ended: trials that had ended within the cost.
        stopped: of these, those that were stopped early.
        spent: cost of these, and of the screen: seconds; of asha SGD steps.
        trial: number of the best of them.
        score: its score on select.
        test: its min recall on test.
        config: settings that were searched.
    """

    way: str
    seed: int
    ended: int
    stopped: int
    spent: float
    trial: int
    score: float
    test: float
    config: dict[str, Any]


def sweep_of(way: str, seed: int, steps: int, num_trials: int | None) -> dict[str, Any]:
    """Sweep file of a way, as a dictionary."""
    own = WAYS[way]
    return {
        "name": f"{way}_{seed}",
        "data": {"name": "fashion_mnist", "seed": seed},
        "model": {"name": "tiny_cnn"},
        "pretrain": {"recipe": "erm", "seed": seed},
        "objectives": [OBJECTIVE],
        "parameters": {
            "effective_pairs": {"distribution": "log_uniform_values", "min": 0.03, "max": 1.0},
            "policy": {"values": ["softmax", "uniform", "balanced"]},
            "coefficient_min": {"values": [0.6, 1.0]},
            "lr": {"distribution": "log_uniform_values", "min": 0.003, "max": 0.1},
            "refresh_every": {"values": [10, 20]},
            "mixup_layer": {"values": ["features", "stage2", "input"]},
            "backbone_lr_scale": {"values": [0.1, 1.0]},
            "steps": {"value": steps},
        },
        "selection": {"metric": OBJECTIVE, "statistic": "bagged", "replicates": 1, "finalists": 1},
        "resources": {"workers": 1, "cpu": 1, "gpu": 0},
        **own,
        "search": {
            "method": "tpe",
            "seed": seed,
            **own["search"],
            **({} if num_trials is None else {"num_trials": num_trials}),
        },
    }


def launched(way: str, seed: int, runs: Path, steps: int, num_trials: int | None) -> OpenedSweep:
    return Sweep.from_dict(sweep_of(way, seed, steps, num_trials), runs=runs).launch()


def trials_in_order(folder: RunFolder) -> list[TrialRecord]:
    """Trials of the search, in the order in which they ended."""
    found = [
        record for record in folder.load_trials() if record.kind == "trial" and record.rung == "finetune"
    ]
    return sorted(found, key=lambda record: (record.ended_ms or 0, record.number))


def cost_of(record: TrialRecord, way: str) -> float:
    return float(record.steps or 0) if way == "asha" else record.cost_s


def found_by(way: str, seed: int, sweep: OpenedSweep, budget: float) -> Found:
    """The best trial of a way within a budget, and its test value."""
    folder = RunFolder.local(Path(sweep.path).parent, sweep.name)
    spent = 0.0
    if way == "screened":
        spent = float(json.loads(folder.screen_path(OBJECTIVE).read_text())["cost_s"])
    ended: list[TrialRecord] = []
    for record in trials_in_order(folder):
        if spent + cost_of(record, way) > budget:
            break
        spent += cost_of(record, way)
        ended.append(record)
    # A trial that was stopped early cannot win.
    able = [record for record in ended if record.state == "FINISHED" and record.score is not None]
    best = max(able, key=lambda record: record.score or 0.0)
    return Found(
        way, seed, len(ended), sum(record.state == "PRUNED" for record in ended), spent, best.number,
        best.score or 0.0, on_test(sweep, best.trial_id, seed), best.point,
    )  # fmt: skip


def on_test(sweep: OpenedSweep, row: str, seed: int) -> float:
    test = FashionMnistConfig(seed=seed).load_test()
    model = sweep.load(row)
    with torch.inference_mode():
        logits = torch.cat([model(test.batch(part)) for part in torch.chunk(torch.arange(len(test)), 10)])
    context = MetricContext(torch.ones(logits.shape[1], dtype=torch.int64))
    return evaluate_predictions(Predictions.from_logits(test.labels, logits), context)[OBJECTIVE]


def compared(seed: int, runs: Path, steps: int, num_trials: int | None) -> list[Found]:
    """What each way finds for the cost of the whole search."""
    whole = launched("whole", seed, runs, steps, num_trials)
    records = trials_in_order(RunFolder.local(runs, whole.name))
    found = []
    for way in WAYS:
        sweep = (
            launched(way, seed, runs, steps, None if num_trials is None else 2 * num_trials)
            if way != "whole"
            else whole
        )
        found.append(found_by(way, seed, sweep, sum(cost_of(record, way) for record in records)))
    return found


def table(found: list[Found]) -> list[str]:
    """Lines: each way of each seed, then the ways against the whole search, paired by seed."""
    lines = [f"test {OBJECTIVE}, %; trials that had ended (stopped early); the trial that was chosen"]
    whole = {each.seed: each for each in found if each.way == "whole"}
    for way in WAYS:
        of = [each for each in found if each.way == way]
        for each in of:
            chosen = ", ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in each.config.items()
            )
            lines.append(
                f"  {way:9} seed {each.seed}  test {100 * each.test:5.1f}  select {100 * each.score:5.1f}"
                f"  {each.ended:3} ({each.stopped})  spent {each.spent:.0f}  trial {each.trial}: {chosen}"
            )
        lines.append(f"  {way:9} mean    test {100 * statistics.mean(each.test for each in of):5.1f}")
        if way != "whole" and len(of) > 1:
            gap, low, high = mean_gap([each.test - whole[each.seed].test for each in of])
            lines[-1] += (
                f"  minus whole {100 * gap:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]: {word(low, high)}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--keep", type=Path, required=True, help="runs folder of the sweeps, to go on from")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--trials", type=int, help="of the whole search; the others may use twice as many")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = [
        each for seed in options.seeds for each in compared(seed, options.keep, options.steps, options.trials)
    ]
    sys.stdout.write(
        json.dumps([asdict(each) for each in found]) + "\n"
        if options.json
        else "\n".join(table(found)) + "\n"
    )


if __name__ == "__main__":
    main()
