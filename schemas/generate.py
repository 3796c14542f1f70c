"""Write the JSON Schema of every document: ``python schemas/generate.py``.

Each is made from the dataclass that the document is printed from. They are open: later versions add keys, and values of
enumerations, and change the meaning of none.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.cluster.doctor import DoctorDocument
from orchestrator.documents import json_schema
from orchestrator.pins.export import ExportDocument
from orchestrator.pins.listing import PinsDocument
from orchestrator.pins.lock_file import Pin
from orchestrator.pins.predict import PredictDocument
from orchestrator.pins.reproduce import ReproduceDocument
from orchestrator.records.logs import LogsDocument
from orchestrator.records.openings import RecordedOpening
from orchestrator.records.types import SweepState, TrialRecord
from orchestrator.results.rows import Choices, SweepResult
from orchestrator.verbs.data import DataDocument
from orchestrator.verbs.diagnose import DiagnoseDocument
from orchestrator.verbs.evaluate import EvaluateDocument
from orchestrator.verbs.ls import LsDocument
from orchestrator.verbs.plan import PlanDocument
from orchestrator.verbs.pretrain import PretrainDocument
from orchestrator.verbs.recipes import RecipesDocument
from orchestrator.verbs.show import ShowDocument
from orchestrator.verbs.validate import ValidateDocument

FOLDER = Path(__file__).parent

PRINTED: dict[str, tuple[type[Any], str]] = {
    "evaluate": (EvaluateDocument, "selmix evaluate --json"),
    "validate": (ValidateDocument, "selmix validate --json"),
    "data": (DataDocument, "selmix data check --json"),
    "plan": (PlanDocument, "selmix plan --json"),
    "diagnose": (DiagnoseDocument, "selmix diagnose --json"),
    "doctor": (DoctorDocument, "selmix doctor --json"),
    "pretrain": (PretrainDocument, "selmix pretrain --json"),
    "ls": (LsDocument, "selmix ls --json"),
    "recipes": (RecipesDocument, "selmix ls --recipes --json"),
    "show": (ShowDocument, "selmix show --json"),
    "logs": (LogsDocument, "selmix logs --json"),
    "pins": (PinsDocument, "selmix pins --json"),
    "reproduce": (ReproduceDocument, "selmix reproduce --json"),
    "predict": (PredictDocument, "selmix predict --json"),
    "export": (ExportDocument, "selmix export --json"),
}
"""Name -> dataclass, and the command that prints the document."""

STORED: dict[str, tuple[type[Any], str]] = {
    "sweep": (SweepState, "RUNS/SWEEP/sweep.json"),
    "record": (TrialRecord, "RUNS/SWEEP/trials/TRIAL/record.json"),
    "choices": (Choices, "RUNS/SWEEP/choices.json"),
    "results": (SweepResult, "RUNS/SWEEP/results.json"),
    "pin": (Pin, "PINS/NAME.yaml"),
    "opening": (RecordedOpening, "a line of RUNS/openings.jsonl"),
}
"""Name -> dataclass, and the file that holds the document."""


def schemas() -> dict[str, dict[str, Any]]:
    """Name -> JSON Schema."""
    made = {
        name: _open(_explained(json_schema(kind, title), top=True))
        for name, (kind, title) in (PRINTED | STORED).items()
    }
    _say_nothing_yet(made["sweep"])
    return made


_ENTRY = re.compile(r"^    (\w+): (.*)$")


def _explained(schema: dict[str, Any], top: bool = False) -> dict[str, Any]:
    """The schema with what the docstring says of each attribute beside the property, and without made-up titles."""
    text, _, attributes = schema.get("description", "").partition("Attributes:")
    entries: dict[str, str] = {}
    name = ""
    for line in attributes.splitlines():
        if (match := _ENTRY.match(line)) is not None:
            name, entries[match[1]] = match[1], match[2]
        elif line.strip() and name:
            entries[name] += f" {line.strip()}"
    properties = {
        key: {k: v for k, v in value.items() if k != "title"}
        | ({"description": entries[key]} if key in entries else {})
        for key, value in schema.get("properties", {}).items()
    }
    kept = {k: v for k, v in schema.items() if top or k != "title"}
    explained = kept | ({"description": text.strip()} if text.strip() else {})
    if properties:
        explained["properties"] = properties
    if "$defs" in schema:
        explained["$defs"] = {key: _explained(each) for key, each in schema["$defs"].items()}
    return explained


def _open(schema: Any) -> Any:
    """The schema with the values of its enumerations as examples: a later version has more of them."""
    if isinstance(schema, list):
        return [_open(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {key: _open(value) for key, value in schema.items()}
    # A list is an enumeration; a mapping is a field of that name.
    if isinstance(opened.get("enum"), list):
        opened["examples"] = opened.pop("enum")
    return opened


def _say_nothing_yet(schema: dict[str, Any]) -> None:
    """``sweep.json`` holds ``{}`` for what is not known yet, and leaves out what a base model does not have."""
    for key in ("data", "base", "environment", "cluster"):
        schema["properties"][key]["anyOf"].append({"type": "object", "maxProperties": 0})
    schema["$defs"]["BaseFacts"]["required"] = ["digest", "cost_s"]


def text_of(schema: dict[str, Any]) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for name, schema in schemas().items():
        (FOLDER / f"{name}.schema.json").write_text(text_of(schema))
