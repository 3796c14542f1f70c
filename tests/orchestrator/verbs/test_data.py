"""`selmix data`: counts, digests and problems of a sweep's data; test is counted too."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.command import SMOKE, Done, here

FILE = "version: 1\nname: x\nmodel: {{name: {model}}}\ndata: {data}\nobjectives: [min_recall]\n"


def checked(folder: Path, data: str, *arguments: str, model: str = "linear_head") -> Done:
    (folder / "x.yaml").write_text(FILE.format(data=data, model=model))
    return here("data", "check", "x.yaml", *arguments, cwd=folder)


def test_every_split_is_counted_and_has_a_digest() -> None:
    done = here("data", "check", SMOKE, "data.unlabelled=3", "--json")
    assert (done.code, done.err) == (0, "")
    counts = done.document["counts"]
    assert {split: sum(sizes) for split, sizes in counts.items() if split != "train"} == {
        "feedback": 120, "select": 144, "test": 300,
    }  # fmt: skip
    assert (counts["train"][0], counts["train"][-1], done.document["unlabelled"]) == (80, 4, 18)
    assert done.document["digests"].keys() == {*counts, "unlabelled"}
    assert done.document["problems"] == []
    assert "and 18 samples without labels" in here("data", "check", SMOKE, "data.unlabelled=3").out


def test_missing_classes_are_problems_after_the_counts(tmp_path: Path) -> None:
    rows = [(split, label) for split in ("train", "feedback", "select", "test") for label in "abc"]
    rows = [row for row in rows if row not in {("feedback", "b"), ("feedback", "c"), ("test", "a")}]
    columns = {
        "part": [row[0] for row in rows],
        "label": [row[1] for row in rows],
        "features": [[1.0, 0.0]] * len(rows),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    done = checked(tmp_path, "{name: parquet, path: t.parquet, split: part}")
    assert done.code == 4
    assert "2 problems:" in done.out
    assert done.err == "selmix: data: feedback: no sample of b, c\n  test: no sample of a\n"


def test_every_image_is_decoded(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for k in range(6):
            Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / "images" / label / f"{k}.png")
    sizes = "{name: image_folder, path: images, feedback: 1, select: 1, test: 1, size: 8}"
    done = checked(tmp_path, sizes, "--json", model="small_cnn")
    assert done.code == 0, done.err
    assert done.document["counts"]["train"] == [3, 3]
    for path in (tmp_path / "images" / "b").iterdir():
        path.write_bytes(b"\x89PNG broken")
    done = checked(tmp_path, sizes, "--json", model="small_cnn")
    assert done.code == 4
    # Whatever split an image lies in, it is looked at; the document has them all, too.
    assert len(done.document["problems"]) == 6
    assert {problem.split(": ")[0] for problem in done.document["problems"]} == {
        "train",
        "feedback",
        "select",
        "test",
    }


def test_data_that_are_gone_are_one_error(tmp_path: Path) -> None:
    done = checked(tmp_path, "{name: parquet, path: gone.parquet}")
    assert (done.code, done.out) == (4, "")
    assert "data: parquet must be readable: gone.parquet: must be a Parquet file, there is none" in done.err


def test_there_is_nothing_to_prepare_without_archives(tmp_path: Path) -> None:
    assert here("data", "prepare", SMOKE).err == ""
    (tmp_path / "x.yaml").write_text(FILE.format(data="{name: cifar, path: cifar}", model="small_cnn"))
    done = here("data", "prepare", "x.yaml", cwd=tmp_path)
    assert done.code == 4
    assert "cifar-10-python.tar.gz" in done.err


@pytest.mark.parametrize("count", [12, 13, 40])
def test_a_screen_lists_some_classes_and_the_document_all(count: int) -> None:
    sizes = (f"data.classes={count}", "data.largest_class=30", "data.imbalance=1")
    text = here("data", "check", SMOKE, *sizes).out
    assert ("... and" in text) == (count > 12)
    assert count == 12 or f"... and {count - 12} more classes" in text
    assert len(here("data", "check", SMOKE, *sizes, "--json").document["counts"]["test"]) == count
