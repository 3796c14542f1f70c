"""``selmix reproduce``: train again from a pin and compare digests and numbers one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.documents import SCHEMA_VERSION
from orchestrator.errors import NotFound, NotReproduced, PreflightError
from orchestrator.messages import counted
from orchestrator.pins.lock_file import (
    Pin,
    broken_sections,
    pin_path,
    read_pin,
    source_beside,
    typed_pin,
    weights_beside,
)
from orchestrator.pins.portable import PRETRAIN_KEYS, located
from orchestrator.records.folder import RunFolder
from orchestrator.records.store import Store
from orchestrator.records.types import Metrics
from orchestrator.results.rows import SELMIX
from orchestrator.table import paragraph, sentence
from selmix.files import PATH_KEYS

if TYPE_CHECKING:
    from orchestrator.pins.test_split import OpenedTest
    from orchestrator.spec.schema import SweepSpec
    from selmix.data.splits import SweepData
    from selmix.metrics import Predictions
    from selmix.run.start_model import Base
    from selmix.statistics.selection import SelectionRule
    from selmix.weights import State


SPLITS = ("train", "feedback", "select", "test")
OF_SOURCE = "objective_source: "
"""Beginning of what is said of the source of the user's own functions."""


@dataclass(frozen=True)
class Compared:
    """One digest or number of a pin beside the one of the reproduction.

    Attributes:
        what: its place in the pin.
        pinned: value in the pin.
        got: value of the reproduction.
        equal: True if they are the same.
        passes: True if the difference is within tolerance.
    """

    what: str
    pinned: Any
    got: Any
    equal: bool
    passes: bool


@dataclass(frozen=True)
class StackDifference:
    """A part of the stack that decides bits and differs: its value in the pin, and here."""

    pinned: Any
    here: Any


@dataclass(frozen=True, kw_only=True)
class ReproduceDocument:
    """Comparison of a reproduction with its pin.

    Attributes:
        schema_version: version of the document.
        pin: name of the pin.
        reproduced: True if there are no problems.
        same_stack: True if everything that decides bits is as it was.
        stack_differences: part of the stack -> its two values, where they differ.
        problems: differences outside the tolerance, one line each.
        compared: every digest and number that was compared.
    """

    schema_version: int = SCHEMA_VERSION
    pin: str
    reproduced: bool
    same_stack: bool
    stack_differences: dict[str, StackDifference]
    problems: list[str]
    compared: list[Compared]

    @property
    def exit_code(self) -> int:
        """0, or 7 where something differs."""
        return 0 if self.reproduced else NotReproduced.exit_code


def reproduce_pin(pins: Path, name: str, store: Store, overrides: Sequence[str] = ()) -> ReproduceDocument:
    """Train again from a pin and compare.

    On an equal stack every digest and number must be equal. On another one, or where the method's arithmetic has
    changed since, the stored weights are evaluated and the training is repeated; both must lie within the pin's own
    intervals.

    Args:
        pins: folder of the pins.
        name: name of the pin.
        store: runs folder; the opening of the test split is recorded there, if the pin's sweep lies in it.
        overrides: ``data.path=PATH`` and the like: where the files that the pin names lie here.
    Raises:
        NotFound: there is no such pin.
        UsageError: an override that names no file of the pin.
        PreflightError: the pin cannot be read, or its data, or a checkpoint that it names, cannot be.
    """
    path, document = pin_path(pins, name), read_pin(pins, name)
    # An edited pin is not trained: its result would be compared with numbers that nobody measured.
    broken = broken_sections(document)
    if broken:
        problems = [
            f"{section}: was edited since the pin was written, its digest differs" for section in broken
        ]
        return _document(name, {}, [], problems)
    pin = typed_pin(path, document)
    from orchestrator.build.own_source import imported_from, read_sources
    from orchestrator.provenance import environment

    sources = pin.objective_source or []
    # Other functions would be other objectives and metrics: nothing of theirs could be compared.
    wrong = [kept for each in sources if isinstance(kept := read_sources(source_beside(path), each), str)]
    if wrong:
        return _document(name, {}, [], [f"{OF_SOURCE}{problem}" for problem in wrong])

    before = pin.environment.stack() | {"method": pin.method}
    now = environment(pin.protocol.threads).stack()
    drift = {key: StackDifference(before[key], now[key]) for key in before if before[key] != now[key]}
    with imported_from(source_beside(path), sources):
        try:
            compared = _Comparison(pin, same_stack=not drift).run(weights_beside(path), store, overrides)
        except PreflightError as error:
            raise PreflightError(f"{error}{_elsewhere(pin, str(error), overrides)}") from error
    problems = [f"{c.what}: pinned {c.pinned}, got {c.got}" for c in compared if not c.passes]
    return _document(name, drift, compared, problems)


