"""The calibrated intersection-union test of a difference of minima, beside the limits that are shipped.

    python benchmarks/calibrated_test.py [--cells FILE] [--out FILE] [--repetitions 1000] [--limits 3] [--draws 399]
        [--dependence frechet]

The test is a parametric bootstrap and no part of the product; what is measured here decides whether it should be. Of a
shift d the hypothesis is min a <= min b + d; the lower limit is the least d that is not rejected at alpha / 2.

- Statistic: T(d) = min_k (a_k - min b - d) / s_k, s_k from recalls with a pseudo-sample; the covariance of a_k and
  min b counts only where k is b's least class.
- Null configurations, one for each class k that may be a's least one (its studentised distance within 3 of the least):
  a_k = t + d and min b = t, t of the greatest likelihood; b's classes within a standard error of t are set to t; the
  other classes of a to the greater of what was observed and t + d, and one standard error more. Pairs keep the
  observed share of the Frechet bound of the covariance, all classes together (``frechet``), or the observed share of
  discordant samples, which are then as likely to speak for either model (``discordant``).
- p = max_k p_k, p_k = (1 + #{T* >= T}) / (B + 1).
- Lower limit: bisection over d from the shipped limit less .05 to the observed difference, with the same random numbers
  at every d, and three checks below; where one is not rejected, that one stands.

A cell is a number of classes and of samples a class, true recalls, a correlation and d. Counted are, of size, the draws
on which d itself is rejected, that is on which the limit exceeds the true d (nominal .025); of power, those on which 0
is. On the first draws the test is inverted too, and those are counted on which its limit says otherwise. The shipped
lower limit sees the same draws. A cell of size above .025 and two standard errors runs again with four times as many
fresh draws, and only those count.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from selmix.statistics.paired_minima import least_mean_difference

HERE = Path(__file__).parent
MISS = 0.025
NEAR = 3.0
"""Studentised distance from the least, up to which a class may be the least one of ours."""
STEPS = 10  # of the bisection: a thousandth of its range
STRONG = 0.95


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        classes: K.
        samples: of each class.
        truth: recalls of both models: ``alike`` (all of them at ``least``), ``same`` (class 0 the weak one of both),
            ``other`` (class 0 of ours, class 1 of theirs), ``against_all`` (class 0 of ours, all of theirs), other
            classes at .95; ``spread`` (from the least one to .95) or ``reversed`` (theirs in the other order).
        least: least recall of theirs.
        shift: d, the true difference of the minima.
        correlation: share of the samples with one draw for both models.
        asks: ``size`` at d, or ``power`` to see that the difference is above 0.
    """

    classes: int
    samples: int
    truth: str
    least: float
    shift: float
    correlation: float
    asks: str

    @property
    def recalls(self) -> tuple[Tensor, Tensor]:
        """True recalls of ours and of theirs, each of shape (K,)."""
        ours, theirs = (torch.full((self.classes,), STRONG, dtype=torch.float64) for _ in range(2))
        if self.truth == "alike":
            ours[:], theirs[:] = self.least + self.shift, self.least
        elif self.truth in ("spread", "reversed"):
            ours, theirs = (
                torch.linspace(low, STRONG, self.classes, dtype=torch.float64)
                for low in (self.least + self.shift, self.least)
            )
            theirs = theirs.flip(0) if self.truth == "reversed" else theirs
        elif self.truth == "against_all":
            ours[0], theirs[:] = self.least + self.shift, self.least
        else:
            ours[0], theirs[{"same": 0, "other": 1}[self.truth]] = self.least + self.shift, self.least
        return ours, theirs

    def draw(self, generator: torch.Generator) -> Tensor:
        """Counts of (both, ours alone, theirs alone, neither) right in every class, shape (K, 4), float64."""
        ours, theirs = (each.unsqueeze(1) for each in self.recalls)
        uniform = torch.rand((2, self.classes, self.samples), generator=generator, dtype=torch.float64)
        shared = torch.rand((self.classes, self.samples), generator=generator) < self.correlation
        a, b = uniform[0] < ours, torch.where(shared, uniform[0], uniform[1]) < theirs
        return torch.stack([a & b, a & ~b, ~a & b, ~a & ~b], dim=2).sum(dim=1).double()


