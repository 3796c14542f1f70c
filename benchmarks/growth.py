"""What the driver of a sweep spends on a trial and on a report, from ten toy trials at once to a thousand.

    python benchmarks/growth.py [--json] [--at-once 10 100 1000] [--rounds 10]

No cluster and no training: the searcher, the callback, our records and the queue to MLflow (a SQLite file) are the
real ones, and are told what Tune would tell them, in turn for every trial that is alive. As many trials run at once as
there are in all: the widest a sweep of that size can be. Seconds are of the driver's one thread, which every trial
waits for; ``mlflow_ms`` is what the writer's thread takes beside it, for each event.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

from optuna.distributions import CategoricalDistribution, FloatDistribution

from orchestrator.progress import Progress
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import trial_record
from orchestrator.run.execution import Dispatcher
from orchestrator.run.recorder import Recorder
from orchestrator.run.tune import RunCallback, RunSearcher
from orchestrator.search.sources import StudySource
from orchestrator.search.study import ObjectiveStudy
from orchestrator.tracking.tracker import Tracker
from selmix.config import FinetuneConfig

METRICS, SCALARS = 24, 12
SPACE = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "effective_pairs": FloatDistribution(0.1, 0.9),
         "policy": CategoricalDistribution(["softmax", "uniform", "top_k"])}  # fmt: skip


class Clock:
    """Sums the seconds of calls by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, kind: str, call: Any, *arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        answer = call(*arguments, **keywords)
        self.seconds.setdefault(kind, []).append(time.perf_counter() - started)
        return answer

    def mean_ms(self, kind: str) -> float:
        return 1e3 * sum(self.seconds[kind]) / len(self.seconds[kind])


def report(number: int, round_number: int) -> dict[str, Any]:
    """What a round of a toy trial tells."""
    value = (number * 37 % 101 + round_number) / 200
    row = {
        "round": round_number, "steps": 20 * round_number, "time_ms": int(time.time() * 1000), "score": value,
        "feasible": True, "select": {f"metric_{k}": value for k in range(METRICS)},
        "scalars": {f"scalar_{k}": value for k in range(SCALARS)},
    }  # fmt: skip
    best = {"round": round_number, "steps": row["steps"], "score": value, "feasible": True, "violation": 0.0}
    return {"row": row, "best": best, "cost_s": 0.1 * round_number, "failed": False}


def checkpoint(home: Path, finished: bool, number: int, rounds: int) -> Path:
    """A finished trial's last checkpoint, but for the models."""
    home.mkdir(parents=True)
    (home / "trial.json").write_text(json.dumps({"cost_s": 1.0, "finished": finished}))
    for name in ("weights.safetensors", "predictions.npz", "rounds.parquet"):
        (home / name).write_bytes(b"0" * 20_000)
    value = (number * 37 % 101 + rounds) / 200
    select = {f"metric_{k}": {"value": value, "low": 0.0, "high": 1.0} for k in range(METRICS)}
    figures = {"select": select, "weights_digest": "sha256:0", "round": rounds, "steps": 20 * rounds, "score": value,
               "feasible": True, "stop_reason": "steps", "failed": False}  # fmt: skip
    (home / "figures.json").write_text(json.dumps(figures))
    return home


def measured(at_once: int, rounds: int) -> dict[str, float]:
    """Of a sweep of so many trials, all at once."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="selmix-growth-") as home:
        folder = RunFolder.local(Path(home), "toy")
        folder.create()
        tracker = Tracker(
            f"sqlite:///{home}/mlflow.db", "toy", "0", Path(home) / "artifacts", lambda text: None
        )
        tracker.open_sweep("toy", {}, {})
        recorder = Recorder(folder, tracker, Progress(quiet=True), {}, {})
        study = ObjectiveStudy(folder.journal_path, "min_recall", "tpe", 0, SPACE, {"lr": 0.01, "effective_pairs": 0.6,
                               "policy": "softmax"})  # fmt: skip
        config = FinetuneConfig().flat()
        source = StudySource(
            {"min_recall": study}, at_once, [],
            lambda name, number, point: trial_record(name, number, 0, config | point, point), lambda: True,
        )  # fmt: skip
        dispatcher = Dispatcher(source, recorder, lambda: False)
        searcher = RunSearcher(dispatcher, lambda: at_once)
        callback = RunCallback(dispatcher, searcher)
        trials = []
        for number in range(at_once):
            given = clock("start", searcher.suggest, f"t{number}")
            trials.append(SimpleNamespace(trial_id=f"t{number}", config=given))
        wall = time.perf_counter()
        for round_number in range(rounds):
            for number, trial in enumerate(trials):
                clock("report", callback.on_trial_result, 0, [], trial, report(number, round_number))
        reports_wall = time.perf_counter() - wall
        for number, trial in enumerate(trials):
            path = checkpoint(folder.ray_path / "000" / trial.trial_id, True, number, rounds)
            clock("end", callback.on_checkpoint, 0, [], trial, SimpleNamespace(path=str(path)))
            told = report(number, rounds)
            flat = {f"best/{key}": value for key, value in told["best"].items()} | {
                "finished": True,
                "failed": False,
            }
            clock("tell", searcher.on_trial_complete, trial.trial_id, flat)
        if recorder.problems:
            raise RuntimeError(recorder.problems[0])
        started = time.perf_counter()
        waiting = tracker._outbox.unsent
        tracker.close(600.0)
        drained = time.perf_counter() - started
        state = folder.load_trials()
        clock("read", folder.load_trials)
    finished = sum(record.state == "FINISHED" for record in state)
    if finished != at_once:
        raise RuntimeError(f"{finished} of {at_once} trials are on record as finished")
    starts = clock.seconds["start"]
    last = starts[-max(1, at_once // 10):]  # fmt: skip
    return {
        "trials": at_once, "start_ms": clock.mean_ms("start"), "last_start_ms": 1e3 * sum(last) / len(last),
        "report_ms": clock.mean_ms("report"), "end_ms": clock.mean_ms("end"), "tell_ms": clock.mean_ms("tell"),
        "reports_per_s": rounds * at_once / reports_wall, "mlflow_waiting": waiting,
        "mlflow_ms": 1e3 * drained / max(1, waiting), "read_all_ms": clock.mean_ms("read"),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--at-once", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    rows = [measured(at_once, options.rounds) for at_once in options.at_once]
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    sys.stdout.write("  ".join(f"{name:>14}" for name in rows[0]) + "\n")
    for row in rows:
        sys.stdout.write("  ".join(f"{value:>14.4g}" for value in row.values()) + "\n")


if __name__ == "__main__":
    main()
