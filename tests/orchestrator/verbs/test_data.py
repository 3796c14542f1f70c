"""`selmix data`: counts, digests and problems of a sweep's data; test is counted too."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
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
        "features": [[float(k), 0.0] for k in range(len(rows))],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    done = checked(tmp_path, "{name: parquet, path: t.parquet, split: part}")
    assert done.code == 4
    assert "2 problems:" in done.out
    assert done.err == "selmix: data: feedback: no sample of b, c\n  test: no sample of a\n"


def test_every_image_is_decoded(tmp_path: Path) -> None:
    for place, label in enumerate("ab"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for k in range(6):
            Image.new("RGB", (8, 8), (k, place, 0)).save(tmp_path / "images" / label / f"{k}.png")
    sizes = "{name: image_folder, path: images, feedback: 1, select: 1, test: 1, size: 8}"
    done = checked(tmp_path, sizes, "--json", model="small_cnn")
    assert done.code == 0, done.err
    assert done.document["counts"]["train"] == [3, 3]
    for path in (tmp_path / "images" / "b").iterdir():
        path.write_bytes(b"\x89PNG broken " + path.name.encode())
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


def table(folder: Path, **columns: Any) -> str:
    """Write twelve distinct rows, three in each split, but for what is given; returns the keys of ``data``."""
    held = {
        "label": ["a", "b"] * 6,
        "features": [[float(k), 1.0] for k in range(12)],
        "split": [part for part in ("train", "feedback", "dev", "TEST") for _ in range(3)],
    } | columns
    pq.write_table(pa.table(held), folder / "t.parquet")
    return "{name: parquet, path: t.parquet, split: split%s}"


def rows_of(*repeated: tuple[int, int]) -> list[list[float]]:
    """Features of which the second of each pair repeats the first."""
    rows = [[float(k), 1.0] for k in range(12)]
    for first, second in repeated:
        rows[second] = rows[first]
    return rows


def test_data_without_a_fault_end_with_nothing_wrong(tmp_path: Path) -> None:
    done = checked(tmp_path, table(tmp_path) % "")
    assert (done.code, done.err) == (0, "")
    assert "note: split: 'TEST' is test, 'dev' is select" in done.out
    assert done.out.rstrip().endswith("nothing wrong")
    document = checked(tmp_path, table(tmp_path) % "", "--json").document
    assert (document["problems"], document["warnings"]) == ([], [])
    assert document["notes"] == ["split: 'TEST' is test, 'dev' is select"]


def test_samples_of_test_in_another_split_are_a_problem_unless_allowed(tmp_path: Path) -> None:
    keys = table(tmp_path, features=rows_of((0, 10)))
    done = checked(tmp_path, keys % "")
    assert done.code == 4
    assert "1 problem:" in done.out
    assert done.err == (
        "selmix: data: the same content is in train and in test: row 0 (train) = row 10 (test): take them out of one "
        "of the two, or give data.allow_duplicates: true\n"
    )
    allowed = checked(tmp_path, keys % ", allow_duplicates: true")
    assert (allowed.code, allowed.err) == (0, "")
    assert "warning: the same content is in train and in test" in " ".join(allowed.out.split())
    assert allowed.out.rstrip().endswith("no problems, 1 warning")


def test_one_content_under_two_labels_is_a_problem_only_in_test(tmp_path: Path) -> None:
    done = checked(tmp_path, table(tmp_path, features=rows_of((9, 10))) % "", "--json")
    assert done.code == 4
    assert done.document["problems"][0].startswith(
        "the same content has two labels, in test: row 10 (a) = row 9 (b): take"
    )
    done = checked(tmp_path, table(tmp_path, features=rows_of((0, 1), (2, 4))) % "", "--json")
    assert done.code == 0
    assert done.document["warnings"] == [
        "the same content is in train and in feedback: row 2 (train) = row 4 (feedback)",
        "the same content has two labels: row 0 (a) = row 1 (b)",
    ]


def test_units_that_cross_splits_are_a_warning(tmp_path: Path) -> None:
    keys = table(tmp_path, who=[f"p{k}" for k in range(11)] + ["p0"])
    done = checked(tmp_path, keys % ", unit: who", "--json")
    assert done.code == 0
    assert len(done.document["warnings"]) == 1
    assert done.document["warnings"][0].endswith("p0 (train and test)")


def test_a_hundred_problems_are_a_count_and_three_examples(tmp_path: Path) -> None:
    images = [{"bytes": b"%d is no image" % k, "path": "x.png"} for k in range(120)]
    pq.write_table(pa.table({"image": images, "label": [k % 3 for k in range(120)]}), tmp_path / "t.parquet")
    keys = "{name: parquet, path: t.parquet, size: 8, feedback: 2, select: 2, test: 2}"
    done = checked(tmp_path, keys, model="small_cnn")
    assert done.code == 4
    assert done.err.count("must be an image") == 3
    assert "and 117 more (--json lists all 120)" in done.err
    assert len(checked(tmp_path, keys, "--json", model="small_cnn").document["problems"]) == 120


def test_images_that_look_like_those_of_another_split_are_a_warning(tmp_path: Path) -> None:
    images = []
    for k in range(24):
        low = np.random.default_rng(k).integers(0, 255, (5, 5, 3)).astype(np.uint8)
        written = io.BytesIO()
        # The last one is the first one in another format.
        low = np.random.default_rng(0).integers(0, 255, (5, 5, 3)).astype(np.uint8) if k == 23 else low
        picture = Image.fromarray(low).resize((30, 30), Image.Resampling.BICUBIC)
        picture.save(written, "JPEG" if k == 23 else "PNG")
        images.append({"bytes": written.getvalue(), "path": None})
    parts = ["train", "feedback", "select", "test"]
    columns = {
        "image": images,
        "label": [k % 2 for k in range(24)],
        "split": [parts[k // 6] for k in range(24)],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    keys = "{name: parquet, path: t.parquet, size: 16, split: split}"
    done = checked(tmp_path, keys, "--json", model="small_cnn")
    assert done.code == 0, done.err
    assert done.document["warnings"] == [
        "images of test look like images of train: row 23 (test) is like row 0 (train)"
    ]
    assert done.document["notes"] == ["image: column image holds encoded images"]


def test_a_launch_stops_at_a_leak_of_test_and_says_the_others(tmp_path: Path) -> None:
    keys = table(tmp_path, features=rows_of((0, 10)))
    (tmp_path / "x.yaml").write_text(FILE.format(data=keys % "", model="linear_head"))
    # The file itself is valid: contents are not read to validate it.
    assert here("validate", "x.yaml", cwd=tmp_path).code == 0
    stopped = here("launch", "x.yaml", cwd=tmp_path)
    assert stopped.code == 4
    assert "the same content is in train and in test: row 0 (train) = row 10 (test)" in stopped.err
    assert not (tmp_path / "runs").exists()


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
