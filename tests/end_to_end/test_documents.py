"""JSON Schemas: those that are published are those of the code, and what the verbs print and store is valid by them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.command import ROOT, SMOKE, Done, here

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # matters of MLflow's, on a store that begins empty
    pytest.mark.usefixtures("few_baselines"),
]

FOLDER = ROOT / "schemas"
SMALL = ("search.num_trials=1", "selection.replicates=1", "selection.finalists=1", "pretrain.epochs=2")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
SCHEMAS: dict[str, dict[str, Any]] = GENERATOR.schemas()


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_published_is_what_the_code_has(name: str) -> None:
    """After a change: ``make schemas``."""
    assert (FOLDER / f"{name}.schema.json").read_text() == GENERATOR.text_of(SCHEMAS[name])
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_no_schema_is_left_behind() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == {f"{name}.schema.json" for name in SCHEMAS}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep, a pin and a table of scores."""
    home = tmp_path_factory.mktemp("documents")
    assert here("launch", SMOKE, *SMALL, "--in-process", cwd=home).code == 0
    assert here("pin", "smoke", "--name", "kept", cwd=home).code == 0
    labels = [k % 3 for k in range(60)]
    scores = [[float(k == label), 0.2, 0.1 * (k % 7)] for k, label in enumerate(labels)]
    pq.write_table(pa.table({"label": labels, "scores": scores}), home / "scores.parquet")
    width = yaml.safe_load((home / "pins" / "kept.yaml").read_text())["protocol"]["input_shape"][0]
    columns = [f"f{k}" for k in range(width)]
    (home / "features.csv").write_text("\n".join([",".join(columns), ",".join("1" for _ in columns)]))
    return home


PRINTED: dict[str, tuple[str | Path, ...]] = {
    "evaluate": ("evaluate", "scores.parquet", "--objective", "min_recall"),
    "validate": ("validate", SMOKE),
    "data": ("data", "check", SMOKE),
    "plan": ("plan", SMOKE),
    "diagnose": ("diagnose", SMOKE, "parameters.steps.value=20", "pretrain.epochs=1"),
    # No cluster answers there: the document lists that as a problem.
    "doctor": ("doctor", "--address", "127.0.0.1:1"),
    "pretrain": ("pretrain", SMOKE, "pretrain.epochs=1", "--output", "base.safetensors", "-q"),
    "ls": ("ls",),
    "recipes": ("ls", "--recipes"),
    "show": ("show", "smoke"),
    "logs": ("logs", "smoke", "trial-000"),
    "pins": ("pins",),
    "reproduce": ("reproduce", "kept"),
    "predict": ("predict", "kept", "features.csv", "--input", "f*", "--out", "predicted.csv"),
    "export": ("export", "kept", "--format", "safetensors"),
}


def test_every_printed_document_is_looked_at() -> None:
    assert PRINTED.keys() == GENERATOR.PRINTED.keys()
    assert PRINTED.keys() | STORED.keys() == SCHEMAS.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_what_a_verb_prints_is_valid(name: str, home: Path) -> None:
    done: Done = here(*PRINTED[name], "--json", cwd=home)
    assert done.code == (4 if name == "doctor" else 0), done.err
    jsonschema.validate(done.document, SCHEMAS[name], jsonschema.Draft202012Validator)
    # A document without one of its keys is none: the schema looks at what there is.
    for key in SCHEMAS[name]["required"]:
        lacking = {k: v for k, v in done.document.items() if k != key}
        with pytest.raises(jsonschema.ValidationError, match="is a required property"):
            jsonschema.validate(lacking, SCHEMAS[name], jsonschema.Draft202012Validator)


STORED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "sweep": ("runs/smoke/sweep.json", json.loads),
    "record": ("runs/smoke/trials/min_recall/trial-000/record.json", json.loads),
    "choices": ("runs/smoke/choices.json", json.loads),
    "results": ("runs/smoke/results.json", json.loads),
    "pin": ("pins/kept.yaml", yaml.safe_load),
    "opening": ("runs/openings.jsonl", lambda lines: json.loads(lines.splitlines()[0])),
}


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_is_valid(name: str, home: Path) -> None:
    path, read = STORED[name]
    jsonschema.validate(read((home / path).read_text()), SCHEMAS[name], jsonschema.Draft202012Validator)


def test_records_of_a_sweep_that_begins_are_valid() -> None:
    from orchestrator.records.types import SweepState

    document = SweepState("s", "1").to_document()
    assert document["data"] == {}
    jsonschema.validate(document, SCHEMAS["sweep"], jsonschema.Draft202012Validator)


def test_schemas_are_open_to_additions(home: Path) -> None:
    document = here("ls", "--json", cwd=home).document | {"added": 1}
    document["sweeps"][0] |= {"state": "paused", "added": [1]}
    jsonschema.validate(document, SCHEMAS["ls"], jsonschema.Draft202012Validator)
    assert '"enum"' not in json.dumps(SCHEMAS)
