"""A pin as a document: a lock file of a result, with a digest of each of its sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import NotFound, PreflightError
from orchestrator.files import write_atomically

SCHEMA_VERSION = 1
ORDER = (
    "schema_version", "name", "created", "sweep", "objective", "trial_id", "is_winner", "seed", "round", "config",
    "protocol", "base", "digests", "select", "test", "replicates", "baselines", "verdict", "environment", "mlflow",
)  # fmt: skip


def pin_path(pins: Path, name: str) -> Path:
    """Where the pin of that name lies; its weights lie beside it as ``NAME.safetensors``."""
    return pins / f"{name}.yaml"


def weights_beside(path: Path) -> Path:
    """The weights of a pin."""
    return path.with_suffix(".safetensors")


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document in order, with the digests of its sections and of itself."""
    ordered = {key: document[key] for key in ORDER}
    digests = {key: value for key, value in ordered["digests"].items() if key not in ("sections", "pin")}
    sections = {key: digest(value) for key, value in ordered.items() if key != "digests"}
    ordered["digests"] = digests | {"sections": sections, "pin": digest(digests | {"sections": sections})}
    return ordered


def broken_sections(document: Mapping[str, Any]) -> list[str]:
    """Names of what was edited since the pin was written, in its order."""
    digests = document.get("digests")
    if not isinstance(digests, Mapping) or not isinstance(digests.get("sections"), Mapping):
        return ["digests"]
    sections: Mapping[str, Any] = digests["sections"]
    unsealed = {key: value for key, value in digests.items() if key != "pin"}
    broken = ["digests"] if digest(unsealed) != digests.get("pin") else []
    keys = [key for key in dict.fromkeys([*ORDER, *document]) if key != "digests"]
    return broken + [key for key in keys if key not in document or digest(document[key]) != sections.get(key)]


def digest(value: Any) -> str:
    """``sha256:...`` of a plain value."""
    return f"sha256:{hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}"


def write_pin(path: Path, document: Mapping[str, Any]) -> None:
    """Write a sealed pin in block style, keys in order."""
    head = (
        "# Written by `selmix pin`; checked by `selmix reproduce`. Edit nothing: each section has a digest.\n"
    )
    text = yaml.safe_dump(
        dict(document), sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    write_atomically(path, (head + text).encode())


def read_pin(pins: Path, name: str) -> dict[str, Any]:
    """A pin by name.

    Raises:
        NotFound: there is none. PreflightError: it is no pin.
    """
    path = pin_path(pins, name)
    if not path.is_file():
        known = sorted(found.stem for found in pins.glob("*.yaml"))
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise NotFound(f"{path}: no such pin; {hint}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PreflightError(f"{path}: must be a readable pin: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise PreflightError(f"{path}: must be a pin of schema_version {SCHEMA_VERSION}")
    return document


def pins_document(pins: Path) -> dict[str, Any]:
    """The pins of a folder."""
    rows: list[dict[str, Any]] = []
    for path in sorted(pins.glob("*.yaml")):
        try:
            document = read_pin(pins, path.stem)
        except PreflightError as error:
            rows.append({"name": path.stem, "problem": str(error)})
            continue
        metric = document["protocol"]["selection"]["metric"]
        rows.append({
            "name": document["name"], "created": document["created"], "sweep": document["sweep"]["name"],
            "objective": document["objective"], "trial_id": document["trial_id"],
            "is_winner": document["is_winner"], "metric": metric, "test": document["test"][metric],
            "verdict": document["verdict"]["test"], "edited": broken_sections(document),
        })  # fmt: skip
    return {"schema_version": SCHEMA_VERSION, "pins": rows}