@lru_cache(maxsize=2)
def _pool(classes: int, samples: int, draws: int) -> Tensor:
    """Uniform numbers, sorted within (class, draw), shape (K, M, n), M at least four times the draws of a test."""
    count = max(4 * draws, 40_000 // classes)
    generator = torch.Generator().manual_seed(0)
    return torch.rand((classes, count, samples), generator=generator).sort(dim=2).values


def sorted_uniforms(classes: int, samples: int, draws: int, seed: int) -> Tensor:
    """Uniform numbers of one test, sorted within (class, draw), shape (K, B, n): the same for each configuration.

    They have to differ from test to test: with the same for all, the threshold that B draws give is off for all alike.
    Sorting takes long, so that draws are taken from a pool, other ones and of another class for every class.

    Args:
        classes: K.
        samples: n.
        draws: B.
        seed: of the test.
    """
    pool, generator = _pool(classes, samples, draws), torch.Generator().manual_seed(seed)
    of_classes = torch.randperm(classes, generator=generator).unsqueeze(1)
    return pool[of_classes, torch.randint(pool.shape[1], (classes, draws), generator=generator)]


@dataclass(frozen=True)
class Hits:
    """Recalls and joint hits that the statistic needs of one or more samples.

    Attributes:
        ours: recalls of ours, shape (B, K).
        theirs: recalls of theirs, shape (B, K).
        both: share of the samples on which both are right, shape (B, K).
        samples: of each class.
    """

    ours: Tensor
    theirs: Tensor
    both: Tensor
    samples: int

    @property
    def seed(self) -> int:
        """A number that follows from the counts."""
        counts = torch.stack([self.ours, self.theirs, self.both]) * self.samples
        return zlib.crc32(counts.round().short().numpy().tobytes())

    def studentised(self, shift: float) -> Tensor:
        """(a_k - min b - d) / s_k of every class, shape (B, K)."""
        n = self.samples
        least, at = self.theirs.min(dim=1, keepdim=True)
        a, b = ((n * each + 0.5) / (n + 1.0) for each in (self.ours, least))
        variance = (a * (1.0 - a) + b * (1.0 - b)) / n
        # Shrunk like the variances, so that two models that always agree keep some.
        both, ours = self.both.gather(1, at), self.ours.gather(1, at)
        covariance = (both - ours * least) * n / (n + 1.0) / n
        variance = variance.scatter_add(1, at, -2.0 * covariance)
        return (self.ours - least - shift) / variance.clamp_min(0.25 / n**2).sqrt()


def hits_of(counts: Tensor) -> Hits:
    """Hits of one sample from its counts, shape (K, 4)."""
    n = int(counts[0].sum())
    each = counts.unsqueeze(0)
    ours, theirs = each[..., 0] + each[..., 1], each[..., 0] + each[..., 2]
    return Hits(ours / n, theirs / n, each[..., 0] / n, n)


def common_level(ours: float, theirs: Tensor, samples: int, shift: float) -> float:
    """t of the greatest likelihood with a_k = t + d and min b = t.

    Args:
        ours: observed recall of class k of ours.
        theirs: observed recalls of theirs, shape (K,).
        samples: of each class.
        shift: d.
    """
    low, high = max(0.0, -shift), min(1.0, 1.0 - shift)
    for _ in range(2):
        t = torch.linspace(low, high, 33, dtype=torch.float64)
        a = t + shift
        fit = torch.xlogy(torch.full_like(t, ours), a) + torch.xlogy(torch.full_like(t, 1.0 - ours), 1.0 - a)
        # Of theirs those below t are lifted to it; where none is, the one that loses least is lowered.
        level = t.unsqueeze(1)
        loss = (torch.xlogy(theirs, theirs) + torch.xlogy(1.0 - theirs, 1.0 - theirs)) - (
            torch.xlogy(theirs, level) + torch.xlogy(1.0 - theirs, 1.0 - level)
        )
        lifted = torch.where(theirs < level, loss, 0.0).sum(dim=1)
        lowered = torch.where((theirs <= level).any(dim=1), 0.0, loss.amin(dim=1))
        best = int((fit - lifted - lowered).nan_to_num(nan=-math.inf).argmax())
        step = (high - low) / 32.0
        low, high = max(low, float(t[best]) - step), min(high, float(t[best]) + step)
    return float(t[best])


@dataclass(frozen=True)
class Dependence:
    """Dependence of the observed pairs that a null keeps.

    Attributes:
        share: of the Frechet bound of the covariance, all classes together, in [-1, 1]; or None.
        discordant: share of the samples of each class on which one model alone is right, shape (K,); or None.
    """

    share: float | None = None
    discordant: Tensor | None = None

    def both(self, a: Tensor, b: Tensor) -> Tensor:
        """Probabilities that both models are right, of recalls a and b, shape (K,)."""
        if self.discordant is not None:
            both = (a + b - self.discordant) / 2.0
            return torch.minimum(torch.maximum(both, (a + b - 1.0).clamp_min(0.0)), torch.minimum(a, b))
        if self.share is None:
            raise AssertionError("a dependence has a share or discordant samples")
        return a * b + self.share * _frechet(a, b, self.share)


def _frechet(a: Tensor, b: Tensor, sign: float) -> Tensor:
    """Bound of a covariance of this sign, >= 0, shape (K,)."""
    return torch.minimum(a, b) - a * b if sign > 0 else a * b - (a + b - 1.0).clamp_min(0.0)


def frechet_share(hits: Hits) -> Dependence:
    """Share of the Frechet bound that the covariances have, all classes together."""
    covariance = float((hits.both - hits.ours * hits.theirs).sum())
    bound = float(_frechet(hits.ours, hits.theirs, covariance).sum())
    return Dependence(max(-1.0, min(1.0, covariance / bound)) if bound > 0 else 0.0)


def discordant(hits: Hits) -> Dependence:
    """Share of discordant samples: two pseudo-samples in all, and one pooled pseudo-sample in every class."""
    n = hits.samples
    each = (hits.ours + hits.theirs - 2.0 * hits.both)[0]
    pooled = (n * each.sum() + 2.0) / (n * len(each) + 2.0)
    return Dependence(discordant=(n * each + pooled) / (n + 1.0))


DEPENDENCE = {"frechet": frechet_share, "discordant": discordant}


def null_table(hits: Hits, k: int, shift: float, dependence: Dependence) -> Tensor:
    """Probabilities of (both, ours alone, theirs alone) right under the null in which class k is the least of ours.

    Returns:
        Shape (K, 3), float64.
    """
    observed_a, observed_b, n = hits.ours[0], hits.theirs[0], hits.samples
    t = common_level(float(observed_a[k]), observed_b, n, shift)
    errors = []
    for each in (observed_a, observed_b):
        shrunk = (n * each + 0.5) / (n + 1.0)
        errors.append((shrunk * (1.0 - shrunk) / n).sqrt())
    b = torch.where(observed_b <= t + errors[1], t, observed_b)
    if not bool((b == t).any()):
        b[observed_b.argmin()] = t
    a = (observed_a.clamp_min(t + shift) + errors[0]).clamp_max(1.0)
    a[k] = t + shift
    both = dependence.both(a, b)
    return torch.stack([both, a - both, b - both], dim=1).clamp(0.0, 1.0)


def drawn(table: Tensor, uniforms: Tensor) -> Hits:
    """Samples of a configuration.

    Args:
        table: probabilities of (both, ours alone, theirs alone) right, shape (K, 3).
        uniforms: of the test, shape (K, B, n).
    """
    _, draws, samples = uniforms.shape
    ends = table.cumsum(dim=1).float().unsqueeze(1).expand(-1, draws, -1).contiguous()
    below = torch.searchsorted(uniforms, ends).double().transpose(0, 1)
    # Whole numbers until the division: equal recalls must be equal.
    both, ours, theirs = below[..., 0], below[..., 1], below[..., 0] + below[..., 2] - below[..., 1]
    return Hits(ours / samples, theirs / samples, both / samples, samples)


def rejects(hits: Hits, shift: float, draws: int, dependence: str = "discordant") -> bool:
    """True if the test rejects that min a <= min b + d: every null that is near has p_k <= MISS.

    Args:
        hits: of the sample.
        shift: d.
        draws: B.
        dependence: a key of DEPENDENCE.
    """
    distances = hits.studentised(shift)[0]
    statistic = float(distances.min())
    # No p is that small where the observed difference does not exceed d.
    if statistic <= 0.0:
        return False
    kept = DEPENDENCE[dependence](hits)
    uniforms = sorted_uniforms(len(distances), hits.samples, draws, hits.seed)
    near = (distances <= statistic + NEAR).nonzero().flatten().tolist()
    for k in sorted(near, key=lambda k: float(distances[k])):
        again = drawn(null_table(hits, k, shift, kept), uniforms)
        reached = int((again.studentised(shift).amin(dim=1) >= statistic - 1e-9).sum())
        if (1 + reached) / (draws + 1) > MISS:
            return False
    return True


def lower_limit(hits: Hits, shipped: float, draws: int, dependence: str = "discordant") -> float:
    """Lower limit of min a - min b by inversion.

    Args:
        hits: of the sample.
        shipped: lower limit of the product, from which less .05 the search goes up.
        draws: B.
        dependence: a key of DEPENDENCE.
    """
    low, high = max(-1.0, shipped - 0.05), float(hits.ours.min() - hits.theirs.min())
    if not rejects(hits, low, draws, dependence):
        return low
    start = low
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rejects(hits, middle, draws, dependence) else (low, middle)
    for share in (0.25, 0.5, 0.75):
        check = start + share * (low - start)
        if not rejects(hits, check, draws, dependence):
            return check
    return low


def shipped_limit(counts: Tensor) -> float:
    """Lower limit of the product for the same sample, counts of shape (K, 4)."""
    classes, labels = len(counts), torch.arange(len(counts))
    strata = labels.repeat_interleave(int(counts[0].sum()))
    outcomes = torch.arange(4).repeat(classes).repeat_interleave(counts.flatten().long())
    return least_mean_difference(strata, labels, outcomes < 2, outcomes % 2 == 0, 2.0 * MISS)[0]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a cell.

    Attributes:
        repetitions: of the test.
        test: share of the draws on which it rejects.
        shipped: share of the same on which the shipped limit lies above.
        test_milliseconds: processor time of one test.
        limits: number of draws on which the test was inverted too.
        contradicted: those of them on which its limit lies above where the test does not reject, or the reverse.
        limit_milliseconds: processor time of one inversion.
    """

    repetitions: int
    test: float
    shipped: float
    test_milliseconds: float
    limits: int
    contradicted: int
    limit_milliseconds: float


def study(
    cell: Cell, repetitions: int, limits: int, draws: int, seed: int, dependence: str = "discordant"
) -> Outcome:
    """Run a cell.

    Args:
        cell: what is drawn.
        repetitions: of the test at the d that is asked for.
        limits: first draws on which it is inverted too.
        draws: B.
        seed: of the draws.
        dependence: a key of DEPENDENCE.
    """
    generator = torch.Generator().manual_seed(seed)
    _pool(cell.classes, cell.samples, draws)
    at = cell.shift if cell.asks == "size" else 0.0
    test = shipped = contradicted = 0
    of_test = of_limit = 0.0
    for index in range(repetitions):
        counts = cell.draw(generator)
        hits, limit = hits_of(counts), shipped_limit(counts)
        started = time.process_time()
        rejected = rejects(hits, at, draws, dependence)
        of_test += time.process_time() - started
        test += rejected
        shipped += limit > at + 1e-9
        if index < limits:
            started = time.process_time()
            contradicted += (lower_limit(hits, limit, draws, dependence) > at + 1e-9) != rejected
            of_limit += time.process_time() - started
    count = min(limits, repetitions)
    return Outcome(
        repetitions, test / repetitions, shipped / repetitions, 1000.0 * of_test / repetitions,
        count, contradicted, 1000.0 * of_limit / max(count, 1),
    )  # fmt: skip


def too_high(rate: float, count: int) -> bool:
    """True if a size lies above its nominal value by more than two standard errors."""
    return rate > MISS + 2.0 * math.sqrt(MISS * (1.0 - MISS) / count)


def load(path: Path) -> list[Cell]:
    """Read the list of cells."""
    kinds = {
        field.name: {"int": int, "float": float, "str": str}[str(field.type)]
        for field in dataclasses.fields(Cell)
    }
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Cell(**{key: kinds[key](value) for key, value in row.items()}) for row in csv.DictReader(file)
        ]


def outcomes(
    cells: list[Cell], repetitions: int, limits: int, draws: int, dependence: str
) -> Iterator[tuple[Cell, Outcome]]:
    """Run the cells; one of size that looks too high once more, with four times as many fresh draws."""
    for index, cell in enumerate(cells):
        found = study(cell, repetitions, limits, draws, 2 * index, dependence)
        if cell.asks == "size" and too_high(found.test, found.repetitions):
            again = study(cell, 4 * repetitions, 0, draws, 2 * index + 1, dependence)
            found = dataclasses.replace(
                found, repetitions=again.repetitions, test=again.test, shipped=again.shipped
            )
        yield cell, found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=Path, default=HERE / "calibrated_test_cells.csv")
    parser.add_argument("--out", type=Path, help="write the outcomes here, as CSV")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--limits", type=int, default=3, help="draws of a cell on which the test is inverted")
    parser.add_argument("--draws", type=int, default=399, help="B")
    parser.add_argument("--dependence", choices=list(DEPENDENCE), default="discordant")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    header = [field.name for field in (*dataclasses.fields(Cell), *dataclasses.fields(Outcome))] + ["above"]
    rows = []
    for cell, found in outcomes(
        load(arguments.cells), arguments.repetitions, arguments.limits, arguments.draws, arguments.dependence
    ):
        above = cell.asks == "size" and too_high(found.test, found.repetitions)
        rows.append([
            *dataclasses.astuple(cell), found.repetitions, f"{found.test:.4f}", f"{found.shipped:.4f}",
            f"{found.test_milliseconds:.0f}", found.limits, found.contradicted,
            f"{found.limit_milliseconds:.0f}", "above" if above else "",
        ])  # fmt: skip
        print(*rows[-1], sep=",", flush=True)
        if arguments.out:
            with arguments.out.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