def _elsewhere(pin: Pin, problem: str, overrides: Sequence[str]) -> str:
    """Advice for files of a pin that lie elsewhere here: it names them, and not where they lay."""
    protocol = {"data": pin.protocol.data, "pretrain": pin.protocol.pretrain}
    given = {override.partition("=")[0] for override in overrides}
    keys = [
        f"{section}.{key}"
        for section, names in (("data", PATH_KEYS), ("pretrain", PRETRAIN_KEYS))
        for key in names
        if problem.startswith(section) and protocol[section].get(key) is not None
    ]
    lacking = [f"{key}=PATH" for key in keys if key not in given]
    return f"; say where it lies here: selmix reproduce {pin.name} {' '.join(lacking)}" if lacking else ""


def _document(
    name: str, drift: Mapping[str, StackDifference], compared: list[Compared], problems: list[str]
) -> ReproduceDocument:
    return ReproduceDocument(
        pin=name, reproduced=not problems, same_stack=not drift and bool(compared), stack_differences=dict(drift),
        problems=problems, compared=compared,
    )  # fmt: skip


class _Comparison:
    """Reproduction of a pin, compared entry by entry in the order of the pin."""

    def __init__(self, pin: Pin, same_stack: bool) -> None:
        self.pin, self.same_stack = pin, same_stack
        self.compared: list[Compared] = []

    def run(self, weights: Path, store: Store, overrides: Sequence[str] = ()) -> list[Compared]:
        """Train and compare; if the training fails, only the entries before it."""
        from orchestrator.build.base_model import base_model, initial_state, torch_threads
        from orchestrator.build.data import load_data
        from orchestrator.build.selection import selection_rule
        from orchestrator.pins.test_split import Opener, metrics_of, open_test, predictions_on
        from selmix.baselines.last_layer import start_base
        from selmix.data.content import preprocess_digest
        from selmix.metrics import MetricContext
        from selmix.weights import state_digest

        pin, folder = self.pin, _own_folder(self.pin, store)
        spec = _spec(pin, folder, overrides)
        stored = self._weights(weights)
        opener = Opener("reproduce", [pin.name], [pin.objective])
        test = open_test(spec, opener, folder)
        with torch_threads(pin.protocol.threads):
            data = load_data(spec)
            for split in SPLITS[:-1]:
                self._equal(f"digests/{split}", pin.digests[split], data.digests[split])
            self._equal("digests/test", pin.digests["test"], test.digest)
            # Pins of earlier versions lack it.
            if "preprocess" in pin.digests:
                self._equal(
                    "digests/preprocess", pin.digests["preprocess"], preprocess_digest(test.split.inputs)
                )
            state, base = base_model(spec, data)
            # Trained weights may have other bits on another stack; the data must be the same everywhere.
            self._equal("digests/base", pin.digests["base"], base.digest, must=self.same_stack)
            rule = selection_rule(spec, pin.objective, data.class_names)
            # What is trained from scratch is trained as the base model was.
            start = replace(
                start_base(spec.model.config, state, data, rule),
                settings=spec.pretrain.settings, initial=initial_state(spec, data),
            )  # fmt: skip
            start = self._with_best_head(data, start, rule)
            context = MetricContext(data.train_counts.cpu(), rule.definitions, data.num_groups)
            # On the same stack equal weights give equal predictions: evaluating the stored ones would add nothing.
            if stored is not None and not self.same_stack:
                self._stored(spec, stored, data.select, test, context)
            trained = self._trained(spec, data, start, rule)
            if trained is None:
                return self.compared
            made, held_out = trained
            self._equal("digests/weights", pin.digests["weights"], state_digest(made), must=self.same_stack)
            # A row that is fitted on select was judged there out of fold.
            on_select = held_out or predictions_on(spec, made, data.select)
            self._metrics("select", pin.select, metrics_of(on_select, context))
            self._metrics("test", pin.test, metrics_of(test.predictions(made), context))
        return self.compared

    def _with_best_head(self, data: SweepData, start: Base, rule: SelectionRule) -> Base:
        """Start models with the head of the rung below that the pinned run started from, fitted again."""
        from selmix.baselines import BASELINES, BaselineTask
        from selmix.baselines.task import head_of
        from selmix.config import FinetuneConfig
        from selmix.weights import state_digest

        handed = self.pin.protocol.best_head
        if handed is None:
            return start
        if handed.approach not in BASELINES:
            raise PreflightError(
                f"{self.pin.name}: protocol.best_head.approach must be one of {', '.join(BASELINES)}, got "
                f"{handed.approach}"
            )
        task = BaselineTask(
            data, start, self.pin.objective, rule, (handed.seed,), FinetuneConfig(**handed.config), ()
        )
        head = head_of(BASELINES[handed.approach](task).states[0], start, data)
        self._equal("digests/best_head", handed.digest, state_digest(head), must=self.same_stack)
        return replace(start, best_head=head)

    def _trained(
        self, spec: SweepSpec, data: SweepData, start: Base, rule: SelectionRule
    ) -> tuple[State, Predictions | None] | None:
        """Make the pinned row again by its approach.

        Returns:
            Its weights, and its predictions on select where it was judged out of fold; None, with the difference noted,
            where the training fails.
        """
        from selmix.baselines import BASELINES, BaselineTask
        from selmix.config import FinetuneConfig
        from selmix.run.local_ranks import RunRequest, finetune_on_workers

        pin = self.pin
        approach = SELMIX if pin.row is None else pin.row.approach
        # Everything that fine-tunes has the settings of the winning trial; the others have none.
        config = FinetuneConfig(**pin.config)
        states: tuple[State, ...] = ()
        if approach == SELMIX or (approach in BASELINES and BASELINES[approach].contains_winner):
            run = finetune_on_workers(
                spec.resources.workers, RunRequest(data, start, pin.objective, config, pin.seed, rule)
            )
            if run.best is None or run.failed:
                self.compared.append(Compared("training", "finished", run.stop_reason, False, False))
                return None
            if approach == SELMIX:
                self._equal("round", pin.round, run.best.round, must=self.same_stack)
                return run.best.state, None
            states = (run.best.state,)
        if approach not in BASELINES:
            raise PreflightError(
                f"{pin.name}: row.approach must be selmix or one of {', '.join(BASELINES)}, got {approach}"
            )
        # Of a deterministic baseline the seed is not read; one that fine-tunes makes the model of this seed alone.
        task = BaselineTask(data, start, pin.objective, rule, (pin.seed,), config, states)
        fitted = BASELINES[approach](task)
        return fitted.states[0], None if fitted.held_out is None else fitted.held_out.select

    def _weights(self, path: Path) -> State | None:
        """The pinned weights; missing or damaged ones are a difference, and the training is compared all the same."""
        from selmix.weights import load_weights, state_digest

        pinned = self.pin.digests["weights"]
        try:
            stored = load_weights(path) if path.is_file() else None
        except ValueError as error:
            self._equal(path.name, pinned, str(error))
            return None
        self._equal(path.name, pinned, None if stored is None else state_digest(stored))
        return stored

    def _stored(self, spec: SweepSpec, stored: State, select: Any, test: OpenedTest, context: Any) -> None:
        """Evaluate the pinned weights here: the same model on another stack, apart from the training."""
        from orchestrator.pins.test_split import metrics_of, predictions_on

        try:
            on_select = metrics_of(predictions_on(spec, stored, select), context)
        except ValueError as error:
            self.compared.append(Compared("stored weights", "weights of the model", str(error), False, False))
            return
        self._metrics("stored weights/select", self.pin.select, on_select)
        on_test = metrics_of(test.predictions(stored), context)
        self._metrics("stored weights/test", self.pin.test, on_test)

    def _equal(self, what: str, pinned: Any, got: Any, must: bool = True) -> None:
        self.compared.append(Compared(what, pinned, got, pinned == got, pinned == got or not must))

    def _metrics(self, where: str, pinned: Metrics, got: Metrics) -> None:
        for metric, estimate in pinned.items():
            for part in ("value", "low", "high"):
                before = getattr(estimate, part)
                now = getattr(got[metric], part) if metric in got else None
                # The tolerance is the pin's interval; the ends of the new interval only need to exist.
                inside = part != "value" or (now is not None and estimate.low <= now <= estimate.high)
                passes = now == before if self.same_stack else now is not None and inside
                self.compared.append(Compared(f"{where}/{metric}/{part}", before, now, now == before, passes))


