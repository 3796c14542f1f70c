"""Rates at which the intervals of every metric miss the truth, and verdicts on equal models are wrong.

    python benchmarks/size_study.py [--cells benchmarks/size_study_cells.csv] [--out FILE] [--jobs 2] [--quick]

Every cell of the committed list is a metric, one model or a pair, a number of classes and of samples a class, true
recalls, the correlation of the two models' hits and a number of replicates. Models are drawn from the truth: a sample
of class k is right with probability p_k, else predicted as any other class; of a pair a share of the samples (the
correlation) has the same draw for both. Both models of a pair have the same true metric, so any verdict is wrong.

A cell whose rate lies above 5 % and two standard errors runs again with 20,000 fresh repetitions, and only those
decide: it fails where the lower 99.9 % limit of its rate of wrong verdicts exceeds 5 %, or the upper one of its
coverage lies below 93 %.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root, where `benchmarks` lies

import torch
from torch import Tensor

from selmix.definitions import Definitions
from selmix.groups import strata_of
from selmix.metrics import MetricContext, Predictions, metric_named

HERE = Path(__file__).parent
REPETITIONS = 2000
FRESH = 20_000
GROUPS = 2
MANY = 400_000
"""Samples that stand for the truth of a metric of the scores: its error is a tenth of an interval's width at most."""
SEED_SPREAD = 0.3
"""Standard deviation of a replicate's logits of its recalls around the procedure's."""


