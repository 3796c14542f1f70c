"""Second samples from unlabelled data: filing, thresholds, the oracle, resuming, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.splits import SweepData
from selmix.model import predict
from selmix.pseudo_labels import UnlabelledPool
from selmix.run.run import Run, SelectionRule, finetune
from selmix.run.start_model import Base
from selmix.weights import state_digest
from tests.command import here
from tests.selmix.test_run import base_of

RULE = SelectionRule("min_recall")


@cache
def world() -> tuple[SweepData, Base]:
    data = GaussiansConfig(feedback=40, select=40, unlabelled=60).load()
    return data, base_of(data, "linear_head", 0)


def settings(**changes: object) -> FinetuneConfig:
    return FinetuneConfig(**{"second": "pseudo", "steps": 60, "pseudo_threshold": 0.5, **changes})


def test_unlabelled_samples_leave_the_other_splits_alone() -> None:
    with_them, without = (
        DigitsConfig(unlabelled=2, largest_class=70).load(),
        DigitsConfig(largest_class=70).load(),
    )
    assert with_them.unlabelled is not None
    assert with_them.unlabelled.counts(10).tolist() == [2] * 10
    assert {k: v for k, v in with_them.digests.items() if k != "unlabelled"} == dict(without.digests)
    with pytest.raises(ValueError, match="class 0 holds 178 samples, the splits ask for 194"):
        DigitsConfig(unlabelled=20)


def test_samples_are_filed_under_what_the_model_says() -> None:
    data, base = world()
    assert data.unlabelled is not None
    view = base.model.view(base.build("given", data.input_shape, data.num_classes))
    pool = UnlabelledPool(data.unlabelled, settings(pseudo_threshold=0.6))
    pool.file(view)
    _, logits = predict(view, data.unlabelled.inputs)
    confidence, labels = torch.softmax(logits, dim=1).max(dim=1)
    sure = confidence >= 0.6
    assert pool.used == int(sure.sum())
    sampler = pool.sampler(data.train.labels, data.num_classes)
    sampler.set_policy(
        torch.full((6, 6), 0.0).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(1.0))
    )
    _, second = sampler.draw(50, torch.Generator().manual_seed(0))
    drawn = pool.batch(second)
    allowed = data.unlabelled.inputs[sure & (labels == 1)]
    assert all(bool((allowed == row).all(dim=1).any()) for row in drawn)


def test_when_samples_are_filed() -> None:
    data, base = world()
    assert data.unlabelled is not None
    view = base.model.view(base.build("given", data.input_shape, data.num_classes))
    pool = UnlabelledPool(data.unlabelled, settings(pseudo_every=3))
    pool.file(view)
    assert [pool.due(number) for number in range(1, 8)] == [True, False, False, True, False, False, True]
    oracle = UnlabelledPool(data.unlabelled, settings(second="oracle"))
    assert oracle.due(1)
    oracle.file(view)
    assert oracle.used == len(data.unlabelled)
    assert not oracle.due(2)


@pytest.mark.parametrize("second", ["pseudo", "oracle"])
def test_a_run_goes_on_bit_equal(tmp_path: Path, second: str) -> None:
    data, base = world()
    config = settings(second=second, pseudo_every=2)
    whole = finetune(data, base, "min_recall", config, 3, RULE)
    first = Run(data, base, "min_recall", config, 3, RULE)
    for _ in range(3):  # in the middle of two labellings
        first.step()
    first.save(tmp_path)
    later = Run(data, base, "min_recall", config, 3, RULE)
    later.load(tmp_path)
    while not later.finished:
        later.step()
    assert state_digest(later.view.model.state_dict()) == state_digest(whole.view.model.state_dict())


def test_pseudo_labels_change_what_is_learnt() -> None:
    data, base = world()
    ends = {
        second: state_digest(
            finetune(data, base, "min_recall", settings(second=second), 0, RULE).view.model.state_dict()
        )
        for second in ("labelled", "pseudo", "oracle")
    }
    assert len(set(ends.values())) == 3
    plain = [
        finetune(data, base, "min_recall", settings(second=s, coefficient_min=1.0), 0, RULE)
        for s in ("labelled", "pseudo")
    ]
    assert len({state_digest(run.view.model.state_dict()) for run in plain}) == 1


def test_no_sample_is_sure_enough() -> None:
    data, base = world()
    run = finetune(data, base, "min_recall", settings(pseudo_threshold=1 - 1e-12), 0, RULE)
    assert run.stop_reason == "no_pseudo_labels"
    assert run.best is not None


def test_refused_without_unlabelled_samples(tmp_path: Path) -> None:
    data, base = world()
    bare = SweepData(data.name, data.class_names, data.train, data.feedback, data.select, {})
    with pytest.raises(ValueError, match="second: pseudo needs unlabelled data, there are none"):
        finetune(bare, base, "min_recall", settings(), 0, RULE)
    path = tmp_path / "pseudo.yaml"
    path.write_text(
        "version: 1\nname: p\ndata: {name: digits}\nobjectives: [min_recall]\n"
        "compare: {second: [labelled, pseudo, oracle]}\n"
    )
    done = here("validate", path)
    assert done.code == 3
    assert ":5: compare.second: needs unlabelled samples: give data.unlabelled" in done.err
    assert here("validate", path, "data.unlabelled=2", "data.largest_class=70").code == 0


def test_second_acts_only_where_something_is_mixed() -> None:
    assert "second" not in settings(coefficient_min=1.0).acting("min_recall")
    assert "pseudo_threshold" not in settings(second="oracle").acting("min_recall")
    assert settings().acting("min_recall")["pseudo_threshold"] == 0.5
