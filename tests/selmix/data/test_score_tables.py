"""Tables of labels and scores: any columns, names of classes, Parquet and text, and what is refused with its row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selmix.data.score_tables import Columns, place_in, read_scores

SCORES = [[0.1, 0.9, 0.0], [0.8, 0.2, 0.5]]


def write(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def text(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def test_a_label_is_a_name_before_it_is_a_place(tmp_path: Path) -> None:
    table = read_scores(write(tmp_path, label=[1, 2], score_2=[0.1, 0.2], score_1=[0.3, 0.4]))
    assert table.class_names == ("2", "1")
    assert table.labels.tolist() == [1, 0]
    by_place = read_scores(write(tmp_path, label=[1, 0], score_cat=[0.1, 0.2], score_dög=[0.3, 0.4]))
    assert (by_place.class_names, by_place.labels.tolist()) == (("cat", "dög"), [1, 0])


def test_columns_of_scores_are_stacked_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, score_b=[1, 2], other=["x", "y"], label=["a", "b"], score_a=[3.5, 4.5])
    table = read_scores(path)
    assert table.scores is not None
    assert table.scores.tolist() == [[1.0, 3.5], [2.0, 4.5]]
    assert table.scores.dtype == torch.float64
    assert table.labels.tolist() == [1, 0]
    assert (table.groups, table.group_names, table.predicted) == (None, (), None)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.list_(pa.float64()), torch.float64),
        (pa.large_list(pa.int32()), torch.float64),
        (pa.list_(pa.float32(), 2), torch.float32),
        (pa.list_(pa.float16()), torch.float32),
    ],
)
def test_lists_of_every_kind_keep_their_precision(
    kind: pa.DataType, dtype: torch.dtype, tmp_path: Path
) -> None:
    rows = [[k % 1000, -(k % 1000)] for k in range(5000)]  # more than are decoded at once
    values = (
        rows
        if kind.value_type != pa.float16()
        else [[pa.scalar(float(v), pa.float16()) for v in r] for r in rows]
    )
    table = read_scores(write(tmp_path, label=[0, 1] * 2500, scores=pa.array(values, kind)))
    assert table.scores is not None
    assert table.scores.dtype == dtype
    assert torch.equal(table.scores, torch.tensor(rows, dtype=dtype))


@pytest.mark.parametrize(
    ("values", "groups", "names"),
    [
        ([10, 9], [1, 0], ("9", "10")),
        (["b", "a"], [1, 0], ("a", "b")),
        ([True, False], [1, 0], ("False", "True")),
    ],
)
def test_groups_are_numbered_by_value(
    values: list[Any], groups: list[int], names: tuple[str, ...], tmp_path: Path
) -> None:
    for column, columns in (("group", None), ("site", Columns(group="site"))):
        table = read_scores(write(tmp_path, label=[0, 1], scores=SCORES, **{column: values}), columns)
        assert table.groups is not None
        assert (table.groups.tolist(), table.group_names) == (groups, names)


@pytest.mark.parametrize("labels", [[True, False], [1.0, 0.0], [1, 0], ["1", "0"]])
def test_labels_are_whole_numbers_whatever_the_column_holds(labels: list[Any], tmp_path: Path) -> None:
    table = read_scores(write(tmp_path, label=labels, scores=[[0.1, 0.9], [0.8, 0.2]]))
    assert table.labels.dtype == torch.int64
    assert table.labels.tolist() == [1, 0]


def test_names_of_columns_and_classes_are_the_users(tmp_path: Path) -> None:
    path = write(tmp_path, y=["bee", "ant"], logit=[[0.1, 0.9], [0.8, 0.2]])
    table = read_scores(path, Columns("y", ("logit",), class_names=("ant", "bee")))
    assert (table.labels.tolist(), table.class_names) == ([1, 0], ("ant", "bee"))
    # Whole numbers are places in the order of the names.
    path = write(tmp_path, y=[1, 0], p_0=[0.1, 0.8], p_1=[0.9, 0.2])
    table = read_scores(path, Columns("y", prefix="p_", class_names=("ant", "bee")))
    assert (table.labels.tolist(), table.class_names) == ([1, 0], ("ant", "bee"))
    path = write(tmp_path, y=["bee", "ant"], bee=[0.9, 0.2], ant=[0.1, 0.8])
    table = read_scores(path, Columns("y", ("ant", "bee")))
    assert (table.labels.tolist(), table.class_names) == ([1, 0], ("ant", "bee"))
    assert table.scores is not None
    assert table.scores.tolist() == [[0.1, 0.9], [0.8, 0.2]]
    # A dictionary column of pandas, with a value that no row has.
    held = pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(["ant", "cow", "bee"]))
    table = read_scores(write(tmp_path, label=held, score_ant=[0.1, 0.8], score_bee=[0.9, 0.2]))
    assert table.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "positive", "names", "found"),
    [
        ([0, 1, 1], None, ("0", "1"), [0, 1, 1]),
        ([True, False, True], None, ("0", "1"), [1, 0, 1]),
        ([0, 1, 1], "0", ("1", "0"), [1, 0, 0]),
        ([1.0, 0.0, 1.0], "1", ("0", "1"), [1, 0, 1]),
        ([True, False, True], "True", ("0", "1"), [1, 0, 1]),
        (["no", "yes", "no"], "yes", ("no", "yes"), [0, 1, 0]),
        (["no", "yes", "no"], "no", ("yes", "no"), [1, 0, 1]),
        ([-1, 1, -1], "1", ("-1", "1"), [0, 1, 0]),
    ],
)
def test_one_column_of_scores(
    labels: list[Any], positive: str | None, names: tuple[str, ...], found: list[int], tmp_path: Path
) -> None:
    columns = Columns("y_true", positive=positive)
    for path in (
        write(tmp_path, y_true=labels, proba=[0.1, 0.9, 0.8]),
        text(
            tmp_path,
            "y_true,proba\n" + "".join(f"{y},{p}\n" for y, p in zip(labels, (0.1, 0.9, 0.8), strict=True)),
        ),
    ):
        table = read_scores(path, columns)
        assert (table.class_names, table.labels.tolist()) == (names, found)
        assert table.scores is not None
        assert table.scores.tolist() == [[0.1], [0.9], [0.8]]


def test_the_positive_class_of_two_columns_comes_second(tmp_path: Path) -> None:
    path = write(tmp_path, label=["a", "b"], score_a=[0.9, 0.2], score_b=[0.1, 0.8])
    table = read_scores(path, Columns(positive="a"))
    assert table.scores is not None
    assert (table.class_names, table.labels.tolist()) == (("b", "a"), [1, 0])
    assert table.scores.tolist() == [[0.1, 0.9], [0.8, 0.2]]
    assert read_scores(path, Columns(positive="b")).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [(["b", "a", "c"], ["b", "b", "c"]), ([1, 0, 2], [1.0, 1.0, 2.0]), ([1, 0, 2], ["1", "1", "2"])],
)  # fmt: skip
def test_predictions_alone(labels: list[Any], predictions: list[Any], tmp_path: Path) -> None:
    table = read_scores(write(tmp_path, y=labels, hat=predictions), Columns("y", prediction="hat"))
    assert table.scores is None
    assert table.predicted is not None
    assert (table.labels.tolist(), table.predicted.tolist()) == ([1, 0, 2], [1, 1, 2])
    assert len(table.class_names) == 3


@pytest.mark.parametrize(
    ("name", "sign"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv.gz", ","), ("t.csv", ";"), ("t.txt", ",")]
)
def test_text_of_every_kind(name: str, sign: str, tmp_path: Path) -> None:
    rows = ["label,score_a,score_b,note", "a,0.5,-inf,x", "", 'b,1e-3,2,"two\nlines"', "NA,1,2,z"]
    content = "\ufeff" + "\n".join(rows).replace(",", sign).replace("NA", "b") + "\n"
    table = read_scores(text(tmp_path, content, name))
    assert table.scores is not None
    assert table.scores.tolist() == [[0.5, -float("inf")], [0.001, 2.0], [1.0, 2.0]]
    assert table.labels.tolist() == [0, 1, 1]
    assert place_in(tmp_path / name, 2) == "row 3 (line 6)"


def test_a_class_may_be_named_na_and_a_parquet_file_anything(tmp_path: Path) -> None:
    table = read_scores(text(tmp_path, "label,score_NA,score_DE\nNA,1,2\nDE,3,4\n"))
    assert (table.class_names, table.labels.tolist()) == (("NA", "DE"), [0, 1])
    path = write(tmp_path, label=[0, 1], scores=SCORES)
    path.rename(tmp_path / "t.csv")
    assert read_scores(tmp_path / "t.csv").class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scores": [[0.1, 0.9]]}, "must have a column label, got scores; name it with --label"),
        ({"label": [0, 1], "a": [0.1, 0.2], "b": [1.0, 2.0]}, "name it with --scores-column or --score-prefix"),
        ({"label": [0, 1]}, "must have a column scores with lists of K numbers"),
        ({"label": [0, 1], "scores": [["a", "b"], ["c", "d"]]}, "must hold lists of numbers, got lists of string"),
        ({"label": [0, 1], "scores": [[0.1, 0.9], [0.1]]}, "row 2: scores must have as many numbers in every row"),
        ({"label": [0, 1], "scores": [[0.1, 0.9], None]}, "row 2: scores must be given in every row"),
        ({"label": [0, 1], "scores": [[0.1, 0.9], [0.1, None]]}, "row 2: scores must be numbers, one is missing"),
        ({"label": [0, 1], "score_a": ["x", "y"], "score_b": [0.1, 0.2]}, "score_a must hold numbers, got string"),
        ({"label": [0, 1], "score_a": [0.1, None], "score_b": [0.1, 0.2]}, "row 2: score_a must be a number"),
        ({"label": [0, -1], "scores": SCORES}, "row 2: label must be one of 0, 1, 2, got -1"),
        ({"label": [0, 5], "scores": SCORES}, "row 2: label must be one of 0, 1, 2, got 5; name the classes"),
        ({"label": [0.5, 1], "scores": SCORES}, "row 1: label must be one of 0, 1, 2, got 0.5"),
        ({"label": ["cat", "dog"], "score_dog": [1, 2], "score_eel": [1, 2]}, "must be one of dog, eel, got 'cat'"),
        ({"label": [0, None], "scores": SCORES}, "row 2: label must be given in every row"),
        ({"label": pa.array([], pa.int64()), "scores": pa.array([], pa.list_(pa.float32()))}, "must have rows"),
        ({"label": [[0], [1]], "scores": SCORES}, "label must hold whole numbers or texts, got list<"),
        ({"label": ["a", "b"], "hat": ["a", "b"]}, "got string; a column of predicted classes is named with --predict"),
        ({"label": ["a", "b"], "proba": [0.1, 0.2]}, "needs the class that they are of, one of a, b; give --positive"),
        ({"label": [0, 1, 2], "proba": [0.1, 0.2, 0.3]}, "row 3: label must have two values with one column"),
    ],
)  # fmt: skip
def test_tables_that_do_not_do(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **columns)
    with pytest.raises(ValueError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(group="site"), "must have a column site, got label, scores; name it with --group"),
        (Columns(prediction="hat"), "must have a column hat, got label, scores; name it with --prediction"),
        (
            Columns(scores=("logit",)),
            "must have a column logit, got label, scores; name it with --scores-column",
        ),
        (Columns(class_names=("a", "b")), "--class-names must be 3 different names, one per class, got a, b"),
        (Columns(class_names=("a", "b", "a")), "--class-names must be 3 different names"),
        (Columns(positive="0"), "--positive goes with two classes, got 3"),
        (Columns(positive="x"), "--positive must be one of 0, 1, 2, got 'x'"),
    ],
)
def test_columns_that_do_not_fit(columns: Columns, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_scores(write(tmp_path, label=[0, 1], scores=SCORES), columns)


def test_names_that_are_not_those_of_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path, label=["a", "b"], score_a=[0.9, 0.2], score_b=[0.1, 0.8])
    assert read_scores(path, Columns(class_names=("b", "a"))).class_names == ("a", "b")
    with pytest.raises(ValueError, match="--class-names must be those of the columns, a, b, got a, c"):
        read_scores(path, Columns(class_names=("a", "c")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,score_a,score_b\na,1,2\nb,1,x\n", r"row 2 \(line 3\): score_b must be a number, got 'x'"),
        (
            "label,score_a,score_b\n\na,1,2\nb,,2\n",
            r"row 2 \(line 4\): score_a must be a number in every row",
        ),
        ("label,score_a,score_b\na,1,2\n,1,2\n", r"row 2 \(line 3\): label must be given in every row"),
        ("label,score_a,score_b\na,1,2\nb,1\n", r"row 2 \(line 3\): must have 3 cells as the header, got 2"),
        ("label,score_a,score_b\na,1,2\nc,1,2\n", r"row 2 \(line 3\): label must be one of a, b, got 'c'"),
        ("label,a,a\na,1,2\n", "line 1: every column must have a name of its own, got 'a' twice"),
        ("", "must have a line with the names of the columns"),
        ("label,score_a,score_b\n", "label: must have rows, got none"),
        (
            'label,scores\n0,"[0.1, 0.9]"\n1,"[0.1, x]"\n',
            r"row 2 \(line 3\): scores must be a list of numbers in brackets, got '\[0.1, x\]'",
        ),
        (
            'label,scores\n0,"[0.1 0.9]"\n1,[1]\n',
            r"row 2 \(line 3\): scores must have as many numbers .* got 1",
        ),
        (
            'label,score_a,score_b\na,"0,5",1\nb,1,2\n',
            r"row 1 \(line 2\): score_a must be a number, got '0,5'; where a comma is the decimal sign, semicolons",
        ),
        (
            "label;score_a;score_b\na;0,5;1.5\nb;1;2\n",
            r"row 1 \(line 2\): score_a must be a number, got '0,5'",
        ),
        (
            "label,hat\na,b\nb,a\n",
            r"hat must be a number, got 'b'; a column of predicted classes is named with",
        ),
        (
            "label,score_ä,score_b\n".encode("latin-1"),
            r"line 1: must be UTF-8, got the byte 0xe4 at place 13 \(Latin-1",
        ),
        (b"label,score_a,score_b\na,1,2\n" + "bä,1,2\n".encode("latin-1"), "line 3: must be UTF-8"),
    ],
)
def test_text_that_does_not_do(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = text(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [
    "label;score_a;score_b\na;0,5;-1,25e1\nb;1;2\n", "label\tscore_a\tscore_b\na\t0,5\t-12,5\nb\t1\t2\n",
    "label, score_a, score_b\na, 0.5, -12.5\nb , 1, 2\n",
    '"label","score_a","score_b"\r\n"a","0.5","-12.5"\r\n"b",1,2\r\n',
    'label,scores\n0,"[0.5, -12.5]"\n1,"[1. 2.]"\n', 'label,scores\n0,"[ 0.5\n -12.5]"\n1,"[1,2]"\n',
    "label;scores\n0;[0.5, -12.5]\n1;[1, 2]\n",
])  # fmt: skip
def test_text_of_every_writer(content: str, tmp_path: Path) -> None:
    table = read_scores(text(tmp_path, content, "t.csv"))
    assert table.scores is not None
    assert table.scores.tolist() == [[0.5, -12.5], [1.0, 2.0]]
    assert (table.labels.tolist(), len(table.class_names)) == ([0, 1], 2)


def test_utf_16_is_said(tmp_path: Path) -> None:
    path = text(tmp_path, "label,score_a,score_b\na,1,2\n".encode("utf-16"))
    with pytest.raises(
        ValueError, match="line 1: must be UTF-8, got UTF-16; convert it: iconv -f utf-16 -t utf-8"
    ):
        read_scores(path)


def test_a_tensor_for_each_row_and_the_names_in_the_metadata(tmp_path: Path) -> None:
    rows = np.array(SCORES)
    feature = {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}
    facts = {b"huggingface": json.dumps({"info": {"features": {"label": feature}}}).encode()}
    columns = {"label": [2, 0], "scores": pa.FixedShapeTensorArray.from_numpy_ndarray(rows)}
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), tmp_path / "t.parquet")
    table = read_scores(tmp_path / "t.parquet")
    assert table.scores is not None
    assert table.scores.tolist() == SCORES
    assert (table.class_names, table.labels.tolist()) == (("ant", "bee", "cow"), [2, 0])


@pytest.mark.parametrize(("groups", "problem"), [
    (["a", "a"], "group must name at least two groups, got ['a']"),
    (["a", None], "row 2: group must be given in every row, it is missing"),
    ([["a"], ["b"]], "group must hold whole numbers or texts, got list<"),
])  # fmt: skip
def test_a_column_of_groups_that_nobody_asked_for_stands_in_no_way(
    groups: list[Any], problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path, label=[0, 1], scores=SCORES, group=groups)
    table = read_scores(path)
    assert (table.groups, table.group_names) == (None, ())
    assert problem in table.unfit_groups
    with pytest.raises(ValueError, match="group") as caught:
        read_scores(path, Columns(group="group"))
    assert str(caught.value).startswith(f"{path}: ")


def test_predictions_that_share_no_class_with_the_labels_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, label=["ant", "bee", "ant"], hat=[0, 1, 1])
    with pytest.raises(
        ValueError, match="hat must hold classes of label, got 0, 1 and none of ant, bee; name the cl"
    ):
        read_scores(path, Columns(prediction="hat"))
    table = read_scores(path, Columns(prediction="hat", class_names=("ant", "bee")))
    assert table.predicted is not None
    assert table.predicted.tolist() == [0, 1, 1]


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"label,score_a,score_b\n" * 100)[:-20])
    (tmp_path / "no.parquet").write_text("no")
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("none.parquet", "there is none"), ("folder.csv", "there is a folder"),
        ("cut.csv.gz", "must be a Parquet, CSV"), ("no.parquet", "must be a Parquet, CSV or TSV file"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read_scores(tmp_path / name)
