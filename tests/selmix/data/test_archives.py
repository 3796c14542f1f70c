"""`selmix data prepare`: official archives, tiny, extracted to where a sweep file looks for them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from selmix.data import official_files
from selmix.data.cifar import CifarConfig
from selmix.data.gaussians import GaussiansConfig
from selmix.data.stl10 import StlConfig
from tests.command import here
from tests.selmix.data.test_image_data import cifar_labels, pixels, write_cifar


def pack(folder: Path, archive: Path, top: str) -> Path:
    """A folder as an archive with its files under ``top``."""
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(folder, arcname=top)
    return archive


def stl_files(folder: Path) -> None:
    folder.mkdir()
    for part, count in (("train", 80), ("test", 20)):
        (folder / f"{part}_X.bin").write_bytes(pixels(count, 96).tobytes())
        (folder / f"{part}_y.bin").write_bytes((cifar_labels(count, 10) + 1).tobytes())


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("classes", "version", "top"),
    [
        (10, "binary", "cifar-10-batches-bin"),
        (10, "python", "cifar-10-batches-py"),
        (100, "binary", "cifar-100-binary"),
        (100, "python", "cifar-100-python"),
    ],
)
def test_an_archive_of_cifar(tmp_path: Path, classes: int, version: str, top: str, beside: bool) -> None:
    made, home = tmp_path / "made", tmp_path / "data" / "cifar"
    made.mkdir()
    home.mkdir(parents=True)
    write_cifar(made, classes, version)
    place = home.parent if beside else home
    archive = pack(made, place / f"cifar-{classes}-{version}.tar.gz", top)
    sizes = {"classes": classes, "largest_class": 8, "imbalance": 4, "feedback": 2, "select": 2}
    config = CifarConfig(str(home), **sizes)
    assert not config.official.is_ready
    assert config.official.prepare() == archive
    assert config.load().digests == CifarConfig(str(made), **sizes).load().digests
    stamps = {path: path.stat().st_mtime_ns for path in home.iterdir()}
    assert config.official.prepare() is None
    assert stamps == {path: path.stat().st_mtime_ns for path in home.iterdir()}
    assert not list(home.glob(".extracting-*"))


def test_an_archive_of_stl10(tmp_path: Path) -> None:
    stl_files(tmp_path / "made")
    pack(tmp_path / "made", tmp_path / "stl10_binary.tar.gz", "stl10_binary")
    sizes = {"largest_class": 4, "imbalance": 2, "feedback": 1, "select": 2}
    config = StlConfig(str(tmp_path / "new" / ".." / "stl10_binary"), **sizes)
    (tmp_path / "new").mkdir()
    assert config.official.prepare() is not None
    assert config.load().digests == StlConfig(str(tmp_path / "made"), **sizes).load().digests


def test_an_extraction_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    made, home = tmp_path / "made", tmp_path / "cifar"
    made.mkdir()
    home.mkdir()
    write_cifar(made, 10, "binary")
    pack(made, tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin")
    (home / "data_batch_1.bin").write_bytes((made / "data_batch_1.bin").read_bytes())
    assert not CifarConfig(str(home)).official.is_ready
    assert CifarConfig(str(home)).official.prepare() is not None
    assert {path.name for path in home.iterdir()} == {path.name for path in made.iterdir()}


def test_archives_that_do_not_do(tmp_path: Path) -> None:
    archive, official = tmp_path / "cifar-10-binary.tar.gz", CifarConfig(str(tmp_path / "cifar")).official
    with pytest.raises(
        ValueError, match=r"CIFAR-10, there are none; get its official archive, cifar-10-binary"
    ):
        official.prepare()
    archive.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="must be a whole archive of CIFAR-10"):
        official.prepare()
    with tarfile.open(archive, "w:gz") as opened:
        for name in ("../outside.bin", "../../test_batch.bin"):
            member = tarfile.TarInfo(name)
            member.size = 2
            opened.addfile(member, io.BytesIO(b"no"))
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        opened.addfile(link)
    with pytest.raises(ValueError, match=r"must hold data_batch_1\.bin, .* of CIFAR-10 in one folder"):
        official.prepare()
    assert {path.name for path in tmp_path.iterdir()} == {"cifar", archive.name}
    assert not (tmp_path.parent / "test_batch.bin").exists()
    made = tmp_path / "made"
    made.mkdir()
    write_cifar(made, 10, "binary")
    (made / "test_batch.bin").unlink()
    pack(made, archive, "cifar-10-batches-bin")
    with pytest.raises(ValueError, match=r"must hold data_batch_1\.bin, .*, test_batch\.bin of CIFAR-10"):
        official.prepare()
    whole = np.frombuffer(archive.read_bytes(), np.uint8)
    archive.write_bytes(whole[: len(whole) // 2].tobytes())
    with pytest.raises(ValueError, match="must be a whole archive of CIFAR-10"):
        official.prepare()
    assert not list((tmp_path / "cifar").iterdir())
    assert official_files(GaussiansConfig()) is None


def test_prepare_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "stl.yaml"
    file.write_text(
        "version: 1\nname: stl\nobjectives: [min_recall]\nmodel: {name: wrn_28_2}\n"
        "data: {name: stl10, path: stl, largest_class: 4, imbalance: 2, feedback: 1, select: 2}\n"
    )
    done = here("data", "prepare", file, cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert "get its official archive, stl10_binary.tar.gz" in done.err
    stl_files(tmp_path / "made")
    pack(tmp_path / "made", tmp_path / "stl10_binary.tar.gz", "stl10_binary")
    done = here("data", "prepare", file, cwd=tmp_path)
    assert (done.code, done.err) == (0, "extracted stl10_binary.tar.gz\n")
    checked = here("data", "check", file, cwd=tmp_path)
    assert (checked.code, checked.out) == (0, done.out)