@dataclass(frozen=True)
class Cell:
    """One cell of the study.

    Attributes:
        metric: a key of METRICS, or ``module:function``.
        kind: ``single`` or ``paired``.
        classes: K.
        samples: of each class: a number, or ``5-500`` for classes from 5 to 500 in geometric steps.
        truth: ``alike:P``; ``weak:P`` for one class of P among others of .95; ``weak5:P`` for five;
            ``spread:LOW:HIGH``. For the calibration errors ``shift:D``, confidences that are D too high. For metrics of
            the scores ``apart:D:S``: normal scores, D apart, S times as sure as they may be.
        other: ``same`` where both models of a pair have the same recalls class by class, ``moved`` where those of the
            second are rotated by half of the classes.
        correlation: share of the samples with one draw for both models.
        replicates: models on each side.
        repetitions: of the first run; 0 for the usual number.
    """

    metric: str
    kind: str
    classes: int
    samples: str
    truth: str
    other: str = "same"
    correlation: float = 0.0
    replicates: int = 1
    repetitions: int = 0

    @property
    def of_groups(self) -> bool:
        """True if the metric is one of (class, group) cells."""
        return metric_named(self.metric).of_cells is not None

    @cached_property
    def sizes(self) -> Tensor:
        """Samples of each class, or of each (class, group) cell, shape (S,), int64."""
        count = self.classes * (GROUPS if self.of_groups else 1)
        if "-" not in self.samples:
            return torch.full((count,), int(self.samples))
        low, high = (float(end) for end in self.samples.split("-"))
        return torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64).round().long()

    @cached_property
    def recalls(self) -> Tensor:
        """True recalls of the strata, shape (S,), float64."""
        shape, *numbers = self.truth.split(":")
        values, count = [float(number) for number in numbers], len(self.sizes)
        if shape == "spread":
            low, high = values
            return torch.linspace(low, high, count, dtype=torch.float64)
        # Of the calibration error the recalls follow from the confidences.
        weak = {"alike": count, "weak": 1, "weak5": min(5, count)}.get(shape, 0)
        recalls = torch.full((count,), 0.95, dtype=torch.float64)
        recalls[:weak] = values[0]
        return recalls

    @cached_property
    def context(self) -> MetricContext:
        """Context of the metric: the first tenth of the classes is the tail; weights and costs are uneven."""
        k = torch.arange(self.classes, dtype=torch.float64)
        costs = (1.0 - torch.eye(self.classes, dtype=torch.float64)) * (1.0 + k.unsqueeze(1) % 3)
        definitions = Definitions(
            recall_weights=tuple((1.0 + k % 3).tolist()),
            cost_matrix=tuple(tuple(row) for row in costs.tolist()) if self.metric == "cost" else None,
        )
        # Many-, medium- and few-shot classes are a third each.
        train = torch.tensor([10, 50, 200]).repeat(self.classes)[: self.classes]
        if self.metric in ("min_head_tail_recall", "min_head_tail_coverage"):
            train = 1000 - torch.arange(self.classes).flip(0)
        return MetricContext(train, definitions, GROUPS if self.of_groups else 0)

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor | None]:
        """Class and group of each sample, each of shape (n,)."""
        if not self.of_groups:
            return torch.arange(self.classes).repeat_interleave(self.sizes), None
        strata = torch.arange(self.classes * GROUPS).repeat_interleave(self.sizes)
        return strata // GROUPS, strata % GROUPS

    @cached_property
    def true_value(self) -> float:
        """The metric of the expected counts."""
        metric = metric_named(self.metric)
        if metric.by_scores and metric.of_predictions is not None:
            # No closed form of several classes: the metric of many samples in the same shares.
            labels = self.labels[0].repeat_interleave(max(1, MANY // len(self.labels[0])))
            many = self.scored(
                labels, torch.randn(len(labels), self.classes, generator=torch.Generator().manual_seed(0))
            )
            return metric.of_predictions(many)
        if metric.of_predictions is not None:
            return float(self.truth.split(":")[1])
        classes = self.classes
        strata_labels = torch.arange(len(self.sizes)) // (GROUPS if self.of_groups else 1)
        wrong = (1.0 - self.recalls) / (classes - 1)
        expected = wrong.unsqueeze(1).expand(-1, classes).clone()
        expected[torch.arange(len(self.sizes)), strata_labels] = self.recalls
        return float(metric.of(expected * self.sizes.unsqueeze(1), self.context))

    def scored(self, labels: Tensor, noise: Tensor) -> Predictions:
        """Predictions of a model whose scores are normal about the label, shapes (n,) and (n, K)."""
        _, apart, sureness = self.truth.split(":")
        scores = noise.double()
        scores[torch.arange(len(labels)), labels] += float(apart)
        # D times the scores are the logits of the true probabilities, where classes are of one size.
        logs = torch.log_softmax(float(apart) * float(sureness) * scores, dim=1)
        confidence, predicted = logs.exp().max(dim=1)
        return Predictions(labels, predicted, confidence, None, logs)

    def _draw_scores(self, generator: torch.Generator) -> tuple[list[Predictions], list[Predictions]]:
        labels, sides = self.labels[0], []
        common = torch.randn(len(labels), self.classes, generator=generator)
        for _ in range(2):
            own = torch.randn(self.replicates, len(labels), self.classes, generator=generator)
            noises = self.correlation**0.5 * common + (1.0 - self.correlation) ** 0.5 * own
            sides.append([self.scored(labels, noise) for noise in noises])
        return sides[0], sides[1]

    def draw(self, generator: torch.Generator) -> tuple[list[Predictions], list[Predictions]]:
        """Draw the models of both sides, one for each replicate."""
        if metric_named(self.metric).by_scores:
            return self._draw_scores(generator)
        labels, groups = self.labels
        strata = labels if groups is None else strata_of(labels, groups, GROUPS)
        shape = (2, self.replicates, len(labels))
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        # A sample is hard or easy for everybody, or drawn anew for each model.
        common = torch.rand(len(labels), generator=generator, dtype=torch.float64)
        shared = torch.rand(shape, generator=generator, dtype=torch.float64) < self.correlation**0.5
        uniform = torch.where(shared, common, uniform)
        elsewhere = torch.randint(1, self.classes, shape, generator=generator)
        at_common = torch.randint(1, self.classes, (len(labels),), generator=generator)
        elsewhere = torch.where(shared, at_common, elsewhere)
        sides: list[list[Predictions]] = []
        for side in range(2):
            recalls = self.recalls
            if side == 1 and self.other == "moved":
                recalls = recalls.roll(len(recalls) // 2)
            models = []
            for replicate in range(self.replicates):
                confidence, chance = torch.full((len(labels),), 0.5), recalls
                if self.replicates > 1:
                    noise = torch.randn(len(recalls), generator=generator, dtype=torch.float64)
                    chance = torch.sigmoid(torch.logit(recalls) + SEED_SPREAD * noise)
                of_samples = chance[strata]
                if metric_named(self.metric).of_predictions is not None:
                    shift = float(self.truth.split(":")[1])
                    confidence = shift + (1.0 - shift) * torch.rand(
                        len(labels), generator=generator, dtype=torch.float64
                    )
                    of_samples = confidence - shift
                right = uniform[side, replicate] < of_samples
                predicted = torch.where(right, labels, (labels + elsewhere[side, replicate]) % self.classes)
                models.append(Predictions(labels, predicted, confidence.float(), groups))
            sides.append(models)
        return sides[0], sides[1]


def misses(cell: Cell, repetitions: int, seed: int) -> tuple[int, float]:
    """Count the intervals that leave the truth out; beside it their mean width."""
    # Imported here, so that another version of the package can be put before this one.
    from selmix.statistics.comparison import paired_difference
    from selmix.statistics.intervals import metric_interval

    generator = torch.Generator().manual_seed(seed)
    wrong, width = 0, 0.0
    for _ in range(repetitions):
        ours, theirs = cell.draw(generator)
        if cell.kind == "single":
            interval, truth = metric_interval(cell.metric, ours[0], cell.context), cell.true_value
        else:
            interval, truth = paired_difference(cell.metric, ours, theirs, cell.context), 0.0
        # The truth on the edge is covered; 1e-9 for rounding.
        wrong += not interval.low - 1e-9 <= truth <= interval.high + 1e-9
        width += interval.high - interval.low
    return wrong, width / repetitions


@dataclass(frozen=True)
class Outcome:
    """Outcome of a cell.

    Attributes:
        rate: share of the intervals that miss.
        repetitions: that it is a share of.
        width: mean width of the intervals.
        fails: True if the rate exceeds what is allowed beyond chance.
        seconds: that the cell took.
    """

    rate: float
    repetitions: int
    width: float
    fails: bool
    seconds: float


def study(cell: Cell, index: int, repetitions: int | None) -> Outcome:
    """Run a cell, and once more with fresh repetitions where it looks too high."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    count = repetitions or cell.repetitions or REPETITIONS
    wrong, width = misses(cell, count, 2 * index)
    rate = wrong / count
    if repetitions is None and rate > 0.05 + 2.0 * math.sqrt(0.05 * 0.95 / count):
        count = FRESH if not cell.repetitions else 5 * cell.repetitions
        wrong, width = misses(cell, count, 2 * index + 1)
        rate = wrong / count
    return Outcome(rate, count, width, too_high(cell, wrong, count), time.perf_counter() - started)


def too_high(cell: Cell, wrong: int, count: int) -> bool:
    """True if the rate of misses is too high beyond chance, by its 99.9 % limit."""
    from scipy.special import betaincinv

    allowed = 0.05 if cell.kind == "paired" else 0.07
    return bool(wrong > 0 and betaincinv(wrong, count - wrong + 1, 0.001) > allowed)


def load(path: Path) -> list[Cell]:
    """Read the list of cells."""
    kinds = {field.name: field.type for field in dataclasses.fields(Cell)}
    convert = {"int": int, "float": float, "str": str}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Cell(**{key: convert[str(kinds[key])](value) for key, value in row.items() if value != ""})
            for row in csv.DictReader(file)
        ]


def results(cells: dict[int, Cell], jobs: int, repetitions: int | None) -> Iterator[tuple[Cell, Outcome]]:
    """Run the cells, each by its place in the whole list, some at a time; in their order."""
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(study, cell, index, repetitions) for index, cell in cells.items()]
        for cell, future in zip(cells.values(), futures, strict=True):
            yield cell, future.result()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=Path, default=HERE / "size_study_cells.csv")
    parser.add_argument("--out", type=Path, help="write the outcomes here, as CSV")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="200 repetitions of every eighth cell")
    parser.add_argument("--only", help="cells whose metric contains this")
    parser.add_argument("--repetitions", type=int, help="of every cell, without a second run")
    arguments = parser.parse_args()
    # A cell has the draws of its place, whichever others are run.
    cells = dict(enumerate(load(arguments.cells)))
    if arguments.only:
        cells = {index: cell for index, cell in cells.items() if arguments.only in cell.metric}
    repetitions = arguments.repetitions
    if arguments.quick:
        cells, repetitions = dict(list(cells.items())[::8]), 200
    header = [field.name for field in dataclasses.fields(Cell)][:-1]
    rows, failed = [], 0
    for cell, outcome in results(cells, arguments.jobs, repetitions):
        row = [*(getattr(cell, name) for name in header), outcome.repetitions, f"{100 * outcome.rate:.2f}",
               f"{outcome.width:.4f}", "fails" if outcome.fails else "", f"{outcome.seconds:.0f}"]  # fmt: skip
        failed += outcome.fails
        rows.append(row)
        print(*row, sep=",", flush=True)
        if arguments.out:
            with arguments.out.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(
                    [[*header, "repetitions", "misses_percent", "width", "fails", "seconds"], *rows]
                )
    print(f"{failed} of {len(rows)} cells fail", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
