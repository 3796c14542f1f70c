"""The power study: its draws, its bound against cases in closed form, and its comparison of two versions."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from benchmarks import power_study
from benchmarks.power_study import SIZE, Case, bound, change, draw, seen

SAME = Case("min_recall", "same", 0.8, 0.6, 24)


@pytest.mark.parametrize("weak", ["same", "other", "all"])
def test_draws_have_the_probabilities_of_their_tables(weak: str) -> None:
    case = dataclasses.replace(SAME, weak=weak, samples=20_000)
    table, samples = case.tables(0.8, 0.6)
    assert table.sum(dim=1).tolist() == pytest.approx([1.0] * len(table))
    a, b = draw(case, 0.8, 0.6, torch.Generator().manual_seed(0))
    assert torch.equal(a.labels, b.labels)
    for k, expected in enumerate(table):
        inside = a.labels == k if weak != "all" else torch.ones_like(a.correct)
        x, y = a.correct[inside], b.correct[inside]
        found = torch.stack([(x & y), (x & ~y), (~x & y), (~x & ~y)]).double().mean(dim=1)
        # Four standard errors of 20,000 samples.
        assert torch.allclose(found, expected, atol=0.014)
        assert samples == int(inside.sum())


def exact_power(alternative: torch.Tensor, nulls: torch.Tensor, samples: int) -> float:
    """Power of the likelihood ratio against the nulls' even mixture, summed over all outcomes of one class."""
    counts = [c for c in itertools.product(range(samples + 1), repeat=4) if sum(c) == samples]
    ways = [math.factorial(samples) / math.prod(math.factorial(n) for n in c) for c in counts]

    def chances(table: torch.Tensor) -> list[float]:
        return [
            way * math.prod(float(p) ** n for p, n in zip(table, c, strict=True))
            for way, c in zip(ways, counts, strict=True)
        ]

    mixed = [sum(each) / len(nulls) for each in zip(*(chances(null) for null in nulls), strict=True)]
    left, power = SIZE, 0.0
    pairs = zip(chances(alternative), mixed, strict=True)
    for of_alternative, of_null in sorted(pairs, key=lambda pair: -pair[0] / pair[1]):
        share = min(1.0, left / of_null)
        left, power = left - share * of_null, power + share * of_alternative
    return power


@pytest.mark.parametrize("ours", [0.9, 1.0])
def test_the_bound_by_enumeration(ours: float) -> None:
    """Four samples of one class have 35 outcomes."""
    case = Case("min_recall", "same", ours, 0.4, 4, 0.3)
    points = torch.linspace(0.4, ours, power_study.GRID, dtype=torch.float64)[1:-1]
    nulls = torch.stack([case.tables(float(t), float(t))[0][0] for t in points])
    alternative = case.tables(ours, 0.4)[0][0]
    expected = min(
        exact_power(alternative, nulls[middle - reach : middle + reach + 1], 4)
        for reach in (0, 1, 2)
        for middle in range(reach, len(nulls) - reach)
    )
    found, _ = bound(case, torch.Generator().manual_seed(0), draws=20_000)
    # Four errors of the draws, and the least of 111 noisy ones.
    assert found == pytest.approx(expected, abs=0.02)


def test_the_bound_of_no_difference_is_the_size() -> None:
    near = dataclasses.replace(SAME, ours=0.6001, theirs=0.6)
    power, where = bound(near, torch.Generator().manual_seed(0), draws=4000)
    # Least over 111 nulls and mixtures, each with an error of .0035.
    assert power == pytest.approx(SIZE, abs=0.015)
    assert 0.6 < where < 0.6001


def test_the_limits_stay_below_the_bound() -> None:
    case = dataclasses.replace(SAME, samples=50)
    power = seen(case, 0.8, 0.6, 60, 0).count("1") / 60
    most, t = bound(case, torch.Generator().manual_seed(0), draws=2000)
    assert 0.3 < power < most
    assert 0.6 < t < 0.8
    # Models that are as good as each other: 60 draws, of which more than 6 with a chance below .001.
    assert seen(case, t, t, 60, 1).count("1") <= 6


def test_versions_are_compared_draw_by_draw() -> None:
    mean, error = change("1101", "1000")
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx((2 / 4 - 0.25) ** 0.5 / 2)
    assert change("1010", "10") == (0.0, 0.0)  # over the draws that both have
    assert change("00", "11") == (-1.0, 0.0)


def test_the_program_prints_a_line_for_each_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(power_study, "CASES", [SAME])
    monkeypatch.setattr(power_study, "bound", lambda case, generator: (0.588, 0.69))
    monkeypatch.setattr("sys.argv", ["power_study", "--repetitions", "10"])
    assert power_study.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    fields = line.split(",")
    assert fields[:7] == ["min_recall", "same", "0.8", "0.6", "24", "0.5", "10"]
    assert fields[-1] == "0.588"


def test_a_case_has_the_same_draws_whichever_others_are_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = Case("mean_recall", "all", 0.85, 0.8, 24)
    monkeypatch.setattr(power_study, "CASES", [SAME, mean])
    monkeypatch.setattr(power_study, "bound", lambda case, generator: (0.588, 0.69))
    printed = []
    for only in ([], ["--only", "mean"]):
        monkeypatch.setattr("sys.argv", ["power_study", "--repetitions", "20", *only])
        assert power_study.main() == 0
        printed.append(capsys.readouterr().out.splitlines())
    assert printed[1] == printed[0][1:]
