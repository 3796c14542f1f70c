"""Training from scratch: its first steps by hand, its parts, and resuming between epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selmix.data.splits import Split
from selmix.models import ModelConfig
from selmix.pretrain import RECIPES, Pretrainer, PretrainSettings, pretrain, pretrainer
from selmix.pretrain.trainer import CONFIDENCE, UNLABELLED_RATIO, Recipe
from selmix.weights import state_digest
from tests.selmix.baselines.tasks import small_data

LINEAR = ModelConfig("linear_head")


def samples(count: int = 12) -> Split:
    g = torch.Generator().manual_seed(1)
    return Split(torch.randn(count, 4, generator=g), torch.arange(count) % 3)


def trainer(recipe: Recipe, split: Split | None = None, seed: int = 0, **given: Any) -> Pretrainer:
    settings = {
        name: given.pop(name) for name in list(given) if name in PretrainSettings.__dataclass_fields__
    }
    split = split if split is not None else samples()
    return Pretrainer(recipe, LINEAR, split, 3, seed, PretrainSettings(**settings), **given)


def first_weights(seed: int = 0) -> tuple[dict[str, Tensor], torch.Generator]:
    """Weights that a training begins with, and the generator after they were drawn."""
    generator = torch.Generator().manual_seed(seed)
    return {k: v.clone() for k, v in LINEAR.build((4,), 3, generator).state_dict().items()}, generator


@pytest.mark.parametrize("adjust", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_first_step_is_nesterovs_on_the_adjusted_loss(adjust: float, decay: float) -> None:
    """One batch of all samples: W - lr (1 + momentum) (gradient + decay W), the gradient written out."""
    split = samples().take(torch.tensor([0, 3, 6, 9, 1, 4, 2]))  # classes of 4, 2 and 1
    before, _ = first_weights()
    logits = split.whole() @ before["head.weight"].T + before["head.bias"]
    shifted = logits + adjust * torch.tensor([4 / 7, 2 / 7, 1 / 7]).log()
    residuals = (torch.softmax(shifted, dim=1) - torch.eye(3)[split.labels]) / 7
    made = trainer(Recipe(adjust=adjust), split, epochs=5, batch_size=7, lr=0.2, weight_decay=decay)
    loss = made.run_epoch()["loss"]
    gradient = residuals.T @ split.whole() + decay * before["head.weight"]
    expected = before["head.weight"] - 0.2 * 1.9 * gradient
    assert torch.allclose(made.weights()["head.weight"], expected, atol=1e-6)
    bias = before["head.bias"] - 0.2 * 1.9 * (residuals.sum(dim=0) + decay * before["head.bias"])
    assert torch.allclose(made.weights()["head.bias"], bias, atol=1e-6)
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(shifted, split.labels)), rel=1e-5)


def test_a_class_without_samples_counts_as_one_in_the_prior() -> None:
    split = samples().take(torch.tensor([0, 3, 1]))
    made = trainer(Recipe(adjust=1.0), split, batch_size=4)
    assert math.isfinite(made.run_epoch()["loss"])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in made.weights().values())


@pytest.mark.parametrize(("count", "size", "steps"), [(12, 4, 3), (12, 5, 2), (12, 20, 1), (2, 2, 1)])
def test_an_incomplete_batch_is_left_out_unless_it_is_the_only_one(count: int, size: int, steps: int) -> None:
    seen: list[int] = []
    made = trainer(Recipe(), samples(count), batch_size=size, epochs=1)
    made.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    made.run_epoch()
    assert seen == [min(size, count)] * steps


def test_the_rate_falls_by_a_cosine_from_step_to_step() -> None:
    made = trainer(Recipe(), samples(12), batch_size=4, epochs=2, lr=0.3)
    rates: list[float] = []
    made.model.register_forward_hook(lambda *_: rates.append(made._optimizer.param_groups[0]["lr"]))
    made.run_epoch()
    made.run_epoch()
    expected = [1e-4 + (0.3 - 1e-4) * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert rates == pytest.approx(expected)
    assert made.finished


def test_a_low_rate_never_rises() -> None:
    made = trainer(Recipe(), samples(12), batch_size=4, epochs=1, lr=1e-6)
    rates: set[float] = set()
    made.model.register_forward_hook(lambda *_: rates.add(made._optimizer.param_groups[0]["lr"]))
    made.run_epoch()
    assert rates == {1e-6}


@pytest.mark.parametrize("alpha", [0.2, 5.0])
def test_a_mixed_batch_has_the_mean_of_both_labels_losses(alpha: float) -> None:
    """The draws, in their order, from a twin of the generator: the order of samples, lam, and the partners."""
    split = samples(8)
    before, generator = first_weights()
    order = torch.randperm(8, generator=generator)
    first, second = torch._standard_gamma(torch.full((2,), alpha), generator=generator).tolist()
    lam, other = first / (first + second), torch.randperm(8, generator=generator)
    x, y = split.whole()[order], split.labels[order]
    logits = (lam * x + (1 - lam) * x[other]) @ before["head.weight"].T + before["head.bias"]
    losses = -torch.log_softmax(logits, dim=1)
    rows = torch.arange(8)
    expected = (lam * losses[rows, y] + (1 - lam) * losses[rows, y[other]]).mean()
    made = trainer(Recipe(mixup=True), split, batch_size=8, mixup_alpha=alpha)
    assert made.run_epoch()["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_an_average_follows_the_weights_of_a_fixmatch_step() -> None:
    before, _ = first_weights()
    made = trainer(RECIPES["fixmatch"], batch_size=12, ema_decay=0.9, unlabelled=samples(30))
    made.run_epoch()
    for name, tensor in made.weights().items():
        now = made.model.state_dict()[name]
        assert not torch.equal(now, before[name])
        assert torch.allclose(tensor, 0.9 * before[name] + 0.1 * now, atol=1e-6)


@pytest.mark.parametrize(("scale", "share"), [(1e6, 1.0), (0.0, 0.0)])
def test_only_confident_pseudo_labels_take_part(scale: float, share: float) -> None:
    """Of huge weights every label is certain; of zero weights none is, and the loss is that of the labelled ones."""
    initial = {"head.weight": scale * torch.eye(3, 4), "head.bias": torch.zeros(3)}
    made = trainer(RECIPES["fixmatch"], batch_size=12, unlabelled=samples(30), initial=initial)
    drawn: list[int] = []
    made.model.register_forward_pre_hook(lambda _, args: drawn.append(len(args[0])))
    found = made.run_epoch()
    assert drawn == [12, 12 * UNLABELLED_RATIO, 12 * UNLABELLED_RATIO]
    assert found["pseudo_labelled"] == share
    if not share:
        assert found["loss"] == pytest.approx(math.log(3))
    assert 1 / 3 < CONFIDENCE < 1


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_training_resumes_bit_equal_and_leaves_the_global_stream(name: str, tmp_path: Path) -> None:
    given = {"epochs": 4, "batch_size": 4, "unlabelled": samples(20)}
    outside = torch.get_rng_state()
    whole, first, second = (trainer(RECIPES[name], seed=seed, **given) for seed in (3, 3, 3))
    losses = [whole.run_epoch() for _ in range(4)]
    again = [first.run_epoch(), first.run_epoch()]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again += [second.run_epoch(), second.run_epoch()]
    assert again == losses
    assert state_digest(second.weights()) == state_digest(whole.weights())
    assert second.finished
    assert torch.equal(torch.get_rng_state(), outside)
    assert state_digest(trainer(RECIPES[name], seed=4, **given).weights()) != state_digest(
        trainer(RECIPES[name], seed=3, **given).weights()
    )


def test_layers_of_another_shape_are_left_at_random() -> None:
    drawn, _ = first_weights()
    other = {"head.weight": torch.ones(3, 4), "head.bias": torch.ones(7), "tail.weight": torch.ones(1)}
    weights = trainer(Recipe(), initial=other).weights()
    assert torch.equal(weights["head.weight"], torch.ones(3, 4))
    assert torch.equal(weights["head.bias"], drawn["head.bias"])
    assert weights.keys() == drawn.keys()
    with pytest.raises(
        ValueError, match="no layer in common with the model; take weights of the same architecture"
    ):
        trainer(Recipe(), initial={"head.bias": torch.ones(7)})


def test_weights_are_a_copy_of_their_own() -> None:
    made = trainer(Recipe())
    before = made.weights()
    digest = state_digest(before)
    made.run_epoch()
    assert state_digest(before) == digest != state_digest(made.weights())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: must be a whole number >= 1, got 0"),
        ({"batch_size": 1}, "batch_size: must be a whole number >= 2, got 1"),
        ({"lr": math.nan}, "lr: must be a number > 0, got nan"),
        ({"ema_decay": -0.1}, r"ema_decay: must be a number in \[0, 1\), got -0.1"),
        ({"epochs": 1.5}, "epochs: must be a whole number >= 1, got 1.5"),
        ({"epochs": True}, "epochs: must be a whole number >= 1, got True"),
        ({"lr": math.inf}, "lr: must be a number > 0, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainSettings(**change)
    assert PretrainSettings(epochs=1, batch_size=2, ema_decay=0.0, weight_decay=0.0).epochs == 1


def test_a_recipe_by_name_is_its_trainer_run_to_the_end() -> None:
    data, settings = small_data(), PretrainSettings(epochs=2, batch_size=16)
    made = pretrainer("logit_adjusted", LINEAR, data, 5, settings)
    assert made.recipe == Recipe(adjust=1.0)
    while not made.finished:
        made.run_epoch()
    assert state_digest(pretrain("logit_adjusted", LINEAR, data, 5, settings)) == state_digest(made.weights())
    assert state_digest(pretrain("erm", LINEAR, data, 5, settings)) != state_digest(made.weights())
    with pytest.raises(ValueError, match=r"pretrain\.recipe must be one of erm, .*, got 'ERM'"):
        pretrainer("ERM", LINEAR, data, 5)
    with pytest.raises(ValueError, match="FixMatch needs unlabelled samples, the data have none"):
        pretrainer("fixmatch_logit_adjusted", LINEAR, data, 5)


def test_a_standardised_head_takes_its_scale_from_train_and_not_from_the_given_weights() -> None:
    split = Split(samples().whole() * 7.0 + 3.0, samples().labels)
    initial = {"mean": torch.full((4,), 99.0), "scale": torch.full((4,), 99.0)}
    made = Pretrainer(
        Recipe(), ModelConfig("standardised_head"), split, 3, 0, PretrainSettings(), initial=initial
    )
    assert torch.allclose(made.weights()["mean"], split.whole().mean(dim=0), atol=1e-5)
    assert torch.allclose(made.weights()["scale"], split.whole().std(dim=0, unbiased=False), atol=1e-5)
