"""A whole sweep on features of a thousand classes: time and peak memory, stage by stage.

    python benchmarks/thousand_classes.py [--json] [--classes 1000] [--dim 256] [--trials 4] [--cpu 1] [--gpu 0]

Writes Gaussian clusters of unequal spread as a Parquet file of features (30 training samples of every class, and 20
each of feedback, select and test), launches a sweep on it with every baseline, and prints what it took: seconds from
the records, memory from /proc (Linux), sampled while the sweep runs. RSS counts what processes share in each of them;
the total is PSS, which counts it once. Ray, its workers and the driver count, this program does not. Seconds of the
clock depend on what else the machine does, CPU seconds hardly. After ``--limit`` seconds the sweep is stopped, and what
was done by then is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `orchestrator` lies

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.folder import RunFolder

ROOT = Path(__file__).parents[1]
NAME = "thousand_classes"
SPREADS = (0.7, 1.5)
SEPARATION = 1.5  # root mean square distance of a mean from the centre, in units of sqrt(d / 10)
PARTS = ("train", "feedback", "select", "test")
STAGES = {
    "base model:": "base model", "balanced heads:": "balanced heads", "baselines of scores:": "scores",
    "baselines of head:": "head", "search:": "search", "finalists on fresh seeds:": "replicates",
    "baselines of finetune": "finetune and retrain",
}  # fmt: skip
"""Beginning of a line of the driver's log -> stage that it begins."""

SWEEP = """
# Question: what does a sweep with all its baselines cost at this number of classes?
version: 1
name: {name}
data: {{name: parquet, path: {path}, split: split}}
model: {{name: linear_head}}
pretrain: {{recipe: erm, seed: 0, epochs: {epochs}}}
objectives: [{objective}]
parameters:
  lr: {{distribution: log_uniform_values, min: 0.003, max: 0.1}}
  steps: {{value: {steps}}}
search: {{method: tpe, num_trials: {trials}, seed: 0}}
selection: {{metric: {objective}, statistic: bagged, replicates: {replicates}, finalists: 1}}
resources: {{workers: 1, cpu: {cpu}, gpu: {gpu}}}
"""


def write_features(path: Path, classes: int, dim: int, sizes: dict[str, int], seed: int = 0) -> int:
    """Write clusters around random means, each with a spread of its own, and return the number of rows."""
    g = np.random.default_rng(seed)
    means = g.standard_normal((classes, dim), dtype=np.float32) * (SEPARATION * (10 / dim) ** 0.5)
    spreads = g.permutation(np.linspace(*SPREADS, classes, dtype=np.float32))
    kind = pa.schema([("label", pa.int32()), ("split", pa.string()), ("features", pa.list_(pa.float32()))])
    rows = 0
    with pq.ParquetWriter(path, kind) as writer:
        for part in PARTS:
            labels = np.repeat(np.arange(classes, dtype=np.int32), sizes[part])
            noise = g.standard_normal((len(labels), dim), dtype=np.float32)
            values = means[labels] + spreads[labels, None] * noise
            lists = pa.ListArray.from_arrays(
                np.arange(0, dim * (len(labels) + 1), dim, dtype=np.int32), values.ravel()
            )
            names = pa.array([part] * len(labels))
            writer.write_table(pa.table([pa.array(labels), names, lists], schema=kind))
            rows += len(labels)
    return rows


@dataclass
class Peaks:
    """Largest memory of a stage, in MB, and its CPU time.

    Attributes:
        driver: RSS of the driver.
        worker: RSS of the largest worker.
        total: PSS of everything together.
        cpu_s: CPU seconds of everything together.
    """

    driver: float = 0.0
    worker: float = 0.0
    total: float = 0.0
    cpu_s: float = 0.0

    def add(self, driver: float, worker: float, total: float) -> None:
        self.driver, self.worker = max(self.driver, driver), max(self.worker, worker)
        self.total = max(self.total, total)


