"""Pin: the lock file of a result, with a digest of each of its sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from orchestrator.documents import SCHEMA_VERSION, Document, from_document
from orchestrator.errors import NotFound, PreflightError
from orchestrator.files import write_atomically
from orchestrator.provenance import Environment
from orchestrator.records.types import BestHead, Figure, Metrics, OwnSource, Settings
from orchestrator.results.rows import (
    Bound,
    MoreLabels,
    VerdictOutcome,
    bounds_of_constraints,
)
from orchestrator.table import (
    number,
    unit_of,
)
from selmix.rungs import Rung

REQUIRED = (
    "schema_version", "name", "created", "sweep", "objective", "trial_id", "is_winner", "seed", "round", "config",
    "protocol", "base", "digests", "select", "test", "replicates", "baselines", "verdict", "environment", "mlflow",
)  # fmt: skip
OPTIONAL = ("method", "row", "test_opening", "objective_source")
"""Keys that earlier versions did not write: a pin without them is complete."""

MAX_DECIMALS = 6
"""Decimals of a value beside the bound that it breaks."""

ADVICE = "choose another --pins folder"
"""Advice where a file beside the pins cannot be written."""


@dataclass(frozen=True)
class PinnedSweep:
    """The sweep that a pin comes from.

    Attributes:
        name: name of the sweep.
        sweep_id: random id, made at its first launch.
        file_digest: digest of the resolved sweep file.
    """

    name: str
    sweep_id: str
    file_digest: str


@dataclass(frozen=True)
class Protocol:
    """Data, model and selection of a pin, with what a reproduction needs beside the configuration.

    Attributes:
        data: resolved section of the sweep file.
        class_names: names of the classes, in their order.
        input_shape: shape of a sample.
        model: resolved section of the sweep file.
        pretrain: resolved section of the sweep file.
        constraints: resolved section of the sweep file.
        metrics: resolved section of the sweep file.
        selection: resolved section of the sweep file, with the metric and the seed that it amounts to.
        search_seed: ``search.seed`` of the sweep file.
        threads: torch threads of a trial.
        workers: workers of a trial; pins of earlier versions lack it and had one.
        tolerance: tolerance of a reproduction on another stack, in words.
        preprocess: steps from an image to a sample, with their values; None where the samples are no images. Pins of
            earlier versions lack it.
        columns: column of the features or images of a table, or columns of the features in their order; None where the
            data are no table. Pins of earlier versions lack it.
        bounds: bounds that decided who may win, those that an objective brings with it among them; None in pins of
            earlier versions, whose constraints have all but these.
        group_names: names of the groups, in their order; None where the data have none, and in pins of earlier
            versions.
        best_head: row whose head the run started from; None where it started elsewhere.
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
    preprocess: Document | None = None
    columns: str | list[str] | None = None
    bounds: list[Bound] | None = None
    group_names: list[str] | None = None
    best_head: BestHead | None = None

    @property
    def bounds_of_search(self) -> list[Bound]:
        """Bounds that decided who may win, as far as they are known."""
        if self.bounds is not None:
            return self.bounds
        return bounds_of_constraints(self.constraints, self.class_names)


@dataclass(frozen=True)
class PinnedBaseline:
    """A baseline beside the pinned model.

    Attributes:
        select: metrics on select, with intervals.
        test: metrics on test, with intervals.
        labels: labelled splits that it has used.
        reference: True if it has another cost or other information than the trials.
        cost_s: seconds of work.
    """

    select: Metrics
    test: Metrics
    labels: list[str]
    reference: bool
    cost_s: float


@dataclass(frozen=True)
class PinnedVerdict:
    """A verdict on one split.

    Attributes:
        outcome: see :class:`orchestrator.results.rows.Verdict`.
        against: opponent that was chosen on select.
        difference: pinned model minus that opponent, higher is better.
        optimistic: True if both sides were chosen on these samples.
        margin: difference that does not matter; None in a pin by the earlier rule, against one opponent.
        within_margin: True if it is better, by less than the margin.
        differences: opponent -> pinned model minus opponent.
        not_told_apart: opponents that it is neither better nor worse than.
        worse_than: opponents that are better.
        samples: samples of the smallest class that it rests on.
        samples_needed: samples per class with which the difference would tell; None where no number would, or none is
            needed.
        difference_corrected: the difference with its interval at ``level_corrected``: corrected for the openings of
            test before this one, and for pins that were declared together; None where there is nothing to correct.
        level_corrected: level of that interval.
        more_labels: rows of more labels, which are no opponents; None where there are none, and in pins of earlier
            versions.
    """

    outcome: VerdictOutcome
    against: str
    difference: Figure
    optimistic: bool = False
    margin: float | None = None
    within_margin: bool = False
    differences: dict[str, Figure] = field(default_factory=dict)
    not_told_apart: list[str] = field(default_factory=list)
    worse_than: list[str] = field(default_factory=list)
    samples: int | None = None
    samples_needed: int | None = None
    difference_corrected: Figure | None = None
    level_corrected: float | None = None
    more_labels: MoreLabels | None = None


