"""The calibrated test of minima: its statistic, its nulls and its draws against closed forms, and its inversion."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import calibrated_test
from benchmarks.calibrated_test import (
    Cell,
    Dependence,
    common_level,
    discordant,
    drawn,
    frechet_share,
    hits_of,
    lower_limit,
    null_table,
    rejects,
    shipped_limit,
    sorted_uniforms,
    too_high,
)
from selmix.statistics.paired_minima import least_mean_difference

# Both right, ours alone, theirs alone, neither; 24 samples of each of two classes.
COUNTS = torch.tensor([[10.0, 5.0, 2.0, 7.0], [20.0, 2.0, 1.0, 1.0]], dtype=torch.float64)


def test_the_statistic_by_hand() -> None:
    found = hits_of(COUNTS).studentised(0.05)[0]
    a, b = [15.5 / 25, 22.5 / 25], 12.5 / 25
    covariance = (10 / 24 - 15 / 24 * 12 / 24) / 25
    first = a[0] * (1 - a[0]) / 24 + b * (1 - b) / 24 - 2 * covariance
    second = a[1] * (1 - a[1]) / 24 + b * (1 - b) / 24  # class 0 of theirs is another class
    assert found.tolist() == pytest.approx([
        (15 / 24 - 12 / 24 - 0.05) / math.sqrt(first), (22 / 24 - 12 / 24 - 0.05) / math.sqrt(second),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "shift"),
    [(0.7, [0.5, 0.9], 0.0), (0.4, [0.6, 0.7], 0.1), (0.9, [0.3, 0.35], 0.2), (1.0, [1.0, 0.5], 0.0)],
)
def test_the_common_level_has_the_greatest_likelihood(ours: float, theirs: list[float], shift: float) -> None:
    """Against all t and all recalls of theirs of which the least is t, on a grid."""

    def log_likelihood(observed: float, recall: float) -> float:
        sides = ((observed, recall), (1.0 - observed, 1.0 - recall))
        return sum(
            share * (math.log(chance) if chance > 0 else -math.inf) for share, chance in sides if share > 0
        )

    grid = [i / 200 for i in range(201)]
    best = max(
        (log_likelihood(ours, t + shift) + log_likelihood(theirs[k], t) + log_likelihood(theirs[1 - k], other), t)
        for t in grid if t + shift <= 1.0
        for k in (0, 1)
        for other in grid if other >= t
    )  # fmt: skip
    found = common_level(ours, torch.tensor(theirs, dtype=torch.float64), 24, shift)
    assert found == pytest.approx(best[1], abs=0.006)


def test_a_null_has_the_minima_that_it_says() -> None:
    hits = hits_of(COUNTS)
    table = null_table(hits, 0, 0.05, discordant(hits))
    both, ours, theirs = table.T
    assert float((both + ours).min()) == pytest.approx(float((both + theirs).min()) + 0.05)
    assert float((both + ours)[1]) > 22 / 24
    assert bool((table >= 0).all())
    assert float(table.sum(dim=1).max()) <= 1 + 1e-12


def test_what_is_kept_of_the_dependence() -> None:
    hits = hits_of(COUNTS)
    a, b = torch.tensor([0.6, 0.9], dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
    # 7 + 3 discordant of 48, two pseudo-samples, and one pooled one in each class.
    kept = discordant(hits)
    expected = [(each + 12 / 50) / 25 for each in (7, 3)]
    assert (a + b - 2 * kept.both(a, b)).tolist() == pytest.approx(expected)
    covariance = 10 / 24 - 15 / 24 * 12 / 24 + 20 / 24 - 22 / 24 * 21 / 24
    bound = (12 / 24) * (1 - 15 / 24) + (21 / 24) * (1 - 22 / 24)
    share = frechet_share(hits)
    assert share.share == pytest.approx(covariance / bound)
    assert Dependence(1.0).both(a, b).tolist() == pytest.approx([0.6, 0.8])
    assert Dependence(-1.0).both(a, b).tolist() == pytest.approx([0.2, 0.7])
    assert Dependence(0.0).both(a, b).tolist() == pytest.approx([0.36, 0.72])


def test_draws_have_the_probabilities_of_their_table_and_move_with_it() -> None:
    table = torch.tensor([[0.5, 0.1, 0.05], [0.8, 0.0, 0.1]], dtype=torch.float64)
    uniforms = sorted_uniforms(2, 50, 2000, 0)
    hits = drawn(table, uniforms)
    # Four standard errors of 100,000 samples.
    assert hits.both.mean(dim=0).tolist() == pytest.approx([0.5, 0.8], abs=0.0064)
    assert hits.ours.mean(dim=0).tolist() == pytest.approx([0.6, 0.8], abs=0.0064)
    assert hits.theirs.mean(dim=0).tolist() == pytest.approx([0.55, 0.9], abs=0.0064)
    assert bool(((hits.both <= hits.ours) & (hits.both <= hits.theirs)).all())
    more = drawn(table + torch.tensor([0.01, 0.0, 0.0]), uniforms)
    assert bool((more.ours >= hits.ours).all())
    # Another test has other draws, the same test has the same.
    assert not torch.equal(sorted_uniforms(2, 50, 2000, 1), uniforms)
    assert torch.equal(sorted_uniforms(2, 50, 2000, 0), uniforms)
    assert hits_of(COUNTS).seed == hits_of(COUNTS.clone()).seed != hits_of(COUNTS.flip(0)).seed


def test_the_shipped_limit_is_that_of_the_same_samples() -> None:
    generator, labels = torch.Generator().manual_seed(3), torch.arange(3).repeat_interleave(20)
    ours, theirs = torch.rand((2, 60), generator=generator) < torch.tensor([[0.8], [0.6]])
    outcome = 2 * (~ours).long() + (~theirs).long()
    counts = torch.bincount(labels * 4 + outcome, minlength=12).view(3, 4).double()
    expected = least_mean_difference(labels, torch.arange(3), ours, theirs, 0.05)[0]
    assert shipped_limit(counts) == pytest.approx(expected)


def test_the_frechet_share_of_few_discordant_samples_leaves_the_null_without_any() -> None:
    """Four samples speak for ours and none for theirs: chance .06 one-sided, which the share does not see."""
    few = hits_of(torch.tensor([[10.0, 4.0, 0.0, 10.0], [23.0, 0.0, 0.0, 1.0]], dtype=torch.float64))
    assert rejects(few, 0.0, 199, "frechet")
    assert not rejects(few, 0.0, 199)


def test_the_limit_is_where_the_test_begins_not_to_reject() -> None:
    counts = torch.tensor([[60.0, 25.0, 5.0, 10.0], [90.0, 5.0, 2.0, 3.0]], dtype=torch.float64)
    hits, shipped = hits_of(counts), shipped_limit(counts)
    found = lower_limit(hits, shipped, 199)
    assert shipped - 0.05 <= found < 0.2
    assert rejects(hits, found, 199)
    assert not rejects(hits, found + 0.01, 199)
    # Near the limit of a paired difference of one class, .2 +- 1.96 * .051.
    assert found == pytest.approx(0.2 - 1.96 * math.sqrt((0.3 - 0.04) / 100), abs=0.02)
    # Equal models: no difference below 0 is far enough to be rejected.
    equal = hits_of(torch.tensor([[60.0, 8.0, 8.0, 24.0]] * 2, dtype=torch.float64))
    assert lower_limit(equal, -0.1, 199) < 0.0


@pytest.mark.parametrize("truth", ["alike", "same", "other", "against_all", "spread", "reversed"])
def test_cells_have_the_difference_that_they_say(truth: str) -> None:
    ours, theirs = Cell(5, 24, truth, 0.6, 0.1, 0.5, "size").recalls
    assert float(ours.min() - theirs.min()) == pytest.approx(0.1)


def test_sizes_above_chance() -> None:
    # .025 and two standard errors of 400: .0406.
    assert too_high(0.041, 400)
    assert not too_high(0.04, 400)


def test_the_program_prints_a_line_for_each_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell(2, 24, "alike", 0.8, 0.0, 0.0, "size"), Cell(2, 24, "same", 0.3, 0.6, 0.5, "power")]
    monkeypatch.setattr(calibrated_test, "load", lambda path: cells)
    monkeypatch.setattr(
        "sys.argv", ["calibrated_test", "--repetitions", "20", "--limits", "2", "--draws", "99"]
    )
    assert calibrated_test.main() == 0
    size, power = (line.split(",") for line in capsys.readouterr().out.splitlines())
    assert size[:8] == ["2", "24", "alike", "0.8", "0.0", "0.0", "size", "20"]
    # .9 against .3 in 24 samples is seen.
    assert [power[6], float(power[8]) > 0.8, float(power[9]) > 0.8] == ["power", True, True]
