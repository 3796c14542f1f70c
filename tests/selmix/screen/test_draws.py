"""A round's draws at once are those of the samplers step by step, to the bit."""

from __future__ import annotations

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.loss_weights import uniform_samples
from selmix.mixup import draw_coefficients
from selmix.screen.draws import Draw, Pool, draw_stretches, pair_numbers

SEEDS = (3, 2**40 + 1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("mixes", [True, False])
def test_numbers_are_those_of_single_calls(batch_size: int, steps: int, mixes: bool) -> None:
    ours, theirs = ([torch.Generator().manual_seed(seed) for seed in SEEDS] for _ in range(2))
    numbers, coefficients = pair_numbers(ours, steps, batch_size, mixes)
    for row, generator in enumerate(theirs):
        for step in range(steps):
            drawn = torch.rand(3, batch_size, generator=generator, dtype=torch.float64)
            assert torch.equal(numbers[row, step], drawn)
            if coefficients is not None:
                assert torch.equal(coefficients[row, step], torch.rand(batch_size, generator=generator))
        assert torch.equal(ours[row].get_state(), generator.get_state())
    assert (coefficients is not None) == mixes


def policies(count: int, strata: int) -> torch.Tensor:
    drawn = torch.rand(count, strata, strata, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Pairs of probability zero, the last one among them.
    drawn[drawn < 0.4] = 0.0
    drawn[:, -1, -1] = 0.0
    return drawn / drawn.sum(dim=(1, 2), keepdim=True)


def test_stretches_are_those_of_the_samplers() -> None:
    strata = torch.tensor([0, 1, 1, 2, 0, 2, 2, 1, 0, 1, 2, 2, 2])
    pools = [Pool.of(strata, 3), Pool.of(strata[:8], 3)]
    configs = [
        FinetuneConfig(batch_size=9, coefficient_min=0.3),
        FinetuneConfig(batch_size=9, coefficient_min=0.7),
        FinetuneConfig(batch_size=9, coefficient_min=1.0),
        FinetuneConfig(batch_size=4),
        FinetuneConfig(batch_size=9, policy="loss_weight"),
    ]
    places = policies(len(configs), 3)
    places[4] = torch.diag(torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))
    draws = [
        Draw(config, torch.Generator().manual_seed(n), pools[n % 2], 6) for n, config in enumerate(configs)
    ]
    for n, (config, stretch) in enumerate(zip(configs, draw_stretches(draws, places), strict=True)):
        generator = torch.Generator().manual_seed(n)
        torch.randint(2**62, (), generator=generator)
        pool = pools[n % 2]
        if config.policy == "loss_weight":
            for step in range(6):
                drawn = uniform_samples(pool.size, config.batch_size, generator)
                assert torch.equal(stretch.first[step], drawn)
                shares = pool.counts / pool.counts.sum()
                expected = (places[n].diagonal() / shares)[pool.strata[drawn]]
                assert stretch.weights is not None
                assert torch.allclose(stretch.weights[step], expected.float())
            continue
        pool.sampler.set_policy(places[n])
        for step in range(6):
            first, other = pool.sampler.draw(config.batch_size, generator)
            assert torch.equal(stretch.first[step], first)
            if not config.mixes:
                assert stretch.other is None
                assert stretch.coefficients is None
                continue
            assert stretch.other is not None
            assert stretch.coefficients is not None
            assert torch.equal(stretch.other[step], other)
            mixed = draw_coefficients(config.batch_size, config.coefficient_min, generator)
            assert torch.equal(stretch.coefficients[step], mixed)
        assert torch.equal(draws[n].generator.get_state(), generator.get_state())
