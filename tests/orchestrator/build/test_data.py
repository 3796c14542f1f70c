"""Data of a specification: read, and refused where a class or a cell that is counted has no samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.build.data import load_data, uses_groups
from orchestrator.errors import PreflightError
from orchestrator.spec.schema import SweepSpec, spec_from_resolved


def spec_of(data: dict[str, Any], **more: Any) -> SweepSpec:
    return spec_from_resolved({"version": 1, "name": "x", "data": data, "objectives": ["min_recall"], **more})


def table(path: Path, missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """A table with one sample of each class, group and split, except for the missing ones: ``train a 0`` and so on."""
    rows = [
        (split, label, group)
        for split in ("train", "feedback", "select", "test")
        for label in "ab"
        for group in "01"
        if f"{split} {label} {group}" not in missing and f"{split} {label}" not in missing
    ]
    columns = dict(zip(("split", "label", "group"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table({**columns, "features": [[float(k), 1.0] for k in range(len(rows))]}), path)
    return {"name": "parquet", "path": str(path), "split": "split", "group": "group"}


def test_data_that_are_whole_are_loaded(tmp_path: Path) -> None:
    data = load_data(spec_of(table(tmp_path / "t.parquet"), objectives=["worst_group_recall"]))
    assert (len(data.train), data.class_names, data.group_names) == (4, ("a", "b"), ("0", "1"))


@pytest.mark.parametrize("split", ["train", "feedback", "select"])
def test_every_class_has_a_sample_in_every_split(tmp_path: Path, split: str) -> None:
    data = table(tmp_path / "t.parquet", (f"{split} b",))
    with pytest.raises(
        PreflightError,
        match=f"must have a sample in {split}, got none of b; give them some, or data.rare_classes: drop or pool$",
    ):
        load_data(spec_of(data))
    columns = pq.read_table(tmp_path / "t.parquet").to_pydict()
    columns["label"] = [f"{label}{k % 2}" for k, label in enumerate(columns["label"])]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(PreflightError, match="got none of b0, b1; give"):
        load_data(spec_of(data))


def test_a_split_that_a_table_names_nowhere_can_be_drawn(tmp_path: Path) -> None:
    data = table(tmp_path / "t.parquet", ("feedback a", "feedback b"))
    with pytest.raises(
        PreflightError,
        match=r"got none of a, b; the table names no feedback: give data\.feedback, the samples per class to draw",
    ):
        load_data(spec_of(data))
    assert load_data(spec_of(data | {"feedback": 1})).feedback.counts(2).tolist() == [1, 1]


def test_sizes_of_a_data_set_are_raised() -> None:
    with pytest.raises(
        PreflightError, match=r"got none of 10 classes: 0, 1, 2 and 7 more; raise data\.feedback$"
    ):
        load_data(spec_of({"name": "digits", "feedback": 0}))


@pytest.mark.parametrize("split", ["feedback", "select"])
def test_a_cell_is_missed_only_by_a_metric_of_groups(tmp_path: Path, split: str) -> None:
    data = table(tmp_path / "t.parquet", (f"{split} a 1", f"{split} b 0", "train a 0"))
    load_data(spec_of(data))
    with pytest.raises(
        PreflightError,
        match=f"a sample in {split} for a metric of groups, got none of a x 1, b x 0; give larger splits",
    ):
        load_data(spec_of(data, objectives=["worst_group_recall"]))


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        PreflightError, match=r"data: parquet must be readable: .*gone\.parquet: .* there is none"
    ):
        load_data(spec_of({"name": "parquet", "path": str(tmp_path / "gone.parquet")}))


@pytest.mark.parametrize(
    ("more", "uses"),
    [
        ({}, False),
        ({"objectives": ["min_recall", "equalized_odds_gap"]}, True),
        ({"selection": {"metric": "worst_group_recall"}}, True),
        ({"constraints": [{"metric": "equal_opportunity_gap", "at_most": 0.1}]}, True),
        ({"objectives": ["module:function"], "selection": {"metric": "g_mean"}}, False),
    ],
)
def test_groups_are_used_by_any_section_that_names_a_metric(more: dict[str, Any], uses: bool) -> None:
    assert uses_groups(spec_of({"name": "digits"}, **more)) == uses
