"""A pin as a document: a lock file of a result, with a digest of each of its sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from orchestrator.documents import SCHEMA_VERSION, Document, from_document
from orchestrator.errors import NotFound, PreflightError
from orchestrator.files import write_atomically
from orchestrator.provenance import Environment
from orchestrator.records.types import Figure, Metrics, Settings
from orchestrator.results.rows import Outcome
from orchestrator.table import Column, difference, estimate, sentence, short, table

REQUIRED = (
    "schema_version", "name", "created", "sweep", "objective", "trial_id", "is_winner", "seed", "round", "config",
    "protocol", "base", "digests", "select", "test", "replicates", "baselines", "verdict", "environment", "mlflow",
)  # fmt: skip
OPTIONAL = ("method",)
"""Keys that were added since: a pin without them is whole."""


@dataclass(frozen=True)
class PinnedSweep:
    """The sweep that a pin comes from."""

    name: str
    sweep_id: str
    file_digest: str


@dataclass(frozen=True)
class Protocol:
    """Data, model and selection of a pin, with what a reproduction needs beside the configuration.

    Attributes:
        data, model, pretrain, constraints, metrics, selection: sections of the sweep file, resolved.
        class_names, input_shape: of the data.
        search_seed: of the sweep. threads: of torch. workers: of a trial; pins of before there were several lack it.
        tolerance: of a reproduction on another stack, in words.
    """

    data: Document
    class_names: list[str]
    input_shape: list[int]
    model: Document
    pretrain: Document
    constraints: list[Document]
    metrics: Document
    selection: Document
    search_seed: int
    threads: int
    workers: int = 1
    tolerance: str = ""


@dataclass(frozen=True)
class PinnedBaseline:
    """A baseline beside the pinned model, on select and on test."""

    select: Metrics
    test: Metrics
    labels: list[str]
    reference: bool
    cost_s: float


@dataclass(frozen=True)
class PinnedVerdict:
    """A verdict on one split.

    Attributes:
        outcome: of the paired comparison. against: name of the baseline. difference: pinned minus baseline.
        optimistic: True if both sides were chosen on these samples.
    """

    outcome: Outcome
    against: str
    difference: Figure
    optimistic: bool = False


@dataclass(frozen=True)
class PinnedVerdicts:
    """Verdicts on both splits; that on test is the one to quote. None where there was no baseline, or no winner."""

    select: PinnedVerdict | None
    test: PinnedVerdict | None


@dataclass(frozen=True)
class Registered:
    """Where MLflow keeps the pinned model."""

    tracking_uri: str
    run_id: str
    model: str
    version: str
    alias: str


@dataclass(frozen=True)
class Pin:
    """A pinned result.

    Attributes:
        name, created: of the pin. sweep, objective, trial_id, seed, round, config: what is pinned.
        is_winner: False for a trial that was named by hand.
        protocol: what it was made by. base: of the base model.
        digests: of splits, weights, sections and the pin itself.
        select, test: metric -> value with its interval.
        replicates: split, seeds, and metric -> mean, low, high over fresh seeds.
        baselines: by name. verdict: on both splits.
        environment: that it was made in. mlflow: where it is registered.
        method: number of the arithmetic that made it.
    """

    schema_version: int
    name: str
    created: str
    sweep: PinnedSweep
    objective: str
    trial_id: str
    is_winner: bool
    seed: int
    round: int | None
    config: Settings
    protocol: Protocol
    base: Document
    digests: Document
    select: Metrics
    test: Metrics
    replicates: Document
    baselines: dict[str, PinnedBaseline]
    verdict: PinnedVerdicts
    environment: Environment
    mlflow: Registered
    method: int = 1

    @property
    def metric(self) -> str:
        """The metric that it was selected by."""
        return str(self.protocol.selection["metric"])


def pin_path(pins: Path, name: str) -> Path:
    """Path of the pin of that name; its weights lie beside it as ``NAME.safetensors``."""
    return pins / f"{name}.yaml"


def weights_beside(path: Path) -> Path:
    """The weights of a pin."""
    return path.with_suffix(".safetensors")


def sealed(document: Mapping[str, Any]) -> Document:
    """The document in order, with the digests of its sections and of itself."""
    ordered = {key: document[key] for key in (*REQUIRED, *OPTIONAL) if key in document or key in REQUIRED}
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
    # A key that was sealed and is gone was taken out, also an optional one.
    keys = [key for key in dict.fromkeys([*REQUIRED, *sections, *document]) if key != "digests"]
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


def read_pin(pins: Path, name: str) -> Document:
    """A pin by name, as a plain document.

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


def typed_pin(path: Path, document: Document) -> Pin:
    """A plain document as a pin.

    Raises:
        PreflightError: a key is missing or of another type.
    """
    try:
        return from_document(Pin, document)
    except ValueError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise PreflightError(f"{path}: must be a whole pin: {reason}") from error


@dataclass(frozen=True)
class PinRow:
    """A pin in a line; of one that cannot be read, its name and the problem alone."""

    name: str
    problem: str | None = None
    created: str | None = None
    sweep: str | None = None
    objective: str | None = None
    trial_id: str | None = None
    is_winner: bool | None = None
    metric: str | None = None
    test: Figure | None = None
    verdict: PinnedVerdict | None = None
    edited: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class PinsDocument:
    """The pins of a folder, by name."""

    schema_version: int = SCHEMA_VERSION
    pins: list[PinRow]


def pins_document(pins: Path) -> PinsDocument:
    """The pins of a folder; one that cannot be read is listed with its problem."""
    return PinsDocument(pins=[_pin_row(pins, path) for path in sorted(pins.glob("*.yaml"))])


def _pin_row(pins: Path, path: Path) -> PinRow:
    try:
        document = read_pin(pins, path.stem)
        pin = typed_pin(path, document)
    except PreflightError as error:
        return PinRow(path.stem, str(error))
    return PinRow(
        pin.name, None, pin.created, pin.sweep.name, pin.objective, pin.trial_id, pin.is_winner, pin.metric,
        pin.test[pin.metric], pin.verdict.test, broken_sections(document),
    )  # fmt: skip


def pins_text(document: PinsDocument, width: int | None) -> str:
    """One row a pin."""
    if not document.pins:
        return sentence("no pins yet; selmix pin SWEEP --name NAME writes one", width)
    rows = []
    for pin in document.pins:
        if pin.problem is not None or pin.test is None or pin.trial_id is None:
            rows.append((pin.name, pin.problem or "", "", "", "", "", ""))
            continue
        verdict = pin.verdict
        outcome = ""
        if verdict is not None:
            outcome = f"{verdict.outcome} vs {verdict.against}, {difference(verdict.difference)} pp"
        edited = f"EDITED: {', '.join(pin.edited)}" if pin.edited else str(pin.created)
        what = short(pin.trial_id) + ("" if pin.is_winner else " (not the winner)")
        rows.append((pin.name, str(pin.sweep), what, str(pin.metric), estimate(pin.test), outcome, edited))
    columns = (
        Column("pin"), Column("sweep"), Column("trial"), Column("metric"), Column("test, %", right=True),
        Column("verdict on test"), Column("created"),
    )  # fmt: skip
    return table(columns, rows, width)
