"""Preprocessing of models by name: that of the published weights, and ImageNet's for all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from selmix.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, decode
from selmix.models.libraries import library_model
from selmix.models.preprocessing import default_preprocess


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 450, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16", "inception_v3", "efficientnet_b1"])
def test_a_model_of_torchvision_sees_what_its_weights_transforms_give(name: str) -> None:
    import torchvision

    steps = default_preprocess(f"torchvision/{name}")
    expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()(picture())
    got = steps.normalised(decode(picture(), steps).unsqueeze(0))[0]
    # torchvision normalises in another order of operations.
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_384", "vit_base_patch16_224.augreg_in21k",
                                  "vit_base_patch16_clip_224.openai", "eva02_base_patch14_448"])  # fmt: skip
def test_a_model_of_timm_sees_what_its_own_transform_gives(name: str) -> None:
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    steps = default_preprocess(f"timm/{name}")
    expected = timm.data.create_transform(**config)(picture())
    got = steps.normalised(decode(picture(), steps).unsqueeze(0))[0]
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("crop", ["center", "squash", "border"])
def test_the_crops_are_those_of_timm(crop: str) -> None:
    timm = pytest.importorskip("timm")
    transform = timm.data.create_transform(
        (3, 96, 96),
        crop_pct=0.9,
        crop_mode=crop,
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    steps = Preprocess(size=96, resize=106, crop=crop, interpolation="bicubic")
    got = steps.normalised(decode(picture(), steps).unsqueeze(0))[0]
    assert torch.allclose(got, transform(picture()), atol=1e-5)


def test_names_of_timm_may_have_the_tag_of_the_weights() -> None:
    pytest.importorskip("timm")
    plain, tagged = (default_preprocess(f"timm/resnet50{tag}") for tag in ("", ".tv_in1k"))
    assert plain != tagged
    assert library_model("timm", "resnet10t.c3_in1k", (3, 64, 64), 4)(torch.zeros(1, 3, 64, 64)).shape == (
        1,
        4,
    )
    with pytest.raises(
        ValueError, match=r"timm has no weights 'nope' of resnet50; there are: resnet50\.a1_in1k"
    ):
        default_preprocess("timm/resnet50.nope")
    with pytest.raises(ValueError, match="timm has no model 'resnet5'; close to it"):
        default_preprocess("timm/resnet5")


def test_a_given_size_keeps_the_share_that_the_cut_leaves() -> None:
    assert default_preprocess("torchvision/resnet50", 112).resize == 116  # 232 / 224
    assert default_preprocess("small_cnn", 112).resize == 128


def test_a_model_of_ones_own_has_imagenets_or_bytes() -> None:
    for name in ("small_cnn", "package.module:function"):
        assert default_preprocess(name) == Preprocess(size=224, resize=256)
    raw = default_preprocess("package.module:function", input_range=255)
    assert (raw.mean, raw.std, raw.input_range) == ((0.0,) * 3, (1.0,) * 3, 255)
    caffe = default_preprocess("torchvision/resnet50", input_range=255)
    assert caffe.mean == pytest.approx([255 * value for value in IMAGENET_MEAN])
    assert raw.problems() == caffe.problems() == []


def test_an_unknown_model_of_a_library_is_refused() -> None:
    with pytest.raises(ValueError, match="torchvision has no classifier 'resnet5'; close to it: resnet50"):
        default_preprocess("torchvision/resnet5")
