"""What fine-tuning for one objective does to it and to the others, beside baselines fitted for each.

    python benchmarks/objectives.py --world digits    --seeds 0 1 2 3 4 [--json] [--rows FOLDER]
    python benchmarks/objectives.py --world groups    --seeds 0 1 2 3 4
    python benchmarks/objectives.py --world gaussians --seeds 0 1 2 3 4

The product's defaults, the round chosen on select by the objective's own metric, judged on test; seed s seeds split,
pre-training and fine-tuning. `digits`: the data of sweeps/digits_min_recall.yaml. `groups`: the same scans with two
groups by their ink, the smaller one a tenth of a class in train. `gaussians`: a linear head, beside the best there is.

Tables: every objective under each one's fine-tuning; its own fine-tuning against the best baseline that saw the same
labels, the best by its mean on test, paired over seeds; bounds on test; how well the gain predicted. Baselines that
depend on a metric are fitted for each. With --rows every finished case is kept in a file there, and one that is kept is
not run again. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository's root, where `benchmarks` lies

import torch
from torch import Tensor

from benchmarks.bounds import bound_on_test
from benchmarks.cases import BEFORE, WORLDS, Case
from benchmarks.harness import Row, with_tuned_head
from benchmarks.objective_tables import figures, tables
from benchmarks.shared import UniformCourses, remembered_fits
from selmix.baselines import BASELINES, BaselineTask
from selmix.data.splits import Split
from selmix.metrics import evaluate_predictions
from selmix.pretrain import pretrain
from selmix.run.run import RoundReport, finetune
from selmix.weights import State


def rows_of_seed(world: str, folder: Path | None, seed: int) -> list[Row]:
    """Every case of one seed."""
    torch.set_num_threads(1)
    with remembered_fits():
        return _rows_of_seed(world, folder, seed)


def _rows_of_seed(world: str, folder: Path | None, seed: int) -> list[Row]:
    setting = WORLDS[world]
    source = setting.data(seed)
    data, test = source.load(), source.load_test()
    rows: list[Row] = []
    courses = UniformCourses()
    base_state: dict[str, Tensor] | None = None
    for case in setting.cases:
        file = folder / f"{world}-{seed}-{case.name}.json" if folder is not None else None
        if file is not None and file.exists():
            rows += json.loads(file.read_text())
            continue
        started = time.perf_counter()
        if base_state is None:
            base_state = pretrain("erm", setting.model, data, seed)
        base = with_tuned_head(setting.model, base_state, data, case.rule)
        told: list[RoundReport] = []
        run = finetune(data, base, case.objective, setting.config, seed, case.rule, told.append)
        if run.best is None or run.failed:
            raise SystemExit(f"{world}, seed {seed}, {case.name}: {run.stop_reason}")
        task = BaselineTask(data, base, case.objective, case.rule, (seed,), setting.config, (run.best.state,))
        own = _row("selmix", case, seed, task, run.best.state, test)
        found = [own | {"feasible": run.best.feasible, "fidelity": _fidelity(told)}]
        names = [*setting.opponents]
        if case == setting.cases[0]:  # the same for every case
            names += [*BEFORE, *setting.references]
        for name in names:
            state = courses.state(task) if name == "uniform_mixup" else BASELINES[name](task).states[0]
            found.append(_row(name, case, seed, task, state, test))
        if setting.best is not None:
            found.append(_row("optimum", case, seed, task, setting.best(seed, case.objective), test))
        rows += found
        if file is not None:
            file.write_text(json.dumps(found))
        spent = time.perf_counter() - started
        sys.stderr.write(f"{world}, seed {seed}, {case.name}: {spent:.0f} s\n")
    return rows


def _row(method: str, case: Case, seed: int, task: BaselineTask, state: State, test: Split) -> Row:
    predictions = {
        name: task.predictions(state, split) for name, split in (("select", task.data.select), ("test", test))
    }
    row: Row = {"method": method, "case": case.name, "seed": seed}
    row |= {name: evaluate_predictions(each, task.context) for name, each in predictions.items()}
    row["bounds"] = [bound_on_test(c, predictions["test"], task.context) for c in case.constraints]
    return row


def _fidelity(told: list[RoundReport]) -> dict[str, float | None]:
    """Mean over the rounds of the gain's correlations with real steps; None where no round has one."""
    means: dict[str, float | None] = {}
    for name in ("gain_spearman", "gain_pearson"):
        values = [report.scalars[name] for report in told if name in report.scalars]
        finite = [value for value in values if value == value]
        means[name] = statistics.mean(finite) if finite else None
    return means


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=Path, help="folder for finished cases")
    options = parser.parse_args()
    if options.rows is not None:
        options.rows.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max_workers=2) as pool:
        parts = list(pool.map(partial(rows_of_seed, options.world, options.rows), options.seeds))
    rows = [row for part in parts for row in part]
    if options.json:
        document = {"figures": figures(WORLDS[options.world], rows), "rows": rows}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    sys.stdout.write(tables(WORLDS[options.world], rows) + "\n")


if __name__ == "__main__":
    main()
