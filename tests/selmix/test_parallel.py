"""Several ranks against one: the same draws exactly, the same training up to the order of sums."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selmix.batch import Batch, pair_batch, weighted_batch
from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.splits import Split, SweepData
from selmix.finetune import Finetuner
from selmix.models import ModelConfig
from selmix.objectives import ObjectiveContext
from selmix.parallel.process_group import on_local_ranks
from selmix.parallel.world import ALONE, RanksDiffer, World
from selmix.run.local_ranks import RunRequest, finetune_on_workers, seconds_of_rounds
from selmix.run.run import Run, SelectionRule, finetune
from selmix.run.start_model import Base
from selmix.sampler import PairSampler
from selmix.weights import state_digest

RULE = SelectionRule("min_recall")
SHORT = FinetuneConfig(steps=30, refresh_every=10, momentum=0.9, lr=0.02, start="given")
OBJECTIVES = ("min_recall", "h_mean", "mean_recall_min_coverage")
VARIANTS: dict[str, dict[str, Any]] = {
    **{objective: {} for objective in OBJECTIVES},
    "accumulated": {"accumulate": 2},
    "at the input": {"mixup_layer": "input"},
    "frozen backbone": {"backbone_lr_scale": 0.0},
    "weighted losses": {"policy": "loss_weight"},
}


def world() -> tuple[SweepData, Base]:
    """Digits, and a small CNN as it is initialised."""
    data = DigitsConfig(seed=0, feedback=20, select=20).load()
    config = ModelConfig("small_cnn")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = config.build(data.input_shape, data.num_classes).state_dict()
    return data, Base(config, state, {})


def double(split: Split) -> Split:
    return Split(split.whole().double(), split.labels)


def precise(name: str, ranks: World) -> dict[str, Any]:
    """The rounds of a fine-tuner in float64: counts, policies and losses of each, and the weights at its end."""
    data, base = world()
    model = base.build("given", data.input_shape, data.num_classes).double()
    config = dataclasses.replace(SHORT, **VARIANTS[name])
    tuner = Finetuner(
        base.model.view(model), double(data.train), double(data.feedback),
        name if name in OBJECTIVES else "min_recall", config, ObjectiveContext(train_counts=data.train_counts),
        torch.Generator().manual_seed(3), world=ranks,
    )  # fmt: skip
    rounds = [tuner.run_round() for _ in range(3)]
    return {
        "confusion": [r.confusion for r in rounds], "policy": [r.policy for r in rounds],
        "loss": [r.scalars["loss"] for r in rounds], "weights": model.state_dict(),
    }  # fmt: skip


def scenario(ranks: World, folder: str) -> None:
    """Everything that the tests look at, in one start of the ranks."""
    home, report = Path(folder), {}
    report["precise"] = {name: precise(name, ranks) for name in VARIANTS}
    data, base = world()
    whole, again = (finetune(data, base, "min_recall", SHORT, 5, RULE, world=ranks) for _ in range(2))
    report["digests"] = [state_digest(run.view.model.state_dict()) for run in (whole, again)]
    first = Run(data, base, "min_recall", SHORT, 5, RULE, ranks)
    first.step()
    first.step()
    if ranks.is_first:
        first.save(home / "checkpoint")
    ranks.sum_(torch.zeros(1))  # the others wait for the file
    second = Run(data, base, "min_recall", SHORT, 99, RULE, ranks)
    second.load(home / "checkpoint")
    while not second.finished:
        second.step()
    report["resumed"] = state_digest(second.view.model.state_dict())
    report["weights"] = whole.view.model.state_dict()
    report["recalls"] = [r.select_recalls for r in whole.rounds]
    report["kept"] = whole.best is not None and bool(whole.best.state)
    broken = dataclasses.replace(
        data, feedback=dataclasses.replace(data.feedback, inputs=torch.where(
            torch.arange(len(data.feedback)).view(-1, 1, 1, 1) == 0, torch.nan, data.feedback.whole()))
    )  # fmt: skip
    report["nonfinite"] = finetune(broken, base, "min_recall", SHORT, 0, RULE, world=ranks).stop_reason
    try:
        ranks.check_alike(torch.tensor(float(ranks.rank)))
    except RanksDiffer as error:
        report["differ"] = str(error)
    torch.save(report, home / f"rank-{ranks.rank}.pt")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("ranks")
    on_local_ranks(scenario, 2, 1, str(folder))
    one, two = (torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    return one, two, folder


@pytest.mark.parametrize(("count", "size"), [(64, 2), (7, 3), (5, 5)])
def test_the_ranks_share_rows_without_gap_or_overlap(count: int, size: int) -> None:
    rows = torch.arange(count)
    parts = [World(rank, size).part(rows) for rank in range(size)]
    assert torch.equal(torch.cat(parts), rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_cannot_be_shared_is_refused() -> None:
    World(1, 4).check_batch(64, 2)
    with pytest.raises(
        ValueError, match=r"batch_size: must be a multiple of workers x accumulate, 3 x 1, got 64"
    ):
        World(0, 3).check_batch(64, 1)
    with pytest.raises(ValueError, match=r"workers: must be at most the samples of a split, 2, got 3"):
        World(0, 3).part(torch.zeros(2))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("how", ["mixed", "not mixed", "weighted"])
def test_the_union_over_the_ranks_is_the_single_draw(size: int, how: str) -> None:
    """Labels, augmented inputs, coefficients, weights, batch after batch; the generator ends at the same state."""
    generator = torch.Generator().manual_seed(0)
    pool = Split(torch.rand(60, 3, 16, 16, generator=generator), torch.arange(60) % 4)
    policy = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    weights = torch.rand(60, generator=generator)
    config = FinetuneConfig(augment="weak", coefficient_min=0.6 if how == "mixed" else 1.0)
    sampler = PairSampler(pool.labels, 4)
    sampler.set_policy(policy / policy.sum())

    def drawn(ranks: World) -> tuple[list[Batch], Tensor]:
        own = torch.Generator().manual_seed(7)
        if how == "weighted":
            batches = [weighted_batch(pool, weights, config, own, ranks) for _ in range(3)]
        else:
            batches = [pair_batch(pool, pool, sampler, config, own, ranks) for _ in range(3)]
        return batches, own.get_state()

    whole, state = drawn(ALONE)
    parts = [drawn(World(rank, size)) for rank in range(size)]
    assert all(torch.equal(end, state) for _, end in parts)
    for at, batch in enumerate(whole):
        for name, tensor in vars(batch).items():
            if tensor is not None:
                union = torch.cat([getattr(batches[at], name) for batches, _ in parts])
                assert torch.equal(union, tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_train_as_one(reports: tuple[dict[str, Any], dict[str, Any], Path], name: str) -> None:
    """In float64 only the order of sums is left: C is equal, the weights are to 1e-10."""
    torch.set_num_threads(1)
    one = precise(name, ALONE)
    for rank in (0, 1):
        two = reports[rank]["precise"][name]
        for mine, theirs in zip(one["confusion"], two["confusion"], strict=True):
            assert torch.equal(mine, theirs)
        for mine, theirs in zip(one["policy"], two["policy"], strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-9)
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)  # it is added up in float32
        for key, weights in one["weights"].items():
            assert torch.allclose(weights, two["weights"][key], rtol=0, atol=1e-10), key


@pytest.mark.slow
def test_the_bits_are_those_of_the_number_of_ranks(
    reports: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    first, second, _ = reports
    digests = {*first["digests"], *second["digests"], first["resumed"], second["resumed"]}
    assert len(digests) == 1  # of both ranks, run twice, and resumed from a checkpoint
    data, base = world()
    run = finetune_on_workers(2, RunRequest(data, base, "min_recall", SHORT, 5, RULE))
    assert {state_digest(run.view.model.state_dict())} == digests
    assert run.finished
    assert (first["kept"], second["kept"]) == (True, False)


@pytest.mark.slow
def test_two_ranks_in_float32_and_a_single_one_that_resumes(
    reports: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    """Rounding apart the same: weights to 1e-3 after 30 steps, and a recall differs by a sample of 20 at most."""
    data, base = world()
    single = finetune(data, base, "min_recall", SHORT, 5, RULE)
    resumed = Run(data, base, "min_recall", SHORT, 5, RULE)
    resumed.load(reports[2] / "checkpoint")
    while not resumed.finished:
        resumed.step()
    for run in (single, resumed):
        for key, weights in run.view.model.state_dict().items():
            assert torch.allclose(weights, reports[0]["weights"][key], rtol=0, atol=1e-3), key
        for mine, theirs in zip(run.rounds, reports[0]["recalls"], strict=True):
            assert float((mine.select_recalls - theirs).abs().max()) <= 1 / 20 + 1e-6


@pytest.mark.slow
def test_all_ranks_stop_where_one_sees_no_number(
    reports: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    assert [reports[rank]["nonfinite"] for rank in (0, 1)] == ["nonfinite:logits"] * 2
    assert all("values from [0.0] to [1.0]" in reports[rank]["differ"] for rank in (0, 1))


def dies(ranks: World, folder: str) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.sum_(torch.zeros(1))


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Exception, match=r"SIGKILL|gloo|closed by peer|reset by peer"):
        on_local_ranks(dies, 2, 1, str(tmp_path))
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_rounds_are_timed_on_both_workers() -> None:
    data, base = world()
    assert len(seconds_of_rounds(2, 1, RunRequest(data, base, "min_recall", SHORT, 0, RULE))) == 2