@dataclass
class Sampler:
    """Sampler of the memory of a process and of all that it started, by the stage that the sweep is in.

    Attributes:
        root: id of the driver.
        log: of the driver; it tells the stage.
        every_s: seconds between two samples.
        peaks: stage -> largest memory.
    """

    root: int
    log: Path
    every_s: float = 0.5
    peaks: dict[str, Peaks] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _ticks: dict[int, int] = field(default_factory=dict)

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            self.sample()

    def sample(self) -> None:
        """Take one sample."""
        ids = list(descendants(self.root))
        rss = {pid: kilobytes(pid, "status", "VmRSS:") for pid in ids}
        workers = [rss[pid] for pid in ids if title(pid).startswith("ray::")]
        total = sum(kilobytes(pid, "smaps_rollup", "Pss:") for pid in ids)
        peaks = self.peaks.setdefault(stage_of(self.log), Peaks())
        peaks.add(rss.get(self.root, 0) / 1024, max(workers, default=0) / 1024, total / 1024)
        for pid in ids:
            ticks = cpu_ticks(pid)
            peaks.cpu_s += max(0, ticks - self._ticks.get(pid, 0)) / os.sysconf("SC_CLK_TCK")
            self._ticks[pid] = max(ticks, self._ticks.get(pid, 0))


def stage_of(log: Path) -> str:
    """Stage that a sweep is in, by its driver's log."""
    stage = "start, data"
    for _, text in events(log):
        stage = next((name for begin, name in STAGES.items() if text.startswith(begin)), stage)
    return stage


def events(log: Path) -> list[tuple[datetime, str]]:
    """Time and text of the lines of a driver's log."""
    try:
        lines = log.read_text().splitlines()
    except FileNotFoundError:
        return []
    found = [line.partition(" ") for line in lines if not line.startswith(" ")]
    return [(datetime.fromisoformat(when), text) for when, _, text in found]


def descendants(root: int) -> Iterator[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold blanks.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(path.parent.name)] = int(fields[1])
    below = {root}
    todo = [root]
    while todo:
        parent = todo.pop()
        fresh = [pid for pid, of in parents.items() if of == parent and pid not in below]
        below.update(fresh)
        todo += fresh
    yield from sorted(below)


def kilobytes(pid: int, file: str, key: str) -> int:
    """A number of kB from /proc; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def cpu_ticks(pid: int) -> int:
    """CPU time of a process in clock ticks, without that of its children; 0 of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def title(pid: int) -> str:
    """Command line of a process; Ray's workers write theirs anew."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def measured(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Launch the sweep in ``home``, and collect what it took."""
    sizes = {"train": options.train, "feedback": options.heldout, "select": options.heldout,
             "test": options.heldout}  # fmt: skip
    rows = write_features(home / "features.parquet", options.classes, options.dim, sizes)
    file, runs = home / f"{NAME}.yaml", home / "runs"
    file.write_text(
        SWEEP.format(
            name=NAME,
            path=home / "features.parquet",
            epochs=options.epochs,
            objective=options.objective,
            steps=options.steps,
            trials=options.trials,
            replicates=options.replicates,
            cpu=options.cpu,
            gpu=options.gpu,
        )
    )
    folder = RunFolder.local(runs, NAME)
    command = [sys.executable, "-m", "orchestrator.cli", "launch", str(file), "--runs", str(runs)]
    if options.in_process:
        command.append("--in-process")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started, loads = time.time(), [os.getloadavg()[0]]
    process = subprocess.Popen(
        command, cwd=home, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.DEVNULL
    )
    try:
        with Sampler(process.pid, folder.log_path) as sampler:
            code = code_within(process, options.limit)
    finally:
        # Ended from the keyboard: the driver drains, and takes Ray with it.
        if process.poll() is None:
            process.terminate()
            process.wait()
    loads.append(os.getloadavg()[0])
    if code not in (None, 0, 6):  # 6: no feasible trial
        raise SystemExit(f"the sweep ended with {code}")
    base = folder.load_state().base
    return {
        "classes": options.classes, "dim": options.dim, "rows": rows, "objective": options.objective,
        "exit_code": code, "wall_s": time.time() - started, "load": loads, "cores": os.cpu_count(),
        "stages": stages(folder, started, sampler.peaks), "baselines": baselines(folder),
        "base_s": base and base.cost_s, "heads_s": base and base.heads_cost_s,
    }  # fmt: skip


