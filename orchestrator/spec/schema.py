"""The specification of a sweep: a sweep file that was checked as a whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, PrivateAttr, StrictStr

from orchestrator.documents import Document
from orchestrator.spec.sections import (
    ConstraintSection,
    EarlyStoppingSection,
    MetricsSection,
    ModelSection,
    Name,
    ParameterSection,
    PretrainSection,
    ResourceSection,
    ScreenSection,
    SearchSection,
    Section,
    SelectionSection,
    listed_values,
)
from selmix.definitions import DEFAULT_BETA
from selmix.rungs import RUNGS, Rung


class SweepSpec(Section):
    """A checked sweep file; :func:`orchestrator.spec.checks.load_spec` makes one.

    Attributes:
        version: of the file's format.
        name: of the sweep.
        data: name of the data set and keys of its configuration.
        model: the network.
        pretrain: origin of the base model.
        objectives: at least one; each is searched and judged by itself.
        rungs: which approaches are tried, from the cheapest on; the search belongs to ``finetune``.
        constraints: bounds on metrics.
        metrics: definitions of the metrics with parameters.
        parameters: fixed and searched settings by name.
        compare: setting -> the values that are compared; empty where nothing is.
        screen: of heads on frozen features; None for none.
        search: method and size of the search.
        early_stopping: of trials of the search; None for none.
        selection: ranking of rounds and trials.
        resources: of a trial, and of the sweep.
    """

    version: Literal[1]
    name: Name
    data: dict[str, Any]
    model: ModelSection = ModelSection()
    pretrain: PretrainSection = PretrainSection()
    objectives: tuple[StrictStr, ...] = Field(min_length=1)
    rungs: tuple[Rung, ...] = RUNGS
    constraints: tuple[ConstraintSection, ...] = ()
    metrics: MetricsSection = MetricsSection()
    parameters: dict[str, ParameterSection] = Field(default_factory=dict)
    compare: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    screen: ScreenSection | None = None
    search: SearchSection = SearchSection()
    early_stopping: EarlyStoppingSection | None = None
    selection: SelectionSection = SelectionSection()
    resources: ResourceSection = ResourceSection()
    _left_to_model: frozenset[str] = PrivateAttr(frozenset())

    def with_defaults(self, keys: Iterable[str]) -> SweepSpec:
        """This specification, of which it is known that the file leaves some keys of ``data`` to the model.

        Their values stand in ``data`` already.
        """
        spec = self.model_copy()
        spec._left_to_model = frozenset(keys)
        return spec

    def resumed(self, stored: Document) -> SweepSpec:
        """This specification with the values that its sweep was begun with for keys that the file leaves to the model.

        Args:
            stored: the resolved specification of the first launch. Keys that it lacks were none then.
        """
        before = as_tuples(stored.get("data", {}))
        data = {key: value for key, value in self.data.items() if key not in self._left_to_model}
        kept = {key: before[key] for key in self.data if key in self._left_to_model and key in before}
        return self.model_copy(update={"data": data | kept})

    def resolved(self) -> Document:
        """The whole specification as plain values, defaults written out."""
        document: Document = self.model_dump(mode="json", by_alias=True)
        # As in sweeps of before, whose digests stay what they are.
        for constraint in document["constraints"]:
            if constraint["class"] is None:
                del constraint["class"]
        if document["pretrain"]["checkpoint_key"] is None:
            del document["pretrain"]["checkpoint_key"]
        if document["screen"] is None:
            del document["screen"]
        if self.early_stopping is None:
            del document["early_stopping"]
        else:
            del document["early_stopping"][self.early_stopping.idle]
        # Likewise: all rungs.
        if tuple(document["rungs"]) == RUNGS:
            del document["rungs"]
        # Likewise: what f_beta is by default.
        if document["metrics"]["beta"] == DEFAULT_BETA:
            del document["metrics"]["beta"]
        # Only the keys that the file has: they are the form of a parameter.
        for name, parameter in self.parameters.items():
            document["parameters"][name] = parameter.model_dump(mode="json", exclude_unset=True)
        return document

    def digest(self) -> str:
        """``sha256:...`` of :meth:`resolved`."""
        # Sorted: the order of keys in a file means nothing.
        text = json.dumps(self.resolved(), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def fixed(self) -> dict[str, Any]:
        """Fixed parameters by name."""
        return {name: p.value for name, p in self.parameters.items() if p.is_fixed}

    @property
    def searched(self) -> dict[str, ParameterSection]:
        """Searched parameters by name."""
        return {name: p for name, p in self.parameters.items() if not p.is_fixed}

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The studies of an objective: label -> the value that it gives the compared parameter.

        A single one, without label and value, where nothing is compared.
        """
        return {
            f"{name}={value}": {name: value} for name, values in self.compare.items() for value in values
        } or {"": {}}

    @property
    def searches(self) -> bool:
        """True if trials are searched: the rung ``finetune`` is among the rungs."""
        return "finetune" in self.rungs

    @property
    def starts_from_best_head(self) -> bool:
        """True if a trial may start from the best head of the rung below."""
        return self.searches and "best_head" in listed_values("start", self.parameters, self.compare)

    @property
    def recipe(self) -> str | None:
        """The pre-training recipe; None where a checkpoint is given."""
        if self.pretrain.checkpoint is not None:
            return None
        return self.pretrain.recipe or "erm"


def spec_from_resolved(document: Document) -> SweepSpec:
    """The specification that :meth:`SweepSpec.resolved` was stored from.

    Raises:
        ValueError: it is no such document.
    """
    return SweepSpec.model_validate(as_tuples(document))


def as_tuples(value: Any) -> Any:
    """A plain value with tuples for its lists: the frozen sections take nothing else."""
    if isinstance(value, dict):
        return {key: as_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(as_tuples(inner) for inner in value)
    return value
