"""Rows in, predictions out: tables, folders, images and lists, with what cannot be predicted by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from selmix.corrections import Correction, with_correction
from selmix.data.arrays import MemoryTable
from selmix.pinned import PinnedInputs, load_pinned
from selmix.serving.predict import Predicted, predictions, write_predictions
from selmix.serving.rows import Wanted, open_rows, table_rows
from selmix.serving.served import _load_pyfunc
from selmix.weights import load_weights, save_weights, state_digest
from tests.command import ROOT, environment
from tests.selmix.test_pinned import STEPS, photographs, pinned


def by_group(path: Path, names: list[str] | None = None) -> PinnedInputs:
    """Give a pin a correction that sends group 0 to class 1 and group 1 to class 2."""
    offset = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    correction = Correction(torch.ones(3), torch.zeros(3), torch.eye(3), torch.zeros(3), offset)
    state = with_correction(load_weights(path.with_suffix(".safetensors")), correction)
    save_weights(path.with_suffix(".safetensors"), state)
    document = yaml.safe_load(path.read_text())
    document["digests"]["weights"] = state_digest(state)
    document["protocol"]["group_names"] = names
    path.write_text(yaml.safe_dump(document))
    return load_pinned(path)


def of_images(tmp_path: Path) -> PinnedInputs:
    pinned(tmp_path / "a.yaml", (3, 16, 16), preprocess=STEPS.as_keys())
    return load_pinned(tmp_path / "a.yaml")


def of_features(tmp_path: Path, columns: Any = ("f0", "f1"), **data: Any) -> PinnedInputs:
    keys = columns if isinstance(columns, str) else list(columns)
    pinned(tmp_path / "b.yaml", (2,), "linear_head", data={"name": "parquet", **data}, columns=keys)
    return load_pinned(tmp_path / "b.yaml")


def written(model: PinnedInputs, given: Path, out: Path, **keys: Any) -> tuple[pd.DataFrame, Predicted]:
    done = write_predictions(model, open_rows(given, model, **keys), out, out.suffix == ".csv")
    frame = pd.read_csv(out, dtype={"id": str}) if out.suffix == ".csv" else pd.read_parquet(out)
    return frame, done


def names_of(model: PinnedInputs, given: Any, **keys: Any) -> list[str]:
    return [model.class_names[k] for k in model.predict(given, **keys)[0].tolist()]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_an_image_and_a_list_have_paths_before_their_predictions(
    ending: str, tmp_path: Path
) -> None:
    model, home = of_images(tmp_path), tmp_path / "images" / "of ants"
    home.mkdir(parents=True)
    files = photographs(home)
    frame, done = written(model, tmp_path / "images", tmp_path / f"o.{ending}", at_once=2)
    assert list(frame.columns) == [
        "path",
        "predicted",
        "probability_ant",
        "probability_bee",
        "probability_cat",
    ]
    assert list(frame["path"]) == [f"of ants/{k}.png" for k in range(5)]
    assert (list(frame["predicted"]), done) == (names_of(model, files), Predicted(5, [], 0))
    expected = model.predict(files)[1].numpy()
    assert np.abs(frame.iloc[:, 2:].to_numpy() - expected).max() < 1e-6

    frame, _ = written(model, files[3], tmp_path / f"one.{ending}")
    assert list(frame["path"]) == [str(files[3])]
    # With labels, without them, with a blank in the path; relative to the list, or to a root.
    (tmp_path / "list.txt").write_text("\ufeffof ants/4.png 2\nof ants/0.png\n\n")
    frame, _ = written(model, tmp_path / "list.txt", tmp_path / f"l.{ending}", root=tmp_path / "images")
    assert list(frame["path"]) == ["of ants/4.png", "of ants/0.png"]
    assert list(frame["predicted"]) == names_of(model, [files[4], files[0]])


def test_a_table_keeps_its_columns_and_its_rows(tmp_path: Path) -> None:
    model, files = of_images(tmp_path), photographs(tmp_path)
    encoded = [{"bytes": file.read_bytes(), "path": f"away/{file.name}"} for file in files]
    table = pa.table({
        "id": pa.array(["a", "b", "a", None, "007"]).dictionary_encode(), "image": encoded, "n": range(5),
        "lists": [[1]] * 5, "when": pa.array([0] * 5, pa.timestamp("s")),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    frame, _ = written(model, tmp_path / "t.parquet", tmp_path / "o.parquet", at_once=2)
    assert list(frame.columns)[:5] == ["id", "image", "n", "when", "predicted"]
    assert list(frame["image"]) == [f"away/{file.name}" for file in files]
    assert list(frame["predicted"]) == names_of(model, files)
    frame, _ = written(model, tmp_path / "t.parquet", tmp_path / "o.csv", at_once=2)
    assert list(frame.columns)[:5] == ["id", "image", "n", "when", "predicted"]
    assert list(frame["id"])[4] == "007"
    wanted = Wanted(kept=["n"])
    frame, _ = written(model, tmp_path / "t.parquet", tmp_path / "k.csv", wanted=wanted)
    assert list(frame.columns)[:2] == ["n", "predicted"]
    # Paths beside the table, as a CSV has them.
    (tmp_path / "t.csv").write_text("id,photo\n007,1.png\n8,0.png\n")
    frame, _ = written(model, tmp_path / "t.csv", tmp_path / "p.parquet", wanted=Wanted("photo"))
    assert frame[["id", "photo"]].to_numpy().tolist() == [["007", "1.png"], ["8", "0.png"]]
    assert list(frame["predicted"]) == names_of(model, [files[1], files[0]])


def test_rows_that_cannot_be_predicted_are_named_and_stay_in_their_place(tmp_path: Path) -> None:
    model, files = of_images(tmp_path), photographs(tmp_path)
    encoded = [{"bytes": file.read_bytes(), "path": None} for file in files]
    encoded[1]["bytes"] = b"no image"
    pq.write_table(pa.table({"image": [*encoded, None]}), tmp_path / "t.parquet")
    frame, done = written(model, tmp_path / "t.parquet", tmp_path / "o.csv", at_once=4)
    assert (done.rows, done.bad_rows, [bad.row for bad in done.bad]) == (6, 2, [1, 5])
    assert done.bad[0].problem == (
        f"{tmp_path}/t.parquet: row 1: must be an image that Pillow reads: cannot identify image file"
    )
    assert "row 5 has neither bytes nor a path" in done.bad[1].problem
    good = names_of(model, [files[k] for k in (0, 2, 3, 4)])
    assert frame["predicted"].isna().tolist() == [False, True, False, False, False, True]
    assert list(frame["predicted"].dropna()) == good
    assert frame["probability_ant"].isna().tolist() == frame["predicted"].isna().tolist()

    (tmp_path / "folder").mkdir()
    photographs(tmp_path / "folder", 2)
    (tmp_path / "folder" / "z.jpg").write_bytes(b"none")
    frame, done = written(model, tmp_path / "folder", tmp_path / "f.csv")
    assert [bad.row for bad in done.bad] == [2]
    assert frame["predicted"].isna().tolist() == [False, False, True]

    vectors = of_features(tmp_path)
    (tmp_path / "f.csv").write_text("id,f0,f1\n1,1,2\n2,x,2\n3,,3\n4,nan,3\n5,4,5\n6,1e99,1\n")
    frame, done = written(vectors, tmp_path / "f.csv", tmp_path / "v.parquet")
    assert [bad.row for bad in done.bad] == [1, 2, 3, 5]
    assert done.bad[0].problem.endswith("f.csv: f0 must be a number, got 'x' in row 1")
    assert list(frame["predicted"].dropna()) == names_of(vectors, torch.tensor([[1.0, 2], [4, 5]]))
    lists = of_features(tmp_path, "features")
    pq.write_table(pa.table({"features": [[1.0, 2.0], [1.0], None, [3.0, None]]}), tmp_path / "l.parquet")
    _, done = written(lists, tmp_path / "l.parquet", tmp_path / "l.csv")
    assert [bad.row for bad in done.bad] == [1, 2, 3]
    assert "must have 2 numbers, as the model takes, got 1 in row 1" in done.bad[0].problem


def test_a_correction_by_group_reads_the_groups(tmp_path: Path) -> None:
    of_features(tmp_path, group="site")
    model = by_group(tmp_path / "b.yaml", ["north", "south"])
    (tmp_path / "t.csv").write_text("f0,f1,site\n1,2,south\n1,2,north\n0,0,west\n3,4,\n")
    frame, done = written(model, tmp_path / "t.csv", tmp_path / "o.csv")
    assert list(frame["predicted"][:2]) == ["cat", "bee"]
    assert frame["predicted"].isna().tolist() == [False, False, True, True]
    assert done.bad[0].problem.endswith("site must be one of north, south, got 'west' in row 2")
    assert model.predict(torch.zeros(2, 2), ["south", "north"])[0].tolist() == [2, 1]
    with pytest.raises(ValueError, match="group must be one of north, south, got 'west'"):
        model.predict(torch.zeros(1, 2), ["west"])
    (tmp_path / "u.csv").write_text("f0,f1,place\n1,2,south\n")
    with pytest.raises(ValueError, match=r"the column site is not there, .*; name it with --group"):
        open_rows(tmp_path / "u.csv", model)
    frame, _ = written(model, tmp_path / "u.csv", tmp_path / "o.csv", wanted=Wanted(group="place"))
    assert list(frame["predicted"]) == ["cat"]
    # Pins of earlier versions keep no names: the groups are numbered.
    model = by_group(tmp_path / "b.yaml")
    (tmp_path / "t.csv").write_text("f0,f1,site\n1,2,1\n1,2,0\n1,2,2\n")
    frame, done = written(model, tmp_path / "t.csv", tmp_path / "o.csv")
    assert list(frame["predicted"][:2]) == ["cat", "bee"]
    assert "must be a whole number below 2, got '2' in row 2" in done.bad[0].problem
    plain = of_features(tmp_path)
    with pytest.raises(ValueError, match="not corrected by group; leave --group out"):
        open_rows(tmp_path / "t.csv", plain, Wanted(group="site"))


def test_what_is_no_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    images, vectors = of_images(tmp_path), of_features(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "t.csv").write_text("a,b,predicted\n1,2,3\n")
    pq.write_table(pa.table({"a": [[1.0]], "b": [[1]]}), tmp_path / "t.parquet")
    fixed = pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3))
    pq.write_table(pa.table({"features": fixed}), tmp_path / "f.parquet")
    photographs(tmp_path / "empty", 0)
    for model, name, wanted, says in (
        (images, "none.parquet", Wanted(), "must be a table, an image, a folder of images or a list of them"),
        (images, "empty", Wanted(), "must hold images or Parquet files, there is none"),
        (images, "empty.txt", Wanted(), "must list an image at least, got none"),
        (images, "t.parquet", Wanted(), "must have a column image, or one of encoded images, got a, b; name it with"),
        (vectors, "t.csv", Wanted(), "must have a column f0, got .*; name the columns of the features with --input"),
        (vectors, "t.csv", Wanted("g*"), "features 'g\\*' must match a column"),
        (vectors, "t.csv", Wanted(["a", "b"], kept=["c"]), "must have a column c"),
        (vectors, "t.csv", Wanted(["a"]), "a to a must have 2 numbers, as the model takes, got 1"),
        (vectors, "f.parquet", Wanted("features"), "features must have 2 numbers, as the model takes, got 3"),
        (vectors, "t.parquet", Wanted("a", kept=["b"]), "must hold texts, numbers or dates, b does not"),
        (vectors, "empty", Wanted(), "must hold Parquet files"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            open_rows(tmp_path / name, model, wanted)
    out = tmp_path / "o.csv"
    with pytest.raises(ValueError, match="the column predicted has the name of a column of the predictions"):
        write_predictions(vectors, open_rows(tmp_path / "t.csv", vectors, Wanted(["a", "b"])), out, True)
    assert not out.exists()
    files = photographs(tmp_path)
    with pytest.raises(ValueError, match="--keep: goes with a table"):
        open_rows(files[0], images, Wanted(kept=["a"]))
    pinned(tmp_path / "c.yaml", (3, 16, 16), preprocess=STEPS.as_keys())
    with pytest.raises(
        ValueError, match="correction is by group; give a table with the images or their paths"
    ):
        open_rows(files[0], by_group(tmp_path / "c.yaml"))


def test_batches_bound_the_numbers_that_are_held(tmp_path: Path) -> None:
    wide = 5000
    pinned(tmp_path / "w.yaml", (wide,), "linear_head", data={"name": "parquet"}, columns="features")
    model = load_pinned(tmp_path / "w.yaml")
    table = pa.table({"features": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(wide * 2000)), wide)})
    sizes = [batch.rows.size for batch in predictions(model, table_rows(MemoryTable(table, "t"), model))]
    assert sizes == [838, 838, 324]  # 2^22 numbers at once


def test_the_folder_that_mlflow_loads_is_a_model(tmp_path: Path) -> None:
    of_features(tmp_path, group="site")
    model = by_group(tmp_path / "b.yaml", ["north", "south"])
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    settings = yaml.safe_load((tmp_path / "b.yaml").read_text())
    (folder / "settings.json").write_text(json.dumps(settings))
    served = _load_pyfunc(str(folder))
    frame = pd.DataFrame({"f0": [1.0, 2.0], "f1": [3, 4], "site": ["north", "south"]})
    given = served.predict(frame)
    assert list(given["predicted"]) == ["bee", "cat"]
    x = torch.tensor(frame[["f0", "f1"]].to_numpy(), dtype=torch.float32)
    expected = model.predict(x, ["north", "south"])[1].numpy()
    assert np.abs(given.iloc[:, 1:].to_numpy() - expected).max() < 1e-6
    with pytest.raises(ValueError, match="site must be one of north, south, got 'west' in row 1"):
        served.predict(frame.assign(site=["north", "west"]))
    with pytest.raises(ValueError, match="takes no parameters, got beta"):
        served.predict(frame, {"beta": 1})
    with pytest.raises(ValueError, match="input: must have rows, got none"):
        served.predict(frame[:0])
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"weights.safetensors"):
        _load_pyfunc(str(folder))


HELD = """
import re, sys
from pathlib import Path
from selmix.pinned import load_pinned
from selmix.serving.predict import write_predictions
from selmix.serving.rows import open_rows
home = Path(sys.argv[1])
model = load_pinned(home / "w.yaml")
def used(name):
    done = write_predictions(model, open_rows(home / name, model), home / "o.parquet", False)
    # Not by getrusage, whose peak is that of the process that started this one, too.
    return done.rows, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
