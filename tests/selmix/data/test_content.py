"""Content digest: the identity of a set of samples, in any order and at any size."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selmix.data.content import content_digest, content_of, preprocess_digest
from selmix.data.files import ImageFolderConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.images import Images
from selmix.data.splits import Split
from tests.selmix.data.test_image_data import write_class, write_lists

Made = Callable[[Path], Split]


def tensors(_: Path) -> Split:
    return Split(torch.arange(24, dtype=torch.float32).view(6, 4), torch.tensor([0, 0, 1, 1, 2, 2]))


def pixels(_: Path) -> Split:
    held = torch.arange(6 * 3 * 4, dtype=torch.uint8).view(6, 3, 2, 2)
    return Split(Images(held), torch.tensor([0, 0, 1, 1, 2, 2]))


def files(home: Path) -> Split:
    return write_lists(home).load_test()


KINDS = pytest.mark.parametrize("made", [tensors, pixels, files])


@KINDS
def test_the_order_of_the_samples_does_not_matter(made: Made, tmp_path: Path) -> None:
    split = made(tmp_path)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    assert order.tolist() != list(range(len(split)))
    shuffled = split.take(order)
    assert content_digest(shuffled) == content_digest(split)
    assert shuffled.digest() != split.digest()  # the digest of the split itself is one of an order


@KINDS
def test_a_label_a_sample_and_how_often_it_occurs_matter(made: Made, tmp_path: Path) -> None:
    split = made(tmp_path)
    whole = torch.arange(len(split))
    relabelled = split.labels.clone()
    relabelled[0] = 1
    others = [
        Split(split.inputs, relabelled),
        Split(split.inputs, split.labels.flip(0)),  # the same samples and the same labels, paired otherwise
        split.take(whole[1:]),
        split.take(torch.cat([whole, whole[:1]])),
        split.take(torch.cat([whole, whole])),
    ]
    digests = {content_digest(other) for other in [split, *others]}
    assert len(digests) == 1 + len(others)


def test_it_is_the_digest_of_sorted_digests() -> None:
    """By hand, of two samples of two bytes."""
    split = Split(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8), torch.tensor([5, -1]))
    one = hashlib.sha256(hashlib.sha256(b"\x01\x02").digest() + b"\x05" + 7 * b"\x00").digest()
    two = hashlib.sha256(hashlib.sha256(b"\x03\x04").digest() + 8 * b"\xff").digest()
    expected = hashlib.sha256(min(one, two) + max(one, two)).hexdigest()
    assert content_digest(split) == f"sha256:{expected}"
    # The shape is how the samples are read, and not what they are.
    assert content_digest(Split(split.inputs.view(2, 1, 2), split.labels)) == f"sha256:{expected}"


def test_images_in_files_are_the_same_at_every_size(tmp_path: Path) -> None:
    lists = write_lists(tmp_path)
    small, large = lists.load_test(), dataclasses.replace(lists, size=32).load_test()
    assert content_digest(small) == content_digest(large)
    assert small.digest() != large.digest()
    assert preprocess_digest(small.inputs) != preprocess_digest(large.inputs)
    # Nor does the place of the files matter, or the kind of the data set.
    for label, name in enumerate(("n01", "n02", "n03")):
        write_class(tmp_path / "folder" / "train" / name, 60 * label, 9)
        write_class(tmp_path / "folder" / "test" / name, 60 * label, 2, first=9)
    folder = ImageFolderConfig(str(tmp_path / "folder"), size=24, feedback=1, select=1)
    assert content_digest(folder.load_test()) == content_digest(small)
    (tmp_path / "data" / "test" / "n01" / "00.png").write_bytes(b"another image")
    assert content_digest(lists.load_test()) != content_digest(large.take(torch.arange(1, len(large))))
    assert content_digest(lists.load_test()) != content_digest(folder.load_test())


def test_groups_are_attributes_of_the_same_samples() -> None:
    split = tensors(Path())
    grouped = Split(split.inputs, split.labels, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert content_digest(grouped) == content_digest(split)
    assert grouped.digest() != split.digest()


def test_values_that_numpy_does_not_know_are_digested_too() -> None:
    split = Split(torch.tensor([[0.5, 1.0], [2.0, 4.0]], dtype=torch.bfloat16), torch.tensor([0, 1]))
    strided = Split(split.inputs.t().contiguous().t(), split.labels)
    assert content_digest(strided) == content_digest(split)
    assert content_digest(split) != content_digest(Split(split.inputs.float(), split.labels))
    assert content_digest(Split(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))).startswith("sha256:")


def test_another_seed_is_another_set_and_another_train_size_is_not() -> None:
    config = GaussiansConfig(test=5)
    same, other = dataclasses.replace(config, feedback=7), dataclasses.replace(config, seed=1)
    digests = [content_digest(each.load_test()) for each in (config, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_preprocessing_is_shape_and_normalisation_alone() -> None:
    images = pixels(Path()).inputs
    assert isinstance(images, Images)
    digest = preprocess_digest(images)
    assert preprocess_digest(images[torch.tensor([1])]) == digest
    others = [
        dataclasses.replace(images, mean=(0.0, 0.0, 0.0)), dataclasses.replace(images, std=(1.0, 1.0, 1.0)),
        torch.zeros(2, 3, 2, 2), torch.zeros(2, 12),
    ]  # fmt: skip
    assert len({digest, *map(preprocess_digest, others)}) == 5


@KINDS
def test_a_part_of_a_split_is_known_by_its_sketch_whatever_the_labels(made: Made, tmp_path: Path) -> None:
    split = made(tmp_path)
    part = split.take(torch.arange(len(split))[2:])
    whole, fewer = content_of(split), content_of(part)
    assert whole.digest == content_digest(split) != fewer.digest
    assert fewer.sketch.share_in(whole.sketch) == 1.0
    assert whole.sketch.share_in(fewer.sketch) == pytest.approx(1 - 2 / len(split))
    relabelled = Split(split.inputs, split.labels.flip(0))
    assert content_of(relabelled).sketch == whole.sketch
    assert content_of(relabelled).digest != whole.digest
