"""Models, what is seen of them, their weights as files, and mixing inside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selmix.mixup import draw_coefficients, mix, mixed_logits
from selmix.model import ClassifierView, freeze_batchnorm_, predict
from selmix.models import ModelConfig, build_model
from selmix.models.linear_head import StandardisedHead
from selmix.weights import load_checkpoint_into, load_weights, save_weights, state_digest, tensor_digest


def small(seed: int = 0) -> nn.Module:
    return build_model("small_cnn", (1, 8, 8), 10, torch.Generator().manual_seed(seed))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("small_cnn", (1, 8, 8)), ("small_cnn", (3, 32, 32)), ("tiny_cnn", (1, 16, 17)), ("linear_head", (7,))],
)
def test_models(name: str, shape: tuple[int, ...]) -> None:
    state = torch.get_rng_state()
    models = [build_model(name, shape, 5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert models[0].eval()(torch.rand(2, *shape)).shape == (2, 5)
    digests = [state_digest(model.state_dict()) for model in models]
    assert digests[0] == digests[1] != digests[2]
    assert not any(tensor.is_meta for tensor in models[0].state_dict().values())


def test_models_refuse() -> None:
    with pytest.raises(ValueError, match=r"model must be one of .*, got 'resnet'"):
        build_model("resnet", (1, 8, 8), 10, torch.Generator())
    with pytest.raises(ValueError, match=r"small_cnn takes images .*, got samples of shape \(8,\)"):
        build_model("small_cnn", (8,), 10, torch.Generator())
    with pytest.raises(ValueError, match=r"ReLU must have an nn\.Linear"):
        ClassifierView(nn.ReLU())


def test_predictions_are_in_evaluation_mode_and_leave_the_mode() -> None:
    view = ClassifierView(small())
    freeze_batchnorm_(view.model)
    before = [module.training for module in view.model.modules()]
    assert True in before
    assert False in before
    features, logits = predict(view, images(30), batch_size=7)
    assert [module.training for module in view.model.modules()] == before
    assert torch.allclose(view.head(features), logits, atol=1e-6)
    assert not features.requires_grad
    whole = predict(view, images(30), batch_size=512)[1]
    assert torch.allclose(whole, logits, atol=1e-5)


def test_frozen_batchnorm_keeps_its_statistics() -> None:
    model = small()
    freeze_batchnorm_(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(images(16))
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


# -- mixing ----------------------------------------------------------------------------------------------


def test_mix_by_hand() -> None:
    mixed = mix(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2), torch.tensor([0.5, 1.0]))
    assert mixed.tolist() == [[0.5, 1.0], [3.0, 4.0]]


def test_coefficients() -> None:
    drawn = draw_coefficients(20_000, 0.6, torch.Generator().manual_seed(0))
    assert 0.6 <= float(drawn.min()) < 0.601
    assert 0.999 < float(drawn.max()) <= 1.0
    assert float(drawn.mean()) == pytest.approx(0.8, abs=0.003)


def stages(model: nn.Module) -> list[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """(layer, network up to it, network after it), spelled out."""
    parts = dict(model.named_children())
    order = ["stage1", "stage2", "stage3", "pool", "head"]

    def run(names: list[str]) -> Callable[[Tensor], Tensor]:
        return lambda x: nn.Sequential(*[parts[name] for name in names])(x)

    cuts: list[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        ("input", lambda x: x, run(order)),
        ("features", run(order[:4]), run(order[4:])),
    ]
    return cuts + [(order[at], run(order[: at + 1]), run(order[at + 1 :])) for at in range(4)]


@pytest.mark.parametrize("at", range(6))
def test_mixing_at_every_layer_is_the_network_cut_in_two(at: int) -> None:
    model = small().eval()
    layer, below, above = stages(model)[at]
    first, second, lam = images(9, 1), images(9, 2), torch.rand(9, generator=torch.Generator().manual_seed(3))
    weight = lam.view(-1, *([1] * (below(first).ndim - 1)))
    expected = above(weight * below(first) + (1 - weight) * below(second))
    view = ClassifierView(model)
    got = mixed_logits(view, first, second, lam, layer)
    assert torch.allclose(got, expected, atol=1e-5)
    assert layer in view.layers()
    assert not model._forward_hooks
    assert not view.head._forward_pre_hooks


def test_mixing_refuses() -> None:
    view = ClassifierView(small())
    with pytest.raises(
        ValueError, match="mixup_layer 'stage9' is not in the model; there are input, features, stage1"
    ):
        mixed_logits(view, images(2), images(2), torch.ones(2), "stage9")

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Flatten(0), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.inner(x).view(-1, 3))
            return logits

    flat = ClassifierView(Flat())
    with pytest.raises(ValueError, match="must put out one tensor with the batch first"):
        mixed_logits(flat, torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), "inner")
    assert not flat.model.get_submodule("inner")._forward_hooks


# -- weights ---------------------------------------------------------------------------------------------


def test_weights_survive_the_file(tmp_path: Path) -> None:
    state = small().state_dict()
    save_weights(tmp_path / "deep" / "x.safetensors", state)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.safetensors"]
    read = load_weights(tmp_path / "deep" / "x.safetensors")
    assert state_digest(read) == state_digest(state)
    load_checkpoint_into(small(1), read)


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a safetensors or torch file of weights, there is none"):
        load_weights(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        load_weights(tmp_path / "x.safetensors")


def test_a_digest_sees_name_shape_dtype_and_bytes() -> None:
    x = torch.arange(6.0)
    states = [
        {"a": x},
        {"b": x},
        {"a": x.view(2, 3)},
        {"a": x.double()},
        {"a": x + 1e-7},
        {"a": x.view(6, 1)},
    ]
    assert len({state_digest(state) for state in states}) == len(states)
    assert state_digest({"a": x, "b": x}) == state_digest({"b": x.clone(), "a": x})
    assert state_digest({"a": x.view(2, 3).T.T}) == state_digest({"a": x.view(2, 3)})
    assert tensor_digest(x, x) != tensor_digest(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": torch.zeros(7, 256)}, r"head\.weight must have shape \(10, 256\), got \(7, 256\)"),
        ({"extra": torch.zeros(1)}, "unexpected extra"),
        ({"head.bias": None}, r"missing head\.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit(change: dict[str, Tensor | None], message: str) -> None:
    state = {name: tensor for name, tensor in (small().state_dict() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        load_checkpoint_into(small(), state)


@pytest.mark.parametrize(
    ("name", "width"), [("small_cnn", 256), ("tiny_cnn", 256), ("resnet32", 64), ("wrn_28_2", 128)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_the_input_of_the_head(name: str, width: int, channels: int) -> None:
    model = build_model(name, (channels, 16, 16), 4, torch.Generator().manual_seed(0)).eval()
    features, logits = ClassifierView(model).features_and_logits(torch.rand(3, channels, 16, 16))
    assert (features.shape, logits.shape) == ((3, width), (3, 4))
    head = dict(model.named_modules())["head"]
    assert torch.allclose(features @ head.weight.T + head.bias, logits, atol=1e-6)


def test_weights_are_drawn_by_their_rules_and_not_from_the_global_stream() -> None:
    """He for convolutions, variance 2 / (outputs x area); U(+-1 / sqrt(d)) for the head; norms the identity."""
    state = torch.get_rng_state()
    model = build_model("resnet32", (3, 32, 32), 10, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            spread = (2.0 / (module.out_channels * 9)) ** 0.5
            assert float(module.weight.std()) == pytest.approx(spread, rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((torch.stack([module.weight, module.running_var]) == 1).all())  # type: ignore[list-item]
            assert bool((torch.stack([module.bias, module.running_mean]) == 0).all())  # type: ignore[list-item]
    head = ClassifierView(model).head
    assert 0.95 * 64**-0.5 < float(head.weight.abs().max()) <= 64**-0.5
    assert bool((head.bias == 0).all())


def test_the_shortcut_of_resnet_takes_every_second_pixel_and_adds_zeros() -> None:
    """Without its convolutions a block is its shortcut, after a ReLU."""
    model = build_model("resnet32", (3, 8, 8), 2, torch.Generator()).eval()
    block = dict(model.named_modules())["stage2.0"]
    for name in ("conv1", "conv2"):
        nn.init.zeros_(getattr(block, name).weight)
    inputs = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    found = block(inputs)
    assert torch.equal(found[:, 8:24], inputs[:, :, ::2, ::2].relu())
    assert bool((found[:, :8] == 0).all())
    assert bool((found[:, 24:] == 0).all())


def test_a_linear_head_flattens_and_a_standardised_one_scales() -> None:
    inputs = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)) * 4.0 + 1.0
    inputs[:, 1, 2] = 0.1  # never varies
    plain, scaled = (
        build_model(name, (2, 3), 3, torch.Generator().manual_seed(1))
        for name in ("linear_head", "standardised_head")
    )
    assert torch.allclose(scaled(inputs), plain(inputs))  # a scale of 1 until it is fitted
    assert isinstance(scaled, StandardisedHead)
    scaled.fit_scale(inputs)
    flat = inputs.flatten(1)
    expected = (flat - flat.mean(dim=0)) / flat.std(dim=0, unbiased=False)
    expected[:, 5] = 0.0
    assert torch.allclose(ClassifierView(scaled).features_and_logits(inputs)[0], expected, atol=1e-4)
    assert float(scaled.scale[5]) == 1.0


@pytest.mark.parametrize("layer", ["input", "stage1", "pool", "features"])
def test_a_coefficient_of_one_is_the_first_sample_and_of_zero_the_second(layer: str) -> None:
    view, first, second = ClassifierView(small().eval()), images(4, 1), images(4, 2)
    lam = torch.tensor([1.0, 0.0, 1.0, 0.0])
    expected = torch.where(lam.view(-1, 1) == 1.0, view.logits(first), view.logits(second))
    assert torch.allclose(mixed_logits(view, first, second, lam, layer), expected, atol=1e-5)


def test_a_forward_pass_that_fails_leaves_no_hook() -> None:
    view = ClassifierView(small())
    for layer in ("stage1", "features"):
        with pytest.raises(RuntimeError):
            mixed_logits(view, torch.rand(2, 5, 8, 8), torch.rand(2, 5, 8, 8), torch.ones(2), layer)
    with pytest.raises(RuntimeError):
        view.features_and_logits(torch.rand(2, 5, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in view.model.modules())


def test_mixing_names_every_layer_where_it_can_mix() -> None:
    view = ClassifierView(small())
    assert view.layers()[:3] == ["input", "features", "stage1"]
    assert "head" not in view.layers()
    for layer in ("", "head.weight"):
        with pytest.raises(
            ValueError, match=f"mixup_layer '{layer}' is not in the model; there are input, features"
        ):
            mixed_logits(view, images(2), images(2), torch.ones(2), layer)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("small_cnn", (1, 1, 8), r"of 2 x 2 or more, got samples of shape \(1, 1, 8\)"),
        ("tiny_cnn", (1, 15, 28), r"of 16 x 16 or more, got samples of shape \(1, 15, 28\)"),
        ("resnet32", (3, 8, 3), "resnet32 takes images .* of 4 x 4 or more"),
        ("torchvision/zzzzzz", (3, 8, 8), r"no classifier 'zzzzzz'; there are \d+, such as"),
        ("torchvision/resnet18", (3, 8), r"torchvision/resnet18 takes images \(3, height, width\)"),
        ("elsewhere/resnet18", (3, 8, 8), "model must be one of .*, got 'elsewhere/resnet18'"),
    ],
)
def test_inputs_and_names_that_do_not_do(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, shape, 3, torch.Generator())


def test_a_named_head_must_give_a_logit_per_class() -> None:
    with pytest.raises(ValueError, match=r"must name an nn\.Linear of the model, one of head; got 'body'"):
        ModelConfig("linear_head", head="body").build((4,), 3)
    assert ModelConfig("linear_head", head="head").build((4,), 3)(torch.zeros(1, 4)).shape == (1, 3)