def _spec(pin: Pin, folder: RunFolder | None, overrides: Sequence[str]) -> SweepSpec:
    """Specification of a sweep with the protocol of a pin, and the paths of this machine."""
    from orchestrator.spec.schema import spec_from_resolved

    protocol = pin.protocol
    # The seed of the selection is resolved from search.seed and is no key of the sweep file.
    selection = {key: value for key, value in protocol.selection.items() if key != "seed"}
    here = located({"data": protocol.data, "pretrain": protocol.pretrain}, folder, overrides)
    return spec_from_resolved({
        "version": 1, "name": pin.sweep.name, "data": here["data"], "model": protocol.model,
        "pretrain": here["pretrain"], "objectives": [pin.objective], "constraints": protocol.constraints,
        "metrics": protocol.metrics, "selection": selection, "search": {"seed": protocol.search_seed},
        "resources": {"cpu": protocol.threads, "workers": protocol.workers},
    })  # fmt: skip


def _own_folder(pin: Pin, store: Store) -> RunFolder | None:
    """Folder of the pin's sweep; None where the sweep is not in this runs folder."""
    # By id and not by name alone: another sweep may have the name, whose record this opening does not belong to.
    try:
        folder = RunFolder.open(store, pin.sweep.name)
        return folder if folder.load_state().sweep_id == pin.sweep.sweep_id else None
    except (NotFound, PreflightError):
        return None