def code_within(process: subprocess.Popen[bytes], limit_s: float | None) -> int | None:
    """Exit code of a process; None where it was stopped, as it was not done within a limit."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return None


def stages(folder: RunFolder, started: float, peaks: dict[str, Peaks]) -> dict[str, dict[str, float]]:
    """Wall seconds and peak memory of each stage, in order."""
    begins = {"start, data": started}
    log = events(folder.log_path)
    for when, text in log:
        for begin, name in STAGES.items():
            if text.startswith(begin):
                begins[name] = when.timestamp()
    ends = [*list(begins.values())[1:], time.time()]
    found = {}
    for (name, began), end in zip(begins.items(), ends, strict=True):
        peak = peaks.get(name, Peaks())
        found[name] = {"s": end - began, "cpu_s": peak.cpu_s, "driver_mb": peak.driver, "worker_mb": peak.worker,
                       "total_mb": peak.total}  # fmt: skip
    return found


def baselines(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Seconds of fitting each baseline, and of everything else that it took, its cross-fitted score above all."""
    found = {}
    for record in folder.load_baselines():
        name = record.trial_id.rpartition("/")[2]
        whole = None
        if record.started_ms is not None and record.ended_ms is not None:
            whole = (record.ended_ms - record.started_ms) / 1000
        found[name] = {
            "state": record.state, "error": record.error, "score": record.score, "fit_s": record.cost_s,
            "task_s": whole,
        }  # fmt: skip
    return found


def text_of(found: dict[str, Any]) -> str:
    end = "in all" if found["exit_code"] is not None else "until it was stopped"
    lines = [
        f"{found['classes']} classes, {found['dim']} features, {found['rows']} rows, {found['objective']}: "
        f"{found['wall_s']:.0f} s {end} on {found['cores']} cores, load {found['load'][0]:.1f} before and "
        f"{found['load'][1]:.1f} at the end; base model {found['base_s'] or 0:.1f} s, "
        f"heads {found['heads_s'] or 0:.1f} s",
        f"{'stage':16}{'seconds':>9}{'CPU s':>8}{'driver MB':>11}{'worker MB':>11}{'all MB (PSS)':>14}",
    ]
    for name, row in found["stages"].items():
        lines.append(
            f"{name:16}{row['s']:9.0f}{row['cpu_s']:8.0f}{row['driver_mb']:11.0f}{row['worker_mb']:11.0f}{row['total_mb']:14.0f}"
        )
    lines.append(f"{'baseline':34}{'fit s':>8}{'whole task s':>14}  score")
    for name, row in sorted(found["baselines"].items(), key=lambda item: -(item[1]["task_s"] or 0.0)):
        shown = "-" if row["score"] is None else f"{100 * row['score']:.1f}"
        score = f"{row['state'].lower()}: {row['error']}" if row["error"] else shown
        lines.append(f"{name:34}{row['fit_s'] or 0.0:8.1f}{row['task_s'] or 0.0:14.1f}  {score}")
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--train", type=int, default=30, help="samples per class")
    parser.add_argument(
        "--heldout", type=int, default=20, help="samples per class of each of feedback, select, test"
    )
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--replicates", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--objective", default="cvar_recall")
    parser.add_argument("--cpu", type=int, default=1, help="of a worker")
    parser.add_argument("--gpu", type=float, default=0, help="of a worker")
    parser.add_argument("--limit", type=float, help="seconds; all of it otherwise")
    parser.add_argument("--in-process", action="store_true", help="without Ray")
    parser.add_argument("--keep", type=Path, help="folder for features and runs; a temporary one otherwise")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        found = measured(options, options.keep.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="selmix-") as home:
            found = measured(options, Path(home))
    print(json.dumps(found) if options.json else text_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