print(*used("small.parquet"), *used(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_of_any_length_takes_the_memory_of_a_batch(ending: str, tmp_path: Path) -> None:
    """410 MB more in one row group, or 80 MB more of text: not half as much more in memory.

    The table itself is nowhere held (its batches take 42 MB at any length); what grows is what the allocators keep, by
    up to 160 MB, more with more threads.
    """
    wide = 512
    # Not smaller: it takes some batches until the allocator has all that it will keep.
    few, rows = (50_000, 250_000) if ending == "parquet" else (5_000, 20_000)
    columns = [f"f{k}" for k in range(wide)] if ending == "csv" else "features"
    pinned(tmp_path / "w.yaml", (wide,), "linear_head", data={"name": "parquet"}, columns="features")
    rng = np.random.default_rng(0)

    def table(rows: int) -> pa.Table:
        flat = pa.array(rng.standard_normal(rows * wide, dtype=np.float32))
        return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, wide)})

    pq.write_table(table(few), tmp_path / "small.parquet")
    name = f"large.{ending}"
    if ending == "parquet":
        with pq.ParquetWriter(tmp_path / name, table(1).schema) as writer:
            writer.write_table(table(rows), row_group_size=rows)
    else:
        line = ",".join(f"{value:.7f}" for value in rng.standard_normal(wide)) + "\n"
        with (tmp_path / name).open("w") as file:
            file.write(",".join(columns) + "\n")
            file.writelines([line] * rows)
        document = yaml.safe_load((tmp_path / "w.yaml").read_text())
        pq.write_table(pa.table({c: np.zeros(few, np.float32) for c in columns}), tmp_path / "small.parquet")
        document["protocol"]["columns"] = columns
        (tmp_path / "w.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path), name], env=environment(), cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    first, before, second, after = map(int, done.stdout.split())
    assert (first, second) == (few, rows)
    assert after - before < (205 if ending == "parquet" else 100), f"{before} MB, then {after} MB"