@dataclass(frozen=True)
class PinnedVerdicts:
    """Verdicts on both splits, None where there was no opponent, or no winner.

    Attributes:
        select: of the procedure, the mean over fresh seeds, on select.
        test: of the shipped file against the shipped file of each opponent, on test: the one to be quoted.
        procedure: of the means over fresh seeds on test; None in pins of earlier versions.
        more_labels: of a model without an opponent the rows of more labels, on test; of one with opponents they stand
            in its verdicts.
    """

    select: PinnedVerdict | None
    test: PinnedVerdict | None
    procedure: PinnedVerdict | None = None
    more_labels: MoreLabels | None = None


@dataclass(frozen=True)
class PinnedRow:
    """The row that was pinned, which ``reproduce`` fits again by its approach.

    Attributes:
        approach: ``selmix``, or the name of a baseline.
        rung: part of the model that it trains.
        settings: settings that were tuned, name -> value.
        seed: of the pinned model.
    """

    approach: str
    rung: Rung
    settings: dict[str, float | str]
    seed: int


@dataclass(frozen=True)
class PinnedOpening:
    """The opening of the test split that a pin was measured at.

    Attributes:
        content_digest: of the test split: its samples with their labels, in any order and at any size.
        openings_before: times that these samples were seen before, as far as the runs folder knows.
        confirmatory: True for the first opening: what was chosen after a look at test is not confirmed there.
        note: what is to be said of it; None for the first opening.
        declared_together: names of all pins of this opening, whose verdicts are right together; this one too.
        share_seen: largest share of these samples that one of the openings before held; an opening of other samples
            counts where it held more than a tenth of these. None in pins of earlier versions.
    """

    content_digest: str
    openings_before: int
    confirmatory: bool
    note: str | None
    declared_together: list[str]
    share_seen: float | None = None


@dataclass(frozen=True)
class Registered:
    """Place of the pinned model in MLflow.

    Attributes:
        tracking_uri: address of MLflow, without credentials.
        run_id: run of the trial.
        model: name of the registered model.
        version: version of that model; empty where MLflow did not take it.
        alias: alias of that version.
    """

    tracking_uri: str
    run_id: str
    model: str
    version: str
    alias: str


@dataclass(frozen=True)
class Pin:
    """A pinned result.

    Attributes:
        schema_version: version of the document.
        name: name of the pin.
        created: time of its creation.
        sweep: the sweep that it comes from.
        objective: objective of the pinned trial.
        trial_id: the pinned trial.
        is_winner: False for a trial that ``--trial`` named.
        seed: seed of the trial.
        round: chosen round of the trial.
        config: flat settings of the trial.
        protocol: everything else that a reproduction needs.
        base: source and digest of the base model.
        digests: digests of splits, weights, sections and the pin itself.
        select: metric -> value on select, with its interval.
        test: metric -> value on test, with its interval.
        replicates: split, seeds, and metric -> mean, low, high over fresh seeds.
        baselines: name -> baseline.
        verdict: verdicts on both splits.
        environment: stack that it was made on.
        mlflow: place in MLflow.
        method: version of the method's arithmetic; a change of it changes bits.
        row: the row that was pinned; None in pins of earlier versions, which are of SelMix.
        test_opening: the opening of test that it was measured at; None in pins of earlier versions.
        objective_source: modules of the user's own that hold its functions of C, kept beside it; None where there are
            none.
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
    row: PinnedRow | None = None
    test_opening: PinnedOpening | None = None
    objective_source: list[OwnSource] | None = None

    @property
    def metric(self) -> str:
        """Metric that the trial was selected by; empty in an edited pin that names none."""
        return str(self.protocol.selection.get("metric", ""))


def pin_path(pins: Path, name: str) -> Path:
    """Path of a pin; its weights lie beside it as ``NAME.safetensors``."""
    return pins / f"{name}.yaml"


def found_pin(pins: Path, name: str) -> Path:
    """Path of a pin that is there, by its name in a folder or by its own path.

    Args:
        pins: folder of the pins.
        name: name, or path of the file.
    Raises:
        NotFound: there is no such pin.
    """
    given = Path(name)
    is_path = given.suffix == ".yaml" and (given.is_file() or len(given.parts) > 1)
    path = given if is_path else pin_path(pins, name)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise NotFound(f"{path}: no such pin; {hint}")
    return path


def weights_beside(path: Path) -> Path:
    """Path of the weights of a pin."""
    return path.with_suffix(".safetensors")


def source_beside(path: Path) -> Path:
    """Folder with the source of the user's own functions of a pin."""
    return path.with_suffix(".source")