def reproduction_text(document: ReproduceDocument, width: int | None) -> str:
    """Text of a comparison; its first line is the answer."""
    lines = []
    if document.reproduced:
        same = sum(c.equal for c in document.compared)
        how = "every metric is within tolerance"
        if document.same_stack:
            how = "every digest and number is equal"
        counts = f"({same} of {len(document.compared)} equal)"
        lines.append(sentence(f"{document.pin}: reproduced; {how} {counts}", width))
    else:
        count = len(document.problems)
        if not document.compared:
            of_source = all(problem.startswith(OF_SOURCE) for problem in document.problems)
            edited = "the source beside the pin is not that of the pin" if of_source else "the pin was edited"
            lines.append(sentence(f"{document.pin}: not reproduced, nothing was trained: {edited}", width))
        others = [name for name in SPLITS if any(p.startswith(f"digests/{name}:") for p in document.problems)]
        # What was trained on other samples has other numbers; those on test are others also where test alone is.
        hidden = (
            ("select/", "test/", "stored weights/")
            if set(others) - {"test"}
            else ("test/", "stored weights/test/")
        )
        shown = [p for p in document.problems if not others or not p.startswith(hidden)]
        cause = f", as the data are others than the pin's: {', '.join(others)}" if others else ""
        only = all(p.startswith("digests/") for p in shown)
        lines.append(
            sentence(
                f"{document.pin}: not reproduced; {counted(count, 'difference')}{cause if only else ''}",
                width,
            )
        )
        lines += [paragraph("  differs", problem, width) for problem in shown]
        if len(shown) < count:
            rest = counted(count - len(shown), "number")
            lines.append(
                paragraph(
                    "", f"and {rest} of the metrics, as other data give others (--json has them)", width
                )
            )
    for key, both in document.stack_differences.items():
        lines.append(paragraph("  other stack", f"{key}: pinned {both.pinned}, here {both.here}", width))
    drifted = [c.what for c in document.compared if not c.equal and c.passes]
    if drifted:
        lines.append(paragraph("  drifted", f"within tolerance: {', '.join(drifted)}", width))
    return "\n".join(lines)
