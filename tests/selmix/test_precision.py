"""Precision, memory format and gradient accumulation: the same run up to rounding, and resumable bit-equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from selmix.config import FinetuneConfig
from selmix.data.digits import DigitsConfig
from selmix.data.splits import Split
from selmix.finetune import Finetuner
from selmix.mixup import draw_coefficients, mixed_logits
from selmix.model import ClassifierView, predict
from selmix.models import ModelConfig
from selmix.objectives import ObjectiveContext
from selmix.precision import Arithmetic

SETTINGS: list[dict[str, Any]] = [{"precision": "bfloat16"}, {"channels_last": True}, {"accumulate": 4}]


def finetuner(dtype: torch.dtype = torch.float32, **changes: Any) -> Finetuner:
    data = DigitsConfig(seed=0).load()
    model = ModelConfig("small_cnn").build(data.input_shape, data.num_classes).to(dtype)
    pool, feedback = (Split(s.inputs.to(dtype), s.labels) for s in (data.train, data.feedback))  # type: ignore[arg-type]
    config = FinetuneConfig(
        **{"steps": 12, "refresh_every": 4, "momentum": 0.9, "mixup_layer": "stage1", **changes}
    )
    generator = torch.Generator().manual_seed(0)
    context = ObjectiveContext(train_counts=data.train_counts)
    return Finetuner(ClassifierView(model), pool, feedback, "min_recall", config, context, generator)


def weights(tuner: Finetuner) -> dict[str, torch.Tensor]:
    return dict(tuner.view.model.state_dict())


@pytest.mark.parametrize("coefficient_min", [0.6, 1.0])
def test_parts_of_a_batch_add_up_to_it(coefficient_min: float) -> None:
    """In float64 two rounds by parts equal two rounds by whole batches to 1e-10."""
    whole, parts = (finetuner(torch.float64, accumulate=n, coefficient_min=coefficient_min) for n in (1, 4))
    for _ in range(2):
        one, other = whole.run_round(), parts.run_round()
        # the mean loss is summed in float32
        assert one.scalars["loss"] == pytest.approx(other.scalars["loss"], rel=1e-6)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-10, atol=1e-10)


def test_channels_last_changes_rounding_alone() -> None:
    plain, other = finetuner(), finetuner(channels_last=True)
    for tuner in (plain, other):
        tuner.run_round()
    convolutions = [t for t in weights(other).values() if t.ndim == 4 and t.shape[1] > 1 and t.shape[2] > 1]
    assert convolutions
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in convolutions)
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(other)[name], tensor, rtol=1e-4, atol=1e-5)


def test_bfloat16_leaves_weights_and_estimate_in_full_precision() -> None:
    tuner = finetuner(precision="bfloat16")
    done = tuner.run_round()
    assert all(torch.isfinite(torch.tensor(value)) for value in done.scalars.values())
    assert done.gain is not None
    assert done.gain.dtype == torch.float64
    for tensor in weights(tuner).values():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert bool(torch.isfinite(tensor).all())
    features, logits = predict(tuner.view, tuner.feedback.inputs)
    assert features.dtype == logits.dtype == torch.float32
    plain = finetuner()
    plain.run_round()
    exact = predict(plain.view, plain.feedback.inputs)[1]
    assert not torch.equal(logits, exact)  # it was computed in less
    assert float((logits - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("change", SETTINGS)
def test_a_run_goes_on_bit_equal(tmp_path: Path, change: dict[str, Any]) -> None:
    whole, first = finetuner(**change), finetuner(**change)
    first.run_round()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = finetuner(**change)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    while whole.steps_done < 12:
        whole.run_round()
    while second.steps_done < 12:
        second.run_round()
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(second)[name], tensor), name


def test_the_default_step_is_that_of_a_hand_written_loop_to_the_bit() -> None:
    tuner, plain = finetuner(steps=4), finetuner(steps=4)
    tuner.run_round()
    pool, generator = plain.pool, plain.generator
    plain._train(0)  # takes the run's seed for dropout, as a round does before its steps
    done = finetuner(steps=4).run_round()
    assert done.policy is not None
    plain.sampler.set_policy(done.policy)
    for _ in range(4):
        for group in plain.optimizer.param_groups:
            group["lr"] = plain._learning_rate() * group["lr_scale"]
        first, second = plain.sampler.draw(64, generator)
        lam = draw_coefficients(64, 0.6, generator)
        logits = mixed_logits(plain.view, pool.batch(first), pool.batch(second), lam, "stage1")
        plain.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, pool.labels[first]).backward()  # type: ignore[no-untyped-call]
        plain.optimizer.step()
        plain.steps_done += 1
    for name, tensor in weights(tuner).items():
        assert torch.equal(weights(plain)[name], tensor), name


def test_an_arithmetic_changes_outputs_and_layouts_only_as_it_is_set() -> None:
    plain, half = Arithmetic(), Arithmetic("bfloat16", channels_last=True)
    double, low = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bfloat16)
    assert plain.full(double) is double
    assert half.full(low).dtype == torch.float32
    images, vectors = torch.rand(2, 3, 4, 4), torch.rand(2, 3)
    assert plain.laid_out(images) is images
    assert half.laid_out(vectors) is vectors
    laid_out = half.laid_out(images)
    assert torch.equal(laid_out, images)
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
    with half.autocast(torch.device("cpu")):
        assert (torch.rand(2, 3) @ torch.rand(3, 2)).dtype == torch.bfloat16
    with plain.autocast(torch.device("cpu")):
        assert (torch.rand(2, 3) @ torch.rand(3, 2)).dtype == torch.float32


def test_parameters_that_are_laid_out_anew_stay_the_same_objects() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    before, values = list(model.parameters()), [p.clone() for p in model.parameters()]
    Arithmetic(channels_last=True).lay_out_(model)
    assert all(one is other for one, other in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(values, model.parameters(), strict=True))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