def sealed(document: Mapping[str, Any]) -> Document:
    """Sort the keys of a document and add the digests of its sections and of itself."""
    ordered = {key: document[key] for key in (*REQUIRED, *OPTIONAL) if key in document or key in REQUIRED}
    # Without the digests of an earlier sealing, so that a document that is sealed again comes out the same.
    digests = {key: value for key, value in ordered["digests"].items() if key not in ("sections", "pin")}
    sections = {key: digest(value) for key, value in ordered.items() if key != "digests"}
    # The digest of the pin covers those of the sections: editing a section together with its digest breaks it, too.
    ordered["digests"] = digests | {"sections": sections, "pin": digest(digests | {"sections": sections})}
    return ordered


def broken_sections(document: Mapping[str, Any]) -> list[str]:
    """Names of the sections that were edited since the pin was written, in its order."""
    # Checked by hand, because an edited pin may have lost its form.
    digests = document.get("digests")
    if not isinstance(digests, Mapping) or not isinstance(digests.get("sections"), Mapping):
        return ["digests"]
    sections: Mapping[str, Any] = digests["sections"]
    unsealed = {key: value for key, value in digests.items() if key != "pin"}
    broken = [] if _has_digest(unsealed, digests.get("pin")) else ["digests"]
    # A key that has a digest and is gone was removed by hand, also an optional one; one without a digest was added.
    keys = [key for key in dict.fromkeys([*REQUIRED, *sections, *document]) if key != "digests"]
    return broken + [
        str(key) for key in keys if key not in document or not _has_digest(document[key], sections.get(key))
    ]


def _has_digest(value: Any, stated: object) -> bool:
    """True if a value of a pin is the one that its digest was made of."""
    try:
        return digest(value) == stated
    # YAML reads dates, sets and the like, which have no digest: no pin is written with them.
    except (TypeError, ValueError):
        return False


def digest(value: Any) -> str:
    """Digest ``sha256:...`` of a plain value."""
    return f"sha256:{hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}"


def write_pin(path: Path, document: Mapping[str, Any]) -> None:
    """Write a sealed pin in block style, keys in order.

    Raises:
        PreflightError: the folder or the file cannot be written.
    """
    # Block style with one key per line, so that a diff shows which number changed.
    head = (
        "# Written by `selmix pin`; checked by `selmix reproduce`. Edit nothing: each section has a digest.\n"
    )
    text = yaml.safe_dump(
        dict(document), sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    write_atomically(path, (head + text).encode(), ADVICE)


def read_pin(pins: Path, name: str) -> Document:
    """Read a pin as a plain document.

    Args:
        pins: folder of the pins.
        name: name of the pin.
    Raises:
        NotFound: there is no such pin.
        PreflightError: the file cannot be read or is no pin.
    """
    path = found_pin(pins, name)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: bytes that are no text, and dates that are none.
    except (OSError, ValueError, yaml.YAMLError) as error:
        # The first line names the place; the rest of a YAML error quotes the file.
        raise PreflightError(f"{path}: must be a readable pin: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise PreflightError(f"{path}: must be a pin of schema_version {SCHEMA_VERSION}")
    return document


def typed_pin(path: Path, document: Document) -> Pin:
    """Convert a plain document to a pin.

    Args:
        path: file that it was read from, for messages.
        document: content of the file.
    Raises:
        PreflightError: a key is missing or of another type.
    """
    try:
        return from_document(Pin, document)
    except ValueError as error:
        # Lines 1 and 2 of pydantic's message name the first key and what is wrong with it; line 0 counts the problems.
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise PreflightError(f"{path}: must be a complete pin: {reason}") from error


@dataclass(frozen=True)
class BrokenBound:
    """A bound of the search that a pinned model breaks on test.

    Attributes:
        bound: the bound.
        value: of its metric on test.
    """

    bound: Bound
    value: float

    @property
    def shown(self) -> str:
        """``min_coverage 9.7 % (>= 12 %)``, with as many decimals as it takes to see the difference."""
        unit = unit_of(self.bound.metric)
        text = number(self.value, unit)
        while unit.decimals < MAX_DECIMALS and not self.bound.is_broken(float(text) / unit.factor):
            unit = replace(unit, decimals=unit.decimals + 1)
            text = number(self.value, unit)
        sign, limit = (
            (">=", self.bound.at_least) if self.bound.at_least is not None else ("<=", self.bound.at_most)
        )
        bound = "" if limit is None else f" ({sign} {unit.factor * limit:.6g}{unit.value})"
        return f"{self.bound.name} {text}{unit.value}{bound}"


def broken_on_test(pin: Pin) -> list[BrokenBound]:
    """Bounds of the search that a pinned model breaks on test, by its values there and not by their intervals."""
    values = [(bound, pin.test.get(bound.metric)) for bound in pin.protocol.bounds_of_search]
    return [
        BrokenBound(bound, figure.value)
        for bound, figure in values
        if figure is not None and bound.is_broken(figure.value)
    ]
