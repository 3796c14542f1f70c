"""Compares ways to search at equal cost: every trial to its end, heads screened first, and bad trials stopped early.

    python benchmarks/searches.py --seeds 0 1 2 3 4 --keep FOLDER [--json]

Fashion-MNIST with a long tail (imbalance 100, 1,000 training images in the largest class, 100 feedback, 200 select,
1,000 test images a class), the network tiny_cnn, min recall, 200 steps a trial, on Ray, one trial at a time, so that a
seed gives the same search again. Seed s seeds split, pre-training and search. `whole` is a search of 24 trials.
`screened` screens 256 heads on frozen features; the best 8 are its first trials after the defaults. `asha` stops trials
by asynchronous successive halving. Both have more trials than they can pay for: what counts is the best finished trial,
by its score on select, among those that had ended when the seconds of work of `whole` were spent; the seconds of the
screen count. That trial's own model is evaluated on test. Balanced heads and baselines count for none. FOLDER keeps the
sweeps, to go on from; the machine must do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `orchestrator` lies

import torch

from benchmarks.harness import mean_gap, word
from orchestrator import Sweep
from orchestrator.api.model import model_of
from orchestrator.pins.targets import Target
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import TrialRecord
from selmix.data.fashion_mnist import FashionMnistConfig
from selmix.metrics import MetricContext, Predictions, evaluate_predictions

OBJECTIVE = "min_recall"
WHOLE_TRIALS, SCREENED_TRIALS, ASHA_TRIALS = 24, 30, 96
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"rungs": ["finetune"], "search": {"num_trials": WHOLE_TRIALS}},
    "screened": {
        "rungs": ["head", "finetune"],
        "search": {"num_trials": SCREENED_TRIALS},
        "screen": {"num_configs": 256, "promote": 8, "folds": 5},
    },
    "asha": {
        "rungs": ["finetune"],
        "search": {"num_trials": ASHA_TRIALS},
        "early_stopping": {"method": "asha", "reduction_factor": 2},
    },
}


@dataclass(frozen=True)
class Found:
    """Outcome of a way of searching.

    Attributes:
        way: key of WAYS.
        seed: of everything.
        ended: trials that had ended within the cost.
        stopped: of these, those that were stopped early.
        seconds: of work of these, and of the screen.
        steps: SGD steps of these; the screen's are not among them.
        ran_out: True if there was no further trial, though another might have been paid for.
        trial: number of the best of them.
        score: its score on select.
        test: its min recall on test.
        config: settings that were searched.
    """

    way: str
    seed: int
    ended: int
    stopped: int
    seconds: float
    steps: int
    ran_out: bool
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
            "max_concurrent_trials": 1,
            **own["search"],
            **({} if num_trials is None else {"num_trials": num_trials}),
        },
    }


def launched(way: str, seed: int, runs: Path, steps: int, num_trials: int | None) -> RunFolder:
    """Run a sweep to its end, if it has not ended yet."""
    sweep = Sweep.from_dict(sweep_of(way, seed, steps, num_trials), runs=runs).launch()
    return RunFolder.local(runs, sweep.name)


def trials_in_order(folder: RunFolder) -> list[TrialRecord]:
    """Trials of the search, in the order in which they ended."""
    found = [record for record in folder.load_trials() if record.kind == "trial"]
    return sorted(found, key=lambda record: (record.ended_ms or 0, record.number))


def affordable(records: Sequence[TrialRecord], spent_s: float, budget_s: float) -> list[TrialRecord]:
    """The first trials that can be paid for.

    Args:
        records: in the order in which they ended.
        spent_s: seconds of work before them.
        budget_s: seconds of work.
    """
    found: list[TrialRecord] = []
    for record in records:
        cost = math.fsum([spent_s, *(each.cost_s for each in found), record.cost_s])
        if cost > budget_s * (1.0 + 1e-9):
            break
        found.append(record)
    return found


def best_of(records: Sequence[TrialRecord]) -> TrialRecord:
    """The finished trial with the highest score on select; one that was stopped early cannot win.

    Raises:
        ValueError: there is none.
    """
    able = [record for record in records if record.state == "FINISHED" and record.score is not None]
    if not able:
        raise ValueError(f"one of {len(records)} trials must have finished, got none")
    return max(able, key=lambda record: (record.score or 0.0, -record.number))


def found_by(way: str, seed: int, folder: RunFolder, budget_s: float) -> Found:
    """The best trial of a way within a budget, and its test value."""
    screen_s = 0.0
    if way == "screened":
        screen_s = float(json.loads(folder.screen_path(OBJECTIVE).read_text())["cost_s"])
    records = trials_in_order(folder)
    ended = affordable(records, screen_s, budget_s)
    best = best_of(ended)
    # The record's steps are those of its best round, not those that were taken.
    steps = [rows[-1]["steps"] if (rows := folder.rounds(each.trial_id)) else 0 for each in ended]
    return Found(
        way, seed, len(ended), sum(each.state == "PRUNED" for each in ended),
        math.fsum([screen_s, *(each.cost_s for each in ended)]), sum(steps),
        way != "whole" and len(ended) == len(records), best.number, best.score or 0.0,
        on_test(folder, best, seed), best.point,
    )  # fmt: skip


def on_test(folder: RunFolder, record: TrialRecord, seed: int) -> float:
    """Min recall on test of the trial's own model, not that of a replicate of it."""
    test = FashionMnistConfig(seed=seed).load_test()
    model = model_of(folder, Target(OBJECTIVE, record))
    with torch.inference_mode():
        logits = torch.cat([model(test.batch(part)) for part in torch.chunk(torch.arange(len(test)), 10)])
    context = MetricContext(torch.ones(logits.shape[1], dtype=torch.int64))
    return evaluate_predictions(Predictions.from_logits(test.labels, logits), context)[OBJECTIVE]


def compared(seed: int, runs: Path, steps: int, num_trials: int | None) -> list[Found]:
    """Run every way, and find what each has for the cost of the whole search."""
    folders = {way: launched(way, seed, runs, steps, num_trials) for way in WAYS}
    budget_s = math.fsum(record.cost_s for record in trials_in_order(folders["whole"]))
    return [found_by(way, seed, folder, budget_s) for way, folder in folders.items()]


def table(found: list[Found]) -> list[str]:
    """Lines: each way of each seed, then the ways against the whole search, paired by seed."""
    lines = [
        f"test {OBJECTIVE}, %; trials that had ended (stopped early); their cost; the trial that was chosen"
    ]
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
                f"  {each.ended:3} ({each.stopped}){' all that there were' if each.ran_out else ''}"
                f"  {each.seconds:.0f} s, {each.steps} steps  trial {each.trial}: {chosen}"
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
    parser.add_argument("--trials", type=int, help="of every search")
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
